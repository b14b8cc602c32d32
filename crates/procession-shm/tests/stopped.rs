//! A process is stopped (by a debugger, say) in the middle of a change of the session, with a guard in its hand. It is not
//! dead, and what it began is not undone. But whoever has a deadline keeps it.
#![cfg(not(loom))]

mod common;

use std::time::Duration;

use common::world::{SHAPES, World};
use common::{Inventory, calmly, eventually, inside, start, within};
use procession_shm::arena::BlockOwner;
use procession_shm::board::{Board, JobOptions, Next, OwnedJob, Seat, Taken};
use procession_shm::primitive::Ordering;
use procession_shm::ring::{INLINE_MAX, Message, Ring, RingOptions};
use procession_shm::sync::{Broken, Semaphore};
use procession_shm::{Session, WaitError, fault, kinds};
use procession_sys::clock::Deadline;
use procession_sys::process::Exit;

/// Long enough to notice that somebody is stopped, short enough for a test.
fn shortly() -> Deadline {
    Deadline::after(Some(Duration::from_millis(200)))
}

#[test]
#[ignore = "the body of the other tests' children"]
fn child() {
    let Some(mut inside) = inside() else { return };
    let session = inside.attach();
    let world = World::find(session, &inside.args);
    let point = std::env::var("PROCESSION_CRASH_AT").unwrap();
    let deadline = within(60);
    match inside.task.as_str() {
        "acquire" => {
            fault::arm_stop(&point, 1);
            world.semaphore.acquire(deadline, &mut calmly).unwrap();
            assert!(world.semaphore.release().unwrap());
        }
        "meet" => {
            fault::arm_stop(&point, 1);
            let arrival = world.barrier.arrive(deadline, &mut calmly).unwrap();
            let arrival = arrival.unwrap();
            assert!(arrival.last);
            let opened = world.barrier.open(arrival, deadline, &mut calmly);
            inside.report(if opened.unwrap().is_ok() {
                "met"
            } else {
                "broken"
            });
        }
        "put" => {
            fault::arm_stop(&point, 1);
            let message = Message::new(b"child");
            world
                .ring
                .port()
                .put(message, deadline, &mut calmly)
                .unwrap();
        }
        "hold" => {
            world.lock.acquire(deadline, &mut calmly).unwrap();
            world.semaphore.acquire(deadline, &mut calmly).unwrap();
            // What has to be freed: a block, and a queue with all kinds of messages that nobody else has.
            world.block(1, 100_000);
            let own = Ring::create(session, "own", RingOptions::default()).unwrap();
            (0..SHAPES).for_each(|seq| world.put(own.port(), seq));
            world.event.set();
            loop {
                std::thread::park();
            }
        }
        "recover" => {
            // Nobody is to look for the dead before.
            eventually("it is told where to stop", || world.diary.read(0) != 0);
            fault::arm_stop(&point, world.diary.read(0) as u32);
            session.recover_now().unwrap();
        }
        "create" => {
            fault::arm_stop(&point, 1);
            drop(Ring::create(session, "another", RingOptions::default()).unwrap());
        }
        "work" => {
            let board = Board::of(world.diary.read_handle(0).unwrap()).unwrap();
            let mut seat = board.sit_down(1).unwrap().unwrap();
            let Next::Task(task) = seat.try_next().unwrap() else {
                panic!("there is work");
            };
            // It is condemned for the first item, finishes it nevertheless, and is stopped having started the second one.
            assert!(board.condemn(task.job, task.item).is_some());
            fault::arm_stop(&point, 1);
            seat.finish(1, Message::default()).unwrap();
            assert!(matches!(seat.try_next().unwrap(), Next::Condemned));
        }
        other => panic!("no task {other}"),
    }
    session.leave(0).unwrap();
    std::process::exit(0);
}

/// Runs a child until it is stopped at `point`, then `meanwhile`, and lets it go on to its end.
fn stopped(task: &str, point: &str, meanwhile: impl FnOnce(&World)) -> (World, String) {
    let session = kinds::create("other", None).unwrap();
    stopped_in(session, World::create(session), task, point, meanwhile)
}

fn stopped_in(
    session: &'static Session,
    world: World,
    task: &str,
    point: &str,
    meanwhile: impl FnOnce(&World),
) -> (World, String) {
    let mut child = start(session, task, &world.names(), point);
    eventually("the child is stopped", || child.is_stopped());
    meanwhile(&world);
    // Nobody took it for dead.
    session.recover_now().unwrap();
    assert!(session.is_alive(child.owner));
    child.go_on();
    assert_eq!(child.end(), Exit::Code(0));
    session.exited(child.owner, 0).unwrap();
    let report = child.report();
    (world, report)
}

#[test]
fn acquiring_a_semaphore() {
    for point in ["semaphore.acquire.set", "semaphore.release.set"] {
        let (world, _) = stopped("acquire", point, |world| {
            let semaphore = &world.semaphore;
            assert!(!semaphore.try_acquire().unwrap());
            assert_eq!(
                semaphore.acquire(shortly(), &mut calmly),
                Err(WaitError::TimedOut)
            );
            // Also the check is asked, by which Ctrl-C comes.
            assert_eq!(
                semaphore.acquire(within(60), &mut || false),
                Err(WaitError::Interrupted)
            );
        });
        assert_eq!(world.semaphore.value(), 2);
        assert!(world.semaphore.try_acquire().unwrap());
    }
}

#[test]
fn arriving_at_a_barrier() {
    let session = kinds::create("other", None).unwrap();
    let world = World::create(session);
    let first = world.barrier.arrive(Deadline::NOW, &mut calmly).unwrap();
    let first = first.unwrap();
    let (world, report) = stopped_in(session, world, "meet", "barrier.arrive.set", |world| {
        let arrived = world.barrier.arrive(shortly(), &mut calmly);
        assert_eq!(arrived, Err(WaitError::TimedOut));
        let waited = world.barrier.wait(first, shortly(), &mut calmly);
        assert_eq!(waited, Err(WaitError::TimedOut));
        // It does so in bounded time, although the other one has the guard.
        world.barrier.give_up(first).unwrap();
        assert!(world.barrier.is_broken());
    });
    // The one that was stopped is told that the other did not wait.
    assert_eq!(report, "broken");
    world.barrier.reset().unwrap();
    assert!(!world.barrier.is_broken());
}

#[test]
fn waiting_for_a_barrier_that_is_about_to_open() {
    let session = kinds::create("other", None).unwrap();
    let world = World::create(session);
    let first = world.barrier.arrive(Deadline::NOW, &mut calmly).unwrap();
    let first = first.unwrap();
    let (world, report) = stopped_in(session, world, "meet", "barrier.open.set", |world| {
        world.barrier.give_up(first).unwrap();
    });
    // It opened all the same, for both; and the next round is as good as any.
    assert_eq!(report, "met");
    let waited = world.barrier.wait(first, within(60), &mut calmly);
    assert_ne!(waited, Ok(Err(Broken)));
    assert!(!world.barrier.is_broken());
}

#[test]
fn putting_and_getting() {
    let (world, _) = stopped("put", "ring.push.written", |world| {
        let port = world.ring.port();
        let put = port.put(Message::new(b"other"), shortly(), &mut calmly);
        assert_eq!(put, Err(WaitError::TimedOut));
        let got = port.get(shortly(), &mut calmly, |bytes, _| bytes.to_vec());
        assert_eq!(got, Err(WaitError::TimedOut));
    });
    let got = world
        .ring
        .port()
        .get(within(60), &mut calmly, |bytes, _| bytes.to_vec());
    assert_eq!(got.unwrap(), b"child");
}

#[test]
fn putting_what_needs_memory_while_somebody_has_the_arena() {
    let long = vec![7; INLINE_MAX + 1];
    let (world, _) = stopped("put", "arena.alloc.done", |world| {
        for bytes in [&b"small"[..], &long] {
            let put = world
                .small
                .port()
                .put(Message::new(bytes), shortly(), &mut calmly);
            assert_eq!(put, Err(WaitError::TimedOut));
        }
    });
    let got = world
        .ring
        .port()
        .get(within(60), &mut calmly, |bytes, _| bytes.to_vec());
    assert_eq!(got.unwrap(), b"child");
    world.exercise();
}

/// A process dies while another is stopped at `point` of `task`.
fn recovering(task: &str, point: &str) {
    let session = kinds::create("other", None).unwrap();
    let before = Inventory::take(session);
    let world = World::create(session);
    let mut holder = start(session, "hold", &world.names(), "");
    world.event.wait(within(60), &mut calmly).unwrap();
    let (world, _) = stopped_in(session, world, task, point, |world| {
        holder.kill();
        assert_eq!(holder.end(), Exit::Signal(9));
        session.exited(holder.owner, -9).unwrap();
        // Not everything can be done for it yet, which keeps nobody from the lock.
        world.lock.acquire(within(60), &mut calmly).unwrap();
        assert!(world.lock.take_recovery());
        world.lock.release();
    });
    eventually("the semaphore has been told", || {
        session.recover_now().unwrap();
        world.semaphore.value() == 2
    });
    assert!(world.semaphore.take_recovery());
    drop(world);
    assert_eq!(Inventory::take(session), before);
}

#[test]
fn recovering_what_another_one_held() {
    recovering("acquire", "semaphore.acquire.set");
}

#[test]
fn recovering_while_somebody_has_the_table_of_objects() {
    recovering("create", "object.create.filled");
}

#[test]
fn dropping_the_last_handle_to_what_somebody_recovers() {
    let session = kinds::create("other", None).unwrap();
    let before = Inventory::take(session);
    let world = World::create(session);
    let mut holder = start(session, "hold", &world.names(), "");
    world.event.wait(within(60), &mut calmly).unwrap();
    let mut child = start(session, "recover", &world.names(), "recover.kept");
    // Only this process has it.
    let dropped = Semaphore::create(session, "dropped", 1, 1).unwrap();
    let (index, generation) = (dropped.handle().index(), dropped.handle().generation());
    let entry = dropped.handle().entry();
    let body = entry.body.load(Ordering::SeqCst);
    holder.kill();
    assert_eq!(holder.end(), Exit::Signal(9));
    let passes = session.entries().filter(|(i, entry)| {
        *i <= index && entry.kind().is_some() && entry.link.load(Ordering::SeqCst) == 0
    });
    world.diary.write(0, passes.count() as u64);
    eventually("the child is stopped", || child.is_stopped());
    drop(dropped);
    let owner = session.block(body).unwrap().owner.load(Ordering::SeqCst);
    assert_eq!(owner, BlockOwner::object(index).word());
    child.go_on();
    assert_eq!(child.end(), Exit::Code(0));
    assert!(!session.exists(index, generation));
    session.exited(child.owner, 0).unwrap();
    session.exited(holder.owner, -9).unwrap();
    world.exercise();
    drop(world);
    assert_eq!(Inventory::take(session), before);
}

#[test]
fn freeing_what_another_one_had_while_somebody_has_the_arena() {
    // With something to be undone, and without.
    recovering("put", "arena.alloc.done");
    recovering("put", "guard.checkpoint");
}

/// A worker that was condemned is stopped when it has started another item, before it puts that back. What happens
/// `meanwhile`, and all outcomes but the one of the item that it finished.
fn putting_back(meanwhile: impl FnOnce(&Board, &mut OwnedJob)) -> Vec<(u64, bool)> {
    let session = kinds::create("owner", None).unwrap();
    let world = World::create(session);
    let board = Board::create(session, "board", 3, 0).unwrap();
    world.diary.write_handle(0, board.handle());
    let options = JobOptions {
        hint: 2,
        ..JobOptions::default()
    };
    let mut job = board
        .open_job(Message::default(), options)
        .unwrap()
        .unwrap();
    for _ in 0..4 {
        job.feed(Message::default(), false).unwrap().unwrap();
    }
    job.seal();
    let (_world, _) = stopped_in(session, world, "work", "board.start.started", |_| {
        meanwhile(&board, &mut job);
    });
    board.departed().unwrap().unwrap();
    let mut seat = board.sit_down(2).unwrap().unwrap();
    run_all(&mut seat);
    drop(seat);
    let (item, Taken::Done { status: 1, .. }) = job.collect_next().unwrap().unwrap() else {
        panic!("the first item is finished");
    };
    assert_eq!(item, 0);
    let mut rest = Vec::new();
    while let Some((item, taken)) = job.collect_next().unwrap() {
        match taken {
            Taken::Done { status: 2, .. } => rest.push((item, true)),
            Taken::Cancelled => rest.push((item, false)),
            other => panic!("item {item}: {other:?}"),
        }
    }
    rest
}

fn run_all(seat: &mut Seat) {
    while let Next::Task(_) = seat.try_next().unwrap() {
        seat.finish(2, Message::default()).unwrap();
    }
}

#[test]
fn putting_back_an_item_that_somebody_else_has_come_to() {
    let rest = putting_back(|board, _| {
        let mut seat = board.sit_down(2).unwrap().unwrap();
        // Runs what is queued, takes the item off the one that is so slow, and finds it started.
        eventually("nobody has anything left", || {
            run_all(&mut seat);
            !board.has_work() && !seat.others_have_rest()
        });
    });
    assert_eq!(rest, [(1, true), (2, true), (3, true)]);
}

#[test]
fn putting_back_an_item_whose_job_was_stopped() {
    let rest = putting_back(|_, job| assert!(job.stop().unwrap()));
    assert_eq!(rest, [(1, false), (2, false), (3, false)]);
}

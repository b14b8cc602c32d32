//! The board of a pool: its worker, its owner, and one who buries a worker die over it.

use procession_shm::WaitError;
use procession_shm::board::{Board, CancelCell, JobOptions, Next, OwnedJob, Seat, Taken, Task};
use procession_shm::processes::Owner;
use procession_shm::ring::Message;
use procession_shm::wait::{Wait, WaitKind};
use procession_sys::clock::Deadline;
use procession_sys::process::Exit;
use std::time::Duration;

use crate::common::world::World;
use crate::common::{calmly, content, eventually, start, within};
use crate::scenarios::Kept;

/// Lines of the diary: which board, who has died, and of each item whether the child began and finished it.
const BOARD: u64 = 16;
const VICTIM: u64 = 18;
const BEGUN: u64 = 32;
const FINISHED: u64 = 160;

/// Items of each job.
const ITEMS: u64 = 24;
/// More than fit one chunk.
const MANY: u64 = 1025;

/// The job whose items fail when their worker dies; those of the other one are run again.
const FAILS: usize = 0;
const RETRIES: usize = 1;

/// A worker is condemned for this one, and finishes it.
const CONDEMNED: (usize, u64) = (FAILS, 2);
/// A worker leaves with this one in hand.
const DROPPED: (usize, u64) = (RETRIES, 3);
const CANCELLED: (usize, u64) = (FAILS, ITEMS - 1);

/// What the owner of a board has in hand.
pub(crate) struct Work {
    board: Board,
    jobs: Vec<OwnedJob>,
}

// --- messages -------------------------------------------------------------------------------

fn line(first: u64, (job, item): (usize, u64)) -> u64 {
    first + job as u64 * 64 + item
}

fn tag((job, item): (usize, u64)) -> u64 {
    job as u64 * 1000 + item
}

/// Bytes, and whether there is a block beside them: every way in which a message stands in a cell.
fn shape(item: u64) -> (usize, bool) {
    match item % 6 {
        0 => (8, false),
        1 => (300, false),
        2 => (3000, false),
        3 => (10, true),
        4 => (200, true),
        _ => (2000, true),
    }
}

const BLOCK: usize = 200;

fn block(world: &World, tag: u64, is_wanted: bool) -> Option<u64> {
    is_wanted.then(|| world.block(!tag, BLOCK))
}

fn check(world: &World, tag: u64, bytes: &[u8], block: Option<u64>, shape: (usize, bool)) {
    assert!(bytes == content(tag, shape.0), "item {tag} is torn");
    assert_eq!(block.is_some(), shape.1);
    if let Some(at) = block {
        world.check_block(at, !tag, BLOCK);
    }
}

// --- the owner ------------------------------------------------------------------------------

fn open(world: &World, board: &Board, job: usize) -> OwnedJob {
    let options = JobOptions {
        as_finished: job == RETRIES,
        keep_arguments: job == RETRIES,
        timed: job == RETRIES,
        ..JobOptions::default()
    };
    let function = content(job as u64, 3000);
    let function = Message {
        block: block(world, job as u64, job == RETRIES),
        ..Message::new(&function)
    };
    let mut owned = board.open_job(function, options).unwrap().unwrap();
    assert_eq!(owned.id().slot(), job);
    for item in 0..ITEMS {
        let tag = tag((job, item));
        let (len, has_block) = shape(item);
        let bytes = content(tag, len);
        let message = Message {
            block: block(world, tag, has_block),
            ..Message::new(&bytes)
        };
        assert_eq!(owned.feed(message, item % 2 == 0).unwrap(), Some(item));
    }
    owned.publish();
    owned
}

impl Work {
    fn new(world: &World, board: Board) -> Self {
        let jobs = [FAILS, RETRIES].map(|job| open(world, &board, job)).into();
        Self { board, jobs }
    }

    /// Decides about the items whose workers have gone: which those are.
    fn decide(&mut self) -> Vec<(usize, u64)> {
        let departed = self.board.departed().unwrap().unwrap_or_default();
        let died = departed.iter().filter_map(|gone| gone.died);
        died.map(|(job, item)| {
            let (number, owned) = (job.slot(), &mut self.jobs[job.slot()]);
            let decided = match number {
                FAILS => owned.fail(item),
                _ => owned.retry(item),
            };
            assert!(decided.unwrap());
            (number, item)
        })
        .collect()
    }

    /// The next outcome that there is.
    fn collect(&mut self) -> Option<((usize, u64), Taken)> {
        let next = self.jobs[FAILS].collect_next().unwrap();
        if let Some((item, taken)) = next {
            return Some(((FAILS, item), taken));
        }
        let any = self.jobs[RETRIES].collect_any().unwrap();
        any.map(|(item, taken)| ((RETRIES, item), taken))
    }

    fn is_collected(&self) -> bool {
        self.jobs.iter().all(|job| job.collected() == ITEMS)
    }

    fn close(mut self) {
        while let Some(mut job) = self.jobs.pop() {
            eventually("nobody works on the job", || {
                // All items may have been taken over before the death was noticed.
                self.board.session().sweep().unwrap();
                self.decide();
                job.try_free().unwrap()
            });
        }
    }
}

fn check_result(world: &World, at: (usize, u64), taken: Taken) -> u8 {
    let Taken::Done {
        status,
        mut payload,
    } = taken
    else {
        panic!("{at:?}: {taken:?}");
    };
    let block = payload.take_block();
    check(world, tag(at), &payload, block, result_shape(at.1));
    status
}

pub(crate) fn worker_to_be(world: &World) -> Kept {
    Kept {
        worker: Some(start(world.session, "board-worker", &world.names(), "")),
        ..Kept::default()
    }
}

/// Everything that an owner does, with a worker in another process.
pub(crate) fn own(world: &World) {
    let board = Board::create(world.session, "child's", 4, 0).unwrap();
    feed_many(&board);
    let mut work = Work::new(world, board.clone());
    // Two workers of its own die, each with an item of another job.
    for number in 1..=2 {
        let mut seat = sit_down(&board, number);
        assert!(matches!(seat.try_next().unwrap(), Next::Task(_)));
        std::mem::forget(seat);
    }
    for number in 1..=2 {
        assert!(board.bury_worker(number).unwrap());
    }
    assert_eq!(work.decide(), [(RETRIES, 0), (FAILS, 0)]);
    let cancelled = work.jobs[CANCELLED.0].cancel(CANCELLED.1).unwrap();
    assert_eq!(cancelled, CancelCell::Cancelled);
    world.diary.write_handle(BOARD, board.handle());
    world.event.set();
    let slow = work.jobs[CONDEMNED.0].id();
    eventually("somebody runs the slow one", || {
        // A worker that sees the verdict may have finished the item before it is known to stand.
        board.condemn(slow, CONDEMNED.1).is_some()
            || world.diary.read(line(FINISHED, CONDEMNED)) != 0
    });
    let mut failed = 0;
    eventually("every item has an outcome", || {
        assert_eq!(work.decide(), []);
        while let Some((at, taken)) = work.collect() {
            match taken {
                Taken::Cancelled => assert_eq!(at, CANCELLED),
                Taken::Failed { .. } => failed += 1,
                done @ Taken::Done { .. } => assert_eq!(check_result(world, at, done), 1),
            }
        }
        work.is_collected()
    });
    assert_eq!(failed, 1, "the other one was run again");
    work.close();
    board.end();
}

/// A chunk is used up and given back.
fn feed_many(board: &Board) {
    let options = JobOptions::default();
    let mut job = board
        .open_job(Message::default(), options)
        .unwrap()
        .unwrap();
    for item in 0..MANY {
        if item == MANY - 1 {
            let mut seat = sit_down(board, 3);
            while let Next::Task(_) = seat.try_next().unwrap() {
                seat.finish(1, Message::default()).unwrap();
            }
            while job.collect_next().unwrap().is_some() {}
        }
        job.feed(Message::default(), false).unwrap().unwrap();
    }
    board.departed().unwrap().unwrap();
    assert!(job.try_free().unwrap());
}

/// The owner's worker leaves, and whoever has the board sees that it has ended.
pub(crate) fn after_own(world: &World, kept: Kept) {
    let board = world
        .diary
        .read_handle(BOARD)
        .map(|h| Board::of(h).unwrap());
    // Should the owner have died before it said so.
    world.event.set();
    let mut worker = kept.worker.unwrap();
    assert_eq!(worker.end(), Exit::Code(0));
    world.session.exited(worker.owner, 0).unwrap();
    world.event.clear();
    if let Some(board) = board {
        eventually("the board has ended", || {
            world.session.sweep().unwrap();
            board.has_ended()
        });
        assert!(!board.is_mine());
        assert_eq!(board.seated().count(), 0);
    }
}

// --- its workers ----------------------------------------------------------------------------

fn sit_down(board: &Board, number: u64) -> Seat {
    let seat = board.sit_down(number).unwrap().unwrap();
    seat.up();
    seat
}

/// A result has another shape than its arguments. Some are notes alone, some notes and a block.
fn result_shape(item: u64) -> (usize, bool) {
    match item % 8 {
        6 => (500, false),
        7 => (500, true),
        _ => shape(item + 1),
    }
}

fn run(world: &World, seat: &mut Seat, mut task: Task, status: u8) {
    let at = (task.job.slot(), task.item);
    let tag = tag(at);
    let block_of_task = task.take_block();
    check(world, tag, task.bytes(), block_of_task, shape(at.1));
    let mut function = seat.function().unwrap();
    let beside = function.take_block();
    check(
        world,
        at.0 as u64,
        &function,
        beside,
        (3000, at.0 == RETRIES),
    );
    let (len, has_block) = result_shape(at.1);
    let bytes = content(tag, len);
    let answer = Message {
        block: block(world, tag, has_block),
        ..Message::new(&bytes)
    };
    if !matches!(at.1 % 8, 6 | 7) {
        return seat.finish(status, answer).unwrap();
    }
    let mut notes = seat.notes().unwrap();
    for part in bytes.chunks(200) {
        notes.begin();
        assert!(notes.add(&[part]).unwrap());
    }
    if has_block {
        seat.finish(status, answer).unwrap();
    } else {
        seat.finish_noted(status, &notes).unwrap();
    }
}

fn look_out(board: &Board) {
    let (session, index) = (board.session(), board.handle().index());
    let deadline = Deadline::after(Some(Duration::from_millis(1)));
    let waited = Wait::new(session, index, WaitKind::Task, deadline)
        .looking_out(board.lookout())
        .until(board.work(), || Ok(None::<()>));
    assert_eq!(waited, Err(WaitError::TimedOut));
}

pub(crate) fn work_to_do(world: &World) -> Kept {
    let board = Board::create(world.session, "board", 4, 0).unwrap();
    world.diary.write_handle(BOARD, board.handle());
    Kept {
        work: Some(Work::new(world, board)),
        ..Kept::default()
    }
}

/// Everything that a worker does.
pub(crate) fn work(world: &World) {
    let board = Board::of(world.diary.read_handle(BOARD).unwrap()).unwrap();
    look_out(&board);
    let mut seat = sit_down(&board, 1);
    assert!(seat.keep_watch());
    seat.look_after_others();
    loop {
        match seat.try_next().unwrap() {
            Next::Task(task) => {
                let at = (task.job.slot(), task.item);
                world.diary.add(line(BEGUN, at));
                if at == DROPPED {
                    drop((task, seat));
                    seat = sit_down(&board, 2);
                    continue;
                }
                if at == CONDEMNED {
                    assert!(board.condemn(task.job, task.item).is_some());
                }
                run(world, &mut seat, task, 1);
                world.diary.add(line(FINISHED, at));
            }
            Next::Condemned => {
                drop(seat);
                seat = sit_down(&board, 3);
            }
            Next::Idle => return,
            Next::Enough => panic!("there is no limit"),
        }
    }
}

pub(crate) fn after_work(world: &World, kept: Kept) {
    let failed = settle(world, kept);
    assert!(failed <= 1, "{failed} failed");
}

/// Everything has one outcome, and nothing that was begun and may not be run again was. How many items have failed.
fn settle(world: &World, kept: Kept) -> u32 {
    let mut work = kept.work.unwrap();
    let diary = |first, at| world.diary.read(line(first, at));
    let mut seat = sit_down(&work.board, 100);
    let mut failed = 0;
    eventually("every item has an outcome", || {
        world.session.sweep().unwrap();
        work.decide();
        while let Next::Task(task) = seat.try_next().unwrap() {
            let at = (task.job.slot(), task.item);
            assert_eq!(diary(FINISHED, at), 0, "{at:?} is run twice");
            run(world, &mut seat, task, 2);
        }
        while let Some((at, taken)) = work.collect() {
            if let (FAILS, Taken::Failed { .. }) = (at.0, &taken) {
                assert_eq!(diary(FINISHED, at), 0, "{at:?} is lost");
                failed += 1;
            } else if check_result(world, at, taken) == 1 {
                assert_eq!(diary(BEGUN, at), 1);
            } else {
                let (begun, finished) = (diary(BEGUN, at), diary(FINISHED, at));
                assert!(finished == 0 && (begun == 0 || at.0 == RETRIES), "{at:?}");
            }
        }
        work.is_collected()
    });
    drop(seat);
    work.close();
    failed
}

/// Works until the end of a board of which it is yet to be told.
pub(crate) fn worker(world: &World) {
    world.event.wait(within(60), &mut calmly).unwrap();
    if let Some(handle) = world.diary.read_handle(BOARD) {
        let board = Board::of(handle).unwrap();
        let mut seat = sit_down(&board, 10);
        while !board.has_ended() {
            match seat.try_next().unwrap() {
                Next::Task(task) => {
                    if (task.job.slot(), task.item) == CONDEMNED {
                        eventually("it is condemned", || {
                            world.session.sweep().unwrap();
                            seat.is_condemned() || board.has_ended()
                        });
                        world.diary.add(line(FINISHED, CONDEMNED));
                    }
                    run(world, &mut seat, task, 1);
                }
                Next::Condemned => {
                    drop(seat);
                    seat = sit_down(&board, 11);
                }
                Next::Idle | Next::Enough => {
                    let (session, index) = (world.session, board.handle().index());
                    Wait::new(session, index, WaitKind::Task, within(60))
                        .until(board.work(), || {
                            Ok((board.has_work() || board.has_ended()).then_some(()))
                        })
                        .unwrap_or_else(|error| {
                            let members = world.session.slots();
                            panic!(
                                "{error}: the board of {:?} with {:?}, in a session of {:?}",
                                board.handle(),
                                board.seated().collect::<Vec<_>>(),
                                members
                                    .map(|(n, slot)| (n, slot.state(), slot.process_id()))
                                    .collect::<Vec<_>>(),
                            )
                        });
                }
            }
        }
    }
    world.session.leave(0).unwrap();
}

// --- one who buries a worker ----------------------------------------------------------------

fn bury(world: &World, crash_at: &str) -> Kept {
    let kept = work_to_do(world);
    let mut victim = start(world.session, "board-victim", &world.names(), crash_at);
    assert_eq!(victim.end(), Exit::Signal(9));
    world.diary.write(VICTIM, victim.owner.word().into());
    kept
}

pub(crate) fn bury_taking(world: &World) -> Kept {
    bury(world, "board.arguments.owned:1")
}

pub(crate) fn bury_handing(world: &World) -> Kept {
    bury(world, "board.finish.handing:1")
}

/// It dies when it has started something that it must not run.
pub(crate) fn bury_condemned(world: &World) -> Kept {
    bury(world, "board.start.reverting:1")
}

pub(crate) fn after_bury(world: &World, kept: Kept) {
    let victim = Owner::from_word(world.diary.read(VICTIM) as u32).unwrap();
    after_work(world, kept);
    world.session.exited(victim, -9).unwrap();
}

pub(crate) fn after_bury_condemned(world: &World, kept: Kept) {
    let victim = Owner::from_word(world.diary.read(VICTIM) as u32).unwrap();
    assert_eq!(settle(world, kept), 0, "nothing was begun");
    world.session.exited(victim, -9).unwrap();
}

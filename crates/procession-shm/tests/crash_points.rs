//! A process dies at every step of every protocol, and the others go on as if it had stopped before or after that step.
//!
//! Each scenario runs once in a child that notes which crash points it passes, and how often. Then it runs again for each of
//! them, in a child that dies there. What was committed must be there once and whole, everything must still work, and in
//! the end the session must hold exactly what it held before. `PROCESSION_CRASH_ALL=1` dies at every single pass; usually
//! a sample of the passes of one point is enough.
#![cfg(not(loom))]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::world::{SHAPES, World};
use common::{Inventory, calmly, eventually, inside, start, within};
use procession_shm::bundle::{self, Part};
use procession_shm::memory::Memory;
use procession_shm::processes::{Owner, Role};
use procession_shm::ring::{Message, Ring, RingOptions};
use procession_shm::sync::{Lock, Ticket};
use procession_shm::{Session, fault, kinds, pipe};
use procession_sys::clock::Deadline;
use procession_sys::process::{Exit, kill_self};

/// Something that a child does and may die of.
struct Scenario {
    name: &'static str,
    /// Can the child die even before it has joined the session?
    early: bool,
    before: fn(&World) -> Vec<Ticket>,
    child: fn(&World),
    after: fn(&World, Vec<Ticket>),
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "put",
        early: false,
        before: nothing,
        child: put,
        after: after_put,
    },
    Scenario {
        name: "get",
        early: false,
        before: fill,
        child: get,
        after: after_get,
    },
    Scenario {
        name: "wrap",
        early: false,
        before: nothing,
        child: wrap,
        after: after_wrap,
    },
    Scenario {
        name: "blocks",
        early: false,
        before: nothing,
        child: blocks,
        after: done,
    },
    Scenario {
        name: "sync",
        early: false,
        before: nothing,
        child: sync,
        after: done,
    },
    Scenario {
        name: "notify",
        early: false,
        before: enlist,
        child: notify,
        after: after_notify,
    },
    Scenario {
        name: "barrier",
        early: false,
        before: nothing,
        child: barrier,
        after: done,
    },
    Scenario {
        name: "objects",
        early: true,
        before: nothing,
        child: objects,
        after: done,
    },
    Scenario {
        name: "processes",
        early: false,
        before: nothing,
        child: processes,
        after: done,
    },
    Scenario {
        name: "recover-put",
        early: false,
        before: bury_put,
        child: recover,
        after: after_recover,
    },
    Scenario {
        name: "recover-free",
        early: false,
        before: bury_free,
        child: recover,
        after: after_recover,
    },
    Scenario {
        name: "recover-destroy",
        early: false,
        before: bury_destroy,
        child: recover,
        after: after_recover,
    },
];

fn scenario(name: &str) -> &'static Scenario {
    SCENARIOS
        .iter()
        .find(|s| s.name == name)
        .expect("a scenario's name")
}

fn nothing(_: &World) -> Vec<Ticket> {
    Vec::new()
}

fn done(_: &World, _: Vec<Ticket>) {}

// --- queues ---------------------------------------------------------------------------------

/// What is left in the queue is `plan[got..put]`, where a death may have left the diary one behind.
fn check_queue(world: &World, plan: &[u64], put: u64, got: u64) {
    let mut left = Vec::new();
    while let Some(seq) = world.take(world.ring.port()) {
        left.push(seq);
    }
    let fits = (got..=got + 1).any(|from| {
        (put..=put + 1).any(|to| plan.get(from as usize..to as usize) == Some(&left[..]))
    });
    assert!(
        fits,
        "lost or doubled: {left:?} are left of {plan:?}, of which {put} were put and {got} got"
    );
}

fn put(world: &World) {
    for seq in 0..SHAPES {
        world.put(world.ring.port(), seq);
        world.diary.write(0, seq + 1);
    }
}

fn after_put(world: &World, _: Vec<Ticket>) {
    let plan: Vec<u64> = (0..SHAPES).collect();
    check_queue(world, &plan, world.diary.read(0), 0);
}

fn fill(world: &World) -> Vec<Ticket> {
    put(world);
    Vec::new()
}

fn get(world: &World) {
    while let Some(seq) = world.take(world.ring.port()) {
        world.diary.write(1, seq + 1);
    }
}

fn after_get(world: &World, _: Vec<Ticket>) {
    let plan: Vec<u64> = (0..SHAPES).collect();
    check_queue(world, &plan, SHAPES, world.diary.read(1));
}

/// Middling messages that go around in the first segment again and again.
const WRAPPING: [u64; 9] = [1, 2, 3, 13, 14, 15, 25, 26, 27];

fn wrap(world: &World) {
    for (i, seq) in (1..).zip(WRAPPING) {
        world.put(world.ring.port(), seq);
        world.diary.write(0, i);
        assert_eq!(world.take(world.ring.port()), Some(seq));
        world.diary.write(1, i);
    }
    // The other queue is bounded, and joined; its writer closes it.
    for seq in [1, 4] {
        world.put(world.small.port(), seq);
    }
    assert!(world.small.port().is_full() && world.small.port().task_done().unwrap());
    while world.take(world.small.port()).is_some() {}
}

fn after_wrap(world: &World, _: Vec<Ticket>) {
    check_queue(world, &WRAPPING, world.diary.read(0), world.diary.read(1));
    while world.take(world.small.port()).is_some() {}
}

// --- blocks and objects -------------------------------------------------------------------

fn blocks(world: &World) {
    let session = world.session;
    let sizes = [
        100,
        100,
        500_000,
        500_000,
        500_000,
        500_000,
        500_000,
        3 << 20,
        5 << 20,
    ];
    let made: Vec<u64> = sizes.iter().map(|len| world.block(7, *len)).collect();
    for at in made {
        session.free_block(at).unwrap();
    }
    for apart in [true, false] {
        let parts = [
            Part {
                at: world.block(1, 4 << 20),
                len: 4 << 20,
            },
            Part {
                at: session.make_ticket(world.lock.handle()).unwrap(),
                len: 8,
            },
            Part {
                at: world.block(2, 200),
                len: 200,
            },
        ];
        let manifest = bundle::bind(session, &parts).unwrap();
        if apart {
            for part in bundle::unbind(session, manifest).unwrap() {
                session.free_block(part.at).unwrap();
            }
        } else {
            session.free_block(manifest).unwrap();
        }
    }
}

fn objects(world: &World) {
    let session = world.session;
    let lock = Lock::create(session, "child's").unwrap();
    let inner = Ring::create(session, "inner", RingOptions::default()).unwrap();
    let outer = Ring::create(session, "outer", RingOptions::default()).unwrap();
    let memory = Memory::create(session, "memory", 3 << 20).unwrap();
    let ends = pipe::create(session, "pipe", true).unwrap();
    for seq in [4, 5, 6, 7, 8, 9] {
        world.put(inner.port(), seq);
    }
    // The outer queue keeps the inner one alive, and goes with its contents.
    let ticket = Some(session.make_ticket(inner.handle()).unwrap());
    let message = Message {
        bytes: b"a queue",
        block: ticket,
        ..Message::default()
    };
    outer.port().put(message, within(60), &mut calmly).unwrap();
    ends.0
        .send(Message::new(&[1; 50_000]), within(60), &mut calmly)
        .unwrap();
    drop((inner, lock, memory, ends));
    drop(outer);
    session.leave(0).unwrap();
}

// --- synchronisation ------------------------------------------------------------------------

fn sync(world: &World) {
    for _ in 0..2 {
        world.lock.acquire(within(60), &mut calmly).unwrap();
        assert!(world.lock.release());
    }
    for _ in 0..2 {
        world.semaphore.acquire(within(60), &mut calmly).unwrap();
    }
    for _ in 0..2 {
        assert!(world.semaphore.release().unwrap());
    }
    world.event.set();
    world.event.wait(within(60), &mut calmly).unwrap();
    world.event.clear();
}

fn enlist(world: &World) -> Vec<Ticket> {
    vec![world.condition.enlist().unwrap()]
}

fn notify(world: &World) {
    let ticket = world.condition.enlist().unwrap();
    assert_eq!(world.condition.notify(2), 2);
    ticket.wait(within(60), &mut calmly).unwrap();
    assert!(ticket.leave());
}

fn after_notify(world: &World, tickets: Vec<Ticket>) {
    for ticket in tickets {
        if ticket.wait(Deadline::NOW, &mut calmly).is_err() {
            assert_eq!(world.condition.notify(1), 1);
        }
        ticket.wait(within(10), &mut calmly).unwrap();
        assert!(ticket.leave());
    }
}

fn barrier(world: &World) {
    for _ in 0..2 {
        let arrival = world.solo.arrive(within(60), &mut calmly).unwrap().unwrap();
        assert!(arrival.last);
        world.solo.open(arrival).unwrap().unwrap();
        world
            .solo
            .wait(arrival, within(60), &mut calmly)
            .unwrap()
            .unwrap();
        world.solo.reset().unwrap();
    }
    let _ = world
        .barrier
        .arrive(within(60), &mut calmly)
        .unwrap()
        .unwrap();
    world.barrier.abort().unwrap();
}

// --- processes ------------------------------------------------------------------------------

fn processes(world: &World) {
    let session = world.session;
    let unused = session.reserve("never started", Role::Process).unwrap();
    session.abandon(unused).unwrap();
    let mut grandchild = start(session, "idle", &[], "");
    let exit = grandchild.end();
    assert_eq!(exit, Exit::Code(0));
    session
        .exited(grandchild.owner, exit.as_exitcode())
        .unwrap();
    assert_eq!(session.exit_status(grandchild.owner), Some(0));
}

// --- death of one who buries ---------------------------------------------------------------

/// Has a child die with its hands full, in the middle of what `crash_at` names; nobody has noticed yet.
fn bury(world: &World, crash_at: &str) -> Vec<Ticket> {
    let mut victim = start(world.session, "victim", &world.names(), crash_at);
    eventually("the victim waits", || {
        world.diary.read(8) == 1 || victim.ends_within(Deadline::NOW)
    });
    let ticket = world.condition.enlist().unwrap();
    world.event.set();
    assert_eq!(victim.end(), Exit::Signal(9));
    world.event.clear();
    assert_eq!(world.lock.owner(), Some(victim.owner));
    world.diary.write(9, victim.owner.word().into());
    vec![ticket]
}

fn bury_put(world: &World) -> Vec<Ticket> {
    bury(world, "ring.push.written:7")
}

fn bury_free(world: &World) -> Vec<Ticket> {
    bury(world, "arena.free.done:1")
}

fn bury_destroy(world: &World) -> Vec<Ticket> {
    bury(world, "object.destroy.unlinked:1")
}

fn victim(world: &World) {
    let ticket = world.condition.enlist().unwrap();
    world.diary.write(8, 1);
    world.event.wait(within(60), &mut calmly).unwrap();
    // Its notification has to go on to the one who enlisted after it.
    assert_eq!(world.condition.notify(1), 1);
    world.lock.acquire(within(60), &mut calmly).unwrap();
    world.semaphore.acquire(within(60), &mut calmly).unwrap();
    let _ = world
        .barrier
        .arrive(within(60), &mut calmly)
        .unwrap()
        .unwrap();
    let own = Ring::create(world.session, "victim's", RingOptions::default()).unwrap();
    for seq in 4..10 {
        world.put(own.port(), seq);
    }
    world.block(3, 6 << 20);
    put(world);
    drop(own);
    drop(ticket);
    kill_self();
}

fn recover(world: &World) {
    world.session.recover_now().unwrap();
}

fn after_recover(world: &World, tickets: Vec<Ticket>) {
    let victim = Owner::from_word(world.diary.read(9) as u32).unwrap();
    world.session.recover_now().unwrap();
    for ticket in tickets {
        ticket
            .wait(within(10), &mut calmly)
            .expect("the dead waiter's notification went on");
        assert!(ticket.leave());
    }
    world.lock.acquire(within(10), &mut calmly).unwrap();
    assert!(
        world.lock.take_recovery() && !world.lock.take_recovery(),
        "told once"
    );
    assert!(world.lock.release());
    assert_eq!(world.semaphore.recoveries(), 1);
    assert!(world.barrier.is_broken());
    let plan: Vec<u64> = (0..SHAPES).collect();
    check_queue(world, &plan, world.diary.read(0), 0);
    world.session.exited(victim, -9).unwrap();
}

// --- the machinery --------------------------------------------------------------------------

#[test]
#[ignore = "the body of the other tests' children"]
fn child() {
    let Some(mut inside) = inside() else { return };
    if inside.task == "idle" {
        inside.attach().leave(0).unwrap();
        std::process::exit(0);
    }
    let records = std::env::var("PROCESSION_CRASH_AT").is_ok_and(|at| at == "record");
    let arm = || {
        if records {
            fault::record()
        } else {
            fault::arm_from_env()
        }
    };
    let scenario = SCENARIOS.iter().find(|s| s.name == inside.task);
    let early = scenario.is_some_and(|s| s.early);
    if early {
        arm();
    }
    let session = inside.attach();
    let world = World::find(session, &inside.args);
    if !early {
        arm();
    }
    scenario.map_or(victim as fn(&World), |s| s.child)(&world);
    let passed: Vec<String> = fault::passed()
        .iter()
        .map(|(p, n)| format!("{p} {n}\n"))
        .collect();
    inside.report(&passed.concat());
    std::process::exit(0);
}

/// Runs a scenario whose child dies at `crash_at`, or ends if that is "record"; returns what the child noted. The first
/// time nobody says that the child has died: the others have to find out.
///
/// How often a point is passed depends a little on what the arena looks like, so that later deaths may not come about.
fn run(session: &'static Session, scenario: &Scenario, crash_at: &str, is_first: bool) -> String {
    let before = Inventory::take(session);
    let world = World::create(session);
    let tickets = (scenario.before)(&world);
    let mut child = start(session, scenario.name, &world.names(), crash_at);
    let exit = child.end();
    let expected = if crash_at == "record" {
        Exit::Code(0)
    } else {
        Exit::Signal(9)
    };
    assert!(
        exit == expected || !is_first && exit == Exit::Code(0),
        "the child ended with {exit}"
    );
    let had_lock = world.lock.owner() == Some(child.owner);
    if !is_first {
        session.exited(child.owner, exit.as_exitcode()).unwrap();
    }
    if had_lock {
        world.lock.acquire(within(10), &mut calmly).unwrap();
        assert!(
            world.lock.take_recovery(),
            "the death of the lock's owner was not told"
        );
        world.lock.release();
    }
    (scenario.after)(&world, tickets);
    world.exercise();
    session.exited(child.owner, exit.as_exitcode()).unwrap();
    drop(world);
    assert_eq!(Inventory::take(session), before, "left behind, or lost");
    child.report()
}

fn points(session: &'static Session, scenario: &Scenario) -> BTreeMap<String, u32> {
    let report = run(session, scenario, "record", false);
    report
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(point, times)| (point.to_owned(), times.parse().unwrap()))
        .collect()
}

/// At most `most` of 1..=times, evenly spread, the last among them.
fn sample(times: u32, most: u32) -> impl Iterator<Item = u32> {
    let count = times.min(most);
    (1..=count).map(move |i| (u64::from(i) * u64::from(times) / u64::from(count)) as u32)
}

fn die_everywhere(name: &str) {
    let scenario = scenario(name);
    let session = kinds::create("survivor", None).unwrap();
    let all = common::setting("PROCESSION_CRASH_ALL", 0) != 0;
    let mut deaths = 0;
    for (point, times) in points(session, scenario) {
        let most = if point.starts_with("guard.") { 12 } else { 4 };
        for n in sample(times, if all { u32::MAX } else { most }) {
            let crash_at = format!("{point}:{n}");
            let run = || run(session, scenario, &crash_at, n == 1);
            if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
                eprintln!("this was scenario {name}, death at {crash_at} of {times}");
                std::panic::resume_unwind(panic);
            }
            deaths += 1;
        }
    }
    println!("{name}: {deaths} deaths");
    assert!(deaths > 0);
}

macro_rules! deaths {
    ($($test:ident: $scenario:literal,)*) => {
        $(#[test]
        fn $test() {
            die_everywhere($scenario);
        })*

        #[test]
        fn every_scenario_has_a_test() {
            assert_eq!(SCENARIOS.iter().map(|s| s.name).collect::<Vec<_>>(), [$($scenario),*]);
        }
    };
}

deaths! {
    putting: "put",
    getting: "get",
    going_around: "wrap",
    blocks_and_bundles: "blocks",
    locking: "sync",
    notifying: "notify",
    meeting: "barrier",
    making_and_dropping_objects: "objects",
    starting_processes: "processes",
    burying_one_who_died_putting: "recover-put",
    burying_one_who_died_freeing: "recover-free",
    burying_one_who_died_destroying: "recover-destroy",
}

/// The points named in the source files below `at`.
fn named(at: &Path, found: &mut Vec<String>) {
    for file in std::fs::read_dir(at).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            named(&path, found);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for after in text.split("crash_point!(\"").skip(1) {
            found.push(after.split('"').next().unwrap().to_owned());
        }
    }
}

#[test]
fn every_point_in_the_source_is_passed_by_a_scenario() {
    let session = kinds::create("survivor", None).unwrap();
    let mut source = Vec::new();
    named(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut source,
    );
    assert!(source.len() > 60, "the source was not found");
    let passed: Vec<String> = SCENARIOS
        .iter()
        .flat_map(|s| points(session, s).into_keys())
        .collect();
    // The pool's board is tested beside its code.
    source.retain(|p| !p.starts_with("board.") && !passed.contains(p));
    assert!(source.is_empty(), "nobody dies at {source:?}");
}

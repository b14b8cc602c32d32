//! A worker dies (or is stopped) at each named step of its protocol in turn: nothing is lost, doubled or left behind.
#![cfg(feature = "fault")]

#[allow(dead_code)]
mod pool_support;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use procession_engine::pool::{Cancel, Config, Failure, JobSpec, Message, Order, Outcome, Until};
use procession_shm::sync::Event;
use procession_sys::clock::Deadline;
use procession_sys::process::Exit;

use pool_support::{
    BLOCK, CALLS, ECHO, Front, NOTES, NOTES_BLOCK, SLOW, arguments, assert_echo, await_arguments,
    deadline, note_of, run_worker, steps,
};

/// Where the workers begin. On its own it is over at once.
#[test]
fn worker() {
    run_worker();
}

/// Steps of taking arguments for good.
const TAKES: &[&str] = &["bundle.unbound", "arena.free.done"];

const ITEMS: u64 = 400;

fn crash_at(point: &str, nth: u32, retries: u32) {
    // One at a time, so that the first is sure to get that far; the one that takes its place finishes the job.
    let mut config = Config::new("crash", 1);
    config.poison_limit = 10;
    let mut front = Front::new(&config, "worker");
    front.crash_at = Some(format!("{point}:{nth}"));
    let spec = JobSpec {
        order: Order::AsFinished,
        retries,
        ..JobSpec::default()
    };
    let job = front.pool.open_job(Message::new(&[5; 3000]), spec).unwrap();
    let what = |item: u64| if item.is_multiple_of(3) { BLOCK } else { ECHO };
    front.feed_kinds(job, ITEMS, what);
    front.pool.seal(job).unwrap();
    front.wait(job, Until::AllDone).unwrap();
    let (mut seen, mut failed) = (BTreeSet::new(), 0);
    for _ in 0..ITEMS {
        let collected = front.collect(job, Order::AsFinished);
        assert!(seen.insert(collected.item));
        match collected.outcome {
            Outcome::Failed(Failure::WorkerDied { .. }) => failed += 1,
            _ => assert_echo(&collected, what(collected.item)),
        }
    }
    assert!(
        failed <= u32::from(retries == 0),
        "{point}: {failed} failed"
    );
    front.close_job(job);
    front.join();
    assert!(
        front.exits.contains(&-9),
        "{point} was not passed: {:?}",
        front.exits
    );
}

#[test]
fn a_worker_may_die_at_any_step() {
    for (point, nth) in steps::WORKING {
        eprintln!("{point}:{nth}");
        crash_at(point, *nth, 0);
    }
}

#[test]
fn a_worker_may_die_at_any_step_and_its_item_is_run_again() {
    for (point, nth) in steps::WORKING {
        // Items that may be run again are not taken out of the board.
        if !point.starts_with("board.arguments") && !TAKES.contains(point) {
            eprintln!("{point}:{nth}");
            crash_at(point, *nth, 3);
        }
    }
}

#[test]
fn a_worker_may_die_while_it_leaves() {
    for (point, nth) in steps::LEAVING {
        let mut config = Config::new("leaving", 1);
        config.max_tasks = Some(5);
        let mut front = Front::new(&config, "worker");
        front.crash_at = Some(format!("{point}:{nth}"));
        let job = front.open();
        front.feed_echoes(job, 0..20);
        front.pool.seal(job).unwrap();
        front.collect_echoes(job, 0..20);
        front.close_job(job);
        front.join();
        assert!(front.exits.contains(&-9), "{point} was not passed");
    }
}

/// Nobody is woken for what somebody looks out for: a worker that dies over that must not leave the others asleep.
#[test]
fn a_worker_may_die_while_it_looks_out_for_work() {
    for (point, nth) in steps::LOOKING_OUT {
        let mut front = Front::new(&Config::new("lookout", 2), "worker");
        front.crash_at = Some(format!("{point}:{nth}"));
        let job = front.open();
        // It starts without work, so that is what it does first.
        front.serve();
        let end = Deadline::after(Some(Duration::from_secs(60)));
        let mut item = 0;
        while item < 200 || !front.exits.contains(&-9) {
            assert!(!end.passed(), "{point} was not passed");
            front.feed_echoes(job, item..item + 1);
            front.collect_echoes(job, item..item + 1);
            front.serve();
            item += 1;
        }
        front.pool.seal(job).unwrap();
        front.close_job(job);
        front.join();
    }
}

/// More workers than are of use for quick items: one of those that have nothing keeps the watch over the others.
#[test]
fn a_worker_may_die_while_it_keeps_the_watch() {
    for (point, nth) in steps::WATCHING {
        let workers = procession_sys::limits::cpus() + 2;
        let mut front = Front::new(&Config::new("watch", workers), "worker");
        front.crash_at = Some(format!("{point}:{nth}"));
        let job = front.open();
        front.serve();
        let end = Deadline::after(Some(Duration::from_secs(60)));
        let mut item = 0;
        while item < 2000 || !front.exits.contains(&-9) {
            assert!(!end.passed(), "{point} was not passed");
            front.feed_echoes(job, item..item + 500);
            front.collect_echoes(job, item..item + 500);
            front.serve();
            item += 500;
        }
        front.pool.seal(job).unwrap();
        front.close_job(job);
        front.join();
    }
}

/// At most one item fails. What is told of it is what its worker had noted, and no call is missing that was begun.
fn crash_in_notes(point: &str, nth: u32) {
    let mut front = Front::new(&Config::new("notes", 1), "worker");
    front.crash_at = Some(format!("{point}:{nth}"));
    let job = front.open();
    let what = |item: u64| {
        if item.is_multiple_of(2) {
            NOTES
        } else {
            NOTES_BLOCK
        }
    };
    let items = 40;
    for item in 0..items {
        front.feed(job, &[what(item)]);
    }
    front.pool.seal(job).unwrap();
    let all: Vec<u8> = (0..CALLS).flat_map(note_of).collect();
    let mut failed = 0;
    for item in 0..items {
        let collected = front.collect(job, Order::InOrder);
        assert_eq!(collected.item, item);
        match collected.outcome {
            Outcome::Done { status, payload } => {
                assert_eq!((status, payload.bytes()), (1, &all[..]));
                assert_eq!(payload.block().is_some(), what(item) == NOTES_BLOCK);
            }
            Outcome::Failed(Failure::WorkerDied { .. }) => {
                failed += 1;
                let noted = collected.noted.unwrap_or_default();
                assert!((noted.calls..=noted.calls + 1).contains(&noted.begun));
                let bytes: Vec<u8> = (0..noted.calls).flat_map(note_of).collect();
                assert_eq!(noted.bytes, bytes, "{point}:{nth}");
                match point {
                    "board.start.started" | "board.notes.opened" => assert_eq!(noted.begun, 0),
                    "board.notes.begun" | "board.notes.written" => {
                        assert_eq!(noted.begun, noted.calls + 1);
                    }
                    "board.notes.told" => assert_eq!(noted.begun, noted.calls),
                    _ => assert_eq!(noted.calls, CALLS, "all calls were finished"),
                }
            }
            other @ Outcome::Failed(_) => panic!("{point}:{nth}: {other:?}"),
        }
    }
    let committed = u32::from(point == "board.finish.committed");
    assert_eq!(failed + committed, 1, "{point}:{nth}");
    front.close_job(job);
    front.join();
    assert!(front.exits.contains(&-9), "{point}:{nth} was not passed");
}

#[test]
fn a_worker_may_die_at_any_step_of_its_notes() {
    for (point, nth) in steps::NOTING {
        eprintln!("{point}:{nth}");
        crash_in_notes(point, *nth);
    }
}

#[test]
fn a_worker_may_die_while_it_arrives() {
    for (point, nth) in steps::ARRIVING {
        let mut front = Front::new(&Config::new("arriving", 1), "worker");
        front.crash_at = Some(format!("early:{point}:{nth}"));
        let job = front.open();
        front.feed_echoes(job, 0..5);
        front.pool.seal(job).unwrap();
        front.collect_echoes(job, 0..5);
        front.close_job(job);
        front.join();
        assert!(front.exits.contains(&-9), "{point} was not passed");
    }
}

/// It is to be killed for an item, finishes that just then, and dies with the next one in its hands.
#[test]
fn a_worker_may_die_while_it_puts_an_item_back() {
    let session = procession_engine::home::session().unwrap();
    for (point, nth) in steps::PUTTING_BACK {
        let event = Event::create(session, "go on").unwrap();
        let mut front = Front::new(&Config::new("condemned", 1), "worker");
        front.crash_at = Some(format!("{point}:{nth}"));
        let job = front.open();
        front.feed(job, &await_arguments(&event));
        front.feed_echoes(job, 1..20);
        front.pool.seal(job).unwrap();
        let first = Some((job, 0));
        front.until("the first item runs", |f| {
            f.pool.workers().unwrap().iter().any(|w| w.running == first)
        });
        assert_eq!(front.pool.cancel(job, 0).unwrap(), Cancel::Killing);
        event.set();
        for child in front.children.values() {
            let exit = child.wait(deadline()).unwrap();
            assert_eq!(exit, Some(Exit::Signal(9)), "{point} was not passed");
        }
        let Outcome::Done { status: 1, payload } = front.collect(job, Order::InOrder).outcome
        else {
            panic!("the first item was finished");
        };
        assert_eq!(payload.bytes(), await_arguments(&event));
        drop(payload);
        front.collect_echoes(job, 1..20);
        front.close_job(job);
        front.join();
    }
}

/// The points of the pool and of launching that the sources name.
fn named(at: &Path, found: &mut BTreeSet<String>) {
    if at.is_dir() {
        for file in std::fs::read_dir(at).unwrap() {
            named(&file.unwrap().path(), found);
        }
        return;
    }
    let text = std::fs::read_to_string(at).unwrap();
    for after in text.split("crash_point!(\"").skip(1) {
        found.insert(after.split('"').next().unwrap().to_owned());
    }
}

#[test]
fn somebody_dies_at_every_point() {
    let mut points = BTreeSet::new();
    let engine = Path::new(env!("CARGO_MANIFEST_DIR"));
    for sources in ["src", "../procession-shm/src"] {
        named(&engine.join(sources), &mut points);
    }
    points.retain(|p| p.starts_with("board.") || p.starts_with("launch."));
    assert!(points.len() > 50, "the sources were not found");
    let died: BTreeSet<String> = (steps::ALL.iter().copied().flatten())
        .map(|(point, _)| (*point).to_owned())
        .collect();
    let missing: Vec<_> = points.difference(&died).collect();
    assert!(missing.is_empty(), "nobody dies at {missing:?}");
}

/// Steps inside of the board's section.
const STOPS: &[&str] = &[
    "board.join.filled:1",
    "board.claim.filled:1",
    "board.claim.filled:4",
    "board.slab.linked:1",
    "board.leave.filled:1",
];

/// Slow now and then, so that both workers get some.
fn pace(item: u64) -> u8 {
    if item.is_multiple_of(4) { SLOW } else { ECHO }
}

/// A pool of two whose first worker is stopped with the board in its hand.
fn stopped_at(point: &str) -> (Front, procession_engine::pool::JobId) {
    let mut front = Front::new(&Config::new("stopped", 2), "worker");
    front.crash_at = Some(format!("stop:{point}"));
    front.serve();
    let job = front
        .pool
        .open_job(Message::new(&[5; 3000]), JobSpec::default())
        .unwrap();
    for item in 0..ITEMS {
        front.feed(job, &arguments(pace(item), item));
    }
    front.pool.seal(job).unwrap();
    if point.starts_with("board.leave") {
        front.wait(job, Until::AllDone).unwrap();
        front.pool.close().unwrap();
    }
    let until = Deadline::after(Some(Duration::from_secs(60)));
    while !front.children.values().any(|c| is_stopped(c.pid())) {
        assert!(!until.passed(), "nobody passed {point}");
        let soon = Deadline::after(Some(Duration::from_millis(20)));
        let _ = front.pool.wait_attention(soon, &mut || true);
        front.serve();
    }
    (front, job)
}

fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap().starts_with('T')
}

#[test]
fn a_worker_that_is_stopped_with_the_board_in_hand_is_waited_for() {
    for point in STOPS {
        eprintln!("{point}");
        let (mut front, job) = stopped_at(point);
        // The parent keeps its deadlines meanwhile.
        for _ in 0..5 {
            let soon = Deadline::after(Some(Duration::from_millis(50)));
            let _ = front.pool.wait(job, Until::AllDone, soon, &mut || true);
            front.serve();
        }
        for child in front.children.values() {
            child.signal(18).unwrap();
        }
        for _ in 0..ITEMS {
            let collected = front.collect(job, Order::InOrder);
            assert_echo(&collected, pace(collected.item));
        }
        front.close_job(job);
        front.join();
        assert!(front.exits.iter().all(|e| *e == 0), "{:?}", front.exits);
    }
}

#[test]
fn a_pool_is_terminated_while_a_worker_is_stopped_with_the_board_in_hand() {
    for point in STOPS {
        eprintln!("{point}");
        let (mut front, _) = stopped_at(point);
        front.pool.terminate().unwrap();
        front.run_out();
        assert!(front.exits.contains(&-9), "{:?}", front.exits);
    }
}

#[test]
fn another_worker_dies_while_one_is_stopped_with_the_board_in_hand() {
    let (mut front, job) = stopped_at("board.claim.filled:4");
    let (other, stopped): (Vec<u32>, Vec<u32>) =
        front.pids.iter().partition(|pid| !is_stopped(**pid));
    let child = front.children.values().find(|c| c.pid() == other[0]);
    child.unwrap().signal(9).unwrap();
    for _ in 0..20 {
        let soon = Deadline::after(Some(Duration::from_millis(20)));
        let _ = front.pool.wait(job, Until::AllDone, soon, &mut || true);
        front.serve();
    }
    let child = front.children.values().find(|c| c.pid() == stopped[0]);
    child.unwrap().signal(18).unwrap();
    let mut failed = 0;
    for _ in 0..ITEMS {
        let collected = front.collect(job, Order::InOrder);
        match collected.outcome {
            Outcome::Failed(Failure::WorkerDied { exit, .. }) => {
                assert_eq!(exit, Some(-9));
                failed += 1;
            }
            _ => assert_echo(&collected, pace(collected.item)),
        }
    }
    assert!(failed <= 1, "{failed} failed");
    front.close_job(job);
    front.join();
    assert_eq!(front.exits.iter().filter(|e| **e == -9).count(), 1);
}

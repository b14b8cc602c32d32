//! A worker dies at each named step of its protocol in turn: nothing is lost, doubled or left behind.
#![cfg(feature = "fault")]

#[allow(dead_code)]
mod pool_support;

use std::collections::BTreeSet;

use procession_engine::pool::{Config, Failure, JobSpec, Message, Order, Outcome, Until};

use pool_support::{BLOCK, ECHO, Front, arguments, assert_echo, new_block, run_worker};

/// Where the workers begin. On its own it is over at once.
#[test]
fn worker() {
    run_worker();
}

/// Every step that a worker passes, and how many times at least in the job below.
const STEPS: &[(&str, u32)] = &[
    ("board.join.filled", 1),
    ("board.join.committed", 1),
    ("board.claim.filled", 3),
    ("board.claim.committed", 3),
    ("board.start.named", 5),
    ("board.start.started", 5),
    ("board.arguments.taking", 2),
    ("board.arguments.owned", 2),
    ("board.arguments.taken", 2),
    ("board.payload.copied", 1),
    ("board.finish.written", 5),
    ("board.finish.named", 2),
    ("board.finish.handing", 2),
    ("board.finish.handed", 2),
    ("board.finish.committed", 5),
    ("board.bits.set", 3),
    ("board.flush.counted", 3),
    ("board.slab.allocated", 1),
    ("board.slab.linked", 1),
    ("guard.set.logged", 9),
    ("guard.set.stored", 9),
    ("guard.set.stored", 17),
    ("guard.checkpoint", 4),
    ("bundle.made", 1),
    ("bundle.listed", 1),
    ("bundle.bound", 1),
    ("bundle.unbound", 1),
    ("arena.alloc.done", 2),
    ("arena.free.done", 2),
];

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
    let session = procession_engine::home::session().unwrap();
    let job = front.pool.open_job(Message::new(&[5; 3000]), spec).unwrap();
    let what = |item: u64| if item.is_multiple_of(3) { BLOCK } else { ECHO };
    for item in 0..ITEMS {
        let bytes = arguments(what(item), item);
        let block = (item % 6 == 0).then(|| new_block(session));
        let message = Message {
            block,
            ..Message::new(&bytes)
        };
        front.pool.feed(job, message).unwrap().unwrap();
    }
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
    for (point, nth) in STEPS {
        eprintln!("{point}:{nth}");
        crash_at(point, *nth, 0);
    }
}

#[test]
fn a_worker_may_die_at_any_step_and_its_item_is_run_again() {
    for (point, nth) in STEPS {
        // Items that may be run again are not taken out of the board.
        if !point.starts_with("board.arguments") && !TAKES.contains(point) {
            eprintln!("{point}:{nth}");
            crash_at(point, *nth, 3);
        }
    }
}

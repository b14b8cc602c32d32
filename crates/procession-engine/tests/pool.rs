//! The pool with real processes.

#[allow(dead_code)]
mod pool_support;

use std::collections::BTreeSet;
use std::time::Duration;

use procession_engine::pool::{
    Cancel, Config, Failure, JobSpec, Message, Order, Outcome, PoolError, Until,
};
use procession_shm::WaitError;
use procession_sys::clock::Deadline;

use pool_support::{
    BLOCK, DIE, ECHO, EXIT, FUNCTION, Front, HANG, SLOW, arguments, assert_echo, deadline,
    new_block, run_worker,
};

/// Where the workers begin. On its own it is over at once.
#[test]
fn worker() {
    run_worker();
}

fn front(workers: usize) -> Front {
    Front::new(&Config::new("test pool", workers), "worker")
}

fn as_finished() -> JobSpec {
    JobSpec {
        order: Order::AsFinished,
        ..JobSpec::default()
    }
}

#[test]
fn a_map_comes_back_in_order() {
    let mut front = front(2);
    let job = front
        .pool
        .open_job(Message::new(b"function"), JobSpec::default())
        .unwrap();
    for item in 0..3000 {
        front.feed(job, &arguments(ECHO, item));
    }
    front.pool.seal(job).unwrap();
    front.wait(job, Until::AllDone).unwrap();
    let progress = front.pool.progress(job).unwrap();
    assert_eq!((progress.fed, progress.total), (3000, Some(3000)));
    for item in 0..3000 {
        let collected = front.collect(job, Order::InOrder);
        assert_eq!(collected.item, item);
        assert_echo(&collected, ECHO);
    }
    assert!(front.pool.is_exhausted(job).unwrap());
    assert_eq!(
        front.wait(job, Until::Next),
        Err(PoolError::Wait(WaitError::Closed))
    );
    front.close_job(job);
    front.join();
    assert_eq!(front.exits, [0, 0]);
}

#[test]
fn blocks_travel_both_ways_and_the_function_comes_along() {
    let mut front = front(2);
    let session = procession_engine::home::session().unwrap();
    let function = vec![9; 5000];
    let job = front
        .pool
        .open_job(Message::new(&function), as_finished())
        .unwrap();
    for item in 0..200 {
        let bytes = arguments(BLOCK, item);
        let block = (item % 2 == 0).then(|| new_block(session));
        let message = Message {
            block,
            ..Message::new(&bytes)
        };
        front.pool.feed(job, message).unwrap().unwrap();
    }
    for _ in 0..200 {
        assert_echo(&front.collect(job, Order::AsFinished), BLOCK);
    }
    front.feed(job, &[FUNCTION]);
    let got = front.collect(job, Order::AsFinished).outcome;
    assert!(matches!(got, Outcome::Done { status: 2, payload } if payload.bytes() == function));
    front.close_job(job);
}

#[test]
fn an_item_that_kills_its_worker_fails_alone() {
    let mut front = front(2);
    let job = front
        .pool
        .open_job(Message::default(), JobSpec::default())
        .unwrap();
    for item in 0..200 {
        let what = match item {
            50 => DIE,
            120 => EXIT,
            _ => ECHO,
        };
        front.feed(job, &arguments(what, item));
    }
    for item in 0..200 {
        let collected = front.collect(job, Order::InOrder);
        match (item, &collected.outcome) {
            (50, Outcome::Failed(Failure::WorkerDied { exit, .. })) => {
                assert_eq!(*exit, Some(-9));
            }
            (120, Outcome::Failed(Failure::WorkerDied { exit, .. })) => {
                assert_eq!(*exit, Some(4));
            }
            _ => assert_echo(&collected, ECHO),
        }
    }
    front.close_job(job);
    front.join();
    assert!(front.exits.contains(&-9) && front.exits.contains(&4));
}

#[test]
fn an_item_over_its_time_is_killed_and_the_others_go_on() {
    let mut front = front(2);
    let spec = JobSpec {
        timeout: Some(Duration::from_millis(300)),
        ..JobSpec::default()
    };
    let job = front.pool.open_job(Message::default(), spec).unwrap();
    for item in 0..100 {
        let what = if item % 40 == 20 { HANG } else { ECHO };
        front.feed(job, &arguments(what, item));
    }
    for item in 0..100 {
        let collected = front.collect(job, Order::InOrder);
        if item % 40 == 20 {
            let out = matches!(
                &collected.outcome,
                Outcome::Failed(Failure::TimedOut { .. })
            );
            assert!(out, "{collected:?}");
        } else {
            assert_echo(&collected, ECHO);
        }
    }
    front.close_job(job);
}

#[test]
fn items_can_be_cancelled_waiting_and_running() {
    let mut front = front(1);
    let job = front
        .pool
        .open_job(Message::default(), as_finished())
        .unwrap();
    front.feed(job, &[HANG]);
    front.feed(job, &arguments(ECHO, 1));
    front.feed(job, &arguments(ECHO, 2));
    let until = deadline();
    while !(front.pool.workers().unwrap().iter()).any(|w| w.running == Some((job, 0))) {
        assert!(!until.passed());
        let soon = Deadline::after(Some(Duration::from_millis(5)));
        let _ = front.pool.wait_attention(soon, &mut || true);
        front.serve();
    }
    assert_eq!(front.pool.cancel(job, 1).unwrap(), Cancel::Cancelled);
    assert_eq!(front.pool.cancel(job, 0).unwrap(), Cancel::Killing);
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        let collected = front.collect(job, Order::AsFinished);
        seen.insert(collected.item);
        match collected.item {
            2 => assert_echo(&collected, ECHO),
            _ => assert!(matches!(
                collected.outcome,
                Outcome::Failed(Failure::Cancelled)
            )),
        }
    }
    assert_eq!(seen.len(), 3);
    assert_eq!(front.pool.cancel(job, 2).unwrap(), Cancel::TooLate);
    front.close_job(job);
}

#[test]
fn workers_that_cannot_start_break_the_pool() {
    let mut config = Config::new("broken pool", 2);
    config.startup_limit = Some(4);
    let mut front = Front::new(&config, "worker");
    front.start_fails = true;
    let job = front
        .pool
        .open_job(Message::default(), JobSpec::default())
        .unwrap();
    front.feed(job, &[ECHO]);
    let error = front.wait(job, Until::Next).unwrap_err();
    let PoolError::Broken(broken) = error else {
        panic!("{error}");
    };
    assert_eq!((broken.deaths, broken.exit), (4, Some(3)));
    assert!(front.pool.feed(job, Message::new(b"x")).is_err());
    front.run_out();
}

#[test]
fn workers_are_replaced_after_their_tasks() {
    let mut config = Config::new("short lives", 2);
    config.max_tasks = Some(4);
    let mut front = Front::new(&config, "worker");
    let job = front
        .pool
        .open_job(Message::default(), JobSpec::default())
        .unwrap();
    for item in 0..24 {
        front.feed(job, &arguments(ECHO, item));
    }
    for _ in 0..24 {
        assert_echo(&front.collect(job, Order::InOrder), ECHO);
    }
    assert!(front.pids.len() >= 6, "{:?}", front.pids);
    assert!(front.exits.iter().all(|e| *e == 0), "{:?}", front.exits);
    front.close_job(job);
    front.join();
}

#[test]
fn terminating_ends_what_runs() {
    let mut front = front(2);
    let job = front
        .pool
        .open_job(Message::default(), as_finished())
        .unwrap();
    for _ in 0..5 {
        front.feed(job, &[HANG]);
    }
    let until = deadline();
    while front
        .pool
        .workers()
        .unwrap()
        .iter()
        .filter(|w| w.running.is_some())
        .count()
        < 2
    {
        assert!(!until.passed());
        let soon = Deadline::after(Some(Duration::from_millis(5)));
        let _ = front.pool.wait_attention(soon, &mut || true);
        front.serve();
    }
    front.pool.terminate().unwrap();
    assert_eq!(
        front.pool.feed(job, Message::new(b"x")),
        Err(PoolError::Terminated)
    );
    front.run_out();
    let mut failed = 0;
    while let Some(collected) = front.pool.collect_any(job).unwrap() {
        assert!(matches!(
            collected.outcome,
            Outcome::Failed(Failure::Terminated)
        ));
        failed += 1;
    }
    assert_eq!(failed, 5);
}

/// Feeds and collects while workers are killed; how many items failed.
fn under_fire(retries: u32, items: u64, order: Order) -> u64 {
    let mut config = Config::new("under fire", 3);
    config.poison_limit = 100;
    config.startup_limit = Some(1000);
    let mut front = Front::new(&config, "worker");
    let spec = JobSpec {
        retries,
        order,
        ..JobSpec::default()
    };
    let job = front.pool.open_job(Message::new(b"f"), spec).unwrap();
    let what = |item: u64| match item {
        n if n % 97 == 5 => SLOW,
        n if n % 7 == 3 => BLOCK,
        _ => ECHO,
    };
    let (mut fed, mut seen, mut failed, mut kills) = (0, BTreeSet::new(), 0, 0);
    let mut random = 12345u64;
    while (seen.len() as u64) < items {
        while fed < items && fed < seen.len() as u64 + 1500 {
            front.feed(job, &arguments(what(fed), fed));
            fed += 1;
        }
        let collected = front.collect(job, order);
        assert!(seen.insert(collected.item), "{} came twice", collected.item);
        match &collected.outcome {
            Outcome::Failed(Failure::WorkerDied { .. }) => failed += 1,
            _ => assert_echo(&collected, what(collected.item)),
        }
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        if (random >> 33).is_multiple_of(300) && front.kill((random >> 40) as usize) {
            kills += 1;
        }
    }
    assert!(kills > 10, "only {kills} kills");
    assert!(failed <= kills, "{failed} items failed by {kills} kills");
    front.close_job(job);
    front.join();
    failed
}

#[test]
fn under_fire_every_item_has_one_outcome() {
    under_fire(0, 12_000, Order::AsFinished);
}

#[test]
fn under_fire_with_retries_nothing_is_lost() {
    assert_eq!(under_fire(50, 8_000, Order::InOrder), 0);
}

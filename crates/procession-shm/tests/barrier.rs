//! Barriers whose parties change their minds.
#![cfg(not(loom))]

use procession_shm::kinds;
use procession_shm::sync::{Arrival, Barrier, Broken};
use procession_sys::clock::Deadline;

fn barrier(parties: u64) -> Barrier {
    let session = kinds::create("barrier", Some(64 << 20)).unwrap();
    Barrier::create(session, "", parties).unwrap()
}

fn arrive(barrier: &Barrier) -> Arrival {
    barrier
        .arrive(Deadline::NOW, &mut || true)
        .unwrap()
        .unwrap()
}

fn outcome(barrier: &Barrier, arrival: Arrival) -> Result<(), Broken> {
    barrier.wait(arrival, Deadline::NOW, &mut || true).unwrap()
}

#[test]
fn a_reset_is_no_break() {
    let barrier = barrier(2);
    let first = arrive(&barrier);
    barrier.reset().unwrap();
    // Late: the next round has passed before the first one looks.
    let (second, third) = (arrive(&barrier), arrive(&barrier));
    assert!(third.last);
    barrier
        .open(third, Deadline::NEVER, &mut || true)
        .unwrap()
        .unwrap();
    assert_eq!(outcome(&barrier, first), Err(Broken));
    assert_eq!(outcome(&barrier, second), Ok(()));
    assert!(!barrier.is_broken());
}

#[test]
fn an_opened_round_stays_opened_whatever_comes() {
    let barrier = barrier(2);
    let (first, second) = (arrive(&barrier), arrive(&barrier));
    barrier
        .open(second, Deadline::NEVER, &mut || true)
        .unwrap()
        .unwrap();
    for _ in 0..5 {
        barrier.reset().unwrap();
    }
    assert_eq!(outcome(&barrier, first), Ok(()));
}

#[test]
fn who_gives_up_breaks_only_the_round_it_waited_in() {
    let barrier = barrier(2);
    let first = arrive(&barrier);
    barrier.reset().unwrap();
    let second = arrive(&barrier);
    barrier.give_up(first).unwrap();
    assert!(!barrier.is_broken());
    barrier.give_up(second).unwrap();
    assert!(barrier.is_broken());
    assert_eq!(outcome(&barrier, second), Err(Broken));
    assert!(
        barrier
            .arrive(Deadline::NOW, &mut || true)
            .unwrap()
            .is_err()
    );
}

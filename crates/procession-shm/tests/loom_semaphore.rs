//! Models of the semaphore: its count under its guard, its gate, and deaths at every step of taking and giving.
//!
//! Guard, undo log, count and gate are those of production; what [`Semaphore`] does with them here is what
//! `sync/semaphore.rs` does.
#![cfg(loom)]

mod loom_common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering as Real};

use loom::cell::UnsafeCell;
use loom::thread;
use loom_common::Place;
use procession_shm::Session;
use procession_shm::gate::Wake;
use procession_shm::guard::{Guard, Txn};
use procession_shm::model::{at_every_point, dying_at};
use procession_shm::primitive::{AtomicU64, Ordering};
use procession_shm::segment::Shared;
use procession_shm::sync::count::Count;

/// What stands in the session.
#[repr(C)]
struct Words {
    guard: Guard,
    count: Count,
    /// What each thread has, as in its hold record.
    units: [AtomicU64; 3],
}

// SAFETY: repr(C) of a guard and atomics.
unsafe impl Shared for Words {}

struct Semaphore {
    session: &'static Session,
    words: &'static Words,
    place: Place,
    /// Are the sleepers woken after a death, whatever came back?
    wakes_after_death: bool,
}

impl Semaphore {
    fn new(session: &'static Session, value: u64, wakes_after_death: bool) -> Arc<Self> {
        let words: &'static Words = session.make();
        words.guard.init().unwrap();
        words.count.init(value, 9);
        Arc::new(Self {
            session,
            words,
            place: Place::default(),
            wakes_after_death,
        })
    }

    fn lock(&self) -> Txn<'static> {
        let txn = self.words.guard.lock(self.session).unwrap();
        if txn.recovered() && self.wakes_after_death {
            self.place.notify(Wake::All);
        }
        txn
    }

    fn try_acquire(&self, me: usize) -> bool {
        let count = &self.words.count;
        count.value() > 0 && count.take(&mut self.lock(), &self.words.units[me])
    }

    fn acquire(&self, me: usize) {
        self.place.until(|| self.try_acquire(me).then_some(()));
    }

    /// Gives back what `whose` has.
    fn release(&self, whose: Option<usize>) {
        let mut txn = self.lock();
        let units = whose.map(|n| &self.words.units[n]);
        self.words.count.give(&mut txn, units);
        self.place.notify(Wake::One);
        drop(txn);
    }

    /// What `recover.rs` does after a death: the guard is settled, the units come back, everybody is woken.
    fn bury(&self, dead: usize) {
        drop(self.lock());
        let back = self
            .words
            .count
            .give_back(self.lock(), &self.words.units[dead]);
        if back || self.wakes_after_death {
            self.place.notify(Wake::All);
        }
    }

    fn units(&self) -> [u64; 3] {
        [0, 1, 2].map(|n| self.words.units[n].load(Ordering::SeqCst))
    }
}

/// Two threads of which one at a time is inside.
fn exclusion(wake: bool) {
    let session = Session::create();
    loom::model(move || {
        let semaphore = Semaphore::new(session, 1, true);
        #[allow(clippy::arc_with_non_send_sync)] // that is what the checker looks after
        let inside = Arc::new(UnsafeCell::new(0));
        let work = move |semaphore: &Semaphore, inside: &UnsafeCell<u32>, me| {
            semaphore.acquire(me);
            // SAFETY: the model checker fails if two are in here at once.
            inside.with_mut(|n| unsafe { *n += 1 });
            if wake {
                semaphore.release(Some(me));
            } else {
                let mut txn = semaphore.lock();
                semaphore
                    .words
                    .count
                    .give(&mut txn, Some(&semaphore.words.units[me]));
                drop(txn);
            }
        };
        let other = thread::spawn({
            let (semaphore, inside) = (semaphore.clone(), inside.clone());
            move || work(&semaphore, &inside, 1)
        });
        work(&semaphore, &inside, 0);
        other.join().unwrap();
        // SAFETY: the other thread has been joined.
        inside.with(|n| assert_eq!(unsafe { *n }, 2));
        assert_eq!(
            (semaphore.words.count.value(), semaphore.units()),
            (1, [0; 3])
        );
    });
}

#[test]
fn one_at_a_time_is_inside() {
    exclusion(true);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_release_that_wakes_nobody_is_noticed() {
    exclusion(false);
}

/// Units that one process hands to two others, which wait for them: neither sleeps on, and the books are right.
#[test]
fn each_unit_finds_its_waiter() {
    let session = Session::create();
    loom::model(move || {
        let semaphore = Semaphore::new(session, 0, true);
        let waiters = [1, 2].map(|me| {
            let semaphore = semaphore.clone();
            thread::spawn(move || semaphore.acquire(me))
        });
        for _ in 0..2 {
            semaphore.release(None);
        }
        for waiter in waiters {
            waiter.join().unwrap();
        }
        assert_eq!(
            (semaphore.words.count.value(), semaphore.units()),
            (0, [0, 1, 1])
        );
    });
}

/// Thread 1 dies anywhere while it takes the only unit and gives it back, and thread 0 waits for it. It is buried by a
/// process that sees what it had written; here that is its own thread.
fn deaths(wakes: bool) {
    let session = Session::create();
    at_every_point(|n| {
        let has_died = Arc::new(AtomicBool::new(false));
        let died = has_died.clone();
        loom::model(move || {
            let semaphore = Semaphore::new(session, 1, wakes);
            let mortal = thread::spawn({
                let (semaphore, died) = (semaphore.clone(), died.clone());
                move || {
                    let done = dying_at(n, || {
                        semaphore.acquire(1);
                        semaphore.release(Some(1));
                    });
                    if done.is_none() {
                        died.store(true, Real::Relaxed);
                        semaphore.bury(1);
                    }
                }
            });
            semaphore.acquire(0);
            let value = semaphore.words.count.value();
            assert_eq!((value, semaphore.units()[0]), (0, 1));
            semaphore.release(Some(0));
            mortal.join().unwrap();
            let value = semaphore.words.count.value();
            assert_eq!((value, semaphore.units()), (1, [0; 3]));
        });
        has_died.load(Real::Relaxed)
    });
}

#[test]
fn the_unit_of_the_dead_comes_back_once() {
    deaths(true);
}

/// It had given the unit back, and died before it woke anybody.
#[test]
#[should_panic(expected = "deadlock")]
fn a_wake_up_that_died_with_its_waker_is_noticed() {
    deaths(false);
}

//! Models: every interleaving of a few threads, with every order of memory accesses that the hardware may choose.
//!
//! Run by `make test-loom`. They use the core's own gate and words; the kernel's futex is modelled. Whether a model could
//! fail at all is shown by the ones that leave something out and must.
#![cfg(loom)]

mod loom_common;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering, fence};
use loom::thread;
use loom_common::{Futex, Place};
use procession_shm::gate::{Lookout, Wake};
use procession_shm::sync::word::{LockWord, TicketWord};

/// Takes one of `items` if there is one.
fn take(items: &AtomicU32) -> Option<()> {
    items
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1))
        .ok()
        .map(|_| ())
}

#[test]
fn a_sleeper_sees_what_it_waits_for() {
    loom::model(|| {
        let place = Arc::new(Place::default());
        let is_set = Arc::new(AtomicU32::new(0));
        let waker = thread::spawn({
            let (place, is_set) = (place.clone(), is_set.clone());
            move || {
                is_set.store(1, Ordering::Relaxed);
                place.notify(Wake::All);
            }
        });
        place.until(|| (is_set.load(Ordering::Relaxed) == 1).then_some(()));
        waker.join().unwrap();
    });
}

#[test]
fn two_sleepers_are_both_woken_by_all() {
    loom::model(|| {
        let place = Arc::new(Place::default());
        let is_set = Arc::new(AtomicU32::new(0));
        let sleeper = thread::spawn({
            let (place, is_set) = (place.clone(), is_set.clone());
            move || place.until(|| (is_set.load(Ordering::Relaxed) == 1).then_some(()))
        });
        let waker = thread::spawn({
            let (place, is_set) = (place.clone(), is_set.clone());
            move || {
                is_set.store(1, Ordering::Relaxed);
                place.notify(Wake::All);
            }
        });
        place.until(|| (is_set.load(Ordering::Relaxed) == 1).then_some(()));
        sleeper.join().unwrap();
        waker.join().unwrap();
    });
}

/// The semaphore, and the queue's two gates: two items, each announced to one sleeper, under the guard.
#[test]
fn each_item_finds_a_sleeper() {
    let mut model = loom::model::Builder::new();
    // Three preemptions take a minute here, and have found nothing more.
    model.preemption_bound = Some(model.preemption_bound.unwrap_or(2).min(2));
    model.check(|| {
        let place = Arc::new(Place::default());
        let items = Arc::new(AtomicU32::new(0));
        let sleeper = thread::spawn({
            let (place, items) = (place.clone(), items.clone());
            move || place.until(|| take(&items))
        });
        let waker = thread::spawn({
            let (place, items) = (place.clone(), items.clone());
            move || {
                for _ in 0..2 {
                    items.fetch_add(1, Ordering::Release);
                    place.notify(Wake::One);
                }
            }
        });
        place.until(|| take(&items));
        sleeper.join().unwrap();
        waker.join().unwrap();
    });
}

/// A worker that spins before it sleeps, and an owner that wakes nobody while it does. (If the lookout ends only after the last
/// look, this is a deadlock.)
#[test]
fn what_a_lookout_was_to_see_is_seen() {
    loom::model(|| {
        let place = Arc::new(Place::default());
        let lookout = Arc::new(Lookout::new());
        let items = Arc::new(AtomicU32::new(0));
        let owner = thread::spawn({
            let (place, lookout, items) = (place.clone(), lookout.clone(), items.clone());
            move || {
                items.fetch_add(1, Ordering::Release);
                if !lookout.is_kept(|| 0) {
                    place.notify(Wake::One);
                }
            }
        });
        lookout.begin(0, 1);
        let took = take(&items);
        lookout.end(1);
        if took.is_none() {
            place.until(|| take(&items));
        }
        owner.join().unwrap();
    });
}

/// The words of a board's crew of one: how many are busy, and who keeps the watch.
struct Crew {
    place: Place,
    items: AtomicU32,
    busy: AtomicU32,
    watch: Lookout,
}

impl Crew {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            place: Place::default(),
            items: AtomicU32::new(0),
            busy: AtomicU32::new(1),
            watch: Lookout::new(),
        })
    }

    /// Somebody who publishes an item.
    fn owner(crew: &Arc<Self>) -> thread::JoinHandle<()> {
        let crew = crew.clone();
        thread::spawn(move || crew.publish())
    }

    /// As `OwnedJob::publish` and `BoardBody::needs_one_more`: nobody is woken while the crew is full and watched.
    fn publish(&self) {
        self.items.fetch_add(1, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.busy.load(Ordering::Relaxed) == 0 || !self.watch.is_kept(|| 0) {
            self.place.notify(Wake::One);
        }
    }
}

/// The busy worker has found nothing more, leaves the crew, and sleeps; the one that keeps the watch is slow to look.
#[test]
fn what_a_full_crew_is_not_woken_for_is_seen_by_who_leaves_it() {
    loom::model(|| {
        let crew = Crew::new();
        assert!(crew.watch.begin(0, 1));
        let owner = Crew::owner(&crew);
        let took = take(&crew.items);
        crew.busy.store(0, Ordering::Relaxed);
        if took.is_none() {
            crew.place.until(|| take(&crew.items));
        }
        owner.join().unwrap();
    });
}

/// The crew stays full. The one that keeps the watch has found nothing to be watched, ends it and sleeps.
#[test]
fn what_a_watched_crew_is_not_woken_for_is_seen_by_who_kept_the_watch() {
    loom::model(|| {
        let crew = Crew::new();
        assert!(crew.watch.begin(0, 1));
        let owner = Crew::owner(&crew);
        crew.watch.end(1);
        crew.place.until(|| take(&crew.items));
        owner.join().unwrap();
    });
}

/// It leaves the crew only after its last look, which is too late.
#[test]
#[should_panic(expected = "deadlock")]
fn who_leaves_a_crew_too_late_misses_what_it_was_not_woken_for() {
    loom::model(|| {
        let crew = Crew::new();
        assert!(crew.watch.begin(0, 1));
        let owner = Crew::owner(&crew);
        crew.place.until(|| {
            let took = take(&crew.items);
            crew.busy.store(0, Ordering::Relaxed);
            took
        });
        owner.join().unwrap();
    });
}

/// The board and the condition's lock: two items announced by two wakers at once, whom no guard puts in order.
#[test]
fn two_wakers_at_once_wake_two_sleepers() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(model.preemption_bound.unwrap_or(2).min(2));
    model.check(|| {
        let place = Arc::new(Place::default());
        let items = Arc::new(AtomicU32::new(0));
        let sleeper = thread::spawn({
            let (place, items) = (place.clone(), items.clone());
            move || place.until(|| take(&items))
        });
        let put = |place: &Place, items: &AtomicU32| {
            items.fetch_add(1, Ordering::Release);
            place.notify(Wake::One);
        };
        let wakers = [(); 2].map(|()| {
            let (place, items) = (place.clone(), items.clone());
            thread::spawn(move || put(&place, &items))
        });
        place.until(|| take(&items));
        sleeper.join().unwrap();
        for waker in wakers {
            waker.join().unwrap();
        }
    });
}

/// What [`Gate`] would be without its fences.
struct Careless {
    seq: AtomicU32,
    sleepers: AtomicU32,
    futex: Futex,
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_fences_a_wake_up_is_lost() {
    loom::model(|| {
        let place = Arc::new(Careless {
            seq: AtomicU32::new(0),
            sleepers: AtomicU32::new(0),
            futex: Futex::default(),
        });
        let is_set = Arc::new(AtomicU32::new(0));
        let waker = thread::spawn({
            let (place, is_set) = (place.clone(), is_set.clone());
            move || {
                is_set.store(1, Ordering::Relaxed);
                if place.sleepers.load(Ordering::Relaxed) != 0 {
                    place.seq.fetch_add(1, Ordering::SeqCst);
                    place.futex.wake(u32::MAX);
                }
            }
        });
        loop {
            let seq = place.seq.load(Ordering::SeqCst);
            place.sleepers.store(1, Ordering::SeqCst);
            if is_set.load(Ordering::Relaxed) == 1 {
                break;
            }
            place.futex.wait(&place.seq, seq);
        }
        waker.join().unwrap();
    });
}

/// Two threads behind one lock word; a third one's death is noticed meanwhile.
#[test]
fn a_lock_lets_one_in_and_survives_its_owner() {
    const DEAD: u32 = 9;
    struct Locked {
        word: LockWord,
        place: Place,
        inside: UnsafeCell<u32>,
    }
    fn work(locked: &Locked, me: u32) {
        locked
            .place
            .until(|| locked.word.try_take(me).then_some(()));
        // SAFETY: the lock is held; the model checker fails if two are in here at once.
        locked.inside.with_mut(|n| unsafe { *n += 1 });
        assert!(locked.word.free());
        locked.place.notify_ordered(Wake::One);
    }
    loom::model(|| {
        let locked = Arc::new(Locked {
            word: LockWord::new(),
            place: Place::default(),
            inside: UnsafeCell::new(0),
        });
        assert!(locked.word.try_take(DEAD));
        let other = thread::spawn({
            let locked = locked.clone();
            move || work(&locked, 2)
        });
        let recoverer = thread::spawn({
            let locked = locked.clone();
            move || {
                assert!(locked.word.free_of(DEAD));
                locked.place.notify(Wake::All);
            }
        });
        work(&locked, 1);
        other.join().unwrap();
        recoverer.join().unwrap();
        // SAFETY: the other threads have been joined.
        locked.inside.with(|n| assert_eq!(unsafe { *n }, 2));
    });
}

/// A notification is for the waiter, or is passed on when the waiter has died, and is never gone or doubled.
#[test]
fn a_notification_reaches_somebody() {
    const DEAD: u32 = 7;
    const ALIVE: u32 = 8;
    loom::model(|| {
        let tickets = Arc::new([TicketWord::new(), TicketWord::new()]);
        tickets[0].enlist(DEAD);
        tickets[1].enlist(ALIVE);
        let notifier = thread::spawn({
            let tickets = tickets.clone();
            // It does not know of the death yet.
            move || tickets[0].grant(DEAD) || tickets[1].grant(ALIVE)
        });
        if tickets[0].is_inherited_from(DEAD) {
            tickets[1].grant(ALIVE);
            tickets[0].leave(DEAD);
        }
        assert!(notifier.join().unwrap(), "nobody was notified");
        assert!(tickets[0].is_empty());
        assert!(tickets[1].is_granted(ALIVE));
        assert!(tickets[1].leave(ALIVE) && !tickets[1].leave(ALIVE));
    });
}

/// The waiter gives up (its time is over) while it is notified: it is told, so that it can pass the notification on.
#[test]
fn whoever_gives_up_learns_of_the_notification() {
    loom::model(|| {
        let ticket = Arc::new(TicketWord::new());
        ticket.enlist(5);
        let notifier = thread::spawn({
            let ticket = ticket.clone();
            move || ticket.grant(5)
        });
        let had_come = ticket.leave(5);
        assert_eq!(notifier.join().unwrap(), had_come);
    });
}

/// The ring's commit protocol as its README has it: `tail` publishes a record, the read mark gives its place back. The
/// orders of the accesses are those of `ring/push.rs` and `ring/pop.rs`.
struct OneRecord {
    tail: AtomicU32,
    head: AtomicU32,
    mark: AtomicU32,
    record: UnsafeCell<u32>,
    filled: Place,
    drained: Place,
}

fn ring_of_one(mark: Ordering, tail: Ordering) {
    let ring = Arc::new(OneRecord {
        tail: AtomicU32::new(0),
        head: AtomicU32::new(0),
        mark: AtomicU32::new(0),
        record: UnsafeCell::new(0),
        filled: Place::default(),
        drained: Place::default(),
    });
    let writer = thread::spawn({
        let ring = ring.clone();
        move || {
            for n in 0..2 {
                let is_free = || ring.mark.load(Ordering::Acquire) == n;
                ring.drained.until(|| is_free().then_some(()));
                // SAFETY: what the protocol is to ensure, and the model checker checks.
                ring.record.with_mut(|r| unsafe { *r = 10 + n });
                ring.tail.store(n + 1, tail);
                ring.filled.notify(Wake::One);
            }
        }
    });
    for n in 0..2 {
        ring.filled
            .until(|| (ring.tail.load(Ordering::Acquire) > n).then_some(()));
        // SAFETY: as above.
        assert_eq!(ring.record.with(|r| unsafe { *r }), 10 + n);
        ring.head.store(n + 1, Ordering::Release);
        ring.mark.store(n + 1, mark);
        ring.drained.notify(Wake::One);
    }
    assert_eq!(
        ring.head.load(Ordering::Acquire),
        ring.tail.load(Ordering::Acquire)
    );
    writer.join().unwrap();
}

#[test]
fn a_record_is_read_whole_and_written_over_only_when_read() {
    loom::model(|| ring_of_one(Ordering::Release, Ordering::Release));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_tail_that_does_not_release_is_noticed() {
    loom::model(|| ring_of_one(Ordering::Release, Ordering::Relaxed));
}

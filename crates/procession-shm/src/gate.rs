//! Where somebody sleeps until something has happened: an event count of two words.
//!
//! | step | who | does |
//! |---|---|---|
//! | 1 | sleeper | reads `seq`, sets `sleepers`, full fence, looks at its condition a last time |
//! | 2 | sleeper | sleeps while `seq` is what it read |
//! | A | waker | makes the condition true, full fence (or both `SeqCst`), reads `sleepers` |
//! | B | waker of one | if set: adds one to `seq`, wakes one; leaves `sleepers` as it is, unless nobody was there to be woken: then C |
//! | C | waker of all | if set: clears it, adds one to `seq`, wakes all |
//!
//! Either the sleeper's last look comes after A and sees the condition, or the waker's read comes after 1 and sees the
//! sleeper. While one waker wakes one, `sleepers` stays set, so that another waker at the same time sees it too. A sleeper
//! that had set it before C clears it has read a `seq` that C makes old, and so looks again instead of sleeping.
//!
//! `sleepers` is a flag and no count: a sleeper that was killed leaves at worst one wake-up for nobody, which clears it. A
//! waker that is killed between A and B is why every sleep is cut into slices (see `wait`).

use crate::primitive::{AtomicU32, AtomicU64, Ordering, fence};

/// The two words. All zero is a valid start.
#[repr(C)]
#[derive(Debug)]
pub struct Gate {
    seq: AtomicU32,
    sleepers: AtomicU32,
}

/// How many to wake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// One sleeper can go on.
    One,
    /// All may look again.
    All,
}

impl Gate {
    /// A gate outside of shared memory, for models and tests.
    pub fn new() -> Self {
        Self {
            seq: AtomicU32::new(0),
            sleepers: AtomicU32::new(0),
        }
    }

    /// Call after the condition has become true (step A): wakes if anybody sleeps. No system call otherwise.
    #[inline]
    pub fn notify(&self, wake: Wake, futex_wake: impl Fn(&AtomicU32, u32) -> usize) {
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::Relaxed) != 0 {
            self.notify_sleepers(wake, futex_wake);
        }
    }

    /// As [`Gate::notify`], where a `SeqCst` operation has made the condition true. Then the fence is not needed: that operation,
    /// this load, the sleeper's store and its fence are all in the one order that there is of such operations. If this load does
    /// not see the store it comes before it, so what came before this load comes before the sleeper's fence and last look.
    #[inline]
    pub fn notify_ordered(&self, wake: Wake, futex_wake: impl Fn(&AtomicU32, u32) -> usize) {
        // The model checker has that order for fences only.
        if cfg!(loom) {
            fence(Ordering::SeqCst);
        }
        if self.sleepers.load(Ordering::SeqCst) != 0 {
            self.notify_sleepers(wake, futex_wake);
        }
    }

    #[cold]
    fn notify_sleepers(&self, wake: Wake, futex_wake: impl Fn(&AtomicU32, u32) -> usize) {
        if wake == Wake::One {
            self.seq.fetch_add(1, Ordering::SeqCst);
            if futex_wake(&self.seq, 1) > 0 {
                return;
            }
        }
        self.sleepers.swap(0, Ordering::SeqCst);
        self.seq.fetch_add(1, Ordering::SeqCst);
        futex_wake(&self.seq, u32::MAX);
    }

    /// Step 1: call, then look at the condition once more, and only then sleep on [`Gate::word`] at the returned value.
    #[inline]
    pub fn prepare(&self) -> u32 {
        let seq = self.seq.load(Ordering::SeqCst);
        self.sleepers.store(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        seq
    }

    /// The word to sleep on.
    pub fn word(&self) -> &AtomicU32 {
        &self.seq
    }

    /// Does anybody (perhaps) sleep here?
    pub fn has_sleepers(&self) -> bool {
        // `SeqCst`, so that it can stand in step A after a `SeqCst` operation.
        self.sleepers.load(Ordering::SeqCst) != 0
    }
}

/// Where a thread that spins before it sleeps says so: as long as it does, nobody need be woken. Zero is a valid start.
///
/// It says that it stops before its last look, so either that look sees what has become true, or the waker sees that nobody
/// looks out. One that is killed, or held up, while it looks keeps others asleep for as long as it has said; what it was to see
/// waits for the end of their slice, or for whoever buries it.
#[repr(C)]
#[derive(Debug)]
pub struct Lookout {
    until: AtomicU64,
}

impl Lookout {
    /// One outside of shared memory, for models and tests.
    pub fn new() -> Self {
        Self {
            until: AtomicU64::new(0),
        }
    }

    /// The caller looks out until `until` (nanoseconds), unless somebody else does so `now`.
    #[inline]
    pub fn begin(&self, now: u64, until: u64) -> bool {
        let before = self.until.load(Ordering::Relaxed);
        before <= now && self.change(before, until)
    }

    /// It goes on until `until`; false if it was late, and somebody else does by now.
    #[inline]
    pub fn prolong(&self, before: u64, until: u64) -> bool {
        self.change(before, until)
    }

    /// No more; a last look and [`Gate::prepare`] come after it.
    #[inline]
    pub fn end(&self, until: u64) {
        self.change(until, 0);
    }

    fn change(&self, before: u64, after: u64) -> bool {
        (self.until)
            .compare_exchange(before, after, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// Is it looked out for what the caller has just made true?
    #[inline]
    pub fn is_kept(&self, now: impl FnOnce() -> u64) -> bool {
        fence(Ordering::SeqCst);
        let until = self.until.load(Ordering::SeqCst);
        until != 0 && now() < until
    }
}

impl Default for Lookout {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(not(loom))]
mod shared {
    // SAFETY: repr(C), two atomics.
    unsafe impl crate::segment::Shared for super::Gate {}
    // SAFETY: repr(C), one atomic.
    unsafe impl crate::segment::Shared for super::Lookout {}
}

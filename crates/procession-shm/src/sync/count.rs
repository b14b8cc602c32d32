//! How much of a semaphore can be taken, and who has how much of it: the changes, each one section under the semaphore's guard.
//! Apart from everything else, so that the model checker can try every interleaving of them (`tests/loom_semaphore.rs`).

use crate::crash_point;
use crate::guard::Txn;
use crate::primitive::{AtomicU64, Ordering};
use crate::segment::Shared;

/// The words that change together, with the units of one process, which stand in its hold record.
#[repr(C)]
#[derive(Debug)]
pub struct Count {
    value: AtomicU64,
    /// The value at the start.
    start: AtomicU64,
    /// The value that a release may not exceed.
    max: AtomicU64,
    recoveries: AtomicU64,
}

// SAFETY: repr(C) of atomics.
unsafe impl Shared for Count {}

impl Count {
    /// Sets it up; nobody else knows it yet.
    pub fn init(&self, value: u64, max: u64) {
        self.value.store(value, Ordering::Relaxed);
        self.start.store(value, Ordering::Relaxed);
        self.max.store(max, Ordering::Relaxed);
    }

    /// What can be taken now.
    #[inline]
    pub fn value(&self) -> u64 {
        self.value.load(Ordering::Acquire)
    }

    /// The value at the start.
    pub fn start(&self) -> u64 {
        self.start.load(Ordering::Relaxed)
    }

    /// How often units came back from a process that had died.
    pub fn recoveries(&self) -> u64 {
        self.recoveries.load(Ordering::Acquire)
    }

    /// Is the maximum reached?
    pub fn is_full(&self) -> bool {
        self.value.load(Ordering::Relaxed) >= self.max.load(Ordering::Relaxed)
    }

    /// Takes one for the process with these `units`. False if there is none. Committed, with the section still open.
    #[inline]
    pub fn take(&'static self, txn: &mut Txn<'_>, units: &'static AtomicU64) -> bool {
        let value = self.value.load(Ordering::Relaxed);
        if value == 0 {
            return false;
        }
        txn.set(&self.value, value - 1);
        txn.set(units, units.load(Ordering::Relaxed).wrapping_add(1));
        crash_point!("semaphore.acquire.set");
        txn.checkpoint();
        true
    }

    /// Gives one back, of those of the process with these `units` if any has one. Committed, with the section still open, in
    /// which who waits is to be woken.
    #[inline]
    pub fn give(&'static self, txn: &mut Txn<'_>, units: Option<&'static AtomicU64>) {
        if let Some(units) = units {
            txn.set(units, units.load(Ordering::Relaxed) - 1);
        }
        txn.set(&self.value, self.value.load(Ordering::Relaxed) + 1);
        crash_point!("semaphore.release.set");
        txn.checkpoint();
        crash_point!("semaphore.release.committed");
    }

    /// The process with these `units` has died: they come back, as far as the semaphore had them at its start. What was
    /// acquired to signal something, and is not meant to be released by the acquirer, is not given back. True if some were.
    pub fn give_back(&'static self, mut txn: Txn<'_>, units: &'static AtomicU64) -> bool {
        let value = self.value.load(Ordering::Relaxed);
        let missing = self.start().saturating_sub(value);
        let back = units.load(Ordering::Relaxed).min(missing);
        if back > 0 {
            txn.set(&self.value, value + back);
            txn.set(
                &self.recoveries,
                self.recoveries.load(Ordering::Relaxed).wrapping_add(1),
            );
        }
        txn.set(units, 0);
        crash_point!("semaphore.recover.set");
        txn.commit();
        back > 0
    }
}

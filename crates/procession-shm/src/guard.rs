//! A critical section over shared words that SIGKILL cannot leave half done.
//!
//! A [`Guard`] is a robust mutex with an undo log beside it. Inside the section every word is changed through
//! [`Txn::set`], which first writes the old value to the log. [`Txn::commit`] empties the log: that one store makes the whole
//! section happen. If the owner dies before, the next locker plays the log back, and it has never happened.
//!
//! Where readers act on a word without taking the guard, that word itself is the commit ([`Txn::commit_on`]): the
//! recoverer then looks whether it got its new value, and keeps or undoes the rest accordingly.
//!
//! | log | commit word | the section |
//! |---|---|---|
//! | empty | any | did not begin, or is complete |
//! | filled | none named | did not happen: undo |
//! | filled | named, has not the new value | did not happen: undo |
//! | filled | named, has the new value | has happened: empty the log |

use std::time::Duration;

use crate::crash_point;
use crate::error::Corrupt;
#[cfg(not(loom))]
use crate::error::WaitError;
use crate::primitive::{Acquired, AtomicU64, Ordering, RobustMutex};
use crate::segment::{Segment, Shared};
use crate::session::Session;
#[cfg(not(loom))]
use crate::wait::Wait;

/// Words that one section may change.
const LOG: usize = 14;

/// The mutex and its log as they stand in shared memory.
#[repr(C)]
pub struct Guard {
    mutex: RobustMutex,
    len: AtomicU64,
    commit_at: AtomicU64,
    commit_value: AtomicU64,
    log: [[AtomicU64; 2]; LOG],
}

// SAFETY: repr(C) of a robust mutex and atomics; the C library checks the mutex's contents.
unsafe impl Shared for Guard {}

/// A section in progress. Dropped without a commit, it has not happened.
#[must_use]
pub struct Txn<'s> {
    guard: &'static Guard,
    segment: &'s Segment,
    len: usize,
    recovered: bool,
}

impl Guard {
    /// Makes the guard; nobody else knows it yet.
    pub fn init(&self) -> Result<(), procession_sys::Errno> {
        self.len.store(0, Ordering::Relaxed);
        self.commit_at.store(0, Ordering::Relaxed);
        self.mutex.init()
    }

    /// Enters the section if that is possible at once.
    #[inline]
    pub fn try_lock(
        &'static self,
        session: &'static Session,
    ) -> Result<Option<Txn<'static>>, Corrupt> {
        match self.mutex.try_lock() {
            Acquired::Clean => Ok(Some(self.enter(session))),
            Acquired::Busy => Ok(None),
            other => self.exceptional(session, other).map(Some),
        }
    }

    /// Enters the section if it is left soon.
    #[inline]
    fn spin(&'static self, session: &'static Session) -> Result<Option<Txn<'static>>, Corrupt> {
        if cfg!(loom) {
            // A model gains nothing by it, and takes many times as long.
            return Ok(None);
        }
        for _ in 0..SPINS {
            if let Some(txn) = self.try_lock(session)? {
                return Ok(Some(txn));
            }
            std::hint::spin_loop();
        }
        Ok(None)
    }

    /// Enters the section, however long it takes; sections are short. Used where the caller has no deadline.
    #[inline]
    pub fn lock(&'static self, session: &'static Session) -> Result<Txn<'static>, Corrupt> {
        if let Some(txn) = self.spin(session)? {
            return Ok(txn);
        }
        let mut vain = 0;
        loop {
            match self.mutex.lock_for(Duration::from_secs(1)) {
                Acquired::Clean => return Ok(self.enter(session)),
                Acquired::Busy => self.expect_holder(&mut vain, 2)?,
                other => return self.exceptional(session, other),
            }
        }
    }

    /// Enters the section, giving up when `wait` does: its holder may be stopped by a debugger.
    #[cfg(not(loom))]
    #[inline]
    pub fn lock_within(
        &'static self,
        session: &'static Session,
        wait: &mut Wait<'_>,
    ) -> Result<Txn<'static>, WaitError> {
        let first = self.mutex.try_lock();
        if first == Acquired::Clean {
            return Ok(self.enter(session));
        }
        // Only what cannot be told from here is handed back, so that the usual case need not pass through memory.
        let recovered = self.lock_slowly(session, wait, first)?;
        let mut txn = self.enter(session);
        txn.recovered = recovered;
        Ok(txn)
    }

    /// After a first attempt with this outcome. True if a dead owner's work was undone.
    #[cfg(not(loom))]
    #[cold]
    fn lock_slowly(
        &'static self,
        session: &'static Session,
        wait: &mut Wait<'_>,
        first: Acquired,
    ) -> Result<bool, WaitError> {
        let mut found = first;
        let mut tries = 1;
        let mut vain = 0;
        loop {
            match found {
                Acquired::Clean => return Ok(false),
                Acquired::Busy if tries < SPINS => {
                    std::hint::spin_loop();
                    tries += 1;
                    found = self.mutex.try_lock();
                    continue;
                }
                Acquired::Busy if tries > SPINS => {
                    self.expect_holder(&mut vain, 20)?;
                    wait.tick_patiently()?;
                }
                Acquired::Busy => tries += 1,
                other => return Ok(self.recover(session, other).map(|()| true)?),
            }
            found = self.mutex.lock_for(Duration::from_millis(50));
        }
    }

    /// Enters the section if that is possible soon. For what can be put off: the guard's holder may be stopped by a debugger.
    pub fn lock_soon(
        &'static self,
        session: &'static Session,
    ) -> Result<Option<Txn<'static>>, Corrupt> {
        if let Some(txn) = self.spin(session)? {
            return Ok(Some(txn));
        }
        match self.mutex.lock_for(SOON) {
            Acquired::Clean => Ok(Some(self.enter(session))),
            Acquired::Busy => Ok(None),
            other => self.exceptional(session, other).map(Some),
        }
    }

    /// Undoes the section that a dead process has left. False if there is one whose process still has the guard: it is about to
    /// die, or stopped, or whoever is to undo it is stopped. Until then what it changed may be changed back.
    pub fn settle(&'static self, session: &'static Session) -> Result<bool, Corrupt> {
        Ok(self.lock_soon(session)?.is_some() || self.len.load(Ordering::Acquire) == 0)
    }

    /// After an attempt in vain: an error once there was nobody to wait for `most` times in a row.
    #[cold]
    fn expect_holder(&self, vain: &mut u32, most: u32) -> Result<(), Corrupt> {
        *vain = if self.mutex.is_held_by_nobody() {
            *vain + 1
        } else {
            0
        };
        if *vain < most {
            Ok(())
        } else {
            Err(Corrupt("a guard is held by nobody"))
        }
    }

    #[inline]
    fn enter(&'static self, session: &'static Session) -> Txn<'static> {
        Txn {
            guard: self,
            segment: session.segment(),
            len: 0,
            recovered: false,
        }
    }

    #[cold]
    fn exceptional(
        &'static self,
        session: &'static Session,
        how: Acquired,
    ) -> Result<Txn<'static>, Corrupt> {
        self.recover(session, how)?;
        let mut txn = self.enter(session);
        txn.recovered = true;
        Ok(txn)
    }

    /// The mutex was got from a dead owner, whose section is undone; any other outcome is an error.
    #[cold]
    fn recover(&'static self, session: &'static Session, how: Acquired) -> Result<(), Corrupt> {
        if how != Acquired::OwnerDied {
            return Err(Corrupt("a guard cannot be locked any more"));
        }
        let undone = self.roll_back(session.segment());
        crash_point!("guard.recover.undone");
        // Announced after it, so that whoever then looks again at what dead processes own sees it; and before the repair, so
        // that if we die it is announced by the next one.
        session.call_for_recovery();
        crash_point!("guard.recover.noted");
        // A log that cannot be played back leaves the guard broken for good, rather than its data torn.
        if let Err(corrupt) = undone {
            self.mutex.unlock();
            return Err(corrupt);
        }
        self.mutex.mark_repaired();
        Ok(())
    }

    /// Undoes a section that was left. Playing the log back twice gives the same, so dying in here is no harm.
    fn roll_back(&self, segment: &Segment) -> Result<(), Corrupt> {
        let len = self.len.load(Ordering::Acquire) as usize;
        if len > LOG {
            return Err(Corrupt("an undo log is too long"));
        }
        let at = self.commit_at.load(Ordering::Acquire);
        let committed = at != 0
            && segment.at::<AtomicU64>(at)?.load(Ordering::Acquire)
                == self.commit_value.load(Ordering::Acquire);
        if !committed {
            for entry in self.log[..len].iter().rev() {
                let word = segment.at::<AtomicU64>(entry[0].load(Ordering::Relaxed))?;
                word.store(entry[1].load(Ordering::Relaxed), Ordering::Release);
            }
        }
        self.len.store(0, Ordering::Release);
        self.commit_at.store(0, Ordering::Release);
        Ok(())
    }
}

/// Many times what a section takes, even if its process has to wait for a processor meanwhile.
const SOON: Duration = Duration::from_millis(20);

/// Tries before sleeping in the kernel: longer than the usual section, shorter than a wake-up.
const SPINS: u32 = 100;

impl Txn<'_> {
    /// True if the last owner died inside the section and its work was undone: wake everybody who may wait for it.
    pub fn recovered(&self) -> bool {
        self.recovered
    }

    /// Changes a word of the segment; undone unless committed.
    #[inline]
    pub fn set(&mut self, word: &'static AtomicU64, value: u64) {
        let entry = &self.guard.log[self.len];
        entry[0].store(self.segment.offset_of(word), Ordering::Relaxed);
        entry[1].store(word.load(Ordering::Relaxed), Ordering::Relaxed);
        self.len += 1;
        self.guard.len.store(self.len as u64, Ordering::Release);
        crash_point!("guard.set.logged");
        word.store(value, Ordering::Release);
        crash_point!("guard.set.stored");
    }

    /// Makes all changes so far final and goes on with a fresh section under the same lock.
    #[inline]
    pub fn checkpoint(&mut self) {
        self.guard.len.store(0, Ordering::Release);
        self.len = 0;
        crash_point!("guard.checkpoint");
    }

    /// Makes all changes final and leaves.
    #[inline]
    pub fn commit(mut self) {
        self.checkpoint();
    }

    /// Makes all changes final by storing `value`, different from what it holds, to `word`; leaves the section open, empty.
    #[inline]
    pub fn commit_on(&mut self, word: &'static AtomicU64, value: u64) {
        self.commit_by(word, value, || word.store(value, Ordering::Release));
    }

    /// As [`Txn::commit_on`], for a word that others wait for: [`notify_ordered`](crate::wait::notify_ordered) may follow.
    #[inline]
    pub fn commit_ordered_on(&mut self, word: &'static AtomicU64, value: u64) {
        self.commit_by(word, value, || {
            word.swap(value, Ordering::SeqCst);
        });
    }

    #[inline]
    fn commit_by(&mut self, word: &'static AtomicU64, value: u64, store: impl FnOnce()) {
        if self.len > 0 {
            self.guard.commit_value.store(value, Ordering::Relaxed);
            self.guard
                .commit_at
                .store(self.segment.offset_of(word), Ordering::Release);
            crash_point!("guard.commit_on.named");
        }
        store();
        crash_point!("guard.commit_on.stored");
        if self.len > 0 {
            self.guard.len.store(0, Ordering::Release);
            crash_point!("guard.commit_on.emptied");
            self.guard.commit_at.store(0, Ordering::Release);
            self.len = 0;
        }
    }
}

impl Drop for Txn<'_> {
    #[inline]
    fn drop(&mut self) {
        // A model's thread dies by unwinding: its sections are left as SIGKILL leaves them.
        #[cfg(loom)]
        if std::thread::panicking() {
            return;
        }
        if self.len > 0 {
            // Left without a commit: an error on the way. The log was written by this very process.
            let _ = self.guard.roll_back(self.segment);
        }
        self.guard.mutex.unlock();
    }
}

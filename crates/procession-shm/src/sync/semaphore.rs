//! A counter that cannot go below zero, and who has how much of it.

use procession_sys::clock::Deadline;

use crate::crash_point;
use crate::error::{Corrupt, ShmError, WaitError};
use crate::gate::{Gate, Wake};
use crate::guard::{Guard, Txn};
use crate::objects::{Entry, HELD, Handle, KindOps};
use crate::primitive::{AtomicU64, Ordering};
use crate::processes::Owner;
use crate::ring::{expect_kind, nobody_died};
use crate::segment::Shared;
use crate::session::Session;
use crate::sync::count::Count;
use crate::wait::{Check, Wait, WaitKind, notify};

/// The kind.
pub const SEMAPHORE: u8 = 6;

pub(super) static OPS: KindOps = KindOps {
    number: SEMAPHORE,
    name: "semaphore",
    settle: |s, _, e| Ok(body(s, e)?.guard.settle(s)?),
    wake: |s, _, e| {
        notify(&body(s, e)?.gate, Wake::All);
        Ok(())
    },
    dropped: |_, _, _| {},
    died: |s, i, e, dead| body(s, e)?.give_back(s, i, dead),
    left: nobody_died,
    destroy: |_, _, _| Ok(()),
    describe: |s, e| {
        body(s, e).map_or(Vec::new(), |b| {
            vec![
                ("value", b.count.value()),
                ("start", b.count.start()),
                ("recoveries", b.count.recoveries()),
            ]
        })
    },
};

fn body(session: &Session, entry: &Entry) -> Result<&'static SemaphoreBody, Corrupt> {
    session.segment().at(entry.body.load(Ordering::Acquire))
}

/// The semaphore as it stands in shared memory.
#[repr(C)]
struct SemaphoreBody {
    guard: Guard,
    count: Count,
    /// The number of recoveries that an acquirer has been told of.
    told: AtomicU64,
    /// The slot of one who had units lately: where a release by another process looks first.
    hint: AtomicU64,
    gate: Gate,
}

// SAFETY: repr(C) of a guard, a count, atomics and a gate.
unsafe impl Shared for SemaphoreBody {}

impl SemaphoreBody {
    /// See [`Count::give_back`].
    fn give_back(
        &'static self,
        session: &'static Session,
        index: u32,
        dead: Owner,
    ) -> Result<(), ShmError> {
        let txn = self.guard.lock_soon(session)?.ok_or(ShmError::Busy)?;
        let units = &session.hold_record(dead.slot(), index)?.units;
        if self.count.give_back(txn, units) {
            notify(&self.gate, Wake::All);
        }
        Ok(())
    }
}

/// A semaphore, held by this process as an object.
#[derive(Clone)]
pub struct Semaphore {
    handle: Handle,
    body: &'static SemaphoreBody,
}

impl std::fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Semaphore")
            .field("value", &self.value())
            .finish_non_exhaustive()
    }
}

impl Semaphore {
    /// Makes one with `value` to take; a release beyond `max` is refused.
    pub fn create(
        session: &'static Session,
        name: &str,
        value: u64,
        max: u64,
    ) -> Result<Self, ShmError> {
        let len = size_of::<SemaphoreBody>() as u64;
        let handle = session.create_object(SEMAPHORE, len, name, None, |at| {
            let body: &'static SemaphoreBody = session.segment().at(at)?;
            body.guard
                .init()
                .map_err(ShmError::system("initialize a mutex"))?;
            body.count.init(value, max);
            Ok(())
        })?;
        Self::of(handle)
    }

    /// The semaphore that a handle means.
    pub fn of(handle: Handle) -> Result<Self, ShmError> {
        expect_kind(&handle, &OPS)?;
        Ok(Self {
            body: handle.body()?,
            handle,
        })
    }

    /// The handle.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Takes one if there is one. While another process is in the middle of a change (it may be stopped there), there is none.
    pub fn try_acquire(&self) -> Result<bool, ShmError> {
        match self.acquire(Deadline::NOW, &mut || true) {
            Ok(()) => Ok(true),
            Err(WaitError::Shm(error)) => Err(error),
            Err(_) => Ok(false),
        }
    }

    fn attempt(&self, wait: &mut Wait<'_>) -> Result<bool, WaitError> {
        if self.value() == 0 {
            return Ok(false);
        }
        let session = self.handle.session();
        let me = session.me()?;
        let body = self.body;
        let mut txn = body.guard.lock_within(session, wait)?;
        self.notice_recovery(&txn);
        let units = &session.hold_record(me.slot(), self.handle.index())?.units;
        if !body.count.take(&mut txn, units) {
            return Ok(false);
        }
        drop(txn);
        body.hint.store(u64::from(me.slot()), Ordering::Relaxed);
        crash_point!("semaphore.acquire.committed");
        Ok(true)
    }

    /// Takes one, waiting until `deadline`.
    pub fn acquire(&self, deadline: Deadline, check: Check<'_>) -> Result<(), WaitError> {
        let session = self.handle.session();
        let mut wait =
            Wait::new(session, self.handle.index(), WaitKind::Acquire, deadline).checked(check);
        wait.attempt(&self.body.gate, |wait| {
            Ok(self.attempt(wait)?.then_some(()))
        })
    }

    /// Gives one back. False if that would exceed the maximum.
    pub fn release(&self) -> Result<bool, ShmError> {
        let session = self.handle.session();
        let body = self.body;
        let mut txn = body.guard.lock(session)?;
        self.notice_recovery(&txn);
        if body.count.is_full() {
            return Ok(false);
        }
        body.count.give(&mut txn, self.whose(session)?);
        notify(&body.gate, Wake::One);
        drop(txn);
        Ok(true)
    }

    /// Whose unit a release of ours gives back: our own, else that of whoever has some.
    fn whose(&self, session: &'static Session) -> Result<Option<&'static AtomicU64>, ShmError> {
        let has = |slot: u32| -> Result<Option<&'static AtomicU64>, ShmError> {
            let hold = session.hold_record(slot, self.handle.index())?;
            // A record that nobody has may be left from another semaphore with this number.
            let has_some = hold.flags.load(Ordering::Relaxed) & HELD != 0
                && hold.units.load(Ordering::Relaxed) > 0;
            Ok(has_some.then_some(&hold.units))
        };
        let hint = self.body.hint.load(Ordering::Relaxed) as u32 % session.geometry().processes;
        for slot in [session.me()?.slot(), hint] {
            if let Some(units) = has(slot)? {
                return Ok(Some(units));
            }
        }
        for (slot, _) in session.slots() {
            if let Some(units) = has(slot)? {
                return Ok(Some(units));
            }
        }
        Ok(None)
    }

    fn notice_recovery(&self, txn: &Txn<'_>) {
        if txn.recovered() {
            notify(&self.body.gate, Wake::All);
        }
    }

    /// What can be taken now.
    pub fn value(&self) -> u64 {
        self.body.count.value()
    }

    /// After an acquisition: true, once, if units came back from a process that died.
    pub fn take_recovery(&self) -> bool {
        let recoveries = self.body.count.recoveries();
        recoveries != self.body.told.load(Ordering::Relaxed)
            && self.body.told.swap(recoveries, Ordering::AcqRel) != recoveries
    }

    /// How often units came back from a process that had died.
    pub fn recoveries(&self) -> u64 {
        self.body.count.recoveries()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::processes::Role;

    #[test]
    fn units_in_a_record_that_nobody_has_are_not_given_back() {
        let session = crate::kinds::create("semaphore-test", Some(1 << 30)).unwrap();
        let semaphore = Semaphore::create(session, "semaphore", 0, 2).unwrap();
        let gone = session.reserve("gone", Role::Process).unwrap();
        // As another semaphore with the same number has left it.
        let record = session
            .hold_record(gone.slot(), semaphore.handle().index())
            .unwrap();
        record.flags.store(0, Ordering::SeqCst);
        record.units.store(1, Ordering::SeqCst);
        assert!(semaphore.release().unwrap());
        assert_eq!(semaphore.value(), 1);
        assert_eq!(record.units.load(Ordering::SeqCst), 1);
    }
}

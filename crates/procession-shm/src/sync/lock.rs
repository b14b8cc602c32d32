//! Mutual exclusion: one word that names the owner.

use procession_sys::clock::Deadline;

use crate::crash_point;
use crate::error::{Corrupt, ShmError, WaitError};
use crate::gate::{Gate, Wake};
use crate::objects::{Entry, Handle, KindOps};
use crate::primitive::{AtomicU32, Ordering};
use crate::processes::Owner;
use crate::ring::{expect_kind, nobody_died};
use crate::segment::Shared;
use crate::session::Session;
use crate::sync::word::LockWord;
use crate::wait::{Check, Wait, WaitKind, notify, notify_ordered};

/// The kind.
pub const LOCK: u8 = 5;

pub(super) static OPS: KindOps = KindOps {
    number: LOCK,
    name: "lock",
    settle: |_, _, _| Ok(true),
    wake: |s, _, e| {
        notify(&body(s, e)?.gate, Wake::All);
        Ok(())
    },
    dropped: |_, _, _| {},
    died: |s, _, e, dead| {
        let body = body(s, e)?;
        if body.word.owner() == dead.word() {
            // Counted before it is freed: the next owner is told even if we die in between.
            body.recoveries.fetch_add(1, Ordering::SeqCst);
            crash_point!("lock.recover.counted");
            body.word.free_of(dead.word());
            crash_point!("lock.recover.freed");
            notify(&body.gate, Wake::All);
        }
        Ok(())
    },
    left: nobody_died,
    destroy: |_, _, _| Ok(()),
    describe: |s, e| {
        body(s, e).map_or(Vec::new(), |b| {
            vec![
                ("owner", u64::from(b.word.owner())),
                (
                    "recoveries",
                    u64::from(b.recoveries.load(Ordering::Relaxed)),
                ),
            ]
        })
    },
};

fn body(session: &Session, entry: &Entry) -> Result<&'static LockBody, Corrupt> {
    session.segment().at(entry.body.load(Ordering::Acquire))
}

/// The lock as it stands in shared memory.
#[repr(C)]
#[derive(Debug)]
struct LockBody {
    /// 0 free, else the owner's word.
    word: LockWord,
    /// How often an owner died and the lock was freed for the others.
    recoveries: AtomicU32,
    /// The value of `recoveries` that an acquirer has been told of.
    told: AtomicU32,
    spare: AtomicU32,
    gate: Gate,
}

// SAFETY: repr(C) of atomics and a gate.
unsafe impl Shared for LockBody {}

/// A lock, held by this process as an object (not necessarily locked by it).
#[derive(Debug, Clone)]
pub struct Lock {
    handle: Handle,
    body: &'static LockBody,
}

impl Lock {
    /// Makes one, free.
    pub fn create(session: &'static Session, name: &str) -> Result<Self, ShmError> {
        let handle =
            session.create_object(LOCK, size_of::<LockBody>() as u64, name, None, |_| Ok(()))?;
        Self::of(handle)
    }

    /// The lock that a handle means.
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

    /// Takes the lock if it is free.
    #[inline]
    pub fn try_acquire(&self) -> Result<bool, ShmError> {
        let me = self.handle.session().me()?.word();
        crash_point!("lock.acquire.before");
        let got = self.body.word.try_take(me);
        crash_point!("lock.acquire.after");
        Ok(got)
    }

    /// Takes the lock, waiting until `deadline`.
    pub fn acquire(&self, deadline: Deadline, check: Check<'_>) -> Result<(), WaitError> {
        if self.try_acquire()? {
            return Ok(());
        }
        let session = self.handle.session();
        let mut wait =
            Wait::new(session, self.handle.index(), WaitKind::Acquire, deadline).checked(check);
        wait.until(&self.body.gate, || Ok(self.try_acquire()?.then_some(())))
    }

    /// Frees the lock, whoever has it. False if nobody had.
    #[inline]
    pub fn release(&self) -> bool {
        crash_point!("lock.release.before");
        if !self.body.word.free() {
            return false;
        }
        crash_point!("lock.release.after");
        notify_ordered(&self.body.gate, Wake::One);
        true
    }

    /// Is it taken?
    pub fn is_locked(&self) -> bool {
        self.body.word.owner() != 0
    }

    /// Who has it.
    pub fn owner(&self) -> Option<Owner> {
        Owner::from_word(self.body.word.owner())
    }

    /// Does this process have it?
    pub fn is_mine(&self) -> bool {
        self.owner()
            .is_some_and(|o| Some(o) == self.handle.session().current())
    }

    /// After an acquisition: true, once, if the owner before us died with the lock.
    #[inline]
    pub fn take_recovery(&self) -> bool {
        let recoveries = self.body.recoveries.load(Ordering::Relaxed);
        recoveries != self.body.told.load(Ordering::Relaxed)
            && self.body.told.swap(recoveries, Ordering::AcqRel) != recoveries
    }

    /// How often it was taken from an owner who had died.
    pub fn recoveries(&self) -> u32 {
        self.body.recoveries.load(Ordering::Acquire)
    }
}

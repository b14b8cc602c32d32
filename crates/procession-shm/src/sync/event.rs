//! A flag to wait for.

use procession_sys::clock::Deadline;

use crate::crash_point;
use crate::error::{Corrupt, ShmError, WaitError};
use crate::gate::{Gate, Wake};
use crate::objects::{Entry, Handle, KindOps};
use crate::primitive::{AtomicU32, Ordering};
use crate::ring::{expect_kind, nobody_died};
use crate::segment::Shared;
use crate::session::Session;
use crate::wait::{Check, Wait, WaitKind, notify};

/// The kind.
pub const EVENT: u8 = 8;

pub(super) static OPS: KindOps = KindOps {
    number: EVENT,
    name: "event",
    settle: |_, _, _| Ok(true),
    wake: |s, _, e| {
        notify(&body(s, e)?.gate, Wake::All);
        Ok(())
    },
    dropped: |_, _, _| {},
    died: nobody_died,
    left: nobody_died,
    destroy: |_, _, _| Ok(()),
    describe: |s, e| {
        body(s, e).map_or(Vec::new(), |b| {
            vec![("set", u64::from(b.set.load(Ordering::Relaxed)))]
        })
    },
};

fn body(session: &Session, entry: &Entry) -> Result<&'static EventBody, Corrupt> {
    session.segment().at(entry.body.load(Ordering::Acquire))
}

#[repr(C)]
#[derive(Debug)]
struct EventBody {
    set: AtomicU32,
    /// Counts how often it was set, so that a waiter sees a flag that was set and cleared at once.
    times: AtomicU32,
    gate: Gate,
}

// SAFETY: repr(C) of atomics and a gate.
unsafe impl Shared for EventBody {}

/// An event, held by this process as an object.
#[derive(Debug, Clone)]
pub struct Event {
    handle: Handle,
    body: &'static EventBody,
}

impl Event {
    /// Makes one, not set.
    pub fn create(session: &'static Session, name: &str) -> Result<Self, ShmError> {
        Self::of(
            session.create_object(EVENT, size_of::<EventBody>() as u64, name, None, |_| Ok(()))?,
        )
    }

    /// The event that a handle means.
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

    /// Is it set?
    pub fn is_set(&self) -> bool {
        self.body.set.load(Ordering::Acquire) != 0
    }

    /// Sets it and wakes all who wait.
    pub fn set(&self) {
        self.body.set.store(1, Ordering::SeqCst);
        self.body.times.fetch_add(1, Ordering::SeqCst);
        crash_point!("event.set.stored");
        notify(&self.body.gate, Wake::All);
    }

    /// Clears it.
    pub fn clear(&self) {
        self.body.set.store(0, Ordering::SeqCst);
    }

    /// Waits until it is set.
    pub fn wait(&self, deadline: Deadline, check: Check<'_>) -> Result<(), WaitError> {
        let session = self.handle.session();
        let mut wait =
            Wait::new(session, self.handle.index(), WaitKind::Signal, deadline).checked(check);
        let before = self.body.times.load(Ordering::Acquire);
        let body = self.body;
        wait.until(&body.gate, || {
            let set = body.set.load(Ordering::Acquire) != 0
                || body.times.load(Ordering::Acquire) != before;
            Ok(set.then_some(()))
        })
    }
}

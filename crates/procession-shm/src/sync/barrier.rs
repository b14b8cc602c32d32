//! A place where a number of parties wait for each other.

use std::time::Duration;

use procession_sys::clock::Deadline;

use crate::crash_point;
use crate::error::{Corrupt, ShmError, WaitError};
use crate::gate::{Gate, Wake};
use crate::guard::{Guard, Txn};
use crate::objects::{Entry, Handle, KindOps};
use crate::primitive::{AtomicU64, Ordering};
use crate::processes::{Owner, Role};
use crate::ring::{expect_kind, nobody_died};
use crate::segment::Shared;
use crate::session::Session;
use crate::wait::{Check, Wait, WaitKind, notify};

/// The kind.
pub const BARRIER: u8 = 9;

pub(super) static OPS: KindOps = KindOps {
    number: BARRIER,
    name: "barrier",
    settle: |s, _, e| Ok(body(s, e)?.guard.settle(s)?),
    wake: |s, _, e| {
        notify(&body(s, e)?.gate, Wake::All);
        Ok(())
    },
    dropped: |_, _, _| {},
    died: |s, i, e, dead| {
        let waited_here = s.hold_record(dead.slot(), i)?.units.load(Ordering::Relaxed) != 0;
        // Workers have whatever the pool's owner has, and so has a child of a plain fork, which may only be about to become another
        // program.
        let is_party = s.slot_of(dead).is_none_or(|p| {
            let role = p.role.load(Ordering::Relaxed);
            role != Role::Worker as u32 && role != Role::Forked as u32
        });
        if waited_here || is_party {
            let body = body(s, e)?;
            body.break_in(body.guard.lock_soon(s)?.ok_or(ShmError::Busy)?);
        }
        Ok(())
    },
    left: nobody_died,
    destroy: |_, _, _| Ok(()),
    describe: |s, e| {
        body(s, e).map_or(Vec::new(), |b| {
            vec![
                ("parties", b.parties.load(Ordering::Relaxed)),
                ("waiting", b.arrived.load(Ordering::Relaxed)),
                ("broken", u64::from(b.is_broken())),
            ]
        })
    },
};

fn body(session: &Session, entry: &Entry) -> Result<&'static BarrierBody, Corrupt> {
    session.segment().at(entry.body.load(Ordering::Acquire))
}

#[repr(C)]
struct BarrierBody {
    guard: Guard,
    parties: AtomicU64,
    /// Those who have arrived in this generation.
    arrived: AtomicU64,
    /// Counts the times the barrier has opened or was reset.
    generation: AtomicU64,
    /// 1 while broken.
    broken: AtomicU64,
    /// How the last 64 generations ended: bit g % 64 is set if g was ended by a reset, so that whoever waited in it is told
    /// that the barrier broke, however late it looks.
    resets: AtomicU64,
    /// The generation in which somebody gave up who could not get the guard, as its holder was stopped. Broken then.
    forsaken: AtomicU64,
    gate: Gate,
}

// SAFETY: repr(C) of a guard, atomics and a gate.
unsafe impl Shared for BarrierBody {}

impl BarrierBody {
    fn break_it(&'static self, session: &'static Session) -> Result<(), ShmError> {
        self.break_in(self.guard.lock(session)?);
        Ok(())
    }

    fn break_in(&'static self, mut txn: Txn<'_>) {
        txn.set(&self.broken, 1);
        txn.checkpoint();
        crash_point!("barrier.broken");
        notify(&self.gate, Wake::All);
        txn.commit();
    }

    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire) != 0
            || self.forsaken.load(Ordering::Acquire) == self.generation.load(Ordering::Acquire)
    }
}

/// How long one who gives up tries to do so in good order.
const PATIENCE: Duration = Duration::from_secs(1);

/// A barrier, held by this process as an object.
#[derive(Clone)]
pub struct Barrier {
    handle: Handle,
    body: &'static BarrierBody,
}

impl std::fmt::Debug for Barrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Barrier")
            .field("parties", &self.parties())
            .finish_non_exhaustive()
    }
}

/// The barrier is broken: a party died, gave up, or it was reset while others waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

/// A party at the barrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Arrival {
    /// How many were there before, from zero.
    pub index: u64,
    /// Is this the last one, who lets the others go on with [`Barrier::open`]?
    pub last: bool,
    generation: u64,
}

impl Barrier {
    /// Makes one for `parties` waiters.
    pub fn create(session: &'static Session, name: &str, parties: u64) -> Result<Self, ShmError> {
        let handle =
            session.create_object(BARRIER, size_of::<BarrierBody>() as u64, name, None, |at| {
                let body: &'static BarrierBody = session.segment().at(at)?;
                body.guard
                    .init()
                    .map_err(ShmError::system("initialize a mutex"))?;
                body.parties.store(parties, Ordering::Relaxed);
                body.generation.store(1, Ordering::Relaxed);
                Ok(())
            })?;
        Self::of(handle)
    }

    /// The barrier that a handle means.
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

    /// How many wait for each other.
    pub fn parties(&self) -> u64 {
        self.body.parties.load(Ordering::Relaxed)
    }

    /// How many are waiting now.
    pub fn waiting(&self) -> u64 {
        let arrived = self.body.arrived.load(Ordering::Acquire);
        if self.is_broken() { 0 } else { arrived }
    }

    /// Is it broken?
    pub fn is_broken(&self) -> bool {
        self.body.is_broken()
    }

    /// Arrives. While the last party of the generation before is still busy, waits for it.
    pub fn arrive(
        &self,
        deadline: Deadline,
        check: Check<'_>,
    ) -> Result<Result<Arrival, Broken>, WaitError> {
        let (session, body) = (self.handle.session(), self.body);
        let me = session.me()?;
        let mut wait =
            Wait::new(session, self.handle.index(), WaitKind::Signal, deadline).checked(check);
        loop {
            let mut txn = body.guard.lock_within(session, &mut wait)?;
            if body.is_broken() {
                return Ok(Err(Broken));
            }
            let (arrived, parties) = (body.arrived.load(Ordering::Relaxed), self.parties());
            let generation = body.generation.load(Ordering::Relaxed);
            if arrived < parties {
                txn.set(&body.arrived, arrived + 1);
                txn.set(
                    &session.hold_record(me.slot(), self.handle.index())?.units,
                    generation,
                );
                crash_point!("barrier.arrive.set");
                txn.commit();
                return Ok(Ok(Arrival {
                    index: arrived,
                    last: arrived + 1 == parties,
                    generation,
                }));
            }
            drop(txn);
            wait.until(&body.gate, || {
                let moved =
                    body.generation.load(Ordering::Acquire) != generation || self.is_broken();
                Ok(moved.then_some(()))
            })?;
        }
    }

    /// The last party lets the others go on. `Broken` if the barrier broke meanwhile.
    pub fn open(
        &self,
        arrival: Arrival,
        deadline: Deadline,
        check: Check<'_>,
    ) -> Result<Result<(), Broken>, WaitError> {
        let (session, body) = (self.handle.session(), self.body);
        let mut wait =
            Wait::new(session, self.handle.index(), WaitKind::Signal, deadline).checked(check);
        let mut txn = body.guard.lock_within(session, &mut wait)?;
        let generation = body.generation.load(Ordering::Relaxed);
        if body.is_broken() || generation != arrival.generation {
            return Ok(Err(Broken));
        }
        let resets = body.resets.load(Ordering::Relaxed);
        txn.set(&body.resets, resets & !(1 << (generation % 64)));
        txn.set(&body.arrived, 0);
        txn.set(&body.generation, generation.wrapping_add(1));
        crash_point!("barrier.open.set");
        txn.checkpoint();
        notify(&body.gate, Wake::All);
        txn.commit();
        Ok(Ok(()))
    }

    /// Waits until the barrier opens. Whoever cannot wait any longer says so with [`Barrier::give_up`].
    pub fn wait(
        &self,
        arrival: Arrival,
        deadline: Deadline,
        check: Check<'_>,
    ) -> Result<Result<(), Broken>, WaitError> {
        let (session, body) = (self.handle.session(), self.body);
        let mut wait =
            Wait::new(session, self.handle.index(), WaitKind::Signal, deadline).checked(check);
        wait.until(&body.gate, || {
            if body.generation.load(Ordering::Acquire) != arrival.generation {
                let reset =
                    body.resets.load(Ordering::Acquire) >> (arrival.generation % 64) & 1 != 0;
                return Ok(Some(if reset { Err(Broken) } else { Ok(()) }));
            }
            Ok(self.is_broken().then_some(Err(Broken)))
        })
    }

    /// A party that has arrived goes without having waited to the end: breaks the barrier, unless it has opened or was reset
    /// meanwhile.
    pub fn give_up(&self, arrival: Arrival) -> Result<(), ShmError> {
        let (session, body) = (self.handle.session(), self.body);
        let deadline = Deadline::after(Some(PATIENCE));
        let mut wait = Wait::new(session, self.handle.index(), WaitKind::Signal, deadline);
        match body.guard.lock_within(session, &mut wait) {
            Ok(txn) if body.generation.load(Ordering::Relaxed) == arrival.generation => {
                body.break_in(txn);
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(WaitError::Shm(error)) => Err(error),
            Err(_) => {
                // Whoever has the guard is stopped in there. This word is for this generation alone, so it can be set at any
                // time; if that process is just opening the barrier, the barrier opens.
                body.forsaken
                    .fetch_max(arrival.generation, Ordering::SeqCst);
                notify(&body.gate, Wake::All);
                Ok(())
            }
        }
    }

    /// Breaks it: all who wait, or come, are told.
    pub fn abort(&self) -> Result<(), ShmError> {
        self.body.break_it(self.handle.session())
    }

    /// Makes it whole and empty; who waits at this moment is told that it broke.
    pub fn reset(&self) -> Result<(), ShmError> {
        let body = self.body;
        let mut txn = body.guard.lock(self.handle.session())?;
        let generation = body.generation.load(Ordering::Relaxed);
        let resets = body.resets.load(Ordering::Relaxed);
        txn.set(&body.resets, resets | 1 << (generation % 64));
        txn.set(&body.generation, generation.wrapping_add(1));
        txn.set(&body.arrived, 0);
        txn.set(&body.broken, 0);
        crash_point!("barrier.reset.set");
        txn.checkpoint();
        notify(&body.gate, Wake::All);
        txn.commit();
        Ok(())
    }

    /// For tools and tests: who waited here last is told by the hold record.
    pub fn last_waited(&self, owner: Owner) -> Result<u64, ShmError> {
        let session = self.handle.session();
        Ok(session
            .hold_record(owner.slot(), self.handle.index())?
            .units
            .load(Ordering::Relaxed))
    }
}

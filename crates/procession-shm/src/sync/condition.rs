//! Waiting to be notified, in the order of arrival.
//!
//! Every waiter draws a ticket; a notification grants the oldest tickets whose waiters are still there. A later waiter cannot
//! take a grant that was meant for an earlier one. The caller holds its lock around [`Condition::enlist`] and
//! [`Condition::notify`], which is what orders them.

use std::ops::Range;

use procession_sys::clock::Deadline;

use crate::crash_point;
use crate::error::{Corrupt, ShmError, WaitError};
use crate::gate::{Gate, Wake};
use crate::objects::{Entry, Handle, KindOps};
use crate::primitive::{AtomicU64, Ordering};
use crate::processes::Owner;
use crate::ring::expect_kind;
use crate::segment::Shared;
use crate::session::Session;
use crate::sync::word::TicketWord;
use crate::wait::{Check, Wait, WaitKind, notify};

/// The kind.
pub const CONDITION: u8 = 7;

/// Waiters that one condition can have at a time.
pub(super) const WAITERS: u64 = 4096;

pub(super) static OPS: KindOps = KindOps {
    number: CONDITION,
    name: "condition",
    settle: |_, _, _| Ok(true),
    wake: |s, _, e| {
        notify(&body(s, e)?.gate, Wake::All);
        Ok(())
    },
    dropped: |_, _, _| {},
    died: forget,
    left: forget,
    destroy: |_, _, _| Ok(()),
    describe: |s, e| body(s, e).map_or(Vec::new(), |b| vec![("waiters", b.waiters())]),
};

/// A process goes, in whichever way, and with it those of its threads that wait.
fn forget(
    session: &'static Session,
    _: u32,
    entry: &'static Entry,
    gone: Owner,
) -> Result<(), ShmError> {
    body(session, entry)?.forget(session, gone);
    Ok(())
}

fn body(session: &Session, entry: &Entry) -> Result<&'static ConditionBody, Corrupt> {
    session.segment().at(entry.body.load(Ordering::Acquire))
}

#[repr(C)]
struct ConditionBody {
    /// The number of the next ticket.
    next: AtomicU64,
    /// Tickets before this one are no longer waited on.
    oldest: AtomicU64,
    gate: Gate,
    tickets: [TicketWord; WAITERS as usize],
}

// SAFETY: repr(C) of atomics, an array of them, and a gate.
unsafe impl Shared for ConditionBody {}

impl ConditionBody {
    fn ticket(&self, number: u64) -> &TicketWord {
        &self.tickets[(number % WAITERS) as usize]
    }

    fn open(&self) -> Range<u64> {
        let next = self.next.load(Ordering::Acquire);
        self.oldest
            .load(Ordering::Acquire)
            .max(next.saturating_sub(WAITERS))..next
    }

    fn waiters(&self) -> u64 {
        self.open()
            .filter(|n| self.ticket(*n).waiting() != 0)
            .count() as u64
    }

    fn grant(&self, session: &Session, mut count: u64) -> u64 {
        let mut granted = 0;
        for number in self.open() {
            if count == 0 {
                break;
            }
            let ticket = self.ticket(number);
            let waiter = ticket.waiting();
            if Owner::from_word(waiter).is_some_and(|o| session.is_alive(o)) && ticket.grant(waiter)
            {
                crash_point!("condition.grant.one");
                count -= 1;
                granted += 1;
            }
        }
        if granted > 0 {
            notify(&self.gate, Wake::All);
        }
        granted
    }

    fn forget(&self, session: &Session, dead: Owner) {
        for number in self.open() {
            let ticket = self.ticket(number);
            if ticket.is_inherited_from(dead.word()) {
                // Passed on first: if we die in between, it is passed on again, and a waiter wakes that need not.
                self.grant(session, 1);
                crash_point!("condition.forget.passed");
                ticket.leave(dead.word());
            }
        }
    }
}

/// A condition, held by this process as an object.
#[derive(Clone)]
pub struct Condition {
    handle: Handle,
    body: &'static ConditionBody,
}

impl std::fmt::Debug for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Condition")
            .field("waiters", &self.waiters())
            .finish_non_exhaustive()
    }
}

/// A place in the queue of waiters; given up when dropped.
#[must_use]
pub struct Ticket {
    condition: Condition,
    number: u64,
    word: u32,
}

impl Condition {
    /// Makes one.
    pub fn create(session: &'static Session, name: &str) -> Result<Self, ShmError> {
        Self::of(session.create_object(
            CONDITION,
            size_of::<ConditionBody>() as u64,
            name,
            None,
            |_| Ok(()),
        )?)
    }

    /// The condition that a handle means.
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

    /// Those who wait now.
    pub fn waiters(&self) -> u64 {
        self.body.waiters()
    }

    /// Joins the waiters. The caller holds its lock, and releases it before [`Ticket::wait`].
    pub fn enlist(&self) -> Result<Ticket, ShmError> {
        let body = self.body;
        let next = body.next.load(Ordering::Acquire);
        let mut oldest = body.open().start;
        while oldest < next && body.ticket(oldest).is_empty() {
            oldest += 1;
        }
        body.oldest.store(oldest, Ordering::Release);
        if next.saturating_sub(oldest) >= WAITERS {
            return Err(ShmError::TableFull(
                "waiters of one condition",
                WAITERS as u32,
            ));
        }
        let word = self.handle.session().me()?.word();
        let number = body.next.fetch_add(1, Ordering::SeqCst);
        crash_point!("condition.enlist.drawn");
        body.ticket(number).enlist(word);
        crash_point!("condition.enlist.stored");
        Ok(Ticket {
            condition: self.clone(),
            number,
            word,
        })
    }

    /// Lets `count` waiters go on, the oldest first. Says how many there were.
    pub fn notify(&self, count: u64) -> u64 {
        self.body.grant(self.handle.session(), count)
    }
}

impl Ticket {
    /// Waits to be notified.
    pub fn wait(&self, deadline: Deadline, check: Check<'_>) -> Result<(), WaitError> {
        let handle = &self.condition.handle;
        let body = self.condition.body;
        let mut wait =
            Wait::new(handle.session(), handle.index(), WaitKind::Signal, deadline).checked(check);
        let ticket = body.ticket(self.number);
        wait.until(&body.gate, || {
            Ok(ticket.is_granted(self.word).then_some(()))
        })
    }

    /// Gives the place up. True if the notification had come meanwhile.
    pub fn leave(self) -> bool {
        self.take()
    }

    fn take(&self) -> bool {
        self.condition.body.ticket(self.number).leave(self.word)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.take();
    }
}

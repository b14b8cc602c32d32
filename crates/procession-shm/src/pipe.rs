//! A pipe: two ends, a ring for each direction.
//!
//! The pipe is one object with both rings; each end is an object of its own that keeps the pipe alive. Whether the other side
//! is still there is no state that could be wrong: it is the question whether that end's object exists.

use procession_sys::clock::Deadline;

use crate::arena::BlockOwner;
use crate::error::{Corrupt, ShmError, WaitError};
use crate::objects::{Entry, Handle, KindOps};
use crate::primitive::{AtomicU64, Ordering};
use crate::ring::{Message, Port, RingBody, RingOptions, expect_kind, nobody_died};
use crate::segment::Shared;
use crate::session::Session;
use crate::wait::Check;
use crate::watch;

/// The kind of the pipe itself.
pub const PIPE: u8 = 2;
/// The kind of its ends.
pub const END: u8 = 3;

/// Bytes that may wait in one direction before a sender has to.
pub const BACKLOG: u64 = 16 << 20;

/// What the session knows about pipes.
pub static PIPE_OPS: KindOps = KindOps {
    number: PIPE,
    name: "pipe",
    settle: |s, _, e| {
        let b = pipe_body(s, e)?;
        Ok(b.rings[0].settle(s)? & b.rings[1].settle(s)?)
    },
    wake: |s, _, e| wake(s, pipe_body(s, e)?),
    dropped: |_, _, _| {},
    died: nobody_died,
    left: nobody_died,
    destroy: |s, i, e| {
        let b = pipe_body(s, e)?;
        b.rings
            .iter()
            .try_for_each(|r| r.destroy(s, BlockOwner::object(i)))
    },
    describe: |_, _| Vec::new(),
};

/// What the session knows about their ends.
pub static END_OPS: KindOps = KindOps {
    number: END,
    name: "pipe end",
    settle: |_, _, _| Ok(true),
    wake: |_, _, _| Ok(()),
    dropped: watch::forget,
    died: nobody_died,
    left: nobody_died,
    // Whoever waits at the other end learns that nothing comes any more.
    destroy: |s, _, e| match e.link.load(Ordering::Acquire) {
        0 => Ok(()),
        link => wake(s, pipe_body(s, s.entry((link - 1) as u32)?)?),
    },
    describe: |s, e| describe_end(s, e).unwrap_or_default(),
};

/// The pipe as it stands in shared memory.
#[repr(C)]
pub struct PipeBody {
    rings: [RingBody; 2],
    /// The ends: generation << 32 | index. End 0 writes ring 0 and reads ring 1.
    ends: [AtomicU64; 2],
    /// Which ends may write: bit 0 and 1.
    writers: AtomicU64,
    spare: [AtomicU64; 5],
}

// SAFETY: repr(C) of rings and atomics.
unsafe impl Shared for PipeBody {}

/// An end as it stands in shared memory.
#[repr(C)]
struct EndBody {
    side: AtomicU64,
}

// SAFETY: repr(C), one atomic.
unsafe impl Shared for EndBody {}

// SAFETY: an array of rings holds nothing else; needed because the generic implementation covers it only by reference.
const _: () = assert!(size_of::<PipeBody>().is_multiple_of(64));

fn pipe_body(session: &Session, entry: &Entry) -> Result<&'static PipeBody, Corrupt> {
    session.segment().at(entry.body.load(Ordering::Acquire))
}

fn wake(session: &'static Session, body: &'static PipeBody) -> Result<(), ShmError> {
    for side in 0..2 {
        let reader = body.ends[1 - side].load(Ordering::Acquire) as u32;
        body.rings[side].wake_all(session, reader, session.entry(reader)?)?;
    }
    Ok(())
}

fn describe_end(session: &Session, entry: &Entry) -> Result<Vec<(&'static str, u64)>, Corrupt> {
    let end: &EndBody = session.segment().at(entry.body.load(Ordering::Acquire))?;
    let link = entry
        .link
        .load(Ordering::Acquire)
        .checked_sub(1)
        .ok_or(Corrupt("a pipe end without a pipe"))?;
    let body = pipe_body(session, session.entry(link as u32)?)?;
    let side = (end.side.load(Ordering::Relaxed) & 1) as usize;
    Ok(body.rings[1 - side].describe())
}

/// One end of a pipe, held by this process.
#[derive(Debug, Clone)]
pub struct PipeEnd {
    handle: Handle,
    pipe: u32,
    side: usize,
    body: &'static PipeBody,
}

impl std::fmt::Debug for PipeBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PipeBody").finish_non_exhaustive()
    }
}

/// Makes a pipe. If it is not `duplex`, the first end only reads and the second only writes.
pub fn create(
    session: &'static Session,
    name: &str,
    duplex: bool,
) -> Result<(PipeEnd, PipeEnd), ShmError> {
    let options = RingOptions {
        max_messages: 0,
        max_bytes: BACKLOG,
    };
    let pipe = session.create_object(PIPE, size_of::<PipeBody>() as u64, name, None, |at| {
        for i in 0..2 {
            RingBody::init(session, at + i * size_of::<RingBody>() as u64, options)?;
        }
        let body: &'static PipeBody = session.segment().at(at)?;
        body.writers
            .store(if duplex { 3 } else { 2 }, Ordering::Relaxed);
        Ok(())
    })?;
    let body: &'static PipeBody = pipe.body()?;
    let end = |side: u64| {
        let handle =
            session.create_object(END, size_of::<EndBody>() as u64, name, Some(&pipe), |at| {
                session
                    .segment()
                    .at::<EndBody>(at)?
                    .side
                    .store(side, Ordering::Relaxed);
                Ok(())
            })?;
        let word = u64::from(handle.generation()) << 32 | u64::from(handle.index());
        body.ends[side as usize].store(word, Ordering::Release);
        Ok::<_, ShmError>(handle)
    };
    Ok((PipeEnd::of(end(0)?)?, PipeEnd::of(end(1)?)?))
}

impl PipeEnd {
    /// The end that a handle means.
    pub fn of(handle: Handle) -> Result<Self, ShmError> {
        expect_kind(&handle, &END_OPS)?;
        let session = handle.session();
        let end: &'static EndBody = handle.body()?;
        let link = handle.entry().link.load(Ordering::Acquire);
        let pipe = u32::try_from(link.wrapping_sub(1))
            .map_err(|_| Corrupt("a pipe end without a pipe"))?;
        let body = pipe_body(session, session.entry(pipe)?)?;
        Ok(Self {
            pipe,
            side: (end.side.load(Ordering::Relaxed) & 1) as usize,
            body,
            handle,
        })
    }

    /// The handle.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// May this end send?
    pub fn is_writable(&self) -> bool {
        self.body.writers.load(Ordering::Relaxed) >> self.side & 1 != 0
    }

    /// May this end receive?
    pub fn is_readable(&self) -> bool {
        self.body.writers.load(Ordering::Relaxed) >> (1 - self.side) & 1 != 0
    }

    /// Is there a message to receive?
    pub fn has_message(&self) -> bool {
        !self.body.rings[1 - self.side].is_empty()
    }

    /// Is the other end held by nobody any more?
    pub fn is_at_end(&self) -> bool {
        let word = self.body.ends[1 - self.side].load(Ordering::Acquire);
        !self
            .handle
            .session()
            .exists(word as u32, (word >> 32) as u32)
    }

    fn port(&self, ring: usize) -> Port<'_> {
        Port {
            handle: &self.handle,
            reader: self.body.ends[1 - ring].load(Ordering::Acquire) as u32,
            owner: BlockOwner::object(self.pipe),
            body: &self.body.rings[ring],
            writer: Some(&self.body.ends[ring]),
        }
    }

    /// Sends a message. `Closed` if nobody holds the other end any more.
    pub fn send(
        &self,
        message: Message<'_>,
        deadline: Deadline,
        check: Check<'_>,
    ) -> Result<(), WaitError> {
        self.port(self.side)
            .put_unless(message, deadline, check, &|| Ok(self.is_at_end()))
    }

    /// Receives the next message. `Closed` if there is none and nobody holds the other end any more.
    pub fn recv<T>(
        &self,
        deadline: Deadline,
        check: Check<'_>,
        take: &mut impl FnMut(&[u8], Option<u64>) -> T,
    ) -> Result<T, WaitError> {
        self.port(1 - self.side)
            .get_unless(deadline, check, &|| Ok(self.is_at_end()), take)
    }

    /// Receives the next message if it is there now.
    pub fn try_recv<T>(
        &self,
        take: &mut impl FnMut(&[u8], Option<u64>) -> T,
    ) -> Result<Option<T>, WaitError> {
        self.port(1 - self.side).try_get(take)
    }

    /// Waits until a message is there, or the other side has gone. False when the deadline came first.
    pub fn poll(&self, deadline: Deadline, check: Check<'_>) -> Result<bool, WaitError> {
        self.port(1 - self.side)
            .wait_filled(deadline, check, &|| Ok(self.is_at_end()))
    }

    /// Found with nothing to receive: see [`Port::rest`].
    pub fn rest(&self) -> Result<(), ShmError> {
        self.port(1 - self.side).rest()
    }

    /// A descriptor that is readable while a message is there or the other side has gone.
    pub fn watch(&self) -> Result<i32, ShmError> {
        self.port(1 - self.side).watch(&|| Ok(self.is_at_end()))
    }
}

//! A queue of byte messages for any number of writers and readers; see `README.md` beside this file.

mod layout;
mod pop;
mod push;

use procession_sys::clock::Deadline;

use crate::error::{Corrupt, ShmError, WaitError};
use crate::gate::Wake;
use crate::objects::{Entry, Handle, KindOps};
use crate::primitive::{AtomicU64, Ordering};
use crate::processes::Owner;
use crate::session::Session;
use crate::wait::{Check, Wait, WaitKind, notify};
use crate::{arena::BlockOwner, watch};

pub use layout::RingBody;
pub(crate) use layout::count;

/// A message as a writer gives it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Message<'a> {
    /// Its first bytes.
    pub bytes: &'a [u8],
    /// The bytes that follow them: a writer that has a small head and a large body need not join the two.
    pub tail: &'a [u8],
    /// A block of the writer's that goes with it (see [`crate::bundle`] for several).
    pub block: Option<u64>,
}

impl<'a> Message<'a> {
    /// A message of bytes alone.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            ..Self::default()
        }
    }

    /// Bytes in all.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len() + self.tail.len()
    }

    /// Has it none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies all bytes to a place in the session that the caller owns.
    #[inline]
    pub fn write(&self, session: &Session, at: u64) -> Result<(), Corrupt> {
        session.segment().write(at, self.bytes)?;
        session
            .segment()
            .write(at + self.bytes.len() as u64, self.tail)
    }
}

/// Longer messages travel in a block of their own: one copy less, and the ring stays small and hot.
pub const INLINE_MAX: usize = 32 << 10;

/// Limits and what else a queue is made with.
#[derive(Debug, Clone, Copy, Default)]
pub struct RingOptions {
    /// Messages that may wait in the queue; zero for any number.
    pub max_messages: u32,
    /// Bytes that may wait in it before writers have to; zero for any number. One message always fits.
    pub max_bytes: u64,
}

/// The kind of object that a plain queue is.
pub const KIND: u8 = 1;

/// What the session knows about queues.
pub static OPS: KindOps = KindOps {
    number: KIND,
    name: "queue",
    settle: |s, _, e| body(s, e)?.settle(s),
    wake: |s, i, e| body(s, e)?.wake_all(s, i, e),
    dropped: watch::forget,
    died: nobody_died,
    left: nobody_died,
    destroy: |s, i, e| body(s, e)?.destroy(s, BlockOwner::object(i)),
    describe: |s, e| body(s, e).map(RingBody::describe).unwrap_or_default(),
};

fn body(session: &Session, entry: &Entry) -> Result<&'static RingBody, Corrupt> {
    session.segment().at(entry.body.load(Ordering::Acquire))
}

/// A queue, held by this process.
#[derive(Debug, Clone)]
pub struct Ring {
    handle: Handle,
    body: &'static RingBody,
}

impl Ring {
    /// Makes one.
    pub fn create(
        session: &'static Session,
        name: &str,
        options: RingOptions,
    ) -> Result<Self, ShmError> {
        let handle =
            session.create_object(KIND, size_of::<RingBody>() as u64, name, None, |at| {
                RingBody::init(session, at, options)
            })?;
        Self::of(handle)
    }

    /// The queue that a handle means.
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

    /// Its end of the machinery.
    pub fn port(&self) -> Port<'_> {
        let index = self.handle.index();
        Port {
            handle: &self.handle,
            reader: index,
            owner: BlockOwner::object(index),
            body: self.body,
            writer: None,
        }
    }
}

/// A ring and the object it belongs to; what queues and pipes have in common.
#[derive(Clone, Copy)]
pub struct Port<'h> {
    pub(crate) handle: &'h Handle,
    /// The object whose watchers are rung when there is something to get.
    pub(crate) reader: u32,
    /// Whose the ring's blocks are.
    pub(crate) owner: BlockOwner,
    pub(crate) body: &'static RingBody,
    /// The end that writes, where there is one: once nobody holds it, nothing comes any more.
    pub(crate) writer: Option<&'static AtomicU64>,
}

impl Port<'_> {
    fn session(&self) -> &'static Session {
        self.handle.session()
    }

    /// Puts a message in, waiting for room until `deadline`. When it returns `Ok` the message will survive this process.
    /// `check` runs now and then while it waits.
    pub fn put(
        &self,
        message: Message<'_>,
        deadline: Deadline,
        check: Check<'_>,
    ) -> Result<(), WaitError> {
        self.put_unless(message, deadline, check, &|| Ok(false))
    }

    /// As [`Port::put`]; gives up with `Closed` once `closed` says so.
    pub fn put_unless(
        &self,
        message: Message<'_>,
        deadline: Deadline,
        check: Check<'_>,
        closed: &dyn Fn() -> Result<bool, ShmError>,
    ) -> Result<(), WaitError> {
        let mut wait =
            Wait::new(self.session(), self.handle.index(), WaitKind::Put, deadline).checked(check);
        loop {
            if closed()? {
                return Err(WaitError::Closed);
            }
            if self.push(message, &mut wait)? {
                return Ok(());
            }
            wait.until(&self.body.drained, || {
                Ok((self.body.has_room(message.len() as u64) || closed()?).then_some(()))
            })?;
        }
    }

    /// Takes the oldest message; `take` sees its bytes and its block, which is this process's from then on.
    pub fn get<T>(
        &self,
        deadline: Deadline,
        check: Check<'_>,
        mut take: impl FnMut(&[u8], Option<u64>) -> T,
    ) -> Result<T, WaitError> {
        self.get_unless(deadline, check, &|| Ok(false), &mut take)
    }

    /// As [`Port::get`]; gives up with `Closed` once the ring is empty and `closed` says that it stays so.
    pub fn get_unless<T>(
        &self,
        deadline: Deadline,
        check: Check<'_>,
        closed: &dyn Fn() -> Result<bool, ShmError>,
        take: &mut impl FnMut(&[u8], Option<u64>) -> T,
    ) -> Result<T, WaitError> {
        let mut wait =
            Wait::new(self.session(), self.handle.index(), WaitKind::Get, deadline).checked(check);
        loop {
            // Asked first: what was put before the other side closed must still be found.
            let last = closed()?;
            if let Some(got) = self.pop(&mut wait, take)? {
                return Ok(got);
            }
            if last {
                return Err(WaitError::Closed);
            }
            wait.until(&self.body.filled, || {
                Ok((!self.body.is_empty() || closed()?).then_some(()))
            })?;
        }
    }

    /// Takes a message if one is there now and nobody else is at it.
    #[inline]
    pub fn try_get<T>(
        &self,
        take: &mut impl FnMut(&[u8], Option<u64>) -> T,
    ) -> Result<Option<T>, WaitError> {
        let mut wait = Wait::new(
            self.session(),
            self.handle.index(),
            WaitKind::Get,
            Deadline::NOW,
        );
        match self.pop(&mut wait, take) {
            Err(WaitError::TimedOut) => Ok(None),
            other => other,
        }
    }

    /// Waits until there is a message (or `closed` says so); false when the deadline came first.
    pub fn wait_filled(
        &self,
        deadline: Deadline,
        check: Check<'_>,
        closed: &dyn Fn() -> Result<bool, ShmError>,
    ) -> Result<bool, WaitError> {
        let mut wait =
            Wait::new(self.session(), self.handle.index(), WaitKind::Get, deadline).checked(check);
        match wait.until(&self.body.filled, || {
            Ok((!self.body.is_empty() || closed()?).then_some(()))
        }) {
            Ok(()) => Ok(true),
            Err(WaitError::TimedOut) => self.rest().map(|()| false).map_err(WaitError::from),
            Err(other) => Err(other),
        }
    }

    /// Has a reader something to do: take a message, or learn that none will come?
    fn is_readable(&self) -> bool {
        !self.body.is_empty()
            || self.writer.is_some_and(|w| {
                let word = w.load(Ordering::Acquire);
                !self.session().exists(word as u32, (word >> 32) as u32)
            })
    }

    /// Found empty by a process that watches it: what it was rung for has been taken by another one.
    #[inline]
    pub fn rest(&self) -> Result<(), ShmError> {
        if self.handle.entry().watchers.load(Ordering::Relaxed) != 0 {
            watch::emptied(self.handle, || Ok(self.is_readable()))?;
        }
        Ok(())
    }

    /// Lets nothing more be put in. Under the writers' guard, so that a put either came before, and will be got, or fails.
    pub fn close(&self) -> Result<(), ShmError> {
        let session = self.session();
        let guard = self.body.put.lock(session)?;
        self.body.closed.store(1, Ordering::Release);
        drop(guard);
        self.body
            .wake_all(session, self.reader, session.entry(self.reader)?)
    }

    /// May nothing more be put in?
    pub fn is_closed(&self) -> bool {
        self.body.closed.load(Ordering::Acquire) != 0
    }

    /// Messages in the ring.
    pub fn len(&self) -> u32 {
        self.body.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// Has it as many messages as it may have?
    pub fn is_full(&self) -> bool {
        self.body.is_full()
    }

    /// One task taken from the queue is finished. False if there was none to finish.
    pub fn task_done(&self) -> Result<bool, ShmError> {
        let done = &self.body.done;
        let mut now = done.load(Ordering::Acquire);
        loop {
            if count(self.body.tail.load(Ordering::Acquire)) == now {
                return Ok(false);
            }
            match done.compare_exchange(
                now,
                now.wrapping_add(1),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => break,
                Err(found) => now = found,
            }
        }
        notify(&self.body.finished, Wake::All);
        Ok(true)
    }

    /// Waits until every task that was put has been finished.
    pub fn join(&self, deadline: Deadline, check: Check<'_>) -> Result<(), WaitError> {
        let mut wait = Wait::new(
            self.session(),
            self.handle.index(),
            WaitKind::Join,
            deadline,
        )
        .checked(check);
        let body = self.body;
        wait.until(&body.finished, || {
            Ok(
                (count(body.tail.load(Ordering::Acquire)) == body.done.load(Ordering::Acquire))
                    .then_some(()),
            )
        })
    }

    /// Tasks put and not finished.
    pub fn unfinished(&self) -> u32 {
        count(self.body.tail.load(Ordering::Acquire))
            .wrapping_sub(self.body.done.load(Ordering::Acquire))
    }

    /// A descriptor that is readable while there is something to get (or `closed` says so).
    pub fn watch(&self, closed: &dyn Fn() -> Result<bool, ShmError>) -> Result<i32, ShmError> {
        let body = self.body;
        Ok(watch::watch(self.handle, || Ok(!body.is_empty() || closed()?))?.raw_fd())
    }
}

/// An error unless the handle's object is of this kind.
pub(crate) fn expect_kind(handle: &Handle, ops: &'static KindOps) -> Result<(), ShmError> {
    let session = handle.session();
    match handle.entry().kind() {
        Some(k) if k == ops.number => Ok(()),
        Some(k) => Err(ShmError::WrongKind {
            wanted: ops.name,
            found: session.kind(k).map_or("?", |k| k.name),
        }),
        None => Err(ShmError::Gone),
    }
}

/// For kinds that do not care who died, or left.
#[allow(clippy::unnecessary_wraps)] // its type is that of `KindOps::died`
pub(crate) fn nobody_died(
    _: &'static Session,
    _: u32,
    _: &'static Entry,
    _: Owner,
) -> Result<(), ShmError> {
    Ok(())
}

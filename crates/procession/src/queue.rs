//! A queue of typed messages, for any number of writers and readers in any number of processes.

use std::borrow::Borrow;
use std::marker::PhantomData;
use std::time::Duration;

use procession_engine::home;
use procession_engine::transit::Parcel;
use procession_shm::ring::{Message, Ring, RingOptions};
use procession_sys::clock::Deadline;

use crate::codec::{Codec, Postcard};
use crate::error::{GetError, PutError, SessionError, at_last, in_time};
use crate::registry::Sendable;
use crate::transit::{self, Received};

/// A queue that any process of the session can put to and get from.
///
/// It lives in the session's memory: a put is a copy into it, and a message that was put survives the death of whoever put
/// it. A queue is as long as it needs to be unless [`Queue::bounded`] set a limit. Clones, also those in other processes,
/// are the same queue; it travels as an argument of a task or inside a message like any other value.
///
/// ```
/// use procession::{GetError, Process, Queue};
///
/// #[procession::task]
/// fn shout(words: Queue<String>, answers: Queue<String>) {
///     while let Ok(word) = words.get() {
///         answers.put(word.to_uppercase()).expect("the queue is open");
///     }
/// }
///
/// #[procession::main]
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let (words, answers) = (Queue::new()?, Queue::new()?);
///     let process = Process::spawn(shout, (words.clone(), answers.clone()))?;
///     words.put("one".to_owned())?;
///     words.put("two".to_owned())?;
///     words.close()?;
///     process.join()?;
///     assert_eq!(answers.get()?, "ONE");
///     assert_eq!(answers.get()?, "TWO");
///     assert!(matches!(answers.try_get(), Err(GetError::Empty)));
///     Ok(())
/// }
/// ```
pub struct Queue<T, C = Postcard> {
    ring: Ring,
    types: PhantomData<fn(T, C) -> T>,
}

/// What a queue is made with.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Options {
    name: String,
    limits: RingOptions,
}

impl Options {
    /// The name that `procession ps` shows.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// At most so many messages wait in the queue; who puts one more waits for room. Zero for any number.
    pub fn max_messages(mut self, messages: u32) -> Self {
        self.limits.max_messages = messages;
        self
    }

    /// At most so many bytes wait in the queue, or one message. Zero for any number.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.limits.max_bytes = bytes;
        self
    }
}

impl<T: Sendable> Queue<T> {
    /// Makes a queue that is as long as it needs to be.
    pub fn new() -> Result<Self, SessionError> {
        Self::with(Options::default())
    }

    /// Makes a queue in which at most `messages` wait.
    pub fn bounded(messages: u32) -> Result<Self, SessionError> {
        Self::with(Options::default().max_messages(messages))
    }
}

impl<T: Sendable, C: Codec> Queue<T, C> {
    /// Makes a queue as described.
    pub fn with(options: Options) -> Result<Self, SessionError> {
        let Options { name, limits } = options;
        Ok(Self::of(Ring::create(home::session()?, &name, limits)?))
    }

    /// Puts a message in, a value or a reference to one. Waits for room if the queue is bounded.
    pub fn put(&self, item: impl Borrow<T>) -> Result<(), PutError> {
        self.put_until(item.borrow(), Deadline::NEVER)
    }

    /// Puts a message in if there is room now.
    pub fn try_put(&self, item: impl Borrow<T>) -> Result<(), PutError> {
        match self.put_until(item.borrow(), Deadline::NOW) {
            Err(PutError::TimedOut) => Err(PutError::Full),
            result => result,
        }
    }

    /// Puts a message in, waiting for room for `timeout` at most.
    pub fn put_timeout(&self, item: impl Borrow<T>, timeout: Duration) -> Result<(), PutError> {
        self.put_until(item.borrow(), Deadline::after(Some(timeout)))
    }

    fn put_until(&self, item: &T, deadline: Deadline) -> Result<(), PutError> {
        transit::with_buffer(|buffer| {
            let parcel = transit::encode(buffer, |to| C::encode(item, to))?;
            let message = Message {
                block: parcel.as_ref().map(Parcel::block),
                ..Message::new(buffer)
            };
            let port = self.ring.port();
            port.put_unless(message, deadline, &mut || true, &|| Ok(port.is_closed()))?;
            if let Some(parcel) = parcel {
                parcel.sent();
            }
            Ok(())
        })
    }

    /// Takes the oldest message, waiting until there is one.
    pub fn get(&self) -> Result<T, GetError> {
        self.get_until(Deadline::NEVER)
    }

    /// Takes the oldest message if there is one now.
    pub fn try_get(&self) -> Result<T, GetError> {
        match self.get_until(Deadline::NOW) {
            Err(GetError::TimedOut) => Err(GetError::Empty),
            result => result,
        }
    }

    /// Takes the oldest message, waiting for one for `timeout` at most.
    pub fn get_timeout(&self, timeout: Duration) -> Result<T, GetError> {
        self.get_until(Deadline::after(Some(timeout)))
    }

    fn get_until(&self, deadline: Deadline) -> Result<T, GetError> {
        transit::with_buffer(|buffer| {
            let port = self.ring.port();
            let mut take = |bytes: &[u8], block| Received::new(buffer, bytes, block, C::decode);
            let received =
                port.get_unless(deadline, &mut || true, &|| Ok(port.is_closed()), &mut take)?;
            Ok(received.value(buffer, C::decode)?)
        })
    }

    /// The messages as they come, until the queue is closed and empty.
    pub fn iter(&self) -> impl Iterator<Item = Result<T, GetError>> + '_ {
        std::iter::from_fn(|| match self.get() {
            Err(GetError::Closed) => None,
            result => Some(result),
        })
    }

    /// How many messages wait. Other processes may change that at any moment.
    pub fn len(&self) -> usize {
        self.ring.port().len() as usize
    }

    /// Does no message wait?
    pub fn is_empty(&self) -> bool {
        self.ring.port().is_empty()
    }

    /// Do as many messages wait as may?
    pub fn is_full(&self) -> bool {
        self.ring.port().is_full()
    }

    /// Closes the queue, for everybody: nothing more is put, and who gets learns of the end once the queue is empty.
    pub fn close(&self) -> Result<(), SessionError> {
        self.ring.port().close()
    }

    /// Is it closed?
    pub fn is_closed(&self) -> bool {
        self.ring.port().is_closed()
    }

    /// Says that the work for one message that was got is done (see [`Queue::join`]). False if it was said for all already.
    pub fn task_done(&self) -> Result<bool, SessionError> {
        self.ring.port().task_done()
    }

    /// Waits until [`Queue::task_done`] was called for every message that was put.
    pub fn join(&self) -> Result<(), SessionError> {
        at_last(self.ring.port().join(Deadline::NEVER, &mut || true))
    }

    /// As [`Queue::join`], for `timeout` at most; false if that was too short.
    pub fn join_timeout(&self, timeout: Duration) -> Result<bool, SessionError> {
        let deadline = Deadline::after(Some(timeout));
        Ok(in_time(self.ring.port().join(deadline, &mut || true))?.is_some())
    }
}

impl<T, C> Queue<T, C> {
    fn of(ring: Ring) -> Self {
        Self {
            ring,
            types: PhantomData,
        }
    }
}

impl<T, C> Clone for Queue<T, C> {
    fn clone(&self) -> Self {
        Self {
            ring: self.ring.clone(),
            types: PhantomData,
        }
    }
}

impl<T, C> std::fmt::Debug for Queue<T, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("len", &self.ring.port().len())
            .field("closed", &self.ring.port().is_closed())
            .finish_non_exhaustive()
    }
}

transit::travels!([T, C] Queue<T, C>, |queue| queue.ring.handle(), |handle| {
    Ring::of(handle).map(Queue::of)
});

//! Two ends that talk to each other.

use std::borrow::Borrow;
use std::marker::PhantomData;
use std::time::Duration;

use procession_engine::home;
use procession_engine::transit::Parcel;
use procession_shm::pipe::{self, PipeEnd};
use procession_shm::ring::Message;
use procession_sys::clock::Deadline;

use crate::codec::{Codec, Postcard};
use crate::error::{GetError, MessageError, PutError, SessionError, in_time};
use crate::registry::Sendable;
use crate::transit::{self, Received};

/// One end of a pipe: what it sends, the other end receives.
///
/// An end sends values of `S` and receives values of `R`. When all handles to one end are gone, because they were dropped or
/// because their processes ended, the other end learns that nothing comes any more.
///
/// ```
/// use procession::{GetError, Pipe, Process};
///
/// #[procession::task]
/// fn square(numbers: Pipe<u64>) {
///     while let Ok(number) = numbers.recv() {
///         numbers.send(number * number).expect("somebody listens");
///     }
/// }
///
/// #[procession::main]
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let (here, there) = Pipe::pair()?;
///     let process = Process::spawn(square, there)?;
///     here.send(12)?;
///     assert_eq!(here.recv()?, 144);
///     process.kill()?;
///     assert!(matches!(here.recv(), Err(GetError::Closed)));
///     Ok(())
/// }
/// ```
pub struct Pipe<S, R = S, C = Postcard> {
    end: PipeEnd,
    types: PhantomData<fn(S, C) -> R>,
}

impl<S: Sendable, R: Sendable> Pipe<S, R> {
    /// Makes a pipe; the ends come as a pair.
    pub fn pair() -> Result<(Self, Pipe<R, S>), SessionError> {
        let (one, other) = pipe::create(home::session()?, "", true)?;
        Ok((Self::of(one), Pipe::of(other)))
    }
}

impl<S: Sendable, R: Sendable, C: Codec> Pipe<S, R, C> {
    /// Makes a pipe with another codec than the usual one; the ends come as a pair.
    pub fn pair_with_codec() -> Result<(Self, Pipe<R, S, C>), SessionError> {
        let (one, other) = pipe::create(home::session()?, "", true)?;
        Ok((Self::of(one), Pipe::of(other)))
    }

    /// Sends a value, given as such or by reference. Waits only where the other side is megabytes behind.
    pub fn send(&self, item: impl Borrow<S>) -> Result<(), PutError> {
        self.send_until(item.borrow(), Deadline::NEVER)
    }

    /// As [`Pipe::send`], waiting for `timeout` at most.
    pub fn send_timeout(&self, item: impl Borrow<S>, timeout: Duration) -> Result<(), PutError> {
        self.send_until(item.borrow(), Deadline::after(Some(timeout)))
    }

    fn send_until(&self, item: &S, deadline: Deadline) -> Result<(), PutError> {
        transit::with_buffer(|buffer| {
            let parcel = transit::encode(buffer, |to| C::encode(item, to))?;
            let message = Message {
                block: parcel.as_ref().map(Parcel::block),
                ..Message::new(buffer)
            };
            self.end.send(message, deadline, &mut || true)?;
            if let Some(parcel) = parcel {
                parcel.sent();
            }
            Ok(())
        })
    }

    /// Receives the next value, waiting for it.
    pub fn recv(&self) -> Result<R, GetError> {
        self.recv_until(Deadline::NEVER)
    }

    /// Receives the next value if it is there now.
    pub fn try_recv(&self) -> Result<R, GetError> {
        match self.recv_until(Deadline::NOW) {
            Err(GetError::TimedOut) => Err(GetError::Empty),
            result => result,
        }
    }

    /// Receives the next value, waiting for `timeout` at most.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<R, GetError> {
        self.recv_until(Deadline::after(Some(timeout)))
    }

    fn recv_until(&self, deadline: Deadline) -> Result<R, GetError> {
        transit::with_buffer(|buffer| {
            let mut take = |bytes: &[u8], block| Received::new(buffer, bytes, block, C::decode);
            let received = self.end.recv(deadline, &mut || true, &mut take)?;
            Ok(received.value(buffer, C::decode)?)
        })
    }

    /// Waits for `timeout` at most until there is something to receive, be it the end. False if there is not.
    pub fn poll(&self, timeout: Duration) -> Result<bool, MessageError> {
        let deadline = Deadline::after(Some(timeout));
        let ready = in_time(self.end.poll(deadline, &mut || true))?;
        Ok(ready.unwrap_or(false))
    }
}

impl<S, R, C> Pipe<S, R, C> {
    fn of(end: PipeEnd) -> Self {
        Self {
            end,
            types: PhantomData,
        }
    }
}

impl<S, R, C> Clone for Pipe<S, R, C> {
    fn clone(&self) -> Self {
        Self {
            end: self.end.clone(),
            types: PhantomData,
        }
    }
}

impl<S, R, C> std::fmt::Debug for Pipe<S, R, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipe").finish_non_exhaustive()
    }
}

transit::travels!([S, R, C] Pipe<S, R, C>, |pipe| pipe.end.handle(), |handle| {
    PipeEnd::of(handle).map(Pipe::of)
});

//! Shared objects inside of values: how a queue gets into a message.
//!
//! A codec only knows `serde`. So a shared object serializes itself as a number, and puts a ticket with that number beside
//! the message; deserializing redeems it. The tickets of the message at hand are the thread's, for as long as one value is
//! encoded or decoded.

use std::cell::{Cell, RefCell};
use std::thread::LocalKey;

use procession_engine::home;
use procession_engine::transit::{Incoming, Outgoing, Parcel};
use procession_shm::objects::Handle;
use procession_shm::ring::INLINE_MAX;
use serde::{Deserialize, Deserializer, Serializer};

use crate::codec::CodecError;
use crate::error::MessageError;

thread_local! {
    static OUTGOING: RefCell<Option<Outgoing>> = const { RefCell::new(None) };
    static INCOMING: RefCell<Option<Incoming>> = const { RefCell::new(None) };
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Puts a value into `to` by way of `write`, and the shared objects in it into the parcel.
pub(crate) fn encode(
    to: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecError>,
) -> Result<Option<Parcel>, MessageError> {
    let session = home::session()?;
    let scope = Scope::enter(&OUTGOING, Outgoing::new(session));
    write(to).map_err(MessageError::Encode)?;
    match scope.leave() {
        Some(outgoing) => Ok(outgoing.pack()?),
        None => Ok(None),
    }
}

/// Takes a value out by way of `read`, with the shared objects that came with it.
pub(crate) fn decode<T>(
    attached: Incoming,
    read: impl FnOnce() -> Result<T, CodecError>,
) -> Result<(T, Option<Incoming>), MessageError> {
    let scope = Scope::enter(&INCOMING, attached);
    let value = read().map_err(MessageError::Decode)?;
    Ok((value, scope.leave()))
}

/// A message that was taken out of a ring.
pub(crate) enum Received<T> {
    /// Its bytes were copied to the buffer, as whoever takes a message keeps the other readers out meanwhile. What came with it.
    Copied(Option<u64>),
    /// It was long, so it was read where it stood, when nobody was kept out any more.
    Read(Result<T, MessageError>),
}

impl<T> Received<T> {
    pub(crate) fn new(
        buffer: &mut Vec<u8>,
        bytes: &[u8],
        block: Option<u64>,
        read: impl FnOnce(&[u8]) -> Result<T, CodecError>,
    ) -> Self {
        if bytes.len() > INLINE_MAX {
            return Self::Read(read_message(bytes, block, read));
        }
        buffer.clear();
        buffer.extend_from_slice(bytes);
        Self::Copied(block)
    }

    /// The value.
    pub(crate) fn value(
        self,
        buffer: &[u8],
        read: impl FnOnce(&[u8]) -> Result<T, CodecError>,
    ) -> Result<T, MessageError> {
        match self {
            Self::Copied(block) => read_message(buffer, block, read),
            Self::Read(value) => value,
        }
    }
}

fn read_message<T>(
    bytes: &[u8],
    block: Option<u64>,
    read: impl FnOnce(&[u8]) -> Result<T, CodecError>,
) -> Result<T, MessageError> {
    Ok(decode(attached(block)?, || read(bytes))?.0)
}

/// What came with a message in `block`.
pub(crate) fn attached(block: Option<u64>) -> Result<Incoming, MessageError> {
    Ok(Incoming::open(home::session()?, block)?)
}

/// A buffer that keeps its memory from one use by this thread to the next.
pub(crate) fn with_buffer<T>(work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    // One large message does not tie its memory down for ever, but for a series of them it is not fetched anew each time.
    const SMALL: usize = 1 << 16;
    const LARGEST: usize = 1 << 26;
    let mut buffer = BUFFER.take();
    buffer.clear();
    let result = work(&mut buffer);
    let capacity = buffer.capacity();
    if capacity <= SMALL || capacity <= LARGEST && capacity / 4 <= buffer.len() {
        BUFFER.set(buffer);
    }
    result
}

type Place<T> = &'static LocalKey<RefCell<Option<T>>>;

/// The tickets of one value, in the place of those of the value around it, which come back at the end.
struct Scope<T: 'static> {
    place: Place<T>,
    outer: Option<T>,
    /// Is the outer one back?
    is_over: bool,
}

impl<T> Scope<T> {
    fn enter(place: Place<T>, inner: T) -> Self {
        Self {
            place,
            outer: place.replace(Some(inner)),
            is_over: false,
        }
    }

    fn leave(mut self) -> Option<T> {
        self.end()
    }

    fn end(&mut self) -> Option<T> {
        if self.is_over {
            return None;
        }
        self.is_over = true;
        self.place.replace(self.outer.take())
    }
}

impl<T> Drop for Scope<T> {
    fn drop(&mut self) {
        self.end();
    }
}

/// Serializes a shared object as the number of its ticket.
pub(crate) fn give<S: Serializer>(handle: &Handle, to: S) -> Result<S::Ok, S::Error> {
    let number = OUTGOING.with_borrow_mut(|outgoing| match outgoing {
        Some(outgoing) => outgoing.add(handle).map_err(serde::ser::Error::custom),
        None => Err(serde::ser::Error::custom(
            "a shared object can only be serialized as a part of what is sent to another process of its session",
        )),
    })?;
    to.serialize_u32(number)
}

/// Takes a shared object out of the message at hand.
pub(crate) fn take<'de, D: Deserializer<'de>>(from: D) -> Result<Handle, D::Error> {
    let number = u32::deserialize(from)?;
    INCOMING.with_borrow(|incoming| match incoming {
        Some(incoming) => incoming.redeem(number).map_err(serde::de::Error::custom),
        None => Err(serde::de::Error::custom(
            "a shared object can only be deserialized as a part of what came from another process of its session",
        )),
    })
}

/// Makes a type that is nothing but a handle to a shared object travel as one. Says how to get at the handle, and how to
/// make a value from it.
macro_rules! travels {
    ([$($parameters:tt)*] $type:ty, $handle:expr, $make:expr) => {
        impl<$($parameters)*> ::serde::Serialize for $type {
            fn serialize<Ser: ::serde::Serializer>(&self, to: Ser) -> Result<Ser::Ok, Ser::Error> {
                let handle: fn(&Self) -> &::procession_shm::objects::Handle = $handle;
                $crate::transit::give(handle(self), to)
            }
        }

        impl<'de, $($parameters)*> ::serde::Deserialize<'de> for $type {
            fn deserialize<De: ::serde::Deserializer<'de>>(from: De) -> Result<Self, De::Error> {
                let handle = $crate::transit::take(from)?;
                let make: fn(
                    ::procession_shm::objects::Handle,
                ) -> Result<Self, $crate::error::SessionError> = $make;
                make(handle).map_err(::serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use travels;

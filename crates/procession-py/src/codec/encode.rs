//! From Python objects to messages.

use std::cell::Cell;
use std::sync::Arc;

use procession_shm::Session;
use procession_shm::arena::BlockOwner;
use procession_shm::bundle::Part;
use procession_shm::memory::Memory;
use procession_shm::ring::Message;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyFloat, PyInt, PyList, PyString};

use super::pickler::Buffers;
use super::repeated::Repeated;
use super::{
    BYTES, FALSE, FLOAT, INT, LISTED, NONE, PICKLE, STR, TRUE, bind, ndarray, pickler, small,
};
use crate::errors;

/// An object's encoding, ready to be put. Its blocks are this process's until the message is committed.
///
/// It is made where it stands: moving it just after it was written would cost more than writing it.
pub(crate) struct Encoded<'a> {
    head: Scratch,
    /// What follows the first bytes, where it lies.
    pub(crate) tail: &'a [u8],
    /// The block that goes along.
    pub(crate) block: Option<u64>,
    session: &'static Session,
}

/// A buffer that is used again and again, and known by its address: three words would be slow to take and give back.
struct Scratch(Option<Box<Bytes>>);

/// The bytes and where they end.
struct Bytes(Vec<u8>);

thread_local! {
    static SCRATCH: Cell<Option<Box<Bytes>>> = const { Cell::new(None) };
}

/// Larger texts and bytes are not copied together with their head.
const JOIN: usize = 1 << 10;
/// Larger scratch buffers are not kept.
const KEEP: usize = 1 << 20;

impl<'a> Encoded<'a> {
    /// An encoding to be filled.
    #[inline]
    pub(crate) fn new(session: &'static Session) -> Self {
        Self {
            head: Scratch(SCRATCH.take()),
            tail: &[],
            block: None,
            session,
        }
    }

    pub(super) fn session(&self) -> &'static Session {
        self.session
    }

    /// The first bytes.
    #[inline]
    pub(crate) fn head(&self) -> &[u8] {
        self.head.0.as_ref().map_or(&[], |bytes| &bytes.0)
    }

    /// To write to.
    #[inline]
    pub(super) fn head_mut(&mut self) -> &mut Vec<u8> {
        self.head.bytes()
    }

    /// The message to be put.
    #[inline]
    pub(crate) fn message(&self) -> Message<'_> {
        Message {
            bytes: self.head(),
            tail: self.tail,
            block: self.block,
        }
    }

    /// The message was put: its blocks are not ours any more.
    #[inline]
    pub(crate) fn sent(&mut self) {
        self.block = None;
    }

    /// An object's encoding, where a move more or less does not count.
    pub(crate) fn of(
        py: Python<'_>,
        session: &'static Session,
        obj: &'a Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let mut encoded = Self::new(session);
        encoded.encode(py, obj)?;
        Ok(encoded)
    }

    /// Encodes an object. What is borrowed from it must not change until the message is put.
    #[inline]
    pub(crate) fn encode(&mut self, py: Python<'_>, obj: &'a Bound<'_, PyAny>) -> PyResult<()> {
        self.encode_item(py, obj, None)
    }

    /// Encodes one of many objects: a large buffer that several of them have in common is sent once.
    #[inline]
    pub(crate) fn encode_item(
        &mut self,
        py: Python<'_>,
        obj: &'a Bound<'_, PyAny>,
        repeated: Option<&Arc<Repeated>>,
    ) -> PyResult<()> {
        if self.scalar(py, obj) {
            return Ok(());
        }
        self.encode_compound(py, obj, repeated)
    }

    fn encode_compound(
        &mut self,
        py: Python<'_>,
        obj: &'a Bound<'_, PyAny>,
        repeated: Option<&Arc<Repeated>>,
    ) -> PyResult<()> {
        if small::is_container(obj) {
            if small::encode(py, obj, self.head_mut()) {
                return Ok(());
            }
            self.head_mut().clear();
        } else if !repeated.is_some_and(|r| r.is_whole(obj)) && ndarray::encode(py, obj, self)? {
            return Ok(());
        }
        let buffers = repeated.map_or(Buffers::Own, |r| Buffers::Repeated(r.clone()));
        self.pickle(py, obj, buffers)
    }

    /// Encodes a list of objects as a batch's arguments: what they have in common, such as their class, is named once.
    pub(crate) fn encode_listed(
        &mut self,
        py: Python<'_>,
        objects: &Bound<'_, PyList>,
        repeated: Option<&Arc<Repeated>>,
    ) -> PyResult<()> {
        self.head_mut().push(LISTED);
        let buffers = repeated.map_or(Buffers::Own, |r| Buffers::Repeated(r.clone()));
        self.pickle(py, objects, buffers)
    }

    /// Has it become a pickle?
    pub(crate) fn is_pickle(&self) -> bool {
        self.head().first() == Some(&PICKLE)
    }

    /// Encodes an object that many processes will read: its large buffers are shared objects, sent once.
    pub(crate) fn encode_shared(&mut self, py: Python<'_>, obj: &Bound<'_, PyAny>) -> PyResult<()> {
        self.pickle(py, obj, Buffers::Shared)
    }

    /// Encodes one of the simple types, whose body may be lent; false if it is none.
    #[inline]
    pub(super) fn scalar(&mut self, py: Python<'_>, obj: &'a Bound<'_, PyAny>) -> bool {
        scalar(py, obj, self.head.bytes(), Some(&mut self.tail))
    }

    pub(super) fn pickle(
        &mut self,
        py: Python<'_>,
        obj: &Bound<'_, PyAny>,
        buffers: Buffers,
    ) -> PyResult<()> {
        let session = self.session;
        let pickle = pickler::dump(py, obj, Some((session, buffers)))?;
        let mut parts = pickle.parts;
        let head = self.head_mut();
        head.push(PICKLE);
        head.extend_from_slice(&(parts.len() as u32).to_le_bytes());
        head.extend_from_slice(&pickle.bytes);
        for handle in pickle.handles {
            let at = session.make_ticket(&handle).map_err(errors::shm)?;
            parts.push(Part { at, len: 8 });
        }
        self.block = bind(session, &parts)?;
        Ok(())
    }
}

impl Drop for Encoded<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            let _ = self.session.free_block(block);
        }
    }
}

impl Scratch {
    #[inline]
    fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.0.get_or_insert_with(|| Box::new(Bytes(Vec::new()))).0
    }
}

impl Drop for Scratch {
    #[inline]
    fn drop(&mut self) {
        if let Some(mut bytes) = self.0.take()
            && bytes.0.capacity() <= KEEP
        {
            bytes.0.clear();
            SCRATCH.set(Some(bytes));
        }
    }
}

/// Encodes a short object of one of the simple types, or a short container of such; false for all others, with `head` in any
/// state.
#[inline]
pub(super) fn encode_simple(py: Python<'_>, obj: &Bound<'_, PyAny>, head: &mut Vec<u8>) -> bool {
    scalar(py, obj, head, None) || small::encode(py, obj, head)
}

/// Encodes one of the simple types; false if it is none. A large body is lent to `tail` instead of being copied.
#[inline]
pub(super) fn scalar<'a>(
    py: Python<'_>,
    obj: &'a Bound<'_, PyAny>,
    head: &mut Vec<u8>,
    tail: Option<&mut &'a [u8]>,
) -> bool {
    if obj.is_exact_instance_of::<PyInt>() {
        let Ok(value) = obj.extract::<i64>() else {
            return false;
        };
        head.push(INT);
        head.extend_from_slice(&value.to_le_bytes());
        return true;
    }
    let (tag, body) = if let Ok(text) = obj.cast_exact::<PyString>() {
        // Lone surrogates have no UTF-8; a pickle has a way for them.
        let Ok(text) = text.to_str() else {
            return false;
        };
        (STR, text.as_bytes())
    } else if let Ok(bytes) = obj.cast_exact::<PyBytes>() {
        (BYTES, bytes.as_bytes())
    } else if obj.is_none() {
        head.push(NONE);
        return true;
    } else if let Ok(float) = obj.cast_exact::<PyFloat>() {
        head.push(FLOAT);
        head.extend_from_slice(&float.value().to_le_bytes());
        return true;
    } else if let Ok(truth) = obj.cast_exact::<PyBool>() {
        head.push(if truth.is_true() { TRUE } else { FALSE });
        return true;
    } else {
        let _ = py;
        return false;
    };
    match tail {
        Some(tail) if body.len() > JOIN => {
            head.push(tag);
            *tail = body;
        }
        None if body.len() > JOIN => return false,
        _ => {
            head.push(tag);
            head.extend_from_slice(body);
        }
    }
    true
}

/// Copies a large buffer to a shared object; the part is a ticket for it.
pub(super) fn to_memory(py: Python<'_>, session: &'static Session, bytes: &[u8]) -> PyResult<Part> {
    ticket_for(session, &memory_of(py, session, bytes)?)
}

/// Copies a large buffer to a shared object.
pub(super) fn memory_of(
    py: Python<'_>,
    session: &'static Session,
    bytes: &[u8],
) -> PyResult<Memory> {
    let block = to_block(py, session, bytes)?;
    Memory::of_block(session, block.at).map_err(errors::shm)
}

/// A ticket for a shared object, as a part of a message.
pub(super) fn ticket_for(session: &'static Session, memory: &Memory) -> PyResult<Part> {
    let at = session.make_ticket(memory.handle()).map_err(errors::shm)?;
    Ok(Part { at, len: 8 })
}

/// Copies a large buffer to a block of this process.
pub(super) fn to_block(py: Python<'_>, session: &'static Session, bytes: &[u8]) -> PyResult<Part> {
    let len = bytes.len() as u64;
    let copy = || {
        let at = session.alloc(len, BlockOwner::process(session.me()?))?;
        session.segment().write(at, bytes)?;
        Ok(Part { at, len })
    };
    // Other threads may run while a large one is copied.
    if bytes.len() >= 1 << 18 {
        py.detach(copy)
    } else {
        copy()
    }
    .map_err(errors::shm)
}

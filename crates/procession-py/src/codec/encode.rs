//! From Python objects to messages.

use std::cell::Cell;
use std::sync::Arc;

use procession_shm::Session;
use procession_shm::arena::BlockOwner;
use procession_shm::bundle::Part;
use procession_shm::memory::Memory;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyFloat, PyInt, PyString};

use super::pickler::Buffers;
use super::repeated::Repeated;
use super::{BYTES, FALSE, FLOAT, INT, NONE, PICKLE, STR, TRUE, bind, ndarray, pickler, small};
use crate::errors;

/// An encoded object, ready to be put. Its blocks are this process's until the message is committed.
pub(crate) struct Encoded<'a> {
    /// The first bytes; the buffer is reused.
    pub(crate) head: Vec<u8>,
    /// What follows them, where it lies.
    pub(crate) tail: &'a [u8],
    /// The block that goes along.
    pub(crate) block: Option<u64>,
    session: &'static Session,
}

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Larger texts and bytes are not copied together with their head.
const JOIN: usize = 1 << 10;
/// Larger scratch buffers are not kept.
const KEEP: usize = 1 << 20;

impl Encoded<'_> {
    pub(super) fn session(&self) -> &'static Session {
        self.session
    }

    /// The message was put: its blocks are not ours any more.
    pub(crate) fn sent(mut self) {
        self.block = None;
    }
}

impl Drop for Encoded<'_> {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            let _ = self.session.free_block(block);
        }
        let mut scratch = std::mem::take(&mut self.head);
        if scratch.capacity() <= KEEP {
            scratch.clear();
            SCRATCH.set(scratch);
        }
    }
}

/// An encoding to be filled.
#[inline]
pub(super) fn fresh<'a>(session: &'static Session) -> Encoded<'a> {
    Encoded {
        head: SCRATCH.take(),
        tail: &[],
        block: None,
        session,
    }
}

/// Encodes an object. What is borrowed from it must not change until the message is put.
#[inline]
pub(crate) fn encode<'a>(
    py: Python<'_>,
    session: &'static Session,
    obj: &'a Bound<'_, PyAny>,
) -> PyResult<Encoded<'a>> {
    encode_item(py, session, obj, None)
}

/// Encodes one of many objects: a large buffer that several of them have in common is sent once.
#[inline]
pub(crate) fn encode_item<'a>(
    py: Python<'_>,
    session: &'static Session,
    obj: &'a Bound<'_, PyAny>,
    repeated: Option<&Arc<Repeated>>,
) -> PyResult<Encoded<'a>> {
    let mut out = fresh(session);
    if scalar_with_tail(py, obj, &mut out) {
        return Ok(out);
    }
    if small::is_container(obj) {
        if small::encode(py, obj, &mut out.head) {
            return Ok(out);
        }
        out.head.clear();
    } else if !repeated.is_some_and(|r| r.is_whole(obj)) && ndarray::encode(py, obj, &mut out)? {
        return Ok(out);
    }
    let buffers = repeated.map_or(Buffers::Own, |r| Buffers::Repeated(r.clone()));
    pickled(py, obj, &mut out, buffers)?;
    Ok(out)
}

/// Encodes an object that many processes will read: its large buffers are shared objects, sent once.
pub(crate) fn encode_shared<'a>(
    py: Python<'_>,
    session: &'static Session,
    obj: &'a Bound<'_, PyAny>,
) -> PyResult<Encoded<'a>> {
    let mut out = fresh(session);
    pickled(py, obj, &mut out, Buffers::Shared)?;
    Ok(out)
}

pub(super) fn pickled(
    py: Python<'_>,
    obj: &Bound<'_, PyAny>,
    out: &mut Encoded<'_>,
    buffers: Buffers,
) -> PyResult<()> {
    let session = out.session;
    let pickle = pickler::dump(py, obj, Some((session, buffers)))?;
    let mut parts = pickle.parts;
    out.head.push(PICKLE);
    out.head
        .extend_from_slice(&(parts.len() as u32).to_le_bytes());
    out.head.extend_from_slice(&pickle.bytes);
    for handle in pickle.handles {
        let at = session.make_ticket(&handle).map_err(errors::shm)?;
        parts.push(Part { at, len: 8 });
    }
    out.block = bind(session, &parts)?;
    Ok(())
}

/// Encodes one of the simple types, whose body may be lent; false if it is none.
#[inline]
pub(super) fn scalar_with_tail<'a>(
    py: Python<'_>,
    obj: &'a Bound<'_, PyAny>,
    out: &mut Encoded<'a>,
) -> bool {
    scalar(py, obj, &mut out.head, Some(&mut out.tail))
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

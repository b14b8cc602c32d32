//! Objects as they are kept in stores: written once, read any number of times.
//!
//! The bytes are those of messages, but large buffers are shared objects, of which each reader gets a private view.

use procession_shm::Session;
use procession_shm::memory::Memory;
use procession_shm::objects::Handle;
use procession_shm::store::{Content, Stored};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use super::decode::{loads, malformed, simple, skip};
use super::encode::Encoded;
use super::pickler::Buffers;
use super::{DICT, LIST, NDARRAY, PICKLE, TUPLE, ndarray, small};
use crate::buffer::BlockBuffer;
use crate::errors;

/// A value as it was found in a store: finished, or to be finished without the guard.
pub(crate) enum Kept<'py> {
    /// A simple value.
    Object(Bound<'py, PyAny>),
    /// An encoding, and the objects that go with it.
    Later(Bound<'py, PyBytes>, Vec<Handle>),
    /// An encoding that is not copied yet.
    Pinned(Memory, Vec<Handle>),
}

/// Encodes an object for a store.
pub(crate) fn encode_kept<'a>(
    py: Python<'_>,
    session: &'static Session,
    obj: &'a Bound<'_, PyAny>,
) -> PyResult<Encoded<'a>> {
    let mut out = Encoded::new(session);
    if out.scalar(py, obj) {
        return Ok(out);
    }
    if small::is_container(obj) {
        if small::encode(py, obj, out.head_mut()) {
            return Ok(out);
        }
        out.head_mut().clear();
    } else if ndarray::encode_small(py, obj, &mut out)? {
        return Ok(out);
    }
    out.pickle(py, obj, Buffers::Shared)?;
    Ok(out)
}

/// Copies an object, to be put into a store.
pub(crate) fn store_value(
    py: Python<'_>,
    session: &'static Session,
    obj: &Bound<'_, PyAny>,
) -> PyResult<Stored> {
    let mut encoded = encode_kept(py, session, obj)?;
    let stored = Stored::make(session, encoded.message()).map_err(errors::shm)?;
    encoded.sent();
    Ok(stored)
}

/// For use under the guard: makes simple objects, copies the rest.
#[inline]
pub(crate) fn take_kept<'py>(
    py: Python<'py>,
    content: Content<'_>,
    handles: Vec<Handle>,
) -> Kept<'py> {
    match content {
        Content::Bytes(bytes) => match simple(py, bytes) {
            Some(obj) => Kept::Object(obj),
            None => Kept::Later(PyBytes::new(py, bytes), handles),
        },
        Content::Pinned(memory) => Kept::Pinned(memory, handles),
    }
}

/// Finishes what [`take_kept`] has begun, without any guard.
pub(crate) fn finish_kept<'py>(py: Python<'py>, kept: Kept<'py>) -> PyResult<Bound<'py, PyAny>> {
    let (bytes, handles) = match kept {
        Kept::Object(obj) => return Ok(obj),
        Kept::Later(bytes, handles) => (bytes, handles),
        Kept::Pinned(memory, handles) => {
            let session = memory.handle().session();
            let bytes = session.segment().bytes(memory.offset(), memory.len());
            let bytes = bytes.map_err(errors::corrupt)?;
            if let Some(done) = simple(py, bytes) {
                return Ok(done);
            }
            (PyBytes::new(py, bytes), handles)
        }
    };
    let Some((&tag, body)) = bytes.as_bytes().split_first() else {
        return Err(malformed());
    };
    match tag {
        TUPLE | LIST | DICT => {
            small::decode(py, bytes.as_bytes()).unwrap_or_else(|| Err(malformed()))
        }
        NDARRAY => ndarray::decode_small(py, body),
        PICKLE => {
            let (count, _) = body.split_first_chunk::<4>().ok_or_else(malformed)?;
            let count = u32::from_le_bytes(*count) as usize;
            let shared = handles.get(..count).ok_or_else(malformed)?;
            let options = PyDict::new(py);
            if count > 0 {
                let buffers = PyList::empty(py);
                for handle in shared {
                    let memory = Memory::of(handle.clone()).map_err(errors::shm)?;
                    let session = handle.session();
                    buffers.append(Py::new(py, BlockBuffer::view(session, memory)?)?)?;
                }
                options.set_item(pyo3::intern!(py, "buffers"), buffers)?;
            }
            // The objects that came along stay while this runs, and then are held by what has been made of them.
            loads(py)?.call((skip(py, &bytes, 5)?,), Some(&options))
        }
        _ => Err(malformed()),
    }
}

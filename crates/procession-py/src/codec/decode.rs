//! From messages to Python objects.

use procession_shm::arena::BlockOwner;
use procession_shm::bundle::{self, Part};
use procession_shm::memory::Memory;
use procession_shm::primitive::Ordering;
use procession_shm::{Session, ShmError};
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString};

use super::{
    BYTES, DICT, FALSE, FLOAT, INT, LIST, NDARRAY, NONE, PICKLE, RAW, STR, TRUE, TUPLE, ndarray,
    small,
};
use crate::buffer::BlockBuffer;
use crate::errors;

/// What was taken out of a ring while its guard was held: a finished object, or what is needed to finish it afterwards.
pub(crate) enum Taken<'py> {
    /// A simple value.
    Object(Bound<'py, PyAny>),
    /// An encoding that is decoded without the guard, since that may run any Python code.
    Later(Bound<'py, PyBytes>, Option<u64>),
}

/// For use under the guard: makes simple objects, copies the rest.
#[inline]
pub(crate) fn take<'py>(py: Python<'py>, bytes: &[u8], block: Option<u64>) -> Taken<'py> {
    match simple(py, bytes) {
        Some(obj) => Taken::Object(obj),
        None => Taken::Later(PyBytes::new(py, bytes), block),
    }
}

/// As [`take`], without making sense of the bytes.
pub(crate) fn take_raw<'py>(py: Python<'py>, bytes: &[u8], block: Option<u64>) -> Taken<'py> {
    Taken::Later(PyBytes::new(py, bytes), block)
}

pub(super) fn malformed() -> PyErr {
    PyRuntimeError::new_err("a message has a form that this version of procession does not know")
}

/// One of the simple types; `None` if it is another, or malformed.
#[inline]
pub(super) fn simple<'py>(py: Python<'py>, bytes: &[u8]) -> Option<Bound<'py, PyAny>> {
    let (&tag, body) = bytes.split_first()?;
    Some(match tag {
        INT => PyInt::new(py, i64::from_le_bytes(body.try_into().ok()?)).into_any(),
        NONE => py.None().into_bound(py),
        TRUE => PyBool::new(py, true).to_owned().into_any(),
        FALSE => PyBool::new(py, false).to_owned().into_any(),
        FLOAT => PyFloat::new(py, f64::from_le_bytes(body.try_into().ok()?)).into_any(),
        STR => PyString::new(py, std::str::from_utf8(body).ok()?).into_any(),
        BYTES => PyBytes::new(py, body).into_any(),
        _ => return None,
    })
}

/// Finishes what [`take`] has begun, without any guard. The block is this process's.
#[inline]
pub(crate) fn finish<'py>(
    py: Python<'py>,
    session: &'static Session,
    taken: Taken<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    match taken {
        Taken::Object(obj) => Ok(obj),
        Taken::Later(bytes, block) => finish_later(py, session, &bytes, block),
    }
}

fn finish_later<'py>(
    py: Python<'py>,
    session: &'static Session,
    bytes: &Bound<'py, PyBytes>,
    block: Option<u64>,
) -> PyResult<Bound<'py, PyAny>> {
    let data = bytes.as_bytes();
    let Some((&tag, body)) = data.split_first() else {
        return Err(malformed());
    };
    match tag {
        TUPLE | LIST | DICT => small::decode(py, data).unwrap_or_else(|| Err(malformed())),
        PICKLE => {
            let (count, _) = body.split_first_chunk::<4>().ok_or_else(malformed)?;
            let buffers = u32::from_le_bytes(*count) as usize;
            let view = skip(py, bytes, 5)?;
            loads_pickle(py, &view, block.map(|b| (session, b, buffers)))
        }
        RAW => loads_pickle(py, &skip(py, bytes, 1)?, None),
        NDARRAY => ndarray::decode(py, session, body, block),
        _ => simple(py, data).ok_or_else(malformed),
    }
}

/// The bytes after the first few: a copy while they are few, a view otherwise.
pub(super) fn skip<'py>(
    py: Python<'py>,
    bytes: &Bound<'py, PyBytes>,
    from: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let data = bytes.as_bytes();
    if data.len() <= 4096 {
        return Ok(PyBytes::new(py, &data[from..]).into_any());
    }
    let view = pyo3::types::PyMemoryView::from(bytes)?;
    view.get_item(pyo3::types::PySlice::new(py, from as isize, isize::MAX, 1))
}

/// The function that unpickles.
pub(super) fn loads(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let found = LOADS.get_or_try_init(py, || -> PyResult<_> {
        Ok(py.import("_pickle")?.getattr("loads")?.unbind())
    })?;
    Ok(found.bind(py))
}

/// Unpickles, with the buffers that came in a block of this process.
pub(crate) fn loads_pickle<'py>(
    py: Python<'py>,
    data: &Bound<'py, PyAny>,
    block: Option<(&'static Session, u64, usize)>,
) -> PyResult<Bound<'py, PyAny>> {
    let loads = loads(py)?;
    let Some((session, block, count)) = block else {
        return loads.call1((data,));
    };
    let (buffers, tickets) = open(py, session, block, count)?;
    let options = PyDict::new(py);
    options.set_item(intern!(py, "buffers"), buffers)?;
    let result = loads.call((data,), Some(&options));
    // The objects that came along are held by now, by whatever has been made of the message.
    for ticket in tickets {
        session.free_block(ticket).map_err(errors::shm)?;
    }
    result
}

/// Takes a block of this process apart: `count` buffers, then tickets to be freed once the message has been read.
fn open<'py>(
    py: Python<'py>,
    session: &'static Session,
    block: u64,
    count: usize,
) -> PyResult<(Bound<'py, PyList>, Vec<u64>)> {
    let flags = |at: u64| -> Result<BlockOwner, ShmError> {
        Ok(BlockOwner::from_word(
            session.block(at)?.owner.load(Ordering::Acquire),
        ))
    };
    let parts = if flags(block).map_err(errors::shm)?.has(BlockOwner::MANIFEST) {
        bundle::unbind(session, block).map_err(errors::shm)?
    } else {
        let record = session.block(block).map_err(errors::corrupt)?;
        let size = session.block_size(block).map_err(errors::corrupt)?;
        vec![Part {
            at: block,
            len: record.link.load(Ordering::Relaxed).min(size),
        }]
    };
    let buffers = PyList::empty(py);
    let mut tickets = Vec::new();
    for (i, part) in parts.into_iter().enumerate() {
        let ticket = flags(part.at).map_err(errors::shm)?.has(BlockOwner::TICKET);
        if i >= count {
            tickets.push(part.at);
        } else if ticket {
            let handle = session.redeem(part.at).map_err(errors::shm)?;
            let memory = Memory::of(handle).map_err(errors::shm)?;
            buffers.append(Py::new(py, BlockBuffer::view(session, memory)?)?)?;
            tickets.push(part.at);
        } else {
            buffers.append(Py::new(py, BlockBuffer::own(session, part.at, part.len))?)?;
        }
    }
    Ok((buffers, tickets))
}

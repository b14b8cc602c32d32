//! Python objects as bytes and back.
//!
//! Small values of the commonest exact types have an encoding of their own, fifty times faster than a pickle; everything else
//! is pickled (protocol 5) by a reused pickler with the reductions of `ForkingPickler`. Large buffers leave the pickle and
//! travel in blocks of their own: one copy at the sender, none at the receiver.
//!
//! | first byte | what follows |
//! |---|---|
//! | 0, 1, 2 | None, True, False |
//! | 3, 4 | an int of 64 bits, a float, little-endian |
//! | 5, 6 | UTF-8 text, bytes, to the end |
//! | 7, 12, 13 | a short tuple, list or dict, see `small` |
//! | 8 | how many of the parts in the message's block are buffers (the others are tickets), then a pickle |
//! | 9 | bytes as they were given to `send_bytes` |
//! | 10 | a NumPy array or scalar: its type and shape; the contents follow, or are the message's block |
//! | 11, 14, 15 | a pool's batch, see `batch` |

pub(crate) mod batch;
mod decode;
mod encode;
mod kept;
mod ndarray;
mod pickler;
pub(crate) mod range;
mod repeated;
mod small;

use std::cell::RefCell;

use procession_shm::bundle::Part;
use procession_shm::objects::Handle;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::{errors, life};

pub(crate) use decode::{Taken, finish, loads_pickle, take, take_raw};
pub(crate) use encode::Encoded;
pub(crate) use kept::{Kept, encode_kept, finish_kept, store_value, take_kept};
pub(crate) use repeated::Repeated;

pub(crate) const NONE: u8 = 0;
const TRUE: u8 = 1;
const FALSE: u8 = 2;
pub(crate) const INT: u8 = 3;
pub(crate) const FLOAT: u8 = 4;
pub(crate) const STR: u8 = 5;
pub(crate) const BYTES: u8 = 6;
pub(crate) const TUPLE: u8 = 7;
const PICKLE: u8 = 8;
/// See the table above.
pub(crate) const RAW: u8 = 9;
const NDARRAY: u8 = 10;
const BATCH: u8 = 11;
const LIST: u8 = 12;
const DICT: u8 = 13;
const RANGE: u8 = 14;
const LISTED: u8 = 15;

thread_local! {
    /// While this thread pickles for another member of the session: the objects that go with the message.
    static TRANSIT: RefCell<Option<Vec<Handle>>> = const { RefCell::new(None) };
}

/// Is this thread pickling for another member of the session, so that shared objects may go along?
#[pyfunction]
pub(crate) fn in_transit() -> bool {
    TRANSIT.with_borrow(Option::is_some)
}

/// How Python code names a shared object. While pickling for transit, the message keeps the object alive.
pub(crate) fn handle_out(handle: &Handle) -> (u32, u64) {
    TRANSIT.with_borrow_mut(|t| {
        if let Some(list) = t {
            list.push(handle.clone());
        }
    });
    let session = handle.session().id() & 0x7fff_ffff;
    (
        handle.index(),
        session << 32 | u64::from(handle.generation()),
    )
}

/// The shared object that was named so.
pub(crate) fn handle_in(py: Python<'_>, index: u32, generation: u64) -> PyResult<Handle> {
    let session = life::session(py)?;
    if generation >> 32 != session.id() & 0x7fff_ffff {
        return Err(PyOSError::new_err(
            "the shared object belongs to another session: it can only be passed to processes started by this program",
        ));
    }
    session.hold(index, generation as u32).map_err(errors::shm)
}

/// The message's block for these parts.
fn bind(session: &'static procession_shm::Session, parts: &[Part]) -> PyResult<Option<u64>> {
    match parts {
        [] => Ok(None),
        [one] => Ok(Some(one.at)),
        many => procession_shm::bundle::bind(session, many)
            .map(Some)
            .map_err(errors::shm),
    }
}

/// Encodes an object as one bytes object, for transports that have no blocks.
#[pyfunction]
pub(crate) fn dumps<'py>(
    py: Python<'py>,
    obj: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyBytes>> {
    let pickle = pickler::dump(py, obj, None)?;
    Ok(PyBytes::new(py, &pickle.bytes))
}

/// Decodes what `dumps` made.
#[pyfunction]
pub(crate) fn loads<'py>(
    py: Python<'py>,
    data: &Bound<'py, PyBytes>,
) -> PyResult<Bound<'py, PyAny>> {
    loads_pickle(py, data.as_any(), None)
}

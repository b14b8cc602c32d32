//! Many small objects as one message: quick calls cost less than handing each of them over.
//!
//! ```text
//! arguments:  BATCH | (length u16 | encoding)*
//!             RANGE | start i64 | step i64 | count u32
//!             LISTED | the encoding of a list of them all
//! outcomes:   (status u8 | length u16 | encoding)*
//! an int:     status u8 | (bytes + 1) << 4 | the int's lowest bytes
//! ```
//!
//! Of outcomes the last one may be large: its length says [`REST`], its encoding is the rest of the message and has the
//! message's block.

use procession_shm::Session;
use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::list::BoundListIterator;
use pyo3::types::{PyInt, PyList};

use super::encode::{encode_simple, scalar};
use super::range::Range;
use super::{BATCH, Encoded, LISTED, RANGE, Taken, finish, take};

/// A batch's arguments are not longer.
pub(crate) const ARGUMENTS_MAX: usize = 1000;
/// Longer encodings do not go into a batch of arguments.
const ARGUMENT_MAX: usize = 200;
/// Instead of a length: the rest of the message.
const REST: u16 = u16::MAX;

/// Adds an object to a batch's arguments; false if it does not fit, or has a block.
#[inline]
pub(crate) fn add(batch: &mut Vec<u8>, encoded: &Encoded<'_>) -> bool {
    let len = encoded.head().len() + encoded.tail.len();
    if encoded.block.is_some() || len > ARGUMENT_MAX || batch.len() + len + 3 > ARGUMENTS_MAX {
        return false;
    }
    if batch.is_empty() {
        batch.push(BATCH);
    }
    batch.extend_from_slice(&(len as u16).to_le_bytes());
    batch.extend_from_slice(encoded.head());
    batch.extend_from_slice(encoded.tail);
    true
}

/// As [`add`], straight from an object of one of the simple types; false for all others.
#[inline]
pub(crate) fn add_simple(py: Python<'_>, batch: &mut Vec<u8>, obj: &Bound<'_, PyAny>) -> bool {
    let before = batch.len();
    if batch.is_empty() {
        batch.push(BATCH);
    }
    if simple(py, batch, obj, ARGUMENT_MAX) && batch.len() <= ARGUMENTS_MAX {
        return true;
    }
    batch.truncate(before);
    false
}

/// Is an object's encoding simple, whatever its size?
pub(crate) fn is_simple(obj: &Bound<'_, PyAny>) -> bool {
    let py = obj.py();
    scalar(py, obj, &mut Vec::new(), Some(&mut &[][..]))
}

/// Adds the length and the encoding of an object of one of the simple types.
#[inline]
fn simple(py: Python<'_>, out: &mut Vec<u8>, obj: &Bound<'_, PyAny>, most: usize) -> bool {
    let at = out.len();
    out.extend_from_slice(&[0, 0]);
    if !encode_simple(py, obj, out) {
        return false;
    }
    let len = out.len() - at - 2;
    out[at..at + 2].copy_from_slice(&(len as u16).to_le_bytes());
    len <= most
}

/// Writes an outcome of one of the simple types, head and all; false for all others.
#[inline]
pub(crate) fn outcome_simple(
    py: Python<'_>,
    status: u8,
    out: &mut Vec<u8>,
    obj: &Bound<'_, PyAny>,
) -> bool {
    out.clear();
    if obj.is_exact_instance_of::<PyInt>()
        && let Ok(int) = obj.extract::<i64>()
    {
        let len = int_len(int);
        out.push(status | (len as u8 + 1) << INT_SHIFT);
        out.extend_from_slice(&int.to_le_bytes()[..len]);
        return true;
    }
    out.push(status);
    simple(py, out, obj, usize::from(REST) - 1)
}

/// An int outcome says so, and how long it is, in the upper half of its status.
const INT_SHIFT: u32 = 4;

/// How many of an int's lowest bytes tell all of it; the rest is its sign.
#[inline]
fn int_len(int: i64) -> usize {
    if int == 0 {
        return 0;
    }
    let unsigned = if int < 0 { !int } else { int };
    // One bit more, for the sign.
    (65 - unsigned.leading_zeros()).div_ceil(8) as usize
}

/// An int of which so many bytes are told.
#[inline]
fn int_of(bytes: &[u8]) -> Option<i64> {
    let mut word = match bytes.last() {
        Some(top) if top >> 7 == 1 => [0xff; 8],
        _ => [0; 8],
    };
    word.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(word))
}

/// The arguments of a batch that are still to be taken.
pub(crate) enum Arguments<'a, 'py> {
    Encoded(&'a [u8]),
    Range(Range),
    Listed(BoundListIterator<'py>),
}

impl<'a, 'py> Arguments<'a, 'py> {
    /// Of a message, if it is a batch.
    pub(crate) fn of(
        py: Python<'py>,
        session: &'static Session,
        message: &'a [u8],
        block: impl FnOnce() -> Option<u64>,
    ) -> PyResult<Option<Self>> {
        Ok(match message.split_first() {
            Some((&BATCH, rest)) => Some(Self::Encoded(rest)),
            Some((&RANGE, rest)) => Range::read(rest).map(Self::Range),
            Some((&LISTED, rest)) => {
                let list = finish(py, session, take(py, rest, block()));
                let list = match list.and_then(|l| Ok(l.cast_into::<PyList>()?)) {
                    Ok(list) => list,
                    // If one cannot be decoded none is run like this, and the parent has each run by itself.
                    Err(error) if error.is_instance_of::<PyException>(py) => PyList::empty(py),
                    Err(error) => return Err(error),
                };
                Some(Self::Listed(list.into_iter()))
            }
            _ => None,
        })
    }

    /// The next one, for [`finish`].
    #[inline]
    pub(crate) fn next(&mut self, py: Python<'py>) -> Option<Taken<'py>> {
        match self {
            Self::Listed(rest) => rest.next().map(Taken::Object),
            Self::Encoded(rest) => {
                let (len, after) = rest.split_first_chunk::<2>()?;
                let (one, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
                *rest = after;
                Some(take(py, one, None))
            }
            Self::Range(range) => {
                let int = range.next()?;
                Some(Taken::Object(PyInt::new(py, int).into_any()))
            }
        }
    }
}

/// What stands before an outcome's encoding; `None` if it has to be the last one, with a head of [`last_head`].
#[inline]
pub(crate) fn head(status: u8, encoded: &Encoded<'_>) -> Option<[u8; 3]> {
    let len = encoded.head().len() + encoded.tail.len();
    let short = u16::try_from(len).ok().filter(|len| *len != REST);
    let [a, b] = short.filter(|_| encoded.block.is_none())?.to_le_bytes();
    Some([status, a, b])
}

/// What stands before the encoding of a large outcome, the last of its batch.
pub(crate) fn last_head(status: u8) -> [u8; 3] {
    let [a, b] = REST.to_le_bytes();
    [status, a, b]
}

/// Decodes outcomes one by one; `each` is given their status and value.
pub(crate) fn outcomes<'py>(
    py: Python<'py>,
    session: &'static Session,
    mut message: &[u8],
    mut block: Option<u64>,
    mut each: impl FnMut(u8, PyResult<Bound<'py, PyAny>>) -> PyResult<()>,
) -> PyResult<()> {
    let malformed = || PyRuntimeError::new_err("a batch arrived in a form that makes no sense");
    while let Some((&status, rest)) = message.split_first() {
        if status >> INT_SHIFT > 0 {
            let len = usize::from(status >> INT_SHIFT) - 1;
            let (one, rest) = rest.split_at_checked(len).ok_or_else(malformed)?;
            message = rest;
            let int = int_of(one).ok_or_else(malformed)?;
            let value = PyInt::new(py, int).into_any();
            each(status & ((1 << INT_SHIFT) - 1), Ok(value))?;
            continue;
        }
        let (&[a, b], rest) = rest.split_first_chunk::<2>().ok_or_else(malformed)?;
        let len = u16::from_le_bytes([a, b]);
        let (one, rest) = if len == REST {
            (rest, &[][..])
        } else {
            rest.split_at_checked(len.into()).ok_or_else(malformed)?
        };
        message = rest;
        let block = if len == REST { block.take() } else { None };
        each(status, finish(py, session, take(py, one, block)))?;
    }
    if let Some(block) = block {
        let _ = session.free_block(block);
    }
    Ok(())
}

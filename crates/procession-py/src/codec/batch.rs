//! Many small objects as one message: quick calls cost less than handing each of them over.
//!
//! ```text
//! arguments:  BATCH | (length u16 | encoding)*
//! outcomes:   (status u8 | length u16 | encoding)*
//! ```
//!
//! Of outcomes the last one may be large: its length says [`REST`], its encoding is the rest of the message and has the
//! message's block.

use procession_shm::Session;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::encode::encode_simple;
use super::{BATCH, Encoded, finish, take};

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
    out.push(status);
    simple(py, out, obj, usize::from(REST) - 1)
}

/// The arguments of a batch, if the message is one.
pub(crate) fn arguments(message: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let (&tag, mut rest) = message.split_first()?;
    (tag == BATCH).then(|| {
        std::iter::from_fn(move || {
            let (len, after) = rest.split_first_chunk::<2>()?;
            let (one, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
            rest = after;
            Some(one)
        })
    })
}

/// How many arguments a batch has.
pub(crate) fn count(message: &[u8]) -> u64 {
    arguments(message).map_or(0, |all| all.count() as u64)
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
    while let Some((&[status, a, b], rest)) = message.split_first_chunk::<3>() {
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

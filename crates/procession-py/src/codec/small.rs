//! Short tuples, lists and dicts of simple values, and of each other, without a pickle.
//!
//! ```text
//! tuple, list:  tag | count u8 | (length u16 | encoding)*
//! dict:         tag | count u8 | (length u16 | key | length u16 | encoding)*
//! ```
//!
//! What stands in an object twice has to come out as one, which a pickle sees to. So a part that anything but its container refers
//! to is left to that, and the whole with it.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::decode::{malformed, simple};
use super::encode::scalar;
use super::{DICT, LIST, TUPLE};
use crate::raw::references;

/// Items of one of them.
const MOST: usize = 16;
/// How deep they may stand in each other.
const DEEPEST: u32 = 4;

/// Can this be one of them?
#[inline]
pub(super) fn is_container(obj: &Bound<'_, PyAny>) -> bool {
    obj.is_exact_instance_of::<PyTuple>()
        || obj.is_exact_instance_of::<PyList>()
        || obj.is_exact_instance_of::<PyDict>()
}

/// Encodes a short tuple, list or dict; false for all others, with `head` in any state.
#[inline]
pub(super) fn encode(py: Python<'_>, obj: &Bound<'_, PyAny>, head: &mut Vec<u8>) -> bool {
    container(py, obj, head, 1)
}

fn container(py: Python<'_>, obj: &Bound<'_, PyAny>, head: &mut Vec<u8>, depth: u32) -> bool {
    let mut begin = |tag, count: usize| {
        head.push(tag);
        head.push(count as u8);
        count <= MOST
    };
    if let Ok(tuple) = obj.cast_exact::<PyTuple>() {
        let mut items = tuple.iter_borrowed();
        begin(TUPLE, tuple.len()) && items.all(|item| part(py, &item, head, depth, 1))
    } else if let Ok(list) = obj.cast_exact::<PyList>() {
        begin(LIST, list.len()) && list.iter().all(|item| part(py, &item, head, depth, 2))
    } else if let Ok(dict) = obj.cast_exact::<PyDict>() {
        begin(DICT, dict.len())
            && dict
                .iter()
                .all(|(key, value)| key_part(py, &key, head) && part(py, &value, head, depth, 2))
    } else {
        false
    }
}

/// `alone` is how many references there are to an item that only its container refers to: the container's, and ours if we have one.
fn part(
    py: Python<'_>,
    item: &Bound<'_, PyAny>,
    head: &mut Vec<u8>,
    depth: u32,
    alone: isize,
) -> bool {
    with_length(head, |head| {
        let at = head.len();
        if scalar(py, item, head, None) {
            return true;
        }
        head.truncate(at);
        depth < DEEPEST && references(item) <= alone && container(py, item, head, depth + 1)
    })
}

fn key_part(py: Python<'_>, key: &Bound<'_, PyAny>, head: &mut Vec<u8>) -> bool {
    with_length(head, |head| scalar(py, key, head, None))
}

#[inline]
fn with_length(head: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
    let at = head.len();
    head.extend_from_slice(&[0, 0]);
    if !body(head) {
        return false;
    }
    let Ok(len) = u16::try_from(head.len() - at - 2) else {
        return false;
    };
    head[at..at + 2].copy_from_slice(&len.to_le_bytes());
    true
}

/// Decodes one of them; `None` if the bytes are something else.
pub(super) fn decode<'py>(py: Python<'py>, bytes: &[u8]) -> Option<PyResult<Bound<'py, PyAny>>> {
    decode_at(py, bytes, 1)
}

fn decode_at<'py>(
    py: Python<'py>,
    bytes: &[u8],
    depth: u32,
) -> Option<PyResult<Bound<'py, PyAny>>> {
    let (&tag, body) = bytes.split_first()?;
    if !matches!(tag, TUPLE | LIST | DICT) || depth > DEEPEST {
        return None;
    }
    let (&count, rest) = body.split_first()?;
    Some(parts(py, tag, usize::from(count), rest, depth))
}

fn parts<'py>(
    py: Python<'py>,
    tag: u8,
    count: usize,
    mut rest: &[u8],
    depth: u32,
) -> PyResult<Bound<'py, PyAny>> {
    let mut next = || -> PyResult<Bound<'py, PyAny>> {
        let (len, after) = rest.split_first_chunk::<2>().ok_or_else(malformed)?;
        let len = usize::from(u16::from_le_bytes(*len));
        let (item, after) = after.split_at_checked(len).ok_or_else(malformed)?;
        rest = after;
        simple(py, item)
            .map(Ok)
            .or_else(|| decode_at(py, item, depth + 1))
            .unwrap_or_else(|| Err(malformed()))
    };
    if tag == DICT {
        let dict = PyDict::new(py);
        for _ in 0..count {
            let key = next()?;
            dict.set_item(key, next()?)?;
        }
        return Ok(dict.into_any());
    }
    let mut items = Vec::with_capacity(count);
    for _ in 0..count {
        items.push(next()?);
    }
    Ok(if tag == LIST {
        PyList::new(py, items)?.into_any()
    } else {
        PyTuple::new(py, items)?.into_any()
    })
}

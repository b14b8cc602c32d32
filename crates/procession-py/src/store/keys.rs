//! Keys of dicts as bytes: equal keys have equal bytes.
//!
//! | the key | its identity |
//! |---|---|
//! | None, str, bytes | its encoding as a value |
//! | int, bool, a float without fraction | the int, so that `1 == 1.0 == True` |
//! | another float | its encoding as a value |
//! | a tuple of these | the identities of its items |
//!
//! Any other key is opaque: what it equals is for its own `__eq__` to say, in Python. So is NaN, which equals nothing.
//! Hashes of Python are not stored: those of texts differ from process to process.

use procession_shm::Session;
use procession_shm::ring::Message;
use procession_shm::store::Key;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyFloat, PyInt, PyString, PyTuple};

use crate::codec::{self, BYTES, Encoded, FLOAT, INT, NONE, STR, TUPLE};

/// Identity of an int of more than 64 bits.
const BIG: u8 = 0x80;
/// Tuples that are nested deeper are opaque.
const DEEP: u32 = 16;

/// A key while it is looked for.
pub(super) struct Held<'a> {
    identity: Vec<u8>,
    /// What is to be stored, where that is not the identity.
    shown: Option<Encoded<'a>>,
    opaque: bool,
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum Form {
    Plain,
    Shown,
    Opaque,
}

impl<'a> Held<'a> {
    /// Of an object that is to be found.
    #[inline]
    pub(super) fn find(py: Python<'_>, obj: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut identity = Vec::with_capacity(32);
        let form = identify(py, obj, &mut identity, 0)?;
        if form == Form::Opaque {
            // Unhashable ones are no keys.
            obj.hash()?;
        }
        Ok(Self {
            identity,
            shown: None,
            opaque: form == Form::Opaque,
        })
    }

    /// Of an object that is to be stored if it is not there.
    #[inline]
    pub(super) fn store(
        py: Python<'_>,
        session: &'static Session,
        obj: &'a Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let mut identity = Vec::with_capacity(32);
        let form = identify(py, obj, &mut identity, 0)?;
        if form == Form::Plain {
            return Ok(Self {
                identity,
                shown: None,
                opaque: false,
            });
        }
        obj.hash()?;
        let shown = codec::encode_kept(py, session, obj)?;
        Ok(Self {
            opaque: form == Form::Opaque || shown.message().block.is_some(),
            shown: Some(shown),
            identity,
        })
    }

    #[inline]
    pub(super) fn key(&self) -> Key<'_> {
        let shown = self
            .shown
            .as_ref()
            .map_or_else(Message::default, Encoded::message);
        if self.opaque {
            Key::opaque(shown)
        } else if self.shown.is_some() {
            Key::shown(&self.identity, shown)
        } else {
            Key::plain(&self.identity)
        }
    }

    pub(super) fn is_opaque(&self) -> bool {
        self.opaque
    }

    /// The key is in the map now, with what goes with it.
    pub(super) fn stored(&mut self) {
        if let Some(mut shown) = self.shown.take() {
            shown.sent();
        }
    }
}

#[inline]
fn identify(
    py: Python<'_>,
    obj: &Bound<'_, PyAny>,
    to: &mut Vec<u8>,
    depth: u32,
) -> PyResult<Form> {
    if let Ok(text) = obj.cast_exact::<PyString>() {
        // Lone surrogates have no UTF-8.
        let Ok(text) = text.to_str() else {
            return Ok(Form::Opaque);
        };
        to.push(STR);
        to.extend_from_slice(text.as_bytes());
        return Ok(Form::Plain);
    }
    if obj.is_exact_instance_of::<PyInt>() {
        return int(py, obj, to);
    }
    if obj.is_none() {
        to.push(NONE);
        return Ok(Form::Plain);
    }
    if let Ok(bytes) = obj.cast_exact::<PyBytes>() {
        to.push(BYTES);
        to.extend_from_slice(bytes.as_bytes());
        return Ok(Form::Plain);
    }
    if let Ok(truth) = obj.cast_exact::<PyBool>() {
        small(i64::from(truth.is_true()), to);
        return Ok(Form::Shown);
    }
    if let Ok(float) = obj.cast_exact::<PyFloat>() {
        let value = float.value();
        if value.is_nan() {
            return Ok(Form::Opaque);
        }
        if value.is_finite() && value.fract() == 0.0 {
            int(py, &obj.call_method0(intern!(py, "__int__"))?, to)?;
            return Ok(Form::Shown);
        }
        to.push(FLOAT);
        to.extend_from_slice(&value.to_le_bytes());
        return Ok(Form::Plain);
    }
    match obj.cast_exact::<PyTuple>() {
        Ok(tuple) if depth < DEEP => items(py, tuple, to, depth),
        _ => Ok(Form::Opaque),
    }
}

fn items(
    py: Python<'_>,
    tuple: &Bound<'_, PyTuple>,
    to: &mut Vec<u8>,
    depth: u32,
) -> PyResult<Form> {
    to.push(TUPLE);
    to.extend_from_slice(&(tuple.len() as u32).to_le_bytes());
    for item in tuple.iter() {
        let at = to.len();
        to.extend_from_slice(&[0; 4]);
        if identify(py, &item, to, depth + 1)? == Form::Opaque {
            return Ok(Form::Opaque);
        }
        let len = (to.len() - at - 4) as u32;
        to[at..at + 4].copy_from_slice(&len.to_le_bytes());
    }
    Ok(Form::Shown)
}

fn small(value: i64, to: &mut Vec<u8>) {
    to.push(INT);
    to.extend_from_slice(&value.to_le_bytes());
}

fn int(py: Python<'_>, obj: &Bound<'_, PyAny>, to: &mut Vec<u8>) -> PyResult<Form> {
    if let Ok(value) = obj.extract::<i64>() {
        small(value, to);
        return Ok(Form::Plain);
    }
    let bits: usize = obj.call_method0(intern!(py, "bit_length"))?.extract()?;
    let options = pyo3::types::PyDict::new(py);
    options.set_item(intern!(py, "signed"), true)?;
    let bytes = obj.call_method(
        intern!(py, "to_bytes"),
        (bits / 8 + 1, "little"),
        Some(&options),
    )?;
    to.push(BIG);
    to.extend_from_slice(bytes.cast::<PyBytes>()?.as_bytes());
    Ok(Form::Shown)
}

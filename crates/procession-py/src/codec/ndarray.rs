//! Arrays and scalars of `NumPy` without a pickle: type, shape, contents. Ten times faster for small ones.
//!
//! Only exact `numpy.ndarray`s in C order with a plain built-in type take this way, and scalars of such a type; all others are
//! pickled.

use procession_shm::Session;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyTuple, PyType};

use super::NDARRAY;
use super::encode::{Encoded, to_block};
use super::pickler::OUT_OF_BAND;
use crate::buffer::{self, BlockBuffer};

struct Numpy {
    ndarray: Py<PyType>,
    dtype: Py<PyType>,
    generic: Py<PyType>,
}

/// The types, by their letters, that take this way.
const PLAIN: &str = "?bBhHiIlLqQefdgFDG";
/// Instead of a number of dimensions: a scalar.
const SCALAR: u8 = u8::MAX;

static NUMPY: PyOnceLock<Numpy> = PyOnceLock::new();

/// `NumPy`, if this process has imported it.
fn numpy(py: Python<'_>) -> Option<&Numpy> {
    static MODULES: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    if let Some(found) = NUMPY.get(py) {
        return Some(found);
    }
    let modules = || -> PyResult<_> {
        let modules = py.import("sys")?.getattr("modules")?;
        Ok(modules.cast_into::<PyDict>()?.unbind())
    };
    let modules = MODULES.get_or_try_init(py, modules).ok()?.bind(py);
    let module = modules.get_item(intern!(py, "numpy")).ok()??;
    let class = |name| -> Option<Py<PyType>> {
        Some(
            module
                .getattr(name)
                .ok()?
                .cast_into::<PyType>()
                .ok()?
                .unbind(),
        )
    };
    let found = Numpy {
        ndarray: class("ndarray")?,
        dtype: class("dtype")?,
        generic: class("generic")?,
    };
    Some(NUMPY.get_or_init(py, || found))
}

/// The class of arrays, if this process can have any.
pub(super) fn class(py: Python<'_>) -> Option<&Bound<'_, PyType>> {
    numpy(py).map(|n| n.ndarray.bind(py))
}

/// Is this thread allowed to take the short way for `obj`? Its class is looked at by name before `NumPy` is looked for.
fn is_array(py: Python<'_>, obj: &Bound<'_, PyAny>) -> bool {
    match NUMPY.get(py) {
        Some(n) => obj.get_type().is(n.ndarray.bind(py)),
        None => {
            obj.get_type().name().is_ok_and(|n| n == "ndarray")
                && numpy(py).is_some_and(|n| obj.get_type().is(n.ndarray.bind(py)))
        }
    }
}

/// Encodes an array; false if it is none, or one that has to be pickled.
pub(super) fn encode(
    py: Python<'_>,
    obj: &Bound<'_, PyAny>,
    out: &mut Encoded<'_>,
) -> PyResult<bool> {
    encode_if(py, obj, out, |_| true)
}

/// As [`encode`], of an array that needs no block.
pub(super) fn encode_small(
    py: Python<'_>,
    obj: &Bound<'_, PyAny>,
    out: &mut Encoded<'_>,
) -> PyResult<bool> {
    encode_if(py, obj, out, |len| len < OUT_OF_BAND)
}

fn encode_if(
    py: Python<'_>,
    obj: &Bound<'_, PyAny>,
    out: &mut Encoded<'_>,
    wanted: impl FnOnce(usize) -> bool,
) -> PyResult<bool> {
    if !is_array(py, obj) {
        return encode_scalar(py, obj, out);
    }
    let dtype = obj.getattr(intern!(py, "dtype"))?;
    // 1: a built-in type in this machine's byte order; objects (kind O) would be pointers.
    if dtype.getattr(intern!(py, "isbuiltin"))?.extract::<i32>()? != 1 {
        return Ok(false);
    }
    let code: char = dtype.getattr(intern!(py, "char"))?.extract()?;
    if !PLAIN.contains(code) {
        return Ok(false);
    }
    let flags = obj.getattr(intern!(py, "flags"))?;
    if !flags.getattr(intern!(py, "c_contiguous"))?.is_truthy()? {
        return Ok(false);
    }
    // A read-only array arrives writable where it was pickled in band, read-only out of band; leave that to the pickle.
    if !flags.getattr(intern!(py, "writeable"))?.is_truthy()? {
        return Ok(false);
    }
    let shape = obj.getattr(intern!(py, "shape"))?.cast_into::<PyTuple>()?;
    if shape.len() > 32 {
        return Ok(false);
    }
    let raw = obj.call_method1(intern!(py, "view"), (intern!(py, "B"),));
    let Ok(raw) = raw else { return Ok(false) };
    let Ok(view) = PyBuffer::<u8>::get(&raw) else {
        return Ok(false);
    };
    if !view.is_c_contiguous() || !wanted(view.len_bytes()) {
        return Ok(false);
    }
    let head = out.head_mut();
    head.push(NDARRAY);
    head.push(code as u8);
    head.push(shape.len() as u8);
    for extent in shape.iter() {
        head.extend_from_slice(&extent.extract::<u64>()?.to_le_bytes());
    }
    if view.len_bytes() >= OUT_OF_BAND {
        let session = out.session();
        out.block = Some(buffer::with_bytes(&view, |b| to_block(py, session, b))?.at);
    } else {
        buffer::with_bytes(&view, |b| out.head_mut().extend_from_slice(b));
    }
    Ok(true)
}

fn encode_scalar(py: Python<'_>, obj: &Bound<'_, PyAny>, out: &mut Encoded<'_>) -> PyResult<bool> {
    let class = obj.get_type();
    let numpy = match NUMPY.get(py) {
        Some(numpy) => numpy,
        None if class.module().is_ok_and(|m| m == "numpy") => match numpy(py) {
            Some(numpy) => numpy,
            None => return Ok(false),
        },
        None => return Ok(false),
    };
    if !class.is_subclass(numpy.generic.bind(py))? {
        return Ok(false);
    }
    let dtype = obj.getattr(intern!(py, "dtype"))?;
    let code: char = dtype.getattr(intern!(py, "char"))?.extract()?;
    // Not a class of somebody's own; and a pickle takes "q" for "l", which is as long.
    if !PLAIN.contains(code)
        || "qQ".contains(code)
        || !dtype.getattr(intern!(py, "type"))?.is(&class)
    {
        return Ok(false);
    }
    let contents = obj.call_method0(intern!(py, "tobytes"))?;
    let head = out.head_mut();
    head.extend_from_slice(&[NDARRAY, code as u8, SCALAR]);
    head.extend_from_slice(contents.cast::<PyBytes>()?.as_bytes());
    Ok(true)
}

/// Makes an array again that needed no block.
pub(super) fn decode_small<'py>(py: Python<'py>, body: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    decode_with(py, body, |py, contents| {
        Ok(PyByteArray::new(py, contents).into_any())
    })
}

/// Makes the array again. Where its contents came in a block, they stay there.
pub(super) fn decode<'py>(
    py: Python<'py>,
    session: &'static Session,
    body: &[u8],
    block: Option<u64>,
) -> PyResult<Bound<'py, PyAny>> {
    let Some(at) = block else {
        return decode_small(py, body);
    };
    decode_with(py, body, |py, _| {
        let len = session.block(at).map_err(crate::errors::corrupt)?;
        let len = len.link.load(procession_shm::primitive::Ordering::Relaxed);
        let len = len.min(session.block_size(at).map_err(crate::errors::corrupt)?);
        Ok(Py::new(py, BlockBuffer::own(session, at, len))?
            .into_bound(py)
            .into_any())
    })
}

fn decode_with<'py>(
    py: Python<'py>,
    body: &[u8],
    memory: impl FnOnce(Python<'py>, &[u8]) -> PyResult<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let malformed = || PyRuntimeError::new_err("an array arrived in a form that makes no sense");
    let [code, dims, rest @ ..] = body else {
        return Err(malformed());
    };
    let is_scalar = *dims == SCALAR;
    let extents = if is_scalar { 0 } else { usize::from(*dims) * 8 };
    let (extents, contents) = rest.split_at_checked(extents).ok_or_else(malformed)?;
    let extents: Vec<u64> = extents
        .chunks_exact(8)
        .map(|c| u64::from_le_bytes(c.try_into().expect("eight bytes")))
        .collect();
    py.import(intern!(py, "numpy"))?;
    let numpy = numpy(py).ok_or_else(malformed)?;
    let dtype = dtype_of(py, numpy, *code)?;
    let memory = memory(py, contents)?;
    let array = numpy
        .ndarray
        .bind(py)
        .call1((PyTuple::new(py, extents)?, dtype, memory))?;
    if is_scalar {
        array.get_item(PyTuple::empty(py))
    } else {
        Ok(array)
    }
}

/// The types are made once: a lookup by letter costs more than the rest.
fn dtype_of<'py>(py: Python<'py>, numpy: &Numpy, code: u8) -> PyResult<Bound<'py, PyAny>> {
    static TYPES: [PyOnceLock<Py<PyAny>>; 128] = [const { PyOnceLock::new() }; 128];
    let cell = TYPES
        .get(usize::from(code))
        .ok_or_else(|| PyRuntimeError::new_err("an array of no known type"))?;
    let found = cell.get_or_try_init(py, || -> PyResult<_> {
        Ok(numpy
            .dtype
            .bind(py)
            .call1((char::from(code).to_string(),))?
            .unbind())
    })?;
    Ok(found.bind(py).clone())
}

//! The pickler: made once, used again and again.

use std::sync::{Arc, Mutex, PoisonError};

use procession_shm::Session;
use procession_shm::bundle::Part;
use procession_shm::objects::Handle;
use pyo3::buffer::PyBuffer;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use super::repeated::Repeated;
use super::{TRANSIT, encode, ndarray};
use crate::buffer;

/// Buffers of at least this many bytes travel out of band.
pub(super) const OUT_OF_BAND: usize = 16 << 10;

/// What becomes of an object's large buffers.
#[derive(Clone)]
pub(super) enum Buffers {
    /// Blocks that belong to the receiver.
    Own,
    /// Shared objects: any number of receivers see the same memory, each with a private view of it.
    Shared,
    /// As `Shared` for those that other objects of the same job have, too; as `Own` for the others.
    Repeated(Arc<Repeated>),
}

/// What became of an object.
pub(super) struct Pickle {
    pub(super) bytes: Vec<u8>,
    pub(super) parts: Vec<Part>,
    pub(super) handles: Vec<Handle>,
}

/// What the pickler writes to.
#[pyclass(frozen)]
pub(super) struct Sink {
    bytes: Mutex<Vec<u8>>,
    parts: Mutex<Vec<Part>>,
    session: Mutex<Option<(&'static Session, Buffers)>>,
}

#[pymethods]
impl Sink {
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<usize> {
        if let Ok(bytes) = data.cast_exact::<PyBytes>() {
            let bytes = bytes.as_bytes();
            lock(&self.bytes).extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        // Large bytes objects are handed over as they are, other buffers as views.
        let view = PyBuffer::<u8>::get(data)?;
        buffer::with_bytes(&view, |b| lock(&self.bytes).extend_from_slice(b));
        Ok(view.len_bytes())
    }

    /// The pickler's `buffer_callback`: true means that the buffer stays in the pickle.
    fn __call__(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<bool> {
        let Some((session, buffers)) = lock(&self.session).clone() else {
            return Ok(true);
        };
        let Ok(raw) = data.call_method0(intern!(py, "raw")) else {
            return Ok(true);
        };
        let view = PyBuffer::<u8>::get(&raw)?;
        if view.len_bytes() < OUT_OF_BAND {
            return Ok(true);
        }
        let known = match &buffers {
            Buffers::Repeated(repeated) => repeated.part(py, session, &raw, &view)?,
            _ => None,
        };
        let part = match (known, buffers) {
            (Some(part), _) => part,
            (None, Buffers::Shared) => {
                buffer::with_bytes(&view, |bytes| encode::to_memory(py, session, bytes))?
            }
            (None, _) => buffer::with_bytes(&view, |bytes| encode::to_block(py, session, bytes))?,
        };
        lock(&self.parts).push(part);
        Ok(false)
    }
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Reused {
    pickler: Py<PyAny>,
    sink: Py<Sink>,
    version: Version,
}

/// Picklers not in use. Taken out while one is, since pickling runs Python code that may pickle again.
static IDLE: Mutex<Vec<Reused>> = Mutex::new(Vec::new());

/// What the tables of a pickler were made of: sizes of the two, and whether there were arrays to think of.
type Version = (usize, usize, bool);

fn make(py: Python<'_>, version: Version) -> PyResult<Reused> {
    let sink = Py::new(
        py,
        Sink {
            bytes: Mutex::default(),
            parts: Mutex::default(),
            session: Mutex::default(),
        },
    )?;
    let class = py.import("_pickle")?.getattr("Pickler")?;
    let options = PyDict::new(py);
    options.set_item("protocol", 5)?;
    options.set_item("buffer_callback", &sink)?;
    let pickler = class.call((&sink,), Some(&options))?;
    let (copyreg, extra) = tables(py)?;
    let table = copyreg.copy()?;
    table.update(extra.as_mapping())?;
    if let Some(array) = ndarray::class(py)
        && !table.contains(array)?
    {
        let reduce = py.import("procession.reduction")?.getattr("reduce_array")?;
        table.set_item(array, reduce)?;
    }
    pickler.setattr("dispatch_table", table)?;
    Ok(Reused {
        pickler: pickler.unbind(),
        sink,
        version,
    })
}

/// The tables of reductions: the interpreter's and those of `ForkingPickler`.
fn tables(py: Python<'_>) -> PyResult<(&Bound<'_, PyDict>, &Bound<'_, PyDict>)> {
    static TABLES: PyOnceLock<(Py<PyDict>, Py<PyDict>)> = PyOnceLock::new();
    let found = TABLES.get_or_try_init(py, || -> PyResult<_> {
        let copyreg = py
            .import("copyreg")?
            .getattr("dispatch_table")?
            .cast_into::<PyDict>()?;
        let pickler = py
            .import("procession.reduction")?
            .getattr("ForkingPickler")?;
        let extra = pickler.getattr("_extra_reducers")?.cast_into::<PyDict>()?;
        Ok((copyreg.unbind(), extra.unbind()))
    })?;
    Ok((found.0.bind(py), found.1.bind(py)))
}

/// Pickles an object; with a session its large buffers go to blocks and shared objects may go along.
pub(super) fn dump(
    py: Python<'_>,
    obj: &Bound<'_, PyAny>,
    session: Option<(&'static Session, Buffers)>,
) -> PyResult<Pickle> {
    let (copyreg, extra) = tables(py)?;
    let version = (copyreg.len(), extra.len(), ndarray::class(py).is_some());
    let idle = lock(&IDLE).pop().filter(|r| r.version == version);
    let reused = match idle {
        Some(reused) => reused,
        None => make(py, version)?,
    };
    let sink = reused.sink.get();
    let target = session.as_ref().map(|(session, _)| *session);
    *lock(&sink.session) = session;
    let outer = target.map(|_| TRANSIT.replace(Some(Vec::new())));
    let pickler = reused.pickler.bind(py);
    let result = pickler.call_method1(intern!(py, "dump"), (obj,));
    let handles = match outer {
        Some(outer) => TRANSIT.replace(outer).unwrap_or_default(),
        None => Vec::new(),
    };
    let bytes = std::mem::take(&mut *lock(&sink.bytes));
    let parts = std::mem::take(&mut *lock(&sink.parts));
    if let Err(error) = result {
        // A pickler that failed half-way is not used again.
        for part in parts {
            if let Some(session) = target {
                let _ = session.free_block(part.at);
            }
        }
        return Err(explain(py, obj, error));
    }
    // The sink waits for its next use, and shall keep nothing alive meanwhile.
    *lock(&sink.session) = None;
    pickler.call_method0(intern!(py, "clear_memo"))?;
    lock(&IDLE).push(reused);
    Ok(Pickle {
        bytes,
        parts,
        handles,
    })
}

/// Adds to an exception where in the object the part is that cannot be pickled.
fn explain(py: Python<'_>, obj: &Bound<'_, PyAny>, error: PyErr) -> PyErr {
    let noted = || -> PyResult<()> {
        let explain = py
            .import("procession._explain")?
            .getattr("explain_unpicklable")?;
        explain.call1(PyTuple::new(py, [obj.as_any(), error.value(py).as_any()])?)?;
        Ok(())
    };
    // The explanation is a courtesy: if it fails, the exception itself still says what was wrong.
    let _ = noted();
    error
}

//! Futures of pools' calls, for other processes than the pool's.

use std::sync::OnceLock;

use procession_shm::sync::{Future, Outcome};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::{acquire, shared_object, unset};
use crate::codec::{self, Encoded, Taken};
use crate::{errors, life};

/// The outcome of a call, told once by the process that made this and read by any number of others.
#[pyclass(subclass, frozen, module = "procession._native")]
#[derive(Default)]
pub(crate) struct FutureCore {
    future: OnceLock<Future>,
}

shared_object!(FutureCore, future, Future::of);

impl FutureCore {
    fn get(&self) -> PyResult<&Future> {
        self.future.get().ok_or_else(unset)
    }
}

#[pymethods]
impl FutureCore {
    /// Makes the future in the session; for `__init__`.
    #[pyo3(signature = (name=""))]
    fn _create(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        let _ = self
            .future
            .set(Future::create(life::session(py)?, name).map_err(errors::shm)?);
        Ok(())
    }

    /// Tell the outcome: a result or an exception. False if it was told before.
    fn settle(&self, py: Python<'_>, returned: bool, value: &Bound<'_, PyAny>) -> PyResult<bool> {
        let future = self.get()?;
        let mut encoded = Encoded::of(py, future.handle().session(), value)?;
        let told = future
            .settle(returned, encoded.message())
            .map_err(errors::shm)?;
        if told {
            encoded.sent();
        }
        Ok(told)
    }

    /// Is there an outcome, or will there never be one?
    fn done(&self) -> PyResult<bool> {
        Ok(self.get()?.is_done())
    }

    /// Wait until `done`; false when the time was up first.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let future = self.get()?;
        if future.is_done() {
            return Ok(true);
        }
        acquire(py, true, timeout, |d, c| future.wait(d, c))
    }

    /// Whether the call returned, and what it returned or raised; `None` when nobody will ever tell, or has told yet.
    fn outcome<'py>(&self, py: Python<'py>) -> PyResult<Option<(bool, Bound<'py, PyAny>)>> {
        let future = self.get()?;
        let outcome = py.detach(|| future.outcome()).map_err(errors::shm)?;
        let Some(Outcome::Told {
            returned,
            bytes,
            block,
        }) = outcome
        else {
            return Ok(None);
        };
        let taken = Taken::Later(PyBytes::new(py, &bytes), block);
        let value = codec::finish(py, future.handle().session(), taken)?;
        Ok(Some((returned, value)))
    }

    /// Ask the call's process to stop it.
    fn ask_to_cancel(&self) -> PyResult<()> {
        self.get()?.ask_to_cancel();
        Ok(())
    }

    /// Has somebody asked for that?
    fn cancel_asked(&self) -> PyResult<bool> {
        Ok(self.get()?.is_cancel_asked())
    }
}

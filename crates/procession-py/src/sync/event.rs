//! Events.

use std::sync::OnceLock;

use procession_shm::sync::Event;
use pyo3::prelude::*;

use super::{acquire, shared_object, unset};
use crate::{errors, life};

/// A flag to wait for.
#[pyclass(subclass, frozen, module = "procession._native")]
#[derive(Default)]
pub(crate) struct EventCore {
    event: OnceLock<Event>,
}

shared_object!(EventCore, event, Event::of);

#[pymethods]
impl EventCore {
    /// Makes the event in the session; for `__init__`.
    #[pyo3(signature = (name=""))]
    fn _create(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        let _ = self
            .event
            .set(Event::create(life::session(py)?, name).map_err(errors::shm)?);
        Ok(())
    }

    /// Is the flag set?
    fn is_set(&self) -> PyResult<bool> {
        Ok(self.event.get().ok_or_else(unset)?.is_set())
    }

    /// Set the flag and wake all who wait.
    fn set(&self) -> PyResult<()> {
        self.event.get().ok_or_else(unset)?.set();
        Ok(())
    }

    /// Clear the flag.
    fn clear(&self) -> PyResult<()> {
        self.event.get().ok_or_else(unset)?.clear();
        Ok(())
    }

    /// Wait until the flag is set; false when the time was up first.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let event = self.event.get().ok_or_else(unset)?;
        if event.is_set() {
            return Ok(true);
        }
        acquire(py, true, timeout, |d, c| event.wait(d, c))
    }
}

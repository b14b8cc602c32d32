//! Conditions: who waits for whom, without the lock, which is Python's part.

use std::sync::{Mutex, OnceLock, PoisonError};

use procession_shm::WaitError;
use procession_shm::sync::{Condition, Ticket};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::{shared_object, unset};
use crate::{enter, errors, life};

/// The waiters of a condition.
#[pyclass(subclass, frozen, module = "procession._native")]
#[derive(Default)]
pub(crate) struct ConditionCore {
    condition: OnceLock<Condition>,
}

shared_object!(ConditionCore, condition, Condition::of);

#[pymethods]
impl ConditionCore {
    /// Makes the condition in the session; for `__init__`.
    #[pyo3(signature = (name=""))]
    fn _create(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        let _ = self
            .condition
            .set(Condition::create(life::session(py)?, name).map_err(errors::shm)?);
        Ok(())
    }

    /// Joins the waiters; the caller has the lock.
    fn _enlist(&self) -> PyResult<Waiter> {
        let ticket = self
            .condition
            .get()
            .ok_or_else(unset)?
            .enlist()
            .map_err(errors::shm)?;
        Ok(Waiter {
            ticket: Mutex::new(Some(ticket)),
        })
    }

    /// Lets some waiters go on; the caller has the lock.
    fn _notify(&self, count: u64) -> PyResult<u64> {
        Ok(self.condition.get().ok_or_else(unset)?.notify(count))
    }

    /// How many wait.
    fn _waiters(&self) -> PyResult<u64> {
        Ok(self.condition.get().ok_or_else(unset)?.waiters())
    }
}

/// A place among the waiters of a condition.
#[pyclass(frozen, module = "procession._native")]
pub(crate) struct Waiter {
    ticket: Mutex<Option<Ticket>>,
}

#[pymethods]
impl Waiter {
    /// Waits to be notified; the place is given up afterwards, whatever happens.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let ticket = self
            .ticket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(ticket) = ticket else {
            return Err(PyRuntimeError::new_err("this place was given up"));
        };
        let deadline = enter::after(timeout);
        let waited = enter::blocking(py, |check| match ticket.wait(deadline, check) {
            Ok(()) => Ok(true),
            Err(WaitError::TimedOut) => Ok(ticket.leave()),
            Err(other) => Err(other),
        })?;
        waited.map_err(errors::wait)
    }
}

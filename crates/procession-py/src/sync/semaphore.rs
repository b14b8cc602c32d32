//! Semaphores.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use procession_shm::sync::Semaphore;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::{acquire, shared_object, unset};
use crate::flag::Flag;
use crate::{errors, life};

/// A counting semaphore.
#[pyclass(subclass, frozen, module = "procession._native")]
#[derive(Default)]
pub(crate) struct SemaphoreCore {
    semaphore: OnceLock<Semaphore>,
    recovered: AtomicBool,
}

shared_object!(SemaphoreCore, semaphore, Semaphore::of);

impl SemaphoreCore {
    fn semaphore(&self) -> PyResult<&Semaphore> {
        self.semaphore.get().ok_or_else(unset)
    }

    fn take(slf: &Bound<'_, Self>, block: bool, timeout: Option<f64>) -> PyResult<bool> {
        let semaphore = slf.get().semaphore()?;
        if !semaphore.try_acquire().map_err(errors::shm)?
            && !acquire(slf.py(), block, timeout, |d, c| semaphore.acquire(d, c))?
        {
            return Ok(false);
        }
        if semaphore.take_recovery() {
            slf.get().recovered.store(true, Ordering::Relaxed);
            slf.call_method0("_on_recovered")?;
        }
        Ok(true)
    }
}

#[pymethods]
impl SemaphoreCore {
    /// Makes the semaphore in the session; for `__init__`.
    #[pyo3(signature = (value, maximum, name=""))]
    fn _create(&self, py: Python<'_>, value: u64, maximum: u64, name: &str) -> PyResult<()> {
        let made =
            Semaphore::create(life::session(py)?, name, value, maximum).map_err(errors::shm)?;
        let _ = self.semaphore.set(made);
        Ok(())
    }

    /// Acquire one unit.
    #[pyo3(signature = (block=Flag(true), timeout=None))]
    #[pyo3(text_signature = "($self, block=True, timeout=None)")]
    fn acquire(slf: &Bound<'_, Self>, block: Flag, timeout: Option<f64>) -> PyResult<bool> {
        Self::take(slf, block.0, timeout)
    }

    /// Release one unit.
    fn release(&self) -> PyResult<()> {
        if self.semaphore()?.release().map_err(errors::shm)? {
            Ok(())
        } else {
            Err(PyValueError::new_err(
                "semaphore or lock released too many times",
            ))
        }
    }

    fn __enter__(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::take(slf, true, None)
    }

    #[pyo3(signature = (_kind=None, _value=None, _traceback=None, /))]
    fn __exit__(
        &self,
        _kind: Option<&Bound<'_, PyAny>>,
        _value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        self.release()
    }

    /// Are all units taken?
    fn locked(&self) -> PyResult<bool> {
        Ok(self.semaphore()?.value() == 0)
    }

    /// Whether units came back from a process that died, and this process was the one to be told.
    #[getter]
    fn recovered(&self) -> bool {
        self.recovered.load(Ordering::Relaxed)
    }

    fn _get_value(&self) -> PyResult<u64> {
        Ok(self.semaphore()?.value())
    }
}

//! Barriers.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use procession_shm::WaitError;
use procession_shm::sync::{Arrival, Barrier, Broken};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::{shared_object, this_thread, unset};
use crate::{enter, errors, life};

/// What a barrier is made of.
#[pyclass(subclass, frozen, module = "procession._native")]
#[derive(Default)]
pub(crate) struct BarrierCore {
    barrier: OnceLock<Barrier>,
    /// Arrivals of this process that have not been waited for yet, by thread.
    arrivals: Mutex<HashMap<u64, Arrival>>,
}

shared_object!(BarrierCore, barrier, Barrier::of);

impl BarrierCore {
    fn barrier(&self) -> PyResult<&Barrier> {
        self.barrier.get().ok_or_else(unset)
    }

    fn arrival(&self) -> PyResult<Arrival> {
        let mut all = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&this_thread())
            .ok_or_else(|| PyRuntimeError::new_err("this thread has not arrived"))
    }

    /// Did the barrier open? Who goes without an answer breaks it.
    fn settled(
        barrier: &Barrier,
        arrival: Arrival,
        passed: PyResult<Result<Result<(), Broken>, WaitError>>,
    ) -> PyResult<bool> {
        if let Ok(Ok(passed)) = passed {
            return Ok(passed.is_ok());
        }
        barrier.give_up(arrival).map_err(errors::shm)?;
        match passed? {
            Err(error) if !matches!(error, WaitError::TimedOut) => Err(errors::wait(error)),
            _ => Ok(false),
        }
    }
}

#[pymethods]
impl BarrierCore {
    /// Makes the barrier in the session; for `__init__`.
    #[pyo3(signature = (parties, name=""))]
    fn _create(&self, py: Python<'_>, parties: u64, name: &str) -> PyResult<()> {
        let _ = self
            .barrier
            .set(Barrier::create(life::session(py)?, name, parties).map_err(errors::shm)?);
        Ok(())
    }

    /// Arrives: (index, last), or `None` if the barrier is broken, or if the time was up.
    #[pyo3(signature = (timeout=None))]
    fn _arrive(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<(u64, bool)>> {
        let barrier = self.barrier()?;
        let deadline = enter::after(timeout);
        let arrival = match enter::blocking(py, |check| barrier.arrive(deadline, check))? {
            Ok(Ok(arrival)) => arrival,
            Ok(Err(Broken)) | Err(WaitError::TimedOut) => return Ok(None),
            Err(other) => return Err(errors::wait(other)),
        };
        let mut all = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(this_thread(), arrival);
        Ok(Some((arrival.index, arrival.last)))
    }

    /// The last party lets the others go on; false if the barrier broke meanwhile.
    #[pyo3(signature = (timeout=None))]
    fn _open(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let (barrier, arrival) = (self.barrier()?, self.arrival()?);
        let deadline = enter::after(timeout);
        let opened = enter::blocking(py, |check| barrier.open(arrival, deadline, check));
        Self::settled(barrier, arrival, opened)
    }

    /// Waits for the last party: true when open, false when broken. Who cannot wait any longer breaks it.
    #[pyo3(signature = (timeout=None))]
    fn _wait_open(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let (barrier, arrival) = (self.barrier()?, self.arrival()?);
        let deadline = enter::after(timeout);
        let passed = enter::blocking(py, |check| barrier.wait(arrival, deadline, check));
        Self::settled(barrier, arrival, passed)
    }

    /// Break the barrier.
    fn abort(&self) -> PyResult<()> {
        self.barrier()?.abort().map_err(errors::shm)
    }

    /// Make the barrier whole and empty.
    fn reset(&self) -> PyResult<()> {
        self.barrier()?.reset().map_err(errors::shm)
    }

    /// How many parties it takes.
    #[getter]
    fn parties(&self) -> PyResult<u64> {
        Ok(self.barrier()?.parties())
    }

    /// How many are waiting.
    #[getter]
    fn n_waiting(&self) -> PyResult<u64> {
        Ok(self.barrier()?.waiting())
    }

    /// Is it broken?
    #[getter]
    fn broken(&self) -> PyResult<bool> {
        Ok(self.barrier()?.is_broken())
    }
}

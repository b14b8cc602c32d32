//! What has become of a pool's items, as Python sees it.

use procession_engine::pool::{Collected, Failure, Outcome};
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::batches::Items;
use crate::codec::batch;
use crate::pool::{EXITED, PoolCore, RETURNED, decode};

impl PoolCore {
    /// What became of an item: (succeeded, value or exception).
    pub(crate) fn outcome<'py>(
        &self,
        py: Python<'py>,
        job: u64,
        item: u64,
        found: Collected,
    ) -> PyResult<(bool, Bound<'py, PyAny>)> {
        match found.outcome {
            Outcome::Done { status, payload } => {
                let value = decode(py, self.session, payload);
                self.told(py, job, item, status, value)
            }
            Outcome::Failed(failure) => Ok((false, self.failed(py, job, item, failure)?)),
        }
    }

    /// What a worker has told of an item.
    fn told<'py>(
        &self,
        py: Python<'py>,
        job: u64,
        item: u64,
        status: u8,
        value: PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<(bool, Bound<'py, PyAny>)> {
        match value {
            Ok(value) if status == RETURNED => Ok((true, value)),
            Ok(value) if status == EXITED => {
                let (pid, code): (u32, Option<i32>) = value.extract()?;
                Ok((false, self.explain(py, job, item, "died", pid, code)?))
            }
            Ok(value) => Ok((false, value)),
            // It could be pickled there and cannot be unpickled here: that item's error.
            Err(error) => Ok((false, error.into_value(py).into_bound(py).into_any())),
        }
    }

    /// The exception for an item without a result.
    fn failed<'py>(
        &self,
        py: Python<'py>,
        job: u64,
        item: u64,
        failure: Failure,
    ) -> PyResult<Bound<'py, PyAny>> {
        match failure {
            Failure::WorkerDied { pid, exit, .. } => self.explain(py, job, item, "died", pid, exit),
            Failure::TimedOut { pid, .. } => self.explain(py, job, item, "timed out", pid, None),
            Failure::Cancelled => self.explain(py, job, item, "cancelled", 0, None),
            Failure::Terminated => self.explain(py, job, item, "terminated", 0, None),
        }
    }

    fn explain<'py>(
        &self,
        py: Python<'py>,
        job: u64,
        item: u64,
        kind: &str,
        pid: u32,
        exit: Option<i32>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.failure.bind(py).call1((job, item, kind, pid, exit))
    }

    /// Tells what has become of a batch.
    pub(crate) fn take_batch<'py>(
        &self,
        py: Python<'py>,
        job: u64,
        found: Collected,
        items: &Items,
        lists: &mut Lists<'_, 'py>,
    ) -> PyResult<()> {
        let first = lists.results.len();
        let outcomes = |bytes: &[u8], block, lists: &mut Lists<'_, 'py>| {
            batch::outcomes(py, self.session, bytes, block, |status, value| {
                let item = lists.results.len();
                if item >= first + items.len() {
                    return Ok(());
                }
                let (success, value) = self.told(py, job, item as u64, status, value)?;
                lists.push(success, value)
            })
        };
        // Without an outcome, but not to be run again either: up to where?
        let (failure, over) = match found.outcome {
            Outcome::Done { mut payload, .. } => {
                let block = payload.take_block();
                outcomes(payload.bytes(), block, lists)?;
                (None, 0)
            }
            Outcome::Failed(failure) => {
                let noted = found.noted.unwrap_or_default();
                outcomes(&noted.bytes, None, lists)?;
                let over = match failure {
                    Failure::WorkerDied { .. } => noted.begun,
                    _ => items.len(),
                };
                (Some(failure), over)
            }
        };
        while let Some(item) = items.get(py, lists.results.len() - first) {
            let at = lists.results.len() as u64;
            let number = lists.results.len() - first;
            match failure {
                Some(failure) if number < over => {
                    let error = self.failed(py, job, at, failure)?;
                    lists.push(false, error)?;
                }
                _ => {
                    lists.left.append((at, item))?;
                    lists.results.append(py.None())?;
                }
            }
        }
        Ok(())
    }
}

/// Where a map's outcomes go.
pub(crate) struct Lists<'a, 'py> {
    pub(crate) results: &'a Bound<'py, PyList>,
    pub(crate) errors: &'a Bound<'py, PyList>,
    pub(crate) left: &'a Bound<'py, PyList>,
}

impl<'py> Lists<'_, 'py> {
    pub(crate) fn push(&mut self, success: bool, value: Bound<'py, PyAny>) -> PyResult<()> {
        if success {
            return self.results.append(value);
        }
        self.errors.append((self.results.len(), value))?;
        self.results.append(self.results.py().None())
    }
}

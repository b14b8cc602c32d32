//! The core of a shared list.

use std::sync::OnceLock;

use procession_shm::store::{Batch, List, Run};
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyList, PySlice};

use super::{give_way, gone, turn};
use crate::codec::{Kept, finish_kept, store_value, take_kept};
use crate::sync::{shared_object, unset};
use crate::{errors, life};

/// A list of the session: it holds copies of values.
#[pyclass(subclass, frozen, module = "procession._native")]
#[derive(Default)]
pub(crate) struct ListCore {
    list: OnceLock<List>,
}

shared_object!(ListCore, list, List::of);

impl ListCore {
    #[inline]
    fn list(&self, py: Python<'_>) -> PyResult<&List> {
        let list = self.list.get().ok_or_else(unset)?;
        if list.is_orphan() {
            return Err(gone(py, list.handle()));
        }
        Ok(list)
    }

    /// As [`Self::list`], for a change.
    #[inline]
    fn list_to_change(&self, py: Python<'_>) -> PyResult<&List> {
        let list = self.list(py)?;
        give_way(py, || list.is_others_turn())?;
        Ok(list)
    }

    fn all<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyList>, u64)> {
        let list = self.list(py)?;
        let mut found: Vec<Kept<'py>> = Vec::new();
        let version = turn(
            py,
            |check| list.wait_turn(check),
            || {
                found.clear();
                list.snapshot(&mut |c, h| found.push(take_kept(py, c, h)))
            },
        )?;
        let values = PyList::empty(py);
        for kept in found {
            values.append(finish_kept(py, kept)?)?;
        }
        Ok((values, version))
    }

    fn batch(py: Python<'_>, values: &Bound<'_, PyAny>) -> PyResult<Batch> {
        let session = life::session(py)?;
        let mut stored = Vec::new();
        for value in values.try_iter()? {
            stored.push(store_value(py, session, &value?)?);
        }
        Batch::new(session, stored).map_err(errors::shm)
    }
}

/// A number that may stand in brackets; those that are too large are no index of any list.
fn number(index: &Bound<'_, PyAny>) -> PyResult<i64> {
    match index.extract::<i64>() {
        Err(error) if error.is_instance_of::<pyo3::exceptions::PyOverflowError>(index.py()) => Err(
            PyIndexError::new_err("cannot fit 'int' into an index-sized integer"),
        ),
        other => other,
    }
}

#[pymethods]
impl ListCore {
    /// Makes the list in the session; for `__init__`.
    #[pyo3(signature = (name=""))]
    fn _create(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        let list = List::create(life::session(py)?, name).map_err(errors::shm)?;
        let _ = self.list.set(list);
        Ok(())
    }

    /// How many values there are.
    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.list(py)?.len() as usize)
    }

    /// A value, or a list of those of a slice.
    fn _get<'py>(&self, py: Python<'py>, index: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        if index.is_instance_of::<PySlice>() {
            return self.all(py)?.0.as_any().get_item(index);
        }
        let index = number(index)?;
        let list = self.list(py)?;
        let got = turn(
            py,
            |check| list.wait_turn(check),
            || list.get(index, &mut |c, h| take_kept(py, c, h)),
        )?;
        match got {
            Some(kept) => finish_kept(py, kept),
            None => Err(PyIndexError::new_err("list index out of range")),
        }
    }

    /// Replace one value.
    fn _set(
        &self,
        py: Python<'_>,
        index: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let index = number(index)?;
        let list = self.list_to_change(py)?;
        let mut stored = store_value(py, life::session(py)?, value)?;
        if turn(
            py,
            |check| list.wait_turn(check),
            || list.set(index, &mut stored),
        )? {
            Ok(())
        } else {
            Err(PyIndexError::new_err("list assignment index out of range"))
        }
    }

    /// Add a value at the end.
    fn append(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let list = self.list_to_change(py)?;
        let mut stored = store_value(py, life::session(py)?, value)?;
        turn(py, |check| list.wait_turn(check), || list.push(&mut stored))
    }

    /// Add values at the end, as one change.
    fn extend(&self, py: Python<'_>, values: &Bound<'_, PyAny>) -> PyResult<()> {
        let list = self.list_to_change(py)?;
        let mut batch = Self::batch(py, values)?;
        turn(
            py,
            |check| list.wait_turn(check),
            || list.extend(&mut batch),
        )
    }

    /// Put a value before another one.
    fn insert(
        &self,
        py: Python<'_>,
        index: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let index = number(index)?;
        let list = self.list_to_change(py)?;
        let stored = store_value(py, life::session(py)?, value)?;
        let mut batch = Batch::new(life::session(py)?, vec![stored]).map_err(errors::shm)?;
        turn(
            py,
            |check| list.wait_turn(check),
            || list.insert(index, &mut batch),
        )
    }

    /// Take a value out and return it.
    #[pyo3(signature = (index=-1, /))]
    fn pop<'py>(&self, py: Python<'py>, index: i64) -> PyResult<Bound<'py, PyAny>> {
        let list = self.list_to_change(py)?;
        let popped = turn(
            py,
            |check| list.wait_turn(check),
            || list.pop(index, &mut |c, h| take_kept(py, c, h)),
        )?;
        match popped {
            Some(kept) => finish_kept(py, kept),
            None if list.is_empty() => Err(PyIndexError::new_err("pop from empty list")),
            None => Err(PyIndexError::new_err("pop index out of range")),
        }
    }

    /// Others are to hold their changes back for a while: they came first too often.
    fn _ask_for_turn(&self, py: Python<'_>) -> PyResult<()> {
        self.list(py)?.ask_for_turn().map_err(errors::shm)
    }

    /// What was asked for is over.
    fn _end_turn(&self) {
        if let Some(list) = self.list.get() {
            list.end_turn();
        }
    }

    /// All values, and the number of the version that has them.
    fn _snapshot<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyList>, u64)> {
        self.all(py)
    }

    /// Makes the list, if it still has this version, one of old values (by their index) and new ones (-1 is the first of
    /// `values`, -2 the second); no old value may be named twice. False if it has changed.
    fn _replace(
        &self,
        py: Python<'_>,
        version: u64,
        order: &Bound<'_, PyAny>,
        values: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let list = self.list_to_change(py)?;
        let mut plan: Vec<Run> = Vec::new();
        for item in order.try_iter()? {
            let number = item?.extract::<i64>()?;
            let (is_new, at) = if number < 0 {
                (true, !number as u64)
            } else {
                (false, number as u64)
            };
            match plan.last_mut() {
                Some(Run::New(_, to)) if is_new && *to == at => *to += 1,
                Some(Run::Old(_, to)) if !is_new && *to == at => *to += 1,
                _ if is_new => plan.push(Run::New(at, at + 1)),
                _ => plan.push(Run::Old(at, at + 1)),
            }
        }
        let mut batch = Self::batch(py, values)?;
        let named: u64 = plan
            .iter()
            .map(|run| match run {
                Run::New(from, to) => to - from,
                Run::Old(..) => 0,
            })
            .sum();
        if named != batch.len() as u64 {
            return Err(PyValueError::new_err("every new value has one place"));
        }
        turn(
            py,
            |check| list.wait_turn(check),
            || list.splice(version, &plan, &mut batch),
        )
    }
}

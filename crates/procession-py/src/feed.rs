//! Between an iterator and a job: items that were taken out while there was no room.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyIterator;

use crate::batches::Batches;
use crate::codec::Repeated;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is between an iterator and a job.
#[derive(Default)]
pub(crate) struct Feed {
    /// What the items have in common.
    pub(crate) repeated: Option<Arc<Repeated>>,
    /// Taken out of the iterator while there was no room.
    pub(crate) held: Mutex<VecDeque<Py<PyAny>>>,
    /// How many those are, so that the lock is taken only if there are any.
    pub(crate) held_count: AtomicUsize,
    /// If calls may be handed over together.
    pub(crate) batches: Option<Mutex<Batches>>,
}

impl Feed {
    /// The next item.
    #[inline]
    pub(crate) fn take<'py>(
        &self,
        py: Python<'py>,
        items: &Bound<'py, PyIterator>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        if self.held_count.load(Ordering::Relaxed) > 0 {
            let held = lock(&self.held).pop_front();
            if let Some(item) = held {
                self.held_count.fetch_sub(1, Ordering::Relaxed);
                return Ok(Some(item.into_bound(py)));
            }
        }
        items.clone().next().transpose()
    }

    /// Keeps an item for the next time.
    pub(crate) fn hold_back(&self, item: Bound<'_, PyAny>) {
        lock(&self.held).push_front(item.unbind());
        self.held_count.fetch_add(1, Ordering::Relaxed);
    }

    /// Keeps items for the next time, in their order.
    pub(crate) fn hold_back_all<'py>(
        &self,
        items: impl DoubleEndedIterator<Item = Bound<'py, PyAny>>,
    ) {
        items.rev().for_each(|item| self.hold_back(item));
    }
}

//! Large buffers that many messages of one job have in common: copied into the session once, and each message carries a
//! ticket for that.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use procession_shm::Session;
use procession_shm::bundle::Part;
use procession_shm::memory::Memory;
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use super::encode::{memory_of, ticket_for};
use crate::buffer;

/// Smaller buffers are copied as often as they come.
const LARGE: usize = 64 << 10;

/// Where a buffer lies, and how long it is.
type Place = (usize, usize);

struct Seen {
    /// As long as this lives, nothing else can lie in the same place.
    _kept: Py<PyAny>,
    memory: Option<Memory>,
}

/// The large buffers that the items of one job were seen with.
#[derive(Default)]
pub(crate) struct Repeated {
    seen: Mutex<HashMap<Place, Seen>>,
    /// Objects (by address) which are whole items, several times.
    whole: HashSet<usize>,
}

impl Repeated {
    /// For these items: a list or tuple, which keeps them as they are. What the first two have in common all may have.
    pub(crate) fn of(items: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        if !(items.is_exact_instance_of::<PyList>() || items.is_exact_instance_of::<PyTuple>())
            || items.len()? < 2
        {
            return Ok(None);
        }
        let (first, second) = (items.get_item(0)?, items.get_item(1)?);
        let mut repeated = Self::default();
        if first.is(&second) {
            repeated.expect(&first);
            repeated.whole.insert(first.as_ptr() as usize);
        } else if let (Ok(a), Ok(b)) = (
            first.cast_exact::<PyTuple>(),
            second.cast_exact::<PyTuple>(),
        ) {
            for (x, y) in a.iter().zip(b.iter()) {
                if x.is(&y) {
                    repeated.expect(&x);
                }
            }
        }
        Ok(Some(repeated))
    }

    fn expect(&mut self, obj: &Bound<'_, PyAny>) {
        if let Ok(view) = PyBuffer::<u8>::get(obj) {
            self.note(obj, &view);
        } else if let Ok(raw) = obj.call_method1("view", ("B",))
            && let Ok(view) = PyBuffer::<u8>::get(&raw)
        {
            // NumPy's arrays are buffers of their type; a view as bytes lies in the same place.
            self.note(obj, &view);
        }
    }

    fn note(&mut self, obj: &Bound<'_, PyAny>, view: &PyBuffer<u8>) {
        if view.is_c_contiguous() && view.len_bytes() >= LARGE {
            let seen = Seen {
                _kept: obj.clone().unbind(),
                memory: None,
            };
            self.seen
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(place(view), seen);
        }
    }

    /// Is this object an item several times, and has a large buffer?
    pub(super) fn is_whole(&self, obj: &Bound<'_, PyAny>) -> bool {
        self.whole.contains(&(obj.as_ptr() as usize))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Place, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A ticket for a buffer that has been seen before; `None` for one that has not.
    pub(super) fn part(
        &self,
        py: Python<'_>,
        session: &'static Session,
        raw: &Bound<'_, PyAny>,
        view: &PyBuffer<u8>,
    ) -> PyResult<Option<Part>> {
        if view.len_bytes() < LARGE {
            return Ok(None);
        }
        let at = place(view);
        // The lock is not held while the bytes are copied: the copy lets other threads run.
        let known = self.lock().get(&at).map(|entry| entry.memory.clone());
        let Some(known) = known else {
            let entry = Seen {
                _kept: raw.clone().unbind(),
                memory: None,
            };
            self.lock().insert(at, entry);
            return Ok(None);
        };
        let memory = if let Some(memory) = known {
            memory
        } else {
            let made = buffer::with_bytes(view, |bytes| memory_of(py, session, bytes))?;
            if let Some(entry) = self.lock().get_mut(&at) {
                entry.memory = Some(made.clone());
            }
            made
        };
        ticket_for(session, &memory).map(Some)
    }
}

fn place(view: &PyBuffer<u8>) -> Place {
    (view.buf_ptr() as usize, view.len_bytes())
}

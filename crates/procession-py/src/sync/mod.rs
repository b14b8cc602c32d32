//! Locks and their kin.

mod barrier;
mod condition;
mod event;
mod future;
mod locks;
mod semaphore;

use procession_shm::WaitError;
use procession_shm::wait::Check;
use procession_sys::clock::Deadline;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::{enter, errors};

pub(crate) use barrier::BarrierCore;
pub(crate) use condition::{ConditionCore, Waiter};
pub(crate) use event::EventCore;
pub(crate) use future::FutureCore;
pub(crate) use locks::{LockCore, RLockCore};
pub(crate) use semaphore::SemaphoreCore;

pub(crate) fn unset() -> PyErr {
    PyValueError::new_err("the object has not been set up: __init__ was not called")
}

/// Waits first with the interpreter, for as long as a look takes, then without it.
fn acquire(
    py: Python<'_>,
    block: bool,
    timeout: Option<f64>,
    wait: impl FnOnce(Deadline, Check<'_>) -> Result<(), WaitError> + Send,
) -> PyResult<bool> {
    let deadline = enter::deadline(block, timeout);
    if deadline.is_now() {
        return Ok(false);
    }
    match enter::blocking(py, |check| wait(deadline, check))? {
        Ok(()) => Ok(true),
        Err(WaitError::TimedOut) => Ok(false),
        Err(other) => Err(errors::wait(other)),
    }
}

/// A number that no other thread of this process has.
fn this_thread() -> u64 {
    thread_local!(static MARK: u8 = const { 0 });
    MARK.with(|m| std::ptr::from_ref(m) as u64)
}

/// The methods that all of these share: making, passing on, naming.
macro_rules! shared_object {
    ($class:ident, $field:ident, $of:path) => {
        impl $class {
            fn object(&self) -> PyResult<&procession_shm::objects::Handle> {
                self.$field
                    .get()
                    .map(|o| o.handle())
                    .ok_or_else($crate::sync::unset)
            }

            fn adopt(&self, py: Python<'_>, index: u32, generation: u64) -> PyResult<()> {
                let _ = self.$field.set(
                    $of(crate::codec::handle_in(py, index, generation)?)
                        .map_err(crate::errors::shm)?,
                );
                Ok(())
            }
        }

        #[pymethods]
        impl $class {
            #[new]
            #[pyo3(signature = (*_args, **_kwargs))]
            fn new(
                _args: &Bound<'_, pyo3::types::PyTuple>,
                _kwargs: Option<&Bound<'_, pyo3::types::PyDict>>,
            ) -> Self {
                Self::default()
            }

            /// Becomes the object that another process has told of; for `__setstate__`.
            fn _adopt(&self, py: Python<'_>, index: u32, generation: u64) -> PyResult<()> {
                self.adopt(py, index, generation)
            }

            /// What another process of the session finds the object by.
            fn handle(&self) -> PyResult<(u32, u64)> {
                Ok(crate::codec::handle_out(self.object()?))
            }

            /// The object that another process has told of.
            #[classmethod]
            fn from_handle<'py>(
                cls: &Bound<'py, pyo3::types::PyType>,
                py: Python<'py>,
                index: u32,
                generation: u64,
            ) -> PyResult<Bound<'py, PyAny>> {
                let made = cls.call_method1("__new__", (cls,))?;
                made.cast::<Self>()?.get().adopt(py, index, generation)?;
                Ok(made)
            }

            /// The name that tools show.
            fn _set_name(&self, name: &str) -> PyResult<()> {
                self.object()?.entry().set_name(name);
                Ok(())
            }
        }
    };
}
pub(crate) use shared_object;

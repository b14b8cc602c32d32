//! Locks and their kin.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use procession_shm::objects::Handle;
use procession_shm::sync::{Arrival, Barrier, Broken, Condition, Event, Lock, Semaphore, Ticket};
use procession_shm::wait::Check;
use procession_shm::WaitError;
use procession_sys::clock::Deadline;
use pyo3::exceptions::{PyAssertionError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::{codec, enter, errors, life};

fn unset() -> PyErr {
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
            fn object(&self) -> PyResult<&Handle> {
                self.$field.get().map(|o| o.handle()).ok_or_else(unset)
            }

            fn adopt(&self, py: Python<'_>, index: u32, generation: u64) -> PyResult<()> {
                let _ = self.$field.set($of(codec::handle_in(py, index, generation)?).map_err(errors::shm)?);
                Ok(())
            }
        }

        #[pymethods]
        impl $class {
            #[new]
            #[pyo3(signature = (*_args, **_kwargs))]
            fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
                Self::default()
            }

            /// Becomes the object that another process has told of; for `__setstate__`.
            fn _adopt(&self, py: Python<'_>, index: u32, generation: u64) -> PyResult<()> {
                self.adopt(py, index, generation)
            }

            /// What another process of the session finds the object by.
            fn handle(&self) -> PyResult<(u32, u64)> {
                Ok(codec::handle_out(self.object()?))
            }

            /// The object that another process has told of.
            #[classmethod]
            fn from_handle<'py>(
                cls: &Bound<'py, PyType>,
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

/// A lock of the session: whoever has it, any process may release it.
#[pyclass(subclass, frozen, module = "procession._native")]
#[derive(Default)]
pub(crate) struct LockCore {
    lock: OnceLock<Lock>,
    recovered: AtomicBool,
}

shared_object!(LockCore, lock, Lock::of);

impl LockCore {
    fn lock(&self) -> PyResult<&Lock> {
        self.lock.get().ok_or_else(unset)
    }

    #[cold]
    fn tell(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().recovered.store(true, Ordering::Relaxed);
        slf.call_method0("_on_recovered")?;
        Ok(())
    }

    fn take(slf: &Bound<'_, Self>, py: Python<'_>, block: bool, timeout: Option<f64>) -> PyResult<bool> {
        let lock = slf.get().lock()?;
        if !lock.try_acquire().map_err(errors::shm)? && !acquire(py, block, timeout, |d, c| lock.acquire(d, c))? {
            return Ok(false);
        }
        if lock.take_recovery() {
            Self::tell(slf)?;
        }
        Ok(true)
    }
}

#[pymethods]
impl LockCore {
    /// Makes the lock in the session; for `__init__`.
    #[pyo3(signature = (name=""))]
    fn _create(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        let _ = self.lock.set(Lock::create(life::session(py)?, name).map_err(errors::shm)?);
        Ok(())
    }

    /// Acquire the lock.
    #[pyo3(signature = (block=true, timeout=None))]
    fn acquire(slf: &Bound<'_, Self>, py: Python<'_>, block: bool, timeout: Option<f64>) -> PyResult<bool> {
        Self::take(slf, py, block, timeout)
    }

    /// Release the lock.
    fn release(&self) -> PyResult<()> {
        if self.lock()?.release() {
            Ok(())
        } else {
            Err(PyValueError::new_err("semaphore or lock released too many times"))
        }
    }

    fn __enter__(slf: &Bound<'_, Self>, py: Python<'_>) -> PyResult<bool> {
        Self::take(slf, py, true, None)
    }

    #[pyo3(signature = (*_exc))]
    fn __exit__(&self, _exc: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.release()
    }

    /// Is somebody in possession of the lock?
    fn locked(&self) -> PyResult<bool> {
        Ok(self.lock()?.is_locked())
    }

    /// Whether the last owner but one died in possession, and this process was the one to be told.
    #[getter]
    fn recovered(&self) -> bool {
        self.recovered.load(Ordering::Relaxed)
    }

    /// Who has it: (pid, name of the process).
    fn owner_info(&self) -> PyResult<Option<(u32, String)>> {
        Ok(owner_info(self.lock()?))
    }

    fn _get_value(&self) -> PyResult<i32> {
        Ok(i32::from(!self.lock()?.is_locked()))
    }

    fn _is_mine(&self) -> PyResult<bool> {
        Ok(self.lock()?.is_mine())
    }

    fn _count(&self) -> PyResult<u32> {
        Ok(u32::from(self.lock()?.is_mine()))
    }
}

fn owner_info(lock: &Lock) -> Option<(u32, String)> {
    let session = lock.handle().session();
    let slot = session.slot_of(lock.owner()?)?;
    Some((slot.process_id().pid, slot.name()))
}

/// A lock that its owner, a thread of a process, may take again and again.
#[pyclass(subclass, frozen, module = "procession._native")]
#[derive(Default)]
pub(crate) struct RLockCore {
    lock: OnceLock<Lock>,
    recovered: AtomicBool,
    /// The thread of this process that has it, if this process has it.
    thread: AtomicU64,
    depth: AtomicU32,
}

shared_object!(RLockCore, lock, Lock::of);

impl RLockCore {
    fn lock(&self) -> PyResult<&Lock> {
        self.lock.get().ok_or_else(unset)
    }

    fn mine(&self) -> PyResult<bool> {
        Ok(self.lock()?.is_mine() && self.thread.load(Ordering::Relaxed) == this_thread())
    }

    fn take(slf: &Bound<'_, Self>, py: Python<'_>, block: bool, timeout: Option<f64>) -> PyResult<bool> {
        let this = slf.get();
        if this.mine()? {
            this.depth.fetch_add(1, Ordering::Relaxed);
            return Ok(true);
        }
        let lock = this.lock()?;
        if !lock.try_acquire().map_err(errors::shm)? && !acquire(py, block, timeout, |d, c| lock.acquire(d, c))? {
            return Ok(false);
        }
        this.thread.store(this_thread(), Ordering::Relaxed);
        this.depth.store(1, Ordering::Relaxed);
        if lock.take_recovery() {
            this.recovered.store(true, Ordering::Relaxed);
            slf.call_method0("_on_recovered")?;
        }
        Ok(true)
    }
}

#[pymethods]
impl RLockCore {
    /// Makes the lock in the session; for `__init__`.
    #[pyo3(signature = (name=""))]
    fn _create(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        let _ = self.lock.set(Lock::create(life::session(py)?, name).map_err(errors::shm)?);
        Ok(())
    }

    /// Acquire the lock, or one more level of it.
    #[pyo3(signature = (block=true, timeout=None))]
    fn acquire(slf: &Bound<'_, Self>, py: Python<'_>, block: bool, timeout: Option<f64>) -> PyResult<bool> {
        Self::take(slf, py, block, timeout)
    }

    /// Release one level of the lock.
    fn release(&self) -> PyResult<()> {
        if !self.mine()? {
            return Err(PyAssertionError::new_err("attempt to release recursive lock not owned by thread"));
        }
        if self.depth.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.thread.store(0, Ordering::Relaxed);
            self.lock()?.release();
        }
        Ok(())
    }

    fn __enter__(slf: &Bound<'_, Self>, py: Python<'_>) -> PyResult<bool> {
        Self::take(slf, py, true, None)
    }

    #[pyo3(signature = (*_exc))]
    fn __exit__(&self, _exc: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.release()
    }

    /// Is somebody in possession of the lock?
    fn locked(&self) -> PyResult<bool> {
        Ok(self.lock()?.is_locked())
    }

    /// Whether the last owner but one died in possession, and this process was the one to be told.
    #[getter]
    fn recovered(&self) -> bool {
        self.recovered.load(Ordering::Relaxed)
    }

    /// Who has it: (pid, name of the process).
    fn owner_info(&self) -> PyResult<Option<(u32, String)>> {
        Ok(owner_info(self.lock()?))
    }

    fn _get_value(&self) -> PyResult<i32> {
        Ok(i32::from(!self.lock()?.is_locked()))
    }

    fn _is_mine(&self) -> PyResult<bool> {
        self.mine()
    }

    fn _count(&self) -> PyResult<u32> {
        Ok(if self.lock()?.is_mine() { self.depth.load(Ordering::Relaxed) } else { 0 })
    }
}

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

    fn take(slf: &Bound<'_, Self>, py: Python<'_>, block: bool, timeout: Option<f64>) -> PyResult<bool> {
        let semaphore = slf.get().semaphore()?;
        if !semaphore.try_acquire().map_err(errors::shm)?
            && !acquire(py, block, timeout, |d, c| semaphore.acquire(d, c))?
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
        let made = Semaphore::create(life::session(py)?, name, value, maximum).map_err(errors::shm)?;
        let _ = self.semaphore.set(made);
        Ok(())
    }

    /// Acquire one unit.
    #[pyo3(signature = (block=true, timeout=None))]
    fn acquire(slf: &Bound<'_, Self>, py: Python<'_>, block: bool, timeout: Option<f64>) -> PyResult<bool> {
        Self::take(slf, py, block, timeout)
    }

    /// Release one unit.
    fn release(&self) -> PyResult<()> {
        if self.semaphore()?.release().map_err(errors::shm)? {
            Ok(())
        } else {
            Err(PyValueError::new_err("semaphore or lock released too many times"))
        }
    }

    fn __enter__(slf: &Bound<'_, Self>, py: Python<'_>) -> PyResult<bool> {
        Self::take(slf, py, true, None)
    }

    #[pyo3(signature = (*_exc))]
    fn __exit__(&self, _exc: &Bound<'_, PyTuple>) -> PyResult<()> {
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
        let _ = self.condition.set(Condition::create(life::session(py)?, name).map_err(errors::shm)?);
        Ok(())
    }

    /// Joins the waiters; the caller has the lock.
    fn _enlist(&self) -> PyResult<Waiter> {
        let ticket = self.condition.get().ok_or_else(unset)?.enlist().map_err(errors::shm)?;
        Ok(Waiter { ticket: std::sync::Mutex::new(Some(ticket)) })
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
    ticket: std::sync::Mutex<Option<Ticket>>,
}

#[pymethods]
impl Waiter {
    /// Waits to be notified; the place is given up afterwards, whatever happens.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let ticket = self.ticket.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let Some(ticket) = ticket else { return Err(PyRuntimeError::new_err("this place was given up")) };
        let deadline = enter::after(timeout);
        let waited = enter::blocking(py, |check| match ticket.wait(deadline, check) {
            Ok(()) => Ok(true),
            Err(WaitError::TimedOut) => Ok(ticket.leave()),
            Err(other) => Err(other),
        })?;
        waited.map_err(errors::wait)
    }
}

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
        let _ = self.event.set(Event::create(life::session(py)?, name).map_err(errors::shm)?);
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

/// What a barrier is made of.
#[pyclass(subclass, frozen, module = "procession._native")]
#[derive(Default)]
pub(crate) struct BarrierCore {
    barrier: OnceLock<Barrier>,
    /// Arrivals of this process that have not been waited for yet, by thread.
    arrivals: std::sync::Mutex<std::collections::HashMap<u64, Arrival>>,
}

shared_object!(BarrierCore, barrier, Barrier::of);

impl BarrierCore {
    fn barrier(&self) -> PyResult<&Barrier> {
        self.barrier.get().ok_or_else(unset)
    }

    fn arrival(&self) -> PyResult<Arrival> {
        let mut all = self.arrivals.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.remove(&this_thread()).ok_or_else(|| PyRuntimeError::new_err("this thread has not arrived"))
    }
}

#[pymethods]
impl BarrierCore {
    /// Makes the barrier in the session; for `__init__`.
    #[pyo3(signature = (parties, name=""))]
    fn _create(&self, py: Python<'_>, parties: u64, name: &str) -> PyResult<()> {
        let _ = self.barrier.set(Barrier::create(life::session(py)?, name, parties).map_err(errors::shm)?);
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
        let mut all = self.arrivals.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.insert(this_thread(), arrival);
        Ok(Some((arrival.index, arrival.last)))
    }

    /// The last party lets the others go on; false if the barrier broke meanwhile.
    fn _open(&self) -> PyResult<bool> {
        Ok(self.barrier()?.open(self.arrival()?).map_err(errors::shm)?.is_ok())
    }

    /// Waits for the last party: true when open, false when broken. Who cannot wait any longer breaks it.
    #[pyo3(signature = (timeout=None))]
    fn _wait_open(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let (barrier, arrival) = (self.barrier()?, self.arrival()?);
        let deadline = enter::after(timeout);
        match enter::blocking(py, |check| barrier.wait(arrival, deadline, check)) {
            Ok(Ok(passed)) => Ok(passed.is_ok()),
            other => {
                barrier.give_up(arrival).map_err(errors::shm)?;
                match other? {
                    Err(error) if !matches!(error, WaitError::TimedOut) => Err(errors::wait(error)),
                    _ => Ok(false),
                }
            }
        }
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


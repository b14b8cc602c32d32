//! Locks: those that anybody may release, and those that their owner may take again.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use procession_shm::sync::Lock;
use pyo3::exceptions::{PyAssertionError, PyValueError};
use pyo3::prelude::*;

use super::{acquire, shared_object, this_thread, unset};
use crate::flag::Flag;
use crate::{errors, life};

/// A lock of the session: whoever has it, any process may release it.
#[pyclass(subclass, frozen, module = "procession._native")]
#[derive(Default)]
pub(crate) struct LockCore {
    lock: OnceLock<Lock>,
    recovered: AtomicBool,
    /// The thread of this process that took it last: who may wait with it for a condition, and who is shown to have it.
    thread: AtomicU64,
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

    fn take(slf: &Bound<'_, Self>, block: bool, timeout: Option<f64>) -> PyResult<bool> {
        let this = slf.get();
        let lock = this.lock()?;
        if !lock.try_acquire().map_err(errors::shm)? && !wait_for(slf.py(), lock, block, timeout)? {
            return Ok(false);
        }
        this.thread.store(this_thread(), Ordering::Relaxed);
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
        let _ = self
            .lock
            .set(Lock::create(life::session(py)?, name).map_err(errors::shm)?);
        Ok(())
    }

    /// Acquire the lock.
    #[pyo3(signature = (block=Flag(true), timeout=None))]
    #[pyo3(text_signature = "($self, block=True, timeout=None)")]
    fn acquire(slf: &Bound<'_, Self>, block: Flag, timeout: Option<f64>) -> PyResult<bool> {
        Self::take(slf, block.0, timeout)
    }

    /// Release the lock.
    fn release(&self) -> PyResult<()> {
        if self.lock()?.release() {
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

    // Not `*_exc`, for which a tuple would be made.
    #[pyo3(signature = (_kind=None, _value=None, _traceback=None, /))]
    fn __exit__(
        &self,
        _kind: Option<&Bound<'_, PyAny>>,
        _value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
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
        Ok(self.lock()?.is_mine() && self.thread.load(Ordering::Relaxed) == this_thread())
    }

    fn _count(&self) -> PyResult<u32> {
        Ok(u32::from(self.lock()?.is_mine()))
    }
}

/// Apart from the quick way, which needs no room for what a wait needs.
#[cold]
#[inline(never)]
fn wait_for(py: Python<'_>, lock: &Lock, block: bool, timeout: Option<f64>) -> PyResult<bool> {
    acquire(py, block, timeout, |d, c| lock.acquire(d, c))
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

    #[cold]
    fn tell(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().recovered.store(true, Ordering::Relaxed);
        slf.call_method0("_on_recovered")?;
        Ok(())
    }

    fn take(slf: &Bound<'_, Self>, block: bool, timeout: Option<f64>) -> PyResult<bool> {
        let this = slf.get();
        let lock = this.lock()?;
        if this.mine()? {
            this.depth.fetch_add(1, Ordering::Relaxed);
            return Ok(true);
        }
        if !lock.try_acquire().map_err(errors::shm)? && !wait_for(slf.py(), lock, block, timeout)? {
            return Ok(false);
        }
        this.thread.store(this_thread(), Ordering::Relaxed);
        this.depth.store(1, Ordering::Relaxed);
        if lock.take_recovery() {
            Self::tell(slf)?;
        }
        Ok(true)
    }
}

#[pymethods]
impl RLockCore {
    /// Makes the lock in the session; for `__init__`.
    #[pyo3(signature = (name=""))]
    fn _create(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        let _ = self
            .lock
            .set(Lock::create(life::session(py)?, name).map_err(errors::shm)?);
        Ok(())
    }

    /// Acquire the lock, or one more level of it.
    #[pyo3(signature = (block=Flag(true), timeout=None))]
    #[pyo3(text_signature = "($self, block=True, timeout=None)")]
    fn acquire(slf: &Bound<'_, Self>, block: Flag, timeout: Option<f64>) -> PyResult<bool> {
        Self::take(slf, block.0, timeout)
    }

    /// Release one level of the lock.
    fn release(&self) -> PyResult<()> {
        if !self.mine()? {
            return Err(PyAssertionError::new_err(
                "attempt to release recursive lock not owned by thread",
            ));
        }
        if self.depth.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.thread.store(0, Ordering::Relaxed);
            self.lock()?.release();
        }
        Ok(())
    }

    fn __enter__(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::take(slf, true, None)
    }

    // Not `*_exc`, for which a tuple would be made.
    #[pyo3(signature = (_kind=None, _value=None, _traceback=None, /))]
    fn __exit__(
        &self,
        _kind: Option<&Bound<'_, PyAny>>,
        _value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
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
        Ok(if self.lock()?.is_mine() {
            self.depth.load(Ordering::Relaxed)
        } else {
            0
        })
    }
}

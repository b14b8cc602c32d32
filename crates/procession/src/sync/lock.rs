//! Mutual exclusion between processes (and between the threads of each).

use std::time::Duration;

use procession_engine::home;
use procession_shm::sync;
use procession_sys::clock::Deadline;

use crate::error::{SessionError, at_last, in_time};
use crate::transit;

/// A lock that one thread of one process has at a time.
///
/// It protects whatever the programmer says that it protects. When its owner dies, the next who gets it is told by
/// [`LockGuard::recovered`], and may find that work half done.
///
/// ```
/// use procession::Lock;
///
/// let lock = Lock::new()?;
/// let guard = lock.lock()?;
/// assert!(!guard.recovered());
/// assert!(lock.try_lock()?.is_none());
/// drop(guard);
/// assert!(lock.try_lock()?.is_some());
/// # Ok::<(), procession::SessionError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Lock {
    inner: sync::Lock,
}

impl Lock {
    /// Makes a lock that nobody has.
    pub fn new() -> Result<Self, SessionError> {
        Self::named("")
    }

    /// Makes a lock with a name for `procession ps`.
    pub fn named(name: &str) -> Result<Self, SessionError> {
        Ok(Self {
            inner: sync::Lock::create(home::session()?, name)?,
        })
    }

    /// Takes the lock, waiting until it is free.
    pub fn lock(&self) -> Result<LockGuard<'_>, SessionError> {
        at_last(self.inner.acquire(Deadline::NEVER, &mut || true))?;
        Ok(LockGuard::of(self))
    }

    /// Takes the lock if it is free now.
    pub fn try_lock(&self) -> Result<Option<LockGuard<'_>>, SessionError> {
        Ok(self.inner.try_acquire()?.then(|| LockGuard::of(self)))
    }

    /// Takes the lock, waiting for `timeout` at most.
    pub fn lock_timeout(&self, timeout: Duration) -> Result<Option<LockGuard<'_>>, SessionError> {
        let deadline = Deadline::after(Some(timeout));
        let got = in_time(self.inner.acquire(deadline, &mut || true))?;
        Ok(got.map(|()| LockGuard::of(self)))
    }

    /// Does anybody have it?
    pub fn is_locked(&self) -> bool {
        self.inner.is_locked()
    }
}

/// The lock is the holder's until this is dropped.
#[derive(Debug)]
#[must_use = "the lock is free again as soon as this is dropped"]
pub struct LockGuard<'a> {
    lock: &'a Lock,
    recovered: bool,
}

impl<'a> LockGuard<'a> {
    fn of(lock: &'a Lock) -> Self {
        Self {
            recovered: lock.inner.take_recovery(),
            lock,
        }
    }

    /// Was the lock taken from an owner that had died with it?
    pub fn recovered(&self) -> bool {
        self.recovered
    }

    /// Gives the lock up and hands back what it was taken from, to be taken again.
    pub(super) fn let_go(self) -> &'a Lock {
        self.lock
    }
}

impl Drop for LockGuard<'_> {
    fn drop(&mut self) {
        self.lock.inner.release();
    }
}

transit::travels!([] Lock, |lock| lock.inner.handle(), |handle| {
    Ok(Lock { inner: sync::Lock::of(handle)? })
});

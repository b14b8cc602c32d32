//! Waiting, with a lock given up meanwhile, for somebody to say that something has changed.

use std::time::Duration;

use procession_engine::home;
use procession_shm::sync;
use procession_sys::clock::Deadline;

use super::lock::LockGuard;
use crate::error::{SessionError, at_last, in_time};
use crate::transit;

/// A condition variable, used together with a [`Lock`](super::Lock).
///
/// Who waits gives the lock up and has it again afterwards; who notifies has it meanwhile. There are no wake-ups without a
/// notification, but another process may have the lock first, so a condition is checked in a loop:
/// [`Condition::wait_while`] is that loop.
///
/// ```
/// use procession::{Condition, Lock};
/// use std::time::Duration;
///
/// let (lock, changed) = (Lock::new()?, Condition::new()?);
/// let guard = lock.lock()?;
/// assert_eq!(changed.notify_one(&guard), 0);
/// let (guard, notified) = changed.wait_timeout(guard, Duration::from_millis(1))?;
/// assert!(!notified);
/// # drop(guard);
/// # Ok::<(), procession::SessionError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Condition {
    inner: sync::Condition,
}

impl Condition {
    /// Makes a condition that nobody waits for.
    pub fn new() -> Result<Self, SessionError> {
        Self::named("")
    }

    /// Makes a condition with a name for `procession ps`.
    pub fn named(name: &str) -> Result<Self, SessionError> {
        Ok(Self {
            inner: sync::Condition::create(home::session()?, name)?,
        })
    }

    /// Gives the lock up, waits to be notified, and takes the lock again.
    pub fn wait<'a>(&self, guard: LockGuard<'a>) -> Result<LockGuard<'a>, SessionError> {
        let place = self.inner.enlist()?;
        let lock = guard.let_go();
        at_last(place.wait(Deadline::NEVER, &mut || true))?;
        lock.lock()
    }

    /// As [`Condition::wait`], but waits for `timeout` at most; also says whether a notification came.
    pub fn wait_timeout<'a>(
        &self,
        guard: LockGuard<'a>,
        timeout: Duration,
    ) -> Result<(LockGuard<'a>, bool), SessionError> {
        let place = self.inner.enlist()?;
        let lock = guard.let_go();
        let deadline = Deadline::after(Some(timeout));
        let notified = in_time(place.wait(deadline, &mut || true))?.is_some();
        // A notification that came after the deadline and before the place was given up counts, or it would be lost.
        let notified = place.leave() || notified;
        Ok((lock.lock()?, notified))
    }

    /// Waits for as long as `waiting` says so, looking whenever it is notified.
    pub fn wait_while<'a>(
        &self,
        mut guard: LockGuard<'a>,
        mut waiting: impl FnMut() -> bool,
    ) -> Result<LockGuard<'a>, SessionError> {
        while waiting() {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    /// Lets the process go on that has waited longest. Says how many there were (none or one).
    pub fn notify_one(&self, _having: &LockGuard<'_>) -> u64 {
        self.inner.notify(1)
    }

    /// Lets all go on that wait. Says how many there were.
    pub fn notify_all(&self, _having: &LockGuard<'_>) -> u64 {
        self.inner.notify(u64::MAX)
    }
}

transit::travels!([] Condition, |condition| condition.inner.handle(), |handle| {
    Ok(Condition { inner: sync::Condition::of(handle)? })
});

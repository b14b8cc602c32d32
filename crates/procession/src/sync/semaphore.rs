//! A number of permits.

use std::time::Duration;

use procession_engine::home;
use procession_shm::sync;
use procession_sys::clock::Deadline;

use crate::error::{SessionError, at_last, in_time};
use crate::transit;

/// A counter of permits that are taken and given back.
///
/// The permits of a process that dies come back, as far as the semaphore had them at its start.
///
/// ```
/// use procession::Semaphore;
///
/// let downloads = Semaphore::new(2)?;
/// let one = downloads.acquire()?;
/// let two = downloads.acquire()?;
/// assert!(downloads.try_acquire()?.is_none());
/// drop(one);
/// assert_eq!(downloads.value(), 1);
/// # drop(two);
/// # Ok::<(), procession::SessionError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Semaphore {
    inner: sync::Semaphore,
}

impl Semaphore {
    /// Makes a semaphore with so many permits to take.
    pub fn new(permits: u64) -> Result<Self, SessionError> {
        Self::named("", permits)
    }

    /// Makes a semaphore with a name for `procession ps`.
    pub fn named(name: &str, permits: u64) -> Result<Self, SessionError> {
        /// Far from where counting would wrap.
        const MOST: u64 = u64::MAX >> 1;
        Ok(Self {
            inner: sync::Semaphore::create(home::session()?, name, permits, MOST)?,
        })
    }

    /// Takes a permit, waiting for one.
    pub fn acquire(&self) -> Result<Permit<'_>, SessionError> {
        at_last(self.inner.acquire(Deadline::NEVER, &mut || true))?;
        Ok(Permit::of(self))
    }

    /// Takes a permit if there is one now.
    pub fn try_acquire(&self) -> Result<Option<Permit<'_>>, SessionError> {
        Ok(self.inner.try_acquire()?.then(|| Permit::of(self)))
    }

    /// Takes a permit, waiting for one for `timeout` at most.
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Option<Permit<'_>>, SessionError> {
        let deadline = Deadline::after(Some(timeout));
        let got = in_time(self.inner.acquire(deadline, &mut || true))?;
        Ok(got.map(|()| Permit::of(self)))
    }

    /// Adds a permit: one that was [kept](Permit::keep), or a new one.
    pub fn release(&self) -> Result<(), SessionError> {
        self.inner.release().map(drop)
    }

    /// How many permits can be taken now.
    pub fn value(&self) -> u64 {
        self.inner.value()
    }
}

/// A permit, given back when this is dropped.
#[derive(Debug)]
#[must_use = "the permit is given back as soon as this is dropped"]
pub struct Permit<'a> {
    semaphore: &'a Semaphore,
    recovered: bool,
}

impl<'a> Permit<'a> {
    fn of(semaphore: &'a Semaphore) -> Self {
        Self {
            recovered: semaphore.inner.take_recovery(),
            semaphore,
        }
    }

    /// Did permits come back from a process that had died with them, since anybody was told last?
    pub fn recovered(&self) -> bool {
        self.recovered
    }

    /// Leaves the permit taken, to be given back by a [`Semaphore::release`] somewhere else.
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        // An error means that the session is corrupt or left, and with it the semaphore gone.
        let _ = self.semaphore.inner.release();
    }
}

transit::travels!([] Semaphore, |semaphore| semaphore.inner.handle(), |handle| {
    Ok(Semaphore { inner: sync::Semaphore::of(handle)? })
});

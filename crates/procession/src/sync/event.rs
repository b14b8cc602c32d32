//! A flag to wait for.

use std::time::Duration;

use procession_engine::home;
use procession_shm::sync;
use procession_sys::clock::Deadline;

use crate::error::{SessionError, at_last, in_time};
use crate::transit;

/// Something that happens once: until it is set, whoever waits for it waits.
///
/// ```
/// use procession::Event;
/// use std::time::Duration;
///
/// let ready = Event::new()?;
/// assert!(!ready.wait_timeout(Duration::from_millis(1))?);
/// ready.set();
/// ready.wait()?;
/// # Ok::<(), procession::SessionError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Event {
    inner: sync::Event,
}

impl Event {
    /// Makes an event that is not set.
    pub fn new() -> Result<Self, SessionError> {
        Self::named("")
    }

    /// Makes an event with a name for `procession ps`.
    pub fn named(name: &str) -> Result<Self, SessionError> {
        Ok(Self {
            inner: sync::Event::create(home::session()?, name)?,
        })
    }

    /// Sets it, and wakes all who wait.
    pub fn set(&self) {
        self.inner.set();
    }

    /// Takes it back: who waits from now on waits until it is set again.
    pub fn clear(&self) {
        self.inner.clear();
    }

    /// Is it set?
    pub fn is_set(&self) -> bool {
        self.inner.is_set()
    }

    /// Waits until it is set.
    pub fn wait(&self) -> Result<(), SessionError> {
        at_last(self.inner.wait(Deadline::NEVER, &mut || true))
    }

    /// Waits until it is set, for `timeout` at most. False if that was too short.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<bool, SessionError> {
        let deadline = Deadline::after(Some(timeout));
        Ok(in_time(self.inner.wait(deadline, &mut || true))?.is_some())
    }
}

transit::travels!([] Event, |event| event.inner.handle(), |handle| {
    Ok(Event { inner: sync::Event::of(handle)? })
});

//! A place where processes wait for each other.

use std::time::Duration;

use procession_engine::home;
use procession_shm::sync::{self, Arrival, Broken};
use procession_sys::clock::Deadline;

use crate::error::{SessionError, in_time};
use crate::transit;

/// A barrier for a fixed number of parties: each waits until all have come.
///
/// When a party dies, or waits no longer than it wants to, the barrier is broken: all who wait are told instead of waiting
/// for one who never comes.
///
/// ```
/// use procession::{Barrier, Process};
///
/// #[procession::task]
/// fn arrive(barrier: Barrier) {
///     barrier.wait().expect("all come");
/// }
///
/// #[procession::main]
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let barrier = Barrier::new(2)?;
///     let process = Process::spawn(arrive, barrier.clone())?;
///     barrier.wait()?;
///     assert!(process.join()?.is_success());
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Barrier {
    inner: sync::Barrier,
}

/// Why the parties did not come together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BarrierError {
    /// A party died, gave up, or [`Barrier::abort`] or [`Barrier::reset`] was called.
    #[error("the barrier is broken: not all parties come")]
    Broken,
    /// The session refused.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl From<Broken> for BarrierError {
    fn from(_: Broken) -> Self {
        Self::Broken
    }
}

impl Barrier {
    /// Makes a barrier for `parties` parties (at least one).
    pub fn new(parties: u64) -> Result<Self, SessionError> {
        Self::named("", parties)
    }

    /// Makes a barrier with a name for `procession ps`.
    pub fn named(name: &str, parties: u64) -> Result<Self, SessionError> {
        Ok(Self {
            inner: sync::Barrier::create(home::session()?, name, parties.max(1))?,
        })
    }

    /// Waits until all parties have come. True for exactly one of them, the last.
    pub fn wait(&self) -> Result<bool, BarrierError> {
        self.wait_until(Deadline::NEVER)
    }

    /// As [`Barrier::wait`]; if that takes longer than `timeout`, breaks the barrier.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<bool, BarrierError> {
        self.wait_until(Deadline::after(Some(timeout)))
    }

    fn wait_until(&self, deadline: Deadline) -> Result<bool, BarrierError> {
        let Some(arrival) = in_time(self.inner.arrive(deadline, &mut || true))? else {
            // Not one of those who are waited for, so nobody is kept waiting for it.
            return Err(BarrierError::Broken);
        };
        let arrival: Arrival = arrival?;
        let passed = if arrival.last {
            self.inner.open(arrival, deadline, &mut || true)
        } else {
            self.inner.wait(arrival, deadline, &mut || true)
        };
        if let Some(opened) = in_time(passed)? {
            opened?;
            Ok(arrival.last)
        } else {
            self.inner.give_up(arrival)?;
            Err(BarrierError::Broken)
        }
    }

    /// Breaks the barrier: all who wait or come are told.
    pub fn abort(&self) -> Result<(), SessionError> {
        self.inner.abort()
    }

    /// Makes the barrier whole and empty again; who waits at this moment is told that it broke.
    pub fn reset(&self) -> Result<(), SessionError> {
        self.inner.reset()
    }

    /// Is it broken?
    pub fn is_broken(&self) -> bool {
        self.inner.is_broken()
    }

    /// How many parties it waits for.
    pub fn parties(&self) -> u64 {
        self.inner.parties()
    }

    /// How many are waiting.
    pub fn waiting(&self) -> u64 {
        self.inner.waiting()
    }
}

transit::travels!([] Barrier, |barrier| barrier.inner.handle(), |handle| {
    Ok(Barrier { inner: sync::Barrier::of(handle)? })
});

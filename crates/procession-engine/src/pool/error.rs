//! What can go wrong with a pool.

use procession_shm::{Corrupt, ShmError, WaitError};

/// The pool has given up: its workers do not get as far as asking for a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken {
    /// Workers in a row that ended while they started.
    pub deaths: u32,
    /// How the last of them ended, if that is known: its exit code, or the negative signal.
    pub exit: Option<i32>,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let deaths = self.deaths;
        write!(
            f,
            "{deaths} workers in a row ended before they asked for a task"
        )?;
        match self.exit {
            Some(code) => write!(f, " (the last one with exit code {code})"),
            None => Ok(()),
        }
    }
}

/// Why a call on a pool failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Only the process that made the pool may do this.
    #[error("the pool belongs to another process")]
    NotOwner,
    /// The pool, or the job, takes nothing new.
    #[error("closed to new work")]
    Closed,
    /// The job was closed before, or is another pool's.
    #[error("the pool has no such job")]
    UnknownJob,
    /// The board has as many jobs or workers as it can have.
    #[error("too many {0} in one pool (the limit is {1})")]
    TooMany(&'static str, u64),
    /// See [`Broken`].
    #[error("the pool is broken: {0}")]
    Broken(Broken),
    /// The pool was terminated.
    #[error("the pool was terminated")]
    Terminated,
    /// The wait ended without what was waited for, or the session refused.
    #[error(transparent)]
    Wait(#[from] WaitError),
}

impl From<ShmError> for PoolError {
    fn from(error: ShmError) -> Self {
        Self::Wait(error.into())
    }
}

impl From<Corrupt> for PoolError {
    fn from(error: Corrupt) -> Self {
        Self::Wait(error.into())
    }
}

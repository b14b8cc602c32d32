//! What can go wrong with a pool and with the items that it works on.

use procession_engine::pool as engine;
use procession_engine::pool::{Broken, Failure};
use procession_shm::WaitError;
use procession_sys::process::Exit;

use crate::error::{ExitError, MessageError, SessionError, SpawnError};

/// Why there is no result, or why the pool cannot work.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The worker died that ran the item. Other items are not affected.
    #[error("item {item}: its worker (process {pid}) died{}", said(*exit))]
    WorkerDied {
        /// The item's number: its place among those of its call, from 0.
        item: u64,
        /// The worker's process id.
        pid: u32,
        /// How the worker ended, if that became known.
        exit: Option<Exit>,
    },
    /// The item took longer than it may, and its worker was killed.
    #[error("item {item}: took too long")]
    TimedOut {
        /// The item's number.
        item: u64,
    },
    /// The task panicked. Its worker lives on.
    #[error("item {item}: panicked: {message}")]
    Panicked {
        /// The item's number.
        item: u64,
        /// What the panic said, and where.
        message: String,
    },
    /// The worker could not read the arguments or send the result.
    #[error("item {item}: {message}")]
    Unsendable {
        /// The item's number.
        item: u64,
        /// What the worker says.
        message: String,
    },
    /// The item was cancelled.
    #[error("item {item}: cancelled")]
    Cancelled {
        /// The item's number.
        item: u64,
    },
    /// The pool ended before the item did.
    #[error("the pool was terminated")]
    Terminated,
    /// The result was handed out before.
    #[error("the result was taken before")]
    Taken,
    /// The pool does not belong to this process, but to the one that it was forked from.
    #[error("the pool belongs to another process")]
    NotOwner,
    /// The pool is being closed and takes no new work.
    #[error("the pool is closed")]
    Closed,
    /// The pool has as many calls in progress, or workers, as it can have.
    #[error("too many {0} in one pool (the limit is {1})")]
    TooMany(&'static str, u64),
    /// Worker after worker ended before it got to work.
    #[error("the pool is broken: {deaths} workers in a row ended while they started{}", said(*exit))]
    Broken {
        /// How many workers.
        deaths: u32,
        /// How the last of them ended.
        exit: Option<Exit>,
    },
    /// No worker could be started, or the function is no task.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The arguments could not be encoded, or the result not decoded.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// Nothing is known about how a worker ended.
    #[error(transparent)]
    Exit(#[from] ExitError),
}

fn said(exit: Option<Exit>) -> String {
    exit.map_or(String::new(), |exit| format!(": {exit}"))
}

/// From the code that the session keeps.
fn exit(code: i32) -> Exit {
    if code < 0 {
        Exit::Signal(-code)
    } else {
        Exit::Code(code)
    }
}

impl PoolError {
    pub(super) fn failed(item: u64, failure: Failure) -> Self {
        match failure {
            Failure::WorkerDied {
                pid, exit: code, ..
            } => Self::WorkerDied {
                item,
                pid,
                exit: code.map(exit),
            },
            Failure::TimedOut { .. } => Self::TimedOut { item },
            Failure::Cancelled => Self::Cancelled { item },
            Failure::Terminated => Self::Terminated,
        }
    }
}

impl From<engine::PoolError> for PoolError {
    fn from(error: engine::PoolError) -> Self {
        match error {
            engine::PoolError::NotOwner => Self::NotOwner,
            engine::PoolError::Closed => Self::Closed,
            engine::PoolError::TooMany(what, limit) => Self::TooMany(what, limit),
            engine::PoolError::Broken(Broken { deaths, exit: code }) => Self::Broken {
                deaths,
                exit: code.map(exit),
            },
            // Jobs and waits are the pool's own, and end with it.
            engine::PoolError::UnknownJob
            | engine::PoolError::Terminated
            | engine::PoolError::Wait(
                WaitError::Closed | WaitError::TimedOut | WaitError::Interrupted,
            ) => Self::Terminated,
            engine::PoolError::Wait(WaitError::Shm(error)) => error.into(),
        }
    }
}

impl From<SessionError> for PoolError {
    fn from(error: SessionError) -> Self {
        Self::Message(error.into())
    }
}

//! What can go wrong with processes.

use procession_shm::{ShmError, WaitError};
use procession_sys::Errno;

/// Why a process could not be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The session refused: no room for another process, or for what it is given.
    #[error(transparent)]
    Session(#[from] ShmError),
    /// The system refused to start the program.
    #[error("cannot start {program}: {source}")]
    Program {
        /// The program.
        program: String,
        /// The system's answer.
        source: Errno,
    },
}

impl From<WaitError> for StartError {
    fn from(error: WaitError) -> Self {
        Self::Session(session_error(error))
    }
}

/// Why a process that was started as somebody's child cannot begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArriveError {
    /// The record that the parent left is no such record.
    #[error("the environment variable PROCESSION_BOOTSTRAP is not of this version: {0:?}")]
    Malformed(String),
    /// Parent and child are not the same program.
    #[error(
        "this program is not the one that its parent was started from: parent and child must be the same build"
    )]
    OtherBuild,
    /// The session could not be joined.
    #[error("cannot join the parent's session: {0}")]
    Session(#[from] ShmError),
    /// The system refused something.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        source: Errno,
    },
}

impl From<WaitError> for ArriveError {
    fn from(error: WaitError) -> Self {
        Self::Session(session_error(error))
    }
}

/// Why nothing can be told about how a process ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExitError {
    /// Somebody else in this process has asked the system for the status, which can be had only once.
    #[error("the exit status of process {0} was taken by somebody else in this program")]
    Lost(u32),
    /// The session refused.
    #[error(transparent)]
    Session(#[from] ShmError),
    /// The system refused something.
    #[error("cannot wait for process {pid}: {source}")]
    System {
        /// The process.
        pid: u32,
        /// The system's answer.
        source: Errno,
    },
}

/// A wait that neither times out nor is interrupted fails only with what the session says.
fn session_error(error: WaitError) -> ShmError {
    match error {
        WaitError::Shm(error) => error,
        WaitError::TimedOut | WaitError::Interrupted | WaitError::Closed => ShmError::Gone,
    }
}

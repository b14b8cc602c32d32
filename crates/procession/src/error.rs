//! What can go wrong, one small enum per kind of operation.

use procession_engine::error::StartError;
use procession_shm::WaitError;

pub use procession_engine::error::{ArriveError, ExitError};
pub use procession_shm::ShmError as SessionError;

use crate::codec::CodecError;

/// Why a value could not be turned into a message or back.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The value could not be put into bytes.
    #[error("cannot encode the message: {0}")]
    Encode(#[source] CodecError),
    /// The bytes are no such value: the two sides disagree about the type.
    #[error("cannot decode the message: {0}")]
    Decode(#[source] CodecError),
    /// The session refused.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// Why nothing was put.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// There is no room now, and the caller did not want to wait.
    #[error("full")]
    Full,
    /// There was no room in time.
    #[error("no room in time")]
    TimedOut,
    /// The queue is closed, or nobody holds the other end of the pipe.
    #[error("nobody takes anything out any more: closed")]
    Closed,
    /// See [`MessageError`].
    #[error(transparent)]
    Message(#[from] MessageError),
}

/// Why nothing was got.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// There is nothing now, and the caller did not want to wait.
    #[error("empty")]
    Empty,
    /// Nothing came in time.
    #[error("nothing came in time")]
    TimedOut,
    /// Empty, and nothing will come any more: the queue is closed, or nobody holds the other end of the pipe.
    #[error("nothing comes any more: closed")]
    Closed,
    /// See [`MessageError`].
    #[error(transparent)]
    Message(#[from] MessageError),
}

/// Why no process was started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// Another process would not find the function.
    #[error(
        "`{0}` is not a task of this program: mark the function with #[procession::task] (closures cannot be tasks), and if \
         it comes from another crate, see that the crate is linked by naming it: `use that_crate as _;`"
    )]
    NotATask(&'static str),
    /// Several tasks have one name, so that it does not say which is meant.
    #[error("several tasks are called `{0}`: give them different names or modules")]
    Ambiguous(&'static str),
    /// A child would begin with this program's `main` and start further children in its turn.
    #[error(
        "this program does not let its children in: mark `main` with #[procession::main] (a test with #[procession::test]), \
         or call procession::init() first thing in `main`"
    )]
    NotReady,
    /// The arguments could not be encoded.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The system or the session refused.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl From<SessionError> for PutError {
    fn from(error: SessionError) -> Self {
        Self::Message(error.into())
    }
}

impl From<SessionError> for GetError {
    fn from(error: SessionError) -> Self {
        Self::Message(error.into())
    }
}

impl From<WaitError> for PutError {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::TimedOut | WaitError::Interrupted => Self::TimedOut,
            WaitError::Closed => Self::Closed,
            WaitError::Shm(error) => error.into(),
        }
    }
}

impl From<WaitError> for GetError {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::TimedOut | WaitError::Interrupted => Self::TimedOut,
            WaitError::Closed => Self::Closed,
            WaitError::Shm(error) => error.into(),
        }
    }
}

/// The outcome of a wait that nobody closes: `None` when the deadline came first.
pub(crate) fn in_time<T>(result: Result<T, WaitError>) -> Result<Option<T>, SessionError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(WaitError::TimedOut | WaitError::Interrupted) => Ok(None),
        Err(WaitError::Closed) => Err(SessionError::Gone),
        Err(WaitError::Shm(error)) => Err(error),
    }
}

/// The outcome of a wait without a deadline, for a shared object whose processes never interrupt their waits.
pub(crate) fn at_last<T>(result: Result<T, WaitError>) -> Result<T, SessionError> {
    in_time(result)?.ok_or(SessionError::Gone)
}

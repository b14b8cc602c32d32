//! Errors of the engine as Python exceptions, all in one place.

use procession_shm::{Corrupt, ShmError, WaitError};
use pyo3::PyErr;
use pyo3::exceptions::{PyMemoryError, PyOSError, PyRuntimeError, PyTimeoutError};

/// The exception for an error of the session.
#[allow(clippy::needless_pass_by_value)] // for `map_err`
pub(crate) fn shm(error: ShmError) -> PyErr {
    match &error {
        ShmError::OutOfMemory { .. } | ShmError::OutOfAddressSpace { .. } => {
            PyMemoryError::new_err(error.to_string())
        }
        ShmError::System { source, .. } => {
            PyOSError::new_err((source.raw_os_error(), error.to_string()))
        }
        ShmError::TableFull(..) => PyOSError::new_err((libc_enospc(), error.to_string())),
        ShmError::Gone | ShmError::Busy => PyOSError::new_err(error.to_string()),
        ShmError::Corrupt(_) | ShmError::WrongKind { .. } | ShmError::Version { .. } => {
            PyRuntimeError::new_err(error.to_string())
        }
    }
}

/// The exception for a word that makes no sense.
pub(crate) fn corrupt(error: Corrupt) -> PyErr {
    shm(error.into())
}

/// The exception for a wait that ended, where the caller has no answer of its own.
pub(crate) fn wait(error: WaitError) -> PyErr {
    match error {
        WaitError::Shm(e) => shm(e),
        WaitError::TimedOut => PyTimeoutError::new_err(error.to_string()),
        WaitError::Interrupted | WaitError::Closed => PyOSError::new_err(error.to_string()),
    }
}

/// The exception for a refusal of the system.
pub(crate) fn system(error: procession_sys::Errno) -> PyErr {
    PyOSError::new_err((error.raw_os_error(), error.to_string()))
}

fn libc_enospc() -> i32 {
    procession_sys::Errno::NOSPC.raw_os_error()
}

//! The one gate for calls that may block: leave the interpreter, let signal handlers run, come back.

use std::time::Duration;

use procession_shm::WaitError;
use procession_shm::wait::Check;
use procession_sys::clock::Deadline;
use pyo3::prelude::*;

/// Runs `f` without the interpreter. The check that it is given runs pending signal handlers; if one raises, the wait ends and
/// that exception is the result.
pub(crate) fn blocking<T: Send>(
    py: Python<'_>,
    f: impl FnOnce(Check<'_>) -> Result<T, WaitError> + Send,
) -> PyResult<Result<T, WaitError>> {
    let mut raised: Option<PyErr> = None;
    let result = py.detach(|| {
        let mut check = || {
            let checked = Python::try_attach(|py| match crate::life::check_signals(py) {
                Ok(()) => true,
                Err(e) => {
                    raised = Some(e);
                    false
                }
            });
            // No interpreter any more, and this is a daemon thread: it ends where it wants to come back.
            checked.unwrap_or(false)
        };
        f(&mut check)
    });
    match raised {
        Some(e) => Err(e),
        None => Ok(result),
    }
}

/// A deadline from `block` and `timeout` as the standard library's methods take them: seconds, `None` for ever, and what is
/// negative counts as zero.
pub(crate) fn deadline(block: bool, timeout: Option<f64>) -> Deadline {
    if block { after(timeout) } else { Deadline::NOW }
}

/// A deadline from a timeout in seconds.
pub(crate) fn after(timeout: Option<f64>) -> Deadline {
    Deadline::after(timeout.map(|t| {
        if t.is_nan() || t <= 0.0 {
            Duration::ZERO
        } else {
            Duration::try_from_secs_f64(t).unwrap_or(Duration::MAX)
        }
    }))
}

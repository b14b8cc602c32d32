//! What managers share: maps and lists of the session, as the cores of `dict`, `list` and their kin.

mod dict;
mod keys;
mod list;

use std::time::Duration;

use procession_shm::WaitError;
use procession_shm::objects::{HELD, Handle};
use procession_shm::primitive::Ordering;
use procession_shm::wait::Check;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::{enter, errors, life};

pub(crate) use dict::DictCore;
pub(crate) use list::ListCore;

/// Repeats an operation for as long as it finds the store busy, and waits in between as one may: without the interpreter, and
/// with signal handlers running.
#[inline]
fn turn<T>(
    py: Python<'_>,
    wait: impl Fn(Check<'_>) -> Result<(), WaitError> + Send + Sync,
    mut op: impl FnMut() -> Result<T, WaitError>,
) -> PyResult<T> {
    loop {
        match op() {
            Err(WaitError::TimedOut) => {
                enter::blocking(py, |check| wait(check))?.map_err(errors::wait)?;
            }
            other => return other.map_err(errors::wait),
        }
    }
}

/// Before a change: lets another process go first that has asked for it, within bounds, as what it does may depend on us.
#[inline]
fn give_way(py: Python<'_>, is_others_turn: impl Fn() -> bool + Sync) -> PyResult<()> {
    if !is_others_turn() {
        return Ok(());
    }
    for _ in 0..PATIENCE {
        py.check_signals()?;
        let is_still = || {
            std::thread::sleep(Duration::from_millis(1));
            is_others_turn()
        };
        if !py.detach(is_still) {
            break;
        }
    }
    Ok(())
}

/// Milliseconds for which a change is held back.
const PATIENCE: u32 = 2000;
/// Attempts that are overtaken before one asks the others to hold their changes back.
const ATTEMPTS: u32 = 8;

/// The exception for the use of what belongs to a manager that has ended.
#[cold]
fn gone(py: Python<'_>, handle: &Handle) -> PyErr {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let class = CLASS.get_or_try_init(py, || -> PyResult<_> {
        let module = py.import("procession._manager_protocol")?;
        Ok(module.getattr("ServerGoneError")?.unbind())
    });
    let text = format!(
        "the manager of this {:?} object has ended",
        handle.entry().name()
    );
    match class.and_then(|c| c.bind(py).call1((text,))) {
        Ok(error) => PyErr::from_value(error),
        Err(error) => error,
    }
}

/// How many processes and messages (or containers) refer to a shared object, and how many processes other than this one hold
/// it. Zeros if it does not exist.
#[pyfunction]
pub(crate) fn references(py: Python<'_>, index: u32, generation: u64) -> PyResult<(u64, u64)> {
    let session = life::session(py)?;
    if !session.exists(index, generation as u32) {
        return Ok((0, 0));
    }
    let entry = session.entry(index).map_err(errors::corrupt)?;
    let mine = session.me().map_err(errors::shm)?.slot();
    let mut others = 0;
    for (number, _) in session.slots().filter(|(number, _)| *number != mine) {
        let hold = session
            .hold_record(number, index)
            .map_err(errors::corrupt)?;
        others += hold.flags.load(Ordering::Acquire) & HELD;
    }
    Ok((entry.refs.load(Ordering::Acquire), others))
}

//! The command line, for `python -m procession`.

use pyo3::prelude::*;

/// Runs `procession ARGS` (the program's name is not among them) and returns its exit code. From then on Ctrl-C ends the
/// process: the native code runs to its end without asking the interpreter for signals.
#[pyfunction]
pub(crate) fn cli(py: Python<'_>, argv: Vec<String>) -> PyResult<i32> {
    procession_sys::process::end_on_interrupt()?;
    Ok(py.detach(|| procession_cli::run(argv)))
}

//! The command line, for `python -m procession`.

use pyo3::prelude::*;

/// Runs `procession ARGS` (the program's name is not among them) and returns its exit code.
#[pyfunction]
pub(crate) fn cli(py: Python<'_>, argv: Vec<String>) -> i32 {
    py.detach(|| procession_cli::run(argv))
}

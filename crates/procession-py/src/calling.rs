//! Calls with one argument, as maps make them by the thousand.
#![allow(unsafe_code)]

use pyo3::ffi;
use pyo3::prelude::*;

/// `function(argument)`. The stable ABI of Python 3.11 has one way to call without making a tuple for it first, and this crate's
/// binding to Python does not use that.
pub(crate) fn call_one<'py>(
    function: &Bound<'py, PyAny>,
    argument: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let end: *mut ffi::PyObject = std::ptr::null_mut();
    // SAFETY: two objects that we have references to for as long as the call takes, attached to the interpreter as both say,
    // and the null that ends the arguments. What comes back is ours, or null with an error set.
    unsafe {
        let value = ffi::PyObject_CallFunctionObjArgs(function.as_ptr(), argument.as_ptr(), end);
        Bound::from_owned_ptr_or_err(function.py(), value)
    }
}

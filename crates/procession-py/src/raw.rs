//! What Python's C interface has, on every version that the stable ABI covers, and this crate's binding to it does not.
#![allow(unsafe_code)]

use pyo3::ffi;
use pyo3::prelude::*;

/// `function(argument)`, as maps call it by the thousand: without making a tuple first.
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

/// How many references to an object there are, this one among them.
pub(crate) fn references(obj: &Bound<'_, PyAny>) -> isize {
    // SAFETY: an object that we have a reference to, attached to the interpreter as it says.
    unsafe { ffi::Py_REFCNT(obj.as_ptr()) }
}

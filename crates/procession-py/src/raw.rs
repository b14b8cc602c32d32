//! What Python's C interface has, on every version that the stable ABI covers, and this crate's binding to it does not.
#![allow(unsafe_code)]

use std::ffi::CString;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

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

/// Gives a class native methods that it inherits as its own, as if it had been defined with them. The interpreter calls a
/// native method directly only on an object whose class is the very one that defines the method.
#[pyfunction]
#[pyo3(signature = (cls, *names))]
pub(crate) fn own_methods(cls: &Bound<'_, PyType>, names: &Bound<'_, PyTuple>) -> PyResult<()> {
    let instance = cls.call_method1("__new__", (cls,))?;
    for name in names {
        let bound = instance.getattr(name.cast()?)?;
        // SAFETY: an object that we have a reference to; what is no built-in function is refused with null.
        let function = unsafe { ffi::PyCFunction_GetFunction(bound.as_ptr()) };
        let Some(function) = function else {
            let _ = PyErr::take(cls.py());
            return Err(PyTypeError::new_err(format!("{name} is no native method")));
        };
        let doc = format!(
            "{name}{}\n--\n\n{}",
            bound.getattr("__text_signature__")?,
            bound.getattr("__doc__")?
        );
        // SAFETY: it is a built-in function, as was just seen.
        let flags = unsafe { ffi::PyCFunction_GetFlags(bound.as_ptr()) };
        // Classes are never unmade, and neither is this.
        let method = Box::leak(Box::new(ffi::PyMethodDef {
            ml_name: CString::new(name.to_string())?.into_raw(),
            ml_meth: ffi::PyMethodDefPointer {
                PyCFunction: function,
            },
            ml_flags: flags,
            ml_doc: CString::new(doc)?.into_raw(),
        }));
        // SAFETY: a class, and a definition that stays for ever. Function and flags are those of a method of a base class, which
        // takes instances of the class as well. What comes back is ours, or null with an error set.
        let descriptor = unsafe {
            let made = ffi::PyDescr_NewMethod(cls.as_type_ptr(), method);
            Bound::from_owned_ptr_or_err(cls.py(), made)?
        };
        cls.setattr(name.cast()?, descriptor)?;
    }
    Ok(())
}

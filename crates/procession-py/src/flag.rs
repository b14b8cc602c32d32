//! Flags as Python programs give them: any object, for its truth.

use pyo3::prelude::*;

/// An argument such as `block`. `get(0)` is as good as `get(False)`, which is all that a plain `bool` would take.
#[derive(Clone, Copy)]
pub(crate) struct Flag(pub(crate) bool);

impl FromPyObject<'_, '_> for Flag {
    type Error = PyErr;

    #[inline]
    fn extract(obj: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        obj.is_truthy().map(Self)
    }
}

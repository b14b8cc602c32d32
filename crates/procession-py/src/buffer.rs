//! Memory of the session as Python buffers, and the few other places where this crate touches raw memory.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use procession_shm::Session;
use procession_shm::memory::Memory;
use procession_sys::memory::PrivateView;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::received::Received;
use crate::{codec, errors, life};

/// The session behind a pointer that came from a leaked one.
pub(crate) fn leaked(raw: *mut Session) -> Option<&'static Session> {
    // SAFETY: the only pointers ever stored are null and those of sessions, which are leaked.
    unsafe { raw.as_ref() }
}

/// Takes a descriptor over that the parent has passed to this process for this purpose.
pub(crate) fn owned_fd(fd: i32) -> OwnedFd {
    // SAFETY: the number was given to us to own; a wrong one gives errors from the system, not undefined behaviour.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Looks at a descriptor that the caller keeps open meanwhile.
pub(crate) fn borrowed_fd(fd: i32) -> BorrowedFd<'static> {
    // SAFETY: used within one call, in which the Python caller keeps the descriptor; otherwise the system says EBADF.
    unsafe { BorrowedFd::borrow_raw(fd.max(0)) }
}

/// Runs `f` on the bytes of a contiguous buffer.
pub(crate) fn with_bytes<T>(buffer: &PyBuffer<u8>, f: impl FnOnce(&[u8]) -> T) -> T {
    if buffer.len_bytes() == 0 {
        return f(&[]);
    }
    // SAFETY: the exporter keeps the memory in place while the buffer is held, and it is contiguous (checked by the
    // callers, who refuse others). A thread that writes to it meanwhile tears the bytes, which are only copied.
    f(unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>(), buffer.len_bytes()) })
}

/// Copies bytes into a writable contiguous buffer, from `offset`. The caller has checked the length.
pub(crate) fn copy_into(buffer: &PyBuffer<u8>, offset: usize, bytes: &[u8]) {
    assert!(!buffer.readonly() && offset + bytes.len() <= buffer.len_bytes());
    // SAFETY: writable, in bounds (asserted), and kept in place by the exporter while the buffer is held.
    unsafe {
        std::ptr::copy(
            bytes.as_ptr(),
            buffer.buf_ptr().cast::<u8>().add(offset),
            bytes.len(),
        );
    }
}

/// What a [`BlockBuffer`] stands on.
enum Memories {
    /// A shared object that many processes may hold.
    Shared(Memory),
    /// A private view of a shared object: what is written to it is seen here alone.
    View { view: PrivateView, _memory: Memory },
    /// A block that came with a message.
    Own(Arc<Received>),
}

/// Shared memory with Python's buffer protocol.
///
/// `BlockBuffer(size)` makes zeroed memory that can be handed to other processes. A buffer that came with a message is
/// the receiver's alone; its memory goes back when the last view of it is gone.
#[pyclass(frozen, weakref, module = "procession._native")]
pub(crate) struct BlockBuffer {
    memory: OnceLock<Memories>,
}

impl BlockBuffer {
    /// A buffer over a block that this process owns.
    pub(crate) fn own(session: &'static Session, at: u64, len: u64) -> Self {
        let received = Received::new(session, at, len);
        Self {
            memory: OnceLock::from(Memories::Own(received)),
        }
    }

    /// A private view of shared memory.
    pub(crate) fn view(session: &'static Session, memory: Memory) -> PyResult<Self> {
        let (at, len) = (memory.offset(), memory.len());
        let view = session
            .segment()
            .memory()
            .private_view(at as usize, len as usize)
            .map_err(errors::system)?;
        Ok(Self {
            memory: OnceLock::from(Memories::View {
                view,
                _memory: memory,
            }),
        })
    }

    fn span(&self) -> PyResult<(*mut u8, u64)> {
        let (pointer, len) = match self.memory.get() {
            None => return Err(PyValueError::new_err("the buffer has no memory")),
            Some(Memories::Shared(m)) => (m.pointer().map_err(errors::shm)?, m.len()),
            Some(Memories::View { view, .. }) => (view.base(), view.len() as u64),
            Some(Memories::Own(received)) => received.span().map_err(errors::corrupt)?,
        };
        Ok((pointer.as_ptr(), len))
    }
}

#[pymethods]
impl BlockBuffer {
    #[new]
    fn new(py: Python<'_>, size: u64) -> PyResult<Self> {
        let memory = Memory::create(life::session(py)?, "", size.max(1)).map_err(errors::shm)?;
        Ok(Self {
            memory: OnceLock::from(Memories::Shared(memory)),
        })
    }

    /// What another process of the session finds the memory by.
    fn handle(&self) -> PyResult<(u32, u64)> {
        match self.memory.get() {
            Some(Memories::Shared(m)) => Ok(codec::handle_out(m.handle())),
            _ => Err(PyValueError::new_err(
                "this buffer belongs to one process alone",
            )),
        }
    }

    /// The memory that another process of the session has told us of.
    #[classmethod]
    fn from_handle(
        _: &Bound<'_, PyType>,
        py: Python<'_>,
        index: u32,
        generation: u64,
    ) -> PyResult<Self> {
        let memory = Memory::of(codec::handle_in(py, index, generation)?).map_err(errors::shm)?;
        Ok(Self {
            memory: OnceLock::from(Memories::Shared(memory)),
        })
    }

    fn __len__(&self) -> PyResult<usize> {
        Ok(self.span()?.1 as usize)
    }

    #[allow(clippy::needless_pass_by_value)] // the signature that the binding asks for
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("no view to fill"));
        }
        let (pointer, len) = slf.get().span()?;
        // SAFETY: `view` is a live structure of the caller's, the memory stays in place for as long as this object
        // lives, and the view holds a reference to this object.
        let rc = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                pointer.cast::<c_void>(),
                len as ffi::Py_ssize_t,
                0,
                flags,
            )
        };
        if rc == 0 {
            Ok(())
        } else {
            Err(PyErr::fetch(slf.py()))
        }
    }
}

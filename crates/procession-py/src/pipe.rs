//! The ends of pipes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use procession_shm::WaitError;
use procession_shm::pipe::{self, PipeEnd as End};
use procession_shm::ring::Message;
use procession_sys::clock::Deadline;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBrokenPipeError, PyEOFError, PyOSError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple, PyType};

use crate::codec::{self, Encoded, Taken};
use crate::flag::Flag;
use crate::queue::spin;
use crate::{buffer, enter, errors, life};

/// One end of a pipe.
#[pyclass(subclass, frozen, module = "procession._native")]
pub(crate) struct PipeEnd {
    end: RwLock<Option<End>>,
    /// Nothing is received here any more, after a message that was longer than wanted.
    deaf: AtomicBool,
}

/// Makes a pipe; without `duplex` the first end only receives and the second only sends.
#[pyfunction]
pub(crate) fn make_pipe(py: Python<'_>, duplex: Flag) -> PyResult<(PipeEnd, PipeEnd)> {
    let (a, b) = pipe::create(life::session(py)?, "", duplex.0).map_err(errors::shm)?;
    Ok((PipeEnd::holding(Some(a)), PipeEnd::holding(Some(b))))
}

impl PipeEnd {
    fn holding(end: Option<End>) -> Self {
        Self {
            end: RwLock::new(end),
            deaf: AtomicBool::new(false),
        }
    }

    /// The end, unless it is closed. A clone, so that closing does not wait for a receiver that is blocked.
    pub(crate) fn end(&self) -> PyResult<End> {
        let end = self.end.read().unwrap_or_else(PoisonError::into_inner);
        end.clone()
            .ok_or_else(|| PyOSError::new_err("handle is closed"))
    }

    fn reader(&self) -> PyResult<End> {
        let end = self.end()?;
        if end.is_readable() && !self.deaf.load(Ordering::Relaxed) {
            Ok(end)
        } else {
            Err(PyOSError::new_err("connection is write-only"))
        }
    }

    fn writer(&self) -> PyResult<End> {
        let end = self.end()?;
        if end.is_writable() {
            Ok(end)
        } else {
            Err(PyOSError::new_err("connection is read-only"))
        }
    }

    pub(crate) fn is_ready(&self) -> PyResult<bool> {
        self.reader()?
            .poll(Deadline::NOW, &mut || true)
            .map_err(errors::wait)
    }

    pub(crate) fn watch_fd(&self) -> PyResult<i32> {
        self.end()?.watch().map_err(errors::shm)
    }

    fn put(py: Python<'_>, end: &End, message: Message<'_>) -> PyResult<()> {
        let here = if message.len() < 1 << 18 {
            end.send(message, Deadline::NOW, &mut || true)
        } else {
            Err(WaitError::TimedOut)
        };
        let sent = match here {
            Err(WaitError::TimedOut) => {
                enter::blocking(py, |check| end.send(message, Deadline::NEVER, check))?
            }
            other => other,
        };
        sent.map_err(|e| match e {
            WaitError::Closed => PyBrokenPipeError::new_err((
                procession_sys::Errno::PIPE.raw_os_error(),
                "Broken pipe",
            )),
            other => errors::wait(other),
        })
    }

    #[inline]
    fn take<'py>(
        py: Python<'py>,
        end: &End,
        mut take: impl FnMut(&[u8], Option<u64>) -> Taken<'py>,
    ) -> PyResult<Taken<'py>> {
        loop {
            // As in `QueueCore::get`.
            let mut taken = None;
            end.try_recv(&mut |bytes, block| taken = Some(take(bytes, block)))
                .map_err(errors::wait)?;
            if let Some(taken) = taken {
                return Ok(taken);
            }
            if spin(|| end.has_message()) {
                continue;
            }
            if !end.has_message() && end.is_at_end() && !end.has_message() {
                return Err(PyEOFError::new_err(()));
            }
            enter::blocking(py, |check| end.poll(Deadline::NEVER, check))?.map_err(errors::wait)?;
        }
    }

    /// The next message as bytes, whichever way it was sent.
    fn take_bytes<'py>(py: Python<'py>, end: &End) -> PyResult<Bound<'py, PyBytes>> {
        let taken = Self::take(py, end, |bytes, block| codec::take_raw(py, bytes, block))?;
        let Taken::Later(bytes, block) = taken else {
            return Err(PyOSError::new_err("got no message"));
        };
        let data = bytes.as_bytes();
        if data.first() == Some(&codec::RAW) {
            return Ok(PyBytes::new(py, &data[1..]));
        }
        // It was sent as an object: its bytes are the pickle that send() stands for.
        let object = codec::finish(py, end.handle().session(), Taken::Later(bytes, block))?;
        codec::dumps(py, &object)
    }
}

#[pymethods]
impl PipeEnd {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self::holding(None)
    }

    /// The end that another process has told of.
    #[classmethod]
    fn from_handle<'py>(
        cls: &Bound<'py, PyType>,
        py: Python<'py>,
        index: u32,
        generation: u64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let made = cls.call_method1("__new__", (cls,))?;
        let end = End::of(codec::handle_in(py, index, generation)?).map_err(errors::shm)?;
        *made
            .cast::<Self>()?
            .get()
            .end
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(end);
        Ok(made)
    }

    /// What another process of the session finds the end by.
    fn handle(&self) -> PyResult<(u32, u64)> {
        Ok(codec::handle_out(self.end()?.handle()))
    }

    /// Send an object.
    fn send(&self, py: Python<'_>, obj: &Bound<'_, PyAny>) -> PyResult<()> {
        let end = self.writer()?;
        let mut encoded = Encoded::new(end.handle().session());
        encoded.encode(py, obj)?;
        Self::put(py, &end, encoded.message())?;
        encoded.sent();
        Ok(())
    }

    /// Receive an object.
    fn recv<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let end = self.reader()?;
        let taken = Self::take(py, &end, |bytes, block| codec::take(py, bytes, block))?;
        codec::finish(py, end.handle().session(), taken)
    }

    /// Send the bytes of a buffer.
    #[pyo3(signature = (buf, offset=0, size=None))]
    fn send_bytes(
        &self,
        py: Python<'_>,
        buf: &Bound<'_, PyAny>,
        offset: i64,
        size: Option<i64>,
    ) -> PyResult<()> {
        let end = self.writer()?;
        let whole = byte_view(py, buf)?;
        let len = whole.len_bytes() as i64;
        if offset < 0 {
            return Err(PyValueError::new_err("offset is negative"));
        }
        if len < offset {
            return Err(PyValueError::new_err("buffer length < offset"));
        }
        let size = size.unwrap_or(len - offset);
        if size < 0 {
            return Err(PyValueError::new_err("size is negative"));
        }
        if offset + size > len {
            return Err(PyValueError::new_err("buffer length < offset + size"));
        }
        buffer::with_bytes(&whole, |bytes| {
            let tail = &bytes[offset as usize..(offset + size) as usize];
            Self::put(
                py,
                &end,
                Message {
                    bytes: &[codec::RAW],
                    tail,
                    block: None,
                },
            )
        })
    }

    /// Receive bytes.
    #[pyo3(signature = (maxlength=None))]
    fn recv_bytes<'py>(
        &self,
        py: Python<'py>,
        maxlength: Option<i64>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let end = self.reader()?;
        if maxlength.is_some_and(|m| m < 0) {
            return Err(PyValueError::new_err("negative maxlength"));
        }
        let bytes = Self::take_bytes(py, &end)?;
        if maxlength.is_some_and(|m| bytes.as_bytes().len() as i64 > m) {
            // As in the standard library, where the rest of the message would come next.
            if self.writer().is_ok() {
                self.deaf.store(true, Ordering::Relaxed);
            } else {
                self.close();
            }
            return Err(PyOSError::new_err("bad message length"));
        }
        Ok(bytes)
    }

    /// Receive bytes into a writable buffer; returns how many.
    #[pyo3(signature = (buf, offset=0))]
    fn recv_bytes_into(
        &self,
        py: Python<'_>,
        buf: &Bound<'_, PyAny>,
        offset: i64,
    ) -> PyResult<usize> {
        let end = self.reader()?;
        let view = byte_view(py, buf)?;
        if offset < 0 {
            return Err(PyValueError::new_err("negative offset"));
        }
        if offset > view.len_bytes() as i64 {
            return Err(PyValueError::new_err("offset too large"));
        }
        let bytes = Self::take_bytes(py, &end)?;
        let data = bytes.as_bytes();
        if data.len() as i64 + offset > view.len_bytes() as i64 {
            let class = py
                .import(intern!(py, "procession.context"))?
                .getattr(intern!(py, "BufferTooShort"))?;
            return Err(PyErr::from_value(class.call1((bytes,))?));
        }
        if view.readonly() {
            return Err(pyo3::exceptions::PyTypeError::new_err(
                "a writable buffer is required",
            ));
        }
        buffer::copy_into(&view, offset as usize, data);
        Ok(data.len())
    }

    /// Is there something to receive (or the end)?
    #[pyo3(signature = (timeout=0.0))]
    fn poll(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let end = self.reader()?;
        let deadline = enter::after(timeout);
        if end.has_message() {
            return Ok(true);
        }
        if deadline.is_now() {
            return end.poll(Deadline::NOW, &mut || true).map_err(errors::wait);
        }
        enter::blocking(py, |check| end.poll(deadline, check))?.map_err(errors::wait)
    }

    /// A descriptor that is readable while there is something to receive.
    fn fileno(&self) -> PyResult<i32> {
        self.watch_fd()
    }

    /// Close this end in this process.
    fn close(&self) {
        let end = self
            .end
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(end);
    }

    /// True if the connection is closed.
    #[getter]
    fn closed(&self) -> bool {
        self.end
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none()
    }

    /// True if the connection is readable.
    #[getter]
    fn readable(&self) -> bool {
        self.reader().is_ok()
    }

    /// True if the connection is writable.
    #[getter]
    fn writable(&self) -> bool {
        self.writer().is_ok()
    }
}

/// A buffer as contiguous bytes.
fn byte_view(py: Python<'_>, buf: &Bound<'_, PyAny>) -> PyResult<PyBuffer<u8>> {
    let view = pyo3::types::PyMemoryView::from(buf)?;
    let format: String = view.getattr(intern!(py, "format"))?.extract()?;
    let flat = if format == "B" && view.getattr(intern!(py, "ndim"))?.extract::<usize>()? == 1 {
        view.into_any()
    } else {
        view.call_method1(intern!(py, "cast"), ("B",))?
    };
    let view = PyBuffer::<u8>::get(&flat)?;
    if view.is_c_contiguous() {
        Ok(view)
    } else {
        Err(PyValueError::new_err("the buffer is not contiguous"))
    }
}

//! Queues: put and get in one call each.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use procession_shm::pipe::PipeEnd as End;
use procession_shm::ring::{Ring, RingOptions};
use procession_shm::wait::may_spin;
use procession_shm::{Session, ShmError, WaitError};
use procession_sys::clock::Deadline;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList, PyTuple, PyType};

use crate::codec::{self, Encoded};
use crate::flag::Flag;
use crate::pipe::PipeEnd;
use crate::{enter, errors, life};

/// A queue of the session. `Queue`, `JoinableQueue` and `SimpleQueue` are made of it.
///
/// A put that has returned is committed: the message survives its sender. There is no feeder thread.
#[pyclass(subclass, frozen, module = "procession._native")]
pub(crate) struct QueueCore {
    ring: OnceLock<Ring>,
    closed: AtomicBool,
    /// Has this process put anything? Programs expect to ask a closed queue that was never used whether it is empty.
    used: AtomicBool,
}

impl QueueCore {
    fn ring(&self) -> PyResult<&Ring> {
        self.ring.get().ok_or_else(|| {
            PyValueError::new_err("the queue has not been set up: __init__ was not called")
        })
    }

    fn session(&self) -> PyResult<&'static Session> {
        Ok(self.ring()?.handle().session())
    }

    fn adopt(&self, py: Python<'_>, index: u32, generation: u64) -> PyResult<()> {
        let ring = Ring::of(codec::handle_in(py, index, generation)?).map_err(errors::shm)?;
        let _ = self.ring.set(ring);
        Ok(())
    }

    pub(crate) fn is_ready(&self) -> PyResult<bool> {
        Ok(!self.ring()?.port().is_empty())
    }

    /// Found empty: takes the rings of its descriptor, if it is watched.
    fn rest(&self) -> PyResult<()> {
        self.ring()?.port().rest().map_err(errors::shm)
    }

    pub(crate) fn wait_filled(
        &self,
        deadline: Deadline,
        check: procession_shm::wait::Check<'_>,
    ) -> Result<bool, WaitError> {
        let Some(ring) = self.ring.get() else {
            return Err(ShmError::Gone.into());
        };
        ring.port().wait_filled(deadline, check, &|| Ok(false))
    }
}

/// `queue.Empty` or `queue.Full`.
fn queue_error(py: Python<'_>, full: bool) -> PyErr {
    static CLASSES: PyOnceLock<(Py<PyAny>, Py<PyAny>)> = PyOnceLock::new();
    let classes = CLASSES.get_or_try_init(py, || -> PyResult<_> {
        let module = py.import("queue")?;
        Ok((
            module.getattr("Empty")?.unbind(),
            module.getattr("Full")?.unbind(),
        ))
    });
    let make = |c: &(Py<PyAny>, Py<PyAny>)| {
        if full {
            c.1.bind(py).call0()
        } else {
            c.0.bind(py).call0()
        }
    };
    match classes.and_then(make) {
        Ok(exception) => PyErr::from_value(exception),
        Err(error) => error,
    }
}

fn closed_error(slf: &Bound<'_, QueueCore>) -> PyErr {
    let shown = slf
        .repr()
        .map_or_else(|_| "Queue".to_owned(), |r| r.to_string());
    PyValueError::new_err(format!("Queue {shown} is closed"))
}

#[pymethods]
impl QueueCore {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self {
            ring: OnceLock::new(),
            closed: AtomicBool::new(false),
            used: AtomicBool::new(false),
        }
    }

    /// Makes the queue in the session; for `__init__`.
    #[pyo3(signature = (maxsize=0, name=""))]
    fn _create(&self, py: Python<'_>, maxsize: i64, name: &str) -> PyResult<()> {
        let max_messages = u32::try_from(maxsize.max(0)).unwrap_or(0);
        let ring = Ring::create(
            life::session(py)?,
            name,
            RingOptions {
                max_messages,
                max_bytes: 0,
            },
        );
        let _ = self.ring.set(ring.map_err(errors::shm)?);
        Ok(())
    }

    /// Becomes the queue that another process has told of; for `__setstate__`.
    fn _adopt(&self, py: Python<'_>, index: u32, generation: u64) -> PyResult<()> {
        self.adopt(py, index, generation)
    }

    /// What another process of the session finds the queue by.
    fn handle(&self) -> PyResult<(u32, u64)> {
        Ok(codec::handle_out(self.ring()?.handle()))
    }

    /// The queue that another process has told of.
    #[classmethod]
    fn from_handle<'py>(
        cls: &Bound<'py, PyType>,
        py: Python<'py>,
        index: u32,
        generation: u64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let made = cls.call_method1("__new__", (cls,))?;
        made.cast::<Self>()?.get().adopt(py, index, generation)?;
        Ok(made)
    }

    /// Put an object into the queue.
    #[pyo3(signature = (obj, block=Flag(true), timeout=None))]
    #[pyo3(text_signature = "($self, obj, block=True, timeout=None)")]
    fn put(
        slf: &Bound<'_, Self>,
        py: Python<'_>,
        obj: &Bound<'_, PyAny>,
        block: Flag,
        timeout: Option<f64>,
    ) -> PyResult<()> {
        let this = slf.get();
        if this.closed.load(Ordering::Relaxed) {
            return Err(closed_error(slf));
        }
        let mut encoded = Encoded::new(this.session()?);
        if let Err(error) = encoded.encode(py, obj) {
            // As in the standard library, what cannot be pickled is reported and dropped; subclasses may do otherwise.
            let value = error.into_value(py);
            slf.call_method1("_on_queue_feeder_error", (value, obj))?;
            return Ok(());
        }
        let port = this.ring()?.port();
        let is_long = encoded.message().len() >= 1 << 18;
        let here = if is_long {
            Err(WaitError::TimedOut)
        } else {
            port.put(encoded.message(), Deadline::NOW, &mut || true)
        };
        let put = match here {
            Err(WaitError::TimedOut) => {
                let deadline = enter::deadline(block.0, timeout);
                if deadline.is_now() && !is_long {
                    here
                } else {
                    enter::blocking(py, |check| port.put(encoded.message(), deadline, check))?
                }
            }
            other => other,
        };
        match put {
            Ok(()) => {
                encoded.sent();
                this.used.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(WaitError::TimedOut) => Err(queue_error(py, true)),
            Err(other) => Err(errors::wait(other)),
        }
    }

    /// Take the oldest object out of the queue.
    #[pyo3(signature = (block=Flag(true), timeout=None))]
    #[pyo3(text_signature = "($self, block=True, timeout=None)")]
    fn get<'py>(
        slf: &Bound<'py, Self>,
        py: Python<'py>,
        block: Flag,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let this = slf.get();
        if this.closed.load(Ordering::Relaxed) {
            return Err(closed_error(slf));
        }
        let session = this.session()?;
        let port = this.ring()?.port();
        let mut deadline = None;
        loop {
            // Left where it is until the guard has been left too: what is moved just after it was written has to be waited for.
            let mut taken = None;
            port.try_get(&mut |bytes, block| taken = Some(codec::take(py, bytes, block)))
                .map_err(errors::wait)?;
            if let Some(taken) = taken {
                return codec::finish(py, session, taken);
            }
            let deadline = *deadline.get_or_insert_with(|| enter::deadline(block.0, timeout));
            if deadline.passed() {
                return Err(queue_error(py, false));
            }
            // A peer that is busy answers within microseconds: worth looking again before leaving the interpreter.
            if spin(|| !port.is_empty()) {
                continue;
            }
            let filled =
                enter::blocking(py, |check| port.wait_filled(deadline, check, &|| Ok(false)))?;
            if !filled.map_err(errors::wait)? {
                return Err(queue_error(py, false));
            }
        }
    }

    /// How many objects are in the queue now.
    fn qsize(&self) -> PyResult<u32> {
        Ok(self.ring()?.port().len())
    }

    /// Is there none?
    fn empty(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let this = slf.get();
        if this.closed.load(Ordering::Relaxed) && this.used.load(Ordering::Relaxed) {
            return Err(PyOSError::new_err(
                closed_error(slf).value(slf.py()).to_string(),
            ));
        }
        Ok(this.ring()?.port().is_empty())
    }

    /// Are there `maxsize` of them?
    fn full(&self) -> PyResult<bool> {
        Ok(self.ring()?.port().is_full())
    }

    /// This process will neither put nor get any more.
    fn _close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Has this process closed the queue?
    #[getter]
    fn _closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// One task got from the queue is finished.
    fn _task_done(&self) -> PyResult<()> {
        if self.ring()?.port().task_done().map_err(errors::shm)? {
            Ok(())
        } else {
            Err(PyValueError::new_err("task_done() called too many times"))
        }
    }

    /// Waits until every task that was put is finished.
    #[pyo3(signature = (timeout=None))]
    fn _join(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let port = self.ring()?.port();
        let deadline = enter::after(timeout);
        match enter::blocking(py, |check| port.join(deadline, check))? {
            Ok(()) => Ok(true),
            Err(WaitError::TimedOut) => Ok(false),
            Err(other) => Err(errors::wait(other)),
        }
    }

    /// Tasks put and not finished.
    fn _unfinished(&self) -> PyResult<u32> {
        Ok(self.ring()?.port().unfinished())
    }

    /// Waits until there is something to get.
    #[pyo3(signature = (timeout=0.0))]
    fn poll(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        if self.is_ready()? {
            return Ok(true);
        }
        let deadline = enter::after(timeout);
        if deadline.is_now() {
            self.rest()?;
            return Ok(false);
        }
        enter::blocking(py, |check| self.wait_filled(deadline, check))?.map_err(errors::wait)
    }

    /// A descriptor that is readable while there is something to get.
    fn fileno(&self) -> PyResult<i32> {
        self.ring()?
            .port()
            .watch(&|| Ok(false))
            .map_err(errors::shm)
    }

    /// The name that tools show.
    fn _set_name(&self, name: &str) -> PyResult<()> {
        self.ring()?.handle().entry().set_name(name);
        Ok(())
    }
}

/// Looks again for about two microseconds.
pub(crate) fn spin(ready: impl Fn() -> bool) -> bool {
    if !may_spin() {
        return false;
    }
    for _ in 0..64 {
        if ready() {
            return true;
        }
        std::hint::spin_loop();
    }
    false
}

/// Those of the given queues and pipe ends that have something to read, waiting for the first.
#[pyfunction]
#[pyo3(signature = (objects, timeout=None))]
pub(crate) fn wait_ready<'py>(
    py: Python<'py>,
    objects: &Bound<'py, PyAny>,
    timeout: Option<f64>,
) -> PyResult<Bound<'py, PyList>> {
    let objects: Vec<Bound<'py, PyAny>> = objects.try_iter()?.collect::<PyResult<_>>()?;
    let deadline = enter::after(timeout);
    let ready = || -> PyResult<Bound<'py, PyList>> {
        let found = PyList::empty(py);
        for object in &objects {
            let is_ready = if let Ok(queue) = object.cast::<QueueCore>() {
                queue.get().poll(py, Some(0.0))?
            } else if let Ok(end) = object.cast::<PipeEnd>() {
                end.get().is_ready()?
            } else {
                return Err(PyValueError::new_err(
                    "wait_ready() takes queues and pipe ends",
                ));
            };
            if is_ready {
                found.append(object)?;
            }
        }
        Ok(found)
    };
    loop {
        let found = ready()?;
        if !found.is_empty() || deadline.passed() {
            return Ok(found);
        }
        if let [one] = &objects[..] {
            // The classes are frozen and Sync, so they may be used without the interpreter; the references stay here.
            let wanted = match (one.cast::<QueueCore>(), one.cast::<PipeEnd>()) {
                (Ok(queue), _) => Some(Wanted::Queue(queue.get())),
                (_, Ok(end)) => Some(Wanted::End(end.get().end()?)),
                _ => None,
            };
            if let Some(wanted) = wanted {
                enter::blocking(py, |check| wanted.wait(deadline, check))?.map_err(errors::wait)?;
            }
            continue;
        }
        wait_for_any(py, &objects, deadline)?;
    }
}

enum Wanted<'a> {
    Queue(&'a QueueCore),
    End(End),
}

impl Wanted<'_> {
    fn wait(
        &self,
        deadline: Deadline,
        check: procession_shm::wait::Check<'_>,
    ) -> Result<bool, WaitError> {
        match self {
            Self::Queue(queue) => queue.wait_filled(deadline, check),
            Self::End(end) => end.poll(deadline, check),
        }
    }
}

/// Several objects have several words to sleep on; their descriptors can be polled together.
fn wait_for_any(py: Python<'_>, objects: &[Bound<'_, PyAny>], deadline: Deadline) -> PyResult<()> {
    let fds = objects
        .iter()
        .map(|o| {
            if let Ok(q) = o.cast::<QueueCore>() {
                q.get().fileno()
            } else {
                o.cast::<PipeEnd>()?.get().watch_fd()
            }
        })
        .collect::<PyResult<Vec<i32>>>()?;
    let slice = Deadline::after(Some(deadline.slice(Duration::from_millis(100))));
    let polled = py.detach(|| {
        let fds: Vec<_> = fds
            .iter()
            .map(|fd| crate::buffer::borrowed_fd(*fd))
            .collect();
        procession_sys::poll::wait_any_readable(&fds, slice)
    });
    match polled {
        Ok(_) | Err(procession_sys::Errno::INTR) => crate::life::check_signals(py)?,
        Err(e) => return Err(errors::system(e)),
    }
    if let Some(session) = life::existing() {
        session.sweep().map_err(errors::shm)?;
    }
    Ok(())
}

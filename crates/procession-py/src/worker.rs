//! A pool's worker: the loop that takes items, calls Python and sends what came of it.

use std::sync::{Mutex, OnceLock, PoisonError};

use procession_engine::pool::{JobId, Message, Notes, Task, Worker, WorkerId};
use procession_shm::{Session, WaitError};
use pyo3::exceptions::{PyRuntimeError, PySystemExit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::codec::batch::{self, Arguments};
use crate::codec::{self, Encoded};
use crate::pool::{EXITED, RAISED, RETURNED, decode, pool_error};
use crate::raw::call_one;
use crate::{enter, errors};

/// How a function is called with an item.
const STARMAP: u8 = 1;

/// A worker's side.
#[pyclass(frozen, module = "procession._native")]
pub(crate) struct PoolWorker {
    worker: Mutex<Option<Worker>>,
    session: OnceLock<&'static Session>,
}

/// A job's function, as this worker has it.
struct Function<'py> {
    job: JobId,
    call: Option<(u8, Bound<'py, PyAny>)>,
}

#[pymethods]
impl PoolWorker {
    #[new]
    fn new(py: Python<'_>, index: u32, generation: u64, worker: u64) -> PyResult<Self> {
        let handle = codec::handle_in(py, index, generation)?;
        let session = handle.session();
        let worker = Worker::join(handle, WorkerId(worker)).map_err(pool_error)?;
        Ok(Self {
            worker: Mutex::new(Some(worker)),
            session: OnceLock::from(session),
        })
    }

    /// Works until there is nothing more to do; how many items were done.
    ///
    /// `describe` turns an exception into what is sent for it, `unsendable` does so for a result that cannot be pickled.
    fn run(
        &self,
        py: Python<'_>,
        describe: &Bound<'_, PyAny>,
        unsendable: &Bound<'_, PyAny>,
    ) -> PyResult<u64> {
        let taken = self
            .worker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let (Some(mut worker), Some(session)) = (taken, self.session.get()) else {
            return Err(PyRuntimeError::new_err("this worker has run already"));
        };
        let mut function: Option<Function<'_>> = None;
        let mut done = 0;
        while let Some(mut task) = next_task(py, &mut worker)? {
            let mut block = task.take_block();
            if let Some(arguments) = Arguments::of(py, session, task.bytes(), || block.take())? {
                let how = Finish {
                    session,
                    describe,
                    unsendable,
                };
                done += run_batch(py, &mut worker, task.job, arguments, &mut function, &how)?;
                continue;
            }
            let result = run_task(py, session, &worker, &task, block, &mut function);
            finish_task(py, session, &mut worker, result, describe, unsendable)?;
            done += 1;
        }
        Ok(done)
    }
}

fn next_task(py: Python<'_>, worker: &mut Worker) -> PyResult<Option<Task>> {
    if let Some(task) = worker.try_next().map_err(pool_error)? {
        return Ok(Some(task));
    }
    let mut failed = None;
    let next = enter::blocking(py, |check| {
        worker.next(check).map_err(|e| {
            failed = Some(e);
            WaitError::Interrupted
        })
    })?;
    match (next, failed) {
        (Ok(task), _) => Ok(task),
        (Err(_), Some(error)) => Err(pool_error(error)),
        (Err(error), None) => Err(errors::wait(error)),
    }
}

fn run_task<'py>(
    py: Python<'py>,
    session: &'static Session,
    worker: &Worker,
    task: &Task,
    block: Option<u64>,
    function: &mut Option<Function<'py>>,
) -> PyResult<Bound<'py, PyAny>> {
    let taken = codec::take(py, task.bytes(), block);
    learn_function(py, session, worker, task.job, function)?;
    call(py, function.as_ref(), codec::finish(py, session, taken)?)
}

/// Makes the job's function this worker's, if it is another than the last one.
fn learn_function<'py>(
    py: Python<'py>,
    session: &'static Session,
    worker: &Worker,
    job: JobId,
    function: &mut Option<Function<'py>>,
) -> PyResult<()> {
    if function.as_ref().is_some_and(|f| f.job == job) {
        return Ok(());
    }
    // The old one goes first: it may hold a lot of memory.
    *function = None;
    let payload = worker.function().map_err(pool_error)?;
    let object = decode(py, session, payload)?;
    let call = if object.is_none() {
        None
    } else {
        Some(object.extract::<(u8, Bound<'py, PyAny>)>()?)
    };
    *function = Some(Function { job, call });
    Ok(())
}

fn call<'py>(
    py: Python<'py>,
    function: Option<&Function<'py>>,
    item: Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    match function.and_then(|f| f.call.as_ref()) {
        Some((STARMAP, function)) => {
            let args = match item.cast_into::<PyTuple>() {
                Ok(args) => args,
                Err(other) => other
                    .into_inner()
                    .try_iter()?
                    .collect::<PyResult<Vec<_>>>()
                    .and_then(|v| PyTuple::new(py, v))?,
            };
            function.call1(args)
        }
        Some((_, function)) => call_one(function, &item),
        None => {
            let (function, args, kwds): (Bound<'_, PyAny>, Bound<'_, PyAny>, Bound<'_, PyAny>) =
                item.extract()?;
            let args = args.try_iter()?.collect::<PyResult<Vec<_>>>()?;
            let kwds = kwds.cast_into::<PyDict>()?;
            function.call(PyTuple::new(py, args)?, Some(&kwds))
        }
    }
}

/// How outcomes are told.
struct Finish<'a, 'py> {
    session: &'static Session,
    describe: &'a Bound<'py, PyAny>,
    unsendable: &'a Bound<'py, PyAny>,
}

/// Runs a task that is many calls. What was finished is noted call by call, so that it is not lost if one of them kills this
/// process. A large result ends the batch early; the parent has the rest of it run again, one by one. How many calls were begun.
fn run_batch<'py>(
    py: Python<'py>,
    worker: &mut Worker,
    job: JobId,
    mut arguments: Arguments<'_, 'py>,
    function: &mut Option<Function<'py>>,
    how: &Finish<'_, 'py>,
) -> PyResult<u64> {
    let mut notes = worker.notes().map_err(pool_error)?;
    // Where the notes have no room: all outcomes so far.
    let mut spilled: Option<Vec<u8>> = None;
    let mut calls = 0;
    let mut scratch = Vec::with_capacity(256);
    let learned = learn_function(py, how.session, worker, job, function);
    while let Some(taken) = arguments.next(py) {
        notes.begin();
        calls += 1;
        let result = match &learned {
            Ok(()) => codec::finish(py, how.session, taken)
                .and_then(|item| call(py, function.as_ref(), item)),
            Err(error) => Err(error.clone_ref(py)),
        };
        let (status, value, fatal) = match result {
            Ok(value) => (RETURNED, value, None),
            Err(error) if error.is_instance_of::<PySystemExit>(py) => {
                let told = (std::process::id(), exit_code(py, &error));
                (EXITED, told.into_pyobject(py)?.into_any(), Some(error))
            }
            Err(error) if error.is_instance_of::<pyo3::exceptions::PyKeyboardInterrupt>(py) => {
                return Err(error);
            }
            Err(error) => (RAISED, how.describe.call1((error.into_value(py),))?, None),
        };
        if fatal.is_none() && batch::outcome_simple(py, status, &mut scratch, &value) {
            note(&mut notes, &mut spilled, &[&scratch])?;
            continue;
        }
        let instead;
        let (status, encoded) = match Encoded::of(py, how.session, &value) {
            Ok(encoded) => (status, encoded),
            Err(problem) => {
                instead = (how.unsendable).call1((problem.into_value(py), &value))?;
                (RAISED, Encoded::of(py, how.session, &instead)?)
            }
        };
        let Some(head) = batch::head(status, &encoded) else {
            finish_large(worker, &notes, spilled, calls, status, encoded)?;
            return Ok(calls);
        };
        note(
            &mut notes,
            &mut spilled,
            &[&head, encoded.head(), encoded.tail],
        )?;
        if let Some(error) = fatal {
            finish_batch(worker, &notes, spilled, calls)?;
            return Err(error);
        }
    }
    finish_batch(worker, &notes, spilled, calls)?;
    Ok(calls)
}

/// Notes an outcome; if there is no room any more, everything goes to ordinary memory.
#[inline]
fn note(notes: &mut Notes, spilled: &mut Option<Vec<u8>>, parts: &[&[u8]]) -> PyResult<()> {
    if spilled.is_none() {
        if notes.add(parts).map_err(errors::corrupt)? {
            return Ok(());
        }
        *spilled = Some(notes.bytes().map_err(errors::corrupt)?.to_vec());
    }
    if let Some(all) = spilled {
        all.extend(parts.iter().flat_map(|p| p.iter()));
    }
    Ok(())
}

fn finish_batch(
    worker: &mut Worker,
    notes: &Notes,
    spilled: Option<Vec<u8>>,
    calls: u64,
) -> PyResult<()> {
    worker.count_calls(calls);
    // An error is the end of this process: the parent knows what was noted, and none of it is run twice.
    match spilled {
        None => worker.finish_noted(RETURNED, notes),
        Some(all) => worker.finish(RETURNED, Message::new(&all)),
    }
    .map_err(pool_error)
}

/// Ends a batch with an outcome that is large.
fn finish_large(
    worker: &mut Worker,
    notes: &Notes,
    spilled: Option<Vec<u8>>,
    calls: u64,
    status: u8,
    mut encoded: Encoded<'_>,
) -> PyResult<()> {
    worker.ask_single();
    worker.count_calls(calls);
    let mut all = match spilled {
        Some(all) => all,
        None => notes.bytes().map_err(errors::corrupt)?.to_vec(),
    };
    all.extend_from_slice(&batch::last_head(status));
    all.extend_from_slice(encoded.head());
    let message = Message {
        bytes: &all,
        tail: encoded.tail,
        block: encoded.block,
    };
    worker.finish(RETURNED, message).map_err(pool_error)?;
    encoded.sent();
    Ok(())
}

fn finish_task(
    py: Python<'_>,
    session: &'static Session,
    worker: &mut Worker,
    result: PyResult<Bound<'_, PyAny>>,
    describe: &Bound<'_, PyAny>,
    unsendable: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let (status, value) = match result {
        Ok(value) => (RETURNED, value),
        Err(error) if error.is_instance_of::<PySystemExit>(py) => {
            let code = exit_code(py, &error);
            let told = (std::process::id(), code).into_pyobject(py)?.into_any();
            send(py, session, worker, EXITED, &told)?;
            return Err(error);
        }
        Err(error) if error.is_instance_of::<pyo3::exceptions::PyKeyboardInterrupt>(py) => {
            return Err(error);
        }
        Err(error) => (RAISED, describe.call1((error.into_value(py),))?),
    };
    let mut encoded = Encoded::new(session);
    if let Err(problem) = encoded.encode(py, &value) {
        let instead = unsendable.call1((problem.into_value(py), &value))?;
        return send(py, session, worker, RAISED, &instead);
    }
    match worker.finish(status, encoded.message()) {
        Ok(()) => {
            encoded.sent();
            Ok(())
        }
        Err(problem) => {
            drop(encoded);
            let problem = pool_error(problem).into_value(py);
            let instead = unsendable.call1((problem, intern!(py, "(too large)")))?;
            send(py, session, worker, RAISED, &instead)
        }
    }
}

fn send(
    py: Python<'_>,
    session: &'static Session,
    worker: &mut Worker,
    status: u8,
    value: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let mut encoded = Encoded::of(py, session, value)?;
    worker
        .finish(status, encoded.message())
        .map_err(pool_error)?;
    encoded.sent();
    Ok(())
}

/// The exit code that a `SystemExit` stands for.
fn exit_code(py: Python<'_>, error: &PyErr) -> i32 {
    let Ok(code) = error.value(py).getattr(intern!(py, "code")) else {
        return 1;
    };
    if code.is_none() {
        0
    } else {
        code.extract().unwrap_or(1)
    }
}

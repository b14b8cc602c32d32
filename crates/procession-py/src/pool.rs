//! The parent's side of the engine's pool, as Python needs it: whole batches of items in one call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use procession_engine::pool::{
    Action, Broken, Cancel, Collected, Config, JobId, JobSpec, Order, Pool, PoolError, Until, Why,
    Woken, WorkerId,
};
use procession_shm::board::Payload;
use procession_shm::{Session, WaitError};
use procession_sys::clock::now_ns;
use pyo3::exceptions::{PyException, PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::batches::{Batches, Filling};
use crate::codec::range::Range;
use crate::codec::{self, Encoded, Repeated};
use crate::feed::{Feed, lock};
use crate::outcomes::Lists;
use crate::{enter, errors, life};

/// How an item ended, in the engine's status byte.
pub(crate) const RETURNED: u8 = 0;
pub(crate) const RAISED: u8 = 1;
pub(crate) const EXITED: u8 = 2;

const TIMED_OUT: u32 = 0;
const READY: u32 = 1;
const ATTENTION: u32 = 2;

pub(crate) fn pool_error(error: PoolError) -> PyErr {
    match error {
        PoolError::Wait(WaitError::Shm(e)) => errors::shm(e),
        PoolError::Wait(e) => errors::wait(e),
        PoolError::Closed | PoolError::Terminated => PyValueError::new_err("Pool not running"),
        PoolError::Broken(broken) => Python::attach(|py| broken_error(py, broken)),
        other => PyRuntimeError::new_err(other.to_string()),
    }
}

fn broken_error(py: Python<'_>, broken: Broken) -> PyErr {
    let text = format!(
        "{} workers in a row have ended before they could take a task (the last with exit code {}); look at what the \
         initializer does",
        broken.deaths,
        broken
            .exit
            .map_or_else(|| "unknown".to_owned(), |e| e.to_string()),
    );
    let made = || {
        py.import("procession._pool_errors")?
            .getattr("PoolBroken")?
            .call1((text,))
    };
    made().map_or_else(|e| e, PyErr::from_value)
}

fn job(word: u64) -> PyResult<JobId> {
    JobId::from_word(word).ok_or_else(|| PyValueError::new_err("not a job"))
}

pub(crate) fn decode<'py>(
    py: Python<'py>,
    session: &'static Session,
    mut payload: Payload,
) -> PyResult<Bound<'py, PyAny>> {
    let block = payload.take_block();
    let taken = codec::take(py, payload.bytes(), block);
    drop(payload);
    codec::finish(py, session, taken)
}

/// The parent's side of a pool of processes.
#[pyclass(frozen, module = "procession._native")]
pub(crate) struct PoolCore {
    pub(crate) pool: Pool,
    pub(crate) session: &'static Session,
    /// Makes the exception for an item without a result: (job, item, kind, pid, exit code).
    pub(crate) failure: Py<PyAny>,
    /// Makes what is sent instead of an item that cannot be: whoever is to run it gets the error.
    unsent: Py<PyAny>,
    /// The jobs that are fed from iterators.
    feeds: Mutex<HashMap<u64, Arc<Feed>>>,
}

impl PoolCore {
    fn feeds(&self) -> MutexGuard<'_, HashMap<u64, Arc<Feed>>> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn feed_of(&self, job_word: u64) -> Arc<Feed> {
        self.feeds().get(&job_word).cloned().unwrap_or_default()
    }

    /// Gives a job one of many items; `None` if there is no room. False if it cannot be pickled, which is that item's error and
    /// not the others'.
    pub(crate) fn put(
        &self,
        py: Python<'_>,
        job: JobId,
        obj: &Bound<'_, PyAny>,
        repeated: Option<&Arc<Repeated>>,
    ) -> PyResult<Option<bool>> {
        let mut encoded = Encoded::new(self.session);
        match encoded.encode_item(py, obj, repeated) {
            Ok(()) => Ok(self.send(job, encoded)?.map(|_| true)),
            Err(error) if error.is_instance_of::<PyException>(py) => {
                drop(encoded);
                let instead = self.unsent.bind(py).call1((error.into_value(py),))?;
                let instead = Encoded::of(py, self.session, &instead)?;
                Ok(self.send(job, instead)?.map(|_| false))
            }
            Err(error) => Err(error),
        }
    }

    fn send(&self, job: JobId, mut encoded: Encoded<'_>) -> PyResult<Option<u64>> {
        let fed = self.pool.feed(job, encoded.message()).map_err(pool_error)?;
        if fed.is_some() {
            encoded.sent();
        }
        Ok(fed)
    }

    /// The next item that has come to its end.
    fn found(&self, job: JobId, ordered: bool) -> PyResult<Option<Collected>> {
        let found = if ordered {
            self.pool.collect_next(job)
        } else {
            self.pool.collect_any(job)
        };
        found.map_err(pool_error)
    }

    /// What became of an item. An error in telling it is what became of it: it must not be lost, nor those before it.
    fn outcome_of<'py>(
        &self,
        py: Python<'py>,
        job: u64,
        found: Collected,
    ) -> (bool, Bound<'py, PyAny>) {
        self.outcome(py, job, found.item, found)
            .unwrap_or_else(|e| (false, e.into_value(py).into_bound(py).into_any()))
    }

    fn wait_for(
        py: Python<'_>,
        timeout: Option<f64>,
        wait: impl FnOnce(
            procession_sys::clock::Deadline,
            procession_shm::wait::Check<'_>,
        ) -> Result<Woken, PoolError>
        + Send,
    ) -> PyResult<u32> {
        let deadline = enter::after(timeout);
        let mut failed = None;
        let woken = enter::blocking(py, |check| match wait(deadline, check) {
            Ok(Woken::Ready) => Ok(READY),
            Ok(Woken::Attention) => Ok(ATTENTION),
            Err(PoolError::Wait(WaitError::TimedOut)) => Ok(TIMED_OUT),
            Err(other) => {
                failed = Some(other);
                Err(WaitError::Interrupted)
            }
        })?;
        match (woken, failed) {
            (Ok(woken), _) => Ok(woken),
            // A broken or ended pool, and a job that another thread has closed, are states to be looked at.
            (
                Err(_),
                Some(PoolError::Broken(_) | PoolError::Terminated | PoolError::UnknownJob),
            ) => Ok(ATTENTION),
            (Err(_), Some(PoolError::Wait(WaitError::Closed))) => Ok(READY),
            (Err(_), Some(error)) => Err(pool_error(error)),
            (Err(error), None) => Err(errors::wait(error)),
        }
    }
}

#[pymethods]
impl PoolCore {
    #[new]
    fn new(
        py: Python<'_>,
        name: &str,
        workers: usize,
        max_tasks: Option<u64>,
        failure: Py<PyAny>,
        unsent: Py<PyAny>,
    ) -> PyResult<Self> {
        let session = life::session(py)?;
        let config = Config {
            max_tasks,
            ..Config::new(name, workers)
        };
        let pool = Pool::create(session, &config).map_err(pool_error)?;
        Ok(Self {
            pool,
            session,
            failure,
            unsent,
            feeds: Mutex::default(),
        })
    }

    /// What a worker finds the pool by.
    fn handle(&self) -> (u32, u64) {
        codec::handle_out(self.pool.handle())
    }

    /// Opens a job; `None` if there are as many as there can be. `function` is what every item is called with, `None` where the
    /// items are calls of their own.
    #[pyo3(signature = (function, total, ordered, timeout, retries, chunk))]
    #[allow(clippy::too_many_arguments)] // Python's call is one of the two sides of a job's fields
    fn open_job(
        &self,
        py: Python<'_>,
        function: &Bound<'_, PyAny>,
        total: Option<u64>,
        ordered: bool,
        timeout: Option<f64>,
        retries: u32,
        chunk: u32,
    ) -> PyResult<Option<u64>> {
        let spec = JobSpec {
            total,
            order: if ordered {
                Order::InOrder
            } else {
                Order::AsFinished
            },
            timeout: timeout.and_then(|t| std::time::Duration::try_from_secs_f64(t).ok()),
            retries,
            chunk_hint: chunk,
        };
        let mut encoded = Encoded::new(self.session);
        encoded.encode_shared(py, function)?;
        match self.pool.open_job(encoded.message(), spec) {
            Ok(opened) => {
                encoded.sent();
                Ok(Some(opened.word()))
            }
            Err(PoolError::TooMany("jobs", _)) => Ok(None),
            Err(error) => Err(pool_error(error)),
        }
    }

    /// What is known of a job's items before they are fed; true if they need not be fed from an iterator. Large buffers that
    /// several of a list's items have in common are sent once. With `batches` up to so many quick calls may be handed over as
    /// one.
    fn expect_items(
        &self,
        job_word: u64,
        items: &Bound<'_, PyAny>,
        batches: usize,
        workers: usize,
    ) -> PyResult<bool> {
        let range = Range::of(items).filter(|_| batches > 1);
        let known = range.is_some();
        let feed = Feed {
            repeated: Repeated::of(items)?.map(Arc::new),
            batches: (batches > 1).then(|| {
                Mutex::new(Batches::new(
                    batches,
                    items.len().unwrap_or(0),
                    workers,
                    range,
                ))
            }),
            ..Feed::default()
        };
        self.feeds().insert(job_word, Arc::new(feed));
        Ok(known)
    }

    /// From here on each item is handed over by itself.
    fn no_batches(&self, job_word: u64) {
        if let Some(batches) = &self.feed_of(job_word).batches {
            lock(batches).stop();
        }
    }

    /// Gives a job one item; its number, or `None` when there is no room.
    fn feed(
        &self,
        py: Python<'_>,
        job_word: u64,
        item: &Bound<'_, PyAny>,
    ) -> PyResult<Option<u64>> {
        let id = job(job_word)?;
        let mut encoded = Encoded::new(self.session);
        encoded.encode(py, item)?;
        self.send(id, encoded)
    }

    /// Gives a job up to `limit` items of an iterator: (how many, whether the iterator has ended).
    fn feed_iter(
        &self,
        py: Python<'_>,
        job_word: u64,
        items: &Bound<'_, PyAny>,
        limit: u64,
    ) -> PyResult<(u64, bool)> {
        let id = job(job_word)?;
        let feed = self.feed_of(job_word);
        let items = items.try_iter()?;
        if let Some(batches) = &feed.batches {
            let filling = Filling {
                py,
                core: self,
                job: id,
                feed: &feed,
                batches,
                items: &items,
            };
            return filling.fill(limit);
        }
        let mut done = 0;
        while done < limit {
            let Some(item) = feed.take(py, &items)? else {
                return Ok((done, true));
            };
            if self.put(py, id, &item, feed.repeated.as_ref())?.is_none() {
                feed.hold_back(item);
                return Ok((done, false));
            }
            done += 1;
        }
        Ok((done, false))
    }

    /// A job gets no more items; how many it has.
    fn seal(&self, job_word: u64) -> PyResult<u64> {
        self.pool.seal(job(job_word)?).map_err(pool_error)
    }

    /// Appends what has come of an ordered job to `results`, and to `errors` (item, exception). True at its end. Where a batch
    /// was left half-way, what it did not come to goes to `left` (item, argument), to be run in another job.
    fn collect(
        &self,
        py: Python<'_>,
        job_word: u64,
        results: &Bound<'_, PyList>,
        errors: &Bound<'_, PyList>,
        left: &Bound<'_, PyList>,
    ) -> PyResult<bool> {
        let id = job(job_word)?;
        let feed = self.feeds().get(&job_word).cloned();
        let batches = feed.as_ref().and_then(|f| f.batches.as_ref());
        let mut lists = Lists {
            results,
            errors,
            left,
        };
        while let Some(found) = self.pool.collect_next(id).map_err(pool_error)? {
            let batch = batches.and_then(|b| lock(b).collected(found.item));
            if let Some(batch) = batch {
                self.take_batch(py, job_word, found, &batch, &mut lists)?;
                batch.forget(py);
            } else {
                let (success, value) = self.outcome(py, job_word, results.len() as u64, found)?;
                lists.push(success, value)?;
            }
        }
        self.pool.is_exhausted(id).map_err(pool_error)
    }

    /// Appends the next outcome, in order or as it comes, to `into`: (item, success, value). False if there is none.
    fn next(
        &self,
        py: Python<'_>,
        job_word: u64,
        ordered: bool,
        into: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let Some(found) = self.found(job(job_word)?, ordered)? else {
            return Ok(false);
        };
        let item = found.item;
        let (success, value) = self.outcome_of(py, job_word, found);
        into.call_method1(intern!(py, "append"), ((item, success, value),))?;
        Ok(true)
    }

    /// Appends the next outcomes that are there, `most` at most, to `into`: (success, value). How many.
    fn take(
        &self,
        py: Python<'_>,
        job_word: u64,
        ordered: bool,
        most: usize,
        into: &Bound<'_, PyAny>,
    ) -> PyResult<usize> {
        let id = job(job_word)?;
        let mut taken = 0;
        while taken < most
            && let Some(found) = self.found(id, ordered)?
        {
            let outcome = self.outcome_of(py, job_word, found);
            into.call_method1(intern!(py, "append"), (outcome,))?;
            taken += 1;
        }
        Ok(taken)
    }

    /// Has a sealed job given all its outcomes?
    fn is_exhausted(&self, job_word: u64) -> PyResult<bool> {
        self.pool.is_exhausted(job(job_word)?).map_err(pool_error)
    }

    /// Items of a job, where a batch is one: (fed, claimed, done, collected).
    fn progress(&self, job_word: u64) -> PyResult<(u64, u64, u64, u64)> {
        let p = self.pool.progress(job(job_word)?).map_err(pool_error)?;
        Ok((p.fed, p.claimed, p.done, p.collected))
    }

    /// Waits for a job: 0 timed out, 1 ready, 2 the engine wants something done (see `poll`).
    #[pyo3(signature = (job_word, until, number, timeout))]
    fn wait(
        &self,
        py: Python<'_>,
        job_word: u64,
        until: u32,
        number: u64,
        timeout: Option<f64>,
    ) -> PyResult<u32> {
        let until = match until {
            0 => Until::Next,
            1 => Until::Any,
            2 => Until::AllDone,
            _ => Until::Done(number),
        };
        let id = job(job_word)?;
        Self::wait_for(py, timeout, |deadline, check| {
            self.pool.wait(id, until, deadline, check)
        })
    }

    /// Waits until one of several jobs has an outcome to collect.
    #[pyo3(signature = (jobs, timeout))]
    fn wait_many(
        &self,
        py: Python<'_>,
        jobs: Vec<(u64, u32)>,
        timeout: Option<f64>,
    ) -> PyResult<u32> {
        let jobs = jobs
            .into_iter()
            .map(|(j, u)| Ok((job(j)?, if u == 0 { Until::Next } else { Until::Any })))
            .collect::<PyResult<Vec<_>>>()?;
        Self::wait_for(py, timeout, |deadline, check| {
            self.pool.wait_many(&jobs, deadline, check)
        })
    }

    /// Waits until the engine wants something done.
    #[pyo3(signature = (timeout))]
    fn wait_attention(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<u32> {
        Self::wait_for(py, timeout, |deadline, check| {
            self.pool.wait_attention(deadline, check)
        })
    }

    /// What the engine wants done: (what, worker, pid, why).
    fn poll(&self, py: Python<'_>) -> PyResult<Vec<(&'static str, u64, u32, &'static str)>> {
        let actions = py.detach(|| self.pool.poll(now_ns())).map_err(pool_error)?;
        Ok(actions
            .into_iter()
            .map(|action| match action {
                Action::Spawn { worker } => ("spawn", worker.0, 0, ""),
                Action::Kill {
                    worker, pid, why, ..
                } => {
                    let why = match why {
                        Why::TimedOut => "timed out",
                        Why::Cancelled => "cancelled",
                        Why::Terminated => "terminated",
                    };
                    ("kill", worker.0, pid, why)
                }
                Action::Broken(_) => ("broken", 0, 0, ""),
                Action::Ended => ("ended", 0, 0, ""),
            })
            .collect())
    }

    /// Is it time for a `poll` because of a timeout?
    fn next_deadline_passed(&self) -> bool {
        self.pool
            .next_deadline()
            .ok()
            .flatten()
            .is_some_and(|at| at <= now_ns())
    }

    /// A worker runs.
    fn worker_started(&self, worker: u64, token: u32, pid: u32) -> PyResult<()> {
        let owner = procession_shm::processes::Owner::from_word(token);
        let owner = owner.ok_or_else(|| PyValueError::new_err("not the token of a child"))?;
        self.pool
            .worker_started(WorkerId(worker), owner, pid)
            .map_err(pool_error)
    }

    /// A worker could not be started.
    fn worker_not_started(&self, worker: u64) -> PyResult<()> {
        self.pool
            .worker_not_started(WorkerId(worker))
            .map_err(pool_error)
    }

    /// A worker has ended.
    #[pyo3(signature = (worker, exitcode))]
    fn worker_exited(&self, worker: u64, exitcode: Option<i32>) -> PyResult<()> {
        self.pool
            .worker_exited(WorkerId(worker), exitcode)
            .map_err(pool_error)
    }

    /// Stops an item; false if it had finished.
    fn cancel(&self, job_word: u64, item: u64) -> PyResult<bool> {
        Ok(!matches!(
            self.pool.cancel(job(job_word)?, item).map_err(pool_error)?,
            Cancel::TooLate
        ))
    }

    /// Drops what is left of a job.
    fn close_job(&self, job_word: u64) -> PyResult<()> {
        // Dropped without the lock, as that may run any Python code.
        let forgotten = self.feeds().remove(&job_word);
        drop(forgotten);
        match self.pool.close_job(job(job_word)?) {
            Ok(()) | Err(PoolError::UnknownJob | PoolError::Terminated | PoolError::NotOwner) => {
                Ok(())
            }
            Err(error) => Err(pool_error(error)),
        }
    }

    /// No new work; the workers leave when all there is has been done.
    fn close(&self) -> PyResult<()> {
        self.pool.close().map_err(pool_error)
    }

    /// All work stops.
    fn terminate(&self) -> PyResult<()> {
        self.pool.terminate().map_err(pool_error)
    }

    /// Why the pool has given up: (deaths in a row, the last exit code).
    fn broken(&self) -> PyResult<Option<(u32, Option<i32>)>> {
        Ok(self
            .pool
            .broken()
            .map_err(pool_error)?
            .map(|b| (b.deaths, b.exit)))
    }
}

/// How often the kernel's out-of-memory killer has struck in this process's group, zero where that cannot be told.
#[pyfunction]
pub(crate) fn oom_kills() -> u64 {
    procession_sys::limits::oom_kills().unwrap_or(0)
}

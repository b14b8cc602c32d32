//! Many quick calls of a map as one item of the engine's.
//!
//! There are three ways: a range as what it is, objects with an encoding of their own one behind the other, and others as one
//! pickle. What cannot go together goes by itself.

use std::collections::VecDeque;
use std::sync::Mutex;

use procession_engine::pool::{JobId, Message};
use pyo3::exceptions::{PyException, PyMemoryError, PyRecursionError};
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyIterator, PyList};

use crate::codec::range::Range;
use crate::codec::{Encoded, batch};
use crate::feed::{Feed, lock};
use crate::pool::{PoolCore, pool_error};

/// How long a batch should take, in nanoseconds: long against the cost of handing it over, short against everything else.
const BATCH_NS: u64 = 50_000;
/// Batches whose items are pickled together may take so many times as long: the more there are the less each costs.
const LONGER: u64 = 4;
/// And they are about so long at most, in bytes.
const LISTED_BYTES: usize = 16 << 10;
/// After so many items one by one it is looked at again whether batches are worth it.
const LOOK_EVERY: u64 = 32;
/// A map keeps at least so many batches for each worker.
const FOR_EACH_WORKER: usize = 8;

/// What was put together.
pub(crate) enum Items {
    Objects(Vec<Py<PyAny>>),
    Range(Range),
}

impl Items {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Objects(all) => all.len(),
            Self::Range(range) => range.len(),
        }
    }

    /// The one at a place.
    pub(crate) fn get<'py>(&self, py: Python<'py>, at: usize) -> Option<Bound<'py, PyAny>> {
        match self {
            Self::Objects(all) => all.get(at).map(|item| item.bind(py).clone()),
            Self::Range(range) => Some(PyInt::new(py, range.get(at)?).into_any()),
        }
    }

    /// Drops them; like this it need not be asked each time whether the interpreter is ours.
    pub(crate) fn forget(self, py: Python<'_>) {
        if let Self::Objects(all) = self {
            for item in all {
                drop(item.into_bound(py));
            }
        }
    }
}

/// How a job's items are put together, and what was put together.
pub(crate) struct Batches {
    /// What is left of the items, where these are a range, instead of their iterator.
    range: Option<Range>,
    /// The most items in one.
    most: usize,
    /// Of all items.
    total: usize,
    workers: usize,
    /// Fed so far.
    fed: usize,
    /// Since the last look.
    singles: u64,
    size: usize,
    /// The items are pickled: better all of a batch as one.
    pickled: bool,
    /// About how many bytes each of them takes.
    bytes_each: usize,
    /// Batches that were not collected yet: the engine's item, and what is in it.
    open: VecDeque<(u64, Items)>,
}

impl Batches {
    pub(crate) fn new(most: usize, total: usize, workers: usize, range: Option<Range>) -> Self {
        Self {
            range,
            most,
            total,
            workers: workers.max(1),
            fed: 0,
            singles: 0,
            size: 1,
            pickled: false,
            bytes_each: 1,
            open: VecDeque::new(),
        }
    }

    /// How many of the next items to hand over as one, if a call takes so long.
    fn choose(&mut self, call_ns: Option<u64>) {
        let long = if self.pickled { LONGER } else { 1 };
        let worth = call_ns.map_or(1, |ns| (long * BATCH_NS / ns.max(1)) as usize);
        let fair = self.total.saturating_sub(self.fed) / (self.workers * FOR_EACH_WORKER);
        self.size = worth.min(fair).min(self.most).max(1);
        self.singles = 0;
    }

    /// No more batches.
    pub(crate) fn stop(&mut self) {
        (self.most, self.size) = (1, 1);
    }

    /// The items of the batch that the engine knows as `item`.
    pub(crate) fn collected(&mut self, item: u64) -> Option<Items> {
        match self.open.front() {
            Some((first, _)) if *first == item => self.open.pop_front().map(|(_, items)| items),
            _ => None,
        }
    }
}

/// What became of the next items, and how many were fed.
enum Went {
    Fed(u64),
    /// There is no room for more.
    Full(u64),
    /// There are no more.
    Ended,
}

/// A map's items on their way.
pub(crate) struct Filling<'a, 'py> {
    pub(crate) py: Python<'py>,
    pub(crate) core: &'a PoolCore,
    pub(crate) job: JobId,
    pub(crate) feed: &'a Feed,
    pub(crate) batches: &'a Mutex<Batches>,
    pub(crate) items: &'a Bound<'py, PyIterator>,
}

impl<'py> Filling<'_, 'py> {
    /// Gives the job up to `limit` items: (how many, whether there are no more).
    pub(crate) fn fill(&self, limit: u64) -> PyResult<(u64, bool)> {
        let mut done = 0;
        while done < limit {
            match self.next(limit - done)? {
                Went::Fed(count) => done += count,
                Went::Full(count) => return Ok((done + count, false)),
                Went::Ended => return Ok((done, true)),
            }
        }
        Ok((done, false))
    }

    fn next(&self, limit: u64) -> PyResult<Went> {
        let (size, look) = {
            let state = lock(self.batches);
            (state.size, state.singles >= LOOK_EVERY || state.size > 1)
        };
        let size = if look {
            let call_ns = self.core.pool.call_ns(self.job).map_err(pool_error)?;
            let mut state = lock(self.batches);
            state.choose(call_ns);
            state.size
        } else {
            size
        };
        let size = size.min(usize::try_from(limit).unwrap_or(usize::MAX));
        let (range, pickled) = {
            let state = lock(self.batches);
            (state.range, state.pickled)
        };
        match range {
            Some(range) => self.part_of(range, size),
            None if size == 1 => match self.feed.take(self.py, self.items)? {
                Some(item) => self.singly([item], None),
                None => Ok(Went::Ended),
            },
            None if pickled => self.listed(size),
            None => self.one_by_another(size),
        }
    }

    /// Notes that items have gone together.
    fn went(&self, item: u64, together: Items) -> Went {
        let count = together.len();
        let mut state = lock(self.batches);
        state.fed += count;
        state.open.push_back((item, together));
        Went::Fed(count as u64)
    }

    /// Feeds the next of a range.
    fn part_of(&self, mut range: Range, size: usize) -> PyResult<Went> {
        let next = range.split(size);
        let went = match next.len() {
            0 => {
                lock(self.batches).range = None;
                return Ok(Went::Ended);
            }
            1 => {
                let item = PyInt::new(self.py, next.first()).into_any();
                if self.core.put(self.py, self.job, &item, None)?.is_none() {
                    return Ok(Went::Full(0));
                }
                self.went_singly();
                Went::Fed(1)
            }
            _ => {
                let message = next.arguments();
                let fed = self.core.pool.feed(self.job, Message::new(&message));
                match fed.map_err(pool_error)? {
                    Some(item) => self.went(item, Items::Range(next)),
                    None => return Ok(Went::Full(0)),
                }
            }
        };
        lock(self.batches).range = Some(range);
        Ok(went)
    }

    /// Feeds the next objects' encodings, as many as fit.
    fn one_by_another(&self, size: usize) -> PyResult<Went> {
        let mut bytes = Vec::with_capacity(batch::ARGUMENTS_MAX);
        let mut together = Vec::new();
        // The one that does not fit, and perhaps why.
        let mut odd = None;
        while together.len() < size {
            let Some(item) = self.feed.take(self.py, self.items)? else {
                break;
            };
            if !batch::add_simple(self.py, &mut bytes, &item) {
                let mut encoded = Encoded::new(self.core.session);
                let done = encoded.encode_item(self.py, &item, self.feed.repeated.as_ref());
                let why = self.encoded(done)?;
                if encoded.is_pickle() {
                    lock(self.batches).pickled = true;
                }
                if why.is_some() || !batch::add(&mut bytes, &encoded) {
                    drop(encoded);
                    odd = Some((item, why));
                    break;
                }
            }
            together.push(item);
        }
        if together.len() > 1 {
            let fed = self.core.pool.feed(self.job, Message::new(&bytes));
            let Some(item) = fed.map_err(pool_error)? else {
                let odd = odd.map(|(item, _)| item);
                self.feed.hold_back_all(together.into_iter().chain(odd));
                return Ok(Went::Full(0));
            };
            if let Some((item, None)) = odd {
                // The first of the next batch, perhaps.
                self.feed.hold_back(item);
                odd = None;
            }
            let together = together.into_iter().map(Bound::unbind).collect();
            let went = self.went(item, Items::Objects(together));
            return match (went, odd) {
                (Went::Fed(count), Some((item, why))) => Ok(match self.singly([item], why)? {
                    Went::Fed(more) => Went::Fed(count + more),
                    _ => Went::Full(count),
                }),
                (went, _) => Ok(went),
            };
        }
        match (together.pop(), odd) {
            (None, None) => Ok(Went::Ended),
            (Some(item), None) => self.singly([item], None),
            (None, Some((item, why))) => self.singly([item], why),
            (Some(item), Some((other, why))) => self.singly([item, other], why),
        }
    }

    /// Feeds the next items as one pickle.
    fn listed(&self, size: usize) -> PyResult<Went> {
        let most = LISTED_BYTES / lock(self.batches).bytes_each.max(1);
        let mut together = Vec::new();
        while together.len() < size.min(most).max(1) {
            let Some(item) = self.feed.take(self.py, self.items)? else {
                break;
            };
            together.push(item);
        }
        let count = together.len();
        match count {
            0 => return Ok(Went::Ended),
            1 => {
                // Large ones go alone; from time to time it is looked whether they still are.
                lock(self.batches).bytes_each /= 2;
                return self.singly(together, None);
            }
            _ => {}
        }
        let mut encoded = Encoded::new(self.core.session);
        let list = PyList::new(self.py, &together)?;
        let done = encoded.encode_listed(self.py, &list, self.feed.repeated.as_ref());
        let why = self.encoded(done)?;
        if why.is_some() {
            // If one of them cannot be pickled, that is not the others' error.
            drop(encoded);
            return self.singly(together, why);
        }
        let fed = self.core.pool.feed(self.job, encoded.message());
        let Some(item) = fed.map_err(pool_error)? else {
            self.feed.hold_back_all(together.into_iter());
            return Ok(Went::Full(0));
        };
        let large = usize::from(encoded.block.is_some()) * LISTED_BYTES;
        let bytes = encoded.head().len() + large;
        encoded.sent();
        {
            let mut state = lock(self.batches);
            state.bytes_each = bytes / count;
            // It may be otherwise with what comes.
            state.pickled = !together.last().is_some_and(batch::is_simple);
        }
        let together = together.into_iter().map(Bound::unbind).collect();
        Ok(self.went(item, Items::Objects(together)))
    }

    /// Feeds items one by one. `why` is what kept them from going together: if each can go by itself it was none of theirs, but
    /// what a signal's handler has raised.
    fn singly(
        &self,
        items: impl IntoIterator<Item = Bound<'py, PyAny>, IntoIter: DoubleEndedIterator>,
        why: Option<PyErr>,
    ) -> PyResult<Went> {
        let mut items = items.into_iter();
        let mut count = 0;
        let mut theirs = false;
        while let Some(item) = items.next() {
            let put = self
                .core
                .put(self.py, self.job, &item, self.feed.repeated.as_ref())?;
            let Some(as_it_is) = put else {
                self.feed.hold_back_all(std::iter::once(item).chain(items));
                return Ok(Went::Full(count));
            };
            theirs |= !as_it_is;
            count += 1;
            self.went_singly();
        }
        match why {
            Some(error) if !theirs && !self.is_of_many(&error) => Err(error),
            _ => Ok(Went::Fed(count)),
        }
    }

    fn went_singly(&self) {
        let mut state = lock(self.batches);
        state.fed += 1;
        state.singles += 1;
    }

    /// Can something go wrong like this because there are many?
    fn is_of_many(&self, error: &PyErr) -> bool {
        error.is_instance_of::<PyMemoryError>(self.py)
            || error.is_instance_of::<PyRecursionError>(self.py)
    }

    /// Why something could not be encoded, if so. What is no error of anything's, such as an interrupt, is one here.
    fn encoded(&self, done: PyResult<()>) -> PyResult<Option<PyErr>> {
        match done {
            Ok(()) => Ok(None),
            Err(error) if error.is_instance_of::<PyException>(self.py) => Ok(Some(error)),
            Err(error) => Err(error),
        }
    }
}

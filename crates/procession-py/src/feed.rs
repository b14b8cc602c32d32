//! From a map's items to the engine's: one by one, or many quick calls as one batch.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use procession_engine::pool::{JobId, Message};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyIterator, PyList};

use crate::codec::range::Range;
use crate::codec::{Encoded, Repeated, batch};
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

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is between an iterator and a job.
#[derive(Default)]
pub(crate) struct Feed {
    /// What the items have in common.
    pub(crate) repeated: Option<Arc<Repeated>>,
    /// Taken out of the iterator while there was no room.
    pub(crate) held: Mutex<VecDeque<Py<PyAny>>>,
    /// How many those are, so that the lock is taken only if there are any.
    pub(crate) held_count: AtomicUsize,
    /// If calls may be handed over together.
    pub(crate) batches: Option<Mutex<Batches>>,
}

impl Feed {
    /// The next item.
    #[inline]
    pub(crate) fn take<'py>(
        &self,
        py: Python<'py>,
        items: &Bound<'py, PyIterator>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        if self.held_count.load(Ordering::Relaxed) > 0 {
            let held = lock(&self.held).pop_front();
            if let Some(item) = held {
                self.held_count.fetch_sub(1, Ordering::Relaxed);
                return Ok(Some(item.into_bound(py)));
            }
        }
        items.clone().next().transpose()
    }

    /// Keeps an item for the next time.
    pub(crate) fn hold_back(&self, item: Bound<'_, PyAny>) {
        lock(&self.held).push_front(item.unbind());
        self.held_count.fetch_add(1, Ordering::Relaxed);
    }
}

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

/// That something cannot be encoded is no error here; what a signal's handler raises is.
fn is_encoded(py: Python<'_>, done: PyResult<()>) -> PyResult<bool> {
    match done {
        Ok(()) => Ok(true),
        Err(error) if error.is_instance_of::<PyException>(py) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What became of items that were to go together, and how many were fed.
enum Listed {
    Fed(u64),
    /// There is no room for more.
    Full(u64),
    /// There are no more.
    Ended(u64),
}

impl PoolCore {
    /// As `feed_iter`, with quick calls put together.
    pub(crate) fn feed_batches<'py>(
        &self,
        py: Python<'py>,
        id: JobId,
        feed: &Feed,
        batches: &Mutex<Batches>,
        items: &Bound<'py, PyIterator>,
        limit: u64,
    ) -> PyResult<(u64, bool)> {
        let mut done = 0;
        let mut bytes = Vec::with_capacity(batch::ARGUMENTS_MAX);
        while done < limit {
            let (size, look) = {
                let state = lock(batches);
                (state.size, state.singles >= LOOK_EVERY || state.size > 1)
            };
            let size = if look {
                let call_ns = self.pool.call_ns(id).map_err(pool_error)?;
                let mut state = lock(batches);
                state.choose(call_ns);
                state.size
            } else {
                size
            };
            let size = size.min(usize::try_from(limit - done).unwrap_or(usize::MAX));
            let range = lock(batches).range;
            if let Some(range) = range {
                match self.feed_range(py, id, batches, range, size)? {
                    Some(0) => return Ok((done, true)),
                    Some(count) => done += count,
                    None => return Ok((done, false)),
                }
                continue;
            }
            if size > 1 && lock(batches).pickled {
                match self.feed_listed(py, id, feed, batches, items, size)? {
                    Listed::Fed(count) => done += count,
                    Listed::Full(count) => return Ok((done + count, false)),
                    Listed::Ended(count) => return Ok((done + count, true)),
                }
                continue;
            }
            let mut together = Vec::new();
            let mut single = None;
            let mut ended = false;
            bytes.clear();
            while together.len() < size {
                let Some(item) = feed.take(py, items)? else {
                    ended = true;
                    break;
                };
                if size == 1 {
                    single = Some(item);
                    break;
                }
                let fits = if batch::add_simple(py, &mut bytes, &item) {
                    true
                } else {
                    let mut encoded = Encoded::new(self.session);
                    // One that cannot be encoded stands alone, with its error.
                    let done = encoded.encode_item(py, &item, feed.repeated.as_ref());
                    if encoded.is_pickle() {
                        lock(batches).pickled = true;
                    }
                    is_encoded(py, done)? && batch::add(&mut bytes, &encoded)
                };
                if !fits {
                    // The first of the next batch, or if it stands alone one by itself.
                    if together.is_empty() {
                        single = Some(item);
                    } else {
                        feed.hold_back(item);
                    }
                    break;
                }
                together.push(item.unbind());
            }
            if together.len() == 1 {
                single = together.pop().map(|item| item.into_bound(py));
            }
            if !together.is_empty() {
                let message = Message::new(&bytes);
                let Some(item) = self.pool.feed(id, message).map_err(pool_error)? else {
                    for item in together.into_iter().rev() {
                        feed.hold_back(item.into_bound(py));
                    }
                    return Ok((done, false));
                };
                done += together.len() as u64;
                let mut state = lock(batches);
                state.fed += together.len();
                state.open.push_back((item, Items::Objects(together)));
            }
            if let Some(item) = single {
                if self.put(py, id, &item, feed.repeated.as_ref())?.is_none() {
                    feed.hold_back(item);
                    return Ok((done, false));
                }
                done += 1;
                let mut state = lock(batches);
                state.fed += 1;
                state.singles += 1;
            }
            if ended && feed.held_count.load(Ordering::Relaxed) == 0 {
                return Ok((done, true));
            }
        }
        Ok((done, false))
    }

    /// Feeds the next items as one list, up to `size`.
    fn feed_listed<'py>(
        &self,
        py: Python<'py>,
        id: JobId,
        feed: &Feed,
        batches: &Mutex<Batches>,
        items: &Bound<'py, PyIterator>,
        size: usize,
    ) -> PyResult<Listed> {
        let most = LISTED_BYTES / lock(batches).bytes_each.max(1);
        let mut together = Vec::new();
        while together.len() < size.min(most).max(1) {
            let Some(item) = feed.take(py, items)? else {
                break;
            };
            together.push(item);
        }
        let count = together.len();
        if count == 0 {
            return Ok(Listed::Ended(0));
        }
        if count == 1 {
            // Large ones go alone; from time to time it is looked whether they still are.
            lock(batches).bytes_each /= 2;
        }
        let mut encoded = Encoded::new(self.session);
        let list = PyList::new(py, &together)?;
        if count == 1 || !is_encoded(py, encoded.encode_listed(py, &list, feed.repeated.as_ref()))?
        {
            // If one of them cannot be pickled, that is not the others' error.
            drop(encoded);
            return self.feed_singly(py, id, feed, batches, together);
        }
        let place = self.pool.feed(id, encoded.message()).map_err(pool_error)?;
        let Some(item) = place else {
            for item in together.into_iter().rev() {
                feed.hold_back(item);
            }
            return Ok(Listed::Full(0));
        };
        let large = if encoded.block.is_some() {
            LISTED_BYTES
        } else {
            0
        };
        let bytes = encoded.head().len() + large;
        encoded.sent();
        let mut state = lock(batches);
        state.bytes_each = bytes / count;
        // It may be otherwise with what comes.
        state.pickled = !together.last().is_some_and(batch::is_simple);
        state.fed += count;
        let together = together.into_iter().map(Bound::unbind).collect();
        state.open.push_back((item, Items::Objects(together)));
        Ok(Listed::Fed(count as u64))
    }

    /// Feeds items one by one.
    fn feed_singly(
        &self,
        py: Python<'_>,
        id: JobId,
        feed: &Feed,
        batches: &Mutex<Batches>,
        items: Vec<Bound<'_, PyAny>>,
    ) -> PyResult<Listed> {
        let mut items = items.into_iter();
        let mut count = 0;
        while let Some(item) = items.next() {
            if self.put(py, id, &item, feed.repeated.as_ref())?.is_none() {
                for item in items.rev() {
                    feed.hold_back(item);
                }
                feed.hold_back(item);
                return Ok(Listed::Full(count));
            }
            count += 1;
            let mut state = lock(batches);
            state.fed += 1;
            state.singles += 1;
        }
        Ok(Listed::Fed(count))
    }

    /// Feeds the next of a range, up to `size`: how many, none at its end; `None` if there is no room.
    fn feed_range(
        &self,
        py: Python<'_>,
        id: JobId,
        batches: &Mutex<Batches>,
        mut range: Range,
        size: usize,
    ) -> PyResult<Option<u64>> {
        let next = range.split(size);
        let fed = match next.len() {
            0 => {
                lock(batches).range = None;
                return Ok(Some(0));
            }
            1 => self.put(py, id, PyInt::new(py, next.first()).as_any(), None)?,
            _ => {
                let message = next.arguments();
                let message = Message::new(&message);
                self.pool.feed(id, message).map_err(pool_error)?
            }
        };
        let Some(item) = fed else {
            return Ok(None);
        };
        let mut state = lock(batches);
        state.range = Some(range);
        state.fed += next.len();
        if next.len() == 1 {
            state.singles += 1;
        } else {
            state.open.push_back((item, Items::Range(next)));
        }
        Ok(Some(next.len() as u64))
    }
}

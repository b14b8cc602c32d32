//! Calls that work on many items: one job each, fed and collected by the caller.

use std::marker::PhantomData;
use std::time::Duration;

use procession_engine::pool::{JobId, JobSpec, Message, Order, Outcome, Until};
use procession_engine::transit::Parcel;
use procession_sys::clock::Deadline;

use super::crew::Crew;
use super::error::PoolError;
use super::worker::{DONE, PANICKED};
use crate::registry::{Known, Sendable};
use crate::transit;

/// What is done about an item that takes too long, or whose worker dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Settings {
    pub(super) timeout: Option<Duration>,
    pub(super) retries: u32,
}

/// Turns an outcome into the task's result.
pub(super) fn result<R: Sendable>(
    known: Known,
    item: u64,
    outcome: Outcome,
) -> Result<R, PoolError> {
    match outcome {
        Outcome::Failed(failure) => Err(PoolError::failed(item, failure)),
        Outcome::Done {
            status: DONE,
            mut payload,
        } => {
            let attached = transit::attached(payload.take_block())?;
            let (result, _) = transit::decode(attached, || known.decode(payload.bytes()))?;
            Ok(result)
        }
        Outcome::Done { status, payload } => {
            let message = String::from_utf8_lossy(&payload).into_owned();
            Err(match status {
                PANICKED => PoolError::Panicked { item, message },
                _ => PoolError::Unsendable { item, message },
            })
        }
    }
}

/// The result of an item, and its number.
pub(super) type Numbered<R> = (u64, Result<R, PoolError>);

/// A job in progress. Dropped, it is forgotten: items that nobody has begun are not run.
#[derive(Debug)]
pub(super) struct Job<'a, R> {
    crew: &'a Crew,
    known: Known,
    id: JobId,
    order: Order,
    fed: u64,
    collected: u64,
    result: PhantomData<fn() -> R>,
}

impl Job<'_, ()> {
    /// Opens a job that nobody forgets before the pool does.
    pub(super) fn open(
        crew: &Crew,
        known: Known,
        settings: Settings,
        order: Order,
        total: Option<u64>,
    ) -> Result<JobId, PoolError> {
        let spec = JobSpec {
            total,
            order,
            timeout: settings.timeout,
            retries: settings.retries,
            chunk_hint: 0,
        };
        crew.engine
            .open_job(Message::new(known.name.as_bytes()), spec)
            .map_err(|error| crew.explain(error))
    }

    /// Feeds an item; its number, or `None` if some have to be collected first.
    pub(super) fn feed<A: Sendable>(
        crew: &Crew,
        job: JobId,
        known: Known,
        args: &A,
    ) -> Result<Option<u64>, PoolError> {
        transit::with_buffer(|buffer| {
            let parcel = transit::encode(buffer, |to| known.encode(args, to))?;
            let message = Message {
                block: parcel.as_ref().map(Parcel::block),
                ..Message::new(buffer)
            };
            let fed = crew
                .engine
                .feed(job, message)
                .map_err(|error| crew.explain(error))?;
            if let (Some(_), Some(parcel)) = (fed, parcel) {
                parcel.sent();
            }
            Ok(fed)
        })
    }
}

impl<'a, R: Sendable> Job<'a, R> {
    pub(super) fn new(
        crew: &'a Crew,
        known: Known,
        settings: Settings,
        order: Order,
        total: Option<u64>,
    ) -> Result<Self, PoolError> {
        let id = Job::open(crew, known, settings, order, total)?;
        Ok(Self {
            crew,
            known,
            id,
            order,
            fed: 0,
            collected: 0,
            result: PhantomData,
        })
    }

    /// Feeds an item; false if some have to be collected first.
    pub(super) fn offer<A: Sendable>(&mut self, args: &A) -> Result<bool, PoolError> {
        let fed = Job::feed(self.crew, self.id, self.known, args)?.is_some();
        self.fed += u64::from(fed);
        Ok(fed)
    }

    /// There will be no further items.
    pub(super) fn seal(&self) -> Result<(), PoolError> {
        self.crew.engine.seal(self.id)?;
        Ok(())
    }

    /// Items that were fed and not collected.
    pub(super) fn outstanding(&self) -> u64 {
        self.fed - self.collected
    }

    /// The next outcome, waiting for it; `None` if all items that were fed have been collected.
    pub(super) fn next(&mut self) -> Result<Option<Numbered<R>>, PoolError> {
        let engine = &self.crew.engine;
        while self.outstanding() > 0 {
            let (collected, until) = match self.order {
                Order::InOrder => (engine.collect_next(self.id), Until::Next),
                Order::AsFinished => (engine.collect_any(self.id), Until::Any),
            };
            if let Some(collected) = collected.map_err(|error| self.crew.explain(error))? {
                self.collected += 1;
                let result = result(self.known, collected.item, collected.outcome);
                return Ok(Some((collected.item, result)));
            }
            self.crew.wait(self.id, until, Deadline::NEVER)?;
        }
        Ok(None)
    }
}

impl<R> Drop for Job<'_, R> {
    fn drop(&mut self) {
        // An error means that the pool has gone, and the job with it.
        let _ = self.crew.engine.close_job(self.id);
    }
}

/// Items on their way through a pool, no more than a certain number at a time.
pub(super) struct Stream<'a, I: Iterator, R> {
    job: Job<'a, R>,
    items: std::iter::Peekable<std::iter::Fuse<I>>,
    ahead: u64,
    /// Nothing comes any more.
    over: bool,
}

impl<'a, I: Iterator<Item: Sendable>, R: Sendable> Stream<'a, I, R> {
    pub(super) fn new(job: Job<'a, R>, items: I, ahead: u64) -> Self {
        Self {
            job,
            items: items.fuse().peekable(),
            ahead,
            over: false,
        }
    }

    fn fill(&mut self) -> Result<(), PoolError> {
        while self.job.outstanding() < self.ahead {
            let Some(item) = self.items.peek() else {
                break;
            };
            if !self.job.offer(item)? {
                break;
            }
            self.items.next();
        }
        Ok(())
    }
}

impl<I: Iterator<Item: Sendable>, R: Sendable> Iterator for Stream<'_, I, R> {
    type Item = Numbered<R>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        match self.fill().and_then(|()| self.job.next()) {
            Ok(Some(next)) => Some(next),
            Ok(None) => {
                self.over = true;
                None
            }
            Err(error) => {
                self.over = true;
                Some((self.job.collected, Err(error)))
            }
        }
    }
}

//! Tickets: single items, each with somebody of its own who waits for it.
//!
//! All items of one task (with the same settings) run in one job, a lane. One thread at a time collects what has finished
//! there, for itself and for the others; these sleep until it has found something or stops.

use std::collections::{HashMap, HashSet};
use std::marker::PhantomData;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use procession_engine::pool::{self as engine, Cancel, JobId, Order, Outcome, Until};
use procession_sys::clock::Deadline;

use super::crew::Crew;
use super::error::PoolError;
use super::job::{Job, Settings, result};
use crate::registry::{Known, Sendable};

/// The lanes of a pool, by task and settings.
#[derive(Debug, Default)]
pub(super) struct Lanes(Mutex<HashMap<(&'static str, Settings), Arc<Lane>>>);

#[derive(Debug)]
struct Lane {
    job: JobId,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Collected, and not taken yet.
    outcomes: HashMap<u64, Outcome>,
    /// Nobody will take these.
    unwanted: HashSet<u64>,
    /// Is a thread collecting?
    collecting: bool,
}

impl Lanes {
    fn get(&self, crew: &Crew, known: Known, settings: Settings) -> Result<Arc<Lane>, PoolError> {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(&(known.name, settings)) {
            return Ok(lane.clone());
        }
        let lane = Arc::new(Lane {
            job: Job::open(crew, known, settings, Order::AsFinished, None)?,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        lanes.insert((known.name, settings), lane.clone());
        Ok(lane)
    }

    /// No lane takes further items.
    pub(super) fn seal(&self, engine: &engine::Pool) -> Result<(), PoolError> {
        let lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for lane in lanes.values() {
            engine.seal(lane.job)?;
        }
        Ok(())
    }
}

impl Lane {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Collects what has finished, waiting until `deadline` for something; or waits for whoever does that already.
    fn collect(&self, crew: &Crew, deadline: Deadline) -> Result<(), PoolError> {
        let mut state = self.state();
        if state.collecting {
            /// Even a wake-up that was lost costs no more than this.
            const LONGEST: Duration = Duration::from_secs(1);
            let slice = deadline.slice(LONGEST);
            drop(
                self.changed
                    .wait_timeout(state, slice)
                    .unwrap_or_else(PoisonError::into_inner),
            );
            return Ok(());
        }
        state.collecting = true;
        drop(state);
        let _turn = Turn(self);
        loop {
            let mut any = false;
            while let Some(collected) = crew
                .engine
                .collect_any(self.job)
                .map_err(|error| crew.explain(error))?
            {
                let mut state = self.state();
                if !state.unwanted.remove(&collected.item) {
                    state.outcomes.insert(collected.item, collected.outcome);
                }
                any = true;
            }
            if any || !crew.wait(self.job, Until::Any, deadline)? {
                return Ok(());
            }
        }
    }
}

/// One thread's turn to collect.
struct Turn<'a>(&'a Lane);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.state().collecting = false;
        self.0.changed.notify_all();
    }
}

/// A claim to the result of one task that was [submitted](super::Pool::submit).
///
/// Dropping it lets the task run, and forgets the result.
#[derive(Debug)]
pub struct Ticket<R> {
    crew: Arc<Crew>,
    lane: Arc<Lane>,
    known: Known,
    item: u64,
    taken: bool,
    result: PhantomData<fn() -> R>,
}

impl<R: Sendable> Ticket<R> {
    pub(super) fn submit<A: Sendable>(
        crew: &Arc<Crew>,
        known: Known,
        settings: Settings,
        args: &A,
    ) -> Result<Self, PoolError> {
        let lane = crew.lanes.get(crew, known, settings)?;
        // Results that nobody takes are thrown away here, or they would pile up.
        let unwanted = !lane.state().unwanted.is_empty();
        if unwanted {
            lane.collect(crew, Deadline::NOW)?;
        }
        let item = loop {
            match Job::feed(crew, lane.job, known, args)? {
                Some(item) => break item,
                None => lane.collect(crew, Deadline::NEVER)?,
            }
        };
        Ok(Self {
            crew: crew.clone(),
            lane,
            known,
            item,
            taken: false,
            result: PhantomData,
        })
    }

    /// Waits for the result.
    pub fn get(mut self) -> Result<R, PoolError> {
        loop {
            if let Some(result) = self.take(Deadline::NEVER)? {
                return Ok(result);
            }
        }
    }

    /// Waits for the result, for `timeout` at most: `None` if it takes longer. (The task goes on; see [`Ticket::cancel`].)
    pub fn get_timeout(&mut self, timeout: Duration) -> Result<Option<R>, PoolError> {
        self.take(Deadline::after(Some(timeout)))
    }

    /// Is the result there, or the reason why there is none?
    pub fn is_done(&self) -> Result<bool, PoolError> {
        self.await_outcome(Deadline::NOW)
    }

    /// Sees to it that the task is not run; if it runs, by killing its worker. The result is then
    /// [`PoolError::Cancelled`]. False if it was too late for that.
    pub fn cancel(&self) -> Result<bool, PoolError> {
        let cancelled = self.crew.engine.cancel(self.lane.job, self.item)?;
        self.crew.tend()?;
        Ok(cancelled != Cancel::TooLate)
    }

    fn take(&mut self, deadline: Deadline) -> Result<Option<R>, PoolError> {
        if !self.await_outcome(deadline)? {
            return Ok(None);
        }
        self.taken = true;
        let outcome = self.lane.state().outcomes.remove(&self.item);
        let outcome = outcome.ok_or(PoolError::Taken)?;
        result(self.known, self.item, outcome).map(Some)
    }

    fn await_outcome(&self, deadline: Deadline) -> Result<bool, PoolError> {
        loop {
            if self.taken || self.lane.state().outcomes.contains_key(&self.item) {
                return Ok(true);
            }
            // The deadline that has passed still gets one look at what is there.
            let last = deadline.passed();
            self.lane.collect(&self.crew, deadline)?;
            if last {
                return Ok(self.lane.state().outcomes.contains_key(&self.item));
            }
        }
    }
}

impl<R> Drop for Ticket<R> {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let mut state = self.lane.state();
        if state.outcomes.remove(&self.item).is_none() {
            state.unwanted.insert(self.item);
        }
    }
}

//! The parent's side of a pool: jobs, items and outcomes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use procession_shm::Session;
use procession_shm::board::{Board, CancelCell, JOBS, JobId, JobOptions, OwnedJob, Taken};
use procession_shm::objects::Handle;
use procession_shm::processes::Owner;
use procession_shm::ring::Message;

use super::event::{Event, Failure, WorkerId};
use super::state::{Machine, Phase};
use super::{
    Action, Broken, Cancel, Collected, Config, JobSpec, Order, Outcome, PoolError, Progress, Why,
};

/// A pool as the process that made it sees it. Any thread may use it; a child of a fork may not.
#[derive(Debug)]
pub struct Pool {
    pub(super) board: Board,
    pub(super) inner: Mutex<Inner>,
}

/// What the calls share. Nobody sleeps while holding it.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) board: Board,
    pub(super) machine: Machine,
    pub(super) jobs: BTreeMap<JobId, Job>,
    /// Closed jobs that somebody still works on.
    pub(super) closing: Vec<OwnedJob>,
    pub(super) failures: HashMap<(JobId, u64), Failure>,
    /// Items to be run again for which the board had no room.
    pub(super) retry_later: Vec<(JobId, u64)>,
    pub(super) actions: VecDeque<Action>,
    pub(super) processes: HashMap<WorkerId, (Option<Owner>, u32)>,
    /// Workers whose processes have ended, while what they were running could not be looked up.
    pub(super) exits: Vec<(WorkerId, Option<i32>)>,
    /// Workers that have gone since when (their processes may still be ending).
    pub(super) leaving: HashMap<WorkerId, u64>,
    /// Was the last look cut short?
    pub(super) behind: bool,
    /// The board's event count at the last look.
    pub(super) seen: u64,
    /// When to look for time limits and lost workers again.
    pub(super) look_at: u64,
}

/// An open job.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) owned: OwnedJob,
    pub(super) spec: JobSpec,
    /// For each thread that waits: how many items are to be done.
    pub(super) waiting: Vec<u64>,
}

impl Pool {
    /// Makes a pool whose parent is this process. [`Pool::poll`] then asks for the first workers.
    pub fn create(session: &'static Session, config: &Config) -> Result<Self, PoolError> {
        let workers = u32::try_from(config.workers)
            .ok()
            .filter(|n| (1..=MOST_WORKERS).contains(n))
            .ok_or(PoolError::TooMany("workers", MOST_WORKERS.into()))?;
        // Workers that come while their predecessors' places are not given back yet need places of their own.
        let seats = workers * 2 + 8;
        let board = Board::create(
            session,
            &config.name,
            seats,
            config.max_tasks.map_or(0, |n| n.max(1)),
        )?;
        let limit = config.startup_limit.unwrap_or(workers + 3);
        let inner = Inner {
            board: board.clone(),
            machine: Machine::new(config.workers, config.poison_limit.max(1), limit),
            jobs: BTreeMap::new(),
            closing: Vec::new(),
            failures: HashMap::new(),
            retry_later: Vec::new(),
            actions: VecDeque::new(),
            processes: HashMap::new(),
            exits: Vec::new(),
            leaving: HashMap::new(),
            behind: false,
            seen: board.events(),
            look_at: 0,
        };
        let pool = Self {
            board,
            inner: Mutex::new(inner),
        };
        pool.lock()?.tell(Event::Tick { now_ns: 0 })?;
        Ok(pool)
    }

    /// The board's handle, by which workers find it.
    pub fn handle(&self) -> &Handle {
        self.board.handle()
    }

    pub(super) fn lock(&self) -> Result<MutexGuard<'_, Inner>, PoolError> {
        // Before the lock: in a child of a fork another thread may have held it, for ever.
        if !self.board.is_mine() {
            return Err(PoolError::NotOwner);
        }
        Ok(self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Opens a job. `function` may be empty if the items say for themselves what is to be done.
    pub fn open_job(&self, function: Message<'_>, spec: JobSpec) -> Result<JobId, PoolError> {
        let mut inner = self.lock()?;
        inner.check_alive()?;
        if inner.machine.phase() != Phase::Open {
            return Err(PoolError::Closed);
        }
        inner.free_closing()?;
        let options = JobOptions {
            total: spec.total,
            as_finished: spec.order == Order::AsFinished,
            keep_arguments: spec.retries > 0,
            timed: spec.timeout.is_some(),
            hint: spec.chunk_hint,
        };
        let Some(owned) = self.board.open_job(function, options)? else {
            return Err(PoolError::TooMany("jobs", JOBS as u64));
        };
        let id = owned.id();
        let job = Job {
            owned,
            spec,
            waiting: Vec::new(),
        };
        inner.jobs.insert(id, job);
        Ok(id)
    }

    /// Feeds an item; its number, or `None` if so many are outstanding that some have to be collected first.
    #[inline]
    pub fn feed(&self, job: JobId, arguments: Message<'_>) -> Result<Option<u64>, PoolError> {
        self.feed_item(job, arguments, false)
    }

    /// As [`Pool::feed`], for items in a row: workers are told of them only now and then, and of the rest when the job is
    /// sealed, waited for, or fed by the other call.
    #[inline]
    pub fn feed_more(&self, job: JobId, arguments: Message<'_>) -> Result<Option<u64>, PoolError> {
        self.feed_item(job, arguments, true)
    }

    #[inline]
    fn feed_item(
        &self,
        job: JobId,
        arguments: Message<'_>,
        more: bool,
    ) -> Result<Option<u64>, PoolError> {
        let mut inner = self.lock()?;
        inner.check_alive()?;
        let job = inner.job(job)?;
        if job.owned.is_sealed() {
            return Err(PoolError::Closed);
        }
        let item = job.owned.feed(arguments, more)?;
        if item.is_none() {
            job.owned.publish();
        }
        Ok(item)
    }

    /// About how many nanoseconds one call takes; `None` while that is not known, or if items shall be one call each.
    pub fn call_ns(&self, job: JobId) -> Result<Option<u64>, PoolError> {
        Ok(self.lock()?.job(job)?.owned.call_ns())
    }

    /// There will be no further items; how many there are.
    pub fn seal(&self, job: JobId) -> Result<u64, PoolError> {
        let mut inner = self.lock()?;
        let job = inner.job(job)?;
        job.owned.seal();
        let fed = job.owned.fed();
        drop(inner);
        self.board.nudge();
        Ok(fed)
    }

    /// The outcome of the next item in order, if it has one.
    #[inline]
    pub fn collect_next(&self, job: JobId) -> Result<Option<Collected>, PoolError> {
        let mut inner = self.lock()?;
        match inner.job(job)?.owned.collect_next()? {
            Some((item, taken)) => inner.collected(job, item, taken).map(Some),
            None => inner.nothing_to_collect(),
        }
    }

    /// The outcome of any item that has one; for jobs that are collected as items finish.
    #[inline]
    pub fn collect_any(&self, job: JobId) -> Result<Option<Collected>, PoolError> {
        let mut inner = self.lock()?;
        match inner.job(job)?.owned.collect_any()? {
            Some((item, taken)) => inner.collected(job, item, taken).map(Some),
            None => inner.nothing_to_collect(),
        }
    }

    /// Will there be no further outcomes?
    pub fn is_exhausted(&self, job: JobId) -> Result<bool, PoolError> {
        let mut inner = self.lock()?;
        let job = &inner.job(job)?.owned;
        Ok(job.is_sealed() && job.collected() == job.fed())
    }

    /// How far a job has come.
    pub fn progress(&self, job: JobId) -> Result<Progress, PoolError> {
        let mut inner = self.lock()?;
        let collected = inner.job(job)?.owned.collected();
        let counts = self.board.counts(job).ok_or(PoolError::UnknownJob)?;
        Ok(Progress {
            fed: counts.fed,
            claimed: counts.claimed,
            done: counts.done.max(collected),
            collected,
            total: counts.total,
        })
    }

    /// Cancels an item: one that waits at once, one that runs by having its worker killed.
    pub fn cancel(&self, job: JobId, item: u64) -> Result<Cancel, PoolError> {
        let mut inner = self.lock()?;
        // Between the looks the item may be started, finished or lost; it cannot go on like that for long.
        for _ in 0..1000 {
            match inner.job(job)?.owned.cancel(item)? {
                CancelCell::Cancelled => return Ok(Cancel::Cancelled),
                CancelCell::TooLate => return Ok(Cancel::TooLate),
                CancelCell::Running => {
                    if let Some(seated) = self.board.condemn(job, item) {
                        inner.tell(Event::Condemned {
                            worker: WorkerId(seated.worker),
                            job,
                            item,
                            why: Why::Cancelled,
                        })?;
                        return Ok(Cancel::Killing);
                    }
                }
                CancelCell::Died => {
                    inner.look_around()?;
                    inner.tell(Event::CancelDied { job, item })?;
                    if inner.retry_later.contains(&(job, item)) {
                        inner.retry_later.retain(|later| *later != (job, item));
                        inner.give_up(job, item, Failure::Cancelled)?;
                    }
                }
            }
        }
        Ok(Cancel::TooLate)
    }

    /// Nobody is interested in the job any more: what waits is not run, what runs finishes unseen.
    pub fn close_job(&self, job: JobId) -> Result<(), PoolError> {
        let mut inner = self.lock()?;
        let mut owned = inner.jobs.remove(&job).ok_or(PoolError::UnknownJob)?.owned;
        let stopped = owned.stop();
        inner.closing.push(owned);
        stopped?;
        inner.failures.retain(|(j, _), _| *j != job);
        inner.retry_later.retain(|(j, _)| *j != job);
        inner.tell(Event::JobClosed(job))?;
        inner.free_closing()?;
        drop(inner);
        self.board.nudge();
        Ok(())
    }

    /// No further jobs. Workers leave when every job is sealed and all items have outcomes.
    pub fn close(&self) -> Result<(), PoolError> {
        self.lock()?.tell(Event::Close)?;
        self.board.nudge();
        Ok(())
    }

    /// Stops everything: workers are to be killed, items that are not finished fail.
    pub fn terminate(&self) -> Result<(), PoolError> {
        self.lock()?.tell(Event::Terminate)?;
        self.board.nudge();
        Ok(())
    }

    /// Was the pool closed or terminated, and has every worker exited?
    pub fn is_ended(&self) -> Result<bool, PoolError> {
        Ok(self.lock()?.machine.phase() == Phase::Ended)
    }

    /// Whether and how it is broken.
    pub fn broken(&self) -> Result<Option<Broken>, PoolError> {
        Ok(self.lock()?.machine.broken())
    }
}

/// A board of this many seats is still a block of moderate size, and a session has not many more members.
const MOST_WORKERS: u32 = 2000;

impl Inner {
    pub(super) fn job(&mut self, job: JobId) -> Result<&mut Job, PoolError> {
        self.jobs.get_mut(&job).ok_or(PoolError::UnknownJob)
    }

    /// An error if nothing new will be done any more.
    pub(super) fn check_alive(&self) -> Result<(), PoolError> {
        if let Some(broken) = self.machine.broken() {
            return Err(PoolError::Broken(broken));
        }
        if self.machine.phase() >= Phase::Leaving {
            return Err(PoolError::Terminated);
        }
        Ok(())
    }

    fn nothing_to_collect(&self) -> Result<Option<Collected>, PoolError> {
        match self.machine.broken() {
            Some(broken) => Err(PoolError::Broken(broken)),
            None => Ok(None),
        }
    }

    fn collected(&mut self, job: JobId, item: u64, taken: Taken) -> Result<Collected, PoolError> {
        let mut notes = None;
        let outcome = match taken {
            Taken::Done { status, payload } => Outcome::Done { status, payload },
            Taken::Cancelled if self.machine.phase() >= Phase::Killing => {
                Outcome::Failed(Failure::Terminated)
            }
            Taken::Cancelled => Outcome::Failed(Failure::Cancelled),
            Taken::Failed { noted } => {
                notes = noted;
                let why = self.failures.remove(&(job, item));
                Outcome::Failed(why.unwrap_or(Failure::Terminated))
            }
        };
        match (&outcome, self.machine.broken()) {
            (Outcome::Failed(Failure::Terminated), Some(broken)) => Err(PoolError::Broken(broken)),
            _ => Ok(Collected {
                item,
                outcome,
                noted: notes,
            }),
        }
    }

    /// Gives up an item whose worker died.
    pub(super) fn give_up(
        &mut self,
        job: JobId,
        item: u64,
        failure: Failure,
    ) -> Result<(), PoolError> {
        if let Some(open) = self.jobs.get_mut(&job) {
            self.failures.insert((job, item), failure);
            if !open.owned.fail(item)? {
                self.failures.remove(&(job, item));
            }
        }
        Ok(())
    }

    /// Frees the closed jobs that nobody works on any more.
    pub(super) fn free_closing(&mut self) -> Result<(), PoolError> {
        let mut kept = Vec::new();
        for mut job in std::mem::take(&mut self.closing) {
            if !job.try_free()? {
                kept.push(job);
            }
        }
        self.closing = kept;
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.board.is_mine() {
            self.board.end();
        }
    }
}

//! The parent's side of a pool: keeping the workers, and what the state machine wants done.

use procession_shm::board::JobId;
use procession_shm::processes::Owner;
use procession_sys::clock::now_ns;

use super::driver::{Inner, Pool};
use super::event::{Event, Step, WorkerId};
use super::state::Phase;
use super::{Action, PoolError, Why, WorkerInfo};

/// How often to look for workers that are gone without anybody having said so.
const LOOK_EVERY_NS: u64 = 100_000_000;
/// How soon to look for the end of a worker's process, once it has gone.
const ENDING_NS: u64 = 500_000;
/// How soon to try again what was not possible at once.
const SOON_NS: u64 = 10_000_000;

impl Pool {
    /// Looks at what has happened and says what the front has to do. To be called whenever a wait says so, and after every
    /// call below.
    pub fn poll(&self, now_ns: u64) -> Result<Vec<Action>, PoolError> {
        let mut inner = self.lock()?;
        inner.settle_exits()?;
        inner.look_around()?;
        inner.enforce_limits(now_ns)?;
        inner.tell(Event::Tick { now_ns })?;
        for (job, item) in std::mem::take(&mut inner.retry_later) {
            inner.retry(job, item)?;
        }
        inner.free_closing()?;
        if inner.machine.phase() >= Phase::Leaving {
            // Again, should somebody have been stopped with the board in hand.
            inner.stop_jobs()?;
        }
        if inner.machine.phase() == Phase::Closing && inner.all_done()? {
            inner.tell(Event::AllDone)?;
        }
        inner.look_at = now_ns + inner.next_look(now_ns);
        Ok(inner.actions.drain(..).collect())
    }

    /// When [`Pool::poll`] is needed at the latest, whatever happens.
    pub fn next_deadline(&self) -> Result<Option<u64>, PoolError> {
        Ok(self.lock()?.next_deadline())
    }

    /// A worker's process has been started.
    pub fn worker_started(&self, id: WorkerId, owner: Owner, pid: u32) -> Result<(), PoolError> {
        let mut inner = self.lock()?;
        inner.processes.insert(id, (Some(owner), pid));
        inner.tell(Event::Started(id))
    }

    /// A worker's process could not be started.
    pub fn worker_not_started(&self, id: WorkerId) -> Result<(), PoolError> {
        self.lock()?.tell(Event::NotStarted(id))?;
        self.board.nudge();
        Ok(())
    }

    /// A worker's process has ended: its exit code, or the negative signal.
    pub fn worker_exited(&self, id: WorkerId, exit: Option<i32>) -> Result<(), PoolError> {
        let mut inner = self.lock()?;
        inner.exits.push((id, exit));
        inner.settle_exits()?;
        drop(inner);
        self.board.nudge();
        Ok(())
    }

    /// The workers that have not exited, in the order in which they were started.
    pub fn workers(&self) -> Result<Vec<WorkerInfo>, PoolError> {
        let inner = self.lock()?;
        let mut all: Vec<_> = inner
            .machine
            .workers()
            .map(|(worker, state)| {
                let (owner, pid) = inner.processes.get(&worker).copied().unwrap_or_default();
                WorkerInfo {
                    worker,
                    state,
                    owner,
                    pid,
                    tasks_done: 0,
                    running: None,
                    since_ns: 0,
                }
            })
            .collect();
        for seated in self.board.seated() {
            if let Ok(at) = all.binary_search_by_key(&seated.worker, |w| w.worker.0) {
                all[at].owner = all[at].owner.or(seated.owner);
                all[at].pid = seated.pid;
                all[at].tasks_done = seated.tasks;
                all[at].running = seated.running;
                all[at].since_ns = seated.since_ns;
            }
        }
        Ok(all)
    }
}

impl Inner {
    /// Shows the state machine something, and does what it decides.
    pub(super) fn tell(&mut self, event: Event) -> Result<(), PoolError> {
        for step in self.machine.on(event) {
            match step {
                Step::Spawn(worker) => self.actions.push_back(Action::Spawn { worker }),
                Step::Kill(worker, why) => {
                    let (owner, pid) = self.processes.get(&worker).copied().unwrap_or_default();
                    self.actions.push_back(Action::Kill {
                        worker,
                        owner,
                        pid,
                        why,
                    });
                }
                Step::Retry(job, item) => self.retry(job, item)?,
                Step::Fail(job, item, failure) => self.give_up(job, item, failure)?,
                Step::End => self.end()?,
                Step::Broken(broken) => self.actions.push_back(Action::Broken(broken)),
                Step::Ended => self.actions.push_back(Action::Ended),
            }
        }
        if !self.actions.is_empty() {
            self.board.nudge();
        }
        Ok(())
    }

    pub(super) fn retry(&mut self, job: JobId, item: u64) -> Result<(), PoolError> {
        if let Some(open) = self.jobs.get_mut(&job)
            && !open.owned.retry(item)?
        {
            self.retry_later.push((job, item));
        }
        Ok(())
    }

    /// Workers leave; where items are still waiting, they will not be run.
    fn end(&mut self) -> Result<(), PoolError> {
        self.board.end();
        self.stop_jobs()?;
        for (job, item) in std::mem::take(&mut self.retry_later) {
            self.give_up(job, item, super::Failure::Terminated)?;
        }
        Ok(())
    }

    fn stop_jobs(&mut self) -> Result<(), PoolError> {
        for job in self.jobs.values_mut() {
            job.owned.stop()?;
        }
        Ok(())
    }

    /// Takes in which workers' processes have ended, each once it is known what it was running.
    fn settle_exits(&mut self) -> Result<(), PoolError> {
        let mut all = std::mem::take(&mut self.exits).into_iter();
        while let Some((worker, exit)) = all.next() {
            let buried = self.board.bury_worker(worker.0).map_err(Into::into);
            match buried.and_then(|buried| Ok(buried && self.look_around()?)) {
                Ok(true) => {
                    self.tell(Event::Exited { worker, exit })?;
                    self.processes.remove(&worker);
                    self.leaving.remove(&worker);
                }
                Ok(false) => self.exits.push((worker, exit)),
                Err(error) => {
                    // None of them is told again.
                    self.exits.push((worker, exit));
                    self.exits.extend(all);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Takes in which workers have come and gone. False if that has to be tried again, as somebody is stopped who has the
    /// board in hand.
    pub(super) fn look_around(&mut self) -> Result<bool, PoolError> {
        let now = now_ns();
        let events = self.board.events();
        if events == self.seen && now < self.look_at && !self.behind {
            return Ok(true);
        }
        // Tried again at the next look, and not at once.
        self.seen = events;
        self.behind = true;
        let session = self.board.session();
        session.sweep()?;
        let seated: Vec<_> = self.board.seated().collect();
        for worker in seated {
            if worker.is_up {
                self.tell(Event::Up(WorkerId(worker.worker)))?;
            }
            // One that said goodbye to the session in the middle of a task is nobody's dead.
            if worker.owner.is_none_or(|owner| !session.is_alive(owner))
                && !self.board.bury_worker(worker.worker)?
            {
                return Ok(false);
            }
        }
        let Some(departed) = self.board.departed()? else {
            return Ok(false);
        };
        for gone in &departed {
            let worker = WorkerId(gone.worker);
            if self.processes.contains_key(&worker) {
                self.leaving.entry(worker).or_insert(now);
            }
            if gone.was_up {
                self.tell(Event::Up(worker))?;
            }
            if let Some((job, item)) = gone.died
                && let Some(open) = self.jobs.get(&job)
            {
                let retries = open.spec.retries;
                self.tell(Event::Died {
                    worker,
                    pid: gone.pid,
                    job,
                    item,
                    retries,
                    now_ns: now,
                })?;
            }
        }
        if !departed.is_empty() {
            // What a dead worker had finished and not counted.
            for job in self.jobs.values_mut() {
                job.owned.recount()?;
            }
        }
        self.behind = false;
        Ok(true)
    }

    /// How soon to look again if nothing happens. That the process of a worker has ended is no event: the front sees it when it
    /// looks, and only then is there another worker. It has ended in a moment, or else takes long.
    fn next_look(&self, now: u64) -> u64 {
        let last_gone = self.leaving.values().max();
        last_gone.map_or(LOOK_EVERY_NS, |at| {
            (now.saturating_sub(*at) / 2).clamp(ENDING_NS, LOOK_EVERY_NS)
        })
    }

    /// Condemns the workers whose items have run for too long.
    fn enforce_limits(&mut self, now: u64) -> Result<(), PoolError> {
        if self.jobs.values().all(|j| j.spec.timeout.is_none()) {
            return Ok(());
        }
        let mut overdue = Vec::new();
        for seated in self.board.seated() {
            if let Some((job, item)) = seated.running
                && let Some(limit) = self.jobs.get(&job).and_then(|j| j.spec.timeout)
                && u128::from(now.saturating_sub(seated.since_ns)) >= limit.as_nanos()
            {
                overdue.push((job, item));
            }
        }
        for (job, item) in overdue {
            if let Some(seated) = self.board.condemn(job, item) {
                self.tell(Event::Condemned {
                    worker: WorkerId(seated.worker),
                    job,
                    item,
                    why: Why::TimedOut,
                })?;
            }
        }
        Ok(())
    }

    fn all_done(&mut self) -> Result<bool, PoolError> {
        for job in self.jobs.values_mut() {
            if !job.owned.is_sealed() || job.owned.finished_prefix()? < job.owned.fed() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// When `poll` is needed at the latest.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        let mut at = self.machine.next_tick();
        let mut sooner = |ns: u64| at = Some(at.map_or(ns, |old| old.min(ns)));
        let limits = self.jobs.values().filter_map(|j| j.spec.timeout);
        if let Some(shortest) = limits.map(|t| t.as_nanos() as u64).min() {
            // An item that starts after this look is over its time no sooner than that.
            sooner(now_ns().saturating_add(shortest));
            for seated in self.board.seated() {
                let limit = seated
                    .running
                    .and_then(|(job, _)| self.jobs.get(&job)?.spec.timeout);
                if let Some(limit) = limit {
                    sooner(seated.since_ns.saturating_add(limit.as_nanos() as u64));
                }
            }
        }
        if !self.retry_later.is_empty() || !self.closing.is_empty() {
            sooner(now_ns() + SOON_NS);
        }
        at
    }
}

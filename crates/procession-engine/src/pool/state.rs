//! What a pool decides, as a pure state machine: events in, steps out. It knows no clock and no process.
//!
//! A worker is `Starting` from its spawn until it asks for its first task, then `Up`; `Condemned` once it is to be killed;
//! and forgotten when it has exited. See `README.md` for the rules.

use std::collections::{BTreeMap, HashMap};

use procession_shm::board::JobId;

use super::error::Broken;
use super::event::{Event, Failure, Step, Why, WorkerId};

/// How long an item whose worker has died waits for the news of how the worker ended.
pub const GRACE_NS: u64 = 1_000_000_000;

/// How far along a pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It takes jobs.
    Open,
    /// It finishes what it has.
    Closing,
    /// All is done; workers leave.
    Leaving,
    /// It was terminated, or is broken; workers are killed.
    Killing,
    /// No worker is left.
    Ended,
}

/// A worker's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerState {
    /// Has not asked for a task yet.
    Starting,
    /// Works.
    Up,
    /// Is to be killed.
    Condemned,
}

#[derive(Debug, Clone, Copy)]
struct Worker {
    state: WorkerState,
    /// The item for which it is killed.
    verdict: Option<(JobId, u64, Why)>,
}

/// An item that has failed, but for the news of how its worker ended.
#[derive(Debug, Clone, Copy)]
struct Pending {
    worker: WorkerId,
    pid: u32,
    job: JobId,
    item: u64,
    since_ns: u64,
}

/// The state machine.
#[derive(Debug)]
pub struct Machine {
    target: usize,
    poison_limit: u32,
    startup_limit: u32,
    phase: Phase,
    broken: Option<Broken>,
    last: u64,
    workers: BTreeMap<WorkerId, Worker>,
    /// Workers in a row that ended before they asked for a task.
    startup_deaths: u32,
    /// How many workers an item has killed.
    killed: HashMap<(JobId, u64), u32>,
    pending: Vec<Pending>,
}

impl Machine {
    /// A pool that keeps `target` workers. An item that has killed `poison_limit` of them is not run again; after
    /// `startup_limit` workers in a row that ended while starting the pool is broken.
    pub fn new(target: usize, poison_limit: u32, startup_limit: u32) -> Self {
        Self {
            target,
            poison_limit,
            startup_limit: startup_limit.max(1),
            phase: Phase::Open,
            broken: None,
            last: 0,
            workers: BTreeMap::new(),
            startup_deaths: 0,
            killed: HashMap::new(),
            pending: Vec::new(),
        }
    }

    /// How far along it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether and how it is broken.
    pub fn broken(&self) -> Option<Broken> {
        self.broken
    }

    /// The workers that have not exited.
    pub fn workers(&self) -> impl Iterator<Item = (WorkerId, WorkerState)> + '_ {
        self.workers.iter().map(|(id, w)| (*id, w.state))
    }

    /// When it next needs a [`Event::Tick`].
    pub fn next_tick(&self) -> Option<u64> {
        let first = self.pending.iter().map(|p| p.since_ns).min();
        first.map(|ns| ns + GRACE_NS)
    }

    /// Takes an event in.
    pub fn on(&mut self, event: Event) -> Vec<Step> {
        let mut out = Vec::new();
        match event {
            Event::Tick { now_ns } => self.give_up_waiting(now_ns, &mut out),
            Event::Started(id) => {
                // Condemned before it existed.
                if let Some(w) = self.workers.get(&id)
                    && w.state == WorkerState::Condemned
                {
                    out.push(Step::Kill(id, Why::Terminated));
                }
            }
            Event::NotStarted(worker) => self.exited(worker, None, &mut out),
            Event::Exited { worker, exit } => self.exited(worker, exit, &mut out),
            Event::Up(id) => {
                if let Some(w) = self.workers.get_mut(&id)
                    && w.state == WorkerState::Starting
                {
                    w.state = WorkerState::Up;
                    self.startup_deaths = 0;
                }
            }
            Event::Died {
                worker,
                pid,
                job,
                item,
                retries,
                now_ns,
            } => {
                let lost = Pending {
                    worker,
                    pid,
                    job,
                    item,
                    since_ns: now_ns,
                };
                self.died(lost, retries, &mut out);
            }
            Event::Condemned {
                worker,
                job,
                item,
                why,
            } => {
                if let Some(w) = self.workers.get_mut(&worker) {
                    if w.state != WorkerState::Condemned {
                        out.push(Step::Kill(worker, why));
                    }
                    w.state = WorkerState::Condemned;
                    w.verdict.get_or_insert((job, item, why));
                }
            }
            Event::CancelDied { job, item } => {
                let before = self.pending.len();
                self.pending.retain(|p| (p.job, p.item) != (job, item));
                if self.pending.len() < before {
                    self.fail(job, item, Failure::Cancelled, &mut out);
                }
            }
            Event::JobClosed(job) => {
                self.pending.retain(|p| p.job != job);
                self.killed.retain(|(j, _), _| *j != job);
            }
            Event::Close => self.phase = self.phase.max(Phase::Closing),
            Event::AllDone => {
                if self.phase == Phase::Closing {
                    self.phase = Phase::Leaving;
                    out.push(Step::End);
                }
            }
            Event::Terminate => self.kill_all(&mut out),
        }
        self.keep_up(&mut out);
        out
    }

    /// A worker died that ran an item.
    fn died(&mut self, lost: Pending, retries: u32, out: &mut Vec<Step>) {
        let Pending {
            worker,
            pid,
            job,
            item,
            ..
        } = lost;
        let verdict = self.workers.get(&worker).and_then(|w| w.verdict);
        if let Some((.., why)) = verdict.filter(|v| (v.0, v.1) == (job, item)) {
            let failure = match why {
                Why::TimedOut => Failure::TimedOut { worker, pid },
                Why::Cancelled => Failure::Cancelled,
                Why::Terminated => Failure::Terminated,
            };
            return self.fail(job, item, failure, out);
        }
        if self.phase >= Phase::Killing {
            return self.fail(job, item, Failure::Terminated, out);
        }
        let killed = self.killed.entry((job, item)).or_insert(0);
        *killed += 1;
        if *killed <= retries && *killed < self.poison_limit {
            out.push(Step::Retry(job, item));
        } else if self.workers.contains_key(&worker) {
            self.pending.push(lost);
        } else {
            let exit = None;
            self.fail(job, item, Failure::WorkerDied { worker, pid, exit }, out);
        }
    }

    fn fail(&mut self, job: JobId, item: u64, failure: Failure, out: &mut Vec<Step>) {
        self.killed.remove(&(job, item));
        out.push(Step::Fail(job, item, failure));
    }

    /// Items whose worker's end will not become known any more.
    fn give_up_waiting(&mut self, now_ns: u64, out: &mut Vec<Step>) {
        self.resolve(out, None, |p| now_ns >= p.since_ns.saturating_add(GRACE_NS));
    }

    fn resolve(
        &mut self,
        out: &mut Vec<Step>,
        exit: Option<i32>,
        is_due: impl Fn(&Pending) -> bool,
    ) {
        let (due, rest) = self.pending.drain(..).partition(|p| is_due(p));
        self.pending = rest;
        for Pending {
            worker,
            pid,
            job,
            item,
            ..
        } in due
        {
            self.fail(job, item, Failure::WorkerDied { worker, pid, exit }, out);
        }
    }

    fn exited(&mut self, id: WorkerId, exit: Option<i32>, out: &mut Vec<Step>) {
        let Some(worker) = self.workers.remove(&id) else {
            return;
        };
        self.resolve(out, exit, |p| p.worker == id);
        if worker.state == WorkerState::Starting && self.phase <= Phase::Closing {
            self.startup_deaths += 1;
            if self.startup_deaths >= self.startup_limit {
                let broken = Broken {
                    deaths: self.startup_deaths,
                    exit,
                };
                self.broken = Some(broken);
                out.push(Step::Broken(broken));
                self.kill_all(out);
            }
        }
    }

    fn kill_all(&mut self, out: &mut Vec<Step>) {
        if self.phase >= Phase::Killing {
            return;
        }
        self.phase = Phase::Killing;
        out.push(Step::End);
        for (id, worker) in &mut self.workers {
            if worker.state != WorkerState::Condemned {
                worker.state = WorkerState::Condemned;
                out.push(Step::Kill(*id, Why::Terminated));
            }
        }
        for lost in std::mem::take(&mut self.pending) {
            self.fail(lost.job, lost.item, Failure::Terminated, out);
        }
    }

    /// Starts workers while there are too few, and notices when the last one has gone.
    fn keep_up(&mut self, out: &mut Vec<Step>) {
        match self.phase {
            Phase::Open | Phase::Closing => {
                while self.workers.len() < self.target {
                    self.last += 1;
                    let id = WorkerId(self.last);
                    let worker = Worker {
                        state: WorkerState::Starting,
                        verdict: None,
                    };
                    self.workers.insert(id, worker);
                    out.push(Step::Spawn(id));
                }
            }
            Phase::Leaving | Phase::Killing if self.workers.is_empty() => {
                self.phase = Phase::Ended;
                out.push(Step::Ended);
            }
            Phase::Leaving | Phase::Killing | Phase::Ended => {}
        }
    }
}

//! The workers of a pool as their parent keeps them.
//!
//! There is no thread for that: whoever waits for a result does what is to be done meanwhile.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use procession_engine::launch::{self, Program};
use procession_engine::pool::{self as engine, Action, JobId, Until, Woken, WorkerId};
use procession_engine::process::Child;
use procession_shm::WaitError;
use procession_shm::processes::Role;
use procession_sys::clock::{Deadline, now_ns};

use super::error::PoolError;
use super::lane::Lanes;
use super::worker::{Assignment, BoardHandle};
use crate::codec::CodecError;
use crate::entry::{self, Errand, Kind};
use crate::error::SpawnError;
use crate::transit;

const SIGKILL: i32 = 9;

type WriteArgs = dyn Fn(&mut Vec<u8>) -> Result<(), CodecError> + Send + Sync;

/// What every worker runs first.
pub(super) struct Initializer {
    pub(super) task: &'static str,
    pub(super) args: Box<WriteArgs>,
}

impl std::fmt::Debug for Initializer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Initializer").field(&self.task).finish()
    }
}

/// How workers are started.
#[derive(Debug)]
pub(super) struct Recruiting {
    pub(super) program: Program,
    pub(super) name: String,
    pub(super) memory_limit: Option<u64>,
    pub(super) initializer: Option<Initializer>,
}

/// The pool itself; handles and tickets share it.
#[derive(Debug)]
pub(super) struct Crew {
    pub(super) engine: engine::Pool,
    pub(super) lanes: Lanes,
    recruiting: Recruiting,
    /// Locked by the thread that tends the workers.
    children: Mutex<HashMap<WorkerId, Child>>,
    /// Why the last worker could not be started.
    refused: Mutex<Option<SpawnError>>,
}

impl Crew {
    pub(super) fn new(engine: engine::Pool, recruiting: Recruiting) -> Self {
        Self {
            engine,
            lanes: Lanes::default(),
            recruiting,
            children: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    fn children(&self) -> MutexGuard<'_, HashMap<WorkerId, Child>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self) -> MutexGuard<'_, Option<SpawnError>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process ids of the workers.
    pub(super) fn pids(&self) -> Vec<u32> {
        let mut pids: Vec<_> = self.children().values().map(Child::pid).collect();
        pids.sort_unstable();
        pids
    }

    /// Does what is to be done for the workers: reaps, starts, kills.
    pub(super) fn tend(&self) -> Result<(), PoolError> {
        let mut children = self.children();
        loop {
            let mut exits = Vec::new();
            for (id, child) in children.iter() {
                // One whose status somebody else has taken has ended, too; nobody knows how.
                match child.try_wait() {
                    Ok(None) => {}
                    Ok(Some(exit)) => exits.push((*id, Some(exit.as_exitcode()))),
                    Err(_) => exits.push((*id, None)),
                }
            }
            for (id, exit) in exits {
                children.remove(&id);
                self.engine.worker_exited(id, exit)?;
            }
            let actions = self.engine.poll(now_ns())?;
            if actions.is_empty() {
                return Ok(());
            }
            for action in actions {
                match action {
                    Action::Spawn { worker } => match self.start(worker) {
                        Ok(child) => {
                            let (owner, pid) = (child.owner(), child.pid());
                            children.insert(worker, child);
                            self.engine.worker_started(worker, owner, pid)?;
                        }
                        Err(error) => {
                            *self.refused() = Some(error);
                            self.engine.worker_not_started(worker)?;
                        }
                    },
                    Action::Kill { worker, .. } => {
                        if let Some(child) = children.get(&worker) {
                            child.signal(SIGKILL)?;
                        }
                    }
                    // Whoever waits is told by the wait.
                    Action::Broken(_) | Action::Ended => {}
                }
            }
        }
    }

    fn start(&self, worker: WorkerId) -> Result<Child, SpawnError> {
        let Recruiting {
            program,
            name,
            memory_limit,
            initializer,
        } = &self.recruiting;
        let errand = Errand {
            memory_limit: *memory_limit,
            kind: Kind::Work(Assignment {
                board: BoardHandle(self.engine.handle().clone()),
                worker: worker.0,
                initializer: initializer.as_ref().map(|i| i.task.to_owned()),
            }),
        };
        let mut message = Vec::new();
        let parcel = transit::encode(&mut message, |to| {
            entry::encode(&errand, to)?;
            initializer.as_ref().map_or(Ok(()), |i| (i.args)(to))
        })?;
        let name = format!("{name}-{}", worker.0);
        Ok(launch::start(
            program,
            &name,
            Role::Worker,
            &message,
            parcel,
        )?)
    }

    /// Waits for outcomes of a job, tending the workers meanwhile. False when the deadline came first.
    pub(super) fn wait(
        &self,
        job: JobId,
        until: Until,
        deadline: Deadline,
    ) -> Result<bool, PoolError> {
        loop {
            match self.engine.wait(job, until, deadline, &mut || true) {
                Ok(Woken::Ready) => return Ok(true),
                Ok(Woken::Attention) => self.tend()?,
                Err(engine::PoolError::Wait(WaitError::TimedOut)) => return Ok(false),
                Err(error) => return Err(self.explain(error)),
            }
        }
    }

    /// A pool is broken for a reason that the system gave, where it gave one.
    pub(super) fn explain(&self, error: engine::PoolError) -> PoolError {
        let broken = matches!(error, engine::PoolError::Broken(_));
        let refused = if broken { self.refused().take() } else { None };
        refused.map_or_else(|| error.into(), PoolError::from)
    }

    /// Waits until the pool, which was closed, has worked off what it has.
    pub(super) fn join(&self) -> Result<(), PoolError> {
        self.lanes.seal(&self.engine)?;
        self.engine.close()?;
        loop {
            self.tend()?;
            if self.engine.is_ended()? {
                return Ok(());
            }
            self.engine.wait_attention(Deadline::NEVER, &mut || true)?;
        }
    }

    /// Kills the workers, and reaps them.
    pub(super) fn terminate(&self) -> Result<(), PoolError> {
        self.engine.terminate()?;
        while !self.engine.is_ended()? {
            self.tend()?;
            for child in self.children().values() {
                child.signal(SIGKILL)?;
                child.wait(Deadline::NEVER)?;
            }
        }
        Ok(())
    }
}

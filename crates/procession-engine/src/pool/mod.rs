//! The pool: work for many processes, in bytes; see `README.md` beside this file.
//!
//! [`state`] decides, and knows neither processes nor time. [`Pool`] is the parent's side: it feeds and collects, shows the
//! state machine what happens, and tells the front which processes to start and to kill. [`Worker`] is the other side. The
//! work itself stands in shared memory (`procession_shm::board`).

mod driver;
mod error;
pub mod event;
mod keep;
mod shared;
pub mod state;
#[cfg(test)]
mod state_tests;
mod wait;
mod worker;

use std::time::Duration;

use procession_shm::board::Payload;
use procession_shm::processes::Owner;

pub use driver::Pool;
pub use error::{Broken, PoolError};
pub use event::{Failure, Why, WorkerId};
pub use procession_shm::board::{Counts, JobId, NOTES_MAX, Noted, Notes, Task};
pub use procession_shm::ring::Message;
pub use shared::{SharedBuffer, SharedView};
pub use state::WorkerState;
pub use worker::Worker;

/// What a pool is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// As shown to people.
    pub name: String,
    /// How many workers to keep.
    pub workers: usize,
    /// Tasks after which a worker is replaced.
    pub max_tasks: Option<u64>,
    /// An item that has killed so many workers is not run again, whatever its job says.
    pub poison_limit: u32,
    /// The pool is broken after so many workers in a row that ended before they asked for a task; by default three more
    /// than it keeps.
    pub startup_limit: Option<u32>,
}

impl Config {
    /// With the defaults for everything else.
    pub fn new(name: &str, workers: usize) -> Self {
        Self {
            name: name.to_owned(),
            workers: workers.max(1),
            max_tasks: None,
            poison_limit: 3,
            startup_limit: None,
        }
    }
}

/// How a job's outcomes are collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// As the items were fed.
    #[default]
    InOrder,
    /// As they finish.
    AsFinished,
}

/// How a job is worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JobSpec {
    /// Items in all, if that is known.
    pub total: Option<u64>,
    /// How it is collected.
    pub order: Order,
    /// How long an item may run.
    pub timeout: Option<Duration>,
    /// How often an item is run again whose worker died.
    pub retries: u32,
    /// How many items are a task for [`Config::max_tasks`], and how many to hand out at first; later their duration decides.
    pub chunk_hint: u32,
}

/// The outcome of an item.
#[derive(Debug)]
pub struct Collected {
    /// The item's number.
    pub item: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// What the worker that died over it had noted.
    pub noted: Option<Noted>,
}

/// What became of an item.
#[derive(Debug)]
pub enum Outcome {
    /// A worker finished it.
    Done {
        /// What the worker said of it.
        status: u8,
        /// The result.
        payload: Payload,
    },
    /// It has no result.
    Failed(Failure),
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The next item in order has an outcome.
    Next,
    /// Any item that was not collected has an outcome.
    Any,
    /// All items fed so far have one.
    AllDone,
    /// The first so many items have one.
    Done(u64),
}

/// Why a wait came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// What was waited for is there.
    Ready,
    /// [`Pool::poll`] has something to do first.
    Attention,
}

/// What the front has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start a worker, and say what came of it.
    Spawn {
        /// Its number.
        worker: WorkerId,
    },
    /// Kill a worker, and say when it has exited.
    Kill {
        /// Its number.
        worker: WorkerId,
        /// Its process, if that is known.
        owner: Option<Owner>,
        /// Its pid, zero if that is not known yet; it will be said again then.
        pid: u32,
        /// Why.
        why: Why,
    },
    /// The pool has given up. Said once.
    Broken(Broken),
    /// The last worker of a pool that was closed or terminated has exited. Said once.
    Ended,
}

/// What cancelling an item came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancel {
    /// It will not be run.
    Cancelled,
    /// Its worker is going to be killed for it.
    Killing,
    /// It has an outcome already.
    TooLate,
}

/// How far a job has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Items fed.
    pub fed: u64,
    /// Items that workers have taken.
    pub claimed: u64,
    /// Items with an outcome; lags a little.
    pub done: u64,
    /// Items collected.
    pub collected: u64,
    /// Items in all, once that is known.
    pub total: Option<u64>,
}

/// A worker as the parent sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerInfo {
    /// Its number.
    pub worker: WorkerId,
    /// Its state.
    pub state: WorkerState,
    /// Its process, once it is known.
    pub owner: Option<Owner>,
    /// Its pid; zero until it is known.
    pub pid: u32,
    /// Tasks it has finished.
    pub tasks_done: u64,
    /// The item it runs.
    pub running: Option<(JobId, u64)>,
    /// Since when, about (monotonic nanoseconds).
    pub since_ns: u64,
}

//! What the state machine is told, and what it decides.

use procession_shm::board::JobId;

use super::error::Broken;

/// A worker's number in its pool, from 1, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u64);

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Time has passed.
    Tick {
        /// The time.
        now_ns: u64,
    },
    /// A worker's process runs.
    Started(WorkerId),
    /// A worker's process could not be started.
    NotStarted(WorkerId),
    /// A worker has asked for a task.
    Up(WorkerId),
    /// A worker died with an item in hand.
    Died {
        /// The worker.
        worker: WorkerId,
        /// Its pid.
        pid: u32,
        /// The item's job.
        job: JobId,
        /// The item.
        item: u64,
        /// How often the job has a failed item run again.
        retries: u32,
        /// The time.
        now_ns: u64,
    },
    /// A worker's process has ended. News of what it had in hand come first.
    Exited {
        /// The worker.
        worker: WorkerId,
        /// Its exit code, or the negative signal.
        exit: Option<i32>,
    },
    /// A worker was forbidden to go on, because the item that it runs is over its time or was cancelled.
    Condemned {
        /// The worker.
        worker: WorkerId,
        /// The item's job.
        job: JobId,
        /// The item.
        item: u64,
        /// For what.
        why: Why,
    },
    /// An item was cancelled whose worker has died.
    CancelDied {
        /// The item's job.
        job: JobId,
        /// The item.
        item: u64,
    },
    /// Nobody is interested in a job any more.
    JobClosed(JobId),
    /// No further jobs.
    Close,
    /// Every item of every job has an outcome, and there will be no more of them.
    AllDone,
    /// Stop, whatever is running.
    Terminate,
}

/// Why a worker is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Its item has run for too long.
    TimedOut,
    /// Its item was cancelled.
    Cancelled,
    /// The pool is terminated, or broken.
    Terminated,
}

/// Why an item has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The worker died that ran it.
    WorkerDied {
        /// The worker.
        worker: WorkerId,
        /// Its pid.
        pid: u32,
        /// Its exit code, or the negative signal, if that became known.
        exit: Option<i32>,
    },
    /// It ran for longer than it may, and its worker was killed.
    TimedOut {
        /// The worker.
        worker: WorkerId,
        /// Its pid.
        pid: u32,
    },
    /// It was cancelled.
    Cancelled,
    /// The pool was terminated before it was finished.
    Terminated,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Start a worker.
    Spawn(WorkerId),
    /// Kill a worker.
    Kill(WorkerId, Why),
    /// Have an item run again.
    Retry(JobId, u64),
    /// Give an item up.
    Fail(JobId, u64, Failure),
    /// Tell all workers to leave.
    End,
    /// The pool is broken.
    Broken(Broken),
    /// The last worker of a pool that was closed or terminated has exited.
    Ended,
}

//! Looking at a board: what runs where since when, and the words for tools.

use crate::error::{Corrupt, ShmError};
use crate::objects::Entry;
use crate::primitive::Ordering;
use crate::processes::Owner;
use crate::session::Session;

use super::Board;
use super::layout::JobId;
use super::ledger::{LIVE, Ledger};

/// A worker at its seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seated {
    /// The number it sat down with.
    pub worker: u64,
    /// Its process.
    pub owner: Option<Owner>,
    /// Its pid.
    pub pid: u32,
    /// Has it asked for a task yet?
    pub is_up: bool,
    /// Tasks it has finished.
    pub tasks: u64,
    /// The item it runs.
    pub running: Option<(JobId, u64)>,
    /// Since when: exact for jobs with a time limit, else it may be that of an earlier item.
    pub since_ns: u64,
}

/// How far a job has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Items fed.
    pub fed: u64,
    /// Items that workers have claimed.
    pub claimed: u64,
    /// Items with an outcome; lags a little.
    pub done: u64,
    /// Items in all, once that is known.
    pub total: Option<u64>,
}

impl Board {
    /// The workers at their seats.
    pub fn seated(&self) -> impl Iterator<Item = Seated> + '_ {
        self.body
            .all_ledgers(self.session())
            .filter(|(_, l)| l.state.load(Ordering::Acquire) == LIVE)
            .map(|(number, ledger)| {
                let running = self.running(number, ledger);
                Seated {
                    worker: ledger.worker.load(Ordering::Relaxed),
                    owner: Owner::from_word(ledger.owner.load(Ordering::Relaxed) as u32),
                    pid: ledger.pid.load(Ordering::Relaxed) as u32,
                    is_up: ledger.is_up.load(Ordering::Relaxed) != 0,
                    tasks: ledger.tasks.load(Ordering::Relaxed),
                    running,
                    since_ns: ledger.since_ns.load(Ordering::Relaxed),
                }
            })
    }

    pub(super) fn running(&self, number: u32, ledger: &Ledger) -> Option<(JobId, u64)> {
        let id = JobId::from_word(ledger.job.load(Ordering::Acquire))?;
        let item = ledger.current()?;
        let cell = self.body.job(id)?.cell(self.session(), item).ok()??;
        cell.run_by(number).map(|_| (id, item))
    }

    /// How far `job` has come.
    pub fn counts(&self, job: JobId) -> Option<Counts> {
        let slot = self.body.job(job)?;
        let fed = slot.fed.load(Ordering::Acquire);
        let total = slot.total.load(Ordering::Relaxed);
        Some(Counts {
            fed,
            claimed: slot.cursor.load(Ordering::Relaxed),
            done: slot.done.load(Ordering::Relaxed).min(fed),
            total: (total != u64::MAX).then_some(total),
        })
    }
}

/// Words for tools.
pub(super) fn describe(
    session: &'static Session,
    entry: &'static Entry,
) -> Result<Vec<(&'static str, u64)>, ShmError> {
    let body = super::body(session, entry)?;
    // Another process may have torn any of these words, so sums stop at the largest number.
    let (mut jobs, mut queued, mut done) = (0, 0_u64, 0_u64);
    for job in &body.jobs {
        if job.id.load(Ordering::Acquire) == 0 {
            continue;
        }
        jobs += 1;
        let cursor = job.cursor.load(Ordering::Relaxed);
        let waiting = job.fed.load(Ordering::Relaxed).saturating_sub(cursor);
        queued = queued.saturating_add(waiting);
        done = done.saturating_add(job.done.load(Ordering::Relaxed));
    }
    let (mut workers, mut running) = (0, 0);
    for (_, ledger) in body.all_ledgers(session) {
        if ledger.state.load(Ordering::Acquire) != LIVE {
            continue;
        }
        workers += 1;
        running += u64::from(ledger.job.load(Ordering::Relaxed) != 0);
        if ledger.has_rest() {
            let (next, end) = ledger.rest();
            queued = queued.saturating_add(end.saturating_sub(next));
        }
    }
    queued = queued.saturating_add(body.requeued.load(Ordering::Relaxed));
    if queued > 1 << 60 {
        return Err(Corrupt("a board's counts make no sense").into());
    }
    Ok(vec![
        ("workers", workers),
        ("jobs", jobs),
        ("queued", queued),
        ("running", running),
        ("done", done),
    ])
}

//! Killing a worker for one item, and what becomes of another one that it starts behind that. The steps are the ledger's.

use crate::error::ShmError;
use crate::primitive::Ordering;

use super::Board;
use super::cell::Cell;
use super::claim::Range;
use super::count::Seated;
use super::layout::JobId;
use super::ledger::{LIVE, Verdict};
use super::run::Seat;

/// The word that condemns a worker for this item.
pub(super) fn verdict(job: JobId, item: u64) -> Verdict {
    Verdict::new(job.slot(), item)
}

impl Board {
    /// Forbids the worker that runs `item` to start anything else, because it is going to be killed for it. `None` if nobody
    /// runs it (any more).
    pub fn condemn(&self, job: JobId, item: u64) -> Option<Seated> {
        let seated = self.seated().find(|s| s.running == Some((job, item)))?;
        for (number, ledger) in self.body.all_ledgers(self.session()) {
            if ledger.state.load(Ordering::Acquire) != LIVE
                || ledger.worker.load(Ordering::Relaxed) != seated.worker
            {
                continue;
            }
            let is_running = || self.running(number, ledger) == Some((job, item));
            if ledger.condemn(verdict(job, item), is_running) {
                return Some(seated);
            }
        }
        None
    }
}

impl Seat {
    /// The item that was just started is not run after all.
    #[cold]
    pub(super) fn put_back(
        &mut self,
        range: &Range,
        cell: &'static Cell,
        item: u64,
    ) -> Result<(), ShmError> {
        let mut txn = self.board.lock()?;
        let closing = &range.slot.closing;
        let goes_on = self.ledger.unstart(&mut txn, cell, item, closing);
        txn.commit();
        if goes_on {
            return Ok(());
        }
        self.step(item);
        self.announce(range, item)
    }
}

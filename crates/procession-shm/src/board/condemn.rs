//! Killing a worker for one item, and what becomes of another one that it starts behind that.

use crate::crash_point;
use crate::error::ShmError;
use crate::guard::Txn;
use crate::primitive::{Ordering, fence};

use super::Board;
use super::claim::Range;
use super::count::Seated;
use super::layout::{CANCELLED, Cell, FED, JobId, JobSlot, LIVE, Ledger};
use super::run::Seat;

/// The word that condemns a worker for this item.
fn verdict(job: JobId, item: u64) -> u64 {
    (job.slot() as u64) << 56 | (item + 1)
}

/// In [`Ledger::stop`]: the worker was seen running the item after the word was written, so it begins no other.
const CERTAIN: u64 = 1 << 63;

impl Ledger {
    /// Is its worker condemned for something that it ran before this item?
    pub(super) fn is_condemned_before(&self, job: JobId, item: u64) -> bool {
        let stop = self.stop.load(Ordering::SeqCst);
        stop & CERTAIN != 0 && stop != verdict(job, item) | CERTAIN
    }
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
            let verdict = verdict(job, item);
            match ledger.stop.load(Ordering::SeqCst) {
                0 => {}
                // It is condemned already, and puts back whatever it starts behind that.
                before => return (before == verdict | CERTAIN).then_some(seated),
            }
            ledger.stop.store(verdict, Ordering::SeqCst);
            crash_point!("board.condemn.told");
            fence(Ordering::SeqCst);
            // If it still runs the item now, it will see the word before it starts another one: it looks behind the
            // compare-and-swap by which it starts.
            if self.running(number, ledger) == Some((job, item)) {
                ledger.stop.store(verdict | CERTAIN, Ordering::SeqCst);
                crash_point!("board.condemn.certain");
                return Some(seated);
            }
            ledger.stop.store(0, Ordering::SeqCst);
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
        let goes_on = unstart(&mut txn, range.slot, self.ledger, cell, item);
        txn.commit();
        if goes_on {
            return Ok(());
        }
        self.step(item);
        self.announce(range, item)
    }
}

/// Has an item wait again that the worker of `ledger` has started and not run; false if its job was stopped meanwhile, so that
/// it is cancelled. Somebody who took it out of the ledger's range may have come to it, found it started and gone on: so the
/// range has it again.
pub(super) fn unstart(
    txn: &mut Txn<'_>,
    job: &'static JobSlot,
    ledger: &'static Ledger,
    cell: &'static Cell,
    item: u64,
) -> bool {
    // Whoever stops the job says so before he enters this section, and cancels afterwards what waits.
    let goes_on = job.closing.load(Ordering::SeqCst) == 0;
    if goes_on && ledger.end.load(Ordering::Relaxed) <= item {
        txn.set(&ledger.end, item + 1);
    }
    // Not to be undone with the rest: from the store on, others may start the item.
    txn.checkpoint();
    crash_point!("board.start.reverting");
    let head = if goes_on { FED } else { CANCELLED };
    cell.result[0].store(head, Ordering::SeqCst);
    crash_point!("board.start.reverted");
    goes_on
}

//! What becomes of the items of a worker that is gone.

use crate::arena::BlockOwner;
use crate::crash_point;
use crate::error::{Corrupt, ShmError};
use crate::guard::Txn;
use crate::objects::Entry;
use crate::primitive::{AtomicU64, Ordering};
use crate::processes::Owner;
use crate::session::Session;

use super::cell::Cell;
use super::condemn::verdict;
use super::layout::{BIT_WORDS, BoardBody, Chunk, JobId, JobSlot, cell_at};
use super::ledger::{FREE, GONE, InHand, LIVE, Ledger, ORPHAN};
use super::run::{TAKEN, TAKING};
use super::{AS_FINISHED, Board, add};

/// A worker that has left its ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Departed {
    /// The number it sat down with.
    pub worker: u64,
    /// Its pid.
    pub pid: u32,
    /// The item it had started and not finished.
    pub died: Option<(JobId, u64)>,
    /// Had it asked for a task?
    pub was_up: bool,
    /// Tasks it finished.
    pub tasks: u64,
}

/// A process that held the board has died; see [`crate::objects::KindOps`].
pub(super) fn died(
    session: &'static Session,
    index: u32,
    entry: &'static Entry,
    dead: Owner,
) -> Result<(), ShmError> {
    let body = super::body(session, entry)?;
    for (number, ledger) in body.all_ledgers(session) {
        if ledger.owner.load(Ordering::Acquire) == u64::from(dead.word()) {
            bury(session, body, index, number)?;
        }
    }
    if body.owner() == Some(dead) {
        body.ended.store(1, Ordering::SeqCst);
        body.wake_workers();
    }
    Ok(())
}

impl Board {
    /// The worker that sat down as `worker` has ended: what it had in hand has died, the rest goes to others. False if that
    /// has to be tried again, as somebody else has the board and is stopped.
    pub fn bury_worker(&self, worker: u64) -> Result<bool, ShmError> {
        for (number, ledger) in self.body.all_ledgers(self.session()) {
            if ledger.worker.load(Ordering::Acquire) == worker
                && ledger.state.load(Ordering::Acquire) == LIVE
            {
                match self.bury(number) {
                    Err(ShmError::Busy) => return Ok(false),
                    other => other?,
                }
            }
        }
        Ok(true)
    }

    pub(super) fn bury(&self, number: u32) -> Result<(), ShmError> {
        bury(self.session(), self.body, self.index(), number)
    }

    /// The workers that have gone since the last call; `None` if somebody else has the board and is stopped.
    pub fn departed(&self) -> Result<Option<Vec<Departed>>, ShmError> {
        let mut all = Vec::new();
        let Some(mut txn) = self.lock_soon()? else {
            return Ok(None);
        };
        for (_, ledger) in self.body.all_ledgers(self.session()) {
            if ledger.state.load(Ordering::Relaxed) != GONE {
                continue;
            }
            let job = JobId::from_word(ledger.job.load(Ordering::Relaxed));
            let died = ledger.died.load(Ordering::Relaxed);
            all.push(Departed {
                worker: ledger.worker.load(Ordering::Relaxed),
                pid: ledger.pid.load(Ordering::Relaxed) as u32,
                died: job
                    .filter(|_| died != 0)
                    .map(|job| (job, died.wrapping_sub(1))),
                was_up: ledger.is_up.load(Ordering::Relaxed) != 0,
                tasks: ledger.tasks.load(Ordering::Relaxed),
            });
            let rest = ledger.has_rest();
            if !rest {
                txn.set(&ledger.job, 0);
            }
            txn.set(&ledger.died, 0);
            txn.set(&ledger.state, if rest { ORPHAN } else { FREE });
            crash_point!("board.departed.told");
            txn.checkpoint();
        }
        txn.commit();
        Ok(Some(all))
    }
}

/// Marks the item that a ledger's worker had started as died, and offers the rest of its range to others. One section: done
/// twice, or after a death in here, it comes to the same.
fn bury(
    session: &'static Session,
    body: &'static BoardBody,
    index: u32,
    number: u32,
) -> Result<(), ShmError> {
    let ledger = body.ledger(session, number)?;
    let mut txn = body.lock_soon(session)?.ok_or(ShmError::Busy)?;
    if ledger.state.load(Ordering::Relaxed) != LIVE {
        return Ok(());
    }
    let mut to_free = [None; 2];
    let mut has_died = false;
    if let Some((id, job)) = body.job_of(ledger) {
        if let Some(item) = ledger.current()
            && let Some(cell) = job.cell(session, item)?
        {
            match ledger.in_hand(number, cell, verdict(id, item)) {
                InHand::Nothing => {}
                InHand::Unbegun => {
                    // It would have put it back, had it lived a moment longer.
                    ledger.unstart(&mut txn, cell, item, &job.closing);
                }
                InHand::Run { handing } => {
                    let dead = Owner::from_word(ledger.owner.load(Ordering::Relaxed) as u32);
                    let of = [
                        dead.map(BlockOwner::process),
                        Some(BlockOwner::object(index)),
                    ];
                    to_free = take_from(session, &mut txn, cell, handing, &of)?;
                    ledger.let_die(&mut txn, cell, item);
                    has_died = true;
                }
            }
        }
        if job.flag(AS_FINISHED) {
            announce_finished(session, job, ledger)?;
        }
    }
    if ledger.has_rest() {
        add(&mut txn, &body.orphans, 1);
    } else if !has_died {
        txn.set(&ledger.job, 0);
    }
    body.count(&mut txn, ledger, 0);
    txn.set(&ledger.state, GONE);
    crash_point!("board.bury.filled");
    txn.commit();
    crash_point!("board.bury.committed");
    for block in to_free.into_iter().flatten() {
        session.free_block(block)?;
    }
    body.wake_workers();
    body.raise();
    Ok(())
}

/// Takes over the blocks that were on their way between the dead worker and the board: only the cell knows of them.
fn take_from(
    session: &'static Session,
    txn: &mut Txn<'_>,
    cell: &'static Cell,
    handing: bool,
    of: &[Option<BlockOwner>],
) -> Result<[Option<u64>; 2], ShmError> {
    let mine = BlockOwner::process(session.me()?);
    let take = |txn: &mut Txn<'_>, word: &AtomicU64| -> Result<Option<u64>, Corrupt> {
        let at = word.load(Ordering::Acquire);
        let record = session.block(at)?;
        let owner = BlockOwner::from_word(record.owner.load(Ordering::Acquire));
        if !of.iter().flatten().any(|o| owner.same_as(*o)) {
            return Ok(None);
        }
        txn.set(&record.owner, mine.with_flags_of(owner).word());
        Ok(Some(at))
    };
    let result = if handing {
        take(txn, &cell.result[1])?
    } else {
        None
    };
    let head = cell.arguments[0].load(Ordering::Acquire);
    let arguments = if head & TAKING != 0 {
        txn.set(&cell.arguments[0], head & !TAKING | TAKEN);
        take(txn, &cell.arguments[1])?
    } else {
        None
    };
    Ok([result, arguments])
}

/// Sets the bits of what a ledger's worker has finished and not announced. Bits of other finished items do no harm.
pub(super) fn announce_finished(
    session: &'static Session,
    job: &'static JobSlot,
    ledger: &'static Ledger,
) -> Result<(), ShmError> {
    let first = ledger.first.load(Ordering::Relaxed);
    let current = ledger.current.load(Ordering::Relaxed);
    let shape = job.shape();
    let Some(at) = job.chunk_of(session, first)? else {
        return Ok(());
    };
    let chunk: &'static Chunk = session.segment().at(at)?;
    for item in first..current.min(first + shape.items()) {
        let index = shape.index(item);
        if cell_at(session, at, index)?.is_finished() {
            let word = &chunk.bits[(index / 64) as usize % BIT_WORDS];
            word.fetch_or(1 << (index % 64), Ordering::SeqCst);
        }
    }
    let place = chunk.place.load(Ordering::Relaxed) as usize;
    let summary = job.summary(session)?;
    summary[place / 64 % summary.len()].fetch_or(1 << (place % 64), Ordering::SeqCst);
    Ok(())
}

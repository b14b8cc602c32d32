//! What workers do under the board's guard: taking and giving up seats, claiming ranges of items.
//!
//! A range lies within one chunk and stands in exactly one ledger, so every item that waits to be started is in one of
//! three places: behind the job's cursor, in the list of items to be run again, or in a ledger's range. A range may name
//! items that somebody else has started meanwhile; the cell decides.

use procession_sys::clock::now_ns;

use crate::crash_point;
use crate::error::ShmError;
use crate::guard::Txn;
use crate::primitive::{Ordering, fence};
use crate::session::Session;

use super::allowance::Allowance;
use super::bury::announce_finished;
use super::crew::SLOW_NS;
use super::layout::{AS_FINISHED, BoardBody, JOBS, JobId, JobSlot, REQUEUE, Shape};
use super::ledger::{BUSY, FREE, GONE, LIVE, Ledger, ORPHAN, RANGED};
use super::{Board, add};

/// How much work to claim at once, in nanoseconds.
const CLAIM_NS: u64 = 200_000;
/// Never more items than this.
const CLAIM_MAX: u64 = 256;
/// A range of items to work on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub(super) job: JobId,
    pub(super) slot: &'static JobSlot,
    pub(super) first: u64,
    pub(super) end: u64,
    /// Where their chunk is.
    pub(super) chunk: u64,
    pub(super) shape: Shape,
}

/// A place where unstarted items were found.
struct Offer {
    job: JobId,
    first: u64,
    end: u64,
}

impl std::fmt::Debug for JobSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobSlot").finish_non_exhaustive()
    }
}

impl Board {
    /// Takes a ledger for a worker that the owner knows by `worker`. `None` if all are taken.
    pub(super) fn take_ledger(&self, worker: u64) -> Result<Option<u32>, ShmError> {
        let (session, body) = (self.session(), self.body);
        let me = session.me()?;
        let mut txn = self.lock()?;
        let mut found = None;
        for (number, ledger) in body.all_ledgers(session) {
            match ledger.state.load(Ordering::Relaxed) {
                FREE => {
                    found = Some((number, ledger, false));
                    break;
                }
                // With the range that it has.
                ORPHAN if found.is_none() => found = Some((number, ledger, true)),
                _ => {}
            }
        }
        let Some((number, ledger, adopted)) = found else {
            return Ok(None);
        };
        if adopted {
            add(&mut txn, &body.orphans, -1);
        } else {
            txn.set(&ledger.job, 0);
        }
        txn.set(&ledger.current, 0);
        txn.set(&ledger.died, 0);
        txn.set(&ledger.stop, 0);
        txn.set(&ledger.owner, u64::from(me.word()));
        txn.set(&ledger.worker, worker);
        txn.set(&ledger.pid, u64::from(std::process::id()));
        txn.set(&ledger.is_up, 0);
        txn.set(&ledger.tasks, 0);
        crash_point!("board.join.filled");
        txn.set(&ledger.state, LIVE);
        txn.commit();
        crash_point!("board.join.committed");
        body.raise();
        Ok(Some(number))
    }

    /// Gives a ledger up; what is left of its range goes to others.
    pub(super) fn leave_ledger(&self, ledger: &'static Ledger) -> Result<(), ShmError> {
        let body = self.body;
        let mut txn = self.lock()?;
        if ledger.state.load(Ordering::Relaxed) == LIVE {
            if ledger.has_rest() {
                add(&mut txn, &body.orphans, 1);
            } else {
                txn.set(&ledger.job, 0);
            }
            body.count(&mut txn, ledger, 0);
            txn.set(&ledger.state, GONE);
            crash_point!("board.leave.filled");
            txn.commit();
            crash_point!("board.leave.committed");
        }
        // A wake-up meant for us must not be lost with us.
        body.wake_workers();
        body.raise();
        Ok(())
    }

    /// Claims a range for the worker of `ledger`, as many items at most as are `left` to it, looking first behind the job
    /// `after`. Whatever the ledger had is used up (or else it is what is returned). `spare`: see
    /// [`super::run::Seat::is_spare`].
    pub(super) fn claim(
        &self,
        ledger: &'static Ledger,
        after: usize,
        left: Allowance,
        spare: bool,
    ) -> Result<Option<Range>, ShmError> {
        let (session, body) = (self.session(), self.body);
        let mut txn = self.lock()?;
        // Somebody who took the rest of our range may have died doing so, which then has not happened.
        let kept = JobId::from_word(ledger.job.load(Ordering::Relaxed))
            .filter(|_| ledger.has_rest())
            .map(|job| Offer {
                job,
                first: ledger.next.load(Ordering::Relaxed),
                end: ledger.end.load(Ordering::Relaxed),
            });
        let own = ledger.counted.load(Ordering::Relaxed) & BUSY;
        let is_full = body.is_full(own, spare);
        let offer = match kept {
            Some(offer) => Some(offer),
            None => match find_requeued(session, body, &mut txn)? {
                Some(offer) => Some(offer),
                None => match find_orphan(session, body, &mut txn, left) {
                    Some(offer) => Some(offer),
                    None => match find_queued(session, body, &mut txn, (after, left, is_full)) {
                        Some(offer) => Some(offer),
                        None if body.is_well_manned(spare) => None,
                        None => find_slow(session, body, &mut txn, left)?,
                    },
                },
            },
        };
        let Some(Offer { job, first, end }) = offer else {
            if ledger.job.load(Ordering::Relaxed) != 0 {
                txn.set(&ledger.job, 0);
                txn.set(&ledger.current, 0);
            }
            body.count(&mut txn, ledger, 0);
            txn.commit();
            return Ok(None);
        };
        let slot = &body.jobs[job.slot()];
        let Some(chunk) = slot.chunk_of(session, first)? else {
            return Err(crate::Corrupt("a claimed item has no chunk").into());
        };
        ledger.fill(&mut txn, job.word(), first, end);
        let several = if end - first > 1 { RANGED } else { 0 };
        body.count(&mut txn, ledger, BUSY | several);
        crash_point!("board.claim.filled");
        txn.checkpoint();
        crash_point!("board.claim.committed");
        // Nobody need be woken for a job of which all is claimed.
        slot.unclaimed(body, 1 << job.slot());
        drop(txn);
        // There may be work for one more: wake-ups are handed on.
        if body.work.has_sleepers() && body.needs_one_more() {
            body.wake_worker();
        }
        Ok(Some(Range {
            job,
            slot,
            first,
            end,
            chunk,
            shape: slot.shape(),
        }))
    }

    /// Is there something in the ranges of others that one could take off them, if it turns out that they are slow?
    pub(super) fn others_have_rest(&self, own: u32) -> bool {
        // Scanned only if it may be worth it: an idle worker asks this whenever it stirs.
        self.body.ranged.load(Ordering::Acquire) != 0
            && self
                .body
                .all_ledgers(self.session())
                .any(|(n, l)| n != own && l.state.load(Ordering::Acquire) == LIVE && l.has_rest())
    }
}

/// An item that is to be run again.
fn find_requeued(
    session: &'static Session,
    body: &'static BoardBody,
    txn: &mut Txn<'_>,
) -> Result<Option<Offer>, ShmError> {
    let mut count = body.requeued.load(Ordering::Relaxed);
    while count > 0 {
        count -= 1;
        let entry = body.requeue[count as usize % REQUEUE].load(Ordering::Relaxed);
        let (slot, item) = ((entry >> 56) as usize % JOBS, entry & ((1 << 56) - 1));
        let id = body.jobs[slot].id.load(Ordering::Relaxed);
        txn.set(&body.requeued, count);
        // Somebody whose range still named it may have run it already, and its chunk be gone.
        if let Some(job) = JobId::from_word(id)
            && body.jobs[slot].chunk_of(session, item)?.is_some()
        {
            return Ok(Some(Offer {
                job,
                first: item,
                end: item + 1,
            }));
        }
        txn.checkpoint();
    }
    Ok(None)
}

/// The range of a worker that is gone.
fn find_orphan(
    session: &'static Session,
    body: &'static BoardBody,
    txn: &mut Txn<'_>,
    left: Allowance,
) -> Option<Offer> {
    if body.orphans.load(Ordering::Relaxed) == 0 {
        return None;
    }
    for (_, ledger) in body.all_ledgers(session) {
        let state = ledger.state.load(Ordering::Relaxed);
        if !matches!(state, GONE | ORPHAN) || !ledger.has_rest() {
            continue;
        }
        let Some(job) = JobId::from_word(ledger.job.load(Ordering::Relaxed)) else {
            continue;
        };
        let (first, all) = ledger.rest();
        let most = left.items(body.hint(job));
        // Half of it, so that what is left wakes somebody who can look after both halves.
        let end = first + (all - first).div_ceil(2).min(most);
        txn.set(&ledger.next, end);
        if end == all {
            add(txn, &body.orphans, -1);
            if state == ORPHAN {
                txn.set(&ledger.job, 0);
                txn.set(&ledger.state, FREE);
            }
        }
        return Some(Offer { job, first, end });
    }
    // The count is changed together with what it counts; a job that was stopped may have emptied the range.
    txn.set(&body.orphans, 0);
    txn.checkpoint();
    None
}

/// Items that nobody has claimed yet, of the jobs in turn; not those of quick jobs if the crew `is_full`.
fn find_queued(
    session: &'static Session,
    body: &'static BoardBody,
    txn: &mut Txn<'_>,
    (after, left, is_full): (usize, Allowance, bool),
) -> Option<Offer> {
    for turn in 1..=JOBS {
        let number = (after + turn) % JOBS;
        let bit = 1u64 << number;
        if body.ready.load(Ordering::Acquire) & bit == 0 {
            continue;
        }
        let slot = &body.jobs[number];
        if is_full && slot.is_quick() {
            continue;
        }
        let Some((cursor, fed)) = slot.unclaimed(body, bit) else {
            continue;
        };
        let Some(job) = JobId::from_word(slot.id.load(Ordering::Acquire)) else {
            continue;
        };
        let shape = slot.shape();
        let count = fair_share(session, body, slot, fed - cursor)
            .min(left.items(slot.hint.load(Ordering::Relaxed)))
            .min(shape.items() - shape.index(cursor))
            .max(1);
        txn.set(&slot.cursor, cursor + count);
        return Some(Offer {
            job,
            first: cursor,
            end: cursor + count,
        });
    }
    None
}

impl JobSlot {
    /// The items that nobody has claimed yet: from where to where. If there are none, the job is not ready any more; its bit is
    /// only a hint, but others are woken for it.
    fn unclaimed(&self, body: &BoardBody, bit: u64) -> Option<(u64, u64)> {
        let cursor = self.cursor.load(Ordering::Relaxed);
        let fed = self.fed.load(Ordering::Acquire);
        if cursor < fed {
            return Some((cursor, fed));
        }
        if body.ready.load(Ordering::Relaxed) & bit == 0 {
            return None;
        }
        // The owner sets the bit after `fed`; whoever clears it looks once more.
        body.ready.fetch_and(!bit, Ordering::SeqCst);
        crash_point!("board.claim.taken_back");
        fence(Ordering::SeqCst);
        let fed = self.fed.load(Ordering::Acquire);
        if cursor >= fed {
            return None;
        }
        body.ready.fetch_or(bit, Ordering::SeqCst);
        Some((cursor, fed))
    }
}

/// How many of `left` items one worker claims: about as many as take [`CLAIM_NS`], and never so many that others would be
/// idle at the end.
fn fair_share(
    session: &'static Session,
    body: &'static BoardBody,
    slot: &JobSlot,
    left: u64,
) -> u64 {
    let by_time = match slot.estimate.load(Ordering::Relaxed) {
        0 => slot.hint.load(Ordering::Relaxed).clamp(1, 16),
        ns => (CLAIM_NS / ns).clamp(1, CLAIM_MAX),
    };
    if by_time == 1 {
        return 1;
    }
    let workers = body
        .all_ledgers(session)
        .filter(|(_, l)| l.state.load(Ordering::Relaxed) == LIVE)
        .count() as u64;
    by_time.min(left.div_ceil(2 * workers.max(1)))
}

/// The far half of the range of somebody whose present item takes long.
fn find_slow(
    session: &'static Session,
    body: &'static BoardBody,
    txn: &mut Txn<'_>,
    left: Allowance,
) -> Result<Option<Offer>, ShmError> {
    let mut now = 0;
    for (_, ledger) in body.all_ledgers(session) {
        if ledger.state.load(Ordering::Relaxed) != LIVE || !ledger.has_rest() {
            continue;
        }
        if now == 0 {
            now = now_ns();
        }
        if now.saturating_sub(ledger.since_ns.load(Ordering::Relaxed)) < SLOW_NS {
            continue;
        }
        let Some(job) = JobId::from_word(ledger.job.load(Ordering::Relaxed)) else {
            continue;
        };
        let (next, end) = ledger.rest();
        let most = left.items(body.hint(job));
        let first = (next + end.saturating_sub(next) / 2).max(end.saturating_sub(most));
        if first >= end {
            continue;
        }
        ledger.cut(txn, first);
        // It will not say so itself before long.
        if let Some(slot) = body.job(job)
            && slot.flag(AS_FINISHED)
        {
            announce_finished(session, slot, ledger)?;
        }
        return Ok(Some(Offer { job, first, end }));
    }
    Ok(None)
}

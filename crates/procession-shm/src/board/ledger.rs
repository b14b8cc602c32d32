//! What one worker has in hand: the range that it has claimed, and the steps by which it starts an item of it. Apart from
//! everything else, like `cell`.

use crate::crash_point;
use crate::guard::Txn;
use crate::primitive::{AtomicU64, Ordering, fence, fence_of_swap};
use crate::segment::Shared;

use super::cell::{Cell, HANDING, STARTED};

/// State: nobody's.
pub(super) const FREE: u64 = 0;
/// State: a worker's.
pub(super) const LIVE: u64 = 1;
/// State: its worker died or left; the owner has not seen it yet. Its range may have unstarted items.
pub(super) const GONE: u64 = 2;
/// State: as `GONE`, seen by the owner; nobody's once its range is used up.
pub(super) const ORPHAN: u64 = 3;

/// The ledger is counted in the board's `busy`.
pub(super) const BUSY: u64 = 1;
/// The ledger is counted in the board's `ranged`.
pub(super) const RANGED: u64 = 2;

/// In [`Ledger::stop`]: the worker was seen running the item after the word was written, so it begins no other.
const CERTAIN: u64 = 1 << 63;

/// The word that condemns a worker for an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict(u64);

impl Verdict {
    /// For `item` of the job in slot `job`.
    pub fn new(job: usize, item: u64) -> Self {
        Self((job as u64) << 56 | (item + 1))
    }
}

/// What one worker has in hand.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Ledger {
    /// [`FREE`], [`LIVE`], [`GONE`], [`ORPHAN`]; changed under the guard.
    pub(super) state: AtomicU64,
    /// The owner word of the worker's process.
    pub(super) owner: AtomicU64,
    /// The number that the owner of the board knows the worker by.
    pub(super) worker: AtomicU64,
    /// Its pid.
    pub(super) pid: AtomicU64,
    /// 1 once it has asked for its first task.
    pub(super) is_up: AtomicU64,
    /// Of a worker that died: the item it ran, + 1. The job is `job`.
    pub(super) died: AtomicU64,
    /// Condemned: the item for which the worker is about to be killed, a [`Verdict`]. It starts nothing else.
    pub(super) stop: AtomicU64,
    pad: [AtomicU64; 1],
    /// The job it works on; zero for none. The chunk of `first` is kept while this is set.
    pub(super) job: AtomicU64,
    /// Where the claimed range began.
    pub(super) first: AtomicU64,
    /// The next item that it will start, or the one before.
    pub(super) next: AtomicU64,
    /// The range's end; others may lower it under the guard.
    pub(super) end: AtomicU64,
    /// The item it works on, + 1; the cell says whether it has been started and finished.
    pub(super) current: AtomicU64,
    /// Since when, about (monotonic nanoseconds).
    pub(super) since_ns: AtomicU64,
    /// Tasks finished.
    pub(super) tasks: AtomicU64,
    /// In which of the board's counts it is: [`BUSY`], [`RANGED`].
    pub(super) counted: AtomicU64,
}

// SAFETY: repr(C) of atomics.
unsafe impl Shared for Ledger {}

/// What came of the attempt to start an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Start {
    /// It is started.
    Started,
    /// Run or cancelled by somebody else.
    Settled,
    /// It is started, but the worker is about to be killed for an item before it: it has to be put back
    /// ([`Ledger::unstart`]).
    Condemned,
}

/// What a dead worker had in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum InHand {
    /// Nothing that is its own.
    Nothing,
    /// An item that it had started and not begun, as it was condemned for one before: to be put back
    /// ([`Ledger::unstart`]).
    Unbegun,
    /// An item that dies with it ([`Ledger::let_die`]).
    Run {
        /// Was the result's block on its way to the board?
        handing: bool,
    },
}

impl Ledger {
    /// In a section: the worker has the items `first..end` of `job`, and none in hand.
    pub fn fill(&'static self, txn: &mut Txn<'_>, job: u64, first: u64, end: u64) {
        txn.set(&self.job, job);
        txn.set(&self.first, first);
        txn.set(&self.next, first);
        txn.set(&self.end, end);
        txn.set(&self.current, 0);
    }

    /// In a section: the items from `end` on are somebody else's. The worker may start one of them at this very moment; the
    /// cell decides.
    pub fn cut(&'static self, txn: &mut Txn<'_>, end: u64) {
        txn.set(&self.end, end);
    }

    /// Are there items that the worker has not come to?
    pub fn has_rest(&self) -> bool {
        let (next, end) = self.rest();
        self.job.load(Ordering::Relaxed) != 0 && next < end
    }

    /// The items that the worker has not come to; the first may be the one in hand.
    pub fn rest(&self) -> (u64, u64) {
        (
            self.next.load(Ordering::Relaxed),
            self.end.load(Ordering::Relaxed),
        )
    }

    /// The worker's end of its range.
    #[inline]
    pub fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// The item in hand, or the last one.
    pub fn current(&self) -> Option<u64> {
        self.current.load(Ordering::Acquire).checked_sub(1)
    }

    /// Its worker starts `item`. It names the item first, so that whoever buries the worker knows where to look.
    #[inline]
    pub fn start(&self, number: u32, cell: &Cell, item: u64) -> Start {
        self.current.store(item + 1, Ordering::Release);
        crash_point!("board.start.named");
        if !cell.start(number) {
            return Start::Settled;
        }
        crash_point!("board.start.started");
        // The outcome of the item before is seen by now: who condemns us looks for it after it has written `stop`.
        fence_of_swap();
        if self.stop.load(Ordering::SeqCst) != 0 {
            return Start::Condemned;
        }
        Start::Started
    }

    /// Its worker goes on behind `item`.
    #[inline]
    pub fn step(&self, item: u64) {
        self.next.store(item + 1, Ordering::Release);
    }

    /// Forbids the worker to start anything else, because it is going to be killed for the item of `verdict`; unless
    /// `is_running` then says that it does not run it (any more).
    pub fn condemn(&self, verdict: Verdict, is_running: impl Fn() -> bool) -> bool {
        let certain = verdict.0 | CERTAIN;
        match self.stop.load(Ordering::SeqCst) {
            0 => {}
            // It is condemned already, and puts back whatever it starts behind that.
            before => return before == certain,
        }
        self.stop.store(verdict.0, Ordering::SeqCst);
        crash_point!("board.condemn.told");
        fence(Ordering::SeqCst);
        // If it still runs the item now, it will see the word before it starts another one: it looks behind the
        // compare-and-swap by which it starts.
        if is_running() {
            self.stop.store(certain, Ordering::SeqCst);
            crash_point!("board.condemn.certain");
            return true;
        }
        self.stop.store(0, Ordering::SeqCst);
        false
    }

    /// In a section: has an item wait again that the worker has started and not run; false if its job was stopped meanwhile
    /// (`closing`), so that it is cancelled. Somebody who took it out of the range may have come to it, found it started and
    /// gone on: so the range has it again.
    pub fn unstart(
        &'static self,
        txn: &mut Txn<'_>,
        cell: &Cell,
        item: u64,
        closing: &AtomicU64,
    ) -> bool {
        // Whoever stops the job says so before he enters this section, and cancels afterwards what waits.
        let goes_on = closing.load(Ordering::SeqCst) == 0;
        if goes_on && self.end.load(Ordering::Relaxed) <= item {
            txn.set(&self.end, item + 1);
        }
        // Not to be undone with the rest: from the store on, others may start the item.
        txn.checkpoint();
        crash_point!("board.start.reverting");
        cell.unstart(goes_on);
        crash_point!("board.start.reverted");
        goes_on
    }

    /// In a section: what the dead worker had in hand. `cell` is that of [`Ledger::current`], as is `verdict`.
    pub fn in_hand(&self, number: u32, cell: &Cell, verdict: Verdict) -> InHand {
        let stop = self.stop.load(Ordering::SeqCst);
        let is_condemned_before = stop & CERTAIN != 0 && stop != verdict.0 | CERTAIN;
        match cell.run_by(number) {
            None => InHand::Nothing,
            Some(STARTED) if is_condemned_before => InHand::Unbegun,
            Some(state) => InHand::Run {
                handing: state == HANDING,
            },
        }
    }

    /// In a section: the item that the dead worker ran dies with it.
    pub fn let_die(&'static self, txn: &mut Txn<'_>, cell: &'static Cell, item: u64) {
        cell.die(txn);
        txn.set(&self.died, item + 1);
        let (next, end) = self.rest();
        txn.set(&self.next, next.max((item + 1).min(end)));
    }
}

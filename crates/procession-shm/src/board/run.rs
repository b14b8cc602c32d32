//! The worker's side: from one item to the next.
//!
//! The hot path takes no lock, makes no system call and allocates nothing: two stores and a compare-and-swap to start an
//! item, the words of the result and one store to finish it. Counts and bits are handed on in batches while items are
//! quick, and at once while they are slow or somebody waits for them.

use procession_sys::clock::now_ns;

use crate::crash_point;
use crate::error::{Corrupt, ShmError};
use crate::primitive::Ordering;
use crate::processes::Slot;
use crate::ring::Message;

use super::Board;
use super::allowance::{Allowance, cost};
use super::cell::{Cell, DONE};
use super::claim::Range;
use super::layout::{JobId, KEEP_ARGUMENTS, TIMED, cell_at};
use super::ledger::{Ledger, Start};
use super::payload::{self, Payload, Take};
use super::slab::Slab;

/// In an arguments' head: the worker is about to take the block.
pub(super) const TAKING: u64 = 1 << 8;
/// In an arguments' head: the block was taken.
pub(super) const TAKEN: u64 = 1 << 9;

/// In ranges up to this long the start of each item is noted, and each finished item is announced at once.
pub(super) const SHORT_RANGE: u64 = 16;

/// A worker's place at a board. Dropped, it is given up; an item that was started and not finished has then died.
pub struct Seat {
    pub(super) board: Board,
    number: u32,
    pub(super) ledger: &'static Ledger,
    /// Where tools look for what this process does.
    pub(super) shown: Option<&'static Slot>,
    pub(super) range: Option<Range>,
    position: u64,
    /// When the range was begun, and how many of its items were started.
    begun_ns: u64,
    started: u64,
    /// The item in hand.
    pub(super) running: Option<(&'static Cell, u64)>,
    /// Are there notes of it?
    pub(super) noted: bool,
    /// Finished items that are not counted yet.
    pub(super) uncounted: u64,
    /// Finished items whose bits are not set yet: which word of the chunk's bits, and the bits.
    pub(super) unset: (usize, u64),
    pub(super) slab: Slab,
    pub(super) tasks: u64,
    /// Of what it may run, in the measure of [`Allowance`]; and what an item of its range uses up of it.
    pub(super) used: u64,
    pub(super) cost: u64,
    /// Of the range's items that were many calls: how many more.
    pub(super) more_calls: u64,
    /// Until when it has said that it keeps the watch; zero if it does not.
    pub(super) watch: u64,
    last_job: usize,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seat")
            .field("number", &self.number)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

/// An item to be run.
#[derive(Debug)]
pub struct Task {
    /// The job it belongs to.
    pub job: JobId,
    /// Its number.
    pub item: u64,
    /// Its arguments. Bytes in shared memory stay valid until the item is finished.
    pub arguments: Payload,
}

impl Task {
    /// The arguments' bytes, valid until the item is finished.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.arguments.bytes()
    }

    /// Takes the block that came with the arguments, which the caller has to free.
    pub fn take_block(&mut self) -> Option<u64> {
        self.arguments.take_block()
    }
}

/// What a worker finds when it asks for work.
#[derive(Debug)]
pub enum Next {
    /// An item; it counts as started.
    Task(Task),
    /// Nothing now.
    Idle,
    /// The worker is about to be killed for an item it has just finished; it must not start another.
    Condemned,
    /// It has run as many tasks as it may.
    Enough,
}

impl Board {
    /// Takes a seat for a worker that the owner knows by the number `worker`. `None` if all are taken.
    pub fn sit_down(&self, worker: u64) -> Result<Option<Seat>, ShmError> {
        let Some(number) = self.take_ledger(worker)? else {
            return Ok(None);
        };
        let session = self.session();
        Ok(Some(Seat {
            board: self.clone(),
            number,
            ledger: self.body.ledger(session, number)?,
            shown: session.slot_of(session.me()?),
            range: None,
            position: 0,
            begun_ns: 0,
            started: 0,
            running: None,
            noted: false,
            uncounted: 0,
            unset: (0, 0),
            slab: Slab::default(),
            tasks: 0,
            used: 0,
            cost: 0,
            more_calls: 0,
            watch: 0,
            last_job: number as usize % super::JOBS,
        }))
    }
}

impl Seat {
    /// The board.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// The number of the place.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Tasks finished.
    pub fn tasks(&self) -> u64 {
        self.tasks
    }

    /// The item in hand.
    pub fn running(&self) -> Option<u64> {
        self.running.map(|(_, item)| item)
    }

    /// Start-up has succeeded.
    #[inline]
    pub fn up(&self) {
        if self.ledger.is_up.load(Ordering::Relaxed) == 0 {
            self.ledger.is_up.store(1, Ordering::SeqCst);
            self.board.body.raise();
        }
    }

    /// The next item to run, if there is one. The one before is finished.
    #[inline]
    pub fn try_next(&mut self) -> Result<Next, ShmError> {
        loop {
            if let Some(range) = self.range {
                while self.position < self.ledger.end() && !self.board.has_ended() {
                    if let Some(next) = self.start(&range)? {
                        return Ok(next);
                    }
                }
            }
            if !self.claim()? {
                return Ok(if self.allowance().is_used_up() {
                    Next::Enough
                } else {
                    Next::Idle
                });
            }
        }
    }

    /// Starts the item at the position, unless somebody else has.
    #[inline]
    fn start(&mut self, range: &Range) -> Result<Option<Next>, ShmError> {
        let (session, item) = (self.board.session(), self.position);
        let index = range.shape.index(item);
        let cell = cell_at(session, range.chunk, index)?;
        if self.started > 0 && (range.end - range.first <= SHORT_RANGE || range.slot.flag(TIMED)) {
            self.ledger.since_ns.store(now_ns(), Ordering::Relaxed);
        }
        match self.ledger.start(self.number, cell, item) {
            Start::Started => {}
            Start::Settled => {
                self.step(item);
                return Ok(None);
            }
            Start::Condemned => {
                self.put_back(range, cell, item)?;
                return Ok(Some(Next::Condemned));
            }
        }
        let arguments = match self.arguments(range, cell) {
            Ok(arguments) => arguments,
            Err(error) => {
                self.put_back(range, cell, item)?;
                return Err(error);
            }
        };
        self.step(item);
        self.started += 1;
        self.running = Some((cell, item));
        if let Some(slot) = self.shown {
            let since = self.ledger.since_ns.load(Ordering::Relaxed);
            slot.task_item.store(item, Ordering::Relaxed);
            slot.task_since_ns.store(since, Ordering::Relaxed);
            slot.task_job
                .store(range.job.slot() as u32, Ordering::Relaxed);
            slot.task_board
                .store(self.board.index() + 1, Ordering::Relaxed);
        }
        Ok(Some(Next::Task(Task {
            job: range.job,
            item,
            arguments,
        })))
    }

    #[inline]
    pub(super) fn step(&mut self, item: u64) {
        self.position = item + 1;
        self.ledger.step(item);
    }

    #[inline]
    fn arguments(&self, range: &Range, cell: &'static Cell) -> Result<Payload, ShmError> {
        let head = cell.arguments[0].load(Ordering::Acquire);
        let words = [1, 2, 3].map(|i| cell.arguments[i].load(Ordering::Relaxed));
        let (kind, len) = (head & 0xff, head >> 32);
        let mut take = Take::Owned;
        if payload::has_block(kind) {
            if range.slot.flag(KEEP_ARGUMENTS) {
                take = Take::Copy;
            } else {
                // Three steps, so that after a death it is known whether the block may be somebody else's by now.
                cell.arguments[0].store(head | TAKING, Ordering::Release);
                crash_point!("board.arguments.taking");
                payload::own(self.board.session(), self.board.index(), words[0])?;
                crash_point!("board.arguments.owned");
                cell.arguments[0].store(head | TAKEN, Ordering::Release);
                crash_point!("board.arguments.taken");
            }
        }
        Payload::read(self.board.session(), kind, len, words, take)
    }

    /// The function of the job of the item in hand: a copy for this process.
    pub fn function(&self) -> Result<Payload, ShmError> {
        let Some(range) = self.range.filter(|_| self.running.is_some()) else {
            return Err(ShmError::Gone);
        };
        let head = range.slot.function[0].load(Ordering::Acquire);
        let words = [1, 2, 3].map(|i| range.slot.function[i].load(Ordering::Relaxed));
        let (kind, len) = (head & 0xff, head >> 32);
        let session = self.board.session();
        Ok(Payload::read(session, kind, len, words, Take::Copy)?.detach())
    }

    /// Commits the result of the item in hand. On an error it is still in hand.
    #[inline]
    pub fn finish(&mut self, status: u8, result: Message<'_>) -> Result<(), ShmError> {
        let (Some((cell, item)), Some(range)) = (self.running, self.range) else {
            return Err(Corrupt("no task is in hand").into());
        };
        let board = &self.board;
        let slab = &mut self.slab;
        let written = if self.noted {
            // The notes must not be lost before the result is committed: they stand in the other words.
            payload::write_block(board.session(), result)?
        } else {
            payload::write(board.session(), result, |len| slab.room(board, &range, len))?
        };
        let head = DONE | written.kind << 8 | u64::from(status) << 16 | written.len << 32;
        crash_point!("board.finish.written");
        if let Some(block) = written.block() {
            self.finish_with_block(cell, block)?;
        }
        if self.noted {
            cell.finish_in_place(head);
        } else {
            cell.finish(head, written.words);
        }
        self.committed(&range, item)
    }

    /// The item in hand has its result.
    #[inline]
    pub(super) fn committed(&mut self, range: &Range, item: u64) -> Result<(), ShmError> {
        crash_point!("board.finish.committed");
        self.running = None;
        self.noted = false;
        self.tasks += 1;
        self.used = self.used.saturating_add(self.cost);
        self.ledger.tasks.store(self.tasks, Ordering::Relaxed);
        if let Some(slot) = self.shown {
            // For tools: not worth a locked instruction.
            let before = slot.tasks_done.load(Ordering::Relaxed);
            slot.tasks_done.store(before + 1, Ordering::Relaxed);
        }
        self.announce(range, item)
    }

    /// The block goes to the board before the result is committed; the cell says so meanwhile, and where it is.
    #[cold]
    fn finish_with_block(&self, cell: &'static Cell, block: u64) -> Result<(), ShmError> {
        cell.result[1].store(block, Ordering::Release);
        crash_point!("board.finish.named");
        cell.hand(self.number);
        crash_point!("board.finish.handing");
        payload::hand_over(self.board.session(), self.board.index(), block)?;
        crash_point!("board.finish.handed");
        Ok(())
    }

    /// What the worker may still run.
    fn allowance(&self) -> Allowance {
        let max = self.board.body.max_tasks.load(Ordering::Relaxed);
        Allowance::new(max, self.used)
    }

    /// Ends the present range and claims another one; false if there is none.
    fn claim(&mut self) -> Result<bool, ShmError> {
        let mut now = 0;
        if let Some(range) = self.range {
            self.flush(&range)?;
            if self.started > 0 {
                now = now_ns();
                let each = now.saturating_sub(self.begun_ns) / self.started.max(1);
                let old = range.slot.estimate.load(Ordering::Relaxed);
                let new = if old == 0 { each } else { (3 * old + each) / 4 };
                range.slot.estimate.store(new.max(1), Ordering::Relaxed);
                let calls = self.started + self.more_calls;
                let each = now.saturating_sub(self.begun_ns) / calls.max(1);
                range.slot.call_ns.store(each.max(1), Ordering::Relaxed);
                range.slot.note_call(each);
            }
        }
        // Nothing new for one who leaves: what it has goes to others then.
        let left = self.allowance();
        if left.is_used_up() || self.board.has_ended() {
            return Ok(false);
        }
        self.range = (self.board).claim(self.ledger, self.last_job, left, self.is_spare())?;
        let Some(range) = self.range else {
            if let Some(slot) = self.shown {
                slot.task_board.store(0, Ordering::Relaxed);
            }
            return Ok(false);
        };
        self.last_job = range.job.slot();
        self.cost = cost(range.slot.hint.load(Ordering::Relaxed));
        self.begun_ns = if now == 0 { now_ns() } else { now };
        // First of all: until then others may take it for slow.
        self.ledger.since_ns.store(self.begun_ns, Ordering::Relaxed);
        self.hand_on_watch();
        self.position = range.first;
        self.started = 0;
        self.more_calls = 0;
        self.unset = (0, 0);
        Ok(true)
    }

    /// May somebody else have items that this worker could take over before long?
    pub fn others_have_rest(&self) -> bool {
        self.board.others_have_rest(self.number)
    }

    /// Is the worker about to be killed?
    pub fn is_condemned(&self) -> bool {
        self.ledger.stop.load(Ordering::Acquire) != 0
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // A child of a fork has a copy of its parent's seat.
        let owner = self.ledger.owner.load(Ordering::Relaxed);
        let me = self.board.session().current();
        if me.is_none_or(|me| u64::from(me.word()) != owner) {
            return;
        }
        if let Some(slot) = self.shown {
            slot.task_board.store(0, Ordering::Relaxed);
        }
        self.end_watch();
        // Errors mean a corrupt session; the owner of the board will find the ledger when the process has ended.
        if let Some(range) = self.range {
            let _ = self.flush(&range);
        }
        let _ = if self.running.is_some() {
            self.board.bury(self.number)
        } else {
            self.board.leave_ledger(self.ledger)
        };
    }
}

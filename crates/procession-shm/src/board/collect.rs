//! The owner's side: taking outcomes out, and deciding about items.

use crate::crash_point;
use crate::error::{Corrupt, ShmError};
use crate::gate::Wake;
use crate::primitive::Ordering;
use crate::wait::notify;

use super::cell::{CANCELLED, Cell, DIED, DONE, is_final, state};
use super::layout::{AS_FINISHED, Chunk, REQUEUE, cell_at};
use super::notes::{self, Noted};
use super::owner::OwnedJob;
use super::payload::{self, Payload, Take};
use super::run::TAKEN;

/// What became of an item.
#[derive(Debug)]
pub enum Taken {
    /// Its worker finished it.
    Done {
        /// What the worker said of it.
        status: u8,
        /// The result.
        payload: Payload,
    },
    /// The owner has given it up (see [`OwnedJob::fail`]).
    Failed {
        /// What its worker had noted of it.
        noted: Option<Noted>,
    },
    /// It was cancelled before anybody started it.
    Cancelled,
}

/// What cancelling found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelCell {
    /// It waited, and is cancelled.
    Cancelled,
    /// A worker runs it.
    Running,
    /// Its worker died; the owner has not decided yet.
    Died,
    /// It has an outcome already, or there is no such item.
    TooLate,
}

impl OwnedJob {
    /// The outcome of the next item in order, if it has one.
    #[inline]
    pub fn collect_next(&mut self) -> Result<Option<(u64, Taken)>, ShmError> {
        let item = self.next;
        if item >= self.fed || !self.is_item_finished(item)? {
            return Ok(None);
        }
        self.next = item + 1;
        self.take(item).map(|taken| Some((item, taken)))
    }

    /// The outcome of any item that has one and was not collected.
    pub fn collect_any(&mut self) -> Result<Option<(u64, Taken)>, ShmError> {
        loop {
            while let Some(item) = self.found.pop_front() {
                if self.is_item_finished(item)? {
                    return self.take(item).map(|taken| Some((item, taken)));
                }
            }
            if !self.look()? {
                return Ok(None);
            }
        }
    }

    /// Would [`OwnedJob::collect_any`] find something?
    pub fn has_any(&mut self) -> Result<bool, ShmError> {
        loop {
            while let Some(item) = self.found.front() {
                if self.is_item_finished(*item)? {
                    return Ok(true);
                }
                self.found.pop_front();
            }
            if !self.look()? {
                return Ok(false);
            }
        }
    }

    /// Would [`OwnedJob::collect_next`] find something?
    pub fn has_next(&self) -> Result<bool, ShmError> {
        Ok(self.next < self.fed && self.is_item_finished(self.next)?)
    }

    /// The next item in order.
    pub fn next_item(&self) -> u64 {
        self.next
    }

    /// Has the item an outcome that was not collected?
    #[inline]
    fn is_item_finished(&self, item: u64) -> Result<bool, ShmError> {
        Ok(self.uncollected(item)?.is_some_and(Cell::is_finished))
    }

    /// The cell of an item that was fed and not collected.
    #[inline]
    fn uncollected(&self, item: u64) -> Result<Option<&'static Cell>, ShmError> {
        let (number, index) = (self.shape.chunk(item), self.shape.index(item));
        if item >= self.fed || number < self.first {
            return Ok(None);
        }
        let Some(Some(chunk)) = self.chunks.get((number - self.first) as usize) else {
            return Ok(None);
        };
        if chunk.collected[(index / 64) as usize] >> (index % 64) & 1 != 0 {
            return Ok(None);
        }
        Ok(Some(cell_at(self.board.session(), chunk.at, index)?))
    }

    /// Looks for bits that workers have set; false if there are none.
    fn look(&mut self) -> Result<bool, ShmError> {
        let session = self.board.session();
        let mut any = false;
        for (i, word) in self.slot.summary(session)?.iter().enumerate() {
            if word.load(Ordering::SeqCst) == 0 {
                continue;
            }
            let mut places = word.swap(0, Ordering::SeqCst);
            while places != 0 {
                let place = i * 64 + places.trailing_zeros() as usize;
                places &= places - 1;
                let Some(number) = self.at_place.get(place) else {
                    continue;
                };
                let chunk = number
                    .checked_sub(self.first)
                    .and_then(|n| self.chunks.get(n as usize));
                if let Some(Some(chunk)) = chunk {
                    let begin = self.shape.begin(*number);
                    let shared: &'static Chunk = session.segment().at(chunk.at)?;
                    for (w, bits) in shared.bits.iter().enumerate() {
                        let mut bits = match bits.load(Ordering::SeqCst) {
                            0 => 0,
                            _ => bits.swap(0, Ordering::SeqCst),
                        };
                        while bits != 0 {
                            let index = w as u64 * 64 + u64::from(bits.trailing_zeros());
                            bits &= bits - 1;
                            self.found.push_back(begin + index);
                            any = true;
                        }
                    }
                }
            }
        }
        Ok(any)
    }

    /// Takes the outcome of a finished item out of its cell.
    fn take(&mut self, item: u64) -> Result<Taken, ShmError> {
        let cell = self
            .uncollected(item)?
            .ok_or(Corrupt("an item was collected before"))?;
        let taken = self.contents(cell);
        let (number, index) = (self.shape.chunk(item), self.shape.index(item));
        let place = (number - self.first) as usize;
        if let Some(chunk) = &mut self.chunks[place] {
            chunk.collected[(index / 64) as usize] |= 1 << (index % 64);
            chunk.left -= 1;
            if chunk.left == 0 {
                self.spent.extend(self.chunks[place].take());
            }
        }
        while matches!(self.chunks.front(), Some(None)) {
            self.chunks.pop_front();
            self.first += 1;
        }
        self.collected += 1;
        taken
    }

    #[inline]
    fn contents(&self, cell: &'static Cell) -> Result<Taken, ShmError> {
        let (session, board) = (self.board.session(), self.board.index());
        let arguments = cell.arguments[0].load(Ordering::Acquire);
        if payload::has_block(arguments & 0xff) && arguments & TAKEN == 0 {
            let block = cell.arguments[1].load(Ordering::Relaxed);
            payload::own(session, board, block)?;
            session.free_block(block)?;
        }
        let head = cell.head();
        match state(head) {
            DONE => {
                let words = cell.words();
                let kind = head >> 8 & 0xff;
                if payload::has_block(kind) {
                    payload::own(session, board, words[0])?;
                    crash_point!("board.collect.owned");
                }
                Ok(Taken::Done {
                    status: (head >> 16) as u8,
                    payload: Payload::read(session, kind, head >> 32, words, Take::Final)?,
                })
            }
            CANCELLED => Ok(Taken::Cancelled),
            _ => Ok(Taken::Failed {
                noted: notes::noted(session, cell)?,
            }),
        }
    }

    /// Frees what a cell refers to, whatever state it is in. Nobody works on the job any more.
    pub(super) fn drop_contents(&self, cell: &'static Cell) -> Result<(), ShmError> {
        drop(self.contents(cell)?);
        Ok(())
    }

    /// Cancels an item that nobody has started.
    pub fn cancel(&mut self, item: u64) -> Result<CancelCell, ShmError> {
        let Some(cell) = self.uncollected(item)? else {
            return Ok(CancelCell::TooLate);
        };
        match cell.cancel() {
            Ok(()) => {
                crash_point!("board.cancel.decided");
                self.settled(item);
                Ok(CancelCell::Cancelled)
            }
            Err(head) if is_final(head) => Ok(CancelCell::TooLate),
            Err(head) if state(head) == DIED => Ok(CancelCell::Died),
            Err(_) => Ok(CancelCell::Running),
        }
    }

    /// Gives an item up whose worker died. False if it is in no such state.
    pub fn fail(&mut self, item: u64) -> Result<bool, ShmError> {
        let Some(cell) = self.uncollected(item)? else {
            return Ok(false);
        };
        let failed = cell.fail();
        if failed {
            crash_point!("board.fail.decided");
            self.settled(item);
        }
        Ok(failed)
    }

    /// Has an item run again whose worker died. False if the list of such items is full, or somebody else
    /// has the board and is stopped: try again later.
    pub fn retry(&mut self, item: u64) -> Result<bool, ShmError> {
        let body = self.board.body;
        let Some(cell) = self.uncollected(item)? else {
            return Ok(true);
        };
        let Some(mut txn) = self.board.lock_soon()? else {
            return Ok(false);
        };
        let count = body.requeued.load(Ordering::Relaxed);
        if count >= REQUEUE as u64 {
            return Ok(false);
        }
        if cell.state() != DIED {
            return Ok(true);
        }
        let entry = (self.id.slot() as u64) << 56 | item;
        txn.set(&body.requeue[count as usize], entry);
        txn.set(&body.requeued, count + 1);
        cell.feed_again(&mut txn);
        crash_point!("board.retry.filled");
        txn.commit();
        crash_point!("board.retry.committed");
        notify(&body.work, Wake::One);
        Ok(true)
    }

    /// An item got its outcome from the owner.
    pub(super) fn settled(&mut self, item: u64) {
        self.slot.done.fetch_add(1, Ordering::SeqCst);
        if self.slot.flag(AS_FINISHED) {
            self.found.push_back(item);
        }
        notify(&self.board.body.finished, Wake::All);
    }
}

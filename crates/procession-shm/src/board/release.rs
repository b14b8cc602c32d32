//! The owner's side: stopping a job, and giving back the memory of what is done.
//!
//! A worker may still look at a chunk whose items are all collected: its ledger names the chunk until it claims the next
//! range. So memory is given back only when no ledger names it.

use crate::crash_point;
use crate::error::ShmError;
use crate::guard::Txn;
use crate::primitive::{AtomicU64, Ordering};

use super::layout::{Chunk, REQUEUE, cell_at};
use super::ledger::{FREE, LIVE, Ledger, ORPHAN};
use super::owner::{OwnedChunk, OwnedJob};
use super::{Board, add, payload};

impl OwnedJob {
    /// Frees the chunks that nobody looks at any more.
    pub(super) fn free_spent(&mut self) -> Result<(), ShmError> {
        if self.spent.is_empty() {
            return Ok(());
        }
        let session = self.board.session();
        let unlisted = {
            // Under the guard, so that no range is on its way from one ledger to another, and nobody claims an item of such a
            // chunk that is still in the list of those to be run again.
            let Some(_section) = self.board.lock_soon()? else {
                return Ok(());
            };
            let in_use: Vec<u64> = self
                .ledgers_here()
                .map(|l| self.shape.chunk(l.first.load(Ordering::Relaxed)))
                .collect();
            let (keep, free): (Vec<_>, Vec<_>) = self
                .spent
                .drain(..)
                .partition(|chunk| in_use.contains(&chunk.number));
            self.spent = keep;
            for chunk in &free {
                self.slot
                    .entry(session, chunk.place)?
                    .store(0, Ordering::Release);
                crash_point!("board.chunk.unlisted");
            }
            free
        };
        for chunk in unlisted {
            chunk.free(&self.board)?;
        }
        Ok(())
    }

    /// The ledgers that name this job.
    pub(super) fn ledgers_here(&self) -> impl Iterator<Item = &'static Ledger> + '_ {
        self.board
            .body
            .all_ledgers(self.board.session())
            .map(|(_, ledger)| ledger)
            .filter(|l| l.job.load(Ordering::Acquire) == self.id.word())
    }

    /// Nothing of the job is started any more: its queued items are cancelled. False if that has to be tried again, as
    /// somebody else has the board and is stopped.
    pub fn stop(&mut self) -> Result<bool, ShmError> {
        if self.stopped {
            return Ok(true);
        }
        self.seal();
        self.slot.closing.store(1, Ordering::SeqCst);
        let session = self.board.session();
        let Some(mut txn) = self.board.lock_soon()? else {
            return Ok(false);
        };
        self.stopped = true;
        txn.set(&self.slot.cursor, self.fed);
        txn.checkpoint();
        for (_, ledger) in self.board.body.all_ledgers(session) {
            if ledger.job.load(Ordering::Relaxed) != self.id.word() {
                continue;
            }
            let state = ledger.state.load(Ordering::Relaxed);
            if state != LIVE && ledger.has_rest() {
                add(&mut txn, &self.board.body.orphans, -1);
            }
            ledger.cut(&mut txn, ledger.rest().0);
            if state == ORPHAN {
                txn.set(&ledger.job, 0);
                txn.set(&ledger.state, FREE);
            }
            txn.checkpoint();
        }
        crash_point!("board.stop.emptied");
        txn.commit();
        let mut cancelled = Vec::new();
        for chunk in self.chunks.iter().flatten() {
            for index in 0..self.items_of(chunk) {
                if cell_at(session, chunk.at, index)?.cancel().is_ok() {
                    cancelled.push(self.shape.begin(chunk.number) + index);
                }
            }
        }
        for item in cancelled {
            self.settled(item);
        }
        Ok(true)
    }

    /// Stops the job, and gives everything back if nobody works on it any more; what is not collected is lost. Otherwise
    /// false: call again later.
    pub fn try_free(&mut self) -> Result<bool, ShmError> {
        let session = self.board.session();
        if !self.stop()? {
            return Ok(false);
        }
        let function = [0, 1, 2].map(|i| self.slot.function[i].load(Ordering::Relaxed));
        let directory = self.slot.directory.load(Ordering::Relaxed);
        {
            let Some(mut txn) = self.board.lock_soon()? else {
                return Ok(false);
            };
            if self.ledgers_here().next().is_some() {
                return Ok(false);
            }
            self.unlist(&mut txn);
            txn.commit();
        }
        crash_point!("board.close.unlisted");
        let chunks = std::mem::take(&mut self.chunks);
        for chunk in chunks.into_iter().flatten() {
            for index in 0..self.items_of(&chunk) {
                if chunk.collected[(index / 64) as usize] >> (index % 64) & 1 == 0 {
                    self.drop_contents(cell_at(session, chunk.at, index)?)?;
                }
            }
            chunk.free(&self.board)?;
        }
        for chunk in std::mem::take(&mut self.spent) {
            chunk.free(&self.board)?;
        }
        match function[0] & 0xff {
            payload::SLAB => session.free_block(function[1])?,
            payload::SLAB_AND_BLOCK => {
                session.free_block(function[2])?;
                session.free_block(function[1])?;
            }
            kind if payload::has_block(kind) => session.free_block(function[1])?,
            _ => {}
        }
        session.free_block(directory)?;
        Ok(true)
    }

    /// In a section: nobody finds the job any more, nor one of its items in the list of those to be run again. Nor must anything
    /// be left that would be taken for the next job's that gets the slot: jobs are opened and fed without the guard, at any
    /// moment of somebody else's claim.
    fn unlist(&self, txn: &mut Txn<'_>) {
        let body = self.board.body;
        let mut at = 0;
        while at < body.requeued.load(Ordering::Relaxed).min(REQUEUE as u64) {
            let entry = &body.requeue[at as usize];
            if entry.load(Ordering::Relaxed) >> 56 == self.id.slot() as u64 {
                let last = body.requeued.load(Ordering::Relaxed) - 1;
                txn.set(entry, body.requeue[last as usize].load(Ordering::Relaxed));
                txn.set(&body.requeued, last);
                txn.checkpoint();
            } else {
                at += 1;
            }
        }
        for word in [&self.slot.id, &self.slot.cursor, &self.slot.fed] {
            txn.set(word, 0);
        }
        let ready = &body.ready;
        ready.fetch_and(!(1 << self.id.slot()), Ordering::SeqCst);
    }
}

impl OwnedChunk {
    /// Gives the chunk's memory back.
    pub(super) fn free(self, board: &Board) -> Result<(), ShmError> {
        let session = board.session();
        let chunk: &'static Chunk = session.segment().at(self.at)?;
        let mut slab = chunk.slabs.swap(0, Ordering::AcqRel);
        while slab != 0 {
            let next: &'static AtomicU64 = session.segment().at(slab)?;
            let next = next.load(Ordering::Relaxed);
            session.free_block(slab)?;
            slab = next;
        }
        for slab in self.slabs {
            session.free_block(slab)?;
        }
        session.free_block(self.at)
    }
}

//! The owner's side: how far a job is, from the cells themselves where it matters.

use std::collections::HashSet;

use crate::error::ShmError;
use crate::primitive::{AtomicU64, Ordering};

use super::cell::is_final;
use super::layout::{JobSlot, Summary, cell_at};
use super::owner::OwnedJob;

impl OwnedJob {
    /// Has every item that was fed an outcome? (Advances a mark over those at the front.)
    pub fn finished_prefix(&mut self) -> Result<u64, ShmError> {
        let session = self.board.session();
        self.prefix = self.prefix.max(self.shape.begin(self.first));
        while self.prefix < self.fed {
            let number = self.shape.chunk(self.prefix);
            let Some(chunk) = &self.chunks[(number - self.first) as usize] else {
                self.prefix = self.shape.begin(number + 1);
                continue;
            };
            let cell = cell_at(session, chunk.at, self.shape.index(self.prefix))?;
            if !cell.is_finished() {
                break;
            }
            self.prefix += 1;
        }
        Ok(self.prefix)
    }

    /// Items that have an outcome, counted from the cells; corrects the workers' count.
    pub fn recount(&mut self) -> Result<u64, ShmError> {
        let session = self.board.session();
        let before = self.slot.done.load(Ordering::Acquire);
        let mut finished = self.shape.begin(self.first);
        for chunk in &self.chunks {
            let Some(chunk) = chunk else {
                finished += self.shape.items();
                continue;
            };
            for index in 0..self.items_of(chunk) {
                let cell = cell_at(session, chunk.at, index)?;
                finished += u64::from(cell.is_finished());
            }
        }
        if finished > before {
            self.slot
                .done
                .fetch_add(finished - before, Ordering::SeqCst);
        }
        Ok(finished)
    }

    /// Sets when the owner wants to be woken: once so many items are done.
    pub fn wake_at(&self, done: u64) {
        self.slot.wake_at.store(done, Ordering::SeqCst);
    }

    /// Items done, as the workers count.
    pub fn done(&self) -> u64 {
        self.slot.done.load(Ordering::SeqCst)
    }

    /// For those who wait for the job without keeping others from it.
    pub fn watch(&self) -> JobWatch {
        let session = self.board.session();
        let cell = self.slot.cell(session, self.next).ok().flatten();
        JobWatch {
            slot: self.slot,
            summary: self.slot.summary(session).ok(),
            next: cell.filter(|_| self.next < self.fed).map(|c| &c.result[0]),
        }
    }

    /// Looks at every cell for finished items, announced or not. (A worker that is busy with a slow item announces what it
    /// finished before only afterwards.)
    pub fn look_hard(&mut self) -> Result<(), ShmError> {
        let session = self.board.session();
        let known: HashSet<u64> = self.found.iter().copied().collect();
        for chunk in self.chunks.iter().flatten() {
            for index in 0..self.items_of(chunk) {
                let item = self.shape.begin(chunk.number) + index;
                let collected = chunk.collected[(index / 64) as usize] >> (index % 64) & 1 != 0;
                let is_finished = cell_at(session, chunk.at, index)?.is_finished();
                if is_finished && !collected && !known.contains(&item) {
                    self.found.push_back(item);
                }
            }
        }
        Ok(())
    }
}

/// What can be seen of a job without the right to change it. The answers are hints: the job may end at any time.
#[derive(Debug, Clone, Copy)]
pub struct JobWatch {
    slot: &'static JobSlot,
    summary: Option<&'static Summary>,
    next: Option<&'static AtomicU64>,
}

impl JobWatch {
    /// Items done.
    pub fn done(&self) -> u64 {
        self.slot.done.load(Ordering::SeqCst)
    }

    /// Has the item that was next in order an outcome?
    pub fn has_next(&self) -> bool {
        self.next
            .is_some_and(|head| is_final(head.load(Ordering::Acquire)))
    }

    /// Have workers announced finished items?
    pub fn has_any(&self) -> bool {
        self.summary
            .is_some_and(|s| s.iter().any(|w| w.load(Ordering::SeqCst) != 0))
    }
}

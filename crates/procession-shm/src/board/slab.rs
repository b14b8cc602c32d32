//! What a worker leaves behind beside its cells: longer results, counts, and the bits of what is finished.

use crate::arena::BlockOwner;
use crate::crash_point;
use crate::error::ShmError;
use crate::gate::Wake;
use crate::primitive::{AtomicU64, Ordering};
use crate::wait::notify;

use super::Board;
use super::claim::Range;
use super::layout::{AS_FINISHED, Chunk, JobSlot};
use super::owner::{FIRST_SLAB, LAST_SLAB};
use super::run::{SHORT_RANGE, Seat};

/// Room for longer results, in a block that lives as long as the chunk.
#[derive(Debug, Default)]
pub(super) struct Slab {
    /// Which chunk: job and number. Its address would not do, another chunk may stand there by now.
    of: (u64, u64),
    at: u64,
    used: u64,
    size: u64,
}

impl Slab {
    /// Room for `len` bytes that stay for as long as the chunk does.
    pub(super) fn room(&mut self, board: &Board, range: &Range, len: u64) -> Result<u64, ShmError> {
        let len = len.next_multiple_of(8);
        let of = (range.job.word(), range.shape.chunk(range.first));
        if self.of != of || self.size - self.used < len {
            let grown = if self.of == of { self.size * 2 } else { 0 };
            self.extend(board, range.chunk, grown.clamp(FIRST_SLAB, LAST_SLAB))?;
            self.of = of;
        }
        let at = self.at + self.used;
        self.used += len;
        Ok(at)
    }

    /// Of the room that was given last, what lies behind `end` is free again.
    pub(super) fn keep(&mut self, end: u64) {
        let used = end.saturating_sub(self.at).next_multiple_of(8);
        if used <= self.used {
            self.used = used;
        }
    }

    #[cold]
    fn extend(&mut self, board: &Board, at: u64, size: u64) -> Result<(), ShmError> {
        let session = board.session();
        let block = session.alloc(size, BlockOwner::process(session.me()?))?;
        let chunk: &'static Chunk = session.segment().at(at)?;
        let next: &'static AtomicU64 = session.segment().at(block)?;
        crash_point!("board.slab.allocated");
        let mut txn = board.lock()?;
        next.store(chunk.slabs.load(Ordering::Relaxed), Ordering::Relaxed);
        txn.set(
            &session.block(block)?.owner,
            BlockOwner::object(board.index()).word(),
        );
        txn.set(&chunk.slabs, block);
        crash_point!("board.slab.linked");
        txn.commit();
        *self = Self {
            of: (0, 0),
            at: block,
            used: 8,
            size,
        };
        Ok(())
    }
}

/// Notes finished items of a chunk for an owner that collects in any order.
pub(super) fn set_bits(
    board: &Board,
    job: &'static JobSlot,
    at: u64,
    word: usize,
    bits: u64,
) -> Result<(), ShmError> {
    let session = board.session();
    let chunk: &'static Chunk = session.segment().at(at)?;
    chunk.bits[word % chunk.bits.len()].fetch_or(bits, Ordering::SeqCst);
    crash_point!("board.bits.set");
    let place = chunk.place.load(Ordering::Relaxed) as usize;
    let summary = job.summary(session)?;
    let word = &summary[place / 64 % summary.len()];
    if word.load(Ordering::SeqCst) & 1 << (place % 64) == 0 {
        word.fetch_or(1 << (place % 64), Ordering::SeqCst);
    }
    Ok(())
}

impl Seat {
    #[inline]
    pub(super) fn announce(&mut self, range: &Range, item: u64) -> Result<(), ShmError> {
        self.uncounted += 1;
        if range.slot.flag(AS_FINISHED) {
            let index = range.shape.index(item);
            let (word, bit) = ((index / 64) as usize, 1 << (index % 64));
            if word != self.unset.0 {
                self.set_bits(range)?;
                self.unset.0 = word;
            }
            self.unset.1 |= bit;
        }
        let done = range.slot.done.load(Ordering::Relaxed) + self.uncounted;
        if range.end - range.first <= SHORT_RANGE
            || done >= range.slot.wake_at.load(Ordering::Relaxed)
        {
            self.flush(range)?;
        }
        Ok(())
    }

    /// Hands on what is finished, and wakes the owner if it waits for no more.
    pub(super) fn flush(&mut self, range: &Range) -> Result<(), ShmError> {
        if self.uncounted == 0 {
            return Ok(());
        }
        self.set_bits(range)?;
        let done = range.slot.done.fetch_add(self.uncounted, Ordering::SeqCst) + self.uncounted;
        crash_point!("board.flush.counted");
        self.uncounted = 0;
        if done >= range.slot.wake_at.load(Ordering::SeqCst) {
            notify(&self.board.body.finished, Wake::All);
        }
        Ok(())
    }

    fn set_bits(&mut self, range: &Range) -> Result<(), ShmError> {
        let (word, bits) = self.unset;
        if bits == 0 {
            return Ok(());
        }
        set_bits(&self.board, range.slot, range.chunk, word, bits)?;
        self.unset.1 = 0;
        Ok(())
    }
}

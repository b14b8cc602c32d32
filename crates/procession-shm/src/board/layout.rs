//! The board's words: what stands where. Cells and ledgers are in `cell` and `ledger`.

use crate::error::Corrupt;
use crate::gate::{Gate, Lookout};
use crate::guard::Guard;
use crate::primitive::{AtomicU64, Ordering};
use crate::segment::Shared;
use crate::session::Session;
use crate::wait::LastSleeper;

use super::cell::Cell;

/// Jobs that one board can have at a time.
pub const JOBS: usize = 64;
/// Items in a chunk, but for the only chunk of a small job.
pub const CHUNK: u64 = 1024;
/// Chunks that a job of unknown length may have outstanding.
pub const WINDOW_CHUNKS: u64 = 1024;
/// Items given back to be run again that may wait on the board; more wait with the owner.
pub(super) const REQUEUE: usize = 64;

/// A job: the number of its slot in the low byte, above it how many jobs the board had before. Never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(u64);

impl JobId {
    /// From a word.
    pub fn from_word(word: u64) -> Option<Self> {
        (word != 0 && word & 0xff < JOBS as u64).then_some(Self(word))
    }

    /// As a word.
    pub fn word(self) -> u64 {
        self.0
    }

    /// The number of its slot.
    pub fn slot(self) -> usize {
        (self.0 & 0xff) as usize
    }

    pub(super) fn new(serial: u64, slot: usize) -> Self {
        Self(serial << 8 | slot as u64)
    }
}

/// The board as it stands in shared memory; the ledgers follow it.
#[repr(C, align(64))]
pub(super) struct BoardBody {
    pub(super) guard: Guard,
    /// The owner word of the process that feeds and collects.
    pub(super) owner: AtomicU64,
    /// Ledgers that follow.
    pub(super) ledgers: AtomicU64,
    /// Tasks after which a worker leaves; zero for never.
    pub(super) max_tasks: AtomicU64,
    /// Jobs opened so far.
    pub(super) serial: AtomicU64,
    pad: [AtomicU64; 4],
    /// Workers sleep here.
    pub(super) work: Gate,
    /// 1 once workers have to leave.
    pub(super) ended: AtomicU64,
    /// A bit for each job that may have items nobody has claimed; a hint.
    pub(super) ready: AtomicU64,
    /// Items in `requeue`.
    pub(super) requeued: AtomicU64,
    /// Ledgers without a worker that have unstarted items.
    pub(super) orphans: AtomicU64,
    /// Workers with a range of several items, from which others may take some.
    pub(super) ranged: AtomicU64,
    /// A worker looks out for work without sleeping.
    pub(super) lookout: Lookout,
    /// The worker that fell asleep last.
    pub(super) last_sleeper: LastSleeper,
    /// Processors that the owner may use.
    pub(super) cpus: AtomicU64,
    /// Workers that have claimed something.
    pub(super) busy: AtomicU64,
    /// A worker looks after those that are stuck (see `crew`).
    pub(super) watch: Lookout,
    /// How many may be busy with quick items, as long as somebody keeps the watch.
    pub(super) crew: AtomicU64,
    pad_crew: [AtomicU64; 4],
    /// The owner's threads sleep here.
    pub(super) finished: Gate,
    /// Counts what the owner should look at: workers that came or went.
    pub(super) events: AtomicU64,
    pad_finished: [AtomicU64; 6],
    /// Items to be run again: job slot << 56 | item.
    pub(super) requeue: [AtomicU64; REQUEUE],
    pub(super) jobs: [JobSlot; JOBS],
}

// SAFETY: repr(C) of a guard, gates, atomics and slots of such.
unsafe impl Shared for BoardBody {}

impl std::fmt::Debug for BoardBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BoardBody").finish_non_exhaustive()
    }
}

/// A job's results may be wanted in any order: finished items set bits.
pub(super) const AS_FINISHED: u64 = 1;
/// Arguments are needed again if a run fails, so runs get copies.
pub(super) const KEEP_ARGUMENTS: u64 = 2;
/// Items have a time limit, so the start of each is noted.
pub(super) const TIMED: u64 = 4;
/// Workers ask for items that are one call each.
pub(super) const SINGLE: u64 = 8;

/// One job. The first lines are the owner's to write, the last is the workers'.
#[repr(C, align(64))]
pub(super) struct JobSlot {
    /// The [`JobId`], zero for a free slot.
    pub(super) id: AtomicU64,
    /// Items below this number can be claimed.
    pub(super) fed: AtomicU64,
    /// Items in all, `u64::MAX` while unknown.
    pub(super) total: AtomicU64,
    /// The owner is woken once `done` is this.
    pub(super) wake_at: AtomicU64,
    /// [`AS_FINISHED`] and its like.
    pub(super) flags: AtomicU64,
    /// The block with the directory: summary bits, then where each chunk is.
    pub(super) directory: AtomicU64,
    /// Chunks in the directory; chunk `n` stands at `n % chunks`, or in the first free place behind.
    pub(super) chunks: AtomicU64,
    /// Items in each chunk, as a power of two.
    pub(super) shift: AtomicU64,
    /// The function: a payload (see `payload`).
    pub(super) function: [AtomicU64; 4],
    /// How many items to claim at first.
    pub(super) hint: AtomicU64,
    /// 1 once nothing of it shall be started any more.
    pub(super) closing: AtomicU64,
    pad: [AtomicU64; 2],
    /// Items below this number have been claimed.
    pub(super) cursor: AtomicU64,
    /// Items that are finished; lags a little, and more after a death until the owner has counted.
    pub(super) done: AtomicU64,
    /// Nanoseconds that an item takes, about.
    pub(super) estimate: AtomicU64,
    /// Nanoseconds that one call of an item takes, about.
    pub(super) call_ns: AtomicU64,
    /// The least of it in recent ranges, which tells what a call takes by itself where workers share processors.
    pub(super) quickest: AtomicU64,
    pad_work: [AtomicU64; 3],
}

/// Words of the bits that say which items of a chunk are finished.
pub(super) const BIT_WORDS: usize = (CHUNK / 64) as usize;

/// The head of a chunk; the cells follow.
#[repr(C, align(64))]
pub(super) struct Chunk {
    /// Which chunk of the job it is.
    pub(super) number: AtomicU64,
    /// Its place in the directory.
    pub(super) place: AtomicU64,
    /// The first of the blocks that hold results too long for their cells; each begins with the next one's offset.
    pub(super) slabs: AtomicU64,
    pad: [AtomicU64; 5],
    /// For jobs collected as they finish: items that finished since the owner last looked.
    pub(super) bits: [AtomicU64; BIT_WORDS],
}

// SAFETY: repr(C) of atomics.
unsafe impl Shared for Chunk {}

/// Summary bits in a directory: one for each chunk with bits set.
pub(super) type Summary = [AtomicU64; (WINDOW_CHUNKS / 64) as usize];

/// Bytes of a directory for `chunks` chunks.
pub(super) fn directory_len(chunks: u64) -> u64 {
    (size_of::<Summary>() as u64) + chunks * 8
}

/// Bytes of a chunk of `items` items.
pub(super) fn chunk_len(items: u64) -> u64 {
    size_of::<Chunk>() as u64 + items * size_of::<Cell>() as u64
}

/// Item `index` of the chunk at `chunk`.
#[inline]
pub(super) fn cell_at(session: &Session, chunk: u64, index: u64) -> Result<&'static Cell, Corrupt> {
    if index >= CHUNK {
        return Err(Corrupt("an item is out of its chunk"));
    }
    let at = chunk + size_of::<Chunk>() as u64 + index * size_of::<Cell>() as u64;
    session.segment().at(at)
}

/// How a job's items are divided into chunks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape(u32);

impl Shape {
    fn new(shift: u64) -> Self {
        Self(shift.min(CHUNK.trailing_zeros().into()) as u32)
    }

    /// For a job of `total` items.
    pub(super) fn for_total(total: Option<u64>) -> Self {
        let items = total.unwrap_or(CHUNK).clamp(1, CHUNK).next_power_of_two();
        Self::new(items.trailing_zeros().into())
    }

    /// As it stands in shared memory.
    pub(super) fn word(self) -> u64 {
        self.0.into()
    }

    /// Items in a chunk.
    #[inline]
    pub(super) fn items(self) -> u64 {
        1 << self.0
    }

    /// The number of the item's chunk.
    #[inline]
    pub(super) fn chunk(self, item: u64) -> u64 {
        item >> self.0
    }

    /// The item's number in its chunk.
    #[inline]
    pub(super) fn index(self, item: u64) -> u64 {
        item & (self.items() - 1)
    }

    /// The first item of a chunk.
    #[inline]
    pub(super) fn begin(self, chunk: u64) -> u64 {
        chunk << self.0
    }
}

impl JobSlot {
    pub(super) fn flag(&self, flag: u64) -> bool {
        self.flags.load(Ordering::Relaxed) & flag != 0
    }

    /// How its items are divided into chunks.
    #[inline]
    pub(super) fn shape(&self) -> Shape {
        Shape::new(self.shift.load(Ordering::Relaxed))
    }

    /// How many chunks the directory has places for.
    pub(super) fn places(&self) -> u64 {
        self.chunks.load(Ordering::Relaxed).clamp(1, WINDOW_CHUNKS)
    }

    /// The directory's word at `place`: where a chunk is, or zero.
    pub(super) fn entry(
        &self,
        session: &Session,
        place: u64,
    ) -> Result<&'static AtomicU64, Corrupt> {
        let directory = self.directory.load(Ordering::Acquire);
        let at = directory + size_of::<Summary>() as u64 + place % self.places() * 8;
        session.segment().at(at)
    }

    pub(super) fn summary(&self, session: &Session) -> Result<&'static Summary, Corrupt> {
        session.segment().at(self.directory.load(Ordering::Acquire))
    }

    /// Where the chunk of `item` is, if it still is.
    pub(super) fn chunk_of(&self, session: &Session, item: u64) -> Result<Option<u64>, Corrupt> {
        let number = self.shape().chunk(item);
        for place in number..number + self.places() {
            let at = self.entry(session, place)?.load(Ordering::Acquire);
            if at != 0 {
                let chunk: &Chunk = session.segment().at(at)?;
                if chunk.number.load(Ordering::Relaxed) == number {
                    return Ok(Some(at));
                }
            }
        }
        Ok(None)
    }

    /// The cell of `item`, if it still is.
    pub(super) fn cell(
        &self,
        session: &Session,
        item: u64,
    ) -> Result<Option<&'static Cell>, Corrupt> {
        self.chunk_of(session, item)?
            .map(|chunk| cell_at(session, chunk, self.shape().index(item)))
            .transpose()
    }
}

//! The owner's side: opening jobs, feeding items, and giving the memory back.

use std::collections::VecDeque;

use procession_sys::clock::now_ns;

use crate::arena::BlockOwner;
use crate::crash_point;
use crate::error::ShmError;
use crate::primitive::{Ordering, fence};
use crate::ring::Message;

use super::Board;
use super::cell::store;
use super::layout::{
    AS_FINISHED, CHUNK, Chunk, JOBS, JobId, JobSlot, KEEP_ARGUMENTS, SINGLE, Shape, TIMED,
    WINDOW_CHUNKS, cell_at, chunk_len, directory_len,
};
use super::payload;

/// How a job is to be worked on.
#[derive(Debug, Clone, Copy, Default)]
pub struct JobOptions {
    /// Items in all, if that is known.
    pub total: Option<u64>,
    /// Finished items are looked for in any order.
    pub as_finished: bool,
    /// Items may be run again: arguments are kept and every run gets a copy.
    pub keep_arguments: bool,
    /// Items have a time limit: the start of each is noted.
    pub timed: bool,
    /// Items to claim at first.
    pub hint: u32,
}

/// A job as its owner knows it. What the workers need stands in shared memory; this is the rest.
#[derive(Debug)]
pub struct OwnedJob {
    pub(super) board: Board,
    pub(super) id: JobId,
    pub(super) slot: &'static JobSlot,
    /// Chunks by number; `None` where all items are collected.
    pub(super) chunks: VecDeque<Option<OwnedChunk>>,
    /// Which one stands at each place of the directory.
    pub(super) at_place: Vec<u64>,
    /// The number of the first of them.
    pub(super) first: u64,
    /// Chunks whose items are all collected, which a worker may still be looking at.
    pub(super) spent: Vec<OwnedChunk>,
    pub(super) shape: Shape,
    pub(super) fed: u64,
    /// Items that workers have been told of.
    published: u64,
    pub(super) sealed: bool,
    /// Is nothing of it started any more?
    pub(super) stopped: bool,
    pub(super) collected: u64,
    /// The next item to collect in order.
    pub(super) next: u64,
    /// Items before this one are known to be finished.
    pub(super) prefix: u64,
    /// Finished items that were found and not yet collected.
    pub(super) found: VecDeque<u64>,
}

/// A chunk as its owner knows it.
#[derive(Debug)]
pub(super) struct OwnedChunk {
    pub(super) at: u64,
    pub(super) number: u64,
    pub(super) place: u64,
    /// Items of it that are not collected, those to come included.
    pub(super) left: u64,
    pub(super) collected: [u64; (CHUNK / 64) as usize],
    /// Blocks with its longer arguments; the last one has room from `used` to `size`.
    pub(super) slabs: Vec<u64>,
    used: u64,
    size: u64,
}

/// The first block for longer arguments or results of a chunk; each further one is twice as large.
pub(super) const FIRST_SLAB: u64 = 4 << 10;
pub(super) const LAST_SLAB: u64 = 64 << 10;

/// Of items that are fed in a row, workers are told every so many.
const PUBLISH_EVERY: u64 = 32;

impl Board {
    /// Opens a job. `None` if the board has as many as it can have.
    pub fn open_job(
        &self,
        function: Message<'_>,
        options: JobOptions,
    ) -> Result<Option<OwnedJob>, ShmError> {
        let (session, body) = (self.session(), self.body);
        let Some(number) = (0..JOBS).find(|n| body.jobs[*n].id.load(Ordering::Relaxed) == 0) else {
            return Ok(None);
        };
        let slot = &body.jobs[number];
        let shape = Shape::for_total(options.total);
        let chunks = options
            .total
            .map_or(WINDOW_CHUNKS, |n| n.div_ceil(CHUNK).clamp(1, WINDOW_CHUNKS));
        let board = BlockOwner::object(self.index());
        let directory = session.alloc(directory_len(chunks), board)?;
        session.segment().zero(directory, directory_len(chunks))?;
        // The function has no chunk to share memory with: what does not fit the slot gets a block.
        let slab = |len| session.alloc(len, board);
        let written = payload::write(session, function, slab).inspect_err(|_| {
            let _ = session.free_block(directory);
        })?;
        if let Some(block) = written.block() {
            payload::hand_over(session, self.index(), block)?;
        }
        let serial = body.serial.load(Ordering::Relaxed).wrapping_add(1);
        body.serial.store(serial, Ordering::Relaxed);
        let flags = if options.as_finished { AS_FINISHED } else { 0 }
            | if options.keep_arguments {
                KEEP_ARGUMENTS
            } else {
                0
            }
            | if options.timed { TIMED } else { 0 };
        for (word, value) in [
            (&slot.fed, 0),
            (&slot.total, options.total.unwrap_or(u64::MAX)),
            (&slot.wake_at, u64::MAX),
            (&slot.flags, flags),
            (&slot.directory, directory),
            (&slot.chunks, chunks),
            (&slot.shift, shape.word()),
            (&slot.hint, u64::from(options.hint)),
            (&slot.closing, 0),
            (&slot.cursor, 0),
            (&slot.done, 0),
            (&slot.estimate, 0),
            (&slot.quickest, 0),
            (&slot.call_ns, 0),
        ] {
            word.store(value, Ordering::Relaxed);
        }
        store(
            &slot.function,
            written.kind | written.len << 32,
            written.words,
        );
        crash_point!("board.open.filled");
        let id = JobId::new(serial, number);
        slot.id.store(id.word(), Ordering::Release);
        crash_point!("board.open.listed");
        Ok(Some(OwnedJob {
            board: self.clone(),
            id,
            slot,
            chunks: VecDeque::new(),
            at_place: vec![0; chunks as usize],
            first: 0,
            spent: Vec::new(),
            shape,
            fed: 0,
            published: 0,
            sealed: false,
            stopped: false,
            collected: 0,
            next: 0,
            prefix: 0,
            found: VecDeque::new(),
        }))
    }
}

impl OwnedJob {
    /// Which job it is.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// Items fed so far.
    pub fn fed(&self) -> u64 {
        self.fed
    }

    /// Items collected so far.
    pub fn collected(&self) -> u64 {
        self.collected
    }

    /// Will there be no further items?
    pub fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// Feeds an item; its number, or `None` if too many are outstanding. If `more` follow at once, workers are told only now
    /// and then: [`OwnedJob::publish`] must come last.
    #[inline]
    pub fn feed(&mut self, arguments: Message<'_>, more: bool) -> Result<Option<u64>, ShmError> {
        let item = self.fed;
        let (number, index) = (self.shape.chunk(item), self.shape.index(item));
        if number == self.first + self.chunks.len() as u64 && !self.add_chunk(number)? {
            return Ok(None);
        }
        let session = self.board.session();
        let index_of_board = self.board.index();
        let chunk = self.chunks[(number - self.first) as usize].as_mut();
        let chunk = chunk.expect("a chunk is kept until all of its items are collected");
        let cell = cell_at(session, chunk.at, index)?;
        let written = payload::write(session, arguments, |len| {
            chunk.room(session, index_of_board, len)
        })?;
        if let Some(block) = written.block() {
            payload::hand_over(session, index_of_board, block)?;
            crash_point!("board.feed.handed");
        }
        store(
            &cell.arguments,
            written.kind | written.len << 32,
            written.words,
        );
        cell.feed();
        crash_point!("board.feed.filled");
        self.fed = item + 1;
        if !more || self.fed - self.published >= PUBLISH_EVERY {
            self.publish();
        }
        Ok(Some(item))
    }

    /// Tells the workers of the items that were fed.
    #[inline]
    pub fn publish(&mut self) {
        if self.published == self.fed {
            return;
        }
        self.published = self.fed;
        self.slot.fed.store(self.fed, Ordering::Release);
        crash_point!("board.feed.published");
        let body = self.board.body;
        fence(Ordering::SeqCst);
        let bit = 1 << self.id.slot();
        if body.ready.load(Ordering::Relaxed) & bit == 0 {
            body.ready.fetch_or(bit, Ordering::SeqCst);
        }
        crash_point!("board.feed.ready");
        if body.work.has_sleepers() && !body.lookout.is_kept(now_ns) && body.needs_one_more() {
            body.wake_worker();
        }
    }

    /// About how many nanoseconds one call takes; `None` while that is not known, or if items shall be one call each.
    pub fn call_ns(&self) -> Option<u64> {
        let known = self.slot.call_ns.load(Ordering::Relaxed);
        (known != 0 && !self.slot.flag(SINGLE)).then_some(known)
    }

    /// There will be no further items.
    pub fn seal(&mut self) {
        self.sealed = true;
        self.publish();
        self.slot.total.store(self.fed, Ordering::Release);
    }

    /// Makes the chunk that comes next; false if the directory has no place for it.
    #[cold]
    fn add_chunk(&mut self, number: u64) -> Result<bool, ShmError> {
        self.free_spent()?;
        let session = self.board.session();
        let mut place = None;
        for p in number..number + self.slot.places() {
            if self.slot.entry(session, p)?.load(Ordering::Relaxed) == 0 {
                place = Some(p % self.slot.places());
                break;
            }
        }
        let Some(place) = place else {
            return Ok(false);
        };
        let owner = BlockOwner::object(self.board.index());
        let at = session.alloc(chunk_len(self.shape.items()), owner)?;
        let chunk: &'static Chunk = session.segment().at(at)?;
        chunk.number.store(number, Ordering::Relaxed);
        chunk.place.store(place, Ordering::Relaxed);
        chunk.slabs.store(0, Ordering::Relaxed);
        for word in &chunk.bits {
            word.store(0, Ordering::Relaxed);
        }
        self.slot
            .entry(session, place)?
            .store(at, Ordering::Release);
        crash_point!("board.chunk.listed");
        self.at_place[place as usize] = number;
        self.chunks.push_back(Some(OwnedChunk {
            at,
            number,
            place,
            left: self.shape.items(),
            collected: [0; (CHUNK / 64) as usize],
            slabs: Vec::new(),
            used: 0,
            size: 0,
        }));
        Ok(true)
    }

    /// Items of a chunk that have been fed.
    pub(super) fn items_of(&self, chunk: &OwnedChunk) -> u64 {
        let begin = self.shape.begin(chunk.number);
        self.fed.saturating_sub(begin).min(self.shape.items())
    }
}

impl OwnedChunk {
    /// Room for `len` bytes of arguments.
    fn room(
        &mut self,
        session: &'static crate::Session,
        board: u32,
        len: u64,
    ) -> Result<u64, ShmError> {
        let len = len.next_multiple_of(8);
        if self.size - self.used < len {
            let size = (self.size * 2).clamp(FIRST_SLAB, LAST_SLAB);
            let at = session.alloc(size, BlockOwner::object(board))?;
            self.slabs.push(at);
            (self.used, self.size) = (0, size);
        }
        let at = self.slabs[self.slabs.len() - 1] + self.used;
        self.used += len;
        Ok(at)
    }
}

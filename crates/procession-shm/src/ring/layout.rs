//! The ring's words, and what can be told from them without a guard.

use crate::arena::BlockOwner;
use crate::error::{Corrupt, ShmError};
use crate::gate::{Gate, Wake};
use crate::guard::Guard;
use crate::objects::Entry;
use crate::primitive::{AtomicU32, AtomicU64, Ordering};
use crate::segment::Shared;
use crate::session::Session;
use crate::wait::notify;
use crate::watch;

use super::RingOptions;

/// The queue as it stands in shared memory. Writers' and readers' words keep to cache lines of their own, and each side notes what
/// it last saw of the other's: a line that the other side writes at every message is only looked at when the note says too little.
#[repr(C, align(64))]
pub struct RingBody {
    pub(super) put: Guard,
    /// See the README.
    pub(super) tail: AtomicU64,
    /// The segment that is written to; zero before the first message.
    pub(super) tail_segment: AtomicU64,
    /// Bytes for records in it.
    pub(super) tail_size: AtomicU64,
    /// Its read mark, as a writer last saw it.
    pub(super) mark_seen: AtomicU64,
    /// Bytes ever put; for the limit and for tools. A death may leave it off by a message: see [`RingBody::bytes_before`].
    pub(super) bytes_in: AtomicU64,
    pad_put: [AtomicU64; 7],
    pub(super) get: Guard,
    /// See the README.
    pub(super) head: AtomicU64,
    /// `tail`, as a reader last saw it.
    pub(super) tail_seen: AtomicU64,
    /// The segment that is read from; zero before the first message.
    pub(super) head_segment: AtomicU64,
    /// Bytes for records in it.
    pub(super) head_size: AtomicU64,
    /// Bytes ever got.
    pub(super) bytes_out: AtomicU64,
    pad_get: [AtomicU64; 7],
    pub(super) filled: Gate,
    pub(super) drained: Gate,
    pub(super) finished: Gate,
    /// Tasks finished (mod 2^32), for queues that are joined.
    pub(super) done: AtomicU32,
    pub(super) max_messages: AtomicU32,
    pub(super) max_bytes: AtomicU64,
    /// 1 once nothing more may be put.
    pub(super) closed: AtomicU64,
}

// SAFETY: repr(C) of guards, gates and atomics.
unsafe impl Shared for RingBody {}

impl std::fmt::Debug for RingBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RingBody")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// A segment begins with its read mark, then come the records.
pub(super) const RECORDS: u64 = 64;
/// The first segment of a queue. Small: most queues stay small.
pub(super) const FIRST_SEGMENT: u64 = 4 << 10;
/// Segments double up to this.
pub(super) const LAST_SEGMENT: u64 = 4 << 20;

/// `WRAP` and `JUMP` records that can follow each other without a message between them.
pub(super) const MOST_TURNS: u32 = 4;

/// A record's header takes this.
pub(super) const RECORD: u64 = 8;
/// Flag of a record: the offset of a block follows the header.
pub(super) const HAS_BLOCK: u32 = 1;
/// Flag of a record: the bytes are in the block, `length` of them, and not here.
pub(super) const IN_BLOCK: u32 = 2;
/// Flag of a record: go on at the start of this segment.
pub(super) const WRAP: u32 = 4;
/// Flag of a record: go on at the start of the segment whose offset follows.
pub(super) const JUMP: u32 = 8;

/// The message count in a position word.
pub(crate) fn count(position: u64) -> u32 {
    (position >> 32) as u32
}

/// The offset in a position word.
pub(crate) fn offset(position: u64) -> u64 {
    position & 0xffff_ffff
}

/// Bytes for records in a segment.
pub(super) fn room(session: &Session, segment: u64) -> Result<u64, Corrupt> {
    session
        .block_size(segment)?
        .checked_sub(RECORDS)
        .ok_or(Corrupt("a ring's segment is too small"))
}

/// The next position: one message further, at `offset`.
pub(super) fn advance(position: u64, offset: u64) -> u64 {
    u64::from(count(position).wrapping_add(1)) << 32 | offset
}

impl RingBody {
    /// Makes an empty ring at `at`, which is zeroed.
    pub(crate) fn init(session: &Session, at: u64, options: RingOptions) -> Result<(), ShmError> {
        let body: &'static Self = session.segment().at(at)?;
        body.put
            .init()
            .map_err(ShmError::system("initialize a mutex"))?;
        body.get
            .init()
            .map_err(ShmError::system("initialize a mutex"))?;
        body.max_messages
            .store(options.max_messages, Ordering::Relaxed);
        body.max_bytes.store(options.max_bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Messages in the ring.
    #[inline]
    pub(crate) fn len(&self) -> u32 {
        // The head first: a get between the two reads makes the answer too large by what was just got, never negative.
        let head = count(self.head.load(Ordering::Acquire));
        count(self.tail.load(Ordering::Acquire)).wrapping_sub(head)
    }

    /// Is there none?
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Is there none? For a reader, who knows of messages that came before without a look at the writers' words.
    #[inline]
    pub(super) fn offers_none(&self) -> bool {
        let head = count(self.head.load(Ordering::Relaxed));
        count(self.tail_seen.load(Ordering::Relaxed)) == head
            && count(self.tail.load(Ordering::Acquire)) == head
    }

    /// May writers ever have to wait?
    #[inline]
    pub(super) fn is_limited(&self) -> bool {
        self.max_messages.load(Ordering::Relaxed) != 0
            || self.max_bytes.load(Ordering::Relaxed) != 0
    }

    /// Has it as many messages as it may have?
    pub(crate) fn is_full(&self) -> bool {
        let max = self.max_messages.load(Ordering::Relaxed);
        max != 0 && self.len() >= max
    }

    /// Bytes that wait in the ring.
    pub(crate) fn backlog(&self) -> u64 {
        if self.is_empty() {
            return 0;
        }
        self.bytes_in
            .load(Ordering::Relaxed)
            .saturating_sub(self.bytes_out.load(Ordering::Relaxed))
    }

    /// Bytes ever put, to be counted on from here, for a writer that has the guard. Where there is a limit, what deaths have left
    /// is forgotten whenever the ring is empty: it would add up.
    pub(super) fn bytes_before(&self) -> u64 {
        if self.max_bytes.load(Ordering::Relaxed) != 0 && self.is_empty() {
            self.bytes_out.load(Ordering::Relaxed)
        } else {
            self.bytes_in.load(Ordering::Relaxed)
        }
    }

    /// May `len` more bytes be put?
    pub(crate) fn has_room(&self, len: u64) -> bool {
        if self.is_full() {
            return false;
        }
        let max = self.max_bytes.load(Ordering::Relaxed);
        max == 0 || self.is_empty() || self.backlog().saturating_add(len) <= max
    }

    /// Undoes what a dead process has left in the guards.
    pub(crate) fn settle(&'static self, session: &'static Session) -> Result<bool, ShmError> {
        Ok(self.put.settle(session)? & self.get.settle(session)?)
    }

    /// Everybody looks again.
    pub(crate) fn wake_all(
        &self,
        session: &'static Session,
        index: u32,
        entry: &'static Entry,
    ) -> Result<(), ShmError> {
        for gate in [&self.filled, &self.drained, &self.finished] {
            notify(gate, Wake::All);
        }
        if entry.watchers.load(Ordering::Relaxed) != 0 {
            watch::ring(session, index, entry)?;
        }
        Ok(())
    }

    /// Frees the blocks of the messages that nobody will get, and the segments. Whoever does it again, after a death, may find
    /// that what the words here name is long another's: only what belongs to the ring's object is read or freed.
    pub(crate) fn destroy(
        &'static self,
        session: &'static Session,
        owner: BlockOwner,
    ) -> Result<(), ShmError> {
        let is_ours = |at: u64| {
            session.block(at).is_ok_and(|r| {
                BlockOwner::from_word(r.owner.load(Ordering::Acquire)).same_as(owner)
            })
        };
        let mut segment = self.head_segment.load(Ordering::Acquire);
        let mut head = self.head.load(Ordering::Acquire);
        let tail = self.tail.load(Ordering::Acquire);
        let mut turns = 0;
        while count(head) != count(tail) {
            if !is_ours(segment) || turns > MOST_TURNS {
                break;
            }
            match Self::step(session, segment, room(session, segment)?, offset(head)) {
                Ok(Step::Message { next, block, .. }) => {
                    match block {
                        Some(block) if is_ours(block) => session.free_block(block)?,
                        Some(_) => break,
                        None => {}
                    }
                    head = advance(head, next);
                    turns = 0;
                }
                Ok(Step::Wrap) => head &= !0xffff_ffff,
                Ok(Step::Jump(to)) => {
                    session.free_raw(segment)?;
                    segment = to;
                    head &= !0xffff_ffff;
                }
                Err(_) => break,
            }
            turns += 1;
        }
        // The walk is only the quick way: what it misses in a torn ring is found by its owner.
        if count(head) != count(tail) {
            return session.free_blocks_of(owner, self.home(session)?);
        }
        let last = self.tail_segment.load(Ordering::Acquire);
        if last != 0 && is_ours(last) {
            session.free_raw(last)?;
        }
        Ok(())
    }

    /// The block that the ring itself stands in.
    fn home(&'static self, session: &Session) -> Result<u64, Corrupt> {
        let at = session.segment().offset_of(self);
        // The second ring of a pipe stands behind the first.
        [at, at.wrapping_sub(size_of::<Self>() as u64)]
            .into_iter()
            .find(|at| session.block(*at).is_ok())
            .ok_or(Corrupt("a ring lies outside its block"))
    }

    /// Reads the record at `at` of a segment with `size` bytes for records, trusting nothing that is in it.
    #[inline]
    pub(super) fn step(
        session: &Session,
        segment: u64,
        size: u64,
        at: u64,
    ) -> Result<Step, Corrupt> {
        if !at.is_multiple_of(8) || at + RECORD > size {
            return Err(Corrupt("a record lies outside its segment"));
        }
        let base = segment + RECORDS + at;
        let word = session
            .segment()
            .at::<AtomicU64>(base)?
            .load(Ordering::Relaxed);
        let (len, flags) = (word & 0xffff_ffff, (word >> 32) as u32);
        if flags & WRAP != 0 {
            return Ok(Step::Wrap);
        }
        let extra = if flags & (HAS_BLOCK | JUMP) != 0 {
            8
        } else {
            0
        };
        let inline = if flags & IN_BLOCK != 0 { 0 } else { len };
        if at + RECORD + extra + inline > size {
            return Err(Corrupt("a record is longer than its segment"));
        }
        let link = if extra == 0 {
            None
        } else {
            Some(
                session
                    .segment()
                    .at::<AtomicU64>(base + RECORD)?
                    .load(Ordering::Relaxed),
            )
        };
        if flags & JUMP != 0 {
            return Ok(Step::Jump(link.unwrap_or(0)));
        }
        Ok(Step::Message {
            data: base + RECORD + extra,
            len,
            block: link,
            in_block: flags & IN_BLOCK != 0,
            next: at + (RECORD + extra + inline).next_multiple_of(8),
        })
    }

    /// Words for tools.
    pub(crate) fn describe(&self) -> Vec<(&'static str, u64)> {
        let len = u64::from(self.len());
        vec![
            ("length", len),
            (
                "maxsize",
                u64::from(self.max_messages.load(Ordering::Relaxed)),
            ),
            ("put", u64::from(count(self.tail.load(Ordering::Relaxed)))),
            ("got", u64::from(count(self.head.load(Ordering::Relaxed)))),
            ("bytes", self.backlog()),
        ]
    }
}

/// What stands at a place in the ring.
pub(super) enum Step {
    /// A message.
    Message {
        /// Where its inline bytes begin (offset in the session).
        data: u64,
        /// How many bytes it has.
        len: u64,
        /// Its block.
        block: Option<u64>,
        /// Are the bytes in the block?
        in_block: bool,
        /// Where the next record is (offset in the segment).
        next: u64,
    },
    /// Go on at the start of the segment.
    Wrap,
    /// Go on at the start of another segment.
    Jump(u64),
}

#[cfg(all(test, not(loom)))]
mod tests {
    use procession_sys::clock::Deadline;

    use super::super::{Message, Ring, RingOptions};
    use crate::arena::BlockOwner;
    use crate::primitive::Ordering;
    use crate::processes::{Role, State};
    use crate::session::Session;

    fn ring(max_bytes: u64) -> (&'static Session, Ring) {
        let session = crate::kinds::create("ring-test", Some(1 << 30)).unwrap();
        let options = RingOptions {
            max_messages: 0,
            max_bytes,
        };
        (session, Ring::create(session, "ring", options).unwrap())
    }

    #[test]
    fn what_deaths_have_left_in_the_counts_does_not_add_up() {
        let (_, ring) = ring(1000);
        let port = ring.port();
        let put = |len| {
            let bytes = vec![1; len];
            port.put(Message::new(&bytes), Deadline::NOW, &mut || true)
        };
        // As if writers had died again and again just before their commit.
        port.body.bytes_in.store(10_000, Ordering::Relaxed);
        put(400).unwrap();
        put(400).unwrap();
        assert!(put(400).is_err());
        assert_eq!(port.body.backlog(), 800);
    }

    #[test]
    fn blocks_of_the_dead_are_kept_while_a_section_may_be_undone() {
        let (session, ring) = ring(0);
        let dead = session.reserve("dead", Role::Process).unwrap();
        let owner = BlockOwner::process(dead);
        session.alloc(100, owner).unwrap();
        let blocks = || {
            let mut count = 0;
            let look = |_, of: BlockOwner| count += usize::from(of.same_as(owner));
            session.for_each_block(look).unwrap();
            count
        };
        let slot = session.slot_of(dead).unwrap();
        slot.state.store(State::Dying as u64, Ordering::SeqCst);
        // A thread that is stopped in there, say, and was about to give the block to the dead process.
        let body = ring.port().body;
        let mut section = body.get.lock(session).unwrap();
        section.set(&body.bytes_out, 1);
        session.recover_now().unwrap();
        assert!(slot.state() == State::Dying);
        assert_eq!(blocks(), 1);
        drop(section);
        session.recover_now().unwrap();
        assert!(slot.state() == State::Gone);
        assert_eq!(blocks(), 0);
    }
}

//! Putting a message in.

use crate::arena::BlockOwner;
use crate::crash_point;
use crate::error::{Corrupt, ShmError, WaitError};
use crate::gate::Wake;
use crate::guard::Txn;
use crate::primitive::{AtomicU64, Ordering, fence};
use crate::wait::{Wait, notify_ordered};
use crate::watch;

use super::layout::{
    FIRST_SEGMENT, HAS_BLOCK, IN_BLOCK, JUMP, LAST_SEGMENT, RECORD, RECORDS, WRAP, advance, count,
    offset, room,
};
use super::{INLINE_MAX, Message, Port};

/// Every record leaves room for the header of a `WRAP` or `JUMP` behind it.
const SPARE: u64 = 2 * RECORD;

impl Port<'_> {
    /// Puts a message in if there is room; false if there is none.
    pub(super) fn push(
        &self,
        message: Message<'_>,
        wait: &mut Wait<'_>,
    ) -> Result<bool, WaitError> {
        if !self.body.has_room(message.len() as u64) {
            return Ok(false);
        }
        if message.len() <= INLINE_MAX {
            return self.push_record(message, message.len() as u64, 0, wait);
        }
        // Copied to a block before anybody is kept waiting. A message that has a block besides gets a bundle of the two.
        let session = self.session();
        let mine = BlockOwner::process(session.me()?);
        let len = message.len() as u64;
        let bytes = session.alloc_within(len, mine, wait)?;
        message.write(session, bytes)?;
        crash_point!("ring.push.copied");
        let block = match message.block {
            None => bytes,
            Some(other) => crate::bundle::bind_with(session, bytes, len, other)?,
        };
        let by_reference = Message {
            block: Some(block),
            ..Message::default()
        };
        let pushed = self.push_record(by_reference, len, IN_BLOCK, wait);
        if !matches!(pushed, Ok(true)) {
            if block != bytes {
                crate::bundle::unbind(session, block)?;
            }
            session.free_block(bytes)?;
        }
        pushed
    }

    fn push_record(
        &self,
        message: Message<'_>,
        len: u64,
        flags: u32,
        wait: &mut Wait<'_>,
    ) -> Result<bool, WaitError> {
        let (session, body) = (self.session(), self.body);
        let mut txn = body.put.lock_within(session, wait)?;
        if txn.recovered() {
            self.wake_after_recovery()?;
        }
        if body.closed.load(Ordering::Relaxed) != 0 {
            return Err(WaitError::Closed);
        }
        if !body.has_room(len) {
            return Ok(false);
        }
        let tail = body.tail.load(Ordering::Relaxed);
        let extra = if message.block.is_some() { 8 } else { 0 };
        let record = (RECORD + extra + message.len() as u64).next_multiple_of(8);
        let (segment, at) = self.make_room(&mut txn, tail, record, wait)?;
        crash_point!("ring.push.room");
        let base = segment + RECORDS + at;
        let memory = session.segment();
        let flags = flags
            | if message.block.is_some() {
                HAS_BLOCK
            } else {
                0
            };
        memory
            .at::<AtomicU64>(base)?
            .store(u64::from(flags) << 32 | len, Ordering::Relaxed);
        message.write(session, base + RECORD + extra)?;
        if let Some(block) = message.block {
            memory
                .at::<AtomicU64>(base + RECORD)?
                .store(block, Ordering::Relaxed);
            let owner = &session.block(block)?.owner;
            let old = BlockOwner::from_word(owner.load(Ordering::Relaxed));
            txn.set(owner, self.owner.with_flags_of(old).word());
        }
        crash_point!("ring.push.written");
        body.bytes_in
            .store(body.bytes_before().wrapping_add(len), Ordering::Relaxed);
        crash_point!("ring.push.counted");
        txn.commit_ordered_on(&body.tail, advance(tail, at + record));
        crash_point!("ring.push.committed");
        // Still under the guard: if we are killed before the wake-up, the next who takes the guard learns of it.
        notify_ordered(&body.filled, Wake::One);
        crash_point!("ring.push.notified");
        let entry = session.entry(self.reader)?;
        let watchers = entry.watchers.load(Ordering::SeqCst);
        if watchers != 0 {
            fence(Ordering::SeqCst);
            // Only the message that ends the emptiness rings: before it, whoever emptied the ring took the rings.
            if count(body.head.load(Ordering::Relaxed)) == count(tail) || watch::is_owed(watchers) {
                watch::ring(session, self.reader, entry)?;
            }
        }
        drop(txn);
        Ok(true)
    }

    /// A place for a record of `record` bytes: (segment, offset of the record in it).
    #[inline]
    fn make_room(
        &self,
        txn: &mut Txn<'_>,
        tail: u64,
        record: u64,
        wait: &mut Wait<'_>,
    ) -> Result<(u64, u64), WaitError> {
        let (session, body) = (self.session(), self.body);
        let segment = body.tail_segment.load(Ordering::Relaxed);
        if segment == 0 {
            return self.first_segment(txn, record, wait);
        }
        let size = body.tail_size.load(Ordering::Relaxed);
        let at = offset(tail);
        // The mark only ever lags, and so does what was last seen of it. It is looked at again only where that leaves no room:
        // readers write it at every message.
        let need = record + SPARE;
        let mut mark = body.mark_seen.load(Ordering::Relaxed);
        let end = if at < mark { mark } else { size };
        if end.saturating_sub(at) <= need {
            mark = (session.segment().at::<AtomicU64>(segment)?).load(Ordering::Acquire);
            body.mark_seen.store(mark, Ordering::Relaxed);
            crash_point!("ring.push.seen");
        }
        if at > size || mark > size {
            return Err(Corrupt("a ring's position lies outside its segment").into());
        }
        if at >= mark {
            if size - at >= need {
                return Ok((segment, at));
            }
            if mark > need {
                let word = session.segment().at::<AtomicU64>(segment + RECORDS + at)?;
                word.store(u64::from(WRAP) << 32, Ordering::Relaxed);
                return Ok((segment, 0));
            }
        } else if mark - at > need {
            return Ok((segment, at));
        }
        self.next_segment(txn, (segment, size, at), record, wait)
    }

    #[cold]
    fn first_segment(
        &self,
        txn: &mut Txn<'_>,
        record: u64,
        wait: &mut Wait<'_>,
    ) -> Result<(u64, u64), WaitError> {
        let body = self.body;
        let segment = self.new_segment(FIRST_SEGMENT.max(record + RECORDS + SPARE), wait)?;
        crash_point!("ring.first.allocated");
        txn.set(&self.session().block(segment)?.owner, self.owner.word());
        txn.set(&body.tail_segment, segment);
        let size = room(self.session(), segment)?;
        txn.set(&body.tail_size, size);
        // Nobody reads before `tail` counts a message, and nobody is in an older segment.
        txn.set(&body.head_segment, segment);
        txn.set(&body.head_size, size);
        Ok((segment, 0))
    }

    #[cold]
    fn next_segment(
        &self,
        txn: &mut Txn<'_>,
        (old, size, at): (u64, u64, u64),
        record: u64,
        wait: &mut Wait<'_>,
    ) -> Result<(u64, u64), WaitError> {
        let session = self.session();
        let double = ((size + RECORDS) * 2).min(LAST_SEGMENT);
        let segment = self.new_segment(double.max(record + RECORDS + SPARE), wait)?;
        crash_point!("ring.grow.allocated");
        txn.set(&session.block(segment)?.owner, self.owner.word());
        txn.set(&self.body.tail_segment, segment);
        txn.set(&self.body.tail_size, room(session, segment)?);
        txn.set(&self.body.mark_seen, 0);
        let base = old + RECORDS + at;
        session
            .segment()
            .at::<AtomicU64>(base + RECORD)?
            .store(segment, Ordering::Relaxed);
        session
            .segment()
            .at::<AtomicU64>(base)?
            .store(u64::from(JUMP) << 32, Ordering::Relaxed);
        crash_point!("ring.grow.linked");
        Ok((segment, 0))
    }

    fn new_segment(&self, len: u64, wait: &mut Wait<'_>) -> Result<u64, WaitError> {
        let session = self.session();
        let segment = session.alloc_within(len, BlockOwner::process(session.me()?), wait)?;
        session
            .segment()
            .at::<AtomicU64>(segment)?
            .store(0, Ordering::Relaxed);
        Ok(segment)
    }

    #[cold]
    pub(super) fn wake_after_recovery(&self) -> Result<(), ShmError> {
        self.body.wake_all(
            self.session(),
            self.reader,
            self.session().entry(self.reader)?,
        )
    }
}

//! Taking a message out.

use crate::arena::BlockOwner;
use crate::bundle;
use crate::crash_point;
use crate::error::{Corrupt, ShmError, WaitError};
use crate::gate::Wake;
use crate::guard::Txn;
use crate::primitive::{AtomicU64, Ordering, fence};
use crate::session::Session;
use crate::wait::{Wait, notify_ordered};
use crate::watch;

use super::layout::{Step, advance, count, offset, room};
use super::{Port, RingBody};

impl Port<'_> {
    /// Takes the oldest message, if there is one. `take` runs under the guard and must be quick, but for
    /// messages longer than [`INLINE_MAX`](super::INLINE_MAX), of which it sees the block; it sees untrusted bytes.
    pub(super) fn pop<T>(
        &self,
        wait: &mut Wait<'_>,
        take: &mut impl FnMut(&[u8], Option<u64>) -> T,
    ) -> Result<Option<T>, WaitError> {
        let (session, body) = (self.session(), self.body);
        if body.offers_none() {
            self.rest()?;
            return Ok(None);
        }
        let mut txn = body.get.lock_within(session, wait)?;
        if txn.recovered() {
            self.wake_after_recovery()?;
        }
        let mut head = body.head.load(Ordering::Relaxed);
        if count(body.tail_seen.load(Ordering::Relaxed)) == count(head) {
            let tail = body.tail.load(Ordering::Acquire);
            if count(tail) == count(head) {
                return Ok(None);
            }
            // Whoever takes the guard after us sees what we saw, and what was put before it.
            body.tail_seen.store(tail, Ordering::Relaxed);
            crash_point!("ring.pop.seen");
        }
        let first = body.head_segment.load(Ordering::Relaxed);
        let mut segment = first;
        let mut size = body.head_size.load(Ordering::Relaxed);
        let mut steps = 0;
        let (data, len, block, in_block, next) = loop {
            steps += 1;
            match RingBody::step(session, segment, size, offset(head))? {
                Step::Message {
                    data,
                    len,
                    block,
                    in_block,
                    next,
                } => break (data, len, block, in_block, next),
                Step::Wrap if steps < 4 => head &= !0xffff_ffff,
                Step::Jump(to) if steps < 4 => {
                    segment = to;
                    size = room(session, to)?;
                    head &= !0xffff_ffff;
                }
                _ => return Err(Corrupt("a ring leads in a circle").into()),
            }
        };
        if let Some(block) = block {
            self.take_over(&mut txn, block)?;
        }
        if segment != first {
            // The segment that we leave becomes ours in the same section, and is freed after it.
            txn.set(&body.head_segment, segment);
            txn.set(&body.head_size, size);
            txn.set(
                &session.block(first)?.owner,
                BlockOwner::process(session.me()?).word(),
            );
        }
        crash_point!("ring.pop.found");
        let got = if in_block {
            None
        } else {
            Some(take(session.segment().bytes(data, len)?, block))
        };
        crash_point!("ring.pop.taken");
        let after = advance(head, next);
        // Before the commit, which orders it for writers that wait for room.
        let bytes_out = body.bytes_out.load(Ordering::Relaxed);
        body.bytes_out
            .store(bytes_out.wrapping_add(len), Ordering::Relaxed);
        crash_point!("ring.pop.counted");
        let is_limited = body.is_limited();
        if is_limited {
            txn.commit_ordered_on(&body.head, after);
        } else {
            txn.commit_on(&body.head, after);
        }
        crash_point!("ring.pop.committed");
        session
            .segment()
            .at::<AtomicU64>(segment)?
            .store(next, Ordering::Release);
        crash_point!("ring.pop.marked");
        // Otherwise no writer ever waits.
        if is_limited {
            notify_ordered(&body.drained, Wake::One);
        }
        let emptied = self.handle.entry().watchers.load(Ordering::Relaxed) != 0 && {
            fence(Ordering::SeqCst);
            count(body.tail.load(Ordering::Acquire)) == count(after)
        };
        drop(txn);
        if segment != first {
            session.free_raw(first)?;
        }
        crash_point!("ring.pop.left");
        if emptied {
            watch::emptied(self.handle, || Ok(self.is_readable()))?;
        }
        match got {
            Some(got) => Ok(Some(got)),
            None => self.take_from_block(block, len, take).map(Some),
        }
    }

    /// Makes the block that comes with a message this process's own.
    fn take_over(&self, txn: &mut Txn<'_>, block: u64) -> Result<(), WaitError> {
        let session = self.session();
        let record = session.block(block)?;
        let old = BlockOwner::from_word(record.owner.load(Ordering::Relaxed));
        if !old.same_as(self.owner) {
            return Err(Corrupt("a message names a block that is not its own").into());
        }
        let owner = BlockOwner::process(session.me()?).with_flags_of(old);
        txn.set(&record.owner, owner.word());
        Ok(())
    }

    /// The message's bytes are in its block, or in the first part of its bundle.
    #[cold]
    fn take_from_block<T>(
        &self,
        block: Option<u64>,
        len: u64,
        take: &mut impl FnMut(&[u8], Option<u64>) -> T,
    ) -> Result<T, WaitError> {
        let session = self.session();
        let block = block.ok_or(Corrupt("a long message has no block"))?;
        let owner = BlockOwner::from_word(session.block(block)?.owner.load(Ordering::Relaxed));
        let (bytes, rest) = if owner.has(BlockOwner::MANIFEST) {
            let parts = bundle::unbind(session, block)?;
            match parts[..] {
                [bytes, rest] => (bytes.at, Some(rest.at)),
                _ => return Err(Corrupt("a long message's bundle has the wrong length").into()),
            }
        } else {
            (block, None)
        };
        if len > session.block_size(bytes)? {
            return Err(Corrupt("a message is longer than its block").into());
        }
        // Also if `take` panics.
        let block = OwnBlock(session, bytes);
        let got = take(session.segment().bytes(bytes, len)?, rest);
        block.free()?;
        Ok(got)
    }
}

/// A block that goes when this does.
struct OwnBlock(&'static Session, u64);

impl OwnBlock {
    fn free(self) -> Result<(), ShmError> {
        let Self(session, at) = self;
        std::mem::forget(self);
        session.free_block(at)
    }
}

impl Drop for OwnBlock {
    fn drop(&mut self) {
        // An error means that the session is corrupt or left; there is nobody to tell.
        let _ = self.0.free_block(self.1);
    }
}

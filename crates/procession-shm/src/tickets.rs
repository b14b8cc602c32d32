//! Tickets: references to objects on their way in messages.

use crate::arena::BlockOwner;
use crate::crash_point;
use crate::error::{Corrupt, ShmError};
use crate::objects::Handle;
use crate::primitive::{AtomicU64, Ordering};
use crate::session::Session;

impl Session {
    /// A block that keeps an object alive on its way to whoever takes the message that carries it.
    pub fn make_ticket(&'static self, handle: &Handle) -> Result<u64, ShmError> {
        let mine = BlockOwner::process(self.me()?);
        let at = self.alloc(crate::layout::MIN_BLOCK, mine)?;
        let word: &'static AtomicU64 = self.segment().at(at)?;
        word.store(
            u64::from(handle.generation()) << 32 | u64::from(handle.index()),
            Ordering::Relaxed,
        );
        crash_point!("ticket.made");
        let entry = handle.entry();
        let mut txn = self.header().objects_guard.lock(self)?;
        if entry.kind().is_none() || entry.generation() != handle.generation() {
            // This process has said goodbye meanwhile.
            drop(txn);
            self.free_block(at)?;
            return Err(ShmError::Gone);
        }
        txn.set(
            &entry.refs,
            entry.refs.load(Ordering::Relaxed).wrapping_add(1),
        );
        txn.set(&self.block(at)?.owner, mine.with(BlockOwner::TICKET).word());
        crash_point!("ticket.counted");
        txn.commit();
        Ok(at)
    }

    /// A handle to the object that a ticket of this process stands for. The ticket stays valid until it is freed.
    pub fn redeem(&'static self, at: u64) -> Result<Handle, ShmError> {
        let owner = BlockOwner::from_word(self.block(at)?.owner.load(Ordering::Acquire));
        if !owner.has(BlockOwner::TICKET) {
            return Err(Corrupt("a block that should be a ticket is none").into());
        }
        let word = self.segment().at::<AtomicU64>(at)?.load(Ordering::Relaxed);
        self.hold(word as u32, (word >> 32) as u32)
    }

    /// Takes a ticket's reference back, so that the block is an ordinary one. False if it has to be put off.
    pub(crate) fn void_ticket(&'static self, at: u64) -> Result<bool, ShmError> {
        let word: &'static AtomicU64 = self.segment().at(at)?;
        let record = self.block(at)?;
        let me = self.me()?;
        let Some(mut txn) = self.enter_to_free(&self.header().objects_guard)? else {
            self.discard(record);
            return Ok(false);
        };
        let owner = BlockOwner::from_word(record.owner.load(Ordering::Acquire));
        if !owner.has(BlockOwner::TICKET) {
            return Ok(true);
        }
        let index = word.load(Ordering::Relaxed) as u32;
        txn.set(&record.owner, owner.with_flags_of(BlockOwner::FREE).word());
        let dying = self.release(&mut txn, index, me)?;
        crash_point!("ticket.voided");
        txn.commit();
        if dying {
            self.destroy(index)?;
        }
        Ok(true)
    }
}

//! Giving back what a dead process held.
//!
//! Any member does it: whoever waits looks for dead members now and then, and whoever reaps a child says so at once. One at a
//! time does the work, under the recovery guard, and each step can be done again if that one dies too. The order matters:
//!
//! 1. the guards: sections that the dead process left are undone, so that every word is committed;
//! 2. the holds: each object is told, then released;
//! 3. objects that it was destroying are destroyed;
//! 4. blocks: those that are still its own belong to nobody else, and are freed; not before all of 1 is done, as undoing a
//!    section may give one back to somebody else. Until then the slot stays as it is, and whoever looks next goes on;
//! 5. the slot is given back.
//!
//! None of this waits for long for a process that is stopped in the middle of a change. What cannot be done is put off, by
//! leaving the slot, or by discarding a block that nobody has; whoever looks next goes on.

use std::cell::Cell;

use procession_sys::clock::now_ns;

use crate::arena::BlockOwner;
use crate::bundle;
use crate::crash_point;
use crate::error::{Corrupt, ShmError};
use crate::guard::{Guard, Txn};
use crate::objects::{Entry, KindOps};
use crate::primitive::Ordering;
use crate::processes::{Owner, Slot, State};
use crate::session::Session;

/// How often, at most, one looks for dead members without a reason.
const SWEEP_EVERY_NS: u64 = 25_000_000;

thread_local! {
    static PACE: Cell<Pace> = const { Cell::new(Pace::Calm) };
}

/// How this thread frees things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// However long it takes; what it waits for is short.
    Calm,
    /// It recovers: not waiting for long.
    Brisk,
    /// It recovers, and somebody is stopped in its way.
    HeldUp,
}

impl Session {
    /// Looks for members that have died, unless somebody just did, and recovers what they held.
    pub fn sweep(&'static self) -> Result<(), ShmError> {
        if self.current().is_none() {
            return Ok(());
        }
        let now = now_ns();
        let last = self.header().last_sweep_ns.load(Ordering::Relaxed);
        if now.saturating_sub(last) < SWEEP_EVERY_NS {
            return Ok(());
        }
        self.header().last_sweep_ns.store(now, Ordering::Relaxed);
        self.trim_if_idle()?;
        let called = self.header().calls.load(Ordering::SeqCst)
            != self.header().calls_seen.load(Ordering::SeqCst);
        if called || self.slots().any(|(_, slot)| self.is_lost(slot)) {
            self.recover_now()?;
        }
        Ok(())
    }

    /// Recovers what dead members held, now. Returns at once if somebody else is at it, or if something has to be put off
    /// until a process that is stopped in the middle of a change goes on: whoever looks next tries again.
    pub fn recover_now(&'static self) -> Result<(), ShmError> {
        let Some(_one_at_a_time) = self.header().recovery_guard.try_lock(self)? else {
            return Ok(());
        };
        let recovered = self.recover_in_turn();
        PACE.set(Pace::Calm);
        recovered
    }

    fn recover_in_turn(&'static self) -> Result<(), ShmError> {
        let me = self.me()?;
        let header = self.header();
        loop {
            let calls = header.calls.load(Ordering::SeqCst);
            let mut any = calls != header.calls_seen.load(Ordering::SeqCst);
            for (number, slot) in self.slots() {
                let state = slot.state.load(Ordering::Acquire);
                if number != me.slot() && self.is_lost(slot) {
                    // Unless it has come in at this very moment.
                    any |= slot
                        .state
                        .compare_exchange(
                            state,
                            State::Dying as u64,
                            Ordering::AcqRel,
                            Ordering::Relaxed,
                        )
                        .is_ok();
                }
            }
            if !any {
                return Ok(());
            }
            PACE.set(Pace::Brisk);
            let settled = self.settle_guards()?;
            crash_point!("recover.settled");
            let mut put_off = !settled;
            for (number, slot) in self.slots() {
                if slot.state() != State::Dying || number == me.slot() {
                    continue;
                }
                let Some(dead) = self.owner_in(number) else {
                    slot.state.store(State::Free as u64, Ordering::Release);
                    continue;
                };
                match self.bury(dead, slot, settled) {
                    Err(ShmError::Busy) => put_off = true,
                    buried => buried?,
                }
            }
            if settled {
                self.destroy_abandoned()?;
                // What a section had moved away from its dead owner is the owner's again since it was undone.
                self.free_blocks_of_the_dead()?;
                header.calls_seen.store(calls, Ordering::SeqCst);
            }
            let before = header.calls.load(Ordering::SeqCst);
            if !self.wake_everybody()? {
                // The dead may all be buried by now.
                self.call_for_recovery();
            }
            // What could not be done just now is for whoever looks next.
            put_off |= header.calls.load(Ordering::SeqCst) != before;
            if put_off {
                return Ok(());
            }
        }
    }

    /// `Busy` if not everything can be done now. `settled`: no section is left half done, by whomever.
    fn bury(
        &'static self,
        dead: Owner,
        slot: &'static Slot,
        settled: bool,
    ) -> Result<(), ShmError> {
        let abnormal = !slot.has_said_goodbye();
        self.drop_holds(dead, abnormal)?;
        crash_point!("recover.holds");
        self.destroy_abandoned()?;
        crash_point!("recover.destroyed");
        if !settled {
            // A block that is its own now may be somebody else's again.
            return Err(ShmError::Busy);
        }
        self.free_all_of(dead)?;
        crash_point!("recover.blocks");
        if abnormal {
            self.header().deaths.fetch_add(1, Ordering::Relaxed);
        }
        slot.state.store(State::Gone as u64, Ordering::Release);
        Ok(())
    }

    /// False if a section is left that cannot be undone yet.
    fn settle_guards(&'static self) -> Result<bool, ShmError> {
        let header = self.header();
        let mut settled = true;
        for guard in [&header.processes_guard, &header.objects_guard] {
            settled &= guard.settle(self)?;
        }
        // Blocks are to be freed, for which it has to be had.
        settled &= header.arena_guard.lock_soon(self)?.is_some();
        let reached = self.for_each_object(|kind, index, entry| {
            settled &= (kind.settle)(self, index, entry)?;
            Ok(())
        })?;
        Ok(settled && reached)
    }

    /// Enters a section in which something is freed. `None` if that has to be put off: the recovery waits for nobody who is
    /// stopped in such a section, and once it has met one, not at all. (Other threads of this process do the same meanwhile,
    /// which is no harm.)
    pub(crate) fn enter_to_free(
        &'static self,
        guard: &'static Guard,
    ) -> Result<Option<Txn<'static>>, Corrupt> {
        match PACE.get() {
            Pace::Calm => guard.lock(self).map(Some),
            Pace::Brisk => {
                let txn = guard.lock_soon(self)?;
                if txn.is_none() {
                    PACE.set(Pace::HeldUp);
                }
                Ok(txn)
            }
            Pace::HeldUp => guard.try_lock(self),
        }
    }

    /// Every sleeper looks again: a peer may have died between its commit and the wake-up. False if that has to be tried again.
    fn wake_everybody(&'static self) -> Result<bool, ShmError> {
        self.for_each_object(|kind, index, entry| (kind.wake)(self, index, entry))
    }

    /// Calls `f` for each object, which is kept meanwhile: whoever has the last handle to it may drop that at any time, and the
    /// object's memory would be somebody else's. False if not all could be reached.
    fn for_each_object(
        &'static self,
        mut f: impl FnMut(&KindOps, u32, &'static Entry) -> Result<(), ShmError>,
    ) -> Result<bool, ShmError> {
        for (index, entry) in self.entries() {
            // What stands for another one has nothing to be done to, and whether it exists is of interest to others.
            if entry.kind().is_none() || entry.link.load(Ordering::Relaxed) != 0 {
                continue;
            }
            match self.keep(Some(index)) {
                Ok(Some(kind)) => {
                    crash_point!("recover.kept");
                    f(self.kind(kind)?, index, entry)?;
                }
                Ok(None) => {}
                Err(ShmError::Busy) => return Ok(false),
                Err(other) => return Err(other),
            }
        }
        match self.keep(None) {
            Err(ShmError::Busy) => Ok(false),
            kept => kept.map(|_| true),
        }
    }

    /// Keeps an object instead of the one that was kept before; for whoever has the recovery guard. Its kind, if it exists.
    fn keep(&'static self, index: Option<u32>) -> Result<Option<u8>, ShmError> {
        let (me, kept) = (self.me()?, &self.header().object_kept);
        let txn = self.header().objects_guard.lock_soon(self)?;
        let mut txn = txn.ok_or(ShmError::Busy)?;
        let before = kept.load(Ordering::Relaxed).checked_sub(1);
        let (mut kind, mut now) = (None, 0);
        if let Some(index) = index {
            let entry = self.entry(index)?;
            kind = entry.kind();
            if kind.is_some() {
                let refs = entry.refs.load(Ordering::Relaxed);
                txn.set(&entry.refs, refs.wrapping_add(1));
                now = u64::from(index) + 1;
            }
        }
        txn.set(kept, now);
        let before = before.map(|index| index as u32);
        let dying = match before {
            Some(index) if self.entry(index)?.kind().is_some() => {
                self.release(&mut txn, index, me)?
            }
            _ => false,
        };
        crash_point!("recover.keep.set");
        txn.commit();
        if let Some(index) = before.filter(|_| dying) {
            self.destroy(index)?;
        }
        Ok(kind)
    }

    /// Frees all blocks that a process owns.
    pub(crate) fn free_all_of(&'static self, owner: Owner) -> Result<(), ShmError> {
        self.free_blocks_of(BlockOwner::process(owner), 0)
    }

    /// Frees all blocks of an owner but the one at `except`.
    pub(crate) fn free_blocks_of(
        &'static self,
        owner: BlockOwner,
        except: u64,
    ) -> Result<(), ShmError> {
        let mut found = Vec::new();
        self.for_each_block(|at, of| {
            if of.same_as(owner) && at != except {
                found.push(at);
            }
        })?;
        for at in found {
            self.free_block(at)?;
        }
        Ok(())
    }

    fn free_blocks_of_the_dead(&'static self) -> Result<(), ShmError> {
        let mut found = Vec::new();
        self.for_each_block(|at, of| {
            let is_dead = |owner: Owner| {
                let slot = self.slot_of(owner);
                slot.is_none_or(|s| matches!(s.state(), State::Gone | State::Free))
            };
            if of.same_as(BlockOwner::DISCARDED) || of.as_process().is_some_and(is_dead) {
                found.push(at);
            }
        })?;
        for at in found {
            self.free_block(at)?;
        }
        Ok(())
    }

    /// Gives a block back with all that it stands for: a ticket's reference, the blocks of a bundle.
    pub fn free_block(&'static self, at: u64) -> Result<(), ShmError> {
        let mut all = vec![at];
        while let Some(at) = all.pop() {
            let owner = BlockOwner::from_word(self.block(at)?.owner.load(Ordering::Acquire));
            if owner.has(BlockOwner::MANIFEST) {
                // They become ours one by one, so that they are found if we die before we have freed them.
                bundle::disown(self, at, BlockOwner::process(self.me()?), &mut all)?;
            }
            if !owner.has(BlockOwner::TICKET) || self.void_ticket(at)? {
                self.free_raw(at)?;
            }
        }
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::processes::Role;

    #[test]
    fn places_of_plain_forks_are_used_again() {
        let session = crate::kinds::create("forks-test", Some(1 << 30)).unwrap();
        let mut places = std::collections::HashSet::new();
        for _ in 0..3 {
            let forked = session.reserve("", Role::Forked).unwrap();
            let slot = session.slot_of(forked).unwrap();
            slot.state.store(State::Dying as u64, Ordering::SeqCst);
            session.recover_now().unwrap();
            assert!(slot.state() == State::Gone);
            places.insert(forked.slot());
        }
        assert_eq!(places.len(), 1);
    }
}

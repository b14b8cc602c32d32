//! Many values that change hands at once.
//!
//! A section may change a few words only, and each block has an owner word. So the blocks of many new values are bound to
//! a bundle, whose one owner word is changed in the section that makes them part of the store; the section also sets
//! `adrift`. After it, still under the guard, the blocks are given to the store one by one, the bundle goes, and so do the
//! values that were replaced; then `adrift` is cleared. Whoever enters the guard and finds it set knows that somebody died
//! in between, and looks through all blocks for what belongs to the store: what is a bundle and not part of a value is
//! opened, and what then is not part of any value is freed.

use std::collections::HashSet;

use crate::arena::BlockOwner;
use crate::bundle::{self, Part};
use crate::crash_point;
use crate::error::{Corrupt, ShmError};
use crate::guard::Txn;
use crate::primitive::Ordering;
use crate::session::Session;

use super::value::{Stored, block_of};
use super::{Store, StoreBody};

/// Blocks that a section takes over by their own words.
const FEW: usize = 3;
/// Members of one bundle; larger batches have bundles of bundles.
const MEMBERS: usize = 1 << 16;

/// New values, not in a store yet.
#[derive(Debug)]
pub struct Batch {
    session: &'static Session,
    pub(super) words: Vec<[u64; 2]>,
    /// Blocks of this process, which go with the batch: those of the values, or the bundle of them.
    owned: Vec<u64>,
    /// How many layers of bundles there are.
    depth: u32,
}

impl Batch {
    /// Makes a batch of values.
    pub fn new(session: &'static Session, values: Vec<Stored>) -> Result<Self, ShmError> {
        let mut batch = Self {
            session,
            words: Vec::with_capacity(values.len()),
            owned: values.iter().filter_map(Stored::block).collect(),
            depth: 0,
        };
        for mut value in values {
            batch.words.push(value.forget());
        }
        while batch.owned.len() > FEW {
            batch.bind()?;
        }
        Ok(batch)
    }

    /// Replaces the blocks by bundles of them.
    fn bind(&mut self) -> Result<(), ShmError> {
        let mut bundles = Vec::new();
        while !self.owned.is_empty() {
            let from = self.owned.len().saturating_sub(MEMBERS);
            let parts: Vec<Part> = self.owned[from..]
                .iter()
                .map(|at| Part { at: *at, len: 0 })
                .collect();
            match bundle::bind(self.session, &parts) {
                Ok(at) => bundles.push(at),
                Err(error) => {
                    self.owned.append(&mut bundles);
                    return Err(error);
                }
            }
            self.owned.truncate(from);
        }
        self.owned = bundles;
        self.depth += 1;
        Ok(())
    }

    /// Values in it.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Does handing it over leave something to do after the commit?
    pub(super) fn is_deep(&self) -> bool {
        self.depth > 0
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        for at in self.owned.drain(..) {
            // An error means a corrupt session, and then there is nobody to tell.
            let _ = self.session.free_block(at);
        }
    }
}

impl Store {
    /// In a section: the batch is the store's from its commit on. To be followed by [`Store::adopt`].
    pub(super) fn take_over(&self, txn: &mut Txn<'static>, batch: &Batch) -> Result<(), Corrupt> {
        for at in &batch.owned {
            self.give(txn, *at, self.home())?;
        }
        if batch.depth > 0 {
            txn.set(&self.body.adrift, 1);
        }
        Ok(())
    }

    /// After the commit: the blocks of the batch are the store's own.
    pub(super) fn adopt(&self, batch: &mut Batch) -> Result<(), ShmError> {
        let mut layer = std::mem::take(&mut batch.owned);
        for _ in 0..batch.depth {
            let mut members = Vec::new();
            for at in layer {
                self.open(at, &mut members)?;
            }
            layer = members;
        }
        batch.words.clear();
        Ok(())
    }

    /// After the commit: frees blocks that are the store's and not part of it any more.
    pub(super) fn free_gone(&self, gone: &[u64]) -> Result<(), ShmError> {
        for at in gone {
            let word = &self.session().block(*at)?.owner;
            let old = BlockOwner::from_word(word.load(Ordering::Relaxed));
            if old.same_as(self.home()) {
                let mine = self.mine()?.with_flags_of(old);
                word.store(mine.word(), Ordering::Release);
                crash_point!("store.batch.taken");
            }
            free_own(self.session(), *at)?;
        }
        Ok(())
    }

    /// Opens a bundle of the store's: its members are the store's own.
    fn open(&self, at: u64, members: &mut Vec<u64>) -> Result<(), ShmError> {
        let session = self.session();
        bundle::disown(session, at, self.home(), members)?;
        crash_point!("store.batch.opened");
        session
            .block(at)?
            .owner
            .store(self.mine()?.word(), Ordering::Release);
        session.free_raw(at)
    }

    /// After a death: no block of the store's is without a value that has it.
    pub(super) fn mend(
        &self,
        reach: impl Fn(&mut HashSet<u64>) -> Result<(), Corrupt>,
    ) -> Result<(), ShmError> {
        let session = self.session();
        let mut reached = HashSet::new();
        reached.insert(session.segment().offset_of::<StoreBody>(self.body));
        reach(&mut reached)?;
        loop {
            let mut loose = Vec::new();
            session.for_each_block(|at, owner| {
                if owner.same_as(self.home()) && !reached.contains(&at) {
                    loose.push((at, owner.has(BlockOwner::MANIFEST)));
                }
            })?;
            let bundles: Vec<u64> = loose.iter().filter(|l| l.1).map(|l| l.0).collect();
            for at in &bundles {
                self.open(*at, &mut Vec::new())?;
            }
            crash_point!("store.mend.opened");
            if bundles.is_empty() {
                let gone: Vec<u64> = loose.into_iter().map(|l| l.0).collect();
                return self.free_gone(&gone);
            }
        }
    }
}

/// Frees a block that this process has taken back.
pub(super) fn free_own(session: &'static Session, at: u64) -> Result<(), ShmError> {
    session.free_block(at)
}

/// The blocks behind some values.
pub(super) fn blocks(words: impl Iterator<Item = [u64; 2]>) -> Vec<u64> {
    words.filter_map(block_of).collect()
}

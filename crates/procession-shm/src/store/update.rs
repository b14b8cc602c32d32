//! Changes of a map that concern many entries: growing, and putting in many keys as one.
//!
//! An update is written down first: its entries, in the form of a table, in a block of their own. One section makes that
//! block and the values the map's; then the entries are put in one after the other, each in a section that also counts it.
//! If somebody dies in between, whoever enters the guard next puts in the rest: an update happens as a whole or not at all.

use std::collections::HashSet;

use crate::crash_point;
use crate::error::{Corrupt, ShmError, WaitError};
use crate::guard::Txn;
use crate::primitive::{AtomicU64, Ordering};
use crate::session::Session;

use super::batch::{Batch, free_own};
use super::key::Key;
use super::list::set_words;
use super::map::Map;
use super::table::{Slot, Table};
use super::value::{self, OPAQUE, Stored, block_of};
use super::{Store, bump, size_of_block};

/// Keys and values that are to be put in as one.
#[derive(Debug)]
pub struct Update {
    session: &'static Session,
    batch: Batch,
    /// The block with the entries, while it is this process's.
    block: Option<u64>,
}

impl Update {
    /// Of keys, none of them opaque and no two equal, and their values.
    pub fn new(session: &'static Session, items: Vec<(Key<'_>, Stored)>) -> Result<Self, ShmError> {
        let hashes: Vec<u64> = items.iter().map(|(key, _)| key.hash).collect();
        let mut values = Vec::with_capacity(items.len() * 2);
        for (key, value) in items {
            values.push(key.store(session)?);
            values.push(value);
        }
        let batch = Batch::new(session, values)?;
        let mine = crate::arena::BlockOwner::process(session.me()?);
        let block = session.alloc(8 + hashes.len() as u64 * size_of::<Slot>() as u64, mine)?;
        let count: &'static AtomicU64 = session.segment().at(block)?;
        count.store(hashes.len() as u64, Ordering::Relaxed);
        for (number, (hash, words)) in (0..).zip(hashes.iter().zip(batch.words.chunks_exact(2))) {
            let slot = entry(session, block, number)?;
            slot.hash.store(*hash, Ordering::Relaxed);
            for (to, from) in slot.key.iter().chain(&slot.value).zip(words.concat()) {
                to.store(from, Ordering::Relaxed);
            }
        }
        Ok(Self {
            session,
            batch,
            block: Some(block),
        })
    }
}

impl Drop for Update {
    fn drop(&mut self) {
        if let Some(at) = self.block.take() {
            // An error means a corrupt session, and then there is nobody to tell.
            let _ = self.session.free_block(at);
        }
    }
}

/// Entry `number` of the update at `block`.
fn entry(session: &Session, block: u64, number: u64) -> Result<&'static Slot, Corrupt> {
    session
        .segment()
        .at(block + 8 + number * size_of::<Slot>() as u64)
}

/// The entries of the update at `block`.
fn length(session: &Session, block: u64) -> Result<u64, Corrupt> {
    let count: &'static AtomicU64 = session.segment().at(block)?;
    let count = count.load(Ordering::Relaxed);
    if count <= size_of_block(session, block)?.saturating_sub(8) / size_of::<Slot>() as u64 {
        Ok(count)
    } else {
        Err(Corrupt("an update is longer than its block"))
    }
}

impl Map {
    /// Puts in all that an update has; false, and nothing done, if the map has keys that only the caller can compare.
    pub fn update(&self, update: &mut Update) -> Result<bool, WaitError> {
        let (session, store) = (self.store.session(), &self.store);
        let Some(block) = update.block else {
            return Ok(true);
        };
        let mut txn = self.begin()?;
        if store.body.opaque.load(Ordering::Relaxed) != 0 {
            return Ok(false);
        }
        self.reserve(&mut txn, length(session, block)?)?;
        store.take_over(&mut txn, &update.batch)?;
        store.give(&mut txn, block, store.home())?;
        txn.set(&store.body.update, block);
        txn.set(&store.body.updated, 0);
        txn.set(&store.body.adrift, 1);
        crash_point!("store.update.ready");
        txn.checkpoint();
        crash_point!("store.update.committed");
        update.block = None;
        store.adopt(&mut update.batch)?;
        self.finish(&mut txn)?;
        store.at_rest(&mut txn);
        Ok(true)
    }

    /// Puts in what is left of an update that is committed.
    fn finish(&self, txn: &mut Txn<'static>) -> Result<(), ShmError> {
        let (session, body) = (self.store.session(), self.store.body);
        let block = body.update.load(Ordering::Relaxed);
        if block == 0 {
            return Ok(());
        }
        for number in body.updated.load(Ordering::Relaxed)..length(session, block)? {
            let new = entry(session, block, number)?;
            let (key, words) = (value::load(&new.key), value::load(&new.value));
            let hash = new.hash.load(Ordering::Relaxed);
            let mut gone = [None, None];
            if let Some(at) = self.find_stored(hash, key)? {
                let slot = self.live(at)?.1;
                gone = [block_of(key), block_of(value::load(&slot.value))];
                set_words(txn, &slot.value, words);
                bump(txn, &body.version);
            } else {
                self.add(txn, hash, key, words)?;
            }
            txn.set(&body.updated, number + 1);
            for at in gone.into_iter().flatten() {
                self.store.take_back(txn, at)?;
            }
            crash_point!("store.update.put");
            txn.checkpoint();
            crash_point!("store.update.put.committed");
            for at in gone.into_iter().flatten() {
                free_own(session, at)?;
            }
        }
        txn.set(&body.update, 0);
        self.store.take_back(txn, block)?;
        txn.checkpoint();
        crash_point!("store.update.done");
        free_own(session, block)
    }

    fn find_stored(&self, hash: u64, words: [u64; 2]) -> Result<Option<u64>, Corrupt> {
        if words[0] & OPAQUE != 0 {
            return Err(Corrupt("an update has a key that it cannot have"));
        }
        let inline = value::inline_bytes(words);
        let bytes = match &inline {
            Some((bytes, len)) => &bytes[..*len],
            None => value::block_bytes(self.store.session(), self.store.home(), words)?,
        };
        let mut key = Key::plain(super::table::identity(words, bytes)?);
        key.hash = hash;
        self.find(&key)
    }

    /// A table with room for `more` entries. Entries get new places: keys that are compared by the caller are looked for again.
    pub(super) fn reserve(&self, txn: &mut Txn<'static>, more: u64) -> Result<(), ShmError> {
        let (session, store) = (self.store.session(), &self.store);
        let body = store.body;
        let old = self.table()?;
        let (used, filled) = (
            body.used.load(Ordering::Relaxed),
            body.filled.load(Ordering::Relaxed),
        );
        if let Some(table) = old
            && used.max(filled).saturating_add(more) <= table.capacity
        {
            return Ok(());
        }
        let count = body.count.load(Ordering::Relaxed);
        if count > old.map_or(0, |t| t.capacity) {
            return Err(Corrupt("a map has more entries than places").into());
        }
        let wanted = count + more;
        let table = Table::make(session, store.mine()?, wanted + wanted / 2)?;
        crash_point!("store.map.grow");
        let mut number = 0;
        if let Some(old) = old {
            for from in 0..used.min(old.capacity) {
                let slot = old.slot(session, from)?;
                if slot.is_live() {
                    table.copy(session, slot, number)?;
                    number += 1;
                }
            }
        }
        txn.set(&body.table, table.at);
        txn.set(&body.used, number);
        txn.set(&body.filled, number);
        bump(txn, &body.epoch);
        store.give(txn, table.at, store.home())?;
        if let Some(old) = old {
            store.take_back(txn, old.at)?;
        }
        crash_point!("store.map.grown");
        txn.checkpoint();
        crash_point!("store.map.grown.committed");
        old.map_or(Ok(()), |old| free_own(session, old.at))
    }

    /// Takes all keys out.
    pub fn clear(&self) -> Result<(), WaitError> {
        let (session, store) = (self.store.session(), &self.store);
        let body = store.body;
        let mut txn = self.begin()?;
        let Some(table) = self.table()? else {
            return Ok(());
        };
        let mut gone = Vec::new();
        for number in 0..self.stamp().used.min(table.capacity) {
            let slot = table.slot(session, number)?;
            if slot.is_live() {
                gone.extend(block_of(value::load(&slot.key)));
                gone.extend(block_of(value::load(&slot.value)));
            }
        }
        for word in [&body.table, &body.used, &body.filled, &body.opaque] {
            txn.set(word, 0);
        }
        bump(&mut txn, &body.epoch);
        store.count_change(&mut txn, 0);
        store.take_back(&mut txn, table.at)?;
        if !gone.is_empty() {
            txn.set(&body.adrift, 1);
        }
        crash_point!("store.map.clear");
        txn.checkpoint();
        crash_point!("store.map.cleared");
        free_own(session, table.at)?;
        store.free_gone(&gone)?;
        store.at_rest(&mut txn);
        Ok(())
    }

    /// Somebody died in the middle of an update or of clearing the map.
    pub(super) fn mend(&self, txn: &mut Txn<'static>) -> Result<(), ShmError> {
        let (session, body) = (self.store.session(), self.store.body);
        self.store.mend(|reached: &mut HashSet<u64>| {
            if let Some(table) = self.table()? {
                reached.insert(table.at);
                for number in 0..self.stamp().used.min(table.capacity) {
                    reach(table.slot(session, number)?, reached);
                }
            }
            let update = body.update.load(Ordering::Relaxed);
            if update != 0 {
                reached.insert(update);
                for number in 0..length(session, update)? {
                    reach(entry(session, update, number)?, reached);
                }
            }
            Ok(())
        })?;
        self.finish(txn)?;
        self.store.at_rest(txn);
        Ok(())
    }
}

fn reach(slot: &Slot, reached: &mut HashSet<u64>) {
    if slot.is_live() {
        reached.extend(block_of(value::load(&slot.key)));
        reached.extend(block_of(value::load(&slot.value)));
    }
}

impl Table {
    /// Copies an entry of another table to place `number` of this one, which nobody else knows yet.
    fn copy(&self, session: &Session, from: &Slot, number: u64) -> Result<(), Corrupt> {
        let slot = self.slot(session, number)?;
        let hash = from.hash.load(Ordering::Relaxed);
        slot.hash.store(hash, Ordering::Relaxed);
        let pairs = slot.key.iter().zip(&from.key);
        for (to, from) in pairs.chain(slot.value.iter().zip(&from.value)) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        if from.key[0].load(Ordering::Relaxed) & OPAQUE == 0 {
            self.free_bucket(session, hash)?
                .store(super::table::bucket_word(hash, number), Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Store {
    /// The section in which blocks of many values changed hands is over.
    pub(super) fn at_rest(&self, txn: &mut Txn<'static>) {
        if self.body.adrift.load(Ordering::Relaxed) != 0 {
            txn.set(&self.body.adrift, 0);
            txn.checkpoint();
            crash_point!("store.batch.settled");
        }
    }
}

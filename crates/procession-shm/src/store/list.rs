//! The list: a row of slots with room at its end, and at its start once values were taken there.

use std::collections::HashSet;

use crate::arena::BlockOwner;
use crate::crash_point;
use crate::error::{Corrupt, ShmError, WaitError};
use crate::guard::Txn;
use crate::objects::Handle;
use crate::primitive::{AtomicU64, Ordering};
use crate::session::Session;

use super::batch::{Batch, blocks, free_own};
use super::value::{self, Stored, Take, Words, block_of};
use super::{Entered, LIST_OPS, Store, StoreBody, bump, free_if_ours, size_of_block};

/// Bytes of a slot.
const SLOT: u64 = 16;
/// Slots of the first table.
const FIRST: u64 = 8;

/// A list, held by this process.
#[derive(Debug, Clone)]
pub struct List {
    pub(super) store: Store,
}

/// A part of what a list becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// Values that it has, from..to.
    Old(u64, u64),
    /// Values of the batch, from..to.
    New(u64, u64),
}

/// A row of slots.
#[derive(Clone, Copy)]
struct Row {
    at: u64,
    capacity: u64,
}

impl Row {
    fn slot(self, session: &Session, number: u64) -> Result<&'static Words, Corrupt> {
        if number >= self.capacity {
            return Err(Corrupt("a slot lies outside its table"));
        }
        session.segment().at(self.at + number * SLOT)
    }

    fn write(self, session: &Session, number: u64, words: [u64; 2]) -> Result<(), Corrupt> {
        let slot = self.slot(session, number)?;
        slot[0].store(words[0], Ordering::Relaxed);
        slot[1].store(words[1], Ordering::Relaxed);
        Ok(())
    }
}

impl List {
    /// Makes one, empty.
    pub fn create(session: &'static Session, name: &str) -> Result<Self, ShmError> {
        Ok(Self {
            store: Store::create(session, &LIST_OPS, name)?,
        })
    }

    /// The list that a handle means.
    pub fn of(handle: Handle) -> Result<Self, ShmError> {
        Ok(Self {
            store: Store::of(handle, &LIST_OPS)?,
        })
    }

    /// The handle.
    pub fn handle(&self) -> &Handle {
        &self.store.handle
    }

    /// Has the process that made it ended?
    #[inline]
    pub fn is_orphan(&self) -> bool {
        self.store.is_orphan()
    }

    /// Values in it.
    #[inline]
    pub fn len(&self) -> u64 {
        self.store.body.count.load(Ordering::Acquire)
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    fn begin(&self) -> Entered {
        self.store.begin(mend)
    }

    fn row(&self) -> Result<Row, Corrupt> {
        row(&self.store)
    }

    fn span(&self) -> Result<(u64, u64), Corrupt> {
        span(self.store.session(), self.store.body)
    }

    /// The number of the slot of value `index`, which counts from the end if it is negative.
    fn place(&self, index: i64) -> Result<Option<u64>, Corrupt> {
        let (first, len) = self.span()?;
        let from_start = if index < 0 {
            len.checked_sub(index.unsigned_abs())
        } else {
            Some(index as u64).filter(|i| *i < len)
        };
        Ok(from_start.map(|i| first + i))
    }

    /// Shows value `index` to `take`; `None` if there is none.
    #[inline]
    pub fn get<T>(&self, index: i64, take: Take<'_, T>) -> Result<Option<T>, WaitError> {
        let _txn = self.begin()?;
        let Some(place) = self.place(index)? else {
            return Ok(None);
        };
        let words = value::load(self.row()?.slot(self.store.session(), place)?);
        let got = value::read(self.store.session(), self.store.home(), words, take)?;
        Ok(Some(got))
    }

    /// Replaces value `index`; false if there is none.
    #[inline]
    pub fn set(&self, index: i64, stored: &mut Stored) -> Result<bool, WaitError> {
        let store = &self.store;
        let mut txn = self.begin()?;
        let Some(place) = self.place(index)? else {
            return Ok(false);
        };
        let slot = self.row()?.slot(store.session(), place)?;
        let gone = store.replace(&mut txn, slot, stored)?;
        bump(&mut txn, &store.body.version);
        crash_point!("store.list.set");
        txn.commit();
        stored.forget();
        crash_point!("store.list.set.committed");
        Ok(gone
            .map_or(Ok(()), |at| free_own(store.session(), at))
            .map(|()| true)?)
    }

    /// Adds a value at the end.
    #[inline]
    pub fn push(&self, stored: &mut Stored) -> Result<(), WaitError> {
        let store = &self.store;
        let mut txn = self.begin()?;
        let (_, len) = self.span()?;
        let row = self.reserve(&mut txn, 1)?;
        let used = store.body.used.load(Ordering::Relaxed);
        row.write(store.session(), used, stored.words)?;
        crash_point!("store.list.written");
        if let Some(at) = stored.block() {
            store.give(&mut txn, at, store.home())?;
        }
        txn.set(&store.body.used, used + 1);
        store.count_change(&mut txn, len + 1);
        crash_point!("store.list.push");
        txn.commit();
        stored.forget();
        crash_point!("store.list.push.committed");
        Ok(())
    }

    /// Adds the values of a batch at the end.
    pub fn extend(&self, batch: &mut Batch) -> Result<(), WaitError> {
        let store = &self.store;
        let mut txn = self.begin()?;
        let (_, len) = self.span()?;
        let count = batch.len() as u64;
        let row = self.reserve(&mut txn, count)?;
        let used = store.body.used.load(Ordering::Relaxed);
        for (number, words) in (used..).zip(&batch.words) {
            row.write(store.session(), number, *words)?;
        }
        store.take_over(&mut txn, batch)?;
        txn.set(&store.body.used, used + count);
        store.count_change(&mut txn, len + count);
        crash_point!("store.list.extend");
        txn.checkpoint();
        crash_point!("store.list.extend.committed");
        store.adopt(batch)?;
        store.at_rest(&mut txn);
        Ok(())
    }

    /// Takes value `index` out, shown to `take` before; `None` if there is none.
    pub fn pop<T>(&self, index: i64, take: Take<'_, T>) -> Result<Option<T>, WaitError> {
        let store = &self.store;
        let session = store.session();
        let mut txn = self.begin()?;
        let Some(place) = self.place(index)? else {
            return Ok(None);
        };
        let (first, len) = self.span()?;
        let words = value::load(self.row()?.slot(session, place)?);
        let got = value::read(session, store.home(), words, take)?;
        if place != first && place != first + len - 1 {
            let at = place - first;
            self.rebuild(&mut txn, &[Run::Old(0, at), Run::Old(at + 1, len)], None)?;
            return Ok(Some(got));
        }
        if place == first {
            txn.set(&store.body.first, first + 1);
        } else {
            txn.set(&store.body.used, place);
        }
        store.count_change(&mut txn, len - 1);
        let gone = block_of(words);
        if let Some(at) = gone {
            store.take_back(&mut txn, at)?;
        }
        crash_point!("store.list.pop");
        txn.commit();
        crash_point!("store.list.pop.committed");
        if let Some(at) = gone {
            free_own(session, at)?;
        }
        Ok(Some(got))
    }

    /// Puts the value of a batch of one before value `index`; one that is out of range means the nearest end.
    pub fn insert(&self, index: i64, batch: &mut Batch) -> Result<(), WaitError> {
        let mut txn = self.begin()?;
        let (_, len) = self.span()?;
        let at = match index {
            i if i < 0 => len.saturating_sub(i.unsigned_abs()),
            i => (i as u64).min(len),
        };
        let plan = [Run::Old(0, at), Run::New(0, 1), Run::Old(at, len)];
        Ok(self.rebuild(&mut txn, &plan, Some(batch))?)
    }

    /// Makes the list what `plan` says, if it has not changed since `version`; else false. No value may be planned twice.
    pub fn splice(&self, version: u64, plan: &[Run], batch: &mut Batch) -> Result<bool, WaitError> {
        let mut txn = self.begin()?;
        if self.store.body.version.load(Ordering::Relaxed) != version {
            return Ok(false);
        }
        self.rebuild(&mut txn, plan, Some(batch))?;
        Ok(true)
    }

    /// Shows all values to `take`, in order; their version.
    pub fn snapshot(&self, take: Take<'_, ()>) -> Result<u64, WaitError> {
        let _txn = self.begin()?;
        let (first, len) = self.span()?;
        if len > 0 {
            let (session, row) = (self.store.session(), self.row()?);
            for number in first..first + len {
                let words = value::load(row.slot(session, number)?);
                value::read(session, self.store.home(), words, take)?;
            }
        }
        Ok(self.store.body.version.load(Ordering::Relaxed))
    }

    /// A table with room for `more` values at its end.
    fn reserve(&self, txn: &mut Txn<'static>, more: u64) -> Result<Row, ShmError> {
        let body = self.store.body;
        let used = body.used.load(Ordering::Relaxed);
        if body.table.load(Ordering::Relaxed) != 0 {
            let row = self.row()?;
            if row.capacity.saturating_sub(used) >= more {
                return Ok(row);
            }
        }
        let (first, len) = self.span()?;
        let (row, old) = self.copy_row(len + more + len / 2)?;
        for i in 0..len {
            let words = value::load(self.row()?.slot(self.store.session(), first + i)?);
            row.write(self.store.session(), i, words)?;
        }
        crash_point!("store.list.copied");
        self.put_row(txn, row, old, len)?;
        txn.checkpoint();
        crash_point!("store.list.grown");
        if let Some(old) = old {
            free_own(self.store.session(), old)?;
        }
        Ok(row)
    }

    /// A fresh table of this process, and the one that it is to replace.
    fn copy_row(&self, capacity: u64) -> Result<(Row, Option<u64>), ShmError> {
        let session = self.store.session();
        let len = capacity.max(FIRST) * SLOT;
        let at = session.alloc(len, self.store.mine()?)?;
        let capacity = session.block_size(at)? / SLOT;
        let old = self.store.body.table.load(Ordering::Relaxed);
        Ok((Row { at, capacity }, (old != 0).then_some(old)))
    }

    /// In a section: the row, which has `len` values, is the list's table.
    fn put_row(
        &self,
        txn: &mut Txn<'static>,
        row: Row,
        old: Option<u64>,
        len: u64,
    ) -> Result<(), ShmError> {
        let store = &self.store;
        txn.set(&store.body.table, row.at);
        txn.set(&store.body.first, 0);
        txn.set(&store.body.used, len);
        store.give(txn, row.at, store.home())?;
        if let Some(old) = old {
            store.take_back(txn, old)?;
        }
        Ok(())
    }

    /// Replaces the table by one with what `plan` says, and frees the values that it leaves out.
    fn rebuild(
        &self,
        txn: &mut Txn<'static>,
        plan: &[Run],
        batch: Option<&mut Batch>,
    ) -> Result<(), ShmError> {
        let store = &self.store;
        let session = store.session();
        let (first, len) = self.span()?;
        let total: u64 = plan
            .iter()
            .map(|run| match run {
                Run::Old(a, b) | Run::New(a, b) => b.saturating_sub(*a),
            })
            .sum();
        let mut kept = vec![false; usize::try_from(len).unwrap_or(0)];
        let (row, old) = self.copy_row(total + total / 8)?;
        let filled = (|| {
            let mut number = 0;
            for run in plan {
                let (from, to) = match *run {
                    Run::Old(from, to) | Run::New(from, to) => (from, to),
                };
                for i in from..to {
                    let words = match run {
                        Run::Old(..) => match kept.get_mut(i as usize) {
                            Some(kept) if !*kept => {
                                *kept = true;
                                value::load(self.row()?.slot(session, first + i)?)
                            }
                            _ => return Err(Corrupt("a value is planned for two places")),
                        },
                        Run::New(..) => *batch
                            .as_deref()
                            .and_then(|b| b.words.get(i as usize))
                            .ok_or(Corrupt("a new value is planned that there is not"))?,
                    };
                    row.write(session, number, words)?;
                    number += 1;
                }
            }
            Ok(())
        })();
        if let Err(error) = filled {
            free_own(session, row.at)?;
            return Err(error.into());
        }
        crash_point!("store.list.planned");
        let mut gone = Vec::new();
        for (i, _) in kept.iter().enumerate().filter(|(_, kept)| !**kept) {
            let words = value::load(self.row()?.slot(session, first + i as u64)?);
            gone.extend(block_of(words));
        }
        self.put_row(txn, row, old, total)?;
        store.count_change(txn, total);
        if let Some(batch) = batch.as_deref() {
            store.take_over(txn, batch)?;
        }
        if let [one] = gone[..] {
            store.take_back(txn, one)?;
        } else if !gone.is_empty() && batch.as_deref().is_none_or(|b| !b.is_deep()) {
            txn.set(&store.body.adrift, 1);
        }
        crash_point!("store.list.replaced");
        txn.checkpoint();
        crash_point!("store.list.replaced.committed");
        if let Some(old) = old {
            free_own(session, old)?;
        }
        if let Some(batch) = batch {
            store.adopt(batch)?;
        }
        store.free_gone(&gone)?;
        store.at_rest(txn);
        Ok(())
    }
}

impl Store {
    /// In a section: `stored` takes the place of what is in the slot, whose block is to be freed after the commit.
    pub(super) fn replace(
        &self,
        txn: &mut Txn<'static>,
        slot: &'static Words,
        stored: &Stored,
    ) -> Result<Option<u64>, ShmError> {
        let gone = block_of(value::load(slot));
        if let Some(at) = stored.block() {
            self.give(txn, at, self.home())?;
        }
        if let Some(at) = gone {
            self.take_back(txn, at)?;
        }
        set_words(txn, slot, stored.words);
        Ok(gone)
    }
}

pub(super) fn set_words(txn: &mut Txn<'static>, slot: &'static [AtomicU64; 2], words: [u64; 2]) {
    txn.set(&slot[0], words[0]);
    txn.set(&slot[1], words[1]);
}

fn row(store: &Store) -> Result<Row, Corrupt> {
    row_of(store.session(), store.body)
}

fn row_of(session: &Session, body: &StoreBody) -> Result<Row, Corrupt> {
    let at = body.table.load(Ordering::Relaxed);
    let capacity = size_of_block(session, at)? / SLOT;
    Ok(Row { at, capacity })
}

/// The first slot and the number of values.
fn span(session: &Session, body: &StoreBody) -> Result<(u64, u64), Corrupt> {
    let first = body.first.load(Ordering::Relaxed);
    let used = body.used.load(Ordering::Relaxed);
    if body.table.load(Ordering::Relaxed) == 0 && used == 0 && first == 0 {
        return Ok((0, 0));
    }
    match used.checked_sub(first) {
        Some(len) if used <= row_of(session, body)?.capacity => Ok((first, len)),
        _ => Err(Corrupt("a list's ends are in no order")),
    }
}

fn mend(store: &Store, txn: &mut Txn<'static>) -> Result<(), ShmError> {
    let (first, len) = span(store.session(), store.body)?;
    store.mend(|reached: &mut HashSet<u64>| {
        if store.body.table.load(Ordering::Relaxed) != 0 {
            let row = row(store)?;
            reached.insert(row.at);
            for number in first..first + len {
                reached.extend(block_of(value::load(row.slot(store.session(), number)?)));
            }
        }
        Ok(())
    })?;
    store.at_rest(txn);
    Ok(())
}

/// Frees what a list has. Whoever does it again, after a death, may find that what the words name is long another's.
pub(super) fn destroy(
    session: &'static Session,
    index: u32,
    body: &'static StoreBody,
) -> Result<(), ShmError> {
    let home = BlockOwner::object(index);
    let is_ours = |at| {
        session
            .block(at)
            .is_ok_and(|r| BlockOwner::from_word(r.owner.load(Ordering::Acquire)).same_as(home))
    };
    let table = body.table.load(Ordering::Relaxed);
    if body.adrift.load(Ordering::Relaxed) == 0 && (table == 0 || is_ours(table)) {
        if table == 0 {
            return Ok(());
        }
        if let (Ok(row), Ok((first, len))) = (row_of(session, body), span(session, body)) {
            let words = (first..first + len).map_while(|i| row.slot(session, i).ok());
            for at in blocks(words.map(value::load)) {
                free_if_ours(session, home, at)?;
            }
            crash_point!("store.list.destroyed");
            return free_if_ours(session, home, table);
        }
    }
    // The walk is only the quick way: what it would miss is found by its owner.
    session.free_blocks_of(home, session.segment().offset_of(body))
}

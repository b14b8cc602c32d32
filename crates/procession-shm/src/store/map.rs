//! The map: finding, setting and removing; see `table.rs` for what stands where.

use crate::crash_point;
use crate::error::{Corrupt, ShmError, WaitError};
use crate::guard::Txn;
use crate::objects::Handle;
use crate::primitive::Ordering;
use crate::session::Session;

use super::batch::free_own;
use super::key::Key;
use super::table::{REMOVED, Table, bucket_word, split};
use super::value::{self, Content, OPAQUE, SHOWN, Stored, Take, block_of};
use super::{Entered, MAP_OPS, Store, bump};

/// A map, held by this process.
#[derive(Debug, Clone)]
pub struct Map {
    pub(super) store: Store,
}

/// Which keys a map has: the same while these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// Counts removals.
    pub epoch: u64,
    /// Entries so far.
    pub used: u64,
}

/// What an operation is about.
#[derive(Debug, Clone, Copy)]
pub enum Target<'k> {
    /// A key, to be found by its identity.
    Key(&'k Key<'k>),
    /// A key that the caller has compared with all keys as of a stamp, and found at this place, or not at all.
    Known(&'k Key<'k>, Option<u64>, Stamp),
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<T> {
    /// The key is there.
    Found(T),
    /// It is not (or was not, before it was set).
    Absent,
    /// Bytes do not tell: the caller has to compare keys (again) and to come back with [`Target::Known`].
    Unsure,
}

/// What a snapshot shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The key of the entry at this place.
    Key(u64),
    /// The value that belongs to the key before it.
    Value,
}

impl Map {
    /// Makes one, empty.
    pub fn create(session: &'static Session, name: &str) -> Result<Self, ShmError> {
        Ok(Self {
            store: Store::create(session, &MAP_OPS, name)?,
        })
    }

    /// The map that a handle means.
    pub fn of(handle: Handle) -> Result<Self, ShmError> {
        Ok(Self {
            store: Store::of(handle, &MAP_OPS)?,
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

    /// Keys in it.
    pub fn len(&self) -> u64 {
        self.store.body.count.load(Ordering::Acquire)
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    pub(super) fn begin(&self) -> Entered {
        self.store.begin(|store, txn| {
            let map = Self {
                store: store.clone(),
            };
            map.mend(txn)
        })
    }

    pub(super) fn table(&self) -> Result<Option<Table>, Corrupt> {
        match self.store.body.table.load(Ordering::Relaxed) {
            0 => Ok(None),
            at => Table::read(self.store.session(), at).map(Some),
        }
    }

    pub(super) fn stamp(&self) -> Stamp {
        Stamp {
            epoch: self.store.body.epoch.load(Ordering::Relaxed),
            used: self.store.body.used.load(Ordering::Relaxed),
        }
    }

    /// The entry that is meant.
    #[inline]
    fn locate(&self, target: Target<'_>) -> Result<Outcome<u64>, Corrupt> {
        let found = match target {
            Target::Key(key) if key.opaque => {
                return Ok(if self.store.body.count.load(Ordering::Relaxed) == 0 {
                    Outcome::Absent
                } else {
                    Outcome::Unsure
                });
            }
            Target::Key(key) => match self.find(key)? {
                None if self.store.body.opaque.load(Ordering::Relaxed) != 0 => {
                    return Ok(Outcome::Unsure);
                }
                found => found,
            },
            Target::Known(_, _, stamp) if stamp != self.stamp() => return Ok(Outcome::Unsure),
            Target::Known(_, at, _) => at,
        };
        Ok(found.map_or(Outcome::Absent, Outcome::Found))
    }

    #[inline]
    pub(super) fn find(&self, key: &Key<'_>) -> Result<Option<u64>, Corrupt> {
        match self.table()? {
            Some(table) => table.find(self.store.session(), self.store.home(), key),
            None => Ok(None),
        }
    }

    pub(super) fn live(
        &self,
        number: u64,
    ) -> Result<(Table, &'static super::table::Slot), Corrupt> {
        let table = self.table()?.ok_or(Corrupt("an entry of no table"))?;
        let slot = table.slot(self.store.session(), number)?;
        if number < self.stamp().used && slot.is_live() {
            Ok((table, slot))
        } else {
            Err(Corrupt("an entry is none"))
        }
    }

    /// Is the key there?
    pub fn contains(&self, target: Target<'_>) -> Result<Outcome<()>, WaitError> {
        let _txn = self.begin()?;
        Ok(match self.locate(target)? {
            Outcome::Found(_) => Outcome::Found(()),
            Outcome::Absent => Outcome::Absent,
            Outcome::Unsure => Outcome::Unsure,
        })
    }

    /// Shows the value of a key to `take`.
    #[inline]
    pub fn get<T>(&self, target: Target<'_>, take: Take<'_, T>) -> Result<Outcome<T>, WaitError> {
        let _txn = self.begin()?;
        match self.locate(target)? {
            Outcome::Found(number) => Ok(Outcome::Found(self.show(number, take)?)),
            Outcome::Absent => Ok(Outcome::Absent),
            Outcome::Unsure => Ok(Outcome::Unsure),
        }
    }

    #[inline]
    fn show<T>(&self, number: u64, take: Take<'_, T>) -> Result<T, ShmError> {
        let words = value::load(&self.live(number)?.1.value);
        value::read(self.store.session(), self.store.home(), words, take)
    }

    fn show_key<T>(&self, number: u64, take: Take<'_, T>) -> Result<T, ShmError> {
        let words = value::load(&self.live(number)?.1.key);
        if words[0] & SHOWN == 0 {
            return value::read(self.store.session(), self.store.home(), words, take);
        }
        let mut shown = |content: Content<'_>, handles| match content {
            Content::Bytes(bytes) => Ok(take(Content::Bytes(split(bytes)?.1), handles)),
            Content::Pinned(_) => Err(Corrupt("a key is pinned")),
        };
        let (session, home) = (self.store.session(), self.store.home());
        let got: Result<T, Corrupt> = value::read(session, home, words, &mut shown)?;
        Ok(got?)
    }

    /// Sets a key's value; says whether the key was there.
    #[inline]
    pub fn set(&self, target: Target<'_>, stored: &mut Stored) -> Result<Outcome<()>, WaitError> {
        let store = &self.store;
        let mut txn = self.begin()?;
        match self.locate(target)? {
            Outcome::Found(number) => {
                let slot = self.live(number)?.1;
                let gone = store.replace(&mut txn, &slot.value, stored)?;
                bump(&mut txn, &store.body.version);
                crash_point!("store.map.set");
                txn.commit();
                stored.forget();
                crash_point!("store.map.set.committed");
                if let Some(at) = gone {
                    free_own(store.session(), at)?;
                }
                Ok(Outcome::Found(()))
            }
            Outcome::Absent => {
                self.insert(txn, target, stored)?;
                Ok(Outcome::Absent)
            }
            Outcome::Unsure => Ok(Outcome::Unsure),
        }
    }

    /// Shows a key's value to `take` if there is one, else sets it.
    pub fn set_default<T>(
        &self,
        target: Target<'_>,
        stored: &mut Stored,
        take: Take<'_, T>,
    ) -> Result<Outcome<T>, WaitError> {
        let txn = self.begin()?;
        match self.locate(target)? {
            Outcome::Found(number) => Ok(Outcome::Found(self.show(number, take)?)),
            Outcome::Absent => {
                self.insert(txn, target, stored)?;
                Ok(Outcome::Absent)
            }
            Outcome::Unsure => Ok(Outcome::Unsure),
        }
    }

    fn insert(
        &self,
        mut txn: Txn<'static>,
        target: Target<'_>,
        stored: &mut Stored,
    ) -> Result<(), ShmError> {
        let (Target::Key(key) | Target::Known(key, ..)) = target;
        self.reserve(&mut txn, 1)?;
        let mut stored_key = key.store(self.store.session())?;
        self.add(&mut txn, key.hash, stored_key.words, stored.words)?;
        for at in [stored_key.block(), stored.block()].into_iter().flatten() {
            self.store.give(&mut txn, at, self.store.home())?;
        }
        crash_point!("store.map.add");
        txn.commit();
        stored_key.forget();
        stored.forget();
        crash_point!("store.map.add.committed");
        Ok(())
    }

    /// In a section: one more entry, for which there is room.
    pub(super) fn add(
        &self,
        txn: &mut Txn<'static>,
        hash: u64,
        key: [u64; 2],
        value: [u64; 2],
    ) -> Result<(), Corrupt> {
        let (session, body) = (self.store.session(), self.store.body);
        let table = self.table()?.ok_or(Corrupt("an entry of no table"))?;
        let number = body.used.load(Ordering::Relaxed);
        let slot = table.slot(session, number)?;
        // Nobody looks at it before `used` counts it.
        slot.hash.store(hash, Ordering::Relaxed);
        for (word, new) in slot
            .key
            .iter()
            .chain(&slot.value)
            .zip([key, value].concat())
        {
            word.store(new, Ordering::Relaxed);
        }
        crash_point!("store.map.written");
        if key[0] & OPAQUE == 0 {
            txn.set(table.free_bucket(session, hash)?, bucket_word(hash, number));
        } else {
            bump(txn, &body.opaque);
        }
        txn.set(&body.used, number + 1);
        bump(txn, &body.filled);
        self.store
            .count_change(txn, body.count.load(Ordering::Relaxed).wrapping_add(1));
        Ok(())
    }

    /// Takes a key out; its value is shown to `take` before.
    pub fn remove<T>(
        &self,
        target: Target<'_>,
        take: Take<'_, T>,
    ) -> Result<Outcome<T>, WaitError> {
        let mut txn = self.begin()?;
        let number = match self.locate(target)? {
            Outcome::Found(number) => number,
            Outcome::Absent => return Ok(Outcome::Absent),
            Outcome::Unsure => return Ok(Outcome::Unsure),
        };
        let got = self.show(number, take)?;
        let gone = self.cut(&mut txn, number)?;
        txn.commit();
        crash_point!("store.map.remove.committed");
        self.free(gone)?;
        Ok(Outcome::Found(got))
    }

    /// Takes the newest key out; it and its value are shown to `take` before. `None` if there is none.
    pub fn pop_last<T>(&self, take: Take<'_, T>) -> Result<Option<(T, T)>, WaitError> {
        let mut txn = self.begin()?;
        let Some(table) = self.table()? else {
            return Ok(None);
        };
        let used = self.stamp().used.min(table.capacity);
        for number in (0..used).rev() {
            if table.slot(self.store.session(), number)?.is_live() {
                let got = (self.show_key(number, take)?, self.show(number, take)?);
                let gone = self.cut(&mut txn, number)?;
                // The holes behind it are not looked through again.
                txn.set(&self.store.body.used, number);
                txn.commit();
                crash_point!("store.map.pop.committed");
                self.free(gone)?;
                return Ok(Some(got));
            }
        }
        Ok(None)
    }

    /// In a section: the entry is no more. Its blocks are this process's.
    fn cut(&self, txn: &mut Txn<'static>, number: u64) -> Result<[Option<u64>; 2], ShmError> {
        let body = self.store.body;
        let (table, slot) = self.live(number)?;
        let (key, value) = (value::load(&slot.key), value::load(&slot.value));
        if key[0] & OPAQUE == 0 {
            let hash = slot.hash.load(Ordering::Relaxed);
            txn.set(
                table.bucket_of(self.store.session(), hash, number)?,
                REMOVED,
            );
        } else {
            let opaque = body.opaque.load(Ordering::Relaxed);
            txn.set(&body.opaque, opaque.saturating_sub(1));
        }
        txn.set(&slot.key[0], 0);
        bump(txn, &body.epoch);
        let count = body.count.load(Ordering::Relaxed);
        self.store.count_change(txn, count.saturating_sub(1));
        let gone = [block_of(key), block_of(value)];
        for at in gone.into_iter().flatten() {
            self.store.take_back(txn, at)?;
        }
        crash_point!("store.map.cut");
        Ok(gone)
    }

    fn free(&self, gone: [Option<u64>; 2]) -> Result<(), ShmError> {
        gone.into_iter()
            .flatten()
            .try_for_each(|at| free_own(self.store.session(), at))
    }

    /// Shows the keys from entry `from` on to `take`, in their order, and their values if these are asked for.
    pub fn snapshot(
        &self,
        from: u64,
        values: bool,
        take: &mut dyn FnMut(Seen, Content<'_>, Vec<Handle>),
    ) -> Result<Stamp, WaitError> {
        let _txn = self.begin()?;
        let Some(table) = self.table()? else {
            return Ok(self.stamp());
        };
        for number in from..self.stamp().used.min(table.capacity) {
            if !table.slot(self.store.session(), number)?.is_live() {
                continue;
            }
            self.show_key(number, &mut |c, h| take(Seen::Key(number), c, h))?;
            if values {
                self.show(number, &mut |c, h| take(Seen::Value, c, h))?;
            }
        }
        Ok(self.stamp())
    }

    /// The number of changes so far.
    pub fn version(&self) -> u64 {
        self.store.body.version.load(Ordering::Acquire)
    }
}

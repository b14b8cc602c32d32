//! The table of a map: entries in the order in which their keys came, then an index of buckets over them.
//!
//! ```text
//! block:  capacity (u64) | buckets - 1 (u64) | entries | buckets
//! entry:  hash | key (2 words) | value (2 words)         a key without a first word: the entry was removed
//! bucket: upper half of the hash | number of the entry + 1     0: free, and ends a search; !0: was removed
//! ```

use crate::arena::BlockOwner;
use crate::error::{Corrupt, ShmError};
use crate::primitive::{AtomicU64, Ordering};
use crate::segment::Shared;
use crate::session::Session;

use super::key::Key;
use super::value::{self, SHOWN, Words, block_of};
use super::{StoreBody, free_if_ours, size_of_block};
use crate::crash_point;

/// An entry as it stands in shared memory.
#[repr(C)]
pub(super) struct Slot {
    pub(super) hash: AtomicU64,
    pub(super) key: Words,
    pub(super) value: Words,
}

// SAFETY: repr(C) of atomics.
unsafe impl Shared for Slot {}

impl Slot {
    pub(super) fn is_live(&self) -> bool {
        self.key[0].load(Ordering::Relaxed) != 0
    }
}

/// A bucket whose entry was removed.
pub(super) const REMOVED: u64 = 0xffff_ffff;
const HEADER: u64 = 16;
const SLOT: u64 = size_of::<Slot>() as u64;
/// Entries of the first table.
const FIRST: u64 = 8;

/// A table that has been looked at: its parts lie in its block.
#[derive(Clone, Copy)]
pub(super) struct Table {
    pub(super) at: u64,
    pub(super) capacity: u64,
    mask: u64,
}

impl Table {
    /// The one at `at`.
    #[inline]
    pub(super) fn read(session: &Session, at: u64) -> Result<Self, Corrupt> {
        const BAD: Corrupt = Corrupt("a map's table does not fit its block");
        let words: &'static [AtomicU64; 2] = session.segment().at(at)?;
        let (capacity, mask) = (
            words[0].load(Ordering::Relaxed),
            words[1].load(Ordering::Relaxed),
        );
        let size = size_of_block(session, at)?;
        if capacity > size / SLOT || mask > size / 8 || !(mask + 1).is_power_of_two() {
            return Err(BAD);
        }
        if HEADER + capacity * SLOT + (mask + 1) * 8 > size {
            return Err(BAD);
        }
        Ok(Self { at, capacity, mask })
    }

    /// An empty one for at least `capacity` entries, in a block of `owner`.
    pub(super) fn make(
        session: &'static Session,
        owner: BlockOwner,
        capacity: u64,
    ) -> Result<Self, ShmError> {
        let capacity = capacity.max(FIRST);
        // At most half of the buckets are ever taken, removed ones among them.
        let buckets = (capacity * 2).next_power_of_two();
        let len = HEADER + capacity * SLOT + buckets * 8;
        let at = session.alloc(len, owner)?;
        let words: &'static [AtomicU64; 2] = session.segment().at(at)?;
        words[0].store(capacity, Ordering::Relaxed);
        words[1].store(buckets - 1, Ordering::Relaxed);
        session
            .segment()
            .zero(at + HEADER + capacity * SLOT, buckets * 8)?;
        let mask = buckets - 1;
        Ok(Self { at, capacity, mask })
    }

    #[inline]
    pub(super) fn slot(&self, session: &Session, number: u64) -> Result<&'static Slot, Corrupt> {
        if number >= self.capacity {
            return Err(Corrupt("an entry lies outside its table"));
        }
        session.segment().at(self.at + HEADER + number * SLOT)
    }

    #[inline]
    fn bucket(&self, session: &Session, number: u64) -> Result<&'static AtomicU64, Corrupt> {
        let at = self.at + HEADER + self.capacity * SLOT + (number & self.mask) * 8;
        session.segment().at(at)
    }

    /// The entry and the bucket of a key.
    #[inline]
    pub(super) fn find(
        &self,
        session: &'static Session,
        home: BlockOwner,
        key: &Key<'_>,
    ) -> Result<Option<u64>, Corrupt> {
        for step in 0..=self.mask {
            let word = self
                .bucket(session, key.hash.wrapping_add(step))?
                .load(Ordering::Relaxed);
            if word == 0 {
                return Ok(None);
            }
            if word >> 32 == key.hash >> 32 && word & REMOVED != REMOVED {
                let number = (word & REMOVED).wrapping_sub(1);
                let slot = self.slot(session, number)?;
                if slot.hash.load(Ordering::Relaxed) == key.hash
                    && is_key(session, home, slot, key)?
                {
                    return Ok(Some(number));
                }
            }
        }
        Ok(None)
    }

    /// The bucket in which entry `number`, whose key has this hash, stands.
    pub(super) fn bucket_of(
        &self,
        session: &Session,
        hash: u64,
        number: u64,
    ) -> Result<&'static AtomicU64, Corrupt> {
        let wanted = bucket_word(hash, number);
        for step in 0..=self.mask {
            let bucket = self.bucket(session, hash.wrapping_add(step))?;
            match bucket.load(Ordering::Relaxed) {
                0 => break,
                word if word == wanted => return Ok(bucket),
                _ => {}
            }
        }
        Err(Corrupt("an entry has no bucket"))
    }

    /// The bucket that a new entry with this hash takes.
    #[inline]
    pub(super) fn free_bucket(
        &self,
        session: &Session,
        hash: u64,
    ) -> Result<&'static AtomicU64, Corrupt> {
        for step in 0..=self.mask {
            let bucket = self.bucket(session, hash.wrapping_add(step))?;
            if bucket.load(Ordering::Relaxed) == 0 {
                return Ok(bucket);
            }
        }
        Err(Corrupt("a map's index is full"))
    }
}

/// What stands in the bucket of an entry.
#[inline]
pub(super) fn bucket_word(hash: u64, number: u64) -> u64 {
    hash & !REMOVED | (number + 1) & REMOVED
}

/// Is this entry's key the one that is looked for?
#[inline]
fn is_key(
    session: &'static Session,
    home: BlockOwner,
    slot: &'static Slot,
    key: &Key<'_>,
) -> Result<bool, Corrupt> {
    let words = value::load(&slot.key);
    if let Some((bytes, len)) = value::inline_bytes(words) {
        let bytes = bytes.get(..len).unwrap_or_default();
        return Ok(identity(words, bytes)? == key.identity);
    }
    let bytes = value::block_bytes(session, home, words)?;
    Ok(identity(words, bytes)? == key.identity)
}

/// The bytes of a stored key by which it is found.
pub(super) fn identity([head, _]: [u64; 2], bytes: &[u8]) -> Result<&[u8], Corrupt> {
    if head & SHOWN == 0 {
        return Ok(bytes);
    }
    Ok(split(bytes)?.0)
}

/// The identity of a key and the bytes to be shown, where they differ.
pub(super) fn split(bytes: &[u8]) -> Result<(&[u8], &[u8]), Corrupt> {
    bytes
        .split_first_chunk::<4>()
        .and_then(|(len, rest)| rest.split_at_checked(u32::from_le_bytes(*len) as usize))
        .ok_or(Corrupt("a key is shorter than it says"))
}

/// Frees what a map has. Whoever does it again, after a death, may find that what the words name is long another's.
pub(super) fn destroy(
    session: &'static Session,
    index: u32,
    body: &'static StoreBody,
) -> Result<(), ShmError> {
    let home = BlockOwner::object(index);
    let at = body.table.load(Ordering::Relaxed);
    if at == 0 && body.adrift.load(Ordering::Relaxed) == 0 {
        return Ok(());
    }
    let is_ours = session
        .block(at)
        .is_ok_and(|r| BlockOwner::from_word(r.owner.load(Ordering::Acquire)).same_as(home));
    if body.adrift.load(Ordering::Relaxed) == 0
        && is_ours
        && let Ok(table) = Table::read(session, at)
    {
        for number in 0..body.used.load(Ordering::Relaxed).min(table.capacity) {
            let slot = table.slot(session, number)?;
            if slot.is_live() {
                for words in [&slot.key, &slot.value] {
                    if let Some(at) = block_of(value::load(words)) {
                        free_if_ours(session, home, at)?;
                    }
                }
            }
        }
        crash_point!("store.map.destroyed");
        return free_if_ours(session, home, at);
    }
    // The walk is only the quick way: what it would miss is found by its owner.
    session.free_blocks_of(home, session.segment().offset_of(body))
}

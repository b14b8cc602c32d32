//! Blocks of shared memory, every one with an owner.
//!
//! The arena is handed out in extents of 2 MiB. An extent serves blocks of one size class, or belongs to a run of extents
//! that is one big block. Beside each block stands a word that says whose it is: nobody's, a process's, an object's, or
//! that of another block that lists it. So after a death a scan of these words finds what the dead process had, and no
//! reference counts need to be right.
//!
//! Freed blocks are used again in last-in-first-out order, because fresh pages cost fifty times as much as warm ones.

use crate::crash_point;
#[cfg(not(loom))]
use crate::error::WaitError;
use crate::error::{Corrupt, ShmError};
use crate::extents::{BIG, Extent};
use crate::guard::Txn;
use crate::identity::Owner;
use crate::layout::{BLOCKS_PER_EXTENT, EXTENT, MIN_BLOCK};
use crate::primitive::{AtomicU64, Ordering};
use crate::segment::Shared;
use crate::session::Session;
#[cfg(not(loom))]
use crate::wait::Wait;

/// Whose a block is, as one word: the kind in bits 32..40, flags above, a number below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockOwner(u64);

impl BlockOwner {
    /// Nobody's.
    pub const FREE: Self = Self(0);
    /// Nobody's any more, and still to be freed.
    pub const DISCARDED: Self = Self(4 << 32);
    const PROCESS: u64 = 1 << 32;
    const OBJECT: u64 = 2 << 32;
    const MEMBER: u64 = 3 << 32;
    const KIND: u64 = 0xff << 32;
    /// The block holds a reference to an object (see `objects`).
    pub const TICKET: u64 = 1 << 40;
    /// The block lists other blocks (see `bundle`).
    pub const MANIFEST: u64 = 1 << 41;

    /// A process's.
    pub fn process(owner: Owner) -> Self {
        Self(Self::PROCESS | u64::from(owner.word()))
    }

    /// An object's.
    pub fn object(index: u32) -> Self {
        Self(Self::OBJECT | u64::from(index))
    }

    /// Listed by the manifest at `offset`.
    pub fn member_of(offset: u64) -> Self {
        Self(Self::MEMBER | (offset / MIN_BLOCK) & 0xffff_ffff)
    }

    /// The same owner, with the flags of `other`.
    #[must_use]
    pub fn with_flags_of(self, other: Self) -> Self {
        Self(self.0 & !(Self::TICKET | Self::MANIFEST) | other.0 & (Self::TICKET | Self::MANIFEST))
    }

    /// With a flag set.
    #[must_use]
    pub fn with(self, flag: u64) -> Self {
        Self(self.0 | flag)
    }

    /// Is the flag set?
    pub fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    /// The word.
    pub fn word(self) -> u64 {
        self.0
    }

    /// From the word.
    pub fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// The process that owns the block, if a process does.
    pub fn as_process(self) -> Option<Owner> {
        if self.0 & Self::KIND == Self::PROCESS {
            Owner::from_word(self.0 as u32)
        } else {
            None
        }
    }

    /// The same owner, flags aside?
    pub fn same_as(self, other: Self) -> bool {
        (self.0 ^ other.0) & (Self::KIND | 0xffff_ffff) == 0
    }
}

/// What stands beside each block.
#[repr(C)]
pub struct BlockRecord {
    /// A [`BlockOwner`].
    pub owner: AtomicU64,
    /// Of a free block: number + 1 of the next free one of its extent. Of a used one: the length asked for.
    pub link: AtomicU64,
}

// SAFETY: repr(C), two atomics.
unsafe impl Shared for BlockRecord {}

/// The largest block that shares an extent with others.
const LARGEST_CLASS: u64 = 1 << 20;

/// The size class of a length: multiples of 64 up to 512, then four steps for each doubling up to 1 MiB.
fn class_of(len: u64) -> usize {
    let len = len.max(MIN_BLOCK);
    if len <= 512 {
        return (len.div_ceil(64) - 2) as usize;
    }
    // For 2^k < len <= 2^(k+1), four classes 2^k * (5, 6, 7, 8) / 4.
    let k = (len - 1).ilog2();
    let step = 1u64 << (k - 2);
    let quarter = (len - (1 << k)).div_ceil(step);
    7 + ((u64::from(k) - 9) * 4 + quarter - 1) as usize
}

/// The size of the blocks of a class.
fn class_size(class: usize) -> u64 {
    if class < 7 {
        return (class as u64 + 2) * 64;
    }
    let i = class as u64 - 7;
    let base = 512u64 << (i / 4);
    base + base / 4 * (i % 4 + 1)
}

/// Where a block stands and how large it is.
#[derive(Debug, Clone, Copy)]
struct Place {
    extent: u32,
    block: u32,
    size: u64,
}

impl Session {
    /// A block of at least `len` bytes with undefined contents, its start on 64 bytes (big ones: on a page).
    pub fn alloc(&'static self, len: u64, owner: BlockOwner) -> Result<u64, ShmError> {
        self.alloc_in(self.header().arena_guard.lock(self)?, len, owner)
    }

    /// As [`Session::alloc`], giving up when `wait` does while another process is in the middle of a change.
    #[cfg(not(loom))]
    pub(crate) fn alloc_within(
        &'static self,
        len: u64,
        owner: BlockOwner,
        wait: &mut Wait<'_>,
    ) -> Result<u64, WaitError> {
        let txn = self.header().arena_guard.lock_within(self, wait)?;
        Ok(self.alloc_in(txn, len, owner)?)
    }

    fn alloc_in(&'static self, txn: Txn<'_>, len: u64, owner: BlockOwner) -> Result<u64, ShmError> {
        if len > LARGEST_CLASS {
            self.alloc_big(txn, len, owner)
        } else {
            self.alloc_small(txn, len, owner)
        }
    }

    fn alloc_small(
        &'static self,
        mut txn: Txn<'_>,
        len: u64,
        owner: BlockOwner,
    ) -> Result<u64, ShmError> {
        let class = class_of(len);
        let size = class_size(class);
        let header = self.header();
        let head = &header.class_heads[class];
        if head.load(Ordering::Relaxed) == 0 {
            let number = self.take_extents(&mut txn, 1, len)?;
            let extent = self.extent(number)?;
            txn.set(&extent.class, class as u64 + 1);
            for word in [
                &extent.free,
                &extent.bump,
                &extent.used,
                &extent.prev,
                &extent.next,
            ] {
                txn.set(word, 0);
            }
            txn.set(head, u64::from(number) + 1);
            crash_point!("arena.extent.taken");
            txn.checkpoint();
            if size >= 128 << 10 {
                self.make_huge(number, 1)?;
            }
        }
        let number = (head.load(Ordering::Relaxed) - 1) as u32;
        let extent = self.extent(number)?;
        let free = extent.free.load(Ordering::Relaxed);
        let block = if free != 0 {
            let block = (free - 1) as u32;
            txn.set(
                &extent.free,
                self.record(number, block)?.link.load(Ordering::Relaxed),
            );
            block
        } else {
            let bump = extent.bump.load(Ordering::Relaxed);
            txn.set(&extent.bump, bump.wrapping_add(1));
            u32::try_from(bump).unwrap_or(u32::MAX)
        };
        let used = extent.used.load(Ordering::Relaxed).wrapping_add(1);
        if u64::from(block) >= EXTENT / size {
            return Err(Corrupt("a free block lies outside its extent").into());
        }
        txn.set(&extent.used, used);
        let record = self.record(number, block)?;
        txn.set(&record.owner, owner.word());
        txn.set(&record.link, len);
        txn.set(
            &header.bytes_used,
            header.bytes_used.load(Ordering::Relaxed).wrapping_add(size),
        );
        if used == EXTENT / size {
            let next = extent.next.load(Ordering::Relaxed);
            txn.set(head, next);
            if next != 0 {
                txn.set(&self.extent((next - 1) as u32)?.prev, 0);
            }
        }
        crash_point!("arena.alloc.done");
        txn.commit();
        crash_point!("arena.alloc.committed");
        Ok(self.geometry().extent(number) + u64::from(block) * size)
    }

    fn alloc_big(
        &'static self,
        mut txn: Txn<'_>,
        len: u64,
        owner: BlockOwner,
    ) -> Result<u64, ShmError> {
        let count = u32::try_from(len.div_ceil(EXTENT)).map_err(|_| self.out_of_memory(len))?;
        let header = self.header();
        let number = self.take_extents(&mut txn, count, len)?;
        let extent = self.extent(number)?;
        // The run first: whoever looks without the guard skips so many extents where it finds `BIG`.
        txn.set(&extent.run, u64::from(count));
        txn.set(&extent.class, BIG);
        let record = self.record(number, 0)?;
        txn.set(&record.owner, owner.word());
        txn.set(&record.link, len);
        txn.set(
            &header.bytes_used,
            header
                .bytes_used
                .load(Ordering::Relaxed)
                .wrapping_add(u64::from(count) * EXTENT),
        );
        crash_point!("arena.alloc_big.done");
        txn.commit();
        crash_point!("arena.alloc_big.committed");
        // The run is ours: its pages can be had without the guard.
        self.make_huge(number, count)?;
        Ok(self.geometry().extent(number))
    }

    /// Gives a block back. The caller owns it and has taken out of it what else it holds (see `Session::free_block`).
    pub(crate) fn free_raw(&'static self, offset: u64) -> Result<(), ShmError> {
        let place = self.place(offset)?;
        let header = self.header();
        let extent = self.extent(place.extent)?;
        let record = self.record(place.extent, place.block)?;
        let Some(mut txn) = self.enter_to_free(&header.arena_guard)? else {
            self.discard(record);
            return Ok(());
        };
        if record.owner.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        txn.set(&record.owner, 0);
        txn.set(
            &header.bytes_used,
            header
                .bytes_used
                .load(Ordering::Relaxed)
                .saturating_sub(place.size),
        );
        if extent.class.load(Ordering::Relaxed) == BIG {
            let run = (place.size / EXTENT) as u32;
            txn.set(&extent.class, 0);
            self.release_extents(&mut txn, place.extent, run)?;
        } else {
            self.free_in_class(&mut txn, place, extent, record)?;
        }
        crash_point!("arena.free.done");
        txn.commit();
        crash_point!("arena.free.committed");
        Ok(())
    }

    /// The block that the record is of is to be freed, and cannot be now: whoever looks for dead members next does it. Should
    /// we die before we have called for that, our death is a call.
    pub(crate) fn discard(&self, record: &BlockRecord) {
        let owner = BlockOwner::from_word(record.owner.load(Ordering::Acquire));
        if owner != BlockOwner::FREE {
            let owner = BlockOwner::DISCARDED.with_flags_of(owner);
            record.owner.store(owner.word(), Ordering::Release);
            self.call_for_recovery();
        }
    }

    fn free_in_class(
        &'static self,
        txn: &mut Txn<'_>,
        place: Place,
        extent: &'static Extent,
        record: &'static BlockRecord,
    ) -> Result<(), ShmError> {
        let header = self.header();
        let head = &header.class_heads[extent.class.load(Ordering::Relaxed) as usize - 1];
        let was = extent.used.load(Ordering::Relaxed);
        txn.set(&record.link, extent.free.load(Ordering::Relaxed));
        txn.set(&extent.free, u64::from(place.block) + 1);
        txn.set(&extent.used, was.saturating_sub(1));
        if was == EXTENT / place.size {
            let next = head.load(Ordering::Relaxed);
            txn.set(&extent.next, next);
            txn.set(&extent.prev, 0);
            if next != 0 {
                txn.set(
                    &self.extent((next - 1) as u32)?.prev,
                    u64::from(place.extent) + 1,
                );
            }
            txn.set(head, u64::from(place.extent) + 1);
        } else if was == 1 {
            let (prev, next) = (
                extent.prev.load(Ordering::Relaxed),
                extent.next.load(Ordering::Relaxed),
            );
            // The last extent of a class stays with it, so that one block going to and fro does not move an extent.
            if prev != 0 || next != 0 {
                match prev {
                    0 => txn.set(head, next),
                    p => txn.set(&self.extent((p - 1) as u32)?.next, next),
                }
                if next != 0 {
                    txn.set(&self.extent((next - 1) as u32)?.prev, prev);
                }
                txn.set(&extent.class, 0);
                // A small-block extent may hold pages without having been made huge.
                txn.set(&extent.warm, 1);
                self.release_extents(txn, place.extent, 1)?;
            }
        }
        Ok(())
    }

    /// The record of the block that begins at `offset`, checked.
    pub fn block(&self, offset: u64) -> Result<&'static BlockRecord, Corrupt> {
        let place = self.place(offset)?;
        self.record(place.extent, place.block)
    }

    /// Is the block at `offset` this process's own? (A child of a fork inherits buffers, but not their blocks.)
    pub fn owns(&self, offset: u64) -> bool {
        let Ok(record) = self.block(offset) else {
            return false;
        };
        let owner = BlockOwner::from_word(record.owner.load(Ordering::Acquire));
        self.current()
            .is_some_and(|me| owner.same_as(BlockOwner::process(me)))
    }

    /// Bytes that the block at `offset` can hold.
    pub fn block_size(&self, offset: u64) -> Result<u64, Corrupt> {
        Ok(self.place(offset)?.size)
    }

    fn place(&self, offset: u64) -> Result<Place, Corrupt> {
        const BAD: Corrupt = Corrupt("an offset is no block");
        let rel = offset.checked_sub(self.geometry().extent(0)).ok_or(BAD)?;
        let number = u32::try_from(rel / EXTENT).map_err(|_| BAD)?;
        let extent = self.extent(number)?;
        let inside = rel % EXTENT;
        match extent.class.load(Ordering::Acquire) {
            0 => Err(BAD),
            BIG => {
                let run = extent.run.load(Ordering::Relaxed);
                let fits = run <= u64::from(self.geometry().extents) - u64::from(number);
                if inside == 0 && fits {
                    Ok(Place {
                        extent: number,
                        block: 0,
                        size: run * EXTENT,
                    })
                } else {
                    Err(BAD)
                }
            }
            class => {
                let class = class as usize - 1;
                if class > class_of(LARGEST_CLASS) {
                    return Err(BAD);
                }
                let size = class_size(class);
                let block = inside / size;
                if !inside.is_multiple_of(size) || block >= EXTENT / size {
                    return Err(BAD);
                }
                Ok(Place {
                    extent: number,
                    block: block as u32,
                    size,
                })
            }
        }
    }

    fn record(&self, extent: u32, block: u32) -> Result<&'static BlockRecord, Corrupt> {
        if u64::from(block) >= BLOCKS_PER_EXTENT {
            return Err(Corrupt("a block is out of range"));
        }
        self.segment()
            .at(self.geometry().block_record(extent, block))
    }

    /// Calls `f` for every block in use, with its offset and owner.
    pub fn for_each_block(&self, mut f: impl FnMut(u64, BlockOwner)) -> Result<(), Corrupt> {
        let high = self.extents_touched();
        let mut at = 0;
        while at < high {
            let extent = self.extent(at)?;
            let (size, blocks, step) = match extent.class.load(Ordering::Acquire) {
                0 => (0, 0, 1),
                BIG => (
                    EXTENT,
                    1,
                    (extent.run.load(Ordering::Relaxed) as u32).max(1),
                ),
                class => {
                    let size = class_size((class as usize - 1).min(class_of(LARGEST_CLASS)));
                    (
                        size,
                        extent.bump.load(Ordering::Relaxed).min(EXTENT / size),
                        1,
                    )
                }
            };
            for b in 0..blocks {
                let owner = self.record(at, b as u32)?.owner.load(Ordering::Acquire);
                if owner != 0 {
                    f(
                        self.geometry().extent(at) + b * size,
                        BlockOwner::from_word(owner),
                    );
                }
            }
            at = at.saturating_add(step);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_fit_and_grow() {
        let last = class_of(LARGEST_CLASS);
        assert!(last < crate::layout::CLASSES);
        assert_eq!(class_size(last), LARGEST_CLASS);
        for class in 0..=last {
            let size = class_size(class);
            assert_eq!(size % 64, 0);
            assert_eq!(class_of(size), class, "{size}");
            assert_eq!(
                class_of(size + 1).min(last),
                (class + 1).min(last),
                "{size}"
            );
            assert!(size <= EXTENT / 2);
        }
        for len in [0, 1, 127, 128, 129, 1000, 4096, 65_537, 1 << 20] {
            assert!(class_size(class_of(len)) >= len);
        }
    }
}

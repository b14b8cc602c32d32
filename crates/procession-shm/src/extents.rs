//! The arena's extents: 2 MiB each, taken for blocks of a size class or as a run for one big block, and kept warm for a while
//! when they are free again.

use procession_sys::clock::now_ns;

use crate::error::{Corrupt, ShmError};
use crate::guard::Txn;
use crate::layout::EXTENT;
use crate::primitive::{AtomicU64, Ordering};
use crate::segment::Shared;
use crate::session::Session;

/// In [`Extent::class`]: the first extent of a big block.
pub(crate) const BIG: u64 = 1 << 32;

/// What is known of an extent.
#[repr(C)]
pub(crate) struct Extent {
    /// 0 free, 1 + size class, or `BIG`.
    pub(crate) class: AtomicU64,
    /// Number + 1 of the first free block.
    pub(crate) free: AtomicU64,
    /// Blocks from this number on have never been used.
    pub(crate) bump: AtomicU64,
    /// Blocks in use.
    pub(crate) used: AtomicU64,
    /// Neighbours in the class's list of extents with free blocks, each number + 1.
    pub(crate) prev: AtomicU64,
    pub(crate) next: AtomicU64,
    /// Of the first extent of a big block: how many extents it takes.
    pub(crate) run: AtomicU64,
    /// Does it hold pages?
    pub(crate) warm: AtomicU64,
}

// SAFETY: repr(C) of atomics.
unsafe impl Shared for Extent {}

const _: () = assert!(size_of::<Extent>() as u64 == crate::layout::Geometry::EXTENT_RECORD);

impl Session {
    /// Extents from this number on have never been used.
    pub(crate) fn extents_touched(&self) -> u32 {
        let high = self.header().extent_high.load(Ordering::Acquire);
        high.min(u64::from(self.geometry().extents)) as u32
    }

    /// Finds `count` free extents in a row and accounts for them; the caller says in the same section what they are for.
    pub(crate) fn take_extents(
        &'static self,
        txn: &mut Txn<'_>,
        count: u32,
        len: u64,
    ) -> Result<u32, ShmError> {
        let header = self.header();
        let used = header.extents_used.load(Ordering::Relaxed);
        let wanted = used.saturating_add(u64::from(count)).saturating_mul(EXTENT);
        if wanted > header.budget.load(Ordering::Relaxed) {
            return Err(self.out_of_memory(len));
        }
        let high = self.extents_touched();
        let (mut at, mut start) = (0, 0);
        while at < high && at - start < count {
            let extent = self.extent(at)?;
            match extent.class.load(Ordering::Relaxed) {
                0 => at += 1,
                BIG => {
                    at = at.saturating_add((extent.run.load(Ordering::Relaxed) as u32).max(1));
                    start = at;
                }
                _ => {
                    at += 1;
                    start = at;
                }
            }
        }
        if at - start < count {
            if start.saturating_add(count) > self.geometry().extents {
                return Err(self.out_of_memory(len));
            }
            txn.set(&header.extent_high, u64::from(start + count));
        }
        let mut warm = 0;
        for e in start..(start + count).min(high) {
            warm += self.extent(e)?.warm.load(Ordering::Relaxed) & 1;
        }
        txn.set(
            &header.extents_warm,
            header
                .extents_warm
                .load(Ordering::Relaxed)
                .saturating_sub(warm),
        );
        txn.set(&header.extents_used, used + u64::from(count));
        Ok(start)
    }

    /// Gives cold extents huge pages, where the kernel can: nine times cheaper than small pages one fault at a time.
    pub(crate) fn make_huge(&self, number: u32, count: u32) -> Result<(), Corrupt> {
        let memory = self.segment().memory();
        let mut cold = None;
        for e in number..=number + count {
            let is_cold =
                e < number + count && self.extent(e)?.warm.swap(1, Ordering::Relaxed) == 0;
            match (is_cold, cold) {
                (true, None) => cold = Some(e),
                (false, Some(from)) => {
                    for touched in from..e {
                        self.segment()
                            .at::<AtomicU64>(self.geometry().extent(touched))?
                            .store(0, Ordering::Relaxed);
                    }
                    memory.collapse(
                        self.geometry().extent(from) as usize,
                        (u64::from(e - from) * EXTENT) as usize,
                    );
                    cold = None;
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn out_of_memory(&self, wanted: u64) -> ShmError {
        let used = self.bytes_used();
        let budget = self.header().budget.load(Ordering::Relaxed);
        let reserved = u64::from(self.geometry().extents) * EXTENT;
        if reserved < budget {
            ShmError::OutOfAddressSpace {
                wanted,
                used,
                reserved,
            }
        } else {
            ShmError::OutOfMemory {
                wanted,
                used,
                budget,
            }
        }
    }

    /// Accounts for extents that are free again; their pages go back to the system once more than the reserve are warm.
    pub(crate) fn release_extents(
        &'static self,
        txn: &mut Txn<'_>,
        number: u32,
        count: u32,
    ) -> Result<(), ShmError> {
        let header = self.header();
        let warm = header
            .extents_warm
            .load(Ordering::Relaxed)
            .saturating_add(u64::from(count));
        let reserve = (header.budget.load(Ordering::Relaxed) / 16).max(256 << 20) / EXTENT;
        txn.set(
            &header.extents_used,
            header
                .extents_used
                .load(Ordering::Relaxed)
                .saturating_sub(u64::from(count)),
        );
        header.last_free_ns.store(now_ns(), Ordering::Relaxed);
        if warm <= reserve {
            txn.set(&header.extents_warm, warm);
        } else {
            // Still ours under the guard; if we die in here the section is undone, and a free block has no contents.
            self.punch(number, count)?;
        }
        Ok(())
    }

    fn punch(&self, number: u32, count: u32) -> Result<(), Corrupt> {
        let at = self.geometry().extent(number);
        let _ = self
            .segment()
            .memory()
            .punch(at as usize, (u64::from(count) * EXTENT) as usize);
        for e in number..number + count {
            self.extent(e)?.warm.store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Gives the pages of all free extents back to the system.
    pub fn trim(&'static self) -> Result<(), ShmError> {
        self.trim_in(self.header().arena_guard.lock(self)?)
    }

    fn trim_in(&'static self, mut txn: Txn<'_>) -> Result<(), ShmError> {
        let header = self.header();
        for class in &header.class_heads {
            let head = class.load(Ordering::Relaxed);
            if head == 0 {
                continue;
            }
            let number = (head - 1) as u32;
            let extent = self.extent(number)?;
            if extent.used.load(Ordering::Relaxed) == 0 && extent.next.load(Ordering::Relaxed) == 0
            {
                txn.set(class, 0);
                txn.set(&extent.class, 0);
                txn.set(&extent.warm, 1);
                txn.set(
                    &header.extents_used,
                    header
                        .extents_used
                        .load(Ordering::Relaxed)
                        .saturating_sub(1),
                );
                txn.set(
                    &header.extents_warm,
                    header
                        .extents_warm
                        .load(Ordering::Relaxed)
                        .saturating_add(1),
                );
                txn.checkpoint();
            }
        }
        let high = self.extents_touched();
        let mut at = 0;
        while at < high {
            let extent = self.extent(at)?;
            match extent.class.load(Ordering::Relaxed) {
                0 => {
                    if extent.warm.load(Ordering::Relaxed) == 1 {
                        self.punch(at, 1)?;
                    }
                    at += 1;
                }
                BIG => at = at.saturating_add((extent.run.load(Ordering::Relaxed) as u32).max(1)),
                _ => at += 1,
            }
        }
        txn.set(&header.extents_warm, 0);
        txn.commit();
        Ok(())
    }

    /// Gives idle memory back if nothing has been freed for a while; called by those who wait anyway.
    pub(crate) fn trim_if_idle(&'static self) -> Result<(), ShmError> {
        let header = self.header();
        let idle = now_ns().saturating_sub(header.last_free_ns.load(Ordering::Relaxed));
        // Not waiting for the guard: whoever waits has a deadline, and the guard's holder may be stopped.
        if header.extents_warm.load(Ordering::Relaxed) > 32
            && idle > 2_000_000_000
            && let Some(txn) = header.arena_guard.try_lock(self)?
        {
            self.trim_in(txn)?;
        }
        Ok(())
    }

    pub(crate) fn extent(&self, number: u32) -> Result<&'static Extent, Corrupt> {
        if number >= self.geometry().extents {
            return Err(Corrupt("an extent is out of range"));
        }
        self.segment().at(self.geometry().extent_record(number))
    }
}

//! What stands where in the session's memory.
//!
//! ```text
//! header | process slots | object entries | hold records [process][object] | extents | block words [extent][block] | arena
//! ```
//!
//! All tables are reserved at full size: the memory is sparse, so an entry costs nothing until it is used. Sizes are
//! chosen once by the creator, from the limits of the machine, and stand in the header.

use crate::error::{Corrupt, ShmError};
use crate::guard::Guard;
use crate::primitive::{AtomicU32, AtomicU64, Ordering};
use crate::segment::{Segment, Shared};

/// "PROCESSN" in ASCII.
pub const MAGIC: u64 = u64::from_le_bytes(*b"PROCESSN");
/// Changes with every change of any shared structure.
pub const VERSION: u32 = 6;

/// Unit in which the arena is handed out: one huge page.
pub const EXTENT: u64 = 2 << 20;
/// The smallest block.
pub const MIN_BLOCK: u64 = 128;
/// Words of block bookkeeping for each extent.
pub const BLOCKS_PER_EXTENT: u64 = EXTENT / MIN_BLOCK;
/// Size classes of blocks (see `arena`).
pub const CLASSES: usize = 64;

/// The first page of the session.
#[repr(C)]
pub struct Header {
    /// [`MAGIC`]; written last by the creator.
    pub magic: AtomicU64,
    /// [`VERSION`].
    pub version: AtomicU32,
    /// Slots in the process table.
    pub processes: AtomicU32,
    /// Entries in the object table.
    pub objects: AtomicU32,
    /// Extents in the arena.
    pub extents: AtomicU32,
    /// A random number that tells this session from any other.
    pub id: AtomicU64,
    /// When it was created (monotonic nanoseconds).
    pub created_ns: AtomicU64,
    /// Bytes of the arena that may be in use.
    pub budget: AtomicU64,
    /// Calls for a recovery, dead or no dead: a section that a dead owner left was undone, so that what it owned must be looked
    /// at again, or something had to be put off.
    pub calls: AtomicU64,
    /// The value of `calls` that the last complete recovery has seen.
    pub calls_seen: AtomicU64,
    /// Processes that died without saying goodbye.
    pub deaths: AtomicU64,
    /// When the last look for dead processes began.
    pub last_sweep_ns: AtomicU64,
    /// When memory was last given back to the arena.
    pub last_free_ns: AtomicU64,
    /// Slots below this number have been used.
    pub process_high: AtomicU64,
    /// Entries below this number have been used.
    pub object_high: AtomicU64,
    /// Free entries below it: number + 1 of the first, chained.
    pub object_free: AtomicU64,
    /// Objects that exist.
    pub object_count: AtomicU64,
    /// Number + 1 of the object that the recovery is at, which has one of that object's references; zero for none.
    pub object_kept: AtomicU64,
    /// Extents below this number have been used.
    pub extent_high: AtomicU64,
    /// Extents in use.
    pub extents_used: AtomicU64,
    /// Free extents that hold pages.
    pub extents_warm: AtomicU64,
    /// Bytes in blocks that are in use.
    pub bytes_used: AtomicU64,
    /// For each size class: number + 1 of the first extent that has a free block.
    pub class_heads: [AtomicU64; CLASSES],
    /// Guards `process_high` and the states of slots.
    pub processes_guard: Guard,
    /// Guards the object table and all hold records.
    pub objects_guard: Guard,
    /// Guards the arena.
    pub arena_guard: Guard,
    /// Held by the one who recovers after a death.
    pub recovery_guard: Guard,
}

// SAFETY: repr(C) of atomics, arrays of them, and guards.
unsafe impl Shared for Header {}

const _: () = assert!(size_of::<Header>() <= 4096);

/// The sizes of the tables and where they begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Slots in the process table.
    pub processes: u32,
    /// Entries in the object table.
    pub objects: u32,
    /// Extents in the arena.
    pub extents: u32,
}

impl Geometry {
    /// Bytes of a process slot.
    pub const SLOT: u64 = 1024;
    /// Bytes of an object entry.
    pub const ENTRY: u64 = 128;
    /// Bytes of a hold record.
    pub const HOLD: u64 = 16;
    /// Bytes of an extent's record.
    pub const EXTENT_RECORD: u64 = 64;
    /// Bytes of a block's record.
    pub const BLOCK_RECORD: u64 = 16;

    /// The usual size, or a smaller one where the address space is limited to `address_space` bytes.
    pub fn fitting(address_space: Option<u64>) -> Self {
        let full = Self {
            processes: 4095,
            objects: 1 << 18,
            extents: 1 << 15,
        };
        let mut g = full;
        if let Some(limit) = address_space {
            // A quarter for the session; the program needs the rest.
            while g.total() > limit / 4 && g.extents > 16 {
                g.extents /= 2;
                g.objects = (g.objects / 2).max(1 << 12);
                g.processes = (g.processes / 2).max(255);
            }
        }
        g
    }

    /// Reads it from a header and checks it against the segment's real size.
    pub fn read(segment: &Segment) -> Result<Self, ShmError> {
        let h = segment.at::<Header>(0)?;
        if h.magic.load(Ordering::Acquire) != MAGIC {
            return Err(Corrupt("this is no procession session").into());
        }
        let found = h.version.load(Ordering::Relaxed);
        if found != VERSION {
            return Err(ShmError::Version {
                found,
                own: VERSION,
            });
        }
        let g = Self {
            processes: h.processes.load(Ordering::Relaxed),
            objects: h.objects.load(Ordering::Relaxed),
            extents: h.extents.load(Ordering::Relaxed),
        };
        if g.processes > 4095
            || g.objects > 1 << 20
            || g.extents > 1 << 20
            || g.total() != segment.len()
        {
            return Err(Corrupt("the session's tables do not fit its size").into());
        }
        Ok(g)
    }

    /// Where process slot `i` stands.
    pub fn slot(&self, i: u32) -> u64 {
        4096 + u64::from(i) * Self::SLOT
    }

    /// Where object entry `i` stands.
    pub fn entry(&self, i: u32) -> u64 {
        self.slot(self.processes) + u64::from(i) * Self::ENTRY
    }

    /// Where the hold record of process slot `p` for object `o` stands.
    pub fn hold(&self, p: u32, o: u32) -> u64 {
        self.entry(self.objects)
            + (u64::from(p) * u64::from(self.objects) + u64::from(o)) * Self::HOLD
    }

    /// Where the record of extent `e` stands.
    pub fn extent_record(&self, e: u32) -> u64 {
        self.hold(self.processes, 0).next_multiple_of(4096) + u64::from(e) * Self::EXTENT_RECORD
    }

    /// Where the record of block `b` of extent `e` stands.
    pub fn block_record(&self, e: u32, b: u32) -> u64 {
        self.extent_record(self.extents).next_multiple_of(4096)
            + (u64::from(e) * BLOCKS_PER_EXTENT + u64::from(b)) * Self::BLOCK_RECORD
    }

    /// Where extent `e` of the arena begins.
    pub fn extent(&self, e: u32) -> u64 {
        self.block_record(self.extents, 0).next_multiple_of(EXTENT) + u64::from(e) * EXTENT
    }

    /// Bytes in all.
    pub fn total(&self) -> u64 {
        self.extent(self.extents)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn tables_do_not_overlap() {
        for g in [
            Geometry::fitting(None),
            Geometry::fitting(Some(8 << 30)),
            Geometry::fitting(Some(1 << 30)),
        ] {
            let marks = [
                0,
                g.slot(0),
                g.slot(g.processes),
                g.entry(g.objects),
                g.hold(g.processes - 1, g.objects - 1) + Geometry::HOLD,
                g.extent_record(0),
                g.extent_record(g.extents),
                g.block_record(0, 0),
                g.block_record(g.extents - 1, (BLOCKS_PER_EXTENT - 1) as u32) + 16,
                g.extent(0),
                g.total(),
            ];
            assert!(marks.windows(2).all(|w| w[0] <= w[1]), "{marks:?}");
            assert_eq!(g.extent(0) % EXTENT, 0);
        }
    }

    #[test]
    fn a_limited_address_space_gets_a_smaller_session() {
        assert!(Geometry::fitting(Some(4 << 30)).total() <= 1 << 30);
    }

    #[test]
    fn another_version_is_told_apart_from_nonsense() {
        let session = crate::kinds::create("versions", None).unwrap();
        let header = session.header();
        header.version.store(VERSION + 1, Ordering::Relaxed);
        let error = Geometry::read(session.segment()).unwrap_err();
        assert!(
            matches!(error, ShmError::Version { found, own } if found == VERSION + 1 && own == VERSION)
        );
        assert!(
            error
                .to_string()
                .contains("use one version in all processes")
        );
        header.version.store(VERSION, Ordering::Relaxed);
        assert!(Geometry::read(session.segment()).is_ok());
        header.magic.store(1, Ordering::Relaxed);
        let error = Geometry::read(session.segment()).unwrap_err();
        assert!(error.to_string().contains("no procession session"));
    }
}

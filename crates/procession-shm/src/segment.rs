//! Checked references into the shared object.
//!
//! Everything in the session is named by its offset. An offset is untrusted: it is turned into a reference only here, after
//! bounds and alignment were checked, and only to types for which every bit pattern is a value.

use procession_sys::memory::SharedMemory;

use crate::error::Corrupt;
use crate::primitive::{AtomicU32, AtomicU64};

/// A type that may stand in shared memory.
///
/// # Safety
/// `#[repr(C)]`, made of atomics (or of arrays and structs of them, or of [`procession_sys::mutex::RobustMutex`]), so that
/// any bit pattern is a valid value and concurrent writes by other processes are no data race.
pub unsafe trait Shared: Sized {}

// SAFETY: an atomic integer is valid for every bit pattern and made for concurrent access.
unsafe impl Shared for AtomicU32 {}
// SAFETY: as above.
unsafe impl Shared for AtomicU64 {}
// SAFETY: an array of shareable values holds nothing else.
unsafe impl<T: Shared, const N: usize> Shared for [T; N] {}

/// This process's view of the session's memory. Never unmapped, so references are `'static`.
#[derive(Debug)]
pub struct Segment(SharedMemory);

impl Segment {
    /// Takes the view over.
    pub fn new(memory: SharedMemory) -> Self {
        Self(memory)
    }

    /// The operating system's object.
    pub fn memory(&self) -> &SharedMemory {
        &self.0
    }

    /// Bytes in all.
    #[inline]
    pub fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// True for a segment without bytes; there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of type `T` at `offset`.
    #[inline]
    pub fn at<T: Shared>(&self, offset: u64) -> Result<&'static T, Corrupt> {
        let size = size_of::<T>() as u64;
        if offset > self.len()
            || self.len() - offset < size
            || !offset.is_multiple_of(align_of::<T>() as u64)
        {
            return Err(Corrupt("an offset points outside"));
        }
        // SAFETY: in bounds and aligned (the base is aligned to 2 MiB); `T: Shared` is valid for any contents, and the
        // mapping lives as long as the process.
        Ok(unsafe { &*self.0.base().as_ptr().add(offset as usize).cast::<T>() })
    }

    /// Copies bytes out of `offset..offset + to.len()`.
    #[inline]
    pub fn read(&self, offset: u64, to: &mut [u8]) -> Result<(), Corrupt> {
        self.check(offset, to.len() as u64)?;
        // SAFETY: checked bounds; the destination is an exclusive reference, so the ranges cannot overlap unless the
        // caller made a reference into the segment, which `bytes` gives out for one owner only.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.0.base().as_ptr().add(offset as usize),
                to.as_mut_ptr(),
                to.len(),
            );
        }
        Ok(())
    }

    /// Copies bytes to `offset..offset + from.len()`.
    #[inline]
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<(), Corrupt> {
        self.check(offset, from.len() as u64)?;
        // SAFETY: checked bounds; the range belongs to the caller (its block, or its reserved part of a ring).
        unsafe {
            std::ptr::copy(
                from.as_ptr(),
                self.0.base().as_ptr().add(offset as usize),
                from.len(),
            );
        }
        Ok(())
    }

    /// A range as plain memory.
    ///
    /// The caller owns the range (its block, or a record under a guard): a process that breaks the protocol may change
    /// the bytes meanwhile, so readers treat them as untrusted input and never as a Rust value with invariants.
    #[inline]
    pub fn bytes(&self, offset: u64, len: u64) -> Result<&'static [u8], Corrupt> {
        self.check(offset, len)?;
        // SAFETY: in bounds and mapped for the process's life; any byte is a valid u8.
        Ok(unsafe {
            std::slice::from_raw_parts(self.0.base().as_ptr().add(offset as usize), len as usize)
        })
    }

    /// The address of a range that the caller owns.
    #[inline]
    pub fn pointer(&self, offset: u64, len: u64) -> Result<std::ptr::NonNull<u8>, Corrupt> {
        self.check(offset, len)?;
        // SAFETY: in bounds, so the sum stays inside one mapping.
        Ok(unsafe { self.0.base().add(offset as usize) })
    }

    /// Sets a range to zero.
    pub fn zero(&self, offset: u64, len: u64) -> Result<(), Corrupt> {
        self.check(offset, len)?;
        // SAFETY: as in `write`.
        unsafe {
            std::ptr::write_bytes(self.0.base().as_ptr().add(offset as usize), 0, len as usize);
        }
        Ok(())
    }

    /// The offset of something that `at` gave out.
    #[inline]
    pub fn offset_of<T>(&self, value: &'static T) -> u64 {
        (std::ptr::from_ref(value) as usize - self.0.base().as_ptr() as usize) as u64
    }

    #[inline]
    fn check(&self, offset: u64, len: u64) -> Result<(), Corrupt> {
        if offset <= self.len() && self.len() - offset >= len {
            Ok(())
        } else {
            Err(Corrupt("a range points outside"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_checked() {
        let s = Segment::new(SharedMemory::create("test", 4096).unwrap());
        assert!(s.at::<AtomicU64>(4088).is_ok());
        for bad in [4089, 4096, 1, u64::MAX, u64::MAX - 7] {
            assert!(s.at::<AtomicU64>(bad).is_err(), "{bad}");
        }
        assert!(s.bytes(4096, 0).is_ok());
        assert!(s.bytes(4096, 1).is_err());
        assert!(s.bytes(1, u64::MAX).is_err());
    }
}

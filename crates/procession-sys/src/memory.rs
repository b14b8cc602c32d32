//! Anonymous shared memory: one sparse object, mapped once, freed by the kernel with the last process that has it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::Errno;

/// Linux 6.1; the C library's headers lag behind.
const MADV_COLLAPSE: libc::c_int = 25;

/// A shared memory object and this process's view of all of it.
///
/// The view is never taken down while the process lives: unmapping memory in which this process holds a robust mutex would
/// hide its death from everybody else. So the type has no `Drop`, and references into it are `'static`.
#[derive(Debug)]
pub struct SharedMemory {
    fd: OwnedFd,
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is valid for the process's life and may be reached from every thread; all access to its contents
// goes through atomics or through ranges that the layers above hand out to one owner at a time.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Creates an object of `len` bytes (sparse: what is not touched costs nothing) and maps it.
    pub fn create(name: &str, len: usize) -> Result<Self, Errno> {
        let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, len as u64)?;
        // Nobody can cut the object under our feet, so that a read inside its length never raises SIGBUS.
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW)?;
        Self::map(fd, len)
    }

    /// Maps an object that another process made and handed over. Refuses what could shrink while it is mapped.
    pub fn attach(fd: OwnedFd) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(&fd)?;
        let seals = rustix::fs::fcntl_get_seals(&fd)?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err(Errno::INVAL);
        }
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        Self::map(fd, stat.st_size as usize)
    }

    /// Maps an object for reading only, as a tool does that looks from outside. Refuses what could shrink meanwhile.
    pub fn attach_read_only(fd: OwnedFd) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(&fd)?;
        if !rustix::fs::fcntl_get_seals(&fd)?.contains(SealFlags::SHRINK) {
            return Err(Errno::INVAL);
        }
        Self::map_with(fd, stat.st_size as usize, ProtFlags::READ)
    }

    fn map(fd: OwnedFd, len: usize) -> Result<Self, Errno> {
        Self::map_with(fd, len, ProtFlags::READ | ProtFlags::WRITE)
    }

    fn map_with(fd: OwnedFd, len: usize, prot: ProtFlags) -> Result<Self, Errno> {
        // Two megabytes more than needed, so that the view can start on a huge-page boundary.
        let slack = 2 << 20;
        // SAFETY: reserves fresh address space; nothing is replaced.
        let raw = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len + slack,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        };
        let aligned = (raw as usize).next_multiple_of(slack) as *mut core::ffi::c_void;
        // SAFETY: the fixed range lies inside the reservation made above, which nobody else knows.
        let base = unsafe {
            rustix::mm::mmap(
                aligned,
                len,
                prot,
                MapFlags::SHARED | MapFlags::FIXED | MapFlags::NORESERVE,
                &fd,
                0,
            )?
        };
        // SAFETY: madvise on our own fresh mapping; keeping the session out of core dumps is best effort.
        let _ = unsafe { rustix::mm::madvise(base, len, Advice::LinuxDontDump) };
        Ok(Self {
            fd,
            base: NonNull::new(base.cast()).ok_or(Errno::NOMEM)?,
            len,
        })
    }

    /// Where the view starts in this process.
    #[inline]
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The object's length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for an object without any byte; there is no such session.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The descriptor, to be handed to a child.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Bytes of memory that the object really takes.
    pub fn resident_bytes(&self) -> Result<u64, Errno> {
        Ok(rustix::fs::fstat(&self.fd)?.st_blocks as u64 * 512)
    }

    /// Copies bytes out through the descriptor. Unlike a read through the mapping, which makes the kernel put a page of zeros
    /// under every hole that it meets, this takes no memory.
    pub fn read_at(&self, offset: u64, mut to: &mut [u8]) -> Result<(), Errno> {
        let mut at = offset;
        while !to.is_empty() {
            let got = rustix::io::retry_on_intr(|| rustix::io::pread(&self.fd, &mut *to, at))?;
            if got == 0 {
                return Err(Errno::INVAL);
            }
            at += got as u64;
            to = &mut to[got..];
        }
        Ok(())
    }

    /// The first place from `offset` on that has memory under it, if there is one.
    pub fn next_present(&self, offset: u64) -> Option<u64> {
        rustix::fs::seek(&self.fd, rustix::fs::SeekFrom::Data(offset)).ok()
    }

    /// Gives the pages of a range back to the system; they read as zero afterwards.
    pub fn punch(&self, offset: usize, len: usize) -> Result<(), Errno> {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len));
        rustix::fs::fallocate(
            &self.fd,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            offset as u64,
            len as u64,
        )
    }

    /// Takes real memory for a range now, so that a lack of it is an error here and not a SIGBUS at the first touch.
    pub fn populate(&self, offset: usize, len: usize) -> Result<(), Errno> {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len));
        rustix::fs::fallocate(
            &self.fd,
            FallocateFlags::KEEP_SIZE,
            offset as u64,
            len as u64,
        )
    }

    /// Asks for huge pages under a range (both ends on 2 MiB, at least one page of each 2 MiB present). Best effort: a
    /// kernel that cannot says no and the range stays as it is.
    pub fn collapse(&self, offset: usize, len: usize) -> bool {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len));
        // SAFETY: the range lies in our mapping, and collapsing changes no contents.
        unsafe { libc::madvise(self.base.as_ptr().add(offset).cast(), len, MADV_COLLAPSE) == 0 }
    }

    /// From now on this process sees a private copy of a range, at the same address: what it writes there is its own, and what
    /// others write is not seen any more once a page was written to. Both ends on page boundaries. For a child of a fork
    /// that has inherited a buffer. [`SharedMemory::make_shared`] undoes it.
    pub fn make_private(&self, offset: usize, len: usize) -> Result<(), Errno> {
        self.remap(offset, len, MapFlags::PRIVATE)
    }

    /// The range is shared again.
    pub fn make_shared(&self, offset: usize, len: usize) -> Result<(), Errno> {
        self.remap(offset, len, MapFlags::SHARED)
    }

    fn remap(&self, offset: usize, len: usize, kind: MapFlags) -> Result<(), Errno> {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len));
        // SAFETY: replaces a part of our own mapping by another mapping of the same bytes with the same protection, in
        // one step; the layers above keep no locks in ranges that they make private.
        unsafe {
            rustix::mm::mmap(
                self.base.as_ptr().add(offset).cast(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                kind | MapFlags::FIXED | MapFlags::NORESERVE,
                &self.fd,
                offset as u64,
            )?;
        }
        Ok(())
    }

    /// A private view of a range: what is written to it is seen by this process alone. `offset` is on a page boundary.
    pub fn private_view(&self, offset: usize, len: usize) -> Result<PrivateView, Errno> {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len));
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
                &self.fd,
                offset as u64,
            )?
        };
        Ok(PrivateView {
            base: NonNull::new(base.cast()).ok_or(Errno::NOMEM)?,
            len,
        })
    }
}

/// A copy-on-write view of a range of shared memory, unmapped when dropped. It holds no locks, so it may go.
#[derive(Debug)]
pub struct PrivateView {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the view is plain memory owned by this value; its users synchronise as for any buffer.
unsafe impl Send for PrivateView {}
// SAFETY: as above.
unsafe impl Sync for PrivateView {}

impl PrivateView {
    /// Where the view starts.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for a view of no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for PrivateView {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `private_view` and nobody holds a reference past this value's life.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparse_memory_costs_only_what_is_touched() {
        let m = SharedMemory::create("test", 1 << 32).unwrap();
        assert_eq!(m.resident_bytes().unwrap(), 0);
        m.populate(0, 8192).unwrap();
        assert_eq!(m.resident_bytes().unwrap(), 8192);
        m.punch(0, 8192).unwrap();
        assert_eq!(m.resident_bytes().unwrap(), 0);
    }

    #[test]
    fn holes_are_skipped_and_read_without_filling_them() {
        let m = SharedMemory::create("test", 1 << 32).unwrap();
        // SAFETY: inside the mapping, which is this test's alone.
        unsafe { m.base().as_ptr().add(1 << 20).write(1) };
        assert_eq!(m.next_present(0), Some(1 << 20));
        assert_eq!(m.next_present((1 << 20) + 4096), None);
        let mut bytes = vec![1; 1 << 20];
        m.read_at(1 << 30, &mut bytes).unwrap();
        assert!(bytes.iter().all(|b| *b == 0));
        assert_eq!(m.resident_bytes().unwrap(), 4096);
        assert!(m.read_at((1 << 32) - 1, &mut [0; 2]).is_err());
    }

    #[test]
    fn what_might_shrink_is_not_mapped() {
        let fd = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&fd, 4096).unwrap();
        assert_eq!(
            SharedMemory::attach_read_only(fd).unwrap_err(),
            Errno::INVAL
        );
    }

    #[test]
    fn the_view_starts_on_a_huge_page() {
        let m = SharedMemory::create("test", 1 << 22).unwrap();
        assert_eq!(m.base().as_ptr() as usize % (2 << 20), 0);
    }

    #[test]
    fn a_private_range_is_private_until_it_is_shared_again() {
        let m = SharedMemory::create("test", 1 << 22).unwrap();
        let v = m.private_view(0, 8192).unwrap();
        m.make_private(4096, 4096).unwrap();
        // SAFETY: all addresses lie in live mappings of at least two pages.
        unsafe {
            m.base().as_ptr().add(4096).write(7);
            m.base().as_ptr().write(8);
            assert_eq!(
                (v.base().as_ptr().read(), v.base().as_ptr().add(4096).read()),
                (8, 0)
            );
            m.make_shared(4096, 4096).unwrap();
            assert_eq!(m.base().as_ptr().add(4096).read(), 0);
        }
    }

    #[test]
    fn what_is_written_to_a_private_view_stays_private() {
        let m = SharedMemory::create("test", 1 << 22).unwrap();
        let v = m.private_view(4096, 4096).unwrap();
        // SAFETY: both addresses lie in live mappings of at least one page.
        unsafe {
            v.base().as_ptr().write(7);
            assert_eq!(m.base().as_ptr().add(4096).read(), 0);
        }
    }
}

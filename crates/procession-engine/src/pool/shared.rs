//! Bytes that many messages refer to: sent once, seen by every receiver as its own.

use std::ptr::NonNull;

use procession_shm::memory::Memory;
use procession_shm::objects::Handle;
use procession_shm::{Session, ShmError};
use procession_sys::memory::PrivateView;

/// Bytes in shared memory that nobody changes. Each message that refers to them carries a ticket (128 bytes), which keeps
/// them for as long as the message is on its way; after that the receivers' views do.
#[derive(Debug, Clone)]
pub struct SharedBuffer {
    memory: Memory,
}

impl SharedBuffer {
    /// Copies `bytes` once.
    pub fn create(session: &'static Session, bytes: &[u8]) -> Result<Self, ShmError> {
        let memory = Memory::create(session, "shared arguments", bytes.len().max(1) as u64)?;
        session.segment().write(memory.offset(), bytes)?;
        Ok(Self { memory })
    }

    /// The object, for a ticket (see [`crate::transit`]).
    pub fn handle(&self) -> &Handle {
        self.memory.handle()
    }
}

/// A receiver's view: it may be written to, which nobody else sees and which costs the pages that are written.
#[derive(Debug)]
pub struct SharedView {
    view: PrivateView,
    skip: usize,
    len: usize,
    /// The view shows the memory's contents for as long as it is held.
    _memory: Memory,
}

impl SharedView {
    /// The bytes behind a handle that was redeemed.
    pub fn open(handle: Handle) -> Result<Self, ShmError> {
        const PAGE: u64 = 4096;
        let memory = Memory::of(handle)?;
        let begin = memory.offset() / PAGE * PAGE;
        let skip = (memory.offset() - begin) as usize;
        let len = memory.len() as usize;
        let session = memory.handle().session();
        let view = session
            .segment()
            .memory()
            .private_view(begin as usize, (skip + len).next_multiple_of(PAGE as usize))
            .map_err(ShmError::system("map a private view"))?;
        Ok(Self {
            view,
            skip,
            len,
            _memory: memory,
        })
    }

    /// Where the bytes stand in this process, valid while the value lives.
    pub fn pointer(&self) -> NonNull<u8> {
        self.view
            .base()
            .map_addr(|base| base.saturating_add(self.skip))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

//! A piece of shared memory as an object: for values, arrays, and buffers that many read.

use std::ptr::NonNull;

use crate::error::ShmError;
use crate::objects::{Handle, KindOps};
use crate::primitive::Ordering;
use crate::ring::{expect_kind, nobody_died};
use crate::session::Session;

/// The kind.
pub const KIND: u8 = 4;

/// What the session knows about it.
pub static OPS: KindOps = KindOps {
    number: KIND,
    name: "memory",
    settle: |_, _, _| Ok(true),
    wake: |_, _, _| Ok(()),
    dropped: |_, _, _| {},
    died: nobody_died,
    left: nobody_died,
    destroy: |_, _, _| Ok(()),
    describe: |s, e| {
        let at = e.body.load(Ordering::Acquire);
        s.block(at)
            .map(|b| vec![("bytes", b.link.load(Ordering::Relaxed))])
            .unwrap_or_default()
    },
};

/// Shared bytes, held by this process. They start out as zeros.
#[derive(Debug, Clone)]
pub struct Memory {
    handle: Handle,
}

impl Memory {
    /// Makes one of `len` bytes.
    pub fn create(session: &'static Session, name: &str, len: u64) -> Result<Self, ShmError> {
        Ok(Self {
            handle: session.create_object(KIND, len, name, None, |_| Ok(()))?,
        })
    }

    /// Makes one of a block of this process, which keeps its contents and is the object's from then on.
    pub fn of_block(session: &'static Session, at: u64) -> Result<Self, ShmError> {
        Ok(Self {
            handle: session.register_object(KIND, at, "", None)?,
        })
    }

    /// The memory that a handle means.
    pub fn of(handle: Handle) -> Result<Self, ShmError> {
        expect_kind(&handle, &OPS)?;
        Ok(Self { handle })
    }

    /// The handle.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        let at = self.offset();
        self.handle
            .session()
            .block(at)
            .map_or(0, |b| b.link.load(Ordering::Relaxed))
    }

    /// Has it none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where it stands in the session.
    pub fn offset(&self) -> u64 {
        self.handle.entry().body.load(Ordering::Acquire)
    }

    /// Where it stands in this process, valid while the value lives.
    pub fn pointer(&self) -> Result<NonNull<u8>, ShmError> {
        Ok(self
            .handle
            .session()
            .segment()
            .pointer(self.offset(), self.len())?)
    }
}

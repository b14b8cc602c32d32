//! Blocks that came with messages, and what a fork does to them.
//!
//! A received array stands on a block that this process owns. A child of a fork inherits the array, but not the block: the
//! parent may free it, and somebody else would get it. So before a fork each such block is made a shared object,
//! which the child holds too; and in the child its pages are made private, so that neither sees what the other writes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use procession_shm::memory::Memory;
use procession_shm::{Corrupt, Session};

/// A block of this process that some Python buffer stands on.
pub(crate) struct Received {
    session: &'static Session,
    at: u64,
    len: u64,
    /// The object that the block was made before a fork.
    shared: OnceLock<Memory>,
    /// In a child: the pages are private.
    private: AtomicBool,
}

/// All that are alive, for the fork hooks. Only touched with the interpreter attached, so never locked across a fork.
static ALIVE: Mutex<Vec<Weak<Received>>> = Mutex::new(Vec::new());

impl Received {
    /// Takes a block of this process over.
    pub(crate) fn new(session: &'static Session, at: u64, len: u64) -> Arc<Self> {
        let received = Arc::new(Self {
            session,
            at,
            len,
            shared: OnceLock::new(),
            private: AtomicBool::new(false),
        });
        let mut alive = ALIVE.lock().unwrap_or_else(PoisonError::into_inner);
        if alive.len() == alive.capacity() {
            alive.retain(|r| r.strong_count() > 0);
        }
        alive.push(Arc::downgrade(&received));
        received
    }

    /// Where the bytes are.
    pub(crate) fn span(&self) -> Result<(std::ptr::NonNull<u8>, u64), Corrupt> {
        Ok((self.session.segment().pointer(self.at, self.len)?, self.len))
    }

    fn pages(&self) -> Result<(usize, usize), Corrupt> {
        Ok((self.at as usize, self.session.block_size(self.at)? as usize))
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if self.private.load(Ordering::Relaxed)
            && let Ok((at, len)) = self.pages()
        {
            // Before the object goes, after which the block may be anybody's.
            let _ = self.session.segment().memory().make_shared(at, len);
        }
        if self.shared.get().is_none() && self.session.owns(self.at) {
            let _ = self.session.free_block(self.at);
        }
    }
}

fn each(f: impl Fn(&Received)) {
    let alive: Vec<_> = {
        let alive = ALIVE.lock().unwrap_or_else(PoisonError::into_inner);
        alive.iter().filter_map(Weak::upgrade).collect()
    };
    for received in alive {
        f(&received);
    }
}

/// Before a fork: what would be the parent's alone becomes something that the child can hold.
pub(crate) fn before_fork() {
    each(|r| {
        if r.shared.get().is_none()
            && r.session.owns(r.at)
            && let Ok(memory) = Memory::of_block(r.session, r.at)
        {
            let _ = r.shared.set(memory);
        }
    });
}

/// In the child: its pages are its own.
pub(crate) fn after_fork_in_child() {
    each(|r| {
        if r.shared.get().is_some()
            && let Ok((at, len)) = r.pages()
            && at % 4096 == 0
            && len % 4096 == 0
            && r.session.segment().memory().make_private(at, len).is_ok()
        {
            r.private.store(true, Ordering::Relaxed);
        }
    });
}

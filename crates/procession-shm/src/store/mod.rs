//! Containers that many processes change: a map and a list of stored values; see `README.md` beside this file.

mod batch;
mod list;
mod map;
mod table;
mod update;
mod value;

use procession_sys::clock::Deadline;

use crate::arena::BlockOwner;
use crate::error::{Corrupt, ShmError, WaitError};
use crate::guard::{Guard, Txn};
use crate::objects::{Entry, Handle, KindOps};
use crate::primitive::{AtomicU64, Ordering};
use crate::processes::Owner;
use crate::ring::{expect_kind, nobody_died};
use crate::segment::Shared;
use crate::session::Session;
use crate::wait::{Check, Wait, WaitKind};

pub use batch::Batch;
pub use list::{List, Run};
pub use map::{Key, Map, Outcome, Seen, Stamp, Target};
pub use update::Update;
pub use value::{Content, PIN, Stored, Take};

/// The kind of object that a map is.
pub const MAP: u8 = 12;
/// The kind of object that a list is.
pub const LIST: u8 = 13;

/// What the session knows about maps.
pub static MAP_OPS: KindOps = KindOps {
    number: MAP,
    name: "dict",
    destroy: |s, i, e| map::destroy(s, i, body(s, e)?),
    ..COMMON
};

/// What the session knows about lists.
pub static LIST_OPS: KindOps = KindOps {
    number: LIST,
    name: "list",
    destroy: |s, i, e| list::destroy(s, i, body(s, e)?),
    ..COMMON
};

const COMMON: KindOps = KindOps {
    number: 0,
    name: "",
    settle: |s, _, e| body(s, e)?.guard.try_lock(s).map(drop).map_err(Into::into),
    wake: |_, _, _| Ok(()),
    dropped: |_, _, _| {},
    died: nobody_died,
    destroy: |_, _, _| Ok(()),
    describe: |s, e| {
        body(s, e).map_or(Vec::new(), |b| {
            vec![
                ("length", b.count.load(Ordering::Relaxed)),
                ("changes", b.version.load(Ordering::Relaxed)),
            ]
        })
    },
};

fn body(session: &Session, entry: &Entry) -> Result<&'static StoreBody, Corrupt> {
    session.segment().at(entry.body.load(Ordering::Acquire))
}

/// A store as it stands in shared memory. All of it is read and changed under the guard.
#[repr(C)]
pub struct StoreBody {
    guard: Guard,
    /// The block with the slots; zero while there was never a value.
    table: AtomicU64,
    /// Values.
    count: AtomicU64,
    /// Where the next slot is taken.
    used: AtomicU64,
    /// Of a list: the slot of its first value.
    first: AtomicU64,
    /// Of a map: slots taken since the table was made, which is what its index can bear.
    filled: AtomicU64,
    /// Changes of any kind.
    version: AtomicU64,
    /// Of a map: changes after which a place in the table may be another key's.
    epoch: AtomicU64,
    /// Of a map: keys whose equality is not that of their bytes.
    opaque: AtomicU64,
    /// 1 while blocks of many values change hands, see `batch.rs`.
    adrift: AtomicU64,
    /// Of a map: the block with the entries of an update that is committed, and the number of those that are in.
    update: AtomicU64,
    updated: AtomicU64,
}

// SAFETY: repr(C) of a guard and atomics.
unsafe impl Shared for StoreBody {}

impl std::fmt::Debug for StoreBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreBody")
            .field("count", &self.count.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

/// Attempts to get the guard before the caller is told that it is busy: longer than a section, shorter than a wake-up.
const SPINS: u32 = 200;

/// What maps and lists have in common.
#[derive(Debug, Clone)]
struct Store {
    handle: Handle,
    body: &'static StoreBody,
}

impl Store {
    fn create(
        session: &'static Session,
        ops: &'static KindOps,
        name: &str,
    ) -> Result<Self, ShmError> {
        let len = size_of::<StoreBody>() as u64;
        let handle = session.create_object(ops.number, len, name, None, |at| {
            let body: &'static StoreBody = session.segment().at(at)?;
            body.guard
                .init()
                .map_err(ShmError::system("initialize a mutex"))
        })?;
        Self::of(handle, ops)
    }

    fn of(handle: Handle, ops: &'static KindOps) -> Result<Self, ShmError> {
        expect_kind(&handle, ops)?;
        Ok(Self {
            body: handle.body()?,
            handle,
        })
    }

    #[inline]
    fn session(&self) -> &'static Session {
        self.handle.session()
    }

    /// Whose the blocks of the values are.
    #[inline]
    fn home(&self) -> BlockOwner {
        BlockOwner::object(self.handle.index())
    }

    #[inline]
    fn mine(&self) -> Result<BlockOwner, ShmError> {
        Ok(BlockOwner::process(self.session().me()?))
    }

    /// Enters the guard; `TimedOut` if others keep it busy, and then it is for the caller to wait his way.
    #[inline]
    fn begin(&self, mend: fn(&Self, &mut Txn<'static>) -> Result<(), ShmError>) -> Entered {
        for _ in 0..SPINS {
            if let Some(mut txn) = self.body.guard.try_lock(self.session())? {
                if self.body.adrift.load(Ordering::Relaxed) != 0 {
                    mend(self, &mut txn)?;
                }
                return Ok(txn);
            }
            std::hint::spin_loop();
        }
        Err(WaitError::TimedOut)
    }

    /// Waits until the guard is free.
    fn wait_turn(&self, check: Check<'_>) -> Result<(), WaitError> {
        let index = self.handle.index();
        let wait = Wait::new(self.session(), index, WaitKind::Acquire, Deadline::NEVER);
        self.body
            .guard
            .lock_within(self.session(), &mut wait.checked(check))
            .map(drop)
    }

    fn count_change(&self, txn: &mut Txn<'static>, count: u64) {
        bump(txn, &self.body.version);
        txn.set(&self.body.count, count);
    }

    /// In a section: the block is `owner`'s from its commit on.
    #[inline]
    fn give(&self, txn: &mut Txn<'static>, at: u64, owner: BlockOwner) -> Result<(), Corrupt> {
        let word = &self.session().block(at)?.owner;
        let old = BlockOwner::from_word(word.load(Ordering::Relaxed));
        txn.set(word, owner.with_flags_of(old).word());
        Ok(())
    }

    /// As [`Store::give`], to this process, of a block that has to be the store's; it is to be freed after the commit.
    #[inline]
    fn take_back(&self, txn: &mut Txn<'static>, at: u64) -> Result<(), ShmError> {
        let word = &self.session().block(at)?.owner;
        let old = BlockOwner::from_word(word.load(Ordering::Relaxed));
        if !old.same_as(self.home()) {
            return Err(Corrupt("a value names a block that is not its own").into());
        }
        txn.set(word, self.mine()?.with_flags_of(old).word());
        Ok(())
    }

    /// Has the process that made the store ended? Its data is still there, but the manager that it belongs to is not.
    #[inline]
    fn is_orphan(&self) -> bool {
        let creator = self.handle.entry().creator.load(Ordering::Relaxed);
        !Owner::from_word(creator as u32).is_some_and(|owner| self.session().is_alive(owner))
    }
}

type Entered = Result<Txn<'static>, WaitError>;

#[inline]
fn bump(txn: &mut Txn<'static>, word: &'static AtomicU64) {
    txn.set(word, word.load(Ordering::Relaxed).wrapping_add(1));
}

/// Frees what a process died over while it was the store's; whoever does it again after a death finds less to do.
fn free_if_ours(session: &'static Session, home: BlockOwner, at: u64) -> Result<(), ShmError> {
    let is_ours = session
        .block(at)
        .is_ok_and(|r| BlockOwner::from_word(r.owner.load(Ordering::Acquire)).same_as(home));
    if is_ours {
        session.free_block(at)?;
    }
    Ok(())
}

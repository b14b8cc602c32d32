//! Containers that many processes change: a map and a list of stored values; see `README.md` beside this file.

mod batch;
mod key;
mod list;
mod map;
mod table;
mod update;
mod value;

use procession_sys::clock::Deadline;

use crate::arena::BlockOwner;
use crate::crash_point;
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
pub use key::Key;
pub use list::{List, Run};
pub use map::{Map, Outcome, Seen, Stamp, Target};
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
    destroy: |s, i, e| table::destroy(s, i, body(s, e)?),
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
    settle: |s, _, e| Ok(body(s, e)?.guard.settle(s)?),
    wake: |_, _, _| Ok(()),
    dropped: |_, _, _| {},
    died: nobody_died,
    left: nobody_died,
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
    /// The owner word of a process that others let go first (see [`Store::ask_for_turn`]); 0 nobody.
    turn: AtomicU64,
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

/// The methods by which an operation waits its turn, for both kinds.
macro_rules! turns {
    ($kind:ident) => {
        impl $kind {
            /// After an operation that timed out, since others were at it: waits until they are not.
            pub fn wait_turn(&self, check: Check<'_>) -> Result<(), WaitError> {
                self.store.wait_turn(check)
            }

            /// Others are to hold their changes back, for a while, until [`Self::end_turn`]: they came first too often.
            pub fn ask_for_turn(&self) -> Result<(), ShmError> {
                self.store.ask_for_turn()
            }

            /// See [`Self::ask_for_turn`].
            pub fn end_turn(&self) {
                self.store.end_turn();
            }

            /// Has another process asked to go first?
            #[inline]
            pub fn is_others_turn(&self) -> bool {
                self.store.is_others_turn()
            }
        }
    };
}
turns!(Map);
turns!(List);

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

    /// For one whose snapshot was overtaken time and again: others hold their changes back for a while. They do not wait for
    /// ever, since what we compute may be waiting for them. Nothing is guarded by this; a death leaves nothing but the word.
    fn ask_for_turn(&self) -> Result<(), ShmError> {
        let me = u64::from(self.session().me()?.word());
        let turn = &self.body.turn;
        let _ = turn.compare_exchange(0, me, Ordering::AcqRel, Ordering::Relaxed);
        crash_point!("store.turn.asked");
        Ok(())
    }

    /// The one who had asked is through.
    fn end_turn(&self) {
        if let Some(me) = self.session().current() {
            let me = u64::from(me.word());
            let turn = &self.body.turn;
            let _ = turn.compare_exchange(me, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Has another process asked to go first?
    #[inline]
    fn is_others_turn(&self) -> bool {
        let word = self.body.turn.load(Ordering::Relaxed);
        word != 0 && self.is_turn_of_another(word)
    }

    #[cold]
    fn is_turn_of_another(&self, word: u64) -> bool {
        match Owner::from_word(word as u32) {
            Some(owner) if Some(owner) == self.session().current() => false,
            Some(owner) if self.session().is_alive(owner) => true,
            _ => {
                let turn = &self.body.turn;
                let _ = turn.compare_exchange(word, 0, Ordering::AcqRel, Ordering::Relaxed);
                false
            }
        }
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

/// Bytes of a block. No block has more than all of them together: what somebody has overwritten is not walked for hours.
#[inline]
fn size_of_block(session: &Session, at: u64) -> Result<u64, Corrupt> {
    let size = session.block_size(at)?;
    if size > session.bytes_used() {
        return Err(Corrupt("a block is larger than all blocks together"));
    }
    Ok(size)
}

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

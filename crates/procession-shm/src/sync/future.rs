//! The outcome of a call: told once by the process that owns the call, read by any number of others.

use procession_sys::clock::Deadline;

use crate::arena::BlockOwner;
use crate::bundle;
use crate::crash_point;
use crate::error::{Corrupt, ShmError, WaitError};
use crate::gate::{Gate, Wake};
use crate::objects::{Entry, Handle, KindOps};
use crate::primitive::{AtomicU64, Ordering};
use crate::processes::Owner;
use crate::ring::{Message, expect_kind, nobody_died};
use crate::segment::Shared;
use crate::session::Session;
use crate::wait::{Check, Wait, WaitKind, notify};

/// The kind.
pub const FUTURE: u8 = 11;

pub(super) static OPS: KindOps = KindOps {
    number: FUTURE,
    name: "future",
    settle: |_, _, _| Ok(true),
    wake: |s, _, e| {
        notify(&body(s, e)?.gate, Wake::All);
        Ok(())
    },
    dropped: |_, _, _| {},
    died: |s, _, e, dead| {
        let body = body(s, e)?;
        if body.owner.load(Ordering::Relaxed) == u64::from(dead.word()) {
            notify(&body.gate, Wake::All);
        }
        Ok(())
    },
    left: nobody_died,
    destroy: |s, i, e| s.free_blocks_of(BlockOwner::object(i), e.body.load(Ordering::Relaxed)),
    describe: |s, e| {
        body(s, e).map_or(Vec::new(), |b| {
            vec![(
                "settled",
                u64::from(is_final(b.state.load(Ordering::Relaxed))),
            )]
        })
    },
};

fn body(session: &Session, entry: &Entry) -> Result<&'static FutureBody, Corrupt> {
    session.segment().at(entry.body.load(Ordering::Acquire))
}

const PENDING: u64 = 0;
/// The owner is writing the outcome.
const SETTLING: u64 = 1;
const RETURNED: u64 = 2;
const RAISED: u64 = 3;

fn is_final(state: u64) -> bool {
    matches!(state, RETURNED | RAISED)
}

#[repr(C)]
#[derive(Debug)]
struct FutureBody {
    state: AtomicU64,
    /// Who will tell the outcome.
    owner: AtomicU64,
    /// Somebody wants the call to be stopped.
    cancel: AtomicU64,
    /// The block with the outcome's bytes, or a bundle of that and of the block that came with them.
    message: AtomicU64,
    /// How many bytes.
    len: AtomicU64,
    gate: Gate,
}

// SAFETY: repr(C) of atomics and a gate.
unsafe impl Shared for FutureBody {}

/// What has become of a call.
#[derive(Debug)]
pub enum Outcome {
    /// The message that its process sent, as a copy that belongs to this process, and whether it stands for a result (or for
    /// an exception).
    Told {
        /// A result, or an exception.
        returned: bool,
        /// The message's bytes.
        bytes: Vec<u8>,
        /// The message's block, for the caller to free.
        block: Option<u64>,
    },
    /// The process that owned the call is gone, and has told nothing.
    Lost,
}

/// A future, held by this process as an object.
#[derive(Debug, Clone)]
pub struct Future {
    handle: Handle,
    body: &'static FutureBody,
}

impl Future {
    /// Makes one that this process will settle.
    pub fn create(session: &'static Session, name: &str) -> Result<Self, ShmError> {
        let me = session.me()?;
        let len = size_of::<FutureBody>() as u64;
        Self::of(session.create_object(FUTURE, len, name, None, |at| {
            let body: &'static FutureBody = session.segment().at(at)?;
            body.owner.store(u64::from(me.word()), Ordering::Relaxed);
            Ok(())
        })?)
    }

    /// The future that a handle means.
    pub fn of(handle: Handle) -> Result<Self, ShmError> {
        expect_kind(&handle, &OPS)?;
        Ok(Self {
            body: handle.body()?,
            handle,
        })
    }

    /// The handle.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Tells the outcome; false if it was told before. The message's block becomes the future's.
    pub fn settle(&self, returned: bool, message: Message<'_>) -> Result<bool, ShmError> {
        let state = &self.body.state;
        if state
            .compare_exchange(PENDING, SETTLING, Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
        {
            return Ok(false);
        }
        crash_point!("future.settle.begun");
        if let Err(error) = self.store(message) {
            state.store(PENDING, Ordering::Release);
            return Err(error);
        }
        let outcome = if returned { RETURNED } else { RAISED };
        state.store(outcome, Ordering::SeqCst);
        crash_point!("future.settle.told");
        notify(&self.body.gate, Wake::All);
        Ok(true)
    }

    /// Nothing refers to what is stored here until the state says so; until a block is handed over it is this process's.
    fn store(&self, message: Message<'_>) -> Result<(), ShmError> {
        let session = self.handle.session();
        let len = message.len() as u64;
        let bytes = session.alloc(len.max(1), BlockOwner::process(session.me()?))?;
        message.write(session, bytes)?;
        let at = match message.block {
            Some(other) => bundle::bind_with(session, bytes, len, other)?,
            None => bytes,
        };
        crash_point!("future.settle.bound");
        self.body.len.store(len, Ordering::Relaxed);
        self.body.message.store(at, Ordering::Relaxed);
        let record = session.block(at)?;
        let owner = BlockOwner::from_word(record.owner.load(Ordering::Relaxed));
        let mine = BlockOwner::object(self.handle.index()).with_flags_of(owner);
        record.owner.store(mine.word(), Ordering::Release);
        crash_point!("future.settle.handed");
        Ok(())
    }

    /// What has become of the call; `None` while it is under way.
    pub fn outcome(&self) -> Result<Option<Outcome>, ShmError> {
        // The owner is looked at first: one that tells the outcome and leaves has told it.
        let awaited = self.is_owned();
        let state = self.body.state.load(Ordering::Acquire);
        if !is_final(state) {
            return Ok((!awaited).then_some(Outcome::Lost));
        }
        let session = self.handle.session();
        let (at, len) = (
            self.body.message.load(Ordering::Relaxed),
            self.body.len.load(Ordering::Relaxed),
        );
        let record = session.block(at)?;
        let owner = BlockOwner::from_word(record.owner.load(Ordering::Acquire));
        if !owner.same_as(BlockOwner::object(self.handle.index())) {
            return Err(Corrupt("a future names a block that is not its own").into());
        }
        let (at, other) = if owner.has(BlockOwner::MANIFEST) {
            match bundle::parts(session, at)?[..] {
                [bytes, other] => (bytes.at, Some(other.at)),
                _ => return Err(Corrupt("a future's bundle has the wrong length").into()),
            }
        } else {
            (at, None)
        };
        if len > session.block_size(at)? {
            return Err(Corrupt("an outcome is longer than its block").into());
        }
        let bytes = session.segment().bytes(at, len)?.to_vec();
        let block = other.map(|at| bundle::copy(session, at)).transpose()?;
        Ok(Some(Outcome::Told {
            returned: state == RETURNED,
            bytes,
            block,
        }))
    }

    /// Is there an outcome, or will there never be one?
    pub fn is_done(&self) -> bool {
        let awaited = self.is_owned(); // First, as above.
        is_final(self.body.state.load(Ordering::Acquire)) || !awaited
    }

    /// Does the process that will tell the outcome still live?
    fn is_owned(&self) -> bool {
        let owner = self.body.owner.load(Ordering::Relaxed);
        Owner::from_word(owner as u32).is_some_and(|o| self.handle.session().is_alive(o))
    }

    /// Waits until [`Future::is_done`].
    pub fn wait(&self, deadline: Deadline, check: Check<'_>) -> Result<(), WaitError> {
        let session = self.handle.session();
        let mut wait =
            Wait::new(session, self.handle.index(), WaitKind::Result, deadline).checked(check);
        wait.until(&self.body.gate, || Ok(self.is_done().then_some(())))
    }

    /// Asks the owner to stop the call.
    pub fn ask_to_cancel(&self) {
        self.body.cancel.store(1, Ordering::Release);
    }

    /// Has somebody asked for the call to be stopped?
    pub fn is_cancel_asked(&self) -> bool {
        self.body.cancel.load(Ordering::Acquire) != 0
    }
}

//! The work of one pool in shared memory; see `README.md` beside this file.
//!
//! One process owns a board: it opens jobs, feeds items and collects what became of them ([`OwnedJob`]). Workers take
//! [`Seat`]s at it, claim ranges of items and finish them one by one. Here is mechanism only; what to do with an item whose
//! worker died, when to start workers and when to kill them is decided above.

mod allowance;
mod bury;
pub mod cell;
mod claim;
mod collect;
mod condemn;
mod count;
mod crew;
mod layout;
pub mod ledger;
mod notes;
mod owner;
mod payload;
mod progress;
mod release;
mod run;
mod slab;
#[cfg(test)]
mod tests;

use crate::arena::BlockOwner;
use crate::error::{Corrupt, ShmError};
use crate::gate::{Gate, Lookout, Wake};
use crate::guard::Txn;
use crate::objects::{Entry, Handle, KindOps};
use crate::primitive::{AtomicU64, Ordering};
use crate::processes::Owner;
use crate::ring::{expect_kind, nobody_died};
use crate::session::Session;
use crate::wait::{LastSleeper, notify};

pub use bury::Departed;
pub use collect::{CancelCell, Taken};
pub use count::{Counts, Seated};
pub use crew::LOOK_AGAIN;
pub use layout::{CHUNK, JOBS, JobId, WINDOW_CHUNKS};
pub use notes::{NOTES_MAX, Noted, Notes};
pub use owner::{JobOptions, OwnedJob};
pub use payload::Payload;
pub use progress::JobWatch;
pub use run::{Next, Seat, Task};

use layout::{AS_FINISHED, BoardBody, JobSlot};
use ledger::Ledger;

/// The kind.
pub const KIND: u8 = 10;

/// What the session knows about boards.
pub static OPS: KindOps = KindOps {
    number: KIND,
    name: "board",
    settle: |s, _, e| {
        let body = body(s, e)?;
        // Everybody looks again at once: we may be stopped before we come to wake all who wait for anything.
        drop(body.guard.try_lock(s)?.map(|txn| body.entered(txn)));
        Ok(body.guard.settle(s)?)
    },
    wake: |s, _, e| {
        body(s, e)?.wake_all();
        Ok(())
    },
    dropped: |_, _, _| {},
    died: bury::died,
    left: nobody_died,
    destroy: |s, i, e| s.free_blocks_of(BlockOwner::object(i), e.body.load(Ordering::Relaxed)),
    describe: |s, e| count::describe(s, e).unwrap_or_default(),
};

/// A session has no more processes than this, so no board has more workers.
const MOST_SEATS: u64 = 1 << 12;

fn body(session: &Session, entry: &Entry) -> Result<&'static BoardBody, Corrupt> {
    session.segment().at(entry.body.load(Ordering::Acquire))
}

/// A board, held by this process.
#[derive(Debug, Clone)]
pub struct Board {
    handle: Handle,
    body: &'static BoardBody,
}

impl Board {
    /// Makes one whose owner is this process, with places for `seats` workers.
    pub fn create(
        session: &'static Session,
        name: &str,
        seats: u32,
        max_tasks: u64,
    ) -> Result<Self, ShmError> {
        let me = session.me()?;
        let len = size_of::<BoardBody>() as u64 + u64::from(seats) * size_of::<Ledger>() as u64;
        let handle = session.create_object(KIND, len, name, None, |at| {
            let body: &'static BoardBody = session.segment().at(at)?;
            body.guard
                .init()
                .map_err(ShmError::system("initialize a mutex"))?;
            body.owner.store(u64::from(me.word()), Ordering::Relaxed);
            body.ledgers.store(u64::from(seats), Ordering::Relaxed);
            body.max_tasks.store(max_tasks, Ordering::Relaxed);
            let cpus = procession_sys::limits::cpus() as u64;
            body.cpus.store(cpus, Ordering::Relaxed);
            Ok(())
        })?;
        Self::of(handle)
    }

    /// The board that a handle means.
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

    /// The session.
    pub fn session(&self) -> &'static Session {
        self.handle.session()
    }

    /// Is this process the owner?
    pub fn is_mine(&self) -> bool {
        let owner = self.body.owner.load(Ordering::Relaxed);
        (self.session().current()).is_some_and(|me| u64::from(me.word()) == owner)
    }

    /// Places for workers.
    pub fn seats(&self) -> u32 {
        self.body.seats()
    }

    /// Have workers to leave?
    #[inline]
    pub fn has_ended(&self) -> bool {
        self.body.ended.load(Ordering::Acquire) != 0
    }

    /// Tells all workers to leave as soon as they have finished what they run.
    pub fn end(&self) {
        self.body.ended.store(1, Ordering::SeqCst);
        self.body.wake_workers();
    }

    /// Where the owner's threads sleep.
    pub fn finished(&self) -> &'static Gate {
        &self.body.finished
    }

    /// Where workers sleep.
    pub fn work(&self) -> &'static Gate {
        &self.body.work
    }

    /// Where a worker says that it goes to sleep.
    pub fn last_sleeper(&self) -> &'static LastSleeper {
        &self.body.last_sleeper
    }

    /// Where a worker says that it looks out for work.
    pub fn lookout(&self) -> &'static Lookout {
        &self.body.lookout
    }

    /// Changes whenever a worker came or went.
    pub fn events(&self) -> u64 {
        self.body.events.load(Ordering::Acquire)
    }

    /// Lets the owner's waiting threads look again.
    pub fn nudge(&self) {
        self.body.raise();
    }

    /// May there be something to claim?
    #[inline]
    pub fn has_work(&self) -> bool {
        self.body.may_have_work()
    }

    fn index(&self) -> u32 {
        self.handle.index()
    }

    fn lock(&self) -> Result<Txn<'static>, ShmError> {
        self.body.lock(self.session())
    }

    fn lock_soon(&self) -> Result<Option<Txn<'static>>, ShmError> {
        self.body.lock_soon(self.session())
    }
}

impl BoardBody {
    /// Enters the board's section; if its last owner died in there, everybody looks again.
    fn lock(&'static self, session: &'static Session) -> Result<Txn<'static>, ShmError> {
        let txn = self.guard.lock(session)?;
        Ok(self.entered(txn))
    }

    /// As [`BoardBody::lock`], for what can be put off.
    fn lock_soon(
        &'static self,
        session: &'static Session,
    ) -> Result<Option<Txn<'static>>, ShmError> {
        let txn = self.guard.lock_soon(session)?;
        Ok(txn.map(|txn| self.entered(txn)))
    }

    fn entered(&'static self, txn: Txn<'static>) -> Txn<'static> {
        if txn.recovered() {
            self.wake_all();
        }
        txn
    }

    /// The ledger with this number.
    fn ledger(&'static self, session: &Session, number: u32) -> Result<&'static Ledger, Corrupt> {
        if number >= self.seats() {
            return Err(Corrupt("a ledger is out of range"));
        }
        let first = session.segment().offset_of(self) + size_of::<Self>() as u64;
        session
            .segment()
            .at(first + u64::from(number) * size_of::<Ledger>() as u64)
    }

    /// How many ledgers there are. A torn number would send whoever looks through all of them across the whole memory, every
    /// page of which is then taken from the system.
    fn seats(&self) -> u32 {
        self.ledgers.load(Ordering::Relaxed).min(MOST_SEATS) as u32
    }

    /// All ledgers, with their numbers.
    fn all_ledgers(
        &'static self,
        session: &'static Session,
    ) -> impl Iterator<Item = (u32, &'static Ledger)> + 'static {
        (0..self.seats()).map_while(move |n| Some((n, self.ledger(session, n).ok()?)))
    }

    /// The slot of `job`, if the job still exists.
    #[inline]
    fn job(&self, job: JobId) -> Option<&JobSlot> {
        let slot = &self.jobs[job.slot()];
        (slot.id.load(Ordering::Acquire) == job.word()).then_some(slot)
    }

    /// How many items of a job are a task; one if nobody knows.
    fn hint(&self, job: JobId) -> u64 {
        self.job(job).map_or(1, |s| s.hint.load(Ordering::Relaxed))
    }

    /// The job that a ledger names.
    fn job_of(&'static self, ledger: &Ledger) -> Option<(JobId, &'static JobSlot)> {
        let id = JobId::from_word(ledger.job.load(Ordering::Acquire))?;
        Some((id, self.job(id)?))
    }

    #[inline]
    fn may_have_work(&self) -> bool {
        self.ready.load(Ordering::Acquire) != 0
            || self.requeued.load(Ordering::Acquire) != 0
            || self.orphans.load(Ordering::Acquire) != 0
    }

    /// Something for the owner has happened.
    fn raise(&self) {
        self.events.fetch_add(1, Ordering::SeqCst);
        notify(&self.finished, Wake::All);
    }

    fn wake_worker(&self) {
        self.last_sleeper.notify_one(&self.work);
    }

    fn wake_workers(&self) {
        notify(&self.work, Wake::All);
    }

    /// Everybody looks again, also for work whose hint was lost with its writer.
    fn wake_all(&self) {
        for (i, job) in self.jobs.iter().enumerate() {
            if job.id.load(Ordering::Acquire) != 0 {
                self.ready.fetch_or(1 << i, Ordering::SeqCst);
            }
        }
        self.wake_workers();
        notify(&self.finished, Wake::All);
    }

    fn owner(&self) -> Option<Owner> {
        Owner::from_word(self.owner.load(Ordering::Relaxed) as u32)
    }
}

/// Adds one inside a section.
fn add(txn: &mut Txn<'_>, word: &'static AtomicU64, by: i64) {
    let value = word.load(Ordering::Relaxed);
    txn.set(word, value.saturating_add_signed(by));
}

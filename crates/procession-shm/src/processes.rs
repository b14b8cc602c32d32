//! The table of the session's processes: who is a member, since when, in what state, waiting for what.

use procession_sys::clock::now_ns;
use procession_sys::ident::{ProcessId, thread_id};
use procession_sys::mutex::{Acquired, RobustMutex};

use crate::crash_point;
use crate::error::{Corrupt, ShmError};
pub use crate::identity::{Owner, Role, State};
use crate::primitive::{AtomicU32, AtomicU64, Ordering};
use crate::segment::Shared;
use crate::session::Session;
pub use crate::shown::{ShownWait, WAIT_RECORDS, WaitRecord};
use crate::text::{load_text, store_text};

/// A process slot as it stands in shared memory.
#[repr(C)]
pub struct Slot {
    /// Held by the member for life: the kernel tells us when it is gone.
    life: RobustMutex,
    /// A [`State`].
    pub state: AtomicU64,
    epoch: AtomicU32,
    /// The member's pid; zero until known.
    pub pid: AtomicU32,
    start_time: AtomicU64,
    /// The thread that holds `life`.
    life_thread: AtomicU32,
    /// The owner word of the process that started it.
    pub parent: AtomicU32,
    /// A [`Role`].
    pub role: AtomicU32,
    /// 1 once `exit_code` holds, 2 once the parent has read it.
    exit_known: AtomicU32,
    exit_code: AtomicU32,
    /// 1 if the slot was reserved for a plain fork, whose pid the parent does not learn.
    raw_fork: AtomicU32,
    /// 1 once the member has all that it was started with.
    settled: AtomicU32,
    /// When the member was last interrupted by Ctrl-C (monotonic milliseconds, never 0); 0 for never.
    interrupted_ms: AtomicU32,
    /// When the slot was reserved (monotonic nanoseconds).
    pub since_ns: AtomicU64,
    /// Tasks finished, for a worker.
    pub tasks_done: AtomicU64,
    /// The board (object index + 1) of the task in hand; zero for none.
    pub task_board: AtomicU32,
    /// The job's number on that board.
    pub task_job: AtomicU32,
    /// The item's number in the job.
    pub task_item: AtomicU64,
    /// Since when the task runs.
    pub task_since_ns: AtomicU64,
    name: [AtomicU64; 8],
    /// What its threads wait for.
    pub waits: [WaitRecord; WAIT_RECORDS],
}

// SAFETY: repr(C) of atomics and a robust mutex.
unsafe impl Shared for Slot {}

const _: () = assert!(size_of::<Slot>() as u64 <= crate::layout::Geometry::SLOT);

impl Slot {
    /// The slot's state; what makes no sense is free.
    pub fn state(&self) -> State {
        State::from_word(self.state.load(Ordering::Acquire)).unwrap_or(State::Free)
    }

    /// The name the process was given.
    pub fn name(&self) -> String {
        load_text(&self.name)
    }

    /// Changes the name.
    pub fn set_name(&self, name: &str) {
        store_text(&self.name, name);
    }

    /// The exit code published for it.
    pub fn exit_code(&self) -> Option<i32> {
        (self.exit_known.load(Ordering::Acquire) != 0)
            .then(|| self.exit_code.load(Ordering::Relaxed) as i32)
    }

    /// The process in this slot.
    pub fn process_id(&self) -> ProcessId {
        ProcessId {
            pid: self.pid.load(Ordering::Acquire),
            start_time: self.start_time.load(Ordering::Acquire),
        }
    }

    /// Says that the member has all that it was started with.
    pub fn settle(&self) {
        self.settled.store(1, Ordering::Release);
    }

    /// Says that Ctrl-C has reached the member.
    pub fn note_interrupt(&self) {
        self.interrupted_ms.store(now_ms(), Ordering::Release);
    }

    /// Has Ctrl-C reached the member within the last so many milliseconds?
    pub fn was_interrupted(&self, within_ms: u32) -> bool {
        let at = self.interrupted_ms.load(Ordering::Acquire);
        at != 0 && now_ms().wrapping_sub(at) <= within_ms
    }

    /// Has the member all that it was started with?
    pub fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire) != 0
    }

    /// Has the process that is (or is about to be) in this slot died?
    pub(crate) fn is_dead(&self) -> bool {
        match self.state() {
            State::Free | State::Gone => false,
            State::Dying => true,
            State::Reserved => {
                let id = self.process_id();
                id.pid != 0 && !id.is_alive()
            }
            State::Live => self.life_lost(),
        }
    }

    /// Its process has ended. False if what it held was given back already.
    fn mark_dying(&self) -> bool {
        let is_there = matches!(self.state(), State::Live | State::Reserved | State::Dying);
        if is_there {
            self.state.store(State::Dying as u64, Ordering::Release);
            crash_point!("process.ended.dying");
        }
        is_there
    }

    /// Has the member said that it leaves?
    pub(crate) fn has_said_goodbye(&self) -> bool {
        self.exit_known.load(Ordering::Acquire) & LEFT != 0
    }

    /// The member says how it ends; the word of whoever reaps it counts more.
    pub(crate) fn say_goodbye(&self, code: i32) {
        if self.exit_known.load(Ordering::Acquire) & KNOWN == 0 {
            self.exit_code.store(code as u32, Ordering::Relaxed);
        }
        self.exit_known.fetch_or(KNOWN | LEFT, Ordering::Release);
    }

    /// Was the slot reserved for a plain fork that has evidently not happened?
    pub(crate) fn is_stale_fork(&self) -> bool {
        self.state() == State::Reserved
            && self.raw_fork.load(Ordering::Relaxed) == 1
            && self.pid.load(Ordering::Acquire) == 0
            && now_ns().saturating_sub(self.since_ns.load(Ordering::Relaxed)) > 5_000_000_000
    }

    fn life_lost(&self) -> bool {
        match self.life.try_lock() {
            Acquired::Busy => false,
            Acquired::Broken => true,
            Acquired::OwnerDied => {
                // The kernel marks the word when the *thread* ends that holds it. If that was the main thread, the process
                // has gone with it, even while its memory is still being torn down.
                let by_main =
                    self.life_thread.load(Ordering::Relaxed) == self.pid.load(Ordering::Relaxed);
                let dead = by_main || !self.process_id().is_alive();
                if !dead {
                    self.life.mark_repaired();
                }
                // Unlocked without a repair it stays broken, which is what `dead` looks like to the next who asks.
                self.life.unlock();
                dead
            }
            Acquired::Clean => {
                self.life.unlock();
                !self.process_id().is_alive()
            }
        }
    }
}

fn now_ms() -> u32 {
    (now_ns() / 1_000_000) as u32 | 1
}

impl Session {
    /// The slot with this number.
    pub fn slot(&self, number: u32) -> Result<&'static Slot, Corrupt> {
        if number >= self.geometry().processes {
            return Err(Corrupt("a process slot is out of range"));
        }
        self.segment().at(self.geometry().slot(number))
    }

    /// All slots that have ever been used, with their numbers.
    pub fn slots(&self) -> impl Iterator<Item = (u32, &'static Slot)> + '_ {
        let high = self
            .header()
            .process_high
            .load(Ordering::Acquire)
            .min(u64::from(self.geometry().processes)) as u32;
        (0..high).filter_map(|i| Some((i, self.slot(i).ok()?)))
    }

    /// The slot of `owner`, if it is still that owner's.
    pub fn slot_of(&self, owner: Owner) -> Option<&'static Slot> {
        let slot = self.slot(owner.slot()).ok()?;
        (slot.epoch.load(Ordering::Acquire) == owner.epoch()).then_some(slot)
    }

    /// The owner who has slot `number` now.
    pub fn owner_in(&self, number: u32) -> Option<Owner> {
        let slot = self.slot(number).ok()?;
        Owner::from_word(Owner::new(number, slot.epoch.load(Ordering::Acquire)).word())
    }

    /// Is `owner` (as far as anybody knows) still able to do something?
    pub fn is_alive(&self, owner: Owner) -> bool {
        self.slot_of(owner)
            .is_some_and(|s| matches!(s.state(), State::Live | State::Reserved) && !s.is_dead())
    }

    /// Takes a slot for a child that is about to be started by this process, which already holds for it all that this
    /// process holds: whatever the parent drops meanwhile, the child will find.
    pub fn reserve(&'static self, name: &str, role: Role) -> Result<Owner, ShmError> {
        let parent = self.me()?;
        let owner = match self.take_slot(name, role, parent.word()) {
            // There may be some whose end nobody has looked for.
            Err(ShmError::TableFull(..)) => {
                self.recover_now()?;
                self.take_slot(name, role, parent.word())?
            }
            taken => taken?,
        };
        crash_point!("process.reserve.taken");
        self.copy_holds(owner)?;
        crash_point!("process.reserve.held");
        Ok(owner)
    }

    pub(crate) fn take_slot(
        &'static self,
        name: &str,
        role: Role,
        parent: u32,
    ) -> Result<Owner, ShmError> {
        let header = self.header();
        let mut txn = header.processes_guard.lock(self)?;
        let high = header.process_high.load(Ordering::Relaxed);
        let mut found = None;
        for (i, slot) in self.slots() {
            let reusable = match slot.state() {
                State::Free => true,
                // Nobody will ask for the status any more: it was read, or who would ask is gone.
                State::Gone => {
                    slot.raw_fork.load(Ordering::Relaxed) != 0
                        || slot.exit_known.load(Ordering::Relaxed) & READ != 0
                        || Owner::from_word(slot.parent.load(Ordering::Relaxed))
                            .is_none_or(|p| !self.is_member(p))
                }
                _ => false,
            };
            if reusable {
                found = Some(i);
                break;
            }
        }
        let number = match found {
            Some(i) => i,
            None if high < u64::from(self.geometry().processes) => {
                txn.set(&header.process_high, high + 1);
                high as u32
            }
            None => return Err(ShmError::TableFull("processes", self.geometry().processes)),
        };
        let slot = self.slot(number)?;
        let epoch = slot.epoch.load(Ordering::Relaxed) % (Owner::EPOCHS - 1) + 1;
        slot.life
            .init()
            .map_err(ShmError::system("initialize a mutex"))?;
        slot.settled.store(0, Ordering::Relaxed);
        slot.interrupted_ms.store(0, Ordering::Relaxed);
        slot.pid.store(0, Ordering::Relaxed);
        slot.start_time.store(0, Ordering::Relaxed);
        slot.life_thread.store(0, Ordering::Relaxed);
        slot.parent.store(parent, Ordering::Relaxed);
        slot.role.store(role as u32, Ordering::Relaxed);
        slot.exit_known.store(0, Ordering::Relaxed);
        slot.raw_fork
            .store(u32::from(role == Role::Forked), Ordering::Relaxed);
        slot.since_ns.store(now_ns(), Ordering::Relaxed);
        slot.tasks_done.store(0, Ordering::Relaxed);
        slot.task_board.store(0, Ordering::Relaxed);
        store_text(&slot.name, name);
        for w in &slot.waits {
            w.thread.store(0, Ordering::Relaxed);
        }
        slot.epoch.store(epoch, Ordering::Release);
        crash_point!("process.take.filled");
        txn.set(&slot.state, State::Reserved as u64);
        txn.commit();
        Ok(Owner::new(number, epoch))
    }

    /// Is there no one (any more) who is, or comes, in this slot, although its state says so?
    pub(crate) fn is_lost(&self, slot: &Slot) -> bool {
        slot.is_dead() || slot.is_stale_fork() || self.is_orphaned(slot)
    }

    /// Was the slot reserved by a process that died before it had started the child? (A plain fork needs no more of its parent,
    /// so that case is left to `is_stale_fork`.)
    fn is_orphaned(&self, slot: &Slot) -> bool {
        slot.state() == State::Reserved
            && slot.pid.load(Ordering::Acquire) == 0
            && slot.raw_fork.load(Ordering::Relaxed) == 0
            && Owner::from_word(slot.parent.load(Ordering::Relaxed))
                .is_some_and(|p| !self.is_member(p))
    }

    fn is_member(&self, owner: Owner) -> bool {
        self.slot_of(owner)
            .is_some_and(|s| matches!(s.state(), State::Live | State::Reserved))
    }

    /// The parent has learned its child's pid.
    pub fn started(&self, child: Owner, pid: u32) {
        if let Some(slot) = self.slot_of(child)
            && slot.pid.load(Ordering::Acquire) == 0
        {
            slot.start_time.store(
                ProcessId::of(pid).map_or(0, |p| p.start_time),
                Ordering::Relaxed,
            );
            slot.pid.store(pid, Ordering::Release);
        }
    }

    /// The child comes in: from here on the kernel tells everybody of its death.
    pub(crate) fn occupy(&'static self, owner: Owner) -> Result<(), ShmError> {
        // As long as we have it nobody is given the slot, should we have come too late.
        let _section = self.header().processes_guard.lock_soon(self)?;
        let slot = self.slot_of(owner).ok_or(ShmError::Gone)?;
        if slot.state() != State::Reserved {
            return Err(ShmError::Gone);
        }
        let id = ProcessId::current();
        slot.start_time.store(id.start_time, Ordering::Relaxed);
        slot.pid.store(id.pid, Ordering::Release);
        crash_point!("process.enter.pid");
        match slot.life.try_lock() {
            Acquired::Clean => {}
            Acquired::OwnerDied => slot.life.mark_repaired(),
            Acquired::Busy | Acquired::Broken => return Err(ShmError::Gone),
        }
        slot.life_thread.store(thread_id(), Ordering::Relaxed);
        crash_point!("process.enter.alive");
        // Somebody may have taken the slot back meanwhile, because our parent died.
        let entered = slot.state.compare_exchange(
            State::Reserved as u64,
            State::Live as u64,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        if entered.is_err() {
            slot.life.unlock();
            return Err(ShmError::Gone);
        }
        crash_point!("process.enter.live");
        Ok(())
    }

    /// The reaper's word on how `child` ended, which counts more than the child's own.
    pub fn exited(&'static self, child: Owner, code: i32) -> Result<(), ShmError> {
        // The child may have said goodbye, and its parent have started another one in its place: as long as we have this, the
        // slot is not given to anybody.
        let section = self.header().processes_guard.lock_soon(self)?;
        let Some(slot) = self.slot_of(child) else {
            return Ok(());
        };
        slot.exit_code.store(code as u32, Ordering::Relaxed);
        slot.exit_known.fetch_or(KNOWN | REAPED, Ordering::Release);
        crash_point!("process.exited.known");
        let is_new = slot.mark_dying();
        drop(section);
        if is_new {
            self.recover_now()?;
        }
        if Owner::from_word(slot.parent.load(Ordering::Relaxed)) == self.current() {
            slot.exit_known.fetch_or(READ, Ordering::Release);
        }
        Ok(())
    }

    /// The child could not be started.
    pub fn abandon(&'static self, child: Owner) -> Result<(), ShmError> {
        if let Some(slot) = self.slot_of(child) {
            slot.exit_known.fetch_or(LEFT | READ, Ordering::Release);
            slot.state.store(State::Dying as u64, Ordering::Release);
            self.recover_now()?;
        }
        Ok(())
    }

    /// Is a place still kept for this child-to-be? Whoever has asked for it may have given it up.
    pub fn is_expected(&self, child: Owner) -> bool {
        self.slot_of(child)
            .is_some_and(|slot| slot.state() == State::Reserved)
    }

    /// The exit code of a `child` that has ended, once; the slot may be used again afterwards. It is what the child said at the
    /// end, or what its reaper has published; `None` as long as there is neither.
    pub fn exit_status(&'static self, child: Owner) -> Result<Option<i32>, ShmError> {
        let Some(slot) = self.slot_of(child) else {
            return Ok(None);
        };
        let known = slot.exit_known.load(Ordering::Acquire);
        if known & KNOWN == 0 || known & (REAPED | LEFT) == 0 {
            return Ok(None);
        }
        let code = slot.exit_code.load(Ordering::Relaxed) as i32;
        if known & REAPED == 0 {
            // The reaper need not be waited for.
            if slot.mark_dying() {
                self.recover_now()?;
            }
            crash_point!("process.status.ended");
        }
        slot.exit_known.fetch_or(READ, Ordering::Release);
        Ok(Some(code))
    }
}

/// `exit_known`: a code is there.
const KNOWN: u32 = 1;
/// `exit_known`: the one entitled to it has read it.
const READ: u32 = 2;
/// `exit_known`: it said goodbye.
pub(crate) const LEFT: u32 = 4;
/// `exit_known`: the code is the reaper's.
const REAPED: u32 = 8;

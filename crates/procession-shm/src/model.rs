//! What the checked code stands on under the model checker, in the place of `session` and of the system's robust mutex.
//!
//! The memory is real, with the session's layout; but the checker's atomics have to be made anew in every execution, by
//! [`Session::renew`] and [`Session::make`]. A thread dies at a crash point by unwinding, which runs nothing that SIGKILL would
//! not run (see `guard`), and the mutexes that it holds are then marked, as the kernel does.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use loom::sync::{Mutex, MutexGuard};
use procession_sys::memory::SharedMemory;

use crate::error::{Corrupt, ShmError};
use crate::guard::{Guard, Txn};
use crate::identity::Owner;
use crate::layout::{EXTENT, Geometry, Header};
use crate::primitive::{Acquired, AtomicU64, Ordering};
use crate::segment::{Segment, Shared};

/// The tables of a model's session. The processes' place is for what a model shares besides.
const GEOMETRY: Geometry = Geometry {
    processes: 16,
    objects: 1,
    extents: 3,
};

/// The memory, and the arena's words in it.
pub struct Session {
    segment: Segment,
    header: &'static Header,
}

impl Session {
    /// Memory for all executions of a model, as it is never unmapped.
    pub fn create() -> &'static Self {
        let memory = SharedMemory::create("model", GEOMETRY.total() as usize).unwrap();
        let segment = Segment::new(memory);
        let header = segment.at(0).unwrap();
        Box::leak(Box::new(Self { segment, header }))
    }

    /// Makes the words of an arena whose extents are free and hold pages, for blocks of which `blocks` fit an extent.
    pub fn renew(&'static self, blocks: u32) {
        self.make_words(0, size_of::<Header>() as u64);
        for e in 0..GEOMETRY.extents {
            self.make_words(GEOMETRY.extent_record(e), Geometry::EXTENT_RECORD);
            let records = Geometry::BLOCK_RECORD * u64::from(blocks);
            self.make_words(GEOMETRY.block_record(e, 0), records);
            self.extent(e).unwrap().warm.store(1, Ordering::Relaxed);
        }
        let (header, extents) = (self.header, u64::from(GEOMETRY.extents));
        header.arena_guard.init().unwrap();
        header.budget.store(extents * EXTENT, Ordering::Relaxed);
        header.extent_high.store(extents, Ordering::Relaxed);
        header.extents_warm.store(extents, Ordering::Relaxed);
    }

    /// Something else that is shared, made of atomics and guards and all zero.
    pub fn make<T: Shared>(&'static self) -> &'static T {
        let at = GEOMETRY.slot(0);
        assert!(at + size_of::<T>() as u64 <= GEOMETRY.entry(0));
        self.make_words(at, size_of::<T>() as u64);
        self.segment.at(at).unwrap()
    }

    fn make_words(&self, at: u64, len: u64) {
        const { assert!(size_of::<AtomicU64>() == 8) };
        let base = self.segment.pointer(at, len).unwrap().cast::<AtomicU64>();
        for i in 0..len as usize / 8 {
            // SAFETY: in bounds, as `pointer` has checked, and nobody uses these words yet.
            unsafe { base.add(i).write(AtomicU64::new(0)) };
        }
    }

    /// The memory.
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// The first page.
    pub fn header(&self) -> &'static Header {
        self.header
    }

    /// The sizes of the tables.
    pub fn geometry(&self) -> &Geometry {
        &GEOMETRY
    }

    /// Nobody: a model's threads have names of their own choice.
    pub fn current(&self) -> Option<Owner> {
        None
    }

    /// Bytes of blocks in use.
    pub fn bytes_used(&self) -> u64 {
        self.header.bytes_used.load(Ordering::Relaxed)
    }

    /// Gives a block back that stands for nothing else.
    pub fn free_block(&'static self, at: u64) -> Result<(), ShmError> {
        self.free_raw(at)
    }

    /// However long it takes, as there is no recovery.
    pub(crate) fn enter_to_free(
        &'static self,
        guard: &'static Guard,
    ) -> Result<Option<Txn<'static>>, Corrupt> {
        guard.lock(self).map(Some)
    }

    #[allow(clippy::unused_self)] // as the real one has it
    pub(crate) fn call_for_recovery(&self) {}
}

/// What a mutex guards.
#[derive(Clone, Copy, PartialEq)]
enum Guarded {
    Whole,
    /// Its owner died.
    Left,
    InRepair,
    Broken,
}

/// A robust mutex of the checker's. What holds it is kept in it, to be let go by [`RobustMutex::unlock`].
pub struct RobustMutex {
    mutex: UnsafeCell<MaybeUninit<Mutex<Guarded>>>,
    held: UnsafeCell<MaybeUninit<Option<MutexGuard<'static, Guarded>>>>,
}

// SAFETY: `mutex` is changed by `init` alone, and `held` by whoever has the mutex.
unsafe impl Sync for RobustMutex {}

loom::thread_local! {
    /// The mutexes that a thread has: the kernel's list.
    static HELD: RefCell<Vec<&'static RobustMutex>> = RefCell::new(Vec::new());
    /// Crash points to be passed until the thread dies; zero if it does not.
    static LEFT: Cell<u32> = Cell::new(0);
}

impl RobustMutex {
    /// Makes it; nobody else knows it yet.
    pub fn init(&self) -> Result<(), procession_sys::Errno> {
        // SAFETY: ours alone, by the condition above; what stands there is nothing, or of an execution that has ended.
        unsafe {
            self.mutex
                .get()
                .write(MaybeUninit::new(Mutex::new(Guarded::Whole)));
            self.held.get().write(MaybeUninit::new(None));
        }
        Ok(())
    }

    fn mutex(&'static self) -> &'static Mutex<Guarded> {
        // SAFETY: made by `init`, and not changed since.
        unsafe { (*self.mutex.get()).assume_init_ref() }
    }

    #[allow(clippy::mut_from_ref)] // there is one caller at a time: who has the mutex
    fn held(&self) -> &mut Option<MutexGuard<'static, Guarded>> {
        // SAFETY: made by `init`; only who has the mutex comes here, and keeps the reference for a statement.
        unsafe { (*self.held.get()).assume_init_mut() }
    }

    fn acquired(&'static self, mut guard: MutexGuard<'static, Guarded>) -> Acquired {
        let acquired = match *guard {
            Guarded::Whole => Acquired::Clean,
            Guarded::Left => {
                *guard = Guarded::InRepair;
                Acquired::OwnerDied
            }
            Guarded::InRepair | Guarded::Broken => return Acquired::Broken,
        };
        *self.held() = Some(guard);
        HELD.with(|held| held.borrow_mut().push(self));
        acquired
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&'static self) -> Acquired {
        self.mutex()
            .try_lock()
            .map_or(Acquired::Busy, |guard| self.acquired(guard))
    }

    /// Takes the lock, however long it takes: time does not pass in a model.
    pub fn lock_for(&'static self, _: Duration) -> Acquired {
        self.acquired(self.mutex().lock().unwrap())
    }

    /// See the real one.
    pub fn mark_repaired(&self) {
        if let Some(guard) = self.held() {
            **guard = Guarded::Whole;
        }
    }

    /// Gives the lock back.
    pub fn unlock(&'static self) {
        HELD.with(|held| held.borrow_mut().retain(|m| !std::ptr::eq(*m, self)));
        let mut guard = self.held().take().expect("whoever unlocks it has it");
        if *guard == Guarded::InRepair {
            *guard = Guarded::Broken;
        }
    }

    /// Never: nobody writes over a model's mutex.
    pub fn is_held_by_nobody(&self) -> bool {
        false
    }
}

struct Died;

/// Lets this thread do `f` until it passes its `n`-th crash point (from 1), where it dies. `None` if it has died.
pub fn dying_at<T>(n: u32, f: impl FnOnce() -> T) -> Option<T> {
    dying(n, Guarded::Left, f)
}

/// As [`dying_at`], with mutexes that are no robust ones: whoever locks next is not told.
pub fn dying_unnoticed_at<T>(n: u32, f: impl FnOnce() -> T) -> Option<T> {
    dying(n, Guarded::Whole, f)
}

fn dying<T>(n: u32, leaves: Guarded, f: impl FnOnce() -> T) -> Option<T> {
    LEFT.with(|left| left.set(n));
    let done = catch_unwind(AssertUnwindSafe(f));
    LEFT.with(|left| left.set(0));
    match done {
        Ok(value) => Some(value),
        Err(panic) if panic.is::<Died>() => {
            for mutex in HELD.with(RefCell::take) {
                let mut guard = mutex.held().take().expect("it is in the list");
                *guard = leaves;
            }
            None
        }
        Err(panic) => resume_unwind(panic),
    }
}

/// A point is passed; used by the macro.
pub fn pass(_: &'static str) {
    let left = LEFT.with(Cell::get);
    if left > 0 {
        LEFT.with(|l| l.set(left - 1));
        if left == 1 {
            resume_unwind(Box::new(Died));
        }
    }
}

/// Calls `model` with 1, 2, 3 and so on, until it says that nobody died: so that a thread dies at each crash point.
pub fn at_every_point(model: impl Fn(u32) -> bool) {
    let mut n = 1;
    while model(n) {
        n += 1;
    }
    assert!(n > 1, "no crash point is passed");
}

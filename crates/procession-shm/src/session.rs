//! One session: the memory, this process's place in it, and how it comes and goes.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicPtr;

use procession_sys::clock::now_ns;
use procession_sys::memory::SharedMemory;
use procession_sys::{fork, limits};

use crate::crash_point;
use crate::error::{Corrupt, ShmError};
use crate::layout::{EXTENT, Geometry, Header, MAGIC, VERSION};
use crate::objects::KindOps;
use crate::primitive::{AtomicU32, AtomicU64, Ordering};
use crate::processes::{Owner, Role};
use crate::segment::Segment;
use crate::watch;

/// A process's membership in a session. It lives as long as the process: shared locks may be held in its memory.
pub struct Session {
    segment: Segment,
    geometry: Geometry,
    header: &'static Header,
    kinds: &'static [&'static KindOps],
    /// Our owner word; zero after a plain fork, until the child has its own.
    me: AtomicU32,
    /// For each object: generation << 32 | handles in this process.
    locals: Box<[AtomicU64]>,
    next: AtomicPtr<Session>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.id())
            .field("me", &self.current())
            .finish_non_exhaustive()
    }
}

/// All sessions of this process, for the fork hooks.
static ALL: AtomicPtr<Session> = AtomicPtr::new(std::ptr::null_mut());

/// How the memory object is called, as `/proc/PID/fd` shows it.
pub const MEMORY_NAME: &str = "procession";

impl Session {
    /// Makes a session whose first member is this process. `budget` is the number of bytes that its objects may take
    /// (by default six tenths of the memory that the machine or the cgroup has).
    pub fn create(
        kinds: &'static [&'static KindOps],
        name: &str,
        budget: Option<u64>,
    ) -> Result<&'static Self, ShmError> {
        let geometry = Geometry::fitting(limits::address_space());
        let what = if limits::address_space().is_some() {
            "create the session's shared memory (the address space is limited: raise RLIMIT_AS, `ulimit -v`)"
        } else {
            "create the session's shared memory"
        };
        let memory = SharedMemory::create(MEMORY_NAME, geometry.total() as usize)
            .map_err(ShmError::system(what))?;
        let segment = Segment::new(memory);
        let header: &'static Header = segment.at(0)?;
        header.version.store(VERSION, Ordering::Relaxed);
        header
            .processes
            .store(geometry.processes, Ordering::Relaxed);
        header.objects.store(geometry.objects, Ordering::Relaxed);
        header.extents.store(geometry.extents, Ordering::Relaxed);
        header.id.store(random(), Ordering::Relaxed);
        header.created_ns.store(now_ns(), Ordering::Relaxed);
        let budget = budget
            .unwrap_or_else(|| limits::memory() / 10 * 6)
            .max(16 * EXTENT);
        header.budget.store(budget, Ordering::Relaxed);
        for guard in [
            &header.processes_guard,
            &header.objects_guard,
            &header.arena_guard,
            &header.recovery_guard,
        ] {
            guard
                .init()
                .map_err(ShmError::system("initialize a mutex"))?;
        }
        header.magic.store(MAGIC, Ordering::Release);
        let session = Self::adopt(segment, geometry, header, kinds);
        let owner = session.take_slot(name, Role::Main, 0)?;
        session.enter(owner)?;
        Ok(session)
    }

    /// Joins the session behind `fd`, in the slot that the parent has reserved.
    pub fn attach(
        kinds: &'static [&'static KindOps],
        fd: OwnedFd,
        owner: Owner,
    ) -> Result<&'static Self, ShmError> {
        let memory = SharedMemory::attach(fd)
            .map_err(ShmError::system("map the session's shared memory"))?;
        let segment = Segment::new(memory);
        let geometry = Geometry::read(&segment)?;
        let header = segment.at(0)?;
        let session = Self::adopt(segment, geometry, header, kinds);
        session.enter(owner)?;
        Ok(session)
    }

    /// Looks at a session from outside, changing nothing.
    pub fn observe(
        kinds: &'static [&'static KindOps],
        fd: OwnedFd,
    ) -> Result<&'static Self, ShmError> {
        let memory = SharedMemory::attach_read_only(fd)
            .map_err(ShmError::system("map the session's shared memory"))?;
        let segment = Segment::new(memory);
        let geometry = Geometry::read(&segment)?;
        let header = segment.at(0)?;
        // Whoever only looks has no handles to count.
        let observer = Self::new(segment, geometry, header, kinds, 0);
        Ok(Box::leak(Box::new(observer)))
    }

    fn new(
        segment: Segment,
        geometry: Geometry,
        header: &'static Header,
        kinds: &'static [&'static KindOps],
        handles: u32,
    ) -> Self {
        let locals = (0..handles).map(|_| AtomicU64::new(0)).collect();
        Self {
            segment,
            geometry,
            header,
            kinds,
            me: AtomicU32::new(0),
            locals,
            next: AtomicPtr::default(),
        }
    }

    fn adopt(
        segment: Segment,
        geometry: Geometry,
        header: &'static Header,
        kinds: &'static [&'static KindOps],
    ) -> &'static Self {
        let session: &'static Self = Box::leak(Box::new(Self::new(
            segment,
            geometry,
            header,
            kinds,
            geometry.objects,
        )));
        let mut first = ALL.load(Ordering::Acquire);
        loop {
            session.next.store(first, Ordering::Relaxed);
            let me = std::ptr::from_ref(session).cast_mut();
            match ALL.compare_exchange(first, me, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break,
                Err(found) => first = found,
            }
        }
        fork::on_fork(before_fork, after_fork_in_parent, after_fork_in_child);
        session
    }

    /// The memory.
    #[inline]
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// The first page.
    #[inline]
    pub fn header(&self) -> &'static Header {
        self.header
    }

    /// The sizes of the tables.
    #[inline]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The kinds of objects that this process knows.
    pub fn kinds(&self) -> &'static [&'static KindOps] {
        self.kinds
    }

    pub(crate) fn locals(&self) -> &[AtomicU64] {
        &self.locals
    }

    /// A number that tells this session from any other.
    pub fn id(&self) -> u64 {
        self.header.id.load(Ordering::Relaxed)
    }

    /// Who we are in the session. An error after [`Session::leave`].
    #[inline]
    pub fn me(&self) -> Result<Owner, ShmError> {
        self.current().ok_or(ShmError::Gone)
    }

    /// Who we are, if we are a member.
    #[inline]
    pub fn current(&self) -> Option<Owner> {
        Owner::from_word(self.me.load(Ordering::Relaxed))
    }

    /// Takes the slot that the parent has reserved.
    pub fn enter(&'static self, owner: Owner) -> Result<(), ShmError> {
        self.occupy(owner)?;
        self.me.store(owner.word(), Ordering::Release);
        Ok(())
    }

    /// Says which slot the child of this thread's next fork takes.
    pub fn next_fork(&self, owner: Option<Owner>) {
        NEXT_FORK.set(owner.map(|o| NextFork::Takes(self.id(), o)));
    }

    /// The child of this thread's next fork stays outside of the session until it enters by itself.
    pub fn next_fork_outside(&self) {
        NEXT_FORK.set(Some(NextFork::StaysOutside));
    }

    /// Says goodbye: publishes the exit code, and holds nothing any more, which wakes the peers. The process does not use the
    /// session any more; its blocks are freed, and objects that nobody else has are destroyed, once it has really ended, since
    /// its threads may still be at work there. What they leave half done then is undone as after a death.
    pub fn leave(&'static self, exit_code: i32) -> Result<(), ShmError> {
        let Some(me) = self.current() else {
            return Ok(());
        };
        self.slot(me.slot())?.say_goodbye(exit_code);
        crash_point!("process.leave.published");
        let parted = self.part();
        crash_point!("process.leave.unheld");
        // Whatever could not be done now is done once this process has ended: it must not wait for anybody any more.
        self.me.store(0, Ordering::Release);
        parted
    }

    /// There is something to do for whoever looks for dead members next.
    pub(crate) fn call_for_recovery(&self) {
        self.header.calls.fetch_add(1, Ordering::SeqCst);
    }
}

fn each(f: impl Fn(&'static Session)) {
    let mut at = ALL.load(Ordering::Acquire);
    while !at.is_null() {
        // SAFETY: only leaked sessions are ever put on the list.
        let session: &'static Session = unsafe { &*at };
        f(session);
        at = session.next.load(Ordering::Acquire);
    }
}

#[derive(Clone, Copy)]
enum NextFork {
    /// This slot in this session.
    Takes(u64, Owner),
    StaysOutside,
}

thread_local! {
    /// What becomes of the child of this thread's next fork, if that was said.
    static NEXT_FORK: Cell<Option<NextFork>> = const { Cell::new(None) };
}

/// Before any `fork()`: a slot for the child, holding what we hold, unless one was reserved by name.
fn before_fork() {
    each(|s| {
        if s.current().is_some() && NEXT_FORK.get().is_none() {
            let reserved = s.reserve("", Role::Forked).ok();
            s.next_fork(reserved);
        }
    });
    watch::before_fork();
}

fn after_fork_in_parent() {
    watch::after_fork();
    NEXT_FORK.set(None);
}

fn after_fork_in_child() {
    watch::after_fork();
    procession_sys::orphan::reset_after_fork();
    let slot = NEXT_FORK.take();
    each(|s| {
        let was_member = s.me.swap(0, Ordering::AcqRel) != 0;
        if let Some(NextFork::Takes(session, owner)) = slot
            && was_member
            && session == s.id()
        {
            // A failure leaves us outside of the session, where every use is a clear error.
            let _ = s.enter(owner);
        }
    });
}

fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let mut h = RandomState::new().build_hasher();
    h.write_u64(now_ns());
    h.write_u32(std::process::id());
    h.finish()
}

impl Session {
    /// Is there memory for `len` more bytes?
    pub fn has_room(&self, len: u64) -> bool {
        let used = self
            .header
            .extents_used
            .load(Ordering::Relaxed)
            .saturating_mul(EXTENT);
        used.saturating_add(len) <= self.header.budget.load(Ordering::Relaxed)
    }

    /// Reads a number of the session's header for tools.
    pub fn bytes_used(&self) -> u64 {
        self.header.bytes_used.load(Ordering::Relaxed)
    }
}

/// A check that a corrupt header is refused belongs to whoever maps foreign memory.
pub fn check_foreign(segment: &Segment) -> Result<Geometry, ShmError> {
    if segment.len() < 4096 {
        return Err(Corrupt("the memory is too small for a session").into());
    }
    Geometry::read(segment)
}

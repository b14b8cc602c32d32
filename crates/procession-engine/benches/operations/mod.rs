//! The engine's hot paths, each ready to be run again and again in one process: what is measured by the clock in `hot` and
//! by the instruction in `counts`. Nobody waits in them: what a wake-up costs is the kernel's.

#![allow(dead_code, unreachable_pub)] // each of the two programs uses its own part

use std::hint::black_box;
use std::sync::OnceLock;

use procession_shm::arena::BlockOwner;
use procession_shm::board::{Board, JobOptions, Next, OwnedJob, Seat, Taken};
use procession_shm::gate::{Gate, Wake};
use procession_shm::ring::{Message, Ring, RingOptions};
use procession_shm::sync::{Event, Lock, Semaphore};
use procession_shm::wait::notify;
use procession_shm::{Session, kinds};
use procession_sys::clock::Deadline;

/// More than any of these needs.
const BUDGET: u64 = 1 << 30;

pub fn session() -> &'static Session {
    static SESSION: OnceLock<&'static Session> = OnceLock::new();
    SESSION.get_or_init(|| kinds::create("benches", Some(BUDGET)).expect("shared memory"))
}

/// Something to be measured.
pub trait Operation {
    /// Once.
    fn run(&mut self);
}

/// After some runs: memory is there and everything has the size that it keeps.
pub fn warm<O: Operation>(mut operation: O) -> O {
    for _ in 0..200 {
        operation.run();
    }
    operation
}

/// A message into a ring and out of it.
pub struct PushPop {
    ring: Ring,
    message: Vec<u8>,
}

impl PushPop {
    pub fn new(len: usize) -> Self {
        let ring = Ring::create(session(), "ring", RingOptions::default()).expect("a ring");
        let message = vec![7; len];
        Self { ring, message }
    }
}

impl Operation for PushPop {
    #[inline]
    fn run(&mut self) {
        let port = self.ring.port();
        port.put(
            Message::new(black_box(&self.message)),
            Deadline::NEVER,
            &mut || true,
        )
        .expect("room");
        let len = port
            .get(Deadline::NEVER, &mut || true, |bytes, _| bytes.len())
            .expect("a message");
        assert_eq!(len, self.message.len());
    }
}

/// A lock that nobody else wants.
pub struct Locking(Lock);

impl Locking {
    pub fn new() -> Self {
        Self(Lock::create(session(), "lock").expect("a lock"))
    }
}

impl Operation for Locking {
    #[inline]
    fn run(&mut self) {
        self.0
            .acquire(Deadline::NEVER, &mut || true)
            .expect("a free lock");
        assert!(self.0.release());
    }
}

/// A semaphore that nobody else wants.
pub struct Counting(Semaphore);

impl Counting {
    pub fn new() -> Self {
        Self(Semaphore::create(session(), "semaphore", 1, 1).expect("a semaphore"))
    }
}

impl Operation for Counting {
    #[inline]
    fn run(&mut self) {
        self.0
            .acquire(Deadline::NEVER, &mut || true)
            .expect("a free semaphore");
        assert!(self.0.release().expect("not over its limit"));
    }
}

/// A block of memory, taken and given back.
pub struct AllocFree {
    len: u64,
    owner: BlockOwner,
}

impl AllocFree {
    pub fn new(len: u64) -> Self {
        let owner = BlockOwner::process(session().me().expect("a member"));
        Self { len, owner }
    }
}

impl Operation for AllocFree {
    #[inline]
    fn run(&mut self) {
        let at = session()
            .alloc(black_box(self.len), self.owner)
            .expect("room");
        session().free_block(black_box(at)).expect("a block");
    }
}

/// A notification that nobody sleeps for.
pub struct Notify(Gate);

impl Notify {
    pub fn new() -> Self {
        Self(Gate::new())
    }
}

impl Operation for Notify {
    #[inline]
    fn run(&mut self) {
        notify(black_box(&self.0), Wake::All);
    }
}

/// A wait for what is there already.
pub struct NoWait(Event);

impl NoWait {
    pub fn new() -> Self {
        let event = Event::create(session(), "event").expect("an event");
        event.set();
        Self(event)
    }
}

impl Operation for NoWait {
    #[inline]
    fn run(&mut self) {
        self.0
            .wait(Deadline::NEVER, &mut || true)
            .expect("it is set");
    }
}

/// An item of a pool: fed, claimed by a worker, its result published and collected. One item is more than its share of a
/// batch, as workers claim several at a time.
pub struct PoolItems {
    job: OwnedJob,
    seat: Seat,
    batch: usize,
}

impl PoolItems {
    pub fn new(batch: usize) -> Self {
        let board = Board::create(session(), "board", 2, 0).expect("a board");
        let job = board
            .open_job(Message::new(b"function"), JobOptions::default())
            .expect("room")
            .expect("the first job");
        let seat = board.sit_down(1).expect("a member").expect("a seat");
        seat.up();
        Self { job, seat, batch }
    }
}

impl Operation for PoolItems {
    #[inline]
    fn run(&mut self) {
        for item in 0..self.batch {
            let more = item + 1 < self.batch;
            let fed = self.job.feed(Message::new(b"argument"), more);
            assert!(fed.expect("room").is_some());
        }
        for _ in 0..self.batch {
            match self.seat.try_next().expect("a board") {
                Next::Task(task) => assert_eq!(task.arguments.len(), 8),
                other => panic!("{other:?}"),
            }
            self.seat
                .finish(1, Message::new(black_box(b"result")))
                .expect("room");
        }
        for _ in 0..self.batch {
            let got = self.job.collect_next().expect("a board");
            assert!(matches!(got, Some((_, Taken::Done { status: 1, .. }))));
        }
    }
}

//! A front for tests: it starts this very test program again for each worker that the pool asks for.

#[cfg(feature = "fault")]
pub(crate) mod steps;

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::ops::Range;
use std::time::Duration;

use procession_engine::launch::{self, Arrival, Program};
use procession_engine::pool::{
    Action, Collected, Config, JobId, JobSpec, Message, Order, Outcome, Pool, PoolError, Until,
    Woken, Worker, WorkerId,
};
use procession_engine::process::Child;
use procession_engine::{env, home};
use procession_shm::Session;
use procession_shm::arena::BlockOwner;
use procession_shm::processes::Role;
use procession_shm::sync::Event;
use procession_sys::clock::{Deadline, now_ns};

pub(crate) const BUILD: u64 = 7;
const SIGKILL: i32 = 9;

/// What an item asks of its worker: the first byte of its arguments.
pub(crate) const ECHO: u8 = 0;
pub(crate) const DIE: u8 = 1;
pub(crate) const HANG: u8 = 2;
pub(crate) const EXIT: u8 = 3;
/// Echo, with a block beside the bytes that is taken from the arguments or made.
pub(crate) const BLOCK: u8 = 4;
/// Echo of the bytes of the job's function.
pub(crate) const FUNCTION: u8 = 5;
/// Echo, after long enough for others to take over what waits behind it.
pub(crate) const SLOW: u8 = 6;
/// Some calls, of each of which the worker keeps a note; the notes are the result.
pub(crate) const NOTES: u8 = 7;
/// As `NOTES`, and the result is the notes and a block.
pub(crate) const NOTES_BLOCK: u8 = 8;
/// Echo, once an event was set that the arguments name (see [`await_arguments`]).
pub(crate) const AWAIT: u8 = 9;
/// How many calls those are.
pub(crate) const CALLS: usize = 3;

/// What is noted of a call.
pub(crate) fn note_of(call: usize) -> Vec<u8> {
    vec![call as u8; 20 + call]
}

pub(crate) fn deadline() -> Deadline {
    Deadline::after(Some(Duration::from_secs(60)))
}

/// The body of the test function that is the workers' entry; `entry` is that function's name.
pub(crate) fn run_worker() {
    if std::env::var_os(env::BOOTSTRAP).is_none() {
        return;
    }
    #[cfg(feature = "fault")]
    if let Some(point) = std::env::args().find_map(|arg| Some(arg.strip_prefix(EARLY)?.to_owned()))
    {
        arm(&point);
    }
    let arrival = launch::arrive(BUILD).unwrap().unwrap();
    let session = arrival.session;
    let text = String::from_utf8(arrival.bytes).unwrap();
    let mut words = text.split(' ');
    let mut number = || words.next().unwrap().parse::<u64>().unwrap();
    let (index, generation, id, fails) = (number(), number(), number(), number());
    if fails == 1 {
        std::process::exit(3);
    }
    let board = session.hold(index as u32, generation as u32).unwrap();
    Arrival::settled(session).unwrap();
    #[cfg(feature = "fault")]
    if let Some(point) = words.next() {
        arm(point);
    }
    let mut worker = Worker::join(board, WorkerId(id)).unwrap();
    while let Some(mut task) = worker.next(&mut || true).unwrap() {
        let what = task.bytes()[0];
        let block = task.take_block();
        if what == AWAIT {
            let number = |at| u32::from_le_bytes(task.bytes()[at..at + 4].try_into().unwrap());
            let event = session.hold(number(1), number(5)).unwrap();
            Event::of(event)
                .unwrap()
                .wait(deadline(), &mut || true)
                .unwrap();
        }
        match what {
            DIE => procession_sys::process::kill_self(),
            HANG => loop {
                std::thread::park();
            },
            EXIT => std::process::exit(4),
            FUNCTION => {
                let function = worker.function().unwrap();
                worker.finish(2, Message::new(&function)).unwrap();
            }
            NOTES | NOTES_BLOCK => {
                let mut notes = worker.notes().unwrap();
                for call in 0..CALLS {
                    notes.begin();
                    assert!(notes.add(&[&note_of(call)]).unwrap());
                }
                worker.count_calls(CALLS as u64);
                if what == NOTES {
                    worker.finish_noted(1, &notes).unwrap();
                } else {
                    let answer = Message {
                        block: Some(new_block(session)),
                        ..Message::new(notes.bytes().unwrap())
                    };
                    worker.finish(1, answer).unwrap();
                }
            }
            _ => {
                let until = now_ns() + if what == SLOW { 2_500_000 } else { 0 };
                while now_ns() < until {
                    std::hint::spin_loop();
                }
                let block = block.or_else(|| (what == BLOCK).then(|| new_block(session)));
                let answer = Message {
                    block,
                    ..Message::new(task.bytes())
                };
                worker.finish(1, answer).unwrap();
            }
        }
    }
    worker.leave();
    home::leave(0).unwrap();
    std::process::exit(0);
}

/// Begins the argument by which a worker is told to die while it arrives.
const EARLY: &str = "early:";

/// Where this process dies, or is stopped: a name and the number of the pass.
#[cfg(feature = "fault")]
pub(crate) fn arm(point: &str) {
    let (name, n) = point.rsplit_once(':').unwrap();
    let n = n.parse().unwrap();
    match name.strip_prefix("stop:") {
        Some(name) => procession_shm::fault::arm_stop(name, n),
        None => procession_shm::fault::arm(name, n),
    }
}

/// A block of ours with known contents.
pub(crate) fn new_block(session: &'static Session) -> u64 {
    let at = session
        .alloc(200, BlockOwner::process(session.me().unwrap()))
        .unwrap();
    session.segment().write(at, &[b'B'; 200]).unwrap();
    at
}

/// Arguments of a length that depends on the item, so that every way to store them comes up.
pub(crate) fn arguments(what: u8, item: u64) -> Vec<u8> {
    let len = match item % 50 {
        0 => 2500,
        n if n % 10 == 0 => 300,
        n => 1 + n % 24,
    };
    let mut bytes: Vec<u8> = (0..len).map(|i| (item * 31 + i) as u8).collect();
    bytes[0] = what;
    bytes
}

/// Arguments of an item that waits for an event.
pub(crate) fn await_arguments(event: &Event) -> Vec<u8> {
    let handle = event.handle();
    let (index, generation) = (handle.index(), handle.generation());
    [
        &[AWAIT],
        &index.to_le_bytes()[..],
        &generation.to_le_bytes(),
    ]
    .concat()
}

/// The front.
pub(crate) struct Front {
    pub(crate) pool: Pool,
    pub(crate) children: HashMap<WorkerId, Child>,
    entry: &'static str,
    /// Every process that was a worker.
    pub(crate) pids: BTreeSet<u32>,
    pub(crate) exits: Vec<i32>,
    /// Workers end while they start.
    pub(crate) start_fails: bool,
    /// Where the next worker dies, or is stopped (after "stop:"); after "early:" that may be before it has arrived.
    pub(crate) crash_at: Option<String>,
    pub(crate) ended: bool,
}

impl Front {
    pub(crate) fn new(config: &Config, entry: &'static str) -> Self {
        Self {
            pool: Pool::create(home::session().unwrap(), config).unwrap(),
            children: HashMap::new(),
            entry,
            pids: BTreeSet::new(),
            exits: Vec::new(),
            start_fails: false,
            crash_at: None,
            ended: false,
        }
    }

    fn start(&mut self, worker: WorkerId) {
        let mut program = Program::this(BUILD);
        program.is_talkative = true;
        program.args = ["test", "--exact", self.entry, "--nocapture", "-q"]
            .map(OsString::from)
            .to_vec();
        let handle = self.pool.handle();
        let mut text = format!(
            "{} {} {} {}",
            handle.index(),
            handle.generation(),
            worker.0,
            u8::from(self.start_fails)
        );
        if let Some(early) = self.crash_at.take_if(|point| point.starts_with(EARLY)) {
            program.args.push(early.into());
        } else if let Some(point) = self.crash_at.take() {
            text = format!("{text} {point}");
        }
        let child = launch::start(&program, "worker", Role::Worker, text.as_bytes(), None).unwrap();
        let (owner, pid) = (child.owner(), child.pid());
        self.pids.insert(pid);
        self.children.insert(worker, child);
        self.pool.worker_started(worker, owner, pid).unwrap();
    }

    /// Does what the pool asks for.
    pub(crate) fn serve(&mut self) {
        self.reap();
        for action in self.pool.poll(now_ns()).unwrap() {
            match action {
                Action::Spawn { worker } => self.start(worker),
                Action::Kill { worker, .. } => {
                    if let Some(child) = self.children.get(&worker) {
                        child.signal(SIGKILL).unwrap();
                        child.wait(deadline()).unwrap().unwrap();
                        self.reap();
                    }
                }
                Action::Broken(_) => {}
                Action::Ended => self.ended = true,
            }
        }
    }

    /// Tells the pool who has exited.
    pub(crate) fn reap(&mut self) {
        let mut gone = Vec::new();
        for (id, child) in &self.children {
            if let Some(exit) = child.try_wait().unwrap() {
                gone.push((*id, exit.as_exitcode()));
            }
        }
        for (id, exit) in gone {
            self.children.remove(&id);
            self.exits.push(exit);
            self.pool.worker_exited(id, Some(exit)).unwrap();
        }
    }

    /// Kills a worker, the `n`-th of those that run.
    pub(crate) fn kill(&mut self, n: usize) -> bool {
        let mut ids: Vec<_> = self.children.keys().copied().collect();
        ids.sort();
        if ids.is_empty() {
            return false;
        }
        self.children[&ids[n % ids.len()]].signal(SIGKILL).unwrap();
        true
    }

    pub(crate) fn wait(&mut self, job: JobId, until: Until) -> Result<(), PoolError> {
        let end = deadline();
        loop {
            match self.pool.wait(job, until, end, &mut || true)? {
                Woken::Ready => return Ok(()),
                Woken::Attention => self.serve(),
            }
            assert!(
                !end.passed(),
                "it never came: {:?}, workers {:?}",
                self.pool.progress(job),
                self.pool.workers()
            );
        }
    }

    /// Serves the pool until it is so.
    pub(crate) fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let end = deadline();
        while !is_so(self) {
            assert!(!end.passed(), "never happened: {what}");
            let soon = Deadline::after(Some(Duration::from_millis(20)));
            let _ = self.pool.wait_attention(soon, &mut || true);
            self.serve();
        }
    }

    pub(crate) fn feed(&mut self, job: JobId, bytes: &[u8]) -> u64 {
        self.pool.feed(job, Message::new(bytes)).unwrap().unwrap()
    }

    /// A job whose outcomes come in order.
    pub(crate) fn open(&mut self) -> JobId {
        (self.pool)
            .open_job(Message::default(), JobSpec::default())
            .unwrap()
    }

    /// Feeds items that come back as they are.
    pub(crate) fn feed_echoes(&mut self, job: JobId, items: Range<u64>) {
        for item in items {
            assert_eq!(self.feed(job, &arguments(ECHO, item)), item);
        }
    }

    /// So they do.
    pub(crate) fn collect_echoes(&mut self, job: JobId, items: Range<u64>) {
        for item in items {
            let collected = self.collect(job, Order::InOrder);
            assert_eq!(collected.item, item);
            assert_echo(&collected, ECHO);
        }
    }

    /// Feeds items of the kinds that `what` says, every sixth with a block of its own.
    pub(crate) fn feed_kinds(&mut self, job: JobId, items: u64, what: impl Fn(u64) -> u8) {
        let session = home::session().unwrap();
        for item in 0..items {
            let bytes = arguments(what(item), item);
            let block = (item % 6 == 0).then(|| new_block(session));
            let message = Message {
                block,
                ..Message::new(&bytes)
            };
            self.pool.feed(job, message).unwrap().unwrap();
        }
    }

    /// The next outcome.
    pub(crate) fn collect(&mut self, job: JobId, order: Order) -> Collected {
        loop {
            let (got, until) = match order {
                Order::InOrder => (self.pool.collect_next(job), Until::Next),
                Order::AsFinished => (self.pool.collect_any(job), Until::Any),
            };
            match got.unwrap() {
                Some(collected) => return collected,
                None => self.wait(job, until).unwrap(),
            }
        }
    }

    /// Closes the job and waits until nothing of it is left.
    pub(crate) fn close_job(&mut self, job: JobId) {
        self.pool.close_job(job).unwrap();
        let session = home::session().unwrap();
        let index = self.pool.handle().index();
        let ours = BlockOwner::object(index);
        let until = now_ns() + 60_000_000_000;
        loop {
            let mut left = 0;
            session
                .for_each_block(|_, of| left += usize::from(of.same_as(ours)))
                .unwrap();
            if left == 1 {
                return;
            }
            assert!(now_ns() < until, "{left} blocks of the board are left");
            let soon = Deadline::after(Some(Duration::from_millis(20)));
            let _ = self.pool.wait_attention(soon, &mut || true);
            self.serve();
        }
    }

    /// Closes the pool and waits for its end.
    pub(crate) fn join(&mut self) {
        self.pool.close().unwrap();
        self.run_out();
    }

    pub(crate) fn run_out(&mut self) {
        let until = now_ns() + 60_000_000_000;
        while !self.pool.is_ended().unwrap() || !self.children.is_empty() {
            assert!(now_ns() < until, "the pool does not end");
            let soon = Deadline::after(Some(Duration::from_millis(20)));
            let _ = self.pool.wait_attention(soon, &mut || true);
            self.serve();
        }
        self.serve();
        assert!(self.ended);
        // Nothing is left of those who have died, however they did.
        let session = home::session().unwrap();
        loop {
            session.recover_now().unwrap();
            let mut left = Vec::new();
            session
                .for_each_block(|at, of| {
                    if of.as_process().is_some_and(|p| !session.is_alive(p)) {
                        left.push((at, of));
                    }
                })
                .unwrap();
            if left.is_empty() {
                return;
            }
            assert!(now_ns() < until, "blocks of the dead are left: {left:?}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        for child in self.children.values() {
            let _ = child.signal(SIGKILL);
            let _ = child.wait(deadline());
        }
    }
}

/// The outcome is the echo of what was sent.
pub(crate) fn assert_echo(collected: &Collected, what: u8) {
    let Outcome::Done { status, payload } = &collected.outcome else {
        panic!("{collected:?}");
    };
    assert_eq!(*status, 1);
    assert_eq!(payload.bytes(), arguments(what, collected.item));
    assert_eq!(payload.block().is_some(), what == BLOCK);
    if let Some(block) = payload.block() {
        let session = home::session().unwrap();
        assert_eq!(session.segment().bytes(block, 200).unwrap(), [b'B'; 200]);
    }
}

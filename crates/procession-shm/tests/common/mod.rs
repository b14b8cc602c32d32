//! What the tests of the core share: child processes that join the parent's session, messages that can be checked, and the
//! question whether a session is back to what it was.

#![allow(dead_code, unreachable_pub)] // every test program uses its own part of this

pub mod boards;
pub mod stores;
pub mod world;

use std::ffi::OsString;
use std::fs::File;
use std::io::{PipeReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use procession_shm::arena::BlockOwner;
use procession_shm::processes::{Owner, Role, State};
use procession_shm::{Session, kinds};
use procession_sys::clock::Deadline;
use procession_sys::process::{Exit, PidFd};
use procession_sys::spawn;

/// Longer than anything here may take on a loaded machine; only a hang comes near it.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The numbers of the descriptors that a child finds.
const MEMORY_FD: i32 = 100;
const REPORT_FD: i32 = 101;

/// A deadline of `seconds`.
pub fn within(seconds: u64) -> Deadline {
    Deadline::after(Some(Duration::from_secs(seconds)))
}

/// The check of a wait that nothing interrupts.
pub fn calmly() -> bool {
    true
}

/// Asks until it is so; fails after [`LIMIT`].
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LIMIT, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A number from the environment, else `default`.
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |v| {
        v.parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {v}"))
    })
}

/// Numbers that look random and are the same for the same seed.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number (splitmix64).
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.roll() % n
    }
}

/// `len` bytes that only the message `tag` has.
pub fn content(tag: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    let mut dice = Dice::new(tag);
    while bytes.len() < len {
        bytes.extend(dice.roll().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A child process that has (or is about to take) a slot of the session.
pub struct Child {
    pub owner: Owner,
    pub pid: u32,
    pidfd: PidFd,
    report: PipeReader,
}

/// Starts this test program again as a member of the session. It runs the test `child` alone, which asks [`inside`] what to
/// do: `task`, with `args`, dying at `crash_at`.
pub fn start(session: &'static Session, task: &str, args: &[u64], crash_at: &str) -> Child {
    let owner = session.reserve(task, Role::Process).unwrap();
    let (report, report_end) = std::io::pipe().unwrap();
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap();
    let program = std::env::current_exe().unwrap();
    let command = [
        "child",
        "child",
        "--exact",
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ];
    let words: Vec<String> = args.iter().map(u64::to_string).collect();
    let ours = [
        "PROCESSION_TEST_TASK",
        "PROCESSION_TEST_ARGS",
        "PROCESSION_TEST_OWNER",
        "PROCESSION_CRASH_AT",
    ];
    let mut env: Vec<(OsString, OsString)> = std::env::vars_os()
        .filter(|(name, _)| !ours.iter().any(|our| name == *our))
        .collect();
    let values = [
        task.to_owned(),
        words.join(" "),
        owner.word().to_string(),
        crash_at.to_owned(),
    ];
    env.extend(
        ours.iter()
            .zip(values)
            .map(|(name, value)| (name.into(), value.into())),
    );
    let fds: [(BorrowedFd<'_>, i32); 3] = [
        (session.segment().memory().fd(), MEMORY_FD),
        (report_end.as_fd(), REPORT_FD),
        (null.as_fd(), 1),
    ];
    let (pid, pidfd) = spawn::spawn(&program, &command.map(OsString::from), &env, &fds).unwrap();
    session.started(owner, pid);
    Child {
        owner,
        pid,
        pidfd,
        report,
    }
}

/// A test that fails leaves nobody behind, who might also have a guard that the end of the test needs.
impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.pidfd.signal(9);
    }
}

impl Child {
    /// Kills it, at whatever it does.
    pub fn kill(&self) {
        self.pidfd.signal(9).unwrap();
    }

    /// Lets it go on, if it is stopped.
    pub fn go_on(&self) {
        self.pidfd.signal(18).unwrap();
    }

    /// Is it stopped?
    pub fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap();
        stat.rsplit(") ").next().unwrap().starts_with('T')
    }

    /// Waits for its end.
    pub fn end(&mut self) -> Exit {
        assert!(
            self.pidfd.wait(Deadline::after(Some(LIMIT))).unwrap(),
            "child {} hangs",
            self.pid
        );
        self.pidfd.reap().unwrap().expect("it has ended")
    }

    /// Does it end before the deadline?
    pub fn ends_within(&self, deadline: Deadline) -> bool {
        self.pidfd.wait(deadline).unwrap()
    }

    /// All that it has reported.
    pub fn report(&mut self) -> String {
        let mut text = String::new();
        self.report.read_to_string(&mut text).unwrap();
        text
    }
}

/// What a child was started for.
pub struct Inside {
    pub task: String,
    pub args: Vec<u64>,
    pub owner: Owner,
    report: File,
}

/// In the test `child`: what to do. `None` when somebody runs that test by hand.
pub fn inside() -> Option<Inside> {
    let task = std::env::var("PROCESSION_TEST_TASK").ok()?;
    let args = std::env::var("PROCESSION_TEST_ARGS").unwrap();
    let owner = std::env::var("PROCESSION_TEST_OWNER").unwrap();
    Some(Inside {
        task,
        args: args
            .split_whitespace()
            .map(|w| w.parse().unwrap())
            .collect(),
        owner: Owner::from_word(owner.parse().unwrap()).unwrap(),
        report: File::from(spawn::take_inherited(REPORT_FD).unwrap()),
    })
}

impl Inside {
    /// Joins the session.
    pub fn attach(&self) -> &'static Session {
        Session::attach(kinds::KINDS, self.memory(), self.owner).unwrap()
    }

    /// The session's memory.
    #[allow(clippy::unused_self)] // only who is inside has it
    pub fn memory(&self) -> OwnedFd {
        spawn::take_inherited(MEMORY_FD).unwrap()
    }

    /// Tells the parent something.
    pub fn report(&mut self, text: &str) {
        self.report.write_all(text.as_bytes()).unwrap();
    }
}

/// What there is in a session, to be compared later.
#[derive(Debug, PartialEq, Eq)]
pub struct Inventory {
    objects: u64,
    blocks: Vec<(u64, u64)>,
    bytes: u64,
    extents: u64,
    members: Vec<u32>,
    holds: Vec<(u32, u32)>,
}

impl Inventory {
    /// What there is once the dead are buried and idle memory is given back.
    pub fn take(session: &'static Session) -> Self {
        let me = session.me().unwrap().slot();
        eventually("the dead are buried", || {
            session.recover_now().unwrap();
            session.slots().all(|(number, slot)| {
                number == me || matches!(slot.state(), State::Free | State::Gone | State::Live)
            })
        });
        session.trim().unwrap();
        let mut blocks = Vec::new();
        session
            .for_each_block(|at, owner: BlockOwner| blocks.push((at, owner.word())))
            .unwrap();
        let mut holds = Vec::new();
        for (number, _) in session.slots() {
            session
                .view_holds(number, 0..session.geometry().objects, |h| {
                    if h.held {
                        holds.push((number, h.object));
                    }
                })
                .unwrap();
        }
        let load = |word: &procession_shm::primitive::AtomicU64| {
            word.load(procession_shm::primitive::Ordering::SeqCst)
        };
        Self {
            objects: load(&session.header().object_count),
            blocks,
            bytes: session.bytes_used(),
            extents: load(&session.header().extents_used),
            members: session
                .slots()
                .filter(|(_, slot)| !matches!(slot.state(), State::Free | State::Gone))
                .map(|(number, _)| number)
                .collect(),
            holds,
        }
    }
}

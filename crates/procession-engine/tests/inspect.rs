//! A running session seen from outside: by another process, by its pid, and when its memory is garbage.
//!
//! The sessions that are looked at run in children of the test: this program again, with [`ROLE`] in its environment.

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use procession_engine::inspect::{
    InspectError, ObjectReport, Objects, Observed, Options, ProcessReport, ProcessState, Report,
    find_all, find_by_pid, snapshot,
};
use procession_shm::Session;
use procession_shm::kinds::{self, KINDS};
use procession_shm::layout::{Geometry, Header, VERSION};
use procession_shm::processes::Role;
use procession_shm::ring::{Message, Ring, RingOptions};
use procession_shm::segment::Segment;
use procession_shm::sync::{Event, Lock, Semaphore};
use procession_sys::clock::Deadline;
use procession_sys::memory::SharedMemory;
use procession_sys::process::PidFd;

const SIGSTOP: i32 = 19;
const ROLE: &str = "INSPECT_TEST_CHILD";

/// What a child does. It is a test so that the harness can start it by name; on its own it is over at once.
#[test]
fn child() {
    match std::env::var(ROLE).as_deref() {
        Ok("busy") => busy_child(),
        Ok("foreign") => foreign_child(),
        Ok("plain") => until_told(),
        _ => {}
    }
}

/// A session with a held lock and a held semaphore, threads that wait for each, a reader of an empty queue, a task in hand.
fn busy_child() {
    let session = kinds::create("busy main", None).unwrap();
    let lock = Lock::create(session, "the lock").unwrap();
    let gate = Semaphore::create(session, "the gate", 1, 1).unwrap();
    let full = Ring::create(session, "full", RingOptions::default()).unwrap();
    let empty = Ring::create(session, "empty", RingOptions::default()).unwrap();
    let _idle = Event::create(session, "idle").unwrap();
    for _ in 0..3 {
        let message = Message {
            bytes: b"12345",
            ..Default::default()
        };
        full.port()
            .put(message, Deadline::NEVER, &mut || true)
            .unwrap();
    }
    lock.acquire(Deadline::NEVER, &mut || true).unwrap();
    gate.acquire(Deadline::NEVER, &mut || true).unwrap();
    let slot = session.slot(session.me().unwrap().slot()).unwrap();
    slot.tasks_done.store(41, Ordering::Relaxed);
    slot.task_item.store(7, Ordering::Relaxed);
    slot.task_job.store(2, Ordering::Relaxed);
    slot.task_board
        .store(full.handle().index() + 1, Ordering::Release);
    let _reserved = session.reserve("to come", Role::Worker).unwrap();
    // Ended from outside: stdin is what keeps the child alive.
    let stop = &AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(move || lock.acquire(Deadline::NEVER, &mut || !stop.load(Ordering::Relaxed)));
        s.spawn(move || gate.acquire(Deadline::NEVER, &mut || !stop.load(Ordering::Relaxed)));
        s.spawn(move || {
            let check = &mut || !stop.load(Ordering::Relaxed);
            empty.port().get(Deadline::NEVER, check, |_, _| ())
        });
        until_told();
        stop.store(true, Ordering::Relaxed);
    });
}

/// A session of a later layout.
fn foreign_child() {
    let session = kinds::create("foreign", None).unwrap();
    session
        .header()
        .version
        .store(VERSION + 1, Ordering::Relaxed);
    until_told();
}

fn until_told() {
    println!("ready");
    let _ = std::io::stdin().read(&mut [0]);
}

/// A child that ends when this is dropped.
struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    /// Kept, or the harness in the child complains that nobody reads what it prints.
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(role: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture"])
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(
            lines.any(|l| l.unwrap().ends_with("ready")),
            "the child failed"
        );
        let stdin = child.stdin.take();
        Self {
            child,
            stdin,
            _stdout: lines,
        }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut stdin) = self.stdin.take() {
            let _ = stdin.write_all(b"x");
        }
        let _ = self.child.wait();
    }
}

/// Looks again until it is as it should be.
fn eventually(observed: Observed, options: &Options, good: impl Fn(&Report) -> bool) -> Report {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let report = snapshot(observed.session(), options).unwrap();
        if good(&report) {
            return report;
        }
        assert!(Instant::now() < end, "{report:#?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn all() -> Options {
    Options {
        objects: Objects::AllWithHolders,
        ..Options::default()
    }
}

fn object<'r>(report: &'r Report, name: &str) -> &'r ObjectReport {
    report.objects.iter().find(|o| o.name == name).unwrap()
}

fn counter(object: &ObjectReport, label: &str) -> u64 {
    object.counters.iter().find(|c| c.0 == label).unwrap().1
}

#[test]
fn a_busy_process_is_seen_as_it_is() {
    let running = Running::start("busy");
    let pid = running.pid();
    let observed = find_by_pid(pid).unwrap();
    assert_eq!(observed.found_in(), pid);
    let report = eventually(observed, &all(), |r| {
        r.processes.first().is_some_and(|p| p.waits.len() == 3)
    });
    let [main, reserved] = &report.processes[..] else {
        panic!("{report:#?}")
    };
    assert_eq!(
        (main.pid, main.role, main.name.as_str()),
        (pid, "main", "busy main")
    );
    assert!(main.state.is_alive() && !main.torn, "{main:?}");
    assert_eq!(main.tasks_done, 41);
    let task = main.task.as_ref().unwrap();
    assert_eq!(
        (task.job, task.item, task.board.name.as_str()),
        (2, 7, "full")
    );
    assert!(main.rss.unwrap() > 0 && main.threads.unwrap() >= 4);
    assert!(main.age_ns > 0 && main.parent.is_none());

    assert_eq!((reserved.pid, reserved.role), (0, "worker"));
    assert_eq!(reserved.state, ProcessState::Starting);
    assert_eq!(reserved.parent.as_ref().unwrap().pid, Some(pid));

    let wait = |name: &str| {
        main.waits
            .iter()
            .find(|w| w.object.as_ref().unwrap().name == name)
            .unwrap()
    };
    let owners = |name: &str| wait(name).owners.iter().map(|o| o.pid).collect::<Vec<_>>();
    assert_eq!(
        (wait("the lock").kind, owners("the lock")),
        ("acquire", vec![Some(pid)])
    );
    assert_eq!(owners("the gate"), [Some(pid)]);
    assert_eq!((wait("empty").kind, owners("empty")), ("get", vec![]));
    assert_eq!(
        wait("empty").object.as_ref().unwrap().kind.as_deref(),
        Some("queue")
    );
    assert_ne!(wait("empty").thread, wait("the lock").thread);

    assert_eq!(report.object_count, 5);
    let full = object(&report, "full");
    assert_eq!((counter(full, "length"), counter(full, "bytes")), (3, 15));
    assert_eq!((full.waiters, full.holder_count), (0, Some(2)));
    assert_eq!(full.creator.as_ref().unwrap().pid, Some(pid));
    let lock = object(&report, "the lock");
    assert_eq!((lock.waiters, lock.owners[0].pid), (1, Some(pid)));
    assert!(lock.counters.iter().all(|c| c.0 != "owner"), "{lock:?}");

    let busy = snapshot(observed.session(), &Options::default()).unwrap();
    let mut names: Vec<&str> = busy.objects.iter().map(|o| o.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["empty", "full", "the gate", "the lock"]);
    assert!(!busy.objects_cut);
    let cut = Options {
        max_objects: 2,
        ..all()
    };
    let cut = snapshot(observed.session(), &cut).unwrap();
    assert_eq!((cut.objects.len(), cut.objects_cut), (2, true));
    let pss = Options {
        proportional: true,
        ..Options::default()
    };
    let pss = snapshot(observed.session(), &pss).unwrap();
    assert!(pss.processes[0].pss.unwrap() > 0);
}

#[test]
fn looking_takes_no_memory_in_the_session() {
    let running = Running::start("busy");
    let observed = find_by_pid(running.pid()).unwrap();
    let waiting = |r: &Report| r.processes[0].waits.len() == 3;
    let before = eventually(observed, &Options::default(), waiting);
    for _ in 0..10 {
        let after = snapshot(observed.session(), &all()).unwrap();
        // Less is possible: the session gives back what it has not used for a while.
        assert!(after.memory.resident <= before.memory.resident);
    }
}

#[test]
fn a_stopped_and_a_killed_process_show_as_such() {
    let mut running = Running::start("busy");
    let observed = find_by_pid(running.pid()).unwrap();
    let is = |state| move |r: &Report| r.processes[0].state == state;
    PidFd::open(running.pid()).unwrap().signal(SIGSTOP).unwrap();
    eventually(observed, &Options::default(), is(ProcessState::Stopped));
    running.child.kill().unwrap();
    let zombie = eventually(observed, &Options::default(), is(ProcessState::Zombie));
    assert!(zombie.processes[0].waits.is_empty() && zombie.processes[0].task.is_none());
    running.child.wait().unwrap();
    let dead = eventually(observed, &Options::default(), is(ProcessState::Dead));
    assert_eq!(dead.processes[0].rss, None);
    // Its child-to-be will never be.
    assert_eq!(dead.processes[1].state, ProcessState::Dead);
    assert_eq!(
        find_by_pid(running.pid()).unwrap_err(),
        InspectError::NoProcess(running.pid())
    );
}

#[test]
fn all_sessions_are_found_once() {
    let (one, two) = (Running::start("busy"), Running::start("busy"));
    let plain = Running::start("plain");
    let foreign = Running::start("foreign");
    let search = find_all();
    for pid in [one.pid(), two.pid()] {
        let found = search.sessions.iter().filter(|s| s.found_in() == pid);
        assert_eq!(found.count(), 1, "{search:#?}");
    }
    let has = |pid| search.sessions.iter().any(|s| s.found_in() == pid);
    assert!(!has(plain.pid()) && !has(foreign.pid()));
    let message = format!(
        "process {}: the session was made by procession with layout {}, this process has layout {VERSION}: use one version in all processes",
        foreign.pid(),
        VERSION + 1
    );
    let ours = search.failures.iter().filter(|f| f.to_string() == message);
    assert_eq!(ours.count(), 1, "{search:#?}");
    assert_eq!(find_by_pid(foreign.pid()).unwrap_err().to_string(), message);
}

#[test]
fn a_process_without_a_session_is_told_apart() {
    let plain = Running::start("plain");
    let error = find_by_pid(plain.pid()).unwrap_err();
    assert!(matches!(error, InspectError::NoSession { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("does not belong to a procession session")
    );
    assert_eq!(
        find_by_pid(u32::MAX).unwrap_err(),
        InspectError::NoProcess(u32::MAX)
    );
    assert_eq!(find_by_pid(0).unwrap_err(), InspectError::NoProcess(0));
}

/// A small generator: what comes is the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A word that is wrong in an interesting way.
    fn word(&mut self) -> u64 {
        match self.roll() % 6 {
            0 => u64::MAX,
            1 => 1 << (self.roll() % 64),
            2 => (1 << (self.roll() % 64)) - 1,
            3 => self.roll() % 4096,
            4 => 0,
            _ => self.roll(),
        }
    }
}

/// A copy of a live session's memory in memory of our own.
fn copy_of(source: &Session) -> Segment {
    let from = source.segment().memory();
    let copy = Segment::new(SharedMemory::create("procession-test", from.len()).unwrap());
    let mut page = vec![0; 4096];
    let mut at = 0;
    while let Some(present) = from.next_present(at) {
        from.read_at(present, &mut page).unwrap();
        copy.write(present, &page).unwrap();
        at = present + page.len() as u64;
    }
    copy
}

fn observe(memory: &Segment) -> Result<&'static Session, procession_shm::ShmError> {
    let fd: OwnedFd = memory.memory().fd().try_clone_to_owned().unwrap();
    Session::observe(KINDS, fd)
}

#[test]
fn garbage_is_an_error_or_shows_as_garbage() {
    let running = Running::start("busy");
    let source = find_by_pid(running.pid()).unwrap().session();
    let pristine = copy_of(source);
    let hostile = copy_of(source);
    let observed = observe(&hostile).unwrap();
    let geometry = *observed.geometry();
    // The header's tables, the slots, the entries, the extents' and blocks' records, the bodies: each where it is in use.
    let header = size_of::<Header>() as u64;
    let areas = [
        (32, header),
        (geometry.slot(0), 4 * Geometry::SLOT),
        (geometry.entry(0), 8 * Geometry::ENTRY),
        (geometry.extent_record(0), 2 * Geometry::EXTENT_RECORD),
        (geometry.block_record(0, 0), 32 * Geometry::BLOCK_RECORD),
        (geometry.extent(0), 64 << 10),
    ];
    let mut dice = Dice(0x5eed);
    let mut saved = vec![0; 64 << 10];
    for _ in 0..1500 {
        for (at, len) in areas {
            for _ in 0..dice.roll() % 12 {
                let word = at + dice.roll() % (len / 8) * 8;
                hostile.write(word, &dice.word().to_ne_bytes()).unwrap();
            }
        }
        // Tables that claim to be in full use are read in full, which is slow and no more; here they stay short.
        for high in [
            &observed.header().process_high,
            &observed.header().object_high,
        ] {
            let short = (high.load(Ordering::Relaxed) % 64).to_ne_bytes();
            hostile.write(offset_of(observed, high), &short).unwrap();
        }
        if let Ok(report) = snapshot(observed, &all()) {
            assert!(report.processes.len() <= 64 && report.objects.len() <= 64);
            assert!(
                report
                    .processes
                    .iter()
                    .all(|p: &ProcessReport| p.name.len() <= 3 * 64)
            );
        }
        for (at, len) in areas {
            let bytes = &mut saved[..len as usize];
            pristine.read(at, bytes).unwrap();
            hostile.write(at, bytes).unwrap();
        }
    }
    for high in [
        &observed.header().process_high,
        &observed.header().object_high,
    ] {
        hostile
            .write(offset_of(observed, high), &[0xff; 8])
            .unwrap();
    }
    let whole = snapshot(observed, &all()).unwrap();
    assert_eq!((whole.processes.len(), whole.objects.len()), (2, 5));
}

fn offset_of<T>(session: &Session, value: &'static T) -> u64 {
    session.segment().offset_of(value)
}

#[test]
fn a_header_of_garbage_is_refused() {
    let running = Running::start("busy");
    let hostile = copy_of(find_by_pid(running.pid()).unwrap().session());
    for (at, bytes) in [
        (0, [0; 8]),
        (8, [0xff; 8]),
        (12, [0xff; 8]),
        (16, [0xff; 8]),
        (20, [0; 8]),
    ] {
        let mut saved = [0; 8];
        hostile.read(at, &mut saved).unwrap();
        hostile.write(at, &bytes).unwrap();
        assert!(observe(&hostile).is_err(), "at {at}");
        hostile.write(at, &saved).unwrap();
    }
    assert!(observe(&hostile).is_ok());
    for len in [1, 4096, 4 << 20] {
        let tiny = Segment::new(SharedMemory::create("procession-test", len).unwrap());
        assert!(observe(&tiny).is_err());
    }
}

#[test]
fn what_changes_all_the_time_does_not_stop_the_reader() {
    let running = Running::start("busy");
    let hostile = copy_of(find_by_pid(running.pid()).unwrap().session());
    let observed = observe(&hostile).unwrap();
    let geometry = *observed.geometry();
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        // However the reader ends: a panic waits for the other thread first.
        let _stopped = StopOnDrop(&stop);
        s.spawn(|| {
            let mut dice = Dice(0xd1ce);
            while !stop.load(Ordering::Relaxed) {
                let table = [geometry.slot(0), geometry.entry(0)][(dice.roll() & 1) as usize];
                let at = table + dice.roll() % 128 * 8;
                hostile.write(at, &dice.word().to_ne_bytes()).unwrap();
            }
        });
        for _ in 0..300 {
            // Whatever it says, it says it.
            let _ = snapshot(observed, &all());
        }
    });
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

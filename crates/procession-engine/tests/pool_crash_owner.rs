//! The parent of a pool dies at each named step: its workers end, and the others go on as if the pool had never been.
#![cfg(feature = "fault")]

#[allow(dead_code)]
mod pool_support;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use procession_engine::inspect::{Objects, Options, find_by_pid, snapshot};
use procession_engine::launch::{self, Arrival, Program};
use procession_engine::pool::{Cancel, Config, Failure, JobSpec, Message, Order, Outcome};
use procession_engine::{env, home};
use procession_shm::Session;
use procession_shm::arena::BlockOwner;
use procession_shm::primitive::Ordering;
use procession_shm::processes::{Role, State};
use procession_sys::clock::Deadline;
use procession_sys::ident::ProcessId;
use procession_sys::process::{Exit, PidFd};

use pool_support::{
    BLOCK, BUILD, DIE, ECHO, Front, HANG, arm, assert_echo, deadline, run_worker, steps,
};

/// Where a parent dies that is the root of its session.
const ROOT_DIES: &str = "POOL_TEST_ROOT_DIES";

/// Where the workers begin. On its own it is over at once.
#[test]
fn worker() {
    run_worker();
}

/// Where the parents begin: as members of the test's session, or with one of their own.
#[test]
fn owner() {
    let point = if std::env::var_os(env::BOOTSTRAP).is_some() {
        let arrival = launch::arrive(BUILD).unwrap().unwrap();
        Arrival::settled(arrival.session).unwrap();
        String::from_utf8(arrival.bytes).unwrap()
    } else if let Ok(point) = std::env::var(ROOT_DIES) {
        point
    } else {
        return;
    };
    arm(&point);
    own(&point);
    home::leave(0).unwrap();
    std::process::exit(0);
}

const ITEMS: u64 = 60;
/// Kills its worker, and the next one.
const DEADLY: u64 = 7;
const UNWANTED: u64 = ITEMS - 1;

/// Everything that the parent of a pool does.
fn own(point: &str) {
    // Whoever notices a death buries: the parent does if there is nobody else.
    let workers = if point.starts_with("board.bury.") {
        1
    } else {
        2
    };
    let mut front = Front::new(&Config::new("pool", workers), "worker");
    many_items(&mut front);
    one_that_hangs(&mut front);
    if point.starts_with("board.chunk.unlisted") {
        many_chunks(&mut front);
    }
    front.join();
}

fn many_items(front: &mut Front) {
    let spec = JobSpec {
        order: Order::AsFinished,
        retries: 1,
        ..JobSpec::default()
    };
    let job = front.pool.open_job(Message::new(&[5; 3000]), spec).unwrap();
    let what = |item| match item {
        DEADLY => DIE,
        _ if item % 3 == 0 => BLOCK,
        _ => ECHO,
    };
    front.feed_kinds(job, ITEMS, what);
    // Nobody has been started yet.
    let cancelled = front.pool.cancel(job, UNWANTED).unwrap();
    assert_eq!(cancelled, Cancel::Cancelled);
    front.pool.seal(job).unwrap();
    for _ in 0..ITEMS {
        let collected = front.collect(job, Order::AsFinished);
        match (collected.item, &collected.outcome) {
            (DEADLY, Outcome::Failed(Failure::WorkerDied { .. }))
            | (UNWANTED, Outcome::Failed(Failure::Cancelled)) => {}
            (item, _) => assert_echo(&collected, what(item)),
        }
    }
    front.close_job(job);
}

fn one_that_hangs(front: &mut Front) {
    let job = (front.pool)
        .open_job(Message::new(&[6; 2000]), JobSpec::default())
        .unwrap();
    front.feed(job, &[HANG]);
    front.feed_echoes(job, 1..10);
    front.pool.seal(job).unwrap();
    let hanging = Some((job, 0));
    front.until("the first item runs", |f| {
        f.pool
            .workers()
            .unwrap()
            .iter()
            .any(|w| w.running == hanging)
    });
    assert_eq!(front.pool.cancel(job, 0).unwrap(), Cancel::Killing);
    let collected = front.collect(job, Order::InOrder);
    assert!(matches!(
        collected.outcome,
        Outcome::Failed(Failure::Cancelled)
    ));
    front.collect_echoes(job, 1..10);
    front.close_job(job);
}

/// Chunks are used up, and given back as soon as no worker looks at them any more.
fn many_chunks(front: &mut Front) {
    let job = front.open();
    let end = deadline();
    while !end.passed() {
        for _ in 0..512 {
            let fed = front.pool.feed_more(job, Message::new(&[ECHO])).unwrap();
            assert!(fed.is_some());
        }
        for _ in 0..512 {
            front.collect(job, Order::InOrder);
        }
    }
}

// --- seen from outside ----------------------------------------------------------------------

/// What there is in a session: objects, blocks, bytes.
fn contents(session: &'static Session) -> (u64, Vec<(u64, BlockOwner)>, u64) {
    session.trim().unwrap();
    let mut blocks = Vec::new();
    session
        .for_each_block(|at, owner| blocks.push((at, owner)))
        .unwrap();
    let objects = session.header().object_count.load(Ordering::SeqCst);
    (objects, blocks, session.bytes_used())
}

/// The processes of the session but for this one.
fn others(session: &'static Session) -> impl Iterator<Item = ProcessId> {
    session
        .slots()
        .filter(|(_, slot)| !matches!(slot.state(), State::Free | State::Gone))
        .filter_map(|(_, slot)| ProcessId::of(slot.process_id().pid))
        .filter(|id| *id != ProcessId::current())
}

fn owner_dies(point: &str) {
    let session = home::session().unwrap();
    let before = contents(session);
    let mut program = Program::this(BUILD);
    program.is_talkative = true;
    program.args = ["test", "--exact", "owner", "--nocapture", "-q"]
        .map(OsString::from)
        .to_vec();
    let child = launch::start(&program, "owner", Role::Process, point.as_bytes(), None).unwrap();
    let mut seen = BTreeSet::new();
    let end = deadline();
    let soon = || Deadline::after(Some(Duration::from_millis(2)));
    loop {
        let has_ended = child.pidfd().wait(soon()).unwrap();
        seen.extend(others(session).map(|id| (id.pid, id.start_time)));
        if has_ended {
            break;
        }
        assert!(!end.passed(), "{point}: the parent hangs");
    }
    // Nobody says that it has died: the others find out, and meanwhile it can be seen from outside.
    let observed = find_by_pid(std::process::id()).unwrap();
    let options = Options {
        objects: Objects::AllWithHolders,
        ..Options::default()
    };
    loop {
        let report = snapshot(observed.session(), &options).unwrap();
        session.sweep().unwrap();
        let is_over = report.processes.len() == 1 && contents(session) == before;
        let mut alive = seen.iter().filter(|(pid, start_time)| {
            let (pid, start_time) = (*pid, *start_time);
            pid != child.pid() && ProcessId { pid, start_time }.is_alive()
        });
        match alive.next() {
            None if is_over => break,
            // What it leaves behind is cleared up by the next look.
            None => std::thread::yield_now(),
            Some((pid, _)) => {
                let _ = PidFd::open(*pid).and_then(|worker| worker.wait(soon()));
            }
        }
        assert!(!end.passed(), "{point}: {report:#?} instead of {before:?}");
    }
    let exit = child.wait(deadline()).unwrap();
    assert_eq!(exit, Some(Exit::Signal(9)), "{point} was not passed");
}

#[test]
fn a_parent_may_die_at_any_step() {
    for (point, nth) in steps::OWNING {
        eprintln!("{point}:{nth}");
        owner_dies(&format!("{point}:{nth}"));
    }
}

/// Where nobody is left who could clear up, nothing is left to be cleared up.
#[test]
fn the_session_goes_with_a_parent_that_dies() {
    for point in [
        "board.feed.ready:50",
        "board.retry.filled:1",
        "board.bury.filled:1",
        "board.close.unlisted:1",
        "launch.start.spawned:1",
    ] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["owner", "--exact", "--nocapture", "-q"])
            .env(ROOT_DIES, point)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // All of them have this pipe, which ends with the last one, after its memory.
        let mut pipe = child.stdout.take().unwrap();
        let (say, told) = mpsc::channel();
        std::thread::spawn(move || say.send(pipe.read_to_end(&mut Vec::new())));
        let ended = told.recv_timeout(Duration::from_secs(60));
        let exit = child.wait().unwrap();
        assert_eq!(exit.signal(), Some(9), "{point} was not passed");
        ended.expect("its workers end").unwrap();
        assert!(find_by_pid(child.id()).is_err());
    }
}

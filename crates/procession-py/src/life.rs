//! The session of this process, and the lives of its members.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;

use procession_shm::Session;
use procession_shm::kinds::{self, KINDS};
use procession_shm::processes::{Owner, Role, State};
use procession_sys::clock::Deadline;
use procession_sys::{ident, orphan};
use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::{enter, errors};

static SESSION: AtomicPtr<Session> = AtomicPtr::new(std::ptr::null_mut());

/// The session of this process, if it has one.
pub(crate) fn existing() -> Option<&'static Session> {
    crate::buffer::leaked(SESSION.load(Ordering::Acquire))
}

/// The session of this process, made on first use.
pub(crate) fn session(py: Python<'_>) -> PyResult<&'static Session> {
    if let Some(session) = existing() {
        return Ok(session);
    }
    let argv = py.import("sys")?.getattr("argv")?;
    let name: String = argv
        .get_item(0)
        .and_then(|a| a.extract())
        .unwrap_or_default();
    let name = name.rsplit('/').next().unwrap_or_default().to_owned();
    let budget = match std::env::var("PROCESSION_MEMORY") {
        Ok(text) => Some(parse_bytes(&text).ok_or_else(|| {
            PyValueError::new_err(format!(
                "PROCESSION_MEMORY is {text:?}; give bytes, or a number with K, M or G"
            ))
        })?),
        Err(_) => None,
    };
    let session = kinds::create(&name, budget).map_err(errors::shm)?;
    let raw = std::ptr::from_ref(session).cast_mut();
    // With the interpreter attached nobody else can have come between, but for free-threaded builds.
    match SESSION.compare_exchange(
        std::ptr::null_mut(),
        raw,
        Ordering::AcqRel,
        Ordering::Acquire,
    ) {
        Ok(_) => Ok(session),
        Err(_) => Ok(existing().expect("somebody else has just set it")),
    }
}

fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let (digits, unit) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 1 << 10),
        b'M' | b'm' => (&text[..text.len() - 1], 1 << 20),
        b'G' | b'g' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

fn owner(token: u32) -> PyResult<Owner> {
    Owner::from_word(token).ok_or_else(|| PyValueError::new_err("not the token of a child"))
}

/// Makes the session of this process if it has none.
#[pyfunction]
pub(crate) fn ensure_session(py: Python<'_>) -> PyResult<()> {
    session(py).map(drop)
}

/// The descriptor of the session's memory, to be handed to a child.
#[pyfunction]
pub(crate) fn session_fd(py: Python<'_>) -> PyResult<i32> {
    Ok(session(py)?.segment().memory().fd().as_raw_fd())
}

/// Reserves a place in the session for a child that is about to be started.
#[pyfunction]
pub(crate) fn prepare_child(py: Python<'_>, name: &str, role: &str) -> PyResult<u32> {
    let role =
        Role::named(role).ok_or_else(|| PyValueError::new_err(format!("no role {role:?}")))?;
    // What is shared after this the child would not hold.
    crate::received::before_fork();
    Ok(session(py)?
        .reserve(name, role)
        .map_err(errors::shm)?
        .word())
}

/// The child of the next fork of this process takes the place `token`.
#[pyfunction]
pub(crate) fn fork_into(py: Python<'_>, token: u32) -> PyResult<()> {
    session(py)?.next_fork(Some(owner(token)?));
    Ok(())
}

/// The next fork makes a child that takes no place until `enter_child` says which.
#[pyfunction]
pub(crate) fn fork_outside(py: Python<'_>) -> PyResult<()> {
    session(py)?.next_fork_outside();
    Ok(())
}

/// The child runs, with this pid.
#[pyfunction]
pub(crate) fn child_started(py: Python<'_>, token: u32, pid: u32) -> PyResult<()> {
    session(py)?.started(owner(token)?, pid);
    Ok(())
}

/// The child could not be started.
#[pyfunction]
pub(crate) fn child_abandoned(py: Python<'_>, token: u32) -> PyResult<()> {
    session(py)?.abandon(owner(token)?).map_err(errors::shm)
}

/// Is a place still kept for the child, or has whoever asked for it given it up?
#[pyfunction]
pub(crate) fn child_expected(token: u32) -> PyResult<bool> {
    let owner = owner(token)?;
    Ok(existing().is_some_and(|session| session.is_expected(owner)))
}

/// Has the child taken over what it was started with?
#[pyfunction]
pub(crate) fn child_ready(py: Python<'_>, token: u32) -> PyResult<bool> {
    Ok(session(py)?
        .slot_of(owner(token)?)
        .is_some_and(procession_shm::processes::Slot::is_settled))
}

/// The child was reaped; `status` is its exit code, negative for a signal.
#[pyfunction]
pub(crate) fn child_exited(py: Python<'_>, token: u32, status: i32) -> PyResult<()> {
    let Some(session) = existing() else {
        return Ok(());
    };
    let owner = owner(token)?;
    py.detach(|| session.exited(owner, status))
        .map_err(errors::shm)
}

/// The exit code of a child that has ended: its own last word, or what whoever reaped it has published.
#[pyfunction]
pub(crate) fn exit_status(py: Python<'_>, token: u32) -> PyResult<Option<i32>> {
    let (session, owner) = (session(py)?, owner(token)?);
    py.detach(|| session.exit_status(owner))
        .map_err(errors::shm)
}

/// In the child: takes the place that was reserved. `fd` is the session's memory for a fresh interpreter.
#[pyfunction]
#[pyo3(signature = (token, fd=-1))]
pub(crate) fn enter_child(token: u32, fd: i32) -> PyResult<()> {
    let owner = owner(token)?;
    if fd < 0 {
        let session = existing()
            .ok_or_else(|| PyRuntimeError::new_err("this process has inherited no session"))?;
        if session.current().is_none() {
            // A failure is told of below.
            let _ = session.enter(owner);
        }
        if session.current() == Some(owner) {
            session
                .slot(owner.slot())
                .map_err(errors::corrupt)?
                .settle();
            return Ok(());
        }
        return Err(PyRuntimeError::new_err(
            "the fork did not enter the session in the place that was kept for it",
        ));
    }
    let fd = crate::buffer::owned_fd(fd);
    let session = Session::attach(KINDS, fd, owner).map_err(errors::shm)?;
    SESSION.store(std::ptr::from_ref(session).cast_mut(), Ordering::Release);
    Ok(())
}

/// In a child that does not share its parent's memory: it has all its arguments, and gives up the rest of what its parent
/// held for it.
#[pyfunction]
pub(crate) fn settled() -> PyResult<()> {
    let Some(session) = existing() else {
        return Ok(());
    };
    session.drop_unclaimed().map_err(errors::shm)?;
    if let Some(me) = session.current() {
        session.slot(me.slot()).map_err(errors::corrupt)?.settle();
    }
    Ok(())
}

/// Says goodbye to the session, just before this process ends.
#[pyfunction]
pub(crate) fn leave(py: Python<'_>, exitcode: i32) -> PyResult<()> {
    match existing() {
        Some(session) => py.detach(|| session.leave(exitcode)).map_err(errors::shm),
        None => Ok(()),
    }
}

/// Has this process killed half a second after its parent dies.
#[pyfunction]
pub(crate) fn guard_orphan(parent_pid: u32) -> PyResult<()> {
    orphan::guard(parent_pid).map_err(errors::system)
}

/// Tells the process `pid` that its logical parent has died.
#[pyfunction]
pub(crate) fn orphaned(pid: u32) -> PyResult<()> {
    orphan::tell(pid).map_err(errors::system)
}

/// Says that Ctrl-C has reached this process: its children leave it to this one to tell of it.
#[pyfunction]
pub(crate) fn note_interrupt() {
    if let Some(session) = existing()
        && let Some(slot) = session.current().and_then(|me| session.slot_of(me))
    {
        slot.note_interrupt();
    }
}

/// Has Ctrl-C reached the process `pid` of this session lately?
#[pyfunction]
pub(crate) fn was_interrupted(pid: u32) -> bool {
    const LATELY_MS: u32 = 2000;
    existing().is_some_and(|session| {
        session.slots().any(|(_, slot)| {
            slot.pid.load(procession_shm::primitive::Ordering::Acquire) == pid
                && slot.was_interrupted(LATELY_MS)
        })
    })
}

/// Runs pending signal handlers.
pub(crate) fn check_signals(py: Python<'_>) -> PyResult<()> {
    py.check_signals().inspect_err(|raised| {
        if raised.is_instance_of::<PyKeyboardInterrupt>(py) {
            note_interrupt();
        }
    })
}

/// Waits until the process behind a pidfd has ended.
#[pyfunction]
#[pyo3(signature = (pidfd, timeout))]
pub(crate) fn wait_exit(py: Python<'_>, pidfd: i32, timeout: Option<f64>) -> PyResult<bool> {
    let deadline = enter::after(timeout);
    if let Some(session) = existing().filter(|s| s.current().is_some() && !deadline.is_now()) {
        let _shown = session.show_wait(u32::MAX, procession_shm::wait::WaitKind::Exit);
        return poll_exit(py, pidfd, deadline);
    }
    poll_exit(py, pidfd, deadline)
}

const SLICE: Duration = Duration::from_millis(400);

fn poll_exit(py: Python<'_>, pidfd: i32, deadline: Deadline) -> PyResult<bool> {
    loop {
        // In slices: a signal that comes just before the system call does not interrupt it.
        let slice = Deadline::after(Some(deadline.slice(SLICE)));
        match py.detach(|| {
            procession_sys::poll::wait_readable(&crate::buffer::borrowed_fd(pidfd), slice)
        }) {
            Ok(true) => return Ok(true),
            Ok(false) if deadline.passed() => return Ok(false),
            Ok(false) | Err(procession_sys::Errno::INTR) => check_signals(py)?,
            Err(e) => return Err(errors::system(e)),
        }
    }
}

/// Before `os.fork()`: what this process alone has received is made something that the child can hold.
#[pyfunction]
pub(crate) fn before_fork() {
    crate::received::before_fork();
}

/// After `os.fork()` in the child. That it is a member of the session is the work of hooks beneath Python.
#[pyfunction]
pub(crate) fn after_fork_in_child() {
    crate::received::after_fork_in_child();
}

/// Looks for dead members and recovers what they held, now.
#[pyfunction]
pub(crate) fn sweep(py: Python<'_>) -> PyResult<()> {
    match existing().filter(|s| s.current().is_some()) {
        Some(session) => py.detach(|| session.recover_now()).map_err(errors::shm),
        None => Ok(()),
    }
}

/// Gives idle memory of the session back to the system.
#[pyfunction]
pub(crate) fn trim(py: Python<'_>) -> PyResult<()> {
    match existing() {
        Some(session) => py.detach(|| session.trim()).map_err(errors::shm),
        None => Ok(()),
    }
}

/// Figures of the session: objects and processes that exist, bytes in blocks, bytes of real memory.
#[pyfunction]
pub(crate) fn session_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let session = session(py)?;
    let header = session.header();
    let info = PyDict::new(py);
    info.set_item("id", session.id())?;
    info.set_item("pid", ident::ProcessId::current().pid)?;
    info.set_item("token", session.current().map(Owner::word))?;
    info.set_item(
        "objects",
        header
            .object_count
            .load(procession_shm::primitive::Ordering::Acquire),
    )?;
    let alive = session
        .slots()
        .filter(|(_, s)| matches!(s.state(), State::Live | State::Reserved))
        .count();
    info.set_item("processes", alive)?;
    info.set_item("bytes_used", session.bytes_used())?;
    info.set_item(
        "bytes_resident",
        session
            .segment()
            .memory()
            .resident_bytes()
            .map_err(errors::system)?,
    )?;
    info.set_item(
        "deaths",
        header
            .deaths
            .load(procession_shm::primitive::Ordering::Acquire),
    )?;
    Ok(info)
}

//! The session of this process: made when it is first needed, or joined where the parent has one.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, OnceLock, PoisonError};

use procession_shm::processes::Owner;
use procession_shm::{Session, ShmError, kinds};

use crate::env;

static HOME: OnceLock<&'static Session> = OnceLock::new();
static MAKING: Mutex<()> = Mutex::new(());

/// This process's session. A process that was given none makes one, and is its root.
pub fn session() -> Result<&'static Session, ShmError> {
    if let Some(session) = HOME.get() {
        return Ok(session);
    }
    let _one_at_a_time = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(session) = HOME.get() {
        return Ok(session);
    }
    let session = kinds::create(&program_name(), env::memory())?;
    Ok(HOME.get_or_init(|| session))
}

/// This process's session, if it has one already.
pub fn current() -> Option<&'static Session> {
    HOME.get().copied()
}

/// Joins the session behind `fd` in the place that the parent has reserved.
pub fn join(fd: OwnedFd, owner: Owner) -> Result<&'static Session, ShmError> {
    let _one_at_a_time = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let session = Session::attach(kinds::KINDS, fd, owner)?;
    Ok(HOME.get_or_init(|| session))
}

/// Says goodbye to the session: what this process held is free for the others at once. Without a session, nothing.
pub fn leave(exit_code: i32) -> Result<(), ShmError> {
    match current() {
        Some(session) => session.leave(exit_code),
        None => Ok(()),
    }
}

fn program_name() -> String {
    let first = std::env::args_os().next().unwrap_or_default();
    let path = std::path::Path::new(&first);
    path.file_name()
        .unwrap_or(&first)
        .to_string_lossy()
        .into_owned()
}

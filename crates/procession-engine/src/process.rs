//! A child as its parent sees it.

use std::sync::{Mutex, PoisonError};

use procession_shm::Session;
use procession_shm::processes::Owner;
use procession_shm::wait::WaitKind;
use procession_sys::Errno;
use procession_sys::clock::Deadline;
use procession_sys::process::{Exit, PidFd};

use crate::error::ExitError;

/// A process that this process has started as a member of the session.
#[derive(Debug)]
pub struct Child {
    session: &'static Session,
    owner: Owner,
    pid: u32,
    pidfd: PidFd,
    name: String,
    exit: Mutex<Option<Exit>>,
}

impl Child {
    pub(crate) fn new(
        session: &'static Session,
        owner: Owner,
        pid: u32,
        pidfd: PidFd,
        name: &str,
    ) -> Self {
        Self {
            session,
            owner,
            pid,
            pidfd,
            name: name.to_owned(),
            exit: Mutex::new(None),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its place in the session.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Readable once the process has ended.
    pub fn pidfd(&self) -> &PidFd {
        &self.pidfd
    }

    /// Waits until the process has ended; `None` when the deadline came first. What it held is then free for others.
    pub fn wait(&self, deadline: Deadline) -> Result<Option<Exit>, ExitError> {
        if let Some(exit) = self.try_wait()? {
            return Ok(Some(exit));
        }
        if deadline.is_now() {
            return Ok(None);
        }
        let _shown = self.session.show_wait(u32::MAX, WaitKind::Exit);
        loop {
            match self.pidfd.wait(deadline) {
                Ok(true) => return self.try_wait(),
                Ok(false) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(source) => return Err(self.system(source)),
            }
        }
    }

    /// How the process ended, if it has.
    pub fn try_wait(&self) -> Result<Option<Exit>, ExitError> {
        let mut known = self.exit.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_some() {
            return Ok(*known);
        }
        let exit = match self.pidfd.reap() {
            Ok(None) => return Ok(None),
            Ok(Some(exit)) => exit,
            Err(Errno::CHILD) => self.published().ok_or(ExitError::Lost(self.pid))?,
            Err(source) => return Err(self.system(source)),
        };
        *known = Some(exit);
        drop(known);
        // A parent that has left the session learns the status all the same.
        if self.session.current().is_some() {
            self.session.exited(self.owner, exit.as_exitcode())?;
        }
        Ok(Some(exit))
    }

    /// What the process itself or another member has said about its end.
    fn published(&self) -> Option<Exit> {
        let code = self.session.slot_of(self.owner)?.exit_code()?;
        Some(if code < 0 {
            Exit::Signal(-code)
        } else {
            Exit::Code(code)
        })
    }

    /// Sends a signal by number. One that has ended does not mind.
    pub fn signal(&self, signal: i32) -> Result<(), ExitError> {
        match self.pidfd.signal(signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(source) => Err(self.system(source)),
        }
    }

    fn system(&self, source: Errno) -> ExitError {
        ExitError::System {
            pid: self.pid,
            source,
        }
    }

    /// Lets the child run on its own: it is reaped whenever this process next has to do with children.
    pub fn detach(self) {
        if matches!(self.try_wait(), Ok(None)) {
            detached().push(self);
        }
    }
}

/// Children that nobody has a handle to any more.
static DETACHED: Mutex<Vec<Child>> = Mutex::new(Vec::new());

fn detached() -> std::sync::MutexGuard<'static, Vec<Child>> {
    DETACHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reaps the detached children that have ended.
pub fn reap_detached() {
    // One whose status cannot be had is no child of ours (any more): there is nothing to reap.
    detached().retain(|child| matches!(child.try_wait(), Ok(None)));
}

/// Waits until all detached children have ended, also those that are detached meanwhile.
pub fn join_detached() -> Result<(), ExitError> {
    loop {
        let Some(child) = detached().pop() else {
            return Ok(());
        };
        child.wait(Deadline::NEVER)?;
    }
}

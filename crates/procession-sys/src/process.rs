//! Child processes: a handle that cannot mean another process, signals, exit statuses.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

use crate::Errno;
use crate::clock::Deadline;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It left with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Exit {
    /// Did it leave with code 0?
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }

    /// As Python counts: the code, or the negative signal.
    pub fn as_exitcode(self) -> i32 {
        match self {
            Self::Code(c) => c,
            Self::Signal(s) => -s,
        }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(c) => write!(f, "exit code {c}"),
            Self::Signal(s) => match nix::sys::signal::Signal::try_from(*s) {
                Ok(name) => write!(f, "{name}"),
                Err(_) => write!(f, "signal {s}"),
            },
        }
    }
}

/// Ctrl-C ends this process from now on, whatever was to happen before.
pub fn end_on_interrupt() -> std::io::Result<()> {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: the default action runs no code of this process.
    unsafe { signal(Signal::SIGINT, SigHandler::SigDfl) }?;
    Ok(())
}

/// A process by descriptor: readable once the process has ended, never another process.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens the process that has `pid` now. Only its parent, before reaping it, can be sure which one that is.
    pub fn open(pid: u32) -> Result<Self, Errno> {
        let pid = Pid::from_raw(pid as i32).ok_or(Errno::SRCH)?;
        rustix::process::pidfd_open(pid, PidfdFlags::empty()).map(Self)
    }

    /// Sends a signal by number.
    pub fn signal(&self, signal: i32) -> Result<(), Errno> {
        let signal = Signal::from_named_raw(signal).ok_or(Errno::INVAL)?;
        rustix::process::pidfd_send_signal(&self.0, signal)
    }

    /// Waits until the process has ended. False when the deadline came first.
    pub fn wait(&self, deadline: Deadline) -> Result<bool, Errno> {
        crate::poll::wait_readable(&self.0, deadline)
    }

    /// Reaps our child, if it has ended; `ECHILD` if it is not ours or reaped already.
    pub fn reap(&self) -> Result<Option<Exit>, Errno> {
        let status = rustix::process::waitid(
            WaitId::PidFd(self.0.as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        )?;
        Ok(status.and_then(|s| {
            s.exit_status()
                .map(Exit::Code)
                .or_else(|| s.terminating_signal().map(Exit::Signal))
        }))
    }
}

/// Ends this process as if it had been killed from outside, at this very instruction.
pub fn kill_self() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
    loop {
        std::thread::park();
    }
}

/// Stops this process at this very instruction, until somebody lets it go on.
pub fn stop_self() {
    // To this very thread: sent to the process, another thread might take it, and this one go on for a while.
    // SAFETY: a call without pointers; the signal has no handler.
    unsafe { libc::raise(libc::SIGSTOP) };
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for PidFd {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

/// How often the calling thread had to give its processor to another one of this system, while it could have gone on. A processor
/// that a virtual machine's host took away is not counted.
pub fn times_preempted() -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the call writes one such struct, and zeroes are a valid one should it fail.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init()
    };
    usage.ru_nivcsw as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    #[allow(clippy::zombie_processes)] // it is reaped through its descriptor
    fn signalled_and_reaped() {
        let child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let fd = PidFd::open(child.id()).unwrap();
        assert!(!fd.wait(Deadline::NOW).unwrap());
        assert_eq!(fd.reap().unwrap(), None);
        fd.signal(9).unwrap();
        assert!(
            fd.wait(Deadline::after(Some(Duration::from_secs(60))))
                .unwrap()
        );
        assert_eq!(fd.reap().unwrap(), Some(Exit::Signal(9)));
        assert_eq!(Exit::Signal(9).to_string(), "SIGKILL");
        assert_eq!(Exit::Signal(9).as_exitcode(), -9);
    }
}

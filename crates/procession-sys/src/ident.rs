//! Which process is meant: a pid alone may be used again.

use rustix::process::Pid;

/// A process, told apart from a later one with the same pid by the moment at which it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// The process id.
    pub pid: u32,
    /// Clock ticks from boot to its start.
    pub start_time: u64,
}

impl ProcessId {
    /// This process.
    pub fn current() -> Self {
        let pid = std::process::id();
        Self {
            pid,
            start_time: start_time(pid).unwrap_or(0),
        }
    }

    /// The process that has `pid` now, if there is one.
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self {
            pid,
            start_time: start_time(pid)?,
        })
    }

    /// Is this very process still running? A zombie is not: it will never do anything again.
    pub fn is_alive(self) -> bool {
        match stat(self.pid) {
            Ok(Some((state, start))) => {
                (self.start_time == 0 || start == self.start_time)
                    && !matches!(state, 'Z' | 'X' | 'x')
            }
            Ok(None) => false,
            // No descriptor is free, say. Taken for dead, a process that lives would lose all that it has.
            Err(_) => true,
        }
    }
}

/// The id of the calling thread.
pub fn thread_id() -> u32 {
    rustix::thread::gettid()
        .as_raw_nonzero()
        .get()
        .unsigned_abs()
}

/// The pid of this process's parent.
pub fn parent_pid() -> u32 {
    rustix::process::getppid().map_or(0, |p: Pid| p.as_raw_nonzero().get().unsigned_abs())
}

fn start_time(pid: u32) -> Option<u64> {
    stat(pid).ok().flatten().map(|s| s.1)
}

/// Is a process asleep, so that its processor is free for others? Also if that cannot be told.
pub fn is_asleep(pid: u32) -> bool {
    !matches!(stat(pid), Ok(Some(('R', _))))
}

/// State and start time; `None` if there is no such process, an error if that cannot be told.
fn stat(pid: u32) -> Result<Option<(char, u64)>, procfs::ProcError> {
    let Ok(pid) = i32::try_from(pid) else {
        return Ok(None);
    };
    match procfs::process::Process::new(pid).and_then(|p| p.stat()) {
        Ok(stat) => Ok(Some((stat.state, stat.starttime))),
        Err(procfs::ProcError::NotFound(_)) => Ok(None),
        Err(procfs::ProcError::Io(error, _))
            if error.raw_os_error() == Some(crate::Errno::SRCH.raw_os_error()) =>
        {
            Ok(None)
        }
        Err(other) => Err(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_a_pipe_is_asleep_and_who_computes_is_not() {
        let run = |program: &str| {
            let mut command = std::process::Command::new("sh");
            command
                .arg("-c")
                .arg(program)
                .stdin(std::process::Stdio::piped());
            command.spawn().unwrap()
        };
        for (program, asleep) in [("read x", true), ("while :; do :; done", false)] {
            let mut child = run(program);
            let mut tries = 0;
            while is_asleep(child.id()) != asleep {
                tries += 1;
                assert!(tries < 10_000, "{program}");
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn we_are_alive_and_another_start_time_is_not_us() {
        let me = ProcessId::current();
        assert!(me.is_alive());
        assert!(
            !ProcessId {
                start_time: me.start_time + 1,
                ..me
            }
            .is_alive()
        );
    }

    #[test]
    fn a_zombie_is_dead() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        let pidfd = crate::process::PidFd::open(child.id()).unwrap();
        crate::poll::wait_readable(
            &pidfd,
            crate::clock::Deadline::after(Some(std::time::Duration::from_secs(60))),
        )
        .unwrap();
        assert!(!id.is_alive());
        child.wait().unwrap();
        assert!(!id.is_alive());
    }
}

//! Looking at another process from outside.

use std::fs::File;
use std::os::fd::OwnedFd;

use procfs::process::{FDTarget, Process};

/// What the system knows of a process at this moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// One letter: R running, S sleeping, D in the kernel, T stopped, Z zombie.
    pub state: Option<char>,
    /// Resident memory in bytes, shared pages included.
    pub rss: u64,
    /// Processor time used so far, in nanoseconds.
    pub cpu_ns: u64,
    /// Number of threads.
    pub threads: u64,
}

/// Reads `pid` now; `None` if there is no such process.
pub fn snapshot(pid: u32) -> Option<Snapshot> {
    let stat = Process::new(i32::try_from(pid).ok()?).ok()?.stat().ok()?;
    let ticks = procfs::ticks_per_second();
    Some(Snapshot {
        state: Some(stat.state),
        rss: stat.rss * procfs::page_size(),
        cpu_ns: (stat.utime + stat.stime) * 1_000_000_000 / ticks.max(1),
        threads: u64::try_from(stat.num_threads).unwrap_or(0),
    })
}

/// Opens, read-only, the anonymous memory object of process `pid` whose name starts with `prefix`.
pub fn open_memfd(pid: u32, prefix: &str) -> Result<Option<OwnedFd>, procfs::ProcError> {
    let process = Process::new(i32::try_from(pid).unwrap_or(-1))?;
    for fd in process.fd()? {
        let Ok(fd) = fd else { continue };
        if let FDTarget::Path(path) = &fd.target
            && path.to_str().is_some_and(|p| {
                p.strip_prefix("/memfd:")
                    .is_some_and(|p| p.starts_with(prefix))
            })
        {
            let file = File::open(format!("/proc/{pid}/fd/{}", fd.fd))?;
            return Ok(Some(file.into()));
        }
    }
    Ok(None)
}

/// All process ids of this machine that we may look at.
pub fn all_pids() -> Vec<u32> {
    procfs::process::all_processes()
        .map(|all| {
            all.filter_map(|p| p.ok().map(|p| p.pid().unsigned_abs()))
                .collect()
        })
        .unwrap_or_default()
}

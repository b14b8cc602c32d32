//! Looking at another process from outside.

use std::os::fd::{AsFd, OwnedFd};

use procfs::FromRead;
use procfs::process::{Process, Stat};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, fstat, open, openat, readlinkat, statat};

use crate::Errno;

/// What the system knows of a process at this moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// One letter: R running, S sleeping, D in the kernel, T stopped, t traced, Z zombie.
    pub state: Option<char>,
    /// Clock ticks from boot to its start, to tell it from another one with the same pid.
    pub start_time: u64,
    /// Resident memory in bytes, shared pages included.
    pub rss: u64,
    /// Processor time used so far, in nanoseconds.
    pub cpu_ns: u64,
    /// Number of threads.
    pub threads: u64,
}

/// Reads `pid` now; `None` if there is no such process.
pub fn snapshot(pid: u32) -> Option<Snapshot> {
    // Three system calls, as a look at 500 processes is 500 of these. The file has the program's name (64 bytes at most)
    // and some fifty numbers of up to 20 digits.
    let file = open(
        format!("/proc/{pid}/stat"),
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let mut bytes = [0; 2048];
    let len = rustix::io::read(file.ok()?, &mut bytes[..]).ok()?;
    let stat = Stat::from_read(&bytes[..len]).ok()?;
    let ticks = procfs::ticks_per_second();
    Some(Snapshot {
        state: Some(stat.state),
        start_time: stat.starttime,
        rss: stat.rss.saturating_mul(procfs::page_size()),
        cpu_ns: (stat.utime.saturating_add(stat.stime)).saturating_mul(1_000_000_000)
            / ticks.max(1),
        threads: u64::try_from(stat.num_threads).unwrap_or(0),
    })
}

/// The memory of `pid` in bytes, where a page that n processes share counts as an n-th. Walks all its pages, so it costs
/// some milliseconds for a large process. `None` if the process is gone or not ours to look at.
pub fn proportional_memory(pid: u32) -> Option<u64> {
    let rollup = Process::new(i32::try_from(pid).ok()?)
        .ok()?
        .smaps_rollup()
        .ok()?;
    rollup
        .memory_map_rollup
        .into_iter()
        .next()?
        .extension
        .map
        .get("Pss")
        .copied()
}

/// Why the descriptors of a process cannot be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such process (any more).
    NoProcess,
    /// It is another user's, or keeps itself closed.
    NotPermitted,
    /// The system has another reason.
    Other(Errno),
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT | Errno::SRCH => Self::NoProcess,
            Errno::ACCESS | Errno::PERM => Self::NotPermitted,
            other => Self::Other(other),
        }
    }
}

/// An anonymous memory object in the hands of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryFile {
    /// The process.
    pub pid: u32,
    /// The number of its descriptor.
    pub fd: u32,
    /// Device and inode: the same for all who have this object.
    pub identity: (u64, u64),
}

impl MemoryFile {
    /// Opens the object for reading.
    pub fn open(&self) -> Result<OwnedFd, Refusal> {
        // Should the number mean something else by now, then at least opening it must not wait for a peer.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = open(
            format!("/proc/{}/fd/{}", self.pid, self.fd),
            flags,
            Mode::empty(),
        )?;
        let stat = fstat(&file)?;
        if (stat.st_dev, stat.st_ino) == self.identity {
            Ok(file)
        } else {
            Err(Refusal::NoProcess)
        }
    }

    /// Has `pid` the same object at the same number? Cheap: one system call.
    pub fn is_also_in(&self, pid: u32) -> bool {
        rustix::fs::stat(format!("/proc/{pid}/fd/{}", self.fd))
            .is_ok_and(|s| (s.st_dev, s.st_ino) == self.identity)
    }
}

/// The anonymous memory objects called `name` that process `pid` has open, each once.
pub fn memory_files(pid: u32, name: &str) -> Result<Vec<MemoryFile>, Refusal> {
    let target = format!("/memfd:{name} (deleted)");
    let folder = open(
        format!("/proc/{pid}/fd"),
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECTORY,
        Mode::empty(),
    )?;
    let mut found: Vec<MemoryFile> = Vec::new();
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let Ok(fd) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        let is_meant = readlinkat(&folder, entry.file_name(), Vec::new())
            .is_ok_and(|link| link.as_bytes() == target.as_bytes());
        if !is_meant {
            continue;
        }
        // The descriptor may have been closed since; then it is not there.
        let Ok(stat) = statat(folder.as_fd(), entry.file_name(), AtFlags::empty()) else {
            continue;
        };
        let identity = (stat.st_dev, stat.st_ino);
        if found.iter().all(|f| f.identity != identity) {
            found.push(MemoryFile { pid, fd, identity });
        }
    }
    Ok(found)
}

/// The name of the program that `pid` runs, cut to 15 bytes as the system keeps it.
pub fn program_name(pid: u32) -> Option<String> {
    let folder = open(
        format!("/proc/{pid}"),
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .ok()?;
    let file = openat(
        folder,
        "comm",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .ok()?;
    let mut bytes = [0; 64];
    let len = rustix::io::read(file, &mut bytes[..]).ok()?;
    Some(String::from_utf8_lossy(&bytes[..len]).trim_end().to_owned())
}

/// The pids of all processes of this machine, in order.
pub fn all_pids() -> Vec<u32> {
    let mut pids: Vec<u32> = procfs::process::all_processes()
        .map(|all| {
            all.filter_map(|p| p.ok().map(|p| p.pid().unsigned_abs()))
                .collect()
        })
        .unwrap_or_default();
    pids.sort_unstable();
    pids
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::SharedMemory;

    #[test]
    fn a_memory_object_is_found_by_its_exact_name() {
        let ours = SharedMemory::create("proc-test", 4096).unwrap();
        let _other = SharedMemory::create("proc-test-2", 4096).unwrap();
        let pid = std::process::id();
        let found = memory_files(pid, "proc-test").unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].is_also_in(pid));
        let stat = fstat(ours.fd()).unwrap();
        assert_eq!(found[0].identity, (stat.st_dev, stat.st_ino));
        assert!(found[0].open().is_ok());
        assert_eq!(memory_files(pid, "proc-tes").unwrap(), []);
    }

    #[test]
    fn a_process_that_is_not_there_says_so() {
        assert_eq!(memory_files(u32::MAX, "x"), Err(Refusal::NoProcess));
        assert!(snapshot(u32::MAX).is_none());
        assert!(proportional_memory(u32::MAX).is_none());
    }

    #[test]
    fn we_see_ourselves() {
        let me = std::process::id();
        let seen = snapshot(me).unwrap();
        assert_eq!(
            seen.start_time,
            crate::ident::ProcessId::current().start_time
        );
        assert!(seen.rss > 0 && seen.threads > 0);
        assert!(proportional_memory(me).unwrap() > 0);
        assert!(all_pids().contains(&me));
        assert!(program_name(me).is_some());
    }
}

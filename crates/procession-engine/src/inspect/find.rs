//! Which sessions run on this machine.
//!
//! A session has no name in any file system. It is the memory object that its members have open, so the members are what is
//! looked for: a process belongs to a session if that object is among its descriptors. The system shows the descriptors of a
//! process only to its own user (and to root), which is what keeps a session private.

use procession_shm::kinds::KINDS;
use procession_shm::session::MEMORY_NAME;
use procession_shm::{Session, ShmError};
use procession_sys::proc::{self, MemoryFile, Refusal};

/// Why there is nothing to see.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// The pid is nobody's.
    #[error("there is no process {0}")]
    NoProcess(u32),
    /// It is another user's process, or one that keeps itself closed.
    #[error("not permitted to look into process {0}: only its own user (and root) can")]
    NotPermitted(u32),
    /// It has no session.
    #[error(
        "process {pid} ({program}) does not belong to a procession session: it does not use procession, or has not yet shared or started anything"
    )]
    NoSession {
        /// The process.
        pid: u32,
        /// What it runs.
        program: String,
    },
    /// Its descriptors or its session cannot be read.
    #[error("cannot look into process {pid}: {reason}")]
    Unreadable {
        /// The process.
        pid: u32,
        /// The system's reason.
        reason: String,
    },
    /// Its session is of another version, or no session at all.
    #[error("process {pid}: {source}")]
    Session {
        /// The process.
        pid: u32,
        /// What is wrong with it.
        source: ShmError,
    },
}

impl InspectError {
    fn refused(pid: u32, refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoProcess => Self::NoProcess(pid),
            Refusal::NotPermitted => Self::NotPermitted(pid),
            Refusal::Other(errno) => Self::Unreadable {
                pid,
                reason: errno.to_string(),
            },
        }
    }
}

/// A session that was opened for reading. It stays open for as long as this process lives: do not open one again and again.
#[derive(Debug, Clone, Copy)]
pub struct Observed {
    session: &'static Session,
    file: MemoryFile,
}

impl Observed {
    /// The session.
    pub fn session(&self) -> &'static Session {
        self.session
    }

    /// The member in whose hands it was found.
    pub fn found_in(&self) -> u32 {
        self.file.pid
    }

    fn open(file: MemoryFile) -> Result<Self, InspectError> {
        let pid = file.pid;
        let fd = file.open().map_err(|r| InspectError::refused(pid, r))?;
        let session =
            Session::observe(KINDS, fd).map_err(|source| InspectError::Session { pid, source })?;
        Ok(Self { session, file })
    }
}

/// A session that is there and cannot be read.
pub type Failure = InspectError;

/// What a look over the machine has found.
#[derive(Debug, Default)]
pub struct Search {
    /// Sessions that can be read.
    pub sessions: Vec<Observed>,
    /// Those that cannot, one error for each.
    pub failures: Vec<Failure>,
}

/// Finds all sessions of this user (for root: of all users).
pub fn find_all() -> Search {
    let mut search = Search::default();
    let mut seen: Vec<MemoryFile> = Vec::new();
    for pid in proc::all_pids() {
        // The children of one program have its memory at the same number, as a rule: one question instead of many.
        if seen.iter().any(|file| file.is_also_in(pid)) {
            continue;
        }
        // Processes of others, and those that have just ended, have nothing for us.
        for file in proc::memory_files(pid, MEMORY_NAME).unwrap_or_default() {
            if seen.iter().any(|known| known.identity == file.identity) {
                continue;
            }
            match Observed::open(file) {
                Ok(observed) => search.sessions.push(observed),
                // This member ended under our eyes; another one may still be there.
                Err(InspectError::NoProcess(_)) => continue,
                Err(error) => search.failures.push(error),
            }
            seen.push(file);
        }
    }
    search
}

/// Finds the session that process `pid` belongs to.
pub fn find_by_pid(pid: u32) -> Result<Observed, InspectError> {
    let files = proc::memory_files(pid, MEMORY_NAME).map_err(|r| InspectError::refused(pid, r))?;
    let mut opened = Vec::new();
    let mut failure = None;
    for file in files {
        match Observed::open(file) {
            Ok(observed) => opened.push(observed),
            Err(error) => failure = Some(error),
        }
    }
    let is_in = |observed: &&Observed| {
        observed
            .session
            .slots()
            .any(|(_, s)| s.process_id().pid == pid)
    };
    // A process may have two of them open. Its own is the one that names it; a process that looks from inside a container
    // has another pid there, and is content with the first.
    let own = opened.iter().find(is_in).or(opened.first()).copied();
    own.ok_or_else(|| {
        failure.unwrap_or_else(|| InspectError::NoSession {
            pid,
            program: proc::program_name(pid).unwrap_or_else(|| "?".to_owned()),
        })
    })
}

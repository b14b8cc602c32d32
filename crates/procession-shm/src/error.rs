//! What can go wrong in the session.

/// A word of the session holds what it cannot hold: an offset out of bounds, a block that is none. Somebody has written
/// over the session; nothing that depends on that word is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the shared session is corrupt ({0})")]
pub struct Corrupt(pub &'static str);

/// Why an operation on the session failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShmError {
    /// See [`Corrupt`].
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// The session's byte budget (or the memory behind it) is used up.
    #[error(
        "out of shared memory: {wanted} bytes wanted, {used} of {budget} in use (raise PROCESSION_MEMORY, or take messages out faster)"
    )]
    OutOfMemory {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes of the session that are taken.
        used: u64,
        /// Bytes that the session may take.
        budget: u64,
    },
    /// The address space that the session got when it was made is used up, before its budget is.
    #[error(
        "out of shared memory: {wanted} bytes wanted, {used} of {reserved} in use (the session is that small because the address space of the process that made it was limited: raise RLIMIT_AS, `ulimit -v`)"
    )]
    OutOfAddressSpace {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes of the session that are taken.
        used: u64,
        /// Bytes that the session has.
        reserved: u64,
    },
    /// Another process is in the middle of a change, and stopped there (or very slow). To be tried again.
    #[error("another process was stopped in the middle of changing the session")]
    Busy,
    /// All slots of a table are taken.
    #[error("too many {0} in one session (the limit is {1})")]
    TableFull(&'static str, u32),
    /// The object that a handle means has been freed, or the handle belongs to another session.
    #[error(
        "the shared object does not exist any more (its last holder closed it, or its session has ended)"
    )]
    Gone,
    /// A handle of another kind of object.
    #[error("the shared object is a {found}, not a {wanted}")]
    WrongKind {
        /// What the caller asked for.
        wanted: &'static str,
        /// What stands there.
        found: &'static str,
    },
    /// The memory was laid out by another version of procession.
    #[error(
        "the session was made by procession with layout {found}, this process has layout {own}: use one version in all processes"
    )]
    Version {
        /// The layout found.
        found: u32,
        /// The layout that this build knows.
        own: u32,
    },
    /// The system refused something.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        source: procession_sys::Errno,
    },
}

impl ShmError {
    /// For `map_err`: the system's refusal of `what`.
    pub fn system(what: &'static str) -> impl Fn(procession_sys::Errno) -> Self {
        move |source| Self::System { what, source }
    }
}

/// Why a wait ended without what was waited for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// The deadline passed.
    #[error("timed out")]
    TimedOut,
    /// The caller's own check asked to stop, for a signal or a cancellation.
    #[error("interrupted")]
    Interrupted,
    /// It cannot come any more: the other side is gone.
    #[error("the other side has closed")]
    Closed,
    /// See [`ShmError`].
    #[error(transparent)]
    Shm(#[from] ShmError),
}

impl From<Corrupt> for WaitError {
    fn from(c: Corrupt) -> Self {
        Self::Shm(c.into())
    }
}

//! What was seen: plain structures, made once and never changed.
//!
//! Times are ages in nanoseconds at the moment of the snapshot, sizes are bytes. Texts come from the session as they stand
//! there: whoever shows them on a terminal removes control characters first.

/// One session at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The number that tells this session from any other.
    pub id: u64,
    /// Since its creation.
    pub age_ns: u64,
    /// Its processes, in the order of their slots.
    pub processes: Vec<ProcessReport>,
    /// Those of its objects that were asked for, in the order of their numbers.
    pub objects: Vec<ObjectReport>,
    /// How many objects there are, as the session counts them.
    pub object_count: u64,
    /// True if the list of objects was cut at the limit that was asked for.
    pub objects_cut: bool,
    /// Its memory.
    pub memory: MemoryUse,
    /// Members that died without saying goodbye, so far.
    pub deaths: u64,
}

/// What a session takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Bytes in blocks that are in use.
    pub used: u64,
    /// Bytes that may be.
    pub budget: u64,
    /// Bytes of real memory behind all of it, tables included.
    pub resident: u64,
}

/// A process of the session, named as far as it is still known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    /// Its word in the session, which is never given to another process soon.
    pub owner: u32,
    /// Its pid; `None` once its place in the session has gone to another one.
    pub pid: Option<u32>,
    /// Its name in the session.
    pub name: String,
}

/// What a process of the session does, as the session and the system see it together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessState {
    /// Its parent has begun to start it.
    Starting,
    /// On a processor, or ready to be.
    Running,
    /// Waiting for something.
    Sleeping,
    /// Inside the kernel, not to be interrupted.
    Uninterruptible,
    /// Stopped by a signal.
    Stopped,
    /// Stopped by a debugger.
    Traced,
    /// Ended, and its parent has not looked yet.
    Zombie,
    /// Ended without a goodbye; what it held is not given back yet.
    Dead,
    /// Ended; what it held is being given back.
    Ending,
    /// Ended and cleared away; only its exit code may still be asked for.
    Ended,
}

impl ProcessState {
    /// One word for people and for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Sleeping => "sleeping",
            Self::Uninterruptible => "uninterruptible",
            Self::Stopped => "stopped",
            Self::Traced => "traced",
            Self::Zombie => "zombie",
            Self::Dead => "dead",
            Self::Ending => "ending",
            Self::Ended => "ended",
        }
    }

    /// Can it still do something?
    pub fn is_alive(self) -> bool {
        !matches!(self, Self::Zombie | Self::Dead | Self::Ending | Self::Ended)
    }
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessReport {
    /// Its word in the session.
    pub owner: u32,
    /// Its pid; zero while it is not known.
    pub pid: u32,
    /// Who started it.
    pub parent: Option<Member>,
    /// What it is there for.
    pub role: &'static str,
    /// The name it was given.
    pub name: String,
    /// What it does.
    pub state: ProcessState,
    /// How it ended, where that is known.
    pub exit_code: Option<i32>,
    /// What its threads wait for in the session. A thread that computes, or waits for something else, is not listed.
    pub waits: Vec<WaitReport>,
    /// The task in hand.
    pub task: Option<TaskReport>,
    /// Tasks finished.
    pub tasks_done: u64,
    /// Resident memory, shared pages counted in full.
    pub rss: Option<u64>,
    /// Memory with shared pages divided among those who share them; only when asked for.
    pub pss: Option<u64>,
    /// Processor time used.
    pub cpu_ns: Option<u64>,
    /// Threads, whether they wait or not.
    pub threads: Option<u64>,
    /// Since it was asked to start.
    pub age_ns: u64,
    /// It changed while it was read, again and again: what is told of it may not belong together.
    pub torn: bool,
}

/// An object by its name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectName {
    /// Its number in the session.
    pub index: u32,
    /// What it is; `None` if it does not exist any more.
    pub kind: Option<String>,
    /// The name it was given.
    pub name: String,
}

/// What one thread waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitReport {
    /// The thread.
    pub thread: u32,
    /// A verb: what it wants of the object.
    pub kind: &'static str,
    /// The object.
    pub object: Option<ObjectName>,
    /// For how long.
    pub age_ns: u64,
    /// Who has what it waits for, if that is a lock or a semaphore.
    pub owners: Vec<Member>,
}

/// A task that is being worked on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskReport {
    /// The pool's object.
    pub board: ObjectName,
    /// The job's number in the pool.
    pub job: u32,
    /// The item's number in the job.
    pub item: u64,
    /// For how long.
    pub age_ns: u64,
}

/// One object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectReport {
    /// Its number in the session.
    pub index: u32,
    /// Which use of the number.
    pub generation: u32,
    /// What it is.
    pub kind: String,
    /// The name it was given.
    pub name: String,
    /// Who made it.
    pub creator: Option<Member>,
    /// Since its creation.
    pub age_ns: u64,
    /// How many things keep it alive: processes, messages on their way, other objects.
    pub references: u64,
    /// How many of these are processes; only when asked for.
    pub holder_count: Option<u32>,
    /// The first few of them.
    pub holders: Vec<Member>,
    /// Threads that wait for it now.
    pub waiters: u32,
    /// Who has it: the owner of a lock, those with units of a semaphore that somebody waits for.
    pub owners: Vec<Member>,
    /// What its kind tells about it: lengths, values, counts.
    pub counters: Vec<(&'static str, u64)>,
}

impl ObjectReport {
    /// Is there something to see: somebody waits for it or has it, or something waits in it?
    pub fn is_busy(&self) -> bool {
        const TELLING: [&str; 4] = ["length", "queued", "running", "broken"];
        let tells = |(label, value): &(&str, u64)| *value > 0 && TELLING.contains(label);
        self.waiters > 0 || !self.owners.is_empty() || self.counters.iter().any(tells)
    }
}

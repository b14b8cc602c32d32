//! One child process that runs one task.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use procession_engine::launch;
use procession_engine::process::Child;
use procession_shm::processes::Role;
use procession_sys::clock::Deadline;

pub use procession_sys::process::Exit;

use crate::entry::{self, Errand, Kind};
use crate::error::{ExitError, SpawnError};
use crate::registry::{self, Task};
use crate::transit;

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// A child process, running a task.
///
/// Dropping the handle does not end the process, just as with [`std::process::Child`] and [`std::thread::JoinHandle`]; but
/// it is not forgotten. Whichever call next starts or joins a process reaps those that have ended meanwhile, and
/// `#[procession::main]` waits for the others before the program ends. A process that should not outlive its handle is
/// started with [`Builder::kill_on_drop`]. When the parent dies, however that happens, its children are killed within half
/// a second.
///
/// ```
/// use procession::{Event, Exit, Process};
///
/// #[procession::task]
/// fn wait_for(start: Event) {
///     start.wait().expect("the session lives");
/// }
///
/// #[procession::main]
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let start = Event::new()?;
///     let process = Process::spawn(wait_for, start.clone())?;
///     assert!(process.is_alive());
///     start.set();
///     assert_eq!(process.join()?, Exit::Code(0));
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Process {
    /// Gone only while it is dropped.
    child: Option<Child>,
    kill_on_drop: bool,
    /// Who started it: a fork of that process has a copy of the handle and no child.
    parent: u32,
}

impl Process {
    /// Starts a process that runs `task` with `args` and then ends. Its exit code is 0 when the task returns, 1 when it
    /// returns an error, and 101 when it panics.
    pub fn spawn<Shape, F: Task<Shape>>(task: F, args: F::Args) -> Result<Self, SpawnError> {
        Self::builder().spawn(task, args)
    }

    /// To start a process with other than the usual settings.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Waits until the process has ended, and says how.
    pub fn join(&self) -> Result<Exit, ExitError> {
        loop {
            if let Some(exit) = self.child().wait(Deadline::NEVER)? {
                return Ok(exit);
            }
        }
    }

    /// Waits until the process has ended, for `timeout` at most; `None` if it runs on.
    pub fn join_timeout(&self, timeout: Duration) -> Result<Option<Exit>, ExitError> {
        self.child().wait(Deadline::after(Some(timeout)))
    }

    /// How the process ended, if it has.
    pub fn exit(&self) -> Result<Option<Exit>, ExitError> {
        self.child().try_wait()
    }

    /// Is it running?
    pub fn is_alive(&self) -> bool {
        matches!(self.exit(), Ok(None))
    }

    /// Ends the process at once (SIGKILL). What it held is recovered; what it had put into queues stays there.
    pub fn kill(&self) -> Result<(), ExitError> {
        self.child().signal(SIGKILL)
    }

    /// Asks the process to end (SIGTERM); one that does not handle the signal ends at once.
    pub fn terminate(&self) -> Result<(), ExitError> {
        self.child().signal(SIGTERM)
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child().pid()
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        self.child().name()
    }

    fn child(&self) -> &Child {
        self.child.as_ref().expect("there until it is dropped")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(child) = self.child.take() else {
            return;
        };
        if self.parent != std::process::id() {
            return;
        }
        if self.kill_on_drop && child.signal(SIGKILL).is_ok() {
            // There is nobody to tell of an error: a status that somebody else took is as good as one.
            let _ = child.wait(Deadline::NEVER);
        } else {
            child.detach();
        }
    }
}

/// How a process is started.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Builder {
    name: Option<String>,
    kill_on_drop: bool,
    memory_limit: Option<u64>,
}

impl Builder {
    /// The name that `procession ps` shows; by default that of the task, with a number.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Kills the process when the handle is dropped.
    pub fn kill_on_drop(mut self, yes: bool) -> Self {
        self.kill_on_drop = yes;
        self
    }

    /// Lets the process take `bytes` of memory more than it has when it starts. One that wants more dies (of SIGABRT, as Rust
    /// programs that are out of memory do), and nobody else.
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory_limit = Some(bytes);
        self
    }

    /// Starts the process (see [`Process::spawn`]).
    pub fn spawn<Shape, F: Task<Shape>>(
        self,
        task: F,
        args: F::Args,
    ) -> Result<Process, SpawnError> {
        let known = registry::lookup(task)?;
        let program = entry::program()?;
        let errand = Errand {
            memory_limit: self.memory_limit,
            kind: Kind::Run {
                task: known.name.to_owned(),
            },
        };
        let mut message = Vec::new();
        let parcel = transit::encode(&mut message, |to| {
            entry::encode(&errand, to)?;
            known.encode(&args, to)
        })?;
        // Shared objects in them are the child's from here on.
        drop(args);
        let name = self.name.unwrap_or_else(|| numbered(known.short_name()));
        let child = launch::start(&program, &name, Role::Process, &message, parcel)?;
        Ok(Process {
            child: Some(child),
            kill_on_drop: self.kill_on_drop,
            parent: std::process::id(),
        })
    }
}

/// A name with the number of the process that gets it, from 1.
pub(crate) fn numbered(name: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

//! A number of worker processes that share the work on many items.

mod crew;
mod error;
mod job;
mod lane;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use procession_engine::home;
use procession_engine::pool::{self as engine, Order};

pub use error::PoolError;
pub use lane::Ticket;
pub(crate) use worker::{Assignment, WorkError, work};

use crate::entry;
use crate::registry::{self, Task};
use crew::{Crew, Initializer, Recruiting};
use job::{Job, Settings, Stream};

/// Worker processes, and the work for them.
///
/// A worker that dies takes the one item with it that it was working on ([`PoolError::WorkerDied`]), and is replaced; so
/// does one that is killed because its item took too long or was cancelled. A task that panics is an error of its item.
///
/// No thread looks after the workers: whichever call waits for results does that meanwhile. A pool that is dropped kills
/// its workers; [`Pool::join`] lets them finish first.
///
/// ```
/// use procession::Pool;
///
/// #[procession::task]
/// fn square(x: u64) -> u64 {
///     x * x
/// }
///
/// #[procession::main]
/// fn main() -> Result<(), procession::PoolError> {
///     let pool = Pool::new(4)?;
///     assert_eq!(pool.map(square, 0..5)?, [0, 1, 4, 9, 16]);
///     let ticket = pool.submit(square, 12)?;
///     assert_eq!(ticket.get()?, 144);
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Pool {
    crew: Arc<Crew>,
    settings: Settings,
    ahead: u64,
    /// Who made it: a fork of that process has a copy of the handle and no workers.
    parent: u32,
}

impl Pool {
    /// Starts a pool of so many workers.
    pub fn new(workers: usize) -> Result<Self, PoolError> {
        Self::builder().workers(workers).start()
    }

    /// To start a pool with other than the usual settings.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// With a time limit for each item of the calls that follow: a worker that takes longer is killed, and the item fails
    /// with [`PoolError::TimedOut`].
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use procession::{Pool, PoolError};
    /// # #[procession::task] fn square(x: u64) -> u64 { x * x }
    /// # fn main() -> Result<(), PoolError> {
    /// # let pool = Pool::new(4)?;
    /// let squares = pool.timeout(Duration::from_secs(1)).map(square, 0..5)?;
    /// # Ok(()) }
    /// ```
    pub fn timeout(&self, limit: Duration) -> Calls<'_> {
        self.calls().timeout(limit)
    }

    /// With so many further attempts, in the calls that follow, for an item whose worker died.
    pub fn retries(&self, retries: u32) -> Calls<'_> {
        self.calls().retries(retries)
    }

    fn calls(&self) -> Calls<'_> {
        Calls {
            crew: &self.crew,
            settings: self.settings,
            ahead: self.ahead,
        }
    }

    /// Runs the task on all items. The results come in the items' order; the first item that fails is the error, and the
    /// items that nobody has begun then are not run.
    pub fn map<Shape, F: Task<Shape>>(
        &self,
        task: F,
        items: impl IntoIterator<Item = F::Args>,
    ) -> Result<Vec<F::Output>, PoolError> {
        self.calls().map(task, items)
    }

    /// Runs the task on items as they are asked for: see [`Calls::imap`].
    pub fn imap<Shape, F: Task<Shape>, I: IntoIterator<Item = F::Args>>(
        &self,
        task: F,
        items: I,
    ) -> Result<impl Iterator<Item = Result<F::Output, PoolError>>, PoolError> {
        self.calls().imap(task, items)
    }

    /// As [`Pool::imap`], in the order in which the items finish: see [`Calls::imap_unordered`].
    pub fn imap_unordered<Shape, F: Task<Shape>, I: IntoIterator<Item = F::Args>>(
        &self,
        task: F,
        items: I,
    ) -> Result<impl Iterator<Item = (u64, Result<F::Output, PoolError>)>, PoolError> {
        self.calls().imap_unordered(task, items)
    }

    /// Has the task run once, and returns at once; the ticket is for the result.
    pub fn submit<Shape, F: Task<Shape>>(
        &self,
        task: F,
        args: F::Args,
    ) -> Result<Ticket<F::Output>, PoolError> {
        self.calls().submit(task, args)
    }

    /// The process ids of the workers.
    pub fn workers(&self) -> Vec<u32> {
        self.crew.pids()
    }

    /// Waits until all that was submitted is done and the workers have left. Results can be had from their tickets
    /// afterwards.
    pub fn join(self) -> Result<(), PoolError> {
        self.crew.join()
    }

    /// Kills the workers. What is not done by now fails with [`PoolError::Terminated`]. Dropping the pool does the same.
    pub fn terminate(self) -> Result<(), PoolError> {
        self.crew.terminate()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.parent == std::process::id() {
            // An error means that the session has gone, and the orphans' own guard ends the workers.
            let _ = self.crew.terminate();
        }
    }
}

/// Calls on a pool with settings of their own.
#[derive(Debug, Clone, Copy)]
pub struct Calls<'a> {
    crew: &'a Arc<Crew>,
    settings: Settings,
    ahead: u64,
}

impl<'a> Calls<'a> {
    /// See [`Pool::timeout`].
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.settings.timeout = Some(limit);
        self
    }

    /// See [`Pool::retries`].
    #[must_use]
    pub fn retries(mut self, retries: u32) -> Self {
        self.settings.retries = retries;
        self
    }

    /// See [`Pool::map`].
    pub fn map<Shape, F: Task<Shape>>(
        self,
        task: F,
        items: impl IntoIterator<Item = F::Args>,
    ) -> Result<Vec<F::Output>, PoolError> {
        let known = registry::lookup(task)?;
        let items = items.into_iter();
        let expected = items.size_hint().0.min(MOST_EXPECTED);
        let mut job = Job::new(self.crew, known, self.settings, Order::InOrder, None)?;
        let mut results = Vec::with_capacity(expected);
        for item in items {
            while !job.offer(&item)? {
                if let Some((_, result)) = job.next()? {
                    results.push(result?);
                }
            }
        }
        job.seal()?;
        while let Some((_, result)) = job.next()? {
            results.push(result?);
        }
        Ok(results)
    }

    /// Runs the task on items as they are asked for. The results come one by one, in the items' order, each with its own
    /// error. Items are taken from the iterator only some way ahead of the results (see [`Builder::ahead`]), so that it
    /// may be endless.
    ///
    /// ```
    /// # use procession::{Pool, PoolError};
    /// #[procession::task]
    /// fn half(x: u64) -> u64 {
    ///     x / 2
    /// }
    ///
    /// #[procession::main]
    /// fn main() -> Result<(), PoolError> {
    ///     let pool = Pool::new(2)?;
    ///     let mut halves = pool.imap(half, 0..)?;
    ///     assert_eq!(halves.nth(100).expect("endless")?, 50);
    ///     Ok(())
    /// }
    /// ```
    pub fn imap<Shape, F: Task<Shape>, I: IntoIterator<Item = F::Args>>(
        self,
        task: F,
        items: I,
    ) -> Result<impl Iterator<Item = Result<F::Output, PoolError>> + use<'a, Shape, F, I>, PoolError>
    {
        let stream = self.stream(task, items, Order::InOrder)?;
        Ok(stream.map(|(_, result)| result))
    }

    /// As [`Calls::imap`], but the results come as they finish, each with the number of its item.
    pub fn imap_unordered<Shape, F: Task<Shape>, I: IntoIterator<Item = F::Args>>(
        self,
        task: F,
        items: I,
    ) -> Result<
        impl Iterator<Item = (u64, Result<F::Output, PoolError>)> + use<'a, Shape, F, I>,
        PoolError,
    > {
        self.stream(task, items, Order::AsFinished)
    }

    fn stream<Shape, F: Task<Shape>, I: IntoIterator<Item = F::Args>>(
        self,
        task: F,
        items: I,
        order: Order,
    ) -> Result<Stream<'a, I::IntoIter, F::Output>, PoolError> {
        let known = registry::lookup(task)?;
        let job = Job::new(self.crew, known, self.settings, order, None)?;
        Ok(Stream::new(job, items.into_iter(), self.ahead))
    }

    /// See [`Pool::submit`].
    pub fn submit<Shape, F: Task<Shape>>(
        self,
        task: F,
        args: F::Args,
    ) -> Result<Ticket<F::Output>, PoolError> {
        let known = registry::lookup(task)?;
        let ticket = Ticket::submit(self.crew, known, self.settings, &args)?;
        // Shared objects in them are the task's from here on.
        drop(args);
        Ok(ticket)
    }
}

/// Results that room is made for beforehand: an iterator may promise more than there is memory for.
const MOST_EXPECTED: usize = 1 << 16;

/// How a pool is started.
#[derive(Debug)]
#[must_use]
pub struct Builder {
    name: String,
    workers: usize,
    max_tasks: Option<u64>,
    memory_limit: Option<u64>,
    settings: Settings,
    ahead: u64,
    initializer: Option<Initializer>,
    /// The initializer is no task.
    wrong: Option<crate::SpawnError>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            name: "pool".to_owned(),
            workers: procession_sys::limits::cpus(),
            max_tasks: None,
            memory_limit: None,
            settings: Settings::default(),
            ahead: 1024,
            initializer: None,
            wrong: None,
        }
    }
}

impl Builder {
    /// The name that `procession ps` shows.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How many workers; by default one for each processor that this process may use.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// A time limit for each item (see [`Pool::timeout`]); none by default.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.settings.timeout = Some(limit);
        self
    }

    /// How often an item is run again whose worker died; by default not at all.
    pub fn retries(mut self, retries: u32) -> Self {
        self.settings.retries = retries;
        self
    }

    /// Replaces a worker when it has run so many tasks.
    pub fn max_tasks(mut self, tasks: u64) -> Self {
        self.max_tasks = Some(tasks);
        self
    }

    /// Lets each worker take `bytes` of memory more than it has when it starts. One that wants more dies, and nobody else.
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory_limit = Some(bytes);
        self
    }

    /// How many items [`Pool::imap`] takes from its iterator before their results are asked for; by default 1024.
    pub fn ahead(mut self, items: u64) -> Self {
        self.ahead = items.max(1);
        self
    }

    /// A task that every worker runs before it begins. One that fails (by an error, a panic or an exit) ends its worker;
    /// when that happens time and again, the pool is [broken](PoolError::Broken).
    pub fn initializer<Shape, F: Task<Shape>>(mut self, task: F, args: F::Args) -> Self
    where
        F::Args: Send + Sync,
    {
        match registry::lookup(task) {
            Ok(known) => {
                self.initializer = Some(Initializer {
                    task: known.name,
                    args: Box::new(move |to| known.encode(&args, to)),
                });
            }
            Err(wrong) => self.wrong = Some(wrong),
        }
        self
    }

    /// Starts the pool.
    pub fn start(self) -> Result<Pool, PoolError> {
        if let Some(wrong) = self.wrong {
            return Err(wrong.into());
        }
        let program = entry::program()?;
        let config = engine::Config {
            max_tasks: self.max_tasks,
            workers: self.workers,
            ..engine::Config::new(&self.name, self.workers)
        };
        let engine = engine::Pool::create(home::session()?, &config)?;
        let recruiting = Recruiting {
            program,
            name: self.name,
            memory_limit: self.memory_limit,
            initializer: self.initializer,
        };
        let pool = Pool {
            crew: Arc::new(Crew::new(engine, recruiting)),
            settings: self.settings,
            ahead: self.ahead,
            parent: std::process::id(),
        };
        pool.crew.tend()?;
        Ok(pool)
    }
}

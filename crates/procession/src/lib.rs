//! Multiprocessing for Rust: processes, pools, queues, pipes and locks on one crash-proof piece of shared memory.
//!
//! A program and the processes that it starts form a *session*. What they share lives in the session's memory, which is
//! anonymous and gone with the last of them; whoever dies, at whichever instruction, blocks nobody else.
//!
//! # Running a function in another process
//!
//! A function that shall run elsewhere is marked [`#[procession::task]`](macro@task), and `main` is marked
//! [`#[procession::main]`](macro@main): a child is this same program, started again, which finds there that it has a task
//! to run instead.
//!
//! ```
//! use procession::Process;
//!
//! #[procession::task]
//! fn worker(num: u32) {
//!     println!("Worker {num}");
//! }
//!
//! #[procession::main]
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let mut processes = Vec::new();
//!     for i in 0..5 {
//!         processes.push(Process::spawn(worker, i)?);
//!     }
//!     for process in processes {
//!         assert!(process.join()?.is_success());
//!     }
//!     Ok(())
//! }
//! ```
//!
//! The function stays a plain function, which can be called as ever. Its argument, or the tuple of its arguments, and its
//! result are values that [`serde`](https://serde.rs) can serialize.
//!
//! # Sharing work among processes
//!
//! A [`Pool`] keeps a number of workers and gives them items to work on.
//!
//! ```
//! use std::time::Duration;
//! use procession::{Pool, PoolError};
//!
//! #[procession::task]
//! fn square(x: i64) -> i64 {
//!     assert_ne!(x, 13, "unlucky");
//!     x * x
//! }
//!
//! #[procession::main]
//! fn main() -> Result<(), PoolError> {
//!     let pool = Pool::new(4)?;
//!
//!     // All at once:
//!     assert_eq!(pool.map(square, 0..10)?, [0, 1, 4, 9, 16, 25, 36, 49, 64, 81]);
//!
//!     // One by one, each with its own error. The iterator may be endless.
//!     for (x, result) in (10..).zip(pool.imap(square, 10..)?).take(5) {
//!         match result {
//!             Ok(square) => assert_eq!(square, x * x),
//!             Err(PoolError::Panicked { item, message }) => {
//!                 assert_eq!((x, item), (13, 3));
//!                 assert!(message.contains("unlucky"));
//!             }
//!             Err(other) => return Err(other),
//!         }
//!     }
//!
//!     // Single tasks, with a ticket for the result and here with a time limit:
//!     let ticket = pool.timeout(Duration::from_secs(10)).submit(square, 5)?;
//!     assert_eq!(ticket.get()?, 25);
//!     Ok(())
//! }
//! ```
//!
//! A worker that dies, or is killed since its item took too long, takes that one item with it and is replaced:
//! [`PoolError::WorkerDied`] says how it ended. [`Pool::builder`] has the knobs: retries, time and memory limits, a task to
//! run first in every worker, a limit to the number of tasks that a worker runs.
//!
//! # Talking to each other
//!
//! A [`Queue`] has any number of writers and readers; a [`Pipe`] has two ends. Both are typed, and are themselves values that
//! can be sent: as an argument, or inside of a message to a process that already runs.
//!
//! ```
//! use procession::{Process, Queue};
//!
//! #[procession::task]
//! fn producer(queue: Queue<Option<u64>>) {
//!     for item in 0..5 {
//!         queue.put(Some(item)).expect("the queue is open");
//!     }
//!     queue.put(None).expect("the queue is open");
//! }
//!
//! #[procession::task]
//! fn consumer(queue: Queue<Option<u64>>) {
//!     while let Ok(Some(item)) = queue.get() {
//!         println!("Consumed {item}");
//!     }
//! }
//!
//! #[procession::main]
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let queue = Queue::new()?;
//!     let processes = [
//!         Process::spawn(producer, queue.clone())?,
//!         Process::spawn(consumer, queue)?,
//!     ];
//!     for process in &processes {
//!         process.join()?;
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # Agreeing on when
//!
//! [`Lock`], [`Semaphore`], [`Event`], [`Condition`] and [`Barrier`] travel in the same way. What a dead process held is
//! given back, and the next holder is told, since the work that the lock protected may be half done.
//!
//! ```
//! use procession::{Lock, Process};
//!
//! #[procession::task]
//! fn crash(lock: Lock) {
//!     let _guard = lock.lock().expect("the session lives");
//!     std::process::abort();
//! }
//!
//! #[procession::main]
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let lock = Lock::new()?;
//!     Process::spawn(crash, lock.clone())?.join()?;
//!     assert!(lock.lock()?.recovered());
//!     Ok(())
//! }
//! ```
//!
//! # Tests
//!
//! A test that starts processes is marked [`#[procession::test]`](macro@test) in the place of `#[test]`.
//!
//! # What is refused
//!
//! What cannot be sent does not compile, and the error is at the argument:
//!
//! ```compile_fail,E0277
//! #[procession::task]
//! fn look(at: std::rc::Weak<u8>, file: std::fs::File) {}
//! ```
//!
//! nor does what has no single meaning under its name:
//!
//! ```compile_fail
//! #[procession::task]
//! fn any<T>(value: T) {}
//! ```
//!
//! ```compile_fail
//! #[procession::task]
//! fn borrow(text: &str) {}
//! ```
//!
//! ```compile_fail
//! #[procession::task]
//! async fn later() {}
//! ```
//!
//! A function that is not marked, or stands in a crate that the program does not link, is an error before anything is
//! started ([`SpawnError::NotATask`]).
//!
//! # Environment
//!
//! `PROCESSION_MEMORY` limits the bytes that a session's objects take (`512M`, `2G`; by default six tenths of the machine's or
//! the cgroup's memory). The command `procession ps` shows the processes of running sessions, with what each waits for.

#![forbid(unsafe_code)]

extern crate self as procession;

pub mod codec;
mod entry;
pub mod error;
pub mod pipe;
pub mod pool;
pub mod process;
pub mod queue;
mod registry;
pub mod sync;
mod transit;

pub use entry::init;
pub use error::{ExitError, GetError, MessageError, PutError, SessionError, SpawnError};
pub use pipe::Pipe;
pub use pool::{Pool, PoolError, Ticket};
pub use process::{Exit, Process};
pub use procession_macros::{main, task, test};
pub use queue::Queue;
pub use registry::{Sendable, Task};
pub use sync::{Barrier, Condition, Event, Lock, Semaphore};

/// What the attributes' expansions need. Not part of the interface.
#[doc(hidden)]
pub mod __private {
    pub use crate::entry::{run_main, run_test};
    pub use crate::error::MessageError;
    pub use crate::registry::{
        Attached, Entry, ExitOfAny, ExitOfResult, Input, Returned, assert_sendable, run, work,
    };
    pub use procession_sys::collect::{Collected, TASKS, linkme};
}

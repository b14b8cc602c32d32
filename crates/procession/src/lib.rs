//! Multiprocessing for Rust.

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

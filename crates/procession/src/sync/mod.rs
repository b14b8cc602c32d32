//! What processes agree on when: locks, semaphores, events, conditions and barriers.
//!
//! Each of these is a handle: clones, also those that travelled to other processes, are the same object. A process that dies
//! blocks nobody: what it had locked or taken is given back, and the next one is told.

mod barrier;
mod condition;
mod event;
mod lock;
mod semaphore;

pub use barrier::{Barrier, BarrierError};
pub use condition::Condition;
pub use event::Event;
pub use lock::{Lock, LockGuard};
pub use semaphore::{Permit, Semaphore};

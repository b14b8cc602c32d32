//! What users synchronise with; see `README.md` beside this file for the words and what a death does to them.

#[cfg(not(loom))]
mod barrier;
#[cfg(not(loom))]
mod condition;
pub mod count;
#[cfg(not(loom))]
mod event;
#[cfg(not(loom))]
mod future;
#[cfg(not(loom))]
mod lock;
#[cfg(not(loom))]
mod semaphore;
pub mod word;

#[cfg(not(loom))]
pub use barrier::{Arrival, BARRIER, Barrier, Broken};
#[cfg(not(loom))]
pub use condition::{CONDITION, Condition, Ticket};
#[cfg(not(loom))]
pub use event::{EVENT, Event};
#[cfg(not(loom))]
pub use future::{FUTURE, Future, Outcome};
#[cfg(not(loom))]
pub use lock::{LOCK, Lock};
#[cfg(not(loom))]
pub use semaphore::{SEMAPHORE, Semaphore};

#[cfg(not(loom))]
/// What the session knows about all of these.
pub static OPS: [&crate::objects::KindOps; 6] = [
    &lock::OPS,
    &semaphore::OPS,
    &condition::OPS,
    &event::OPS,
    &barrier::OPS,
    &future::OPS,
];

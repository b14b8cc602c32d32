//! What users synchronise with; see `README.md` beside this file for the words and what a death does to them.

mod barrier;
mod condition;
mod event;
mod lock;
mod semaphore;

pub use barrier::{Arrival, BARRIER, Barrier, Broken};
pub use condition::{CONDITION, Condition, Ticket};
pub use event::{EVENT, Event};
pub use lock::{LOCK, Lock};
pub use semaphore::{SEMAPHORE, Semaphore};

/// What the session knows about all of these.
pub static OPS: [&crate::objects::KindOps; 5] = [
    &lock::OPS,
    &semaphore::OPS,
    &condition::OPS,
    &event::OPS,
    &barrier::OPS,
];

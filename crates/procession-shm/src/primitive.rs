//! Atomics and the robust mutex: the real ones, or those of the model checker under `cfg(loom)`.

pub use procession_sys::mutex::Acquired;
#[cfg(not(loom))]
pub use procession_sys::mutex::RobustMutex;

#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(loom)]
pub use crate::model::RobustMutex;
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

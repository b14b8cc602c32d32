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

/// To be called between a swap with [`Ordering::SeqCst`] and a load with the same: a store with [`Ordering::Release`] before the
/// swap is then seen before the load is done. So it is on x86-64, where the swap is a full barrier, and on aarch64, where such
/// stores and loads keep their order. The language promises it only for a fence, and the model checker takes it at its word.
#[inline]
pub fn fence_of_swap() {
    #[cfg(loom)]
    fence(Ordering::SeqCst);
}

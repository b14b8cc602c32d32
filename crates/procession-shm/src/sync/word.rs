//! The two single words that need no guard: one change each, so that whoever dies leaves a legal state. Apart from everything
//! else, so that the model checker can try every interleaving of them (`tests/loom_words.rs`).

use crate::primitive::{AtomicU32, Ordering};

/// Who has a lock: 0 nobody, else the owner's word.
#[repr(transparent)]
#[derive(Debug)]
pub struct LockWord(AtomicU32);

impl LockWord {
    /// A free one outside of shared memory, for models.
    pub fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Takes the lock for `me` if it is free.
    #[inline]
    pub fn try_take(&self, me: u32) -> bool {
        self.0
            .compare_exchange(0, me, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok()
    }

    /// Frees it, whoever has it. False if nobody had. (`SeqCst`, which [`crate::gate::Gate::notify_ordered`] needs.)
    #[inline]
    pub fn free(&self) -> bool {
        self.0.swap(0, Ordering::SeqCst) != 0
    }

    /// Frees it if `dead` has it.
    pub fn free_of(&self, dead: u32) -> bool {
        self.0
            .compare_exchange(dead, 0, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok()
    }

    /// The owner's word.
    #[inline]
    pub fn owner(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }
}

impl Default for LockWord {
    fn default() -> Self {
        Self::new()
    }
}

/// In a ticket: the waiter was notified.
const GRANTED: u32 = 1 << 31;

/// A place in a condition's queue: 0 nobody's, else the waiter's word, with `GRANTED` once it was notified.
#[repr(transparent)]
#[derive(Debug)]
pub struct TicketWord(AtomicU32);

impl TicketWord {
    /// An empty place outside of shared memory, for models.
    pub fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// `waiter` takes the empty place.
    pub fn enlist(&self, waiter: u32) {
        self.0.store(waiter, Ordering::SeqCst);
    }

    /// Is it nobody's?
    pub fn is_empty(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }

    /// Who waits here and was not notified yet; zero for nobody.
    pub fn waiting(&self) -> u32 {
        let word = self.0.load(Ordering::Acquire);
        if word & GRANTED == 0 { word } else { 0 }
    }

    /// Notifies `waiter`. False if it is not waiting here any more.
    pub fn grant(&self, waiter: u32) -> bool {
        self.0
            .compare_exchange(
                waiter,
                waiter | GRANTED,
                Ordering::SeqCst,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// Was `waiter` notified?
    pub fn is_granted(&self, waiter: u32) -> bool {
        self.0.load(Ordering::Acquire) == waiter | GRANTED
    }

    /// `waiter` gives the place up. True if the notification had come meanwhile.
    pub fn leave(&self, waiter: u32) -> bool {
        let word = self.0.load(Ordering::Acquire);
        word & !GRANTED == waiter && self.0.swap(0, Ordering::SeqCst) & GRANTED != 0
    }

    /// `dead` waits here no more. True if it was notified before; then the place stays its own until that was passed on to
    /// another one and [`TicketWord::leave`] was called for it.
    pub fn is_inherited_from(&self, dead: u32) -> bool {
        self.0
            .compare_exchange(dead, 0, Ordering::SeqCst, Ordering::Relaxed)
            .is_err()
            && self.is_granted(dead)
    }
}

impl Default for TicketWord {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(not(loom))]
mod shared {
    // SAFETY: transparent around an atomic.
    unsafe impl crate::segment::Shared for super::LockWord {}
    // SAFETY: as above.
    unsafe impl crate::segment::Shared for super::TicketWord {}
}

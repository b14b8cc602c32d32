//! An item's cell: the one word that decides what becomes of it, and the ways from one state to the next. The picture is in
//! `README.md` beside this file. Apart from everything else, so that the model checker can try every interleaving of them
//! (`tests/loom_board.rs`).

use crate::guard::Txn;
use crate::primitive::{AtomicU64, Ordering};
use crate::segment::Shared;

/// State (low byte of the result's head): waits to be started.
pub const FED: u64 = 1;
/// State: a worker runs it; its ledger's number is in the upper half.
pub const STARTED: u64 = 2;
/// As `STARTED`, and the result's block, named in the next word, is being handed to the board.
pub const HANDING: u64 = 3;
/// State: its worker died; the owner has to decide.
pub const DIED: u64 = 4;
/// Final: the result stands here.
pub const DONE: u64 = 16;
/// Final: the owner knows why.
pub const FAILED: u64 = 17;
/// Final: never to be run.
pub const CANCELLED: u64 = 18;

/// An item: its arguments, and what became of it. Both are a head word and three words of payload.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Cell {
    pub(super) arguments: [AtomicU64; 4],
    pub(super) result: [AtomicU64; 4],
}

// SAFETY: repr(C) of atomics.
unsafe impl Shared for Cell {}

/// The state in a result's head.
#[inline]
pub(super) fn state(head: u64) -> u64 {
    head & 0xff
}

/// Will it stay like this?
#[inline]
pub(super) fn is_final(head: u64) -> bool {
    state(head) >= DONE
}

/// The head of a started item.
#[inline]
fn started(state: u64, ledger: u32) -> u64 {
    u64::from(ledger) << 32 | state
}

/// Stores a payload: the words first, then the head.
#[inline]
pub(super) fn store(to: &[AtomicU64; 4], head: u64, words: [u64; 3]) {
    for (word, value) in to[1..].iter().zip(words) {
        word.store(value, Ordering::Relaxed);
    }
    to[0].store(head, Ordering::Release);
}

impl Cell {
    /// The head of the result: the state, and what belongs to it.
    #[inline]
    pub fn head(&self) -> u64 {
        self.result[0].load(Ordering::Acquire)
    }

    /// The state.
    #[inline]
    pub fn state(&self) -> u64 {
        state(self.head())
    }

    /// Has it an outcome?
    #[inline]
    pub fn is_finished(&self) -> bool {
        is_final(self.head())
    }

    /// The words behind the head; of a finished item, its result.
    #[inline]
    pub fn words(&self) -> [u64; 3] {
        [1, 2, 3].map(|i| self.result[i].load(Ordering::Relaxed))
    }

    /// The owner feeds it; workers are told later.
    #[inline]
    pub fn feed(&self) {
        self.result[3].store(0, Ordering::Relaxed);
        self.result[0].store(FED, Ordering::Relaxed);
    }

    /// The owner has an item run again that has died: in the section in which it is put where workers look.
    pub fn feed_again(&'static self, txn: &mut Txn<'_>) {
        self.result[3].store(0, Ordering::Relaxed);
        txn.set(&self.result[0], FED);
    }

    /// The worker of `ledger` starts it. False if somebody else has, or it is cancelled.
    #[inline]
    pub(super) fn start(&self, ledger: u32) -> bool {
        let to = started(STARTED, ledger);
        self.result[0]
            .compare_exchange(FED, to, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok()
    }

    /// It was started and is not run after all: it waits again, or is cancelled as its job was stopped meanwhile.
    pub(super) fn unstart(&self, goes_on: bool) {
        let head = if goes_on { FED } else { CANCELLED };
        self.result[0].store(head, Ordering::SeqCst);
    }

    /// Its worker is about to give the result's block, named in the first word, to the board.
    pub(super) fn hand(&self, ledger: u32) {
        self.result[0].store(started(HANDING, ledger), Ordering::Release);
    }

    /// Its worker commits the result: `head` with [`DONE`], and the words.
    #[inline]
    pub fn finish(&self, head: u64, words: [u64; 3]) {
        store(&self.result, head, words);
    }

    /// As [`Cell::finish`], with words that stand there already.
    #[inline]
    pub(super) fn finish_in_place(&self, head: u64) {
        self.result[0].store(head, Ordering::Release);
    }

    /// The state, if it is one in which the worker of `ledger` has it.
    pub fn run_by(&self, ledger: u32) -> Option<u64> {
        let head = self.result[0].load(Ordering::SeqCst);
        let runs = matches!(state(head), STARTED | HANDING) && head >> 32 == u64::from(ledger);
        runs.then_some(state(head))
    }

    /// The worker that ran it is dead; changed in the section in which that is noted elsewhere.
    pub(super) fn die(&'static self, txn: &mut Txn<'_>) {
        txn.set(&self.result[0], DIED);
    }

    /// The owner gives up an item that has died. False if it has not.
    pub fn fail(&self) -> bool {
        self.result[0]
            .compare_exchange(DIED, FAILED, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok()
    }

    /// The owner cancels an item that nobody has started, or learns what it is instead: a head.
    pub fn cancel(&self) -> Result<(), u64> {
        self.result[0]
            .compare_exchange(FED, CANCELLED, Ordering::SeqCst, Ordering::Acquire)
            .map(|_| ())
    }
}

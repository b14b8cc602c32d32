//! Models of the block allocator: two processes at it, and the death of one at every step, which the next one finds.
//!
//! Everything but the memory, the mutex and the death is production's: `arena.rs`, `extents.rs`, `guard.rs`. Blocks are of the
//! largest class that shares an extent, of which an extent holds two: so extents are taken, become full, have room again and
//! are given back within a few calls.
#![cfg(loom)]

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering as Real};

use loom::thread;
use procession_shm::Session;
use procession_shm::arena::BlockOwner;
use procession_shm::identity::Owner;
use procession_shm::layout::EXTENT;
use procession_shm::model::{at_every_point, dying_at, dying_unnoticed_at};
use procession_shm::primitive::{AtomicU32, Ordering};

type Memory = &'static Session;

const LEN: u64 = 1 << 20;
/// The blocks of an extent.
const BLOCKS: u32 = 2;
/// So long that it needs two extents.
const BIG: u64 = 3 << 20;

/// Who dies, where somebody dies.
const MORTAL: u32 = 1;
const OTHER: u32 = 2;
/// Whose blocks were there before.
const FIRST: u32 = 3;
const LAST: u32 = 4;

fn owner(n: u32) -> BlockOwner {
    BlockOwner::process(Owner::from_word(n).unwrap())
}

fn alloc(memory: Memory, len: u64, n: u32) -> u64 {
    memory.alloc(len, owner(n)).unwrap()
}

/// The blocks that are in use, in order of place.
fn blocks(memory: Memory) -> Vec<(u64, BlockOwner)> {
    let mut all = Vec::new();
    memory.for_each_block(|at, of| all.push((at, of))).unwrap();
    all
}

fn blocks_of(memory: Memory, n: u32) -> Vec<u64> {
    let all = blocks(memory).into_iter();
    all.filter(|(_, of)| of.same_as(owner(n)))
        .map(|(at, _)| at)
        .collect()
}

/// As `recover.rs` does it: the section that the dead one left is undone, and what is then its own is freed.
fn bury(memory: Memory, n: u32) {
    drop(memory.header().arena_guard.lock(memory).unwrap());
    for at in blocks_of(memory, n) {
        memory.free_block(at).unwrap();
    }
}

/// The books are right: what is in use is counted, and every other block can be had, once.
fn audit(memory: Memory) {
    let before = blocks(memory);
    let size = |at: &u64| memory.block_size(*at).unwrap();
    let used: u64 = before.iter().map(|(at, _)| size(at)).sum();
    assert_eq!(memory.bytes_used(), used);
    let mut all: Vec<u64> = before.iter().map(|(at, _)| *at).collect();
    while let Ok(at) = memory.alloc(LEN, owner(LAST)) {
        all.push(at);
    }
    all.sort_unstable();
    let found: Vec<u64> = blocks(memory).iter().map(|(at, _)| *at).collect();
    assert_eq!(all, found, "a block was handed out twice");
    let end = memory.geometry().extent(memory.geometry().extents);
    let sizes: u64 = all.iter().map(size).sum();
    assert_eq!(sizes, end - memory.geometry().extent(0), "some are lost");
    bury(memory, LAST);
    assert_eq!(blocks(memory), before);
    assert_eq!(memory.bytes_used(), used);
}

/// Two processes at once. The mortal one dies at its `n`-th crash point; true if it does so in any execution.
struct Pair<T> {
    /// What both find.
    before: fn(Memory) -> T,
    mortal: fn(Memory, T),
    other: fn(Memory, T),
}

impl<T: Copy + Send + Sync + 'static> Pair<T> {
    fn check(self, n: u32, dying: fn(u32, &dyn Fn()) -> Option<()>) -> bool {
        let memory = Session::create();
        let has_died = Arc::new(AtomicBool::new(false));
        let died = has_died.clone();
        let mut model = loom::model::Builder::new();
        model.max_branches = 20_000;
        model.check(move || {
            memory.renew(BLOCKS);
            let prepared = (self.before)(memory);
            let had = blocks_of(memory, FIRST);
            FREED.take();
            // Makes the checker try both orders; it does not see that a look races with a change that comes later.
            let first = Arc::new(AtomicU32::new(0));
            let thread = thread::spawn({
                let (died, first) = (died.clone(), first.clone());
                move || {
                    first.fetch_add(1, Ordering::Relaxed);
                    let done = dying(n, &|| (self.mortal)(memory, prepared));
                    died.fetch_or(done.is_none(), Real::Relaxed);
                }
            });
            first.fetch_add(1, Ordering::Relaxed);
            (self.other)(memory, prepared);
            thread.join().unwrap();
            bury(memory, MORTAL);
            let (has, freed) = (blocks_of(memory, FIRST), FREED.take());
            for at in had {
                assert!(has.contains(&at) || freed.contains(&at), "{at} is lost");
            }
            audit(memory);
        });
        has_died.load(Real::Relaxed)
    }

    /// Nobody dies, and then the mortal one does, anywhere.
    fn alive_and_dying(before: fn(Memory) -> T, mortal: fn(Memory, T), other: fn(Memory, T)) {
        let pair = || Self {
            before,
            mortal,
            other,
        };
        pair().check(0, |n, f| dying_at(n, f));
        at_every_point(|n| pair().check(n, |n, f| dying_at(n, f)));
    }
}

/// Allocates a block, which nobody else then has.
fn take(memory: Memory, n: u32) {
    let at = alloc(memory, LEN, n);
    assert!(blocks_of(memory, n).contains(&at));
}

std::thread_local! {
    /// What was freed, or was about to be. (To the system all threads of a model are one.)
    static FREED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

fn free(memory: Memory, at: u64) {
    FREED.with_borrow_mut(|freed| freed.push(at));
    memory.free_block(at).unwrap();
}

/// Whoever looks without the guard finds what was there all the time.
fn look(memory: Memory, all: &[u64]) {
    assert_eq!(blocks_of(memory, FIRST), all);
}

/// An extent of which one block is in use: the next one makes it full.
fn one_block(memory: Memory) -> u64 {
    alloc(memory, LEN, FIRST)
}

/// One and a half extents.
fn three_blocks(memory: Memory) -> [u64; 3] {
    [(); 3].map(|()| alloc(memory, LEN, FIRST))
}

/// The same, and a block of [`MORTAL`]'s in an extent of its own.
fn four_blocks(memory: Memory) -> ([u64; 3], u64) {
    let three = three_blocks(memory);
    let between = alloc(memory, LEN, LAST);
    let at = alloc(memory, LEN, MORTAL);
    free(memory, between);
    (three, at)
}

/// Three extents with room: the last one first in their list, the first one last.
fn three_extents(memory: Memory) -> [u64; 3] {
    let all = [(); 3].map(|()| [(); 2].map(|()| alloc(memory, LEN, FIRST)));
    all.map(|[at, other]| {
        free(memory, other);
        at
    })
}

#[test]
fn two_allocators() {
    Pair::alive_and_dying(|_| (), |m, ()| take(m, MORTAL), |m, ()| take(m, OTHER));
}

#[test]
fn two_allocators_of_an_extents_last_block() {
    Pair::alive_and_dying(one_block, |m, _| take(m, MORTAL), |m, _| take(m, OTHER));
}

#[test]
fn allocators_of_a_big_block_and_a_small_one() {
    let big = |m: Memory, ()| assert_eq!(alloc(m, BIG, MORTAL) % EXTENT, 0);
    Pair::alive_and_dying(|_| (), big, |m, ()| take(m, OTHER));
}

/// The block that is freed makes a full extent one with room.
#[test]
fn an_allocator_and_a_freer() {
    Pair::alive_and_dying(
        three_blocks,
        |m, _| take(m, MORTAL),
        |m, [a, ..]| free(m, a),
    );
}

#[test]
fn a_freer_and_an_allocator() {
    Pair::alive_and_dying(three_blocks, |m, [a, ..]| free(m, a), |m, _| take(m, OTHER));
}

/// Of a full extent, which is given back by the second of them.
#[test]
fn two_freers() {
    Pair::alive_and_dying(
        three_blocks,
        |m, [a, ..]| free(m, a),
        |m, [_, b, _]| free(m, b),
    );
}

/// Of extents that are neighbours in the list of those with room.
#[test]
fn two_freers_of_extents() {
    Pair::alive_and_dying(
        three_extents,
        |m, [_, b, _]| free(m, b),
        |m, [a, ..]| free(m, a),
    );
    Pair::alive_and_dying(
        three_extents,
        |m, [.., c]| free(m, c),
        |m, [_, b, _]| free(m, b),
    );
}

#[test]
fn two_allocators_of_freed_blocks() {
    Pair::alive_and_dying(three_extents, |m, _| take(m, MORTAL), |m, _| take(m, OTHER));
}

#[test]
fn a_freer_of_an_extent_and_an_allocator() {
    Pair::alive_and_dying(four_blocks, |m, (_, at)| free(m, at), |m, _| take(m, OTHER));
}

/// The look of whoever frees what a dead process had.
#[test]
fn a_look_while_blocks_come_and_go() {
    let come = |m: Memory, _| take(m, MORTAL);
    Pair::alive_and_dying(three_blocks, come, |m, all| look(m, &all));
    let go = |m: Memory, (_, at): ([u64; 3], u64)| free(m, at);
    Pair::alive_and_dying(four_blocks, go, |m, (all, _)| look(m, &all));
}

/// The first two extents are free, and the first one was the beginning of a longer run once.
fn block_behind_a_run(memory: Memory) -> [u64; 1] {
    let all = u64::from(memory.geometry().extents) * EXTENT;
    free(memory, alloc(memory, all, LAST));
    let before = [(); 2 * BLOCKS as usize].map(|()| alloc(memory, LEN, LAST));
    let at = alloc(memory, LEN, FIRST);
    for at in before {
        free(memory, at);
    }
    [at]
}

#[test]
fn a_look_while_a_run_is_taken() {
    let big = |m: Memory, _| assert_eq!(alloc(m, BIG, MORTAL) % EXTENT, 0);
    Pair::alive_and_dying(block_behind_a_run, big, |m, at| look(m, &at));
}

#[test]
#[should_panic(expected = "assertion")]
fn a_section_that_is_not_undone_is_noticed() {
    at_every_point(|n| {
        let pair = Pair {
            before: three_blocks,
            mortal: |m, _| take(m, MORTAL),
            other: |m, [a, ..]| free(m, a),
        };
        pair.check(n, |n, f| dying_unnoticed_at(n, f))
    });
}

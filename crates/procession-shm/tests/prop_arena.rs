//! Random programs of allocations against a simple model: nothing overlaps, nothing is forgotten.
#![cfg(not(loom))]

mod common;

use std::collections::BTreeMap;

use common::{Inventory, content};
use procession_shm::arena::BlockOwner;
use procession_shm::{Session, ShmError, kinds};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Alloc(u64),
    /// Frees the n-th of what there is.
    Free(usize),
    Trim,
}

fn size() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..2000u64,
        2 => 2000..100_000u64,
        2 => 100_000..=(1u64 << 20),
        1 => (1u64 << 20)..(7 << 20),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => size().prop_map(Step::Alloc),
        4 => any::<usize>().prop_map(Step::Free),
        1 => Just(Step::Trim),
    ]
}

/// What the model knows of a block: how much was asked for, how much it holds, what was written at its edges.
struct Block {
    len: u64,
    size: u64,
    tag: u64,
}

struct Model {
    session: &'static Session,
    mine: BlockOwner,
    blocks: BTreeMap<u64, Block>,
    tags: u64,
}

impl Model {
    fn new(session: &'static Session) -> Self {
        let mine = BlockOwner::process(session.me().unwrap());
        Self {
            session,
            mine,
            blocks: BTreeMap::new(),
            tags: 0,
        }
    }

    fn nth(&self, i: usize) -> Option<u64> {
        self.blocks
            .keys()
            .nth(i % self.blocks.len().max(1))
            .copied()
    }

    fn add(&mut self, at: u64, len: u64) {
        let size = self.session.block_size(at).unwrap();
        // At most a quarter more than asked for, or the rest of the last 2 MiB.
        let most = if len > 1 << 20 {
            len.next_multiple_of(2 << 20)
        } else {
            len * 5 / 4 + 128
        };
        assert!(size >= len && size <= most, "{size} bytes for {len}");
        assert!(at.is_multiple_of(64));
        let before = self.blocks.range(..=at).next_back();
        assert!(
            before.is_none_or(|(b, block)| b + block.size <= at),
            "overlaps the one before"
        );
        let after = self.blocks.range(at..).next();
        assert!(
            after.is_none_or(|(a, _)| at + size <= *a),
            "overlaps the one behind"
        );
        self.tags += 1;
        let edge = len.min(64);
        for place in [at, at + len - edge] {
            self.session
                .segment()
                .write(place, &content(self.tags, edge as usize))
                .unwrap();
        }
        self.blocks.insert(
            at,
            Block {
                len,
                size,
                tag: self.tags,
            },
        );
    }

    /// Checks the contents of a block that is about to go.
    fn check(&self, at: u64) {
        let block = &self.blocks[&at];
        let edge = block.len.min(64);
        for place in [at, at + block.len - edge] {
            let found = self.session.segment().bytes(place, edge).unwrap();
            // In a short block the two edges overlap.
            if block.len >= 128 {
                assert_eq!(
                    found,
                    content(block.tag, edge as usize),
                    "somebody wrote over it"
                );
            }
        }
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Alloc(len) => match self.session.alloc(len, self.mine) {
                Ok(at) => self.add(at, len),
                Err(ShmError::OutOfMemory { .. }) => {}
                Err(other) => panic!("{other}"),
            },
            Step::Free(i) => {
                if let Some(at) = self.nth(i) {
                    self.check(at);
                    self.session.free_block(at).unwrap();
                    self.blocks.remove(&at);
                }
            }
            Step::Trim => self.session.trim().unwrap(),
        }
    }

    /// The session has exactly the model's blocks.
    fn agree(&self) {
        let mut found = Vec::new();
        self.session
            .for_each_block(|at, owner| found.push((at, owner)))
            .unwrap();
        assert!(found.iter().all(|(_, owner)| owner.same_as(self.mine)));
        assert!(found.iter().map(|(at, _)| at).eq(self.blocks.keys()));
        assert_eq!(
            self.session.bytes_used(),
            self.blocks.values().map(|b| b.size).sum::<u64>()
        );
    }
}

thread_local! {
    /// One for all cases: they start with it as it was left. Small, so that it is full at times.
    static SESSION: &'static Session = kinds::create("arena", Some(64 << 20)).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, failure_persistence: None, ..Default::default() })]

    #[test]
    fn blocks_are_apart_and_come_back(steps in prop::collection::vec(step(), 1..120)) {
        let session = SESSION.with(|s| *s);
        let before = Inventory::take(session);
        let mut model = Model::new(session);
        for step in &steps {
            model.run(step);
        }
        model.agree();
        for at in model.blocks.keys() {
            model.check(*at);
            session.free_block(*at).unwrap();
        }
        prop_assert_eq!(Inventory::take(session), before);
        // All of the budget can be had in one piece again.
        let all = session.alloc(60 << 20, model.mine).unwrap();
        session.free_block(all).unwrap();
    }
}

#[test]
fn what_is_too_much_is_refused() {
    let session = kinds::create("arena", Some(64 << 20)).unwrap();
    let mine = BlockOwner::process(session.me().unwrap());
    for len in [65 << 20, 1 << 40, u64::MAX] {
        let refused = session.alloc(len, mine);
        assert!(
            matches!(refused, Err(ShmError::OutOfMemory { .. })),
            "{len}: {refused:?}"
        );
    }
    session.free_block(session.alloc(1, mine).unwrap()).unwrap();
}

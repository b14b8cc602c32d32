//! Random programs of puts and gets against a queue of the standard library.
#![cfg(not(loom))]

mod common;

use std::collections::VecDeque;

use common::{Inventory, calmly, content};
use procession_shm::ring::{Message, Ring, RingOptions};
use procession_shm::{Session, WaitError, kinds};
use procession_sys::clock::Deadline;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Put(usize),
    Get,
    Done,
    /// So many gets.
    Drain(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![
        6 => 0..200usize,
        4 => 200..5000usize,
        2 => 5000..40_000usize,
        1 => 32_760..32_780usize,
        1 => 40_000..200_000usize,
    ];
    prop_oneof![
        8 => size.prop_map(Step::Put),
        5 => Just(Step::Get),
        2 => Just(Step::Done),
        1 => (1..40usize).prop_map(Step::Drain),
    ]
}

fn limits() -> impl Strategy<Value = RingOptions> {
    let messages = prop_oneof![Just(0u32), 1..20u32];
    let bytes = prop_oneof![Just(0u64), 1..100_000u64];
    (messages, bytes).prop_map(|(max_messages, max_bytes)| RingOptions {
        max_messages,
        max_bytes,
    })
}

/// The queue and what it must contain.
struct Model {
    ring: Ring,
    options: RingOptions,
    waiting: VecDeque<(u64, usize)>,
    put: u64,
    done: u64,
}

impl Model {
    fn has_room(&self, len: usize) -> bool {
        let bytes: usize = self.waiting.iter().map(|(_, len)| len).sum();
        let (count, most) = (self.waiting.len(), self.options.max_messages as usize);
        let fits = self.options.max_bytes == 0 || (bytes + len) as u64 <= self.options.max_bytes;
        (most == 0 || count < most) && (fits || self.waiting.is_empty())
    }

    fn put(&mut self, len: usize) {
        let bytes = content(self.put, len);
        let (head, tail) = bytes.split_at(len / 3);
        let message = Message {
            bytes: head,
            tail,
            block: None,
        };
        let got = self.ring.port().put(message, Deadline::NOW, &mut calmly);
        if self.has_room(len) {
            got.unwrap();
            self.waiting.push_back((self.put, len));
            self.put += 1;
        } else {
            assert_eq!(got, Err(WaitError::TimedOut));
        }
    }

    fn get(&mut self) {
        let take = |bytes: &[u8], block: Option<u64>| (bytes.to_vec(), block);
        let got = self.ring.port().get(Deadline::NOW, &mut calmly, take);
        match self.waiting.pop_front() {
            Some((tag, len)) => {
                let (bytes, block) = got.unwrap();
                assert_eq!((bytes.len(), block), (len, None));
                assert!(bytes == content(tag, len), "message {tag} is torn");
            }
            None => assert_eq!(got, Err(WaitError::TimedOut)),
        }
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Put(len) => self.put(len),
            Step::Get => self.get(),
            Step::Drain(n) => (0..n).for_each(|_| self.get()),
            Step::Done => {
                let is_owed = self.done < self.put;
                assert_eq!(self.ring.port().task_done().unwrap(), is_owed);
                self.done += u64::from(is_owed);
            }
        }
        let port = self.ring.port();
        assert_eq!(port.len() as usize, self.waiting.len());
        assert_eq!(port.is_empty(), self.waiting.is_empty());
        assert_eq!(u64::from(port.unfinished()), self.put - self.done);
    }
}

thread_local! {
    static SESSION: &'static Session = kinds::create("ring", None).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() })]

    #[test]
    fn messages_come_in_order_and_whole(
        options in limits(),
        steps in prop::collection::vec(step(), 1..150),
        drains in any::<bool>(),
    ) {
        let session = SESSION.with(|s| *s);
        let before = Inventory::take(session);
        let ring = Ring::create(session, "ring", options).unwrap();
        let mut model = Model { ring, options, waiting: VecDeque::new(), put: 0, done: 0 };
        for step in &steps {
            model.run(step);
        }
        // A queue that goes with its messages gives back what they took.
        if drains {
            while !model.waiting.is_empty() {
                model.get();
            }
        }
        drop(model);
        prop_assert_eq!(Inventory::take(session), before);
    }
}

#[test]
fn a_ring_that_has_grown_shrinks_when_it_is_drained() {
    let session = kinds::create("ring", None).unwrap();
    let ring = Ring::create(session, "ring", RingOptions::default()).unwrap();
    let empty = session.bytes_used();
    let bytes = content(1, 1000);
    for _ in 0..20_000 {
        ring.port()
            .put(Message::new(&bytes), Deadline::NOW, &mut calmly)
            .unwrap();
    }
    assert!(session.bytes_used() > empty + (16 << 20));
    for _ in 0..20_000 {
        ring.port()
            .get(Deadline::NOW, &mut calmly, |_, _| ())
            .unwrap();
    }
    assert!(ring.port().is_empty());
    // One segment is left, of at most the largest size.
    assert!(
        session.bytes_used() <= empty + (6 << 20),
        "{}",
        session.bytes_used() - empty
    );
}

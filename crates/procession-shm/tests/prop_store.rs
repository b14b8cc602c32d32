//! Random programs against the map and the list, beside a vector of the standard library.
#![cfg(not(loom))]

mod common;

use common::Inventory;
use common::stores::{
    Value, all_of_list, all_of_map, expected, expected_list, expected_map, got, key_bytes, stored,
    with_key,
};
use procession_shm::ring::Message;
use procession_shm::store::{Batch, Key, List, Map, Outcome, PIN, Run, Seen, Target, Update};
use procession_shm::sync::Lock;
use procession_shm::{Session, kinds};
use proptest::prelude::*;

thread_local! {
    static SESSION: &'static Session = kinds::create("store", None).unwrap();
}

fn values() -> impl Strategy<Value = Value> {
    let len = prop_oneof![
        6 => 0..10usize,
        4 => 10..300usize,
        1 => 300..9000usize,
        1 => PIN - 1..PIN + 2,
    ];
    (any::<u64>(), len, prop::bool::weighted(0.2)).prop_map(|(tag, len, ticket)| Value {
        tag,
        len,
        ticket,
    })
}

#[derive(Debug, Clone)]
enum Step {
    Set(u8, Value),
    Get(u8),
    Remove(u8),
    Default(u8, Value),
    PopLast,
    Update(Vec<(u8, Value)>),
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..40u8;
    prop_oneof![
        8 => (key(), values()).prop_map(|(k, v)| Step::Set(k, v)),
        4 => key().prop_map(Step::Get),
        4 => key().prop_map(Step::Remove),
        2 => (key(), values()).prop_map(|(k, v)| Step::Default(k, v)),
        1 => Just(Step::PopLast),
        1 => prop::collection::vec((key(), values()), 0..30).prop_map(Step::Update),
        1 => Just(Step::Clear),
    ]
}

struct MapModel {
    map: Map,
    lock: Lock,
    model: Vec<(u8, Value)>,
}

impl MapModel {
    fn at(&self, key: u8) -> Option<usize> {
        self.model.iter().position(|(k, _)| *k == key)
    }

    fn put(&mut self, key: u8, value: Value) -> bool {
        let at = self.at(key);
        if let Some(at) = at {
            self.model[at].1 = value;
        } else {
            self.model.push((key, value));
        }
        at.is_some()
    }

    fn run(&mut self, session: &'static Session, step: &Step) {
        let map = self.map.clone();
        match step {
            Step::Set(k, v) => {
                let mut new = stored(session, *v, &self.lock);
                let was = with_key(*k, |key| map.set(Target::Key(key), &mut new).unwrap());
                assert_eq!(self.put(*k, *v), was == Outcome::Found(()));
            }
            Step::Get(k) => {
                let found = with_key(*k, |key| map.get(Target::Key(key), &mut got).unwrap());
                let model = self.at(*k).map(|at| expected(self.model[at].1, &self.lock));
                assert_eq!(found, model.map_or(Outcome::Absent, Outcome::Found));
                let is_in = with_key(*k, |key| map.contains(Target::Key(key)).unwrap());
                assert_eq!(is_in == Outcome::Found(()), self.at(*k).is_some());
            }
            Step::Remove(k) => {
                let found = with_key(*k, |key| map.remove(Target::Key(key), &mut got).unwrap());
                let model = self.at(*k).map(|at| self.model.remove(at).1);
                let model = model.map(|v| expected(v, &self.lock));
                assert_eq!(found, model.map_or(Outcome::Absent, Outcome::Found));
            }
            Step::Default(k, v) => {
                let mut new = stored(session, *v, &self.lock);
                let found = with_key(*k, |key| {
                    map.set_default(Target::Key(key), &mut new, &mut got)
                        .unwrap()
                });
                if let Some(at) = self.at(*k) {
                    let model = expected(self.model[at].1, &self.lock);
                    assert_eq!(found, Outcome::Found(model));
                } else {
                    assert_eq!(found, Outcome::Absent);
                    self.model.push((*k, *v));
                }
            }
            Step::PopLast => {
                let popped = map.pop_last(&mut got).unwrap();
                let model = self.model.pop().map(|(k, v)| {
                    let key = (key_bytes(k).1, Vec::new());
                    (key, expected(v, &self.lock))
                });
                assert_eq!(popped, model);
            }
            Step::Update(items) => {
                // Keys that come twice have the last value.
                let mut once: Vec<(u8, Value)> = Vec::new();
                for (k, v) in items {
                    once.retain(|(known, _)| known != k);
                    once.push((*k, *v));
                }
                let bytes: Vec<_> = once.iter().map(|(k, _)| key_bytes(*k)).collect();
                let keys = bytes.iter().map(|(identity, shown)| {
                    if identity == shown {
                        Key::plain(identity)
                    } else {
                        Key::shown(identity, Message::new(shown))
                    }
                });
                let new = once.iter().map(|(_, v)| stored(session, *v, &self.lock));
                let mut update = Update::new(session, keys.zip(new).collect()).unwrap();
                assert!(map.update(&mut update).unwrap());
                for (k, v) in once {
                    self.put(k, v);
                }
            }
            Step::Clear => {
                map.clear().unwrap();
                self.model.clear();
            }
        }
        assert_eq!(map.len() as usize, self.model.len());
    }

    fn check(&self) {
        assert_eq!(all_of_map(&self.map), expected_map(&self.model, &self.lock));
    }
}

#[derive(Debug, Clone)]
enum Move {
    Push(Value),
    Extend(Vec<Value>),
    Get(i64),
    Set(i64, Value),
    Pop(i64),
    Insert(i64, Value),
    Reverse,
    /// Keeps those from..to, and puts these in their middle.
    Slice(usize, usize, Vec<Value>),
}

fn a_move() -> impl Strategy<Value = Move> {
    let index = || prop_oneof![3 => -30..30i64, 1 => Just(-1i64), 1 => Just(0i64)];
    let some = || prop::collection::vec(values(), 0..12);
    prop_oneof![
        8 => values().prop_map(Move::Push),
        1 => some().prop_map(Move::Extend),
        4 => index().prop_map(Move::Get),
        4 => (index(), values()).prop_map(|(i, v)| Move::Set(i, v)),
        6 => index().prop_map(Move::Pop),
        2 => (index(), values()).prop_map(|(i, v)| Move::Insert(i, v)),
        1 => Just(Move::Reverse),
        1 => (0..30usize, 0..30usize, some()).prop_map(|(a, b, new)| Move::Slice(a, b, new)),
    ]
}

struct ListModel {
    list: List,
    lock: Lock,
    model: Vec<Value>,
}

impl ListModel {
    fn place(&self, index: i64) -> Option<usize> {
        let len = self.model.len() as i64;
        let at = if index < 0 { index + len } else { index };
        (0..len).contains(&at).then_some(at as usize)
    }

    fn batch(&self, session: &'static Session, new: &[Value]) -> Batch {
        let stored = new.iter().map(|v| stored(session, *v, &self.lock));
        Batch::new(session, stored.collect()).unwrap()
    }

    fn run(&mut self, session: &'static Session, step: &Move) {
        let list = self.list.clone();
        match step {
            Move::Push(v) => {
                list.push(&mut stored(session, *v, &self.lock)).unwrap();
                self.model.push(*v);
            }
            Move::Extend(new) => {
                list.extend(&mut self.batch(session, new)).unwrap();
                self.model.extend(new);
            }
            Move::Get(i) => {
                let model = self
                    .place(*i)
                    .map(|at| expected(self.model[at], &self.lock));
                assert_eq!(list.get(*i, &mut got).unwrap(), model);
            }
            Move::Set(i, v) => {
                let done = list.set(*i, &mut stored(session, *v, &self.lock)).unwrap();
                assert_eq!(done, self.place(*i).is_some());
                if let Some(at) = self.place(*i) {
                    self.model[at] = *v;
                }
            }
            Move::Pop(i) => {
                let model = self.place(*i).map(|at| self.model.remove(at));
                let model = model.map(|v| expected(v, &self.lock));
                assert_eq!(list.pop(*i, &mut got).unwrap(), model);
            }
            Move::Insert(i, v) => {
                let len = self.model.len() as i64;
                let at = if *i < 0 {
                    (*i + len).max(0)
                } else {
                    (*i).min(len)
                };
                list.insert(*i, &mut self.batch(session, &[*v])).unwrap();
                self.model.insert(at as usize, *v);
            }
            Move::Reverse => {
                let version = list.snapshot(&mut |_, _| ()).unwrap();
                let plan: Vec<Run> = (0..list.len()).rev().map(|i| Run::Old(i, i + 1)).collect();
                let mut none = self.batch(session, &[]);
                assert!(list.splice(version, &plan, &mut none).unwrap());
                self.model.reverse();
            }
            Move::Slice(a, b, new) => {
                let version = list.snapshot(&mut |_, _| ()).unwrap();
                let len = self.model.len();
                let (a, b) = ((*a).min(len), (*b).clamp((*a).min(len), len));
                let plan = [
                    Run::Old(0, a as u64),
                    Run::New(0, new.len() as u64),
                    Run::Old(b as u64, len as u64),
                ];
                let mut batch = self.batch(session, new);
                assert!(!list.splice(version + 1, &plan, &mut batch).unwrap());
                assert!(list.splice(version, &plan, &mut batch).unwrap());
                self.model.splice(a..b, new.iter().copied());
            }
        }
        assert_eq!(list.len() as usize, self.model.len());
    }

    fn check(&self) {
        assert_eq!(
            all_of_list(&self.list),
            expected_list(&self.model, &self.lock)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_map_is_a_map(steps in prop::collection::vec(step(), 1..150)) {
        let session = SESSION.with(|s| *s);
        let before = Inventory::take(session);
        let map = Map::create(session, "map").unwrap();
        let lock = Lock::create(session, "lock").unwrap();
        let mut model = MapModel { map, lock, model: Vec::new() };
        for step in &steps {
            model.run(session, step);
        }
        model.check();
        // It goes with its values.
        drop(model);
        prop_assert_eq!(Inventory::take(session), before);
    }

    #[test]
    fn a_list_is_a_list(steps in prop::collection::vec(a_move(), 1..150)) {
        let session = SESSION.with(|s| *s);
        let before = Inventory::take(session);
        let list = List::create(session, "list").unwrap();
        let lock = Lock::create(session, "lock").unwrap();
        let mut model = ListModel { list, lock, model: Vec::new() };
        for step in &steps {
            model.run(session, step);
        }
        model.check();
        drop(model);
        prop_assert_eq!(Inventory::take(session), before);
    }
}

#[test]
fn opaque_keys_are_the_callers_to_compare() {
    let session = kinds::create("store", None).unwrap();
    let lock = Lock::create(session, "lock").unwrap();
    let map = Map::create(session, "map").unwrap();
    let value = |tag| Value {
        tag,
        len: 20,
        ticket: false,
    };
    let plain = Key::plain(b"plain");
    let mut first = stored(session, value(1), &lock);
    assert_eq!(
        map.set(Target::Key(&plain), &mut first).unwrap(),
        Outcome::Absent
    );
    let ticket = session.make_ticket(lock.handle()).unwrap();
    let opaque = Key::opaque(Message {
        bytes: b"opaque",
        tail: b"",
        block: Some(ticket),
    });
    let mut second = stored(session, value(2), &lock);
    assert_eq!(
        map.set(Target::Key(&opaque), &mut second).unwrap(),
        Outcome::Unsure
    );
    let stamp = map.snapshot(0, false, &mut |_, _, _| ()).unwrap();
    let known = Target::Known(&opaque, None, stamp);
    assert_eq!(map.set(known, &mut second).unwrap(), Outcome::Absent);
    assert_eq!(
        map.contains(known).unwrap(),
        Outcome::Unsure,
        "the keys are others now"
    );
    // What is found by its bytes is found; what is not may be equal to the opaque one.
    assert_eq!(
        map.contains(Target::Key(&plain)).unwrap(),
        Outcome::Found(())
    );
    let other = Key::plain(b"other");
    assert_eq!(map.contains(Target::Key(&other)).unwrap(), Outcome::Unsure);
    let mut seen = Vec::new();
    let stamp = map
        .snapshot(0, false, &mut |s, c, h| seen.push((s, got(c, h))))
        .unwrap();
    assert_eq!(seen[1].0, Seen::Key(1));
    assert_eq!(seen[1].1, (b"opaque".to_vec(), vec![lock.handle().index()]));
    let known = Target::Known(&opaque, Some(1), stamp);
    let removed = map.remove(known, &mut got).unwrap();
    assert_eq!(removed, Outcome::Found(expected(value(2), &lock)));
    assert_eq!(map.contains(Target::Key(&other)).unwrap(), Outcome::Absent);
}

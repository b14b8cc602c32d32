//! What is done to maps and lists, step by step, and what they must then have.

use procession_shm::store::{Batch, Key, List, Map, Run, Target, Update};
use procession_sys::process::Exit;

use crate::common::start;
use crate::common::stores::{
    Value, all_of_list, all_of_map, expected_list, expected_map, got, key_bytes, stored, with_key,
};
use crate::common::world::World;
use crate::scenarios::Kept;

fn make(world: &World, tag: u64) -> procession_shm::store::Stored {
    stored(world.session, Value::numbered(tag), &world.lock)
}

fn batch(world: &World, tags: impl Iterator<Item = u64>) -> Batch {
    let values = tags.map(|tag| make(world, tag));
    Batch::new(world.session, values.collect()).unwrap()
}

/// The steps of the map's scenario: it is done, or only the model.
const MAP_STEPS: u64 = 34;

fn map_step(step: u64, world: Option<&World>, model: &mut Vec<(u8, Value)>) {
    let put = |model: &mut Vec<(u8, Value)>, key: u8, tag: u64| {
        let value = Value::numbered(tag);
        match model.iter_mut().find(|(known, _)| *known == key) {
            Some(entry) => entry.1 = value,
            None => model.push((key, value)),
        }
    };
    match step {
        // New keys, then new values for them; the table grows on the way.
        0..20 => {
            let (key, tag) = ((step % 12) as u8, step);
            if let Some(w) = world {
                with_key(key, |k| w.map.set(Target::Key(k), &mut make(w, tag))).unwrap();
            }
            put(model, key, tag);
        }
        20..24 => {
            let key = (step % 12) as u8;
            if let Some(w) = world {
                with_key(key, |k| w.map.remove(Target::Key(k), &mut got)).unwrap();
            }
            model.retain(|(known, _)| *known != key);
        }
        24 | 25 => {
            if let Some(w) = world {
                w.map.pop_last(&mut got).unwrap();
            }
            model.pop();
        }
        // Few values, and so many that they are handed over as one.
        26 | 27 | 28 | 30 => {
            let count = if step == 26 { 2 } else { 25 };
            let entries: Vec<(u8, u64)> = (0..count)
                .map(|i| (i as u8 + step as u8 % 4, i + step))
                .collect();
            if let Some(w) = world {
                let keys: Vec<_> = entries.iter().map(|(k, _)| key_bytes(*k)).collect();
                let items = keys
                    .iter()
                    .zip(&entries)
                    .map(|((identity, shown), (_, tag))| {
                        let shown = procession_shm::ring::Message::new(shown);
                        (Key::shown(identity, shown), make(w, *tag))
                    });
                let mut update = Update::new(w.session, items.collect()).unwrap();
                assert!(w.map.update(&mut update).unwrap());
            }
            for (key, tag) in entries {
                put(model, key, tag);
            }
        }
        29 => {
            if let Some(w) = world {
                w.map.clear().unwrap();
            }
            model.clear();
        }
        _ => {
            let key = 60 + step as u8;
            if let Some(w) = world {
                let set = |k: &Key<'_>| {
                    w.map
                        .set_default(Target::Key(k), &mut make(w, step), &mut got)
                };
                with_key(key, set).unwrap();
            }
            put(model, key, step);
        }
    }
}

const LIST_STEPS: u64 = 26;

fn list_step(step: u64, world: Option<&World>, model: &mut Vec<Value>) {
    let len = model.len() as u64;
    match step {
        0..10 => {
            if let Some(w) = world {
                w.list.push(&mut make(w, step)).unwrap();
            }
            model.push(Value::numbered(step));
        }
        10 | 11 => {
            let count = if step == 10 { 2 } else { 20 };
            if let Some(w) = world {
                w.list.extend(&mut batch(w, step..step + count)).unwrap();
            }
            model.extend((step..step + count).map(Value::numbered));
        }
        12..16 => {
            let at = (step * 5 % len) as usize;
            if let Some(w) = world {
                assert!(w.list.set(at as i64, &mut make(w, step)).unwrap());
            }
            model[at] = Value::numbered(step);
        }
        16..20 => {
            let at = [0, len - 1, 5, 0][step as usize - 16] as usize;
            if let Some(w) = world {
                w.list.pop(at as i64, &mut got).unwrap().unwrap();
            }
            model.remove(at);
        }
        20 | 21 => {
            if let Some(w) = world {
                w.list
                    .insert(3, &mut batch(w, std::iter::once(step)))
                    .unwrap();
            }
            model.insert(3, Value::numbered(step));
        }
        // One value goes; many go; many go and many come.
        22..25 => {
            let (cut, count) = [(1, 0), (6, 0), (6, 9)][step as usize - 22];
            if let Some(w) = world {
                let version = w.list.snapshot(&mut |_, _| ()).unwrap();
                let plan = [Run::Old(2 + cut, len), Run::New(0, count), Run::Old(0, 2)];
                let mut new = batch(w, step..step + count);
                assert!(w.list.splice(version, &plan, &mut new).unwrap());
            }
            let mut after = model.split_off(2 + cut as usize);
            after.extend((step..step + count).map(Value::numbered));
            after.extend(&model[..2]);
            *model = after;
        }
        _ => {
            if let Some(w) = world {
                let version = w.list.snapshot(&mut |_, _| ()).unwrap();
                assert!(w.list.splice(version, &[], &mut batch(w, 0..0)).unwrap());
            }
            model.clear();
        }
    }
}

pub(crate) fn map(world: &World) {
    let mut model = Vec::new();
    for step in 0..MAP_STEPS {
        map_step(step, Some(world), &mut model);
        world.diary.write(0, step + 1);
    }
}

pub(crate) fn list(world: &World) {
    let mut model = Vec::new();
    for step in 0..LIST_STEPS {
        list_step(step, Some(world), &mut model);
        world.diary.write(0, step + 1);
    }
}

/// A store goes with what it has.
pub(crate) fn make_and_drop(world: &World) {
    let map = Map::create(world.session, "child's map").unwrap();
    let list = List::create(world.session, "child's list").unwrap();
    list.ask_for_turn().unwrap();
    list.end_turn();
    for tag in 0..8 {
        with_key(tag as u8, |k| {
            map.set(Target::Key(k), &mut make(world, tag))
        })
        .unwrap();
        list.push(&mut make(world, tag)).unwrap();
    }
}

fn map_after(steps: u64) -> Vec<(u8, Value)> {
    let mut model = Vec::new();
    (0..steps.min(MAP_STEPS)).for_each(|step| map_step(step, None, &mut model));
    model
}

fn list_after(steps: u64) -> Vec<Value> {
    let mut model = Vec::new();
    (0..steps.min(LIST_STEPS)).for_each(|step| list_step(step, None, &mut model));
    model
}

/// Each step happened as a whole or not at all.
pub(crate) fn after_map(world: &World, _: Kept) {
    let seen = all_of_map(&world.map);
    let done = world.diary.read(0);
    let fits = [done, done + 1].map(|n| expected_map(&map_after(n), &world.lock) == seen);
    assert!(fits[0] || fits[1], "torn after {done} steps: {seen:?}");
}

/// As [`after_map`].
pub(crate) fn after_list(world: &World, _: Kept) {
    let seen = all_of_list(&world.list);
    let done = world.diary.read(0);
    let fits = [done, done + 1].map(|n| expected_list(&list_after(n), &world.lock) == seen);
    assert!(fits[0] || fits[1], "torn after {done} steps: {seen:?}");
}

/// Somebody dies in the middle of what takes several sections; the next one has to go on, and dies over that too.
fn die_at(world: &World, task: &str, point: &str) -> Kept {
    let mut victim = start(world.session, task, &world.names(), point);
    assert_eq!(victim.end(), Exit::Signal(9));
    world.session.exited(victim.owner, -9).unwrap();
    Kept::default()
}

pub(crate) fn torn_update(world: &World) -> Kept {
    die_at(world, "map", "store.update.committed:2")
}

pub(crate) fn half_done_update(world: &World) -> Kept {
    die_at(world, "map", "store.update.put.committed:9")
}

pub(crate) fn torn_list(world: &World) -> Kept {
    die_at(world, "list", "store.list.replaced.committed:7")
}

pub(crate) fn mend(world: &World) {
    let _ = (all_of_map(&world.map), all_of_list(&world.list));
}

/// What was committed is there, all of it.
pub(crate) fn after_mend_map(world: &World, _: Kept) {
    let done = world.diary.read(0) + 1;
    assert_eq!(
        all_of_map(&world.map),
        expected_map(&map_after(done), &world.lock)
    );
}

/// As [`after_mend_map`].
pub(crate) fn after_mend_list(world: &World, _: Kept) {
    let done = world.diary.read(0) + 1;
    assert_eq!(
        all_of_list(&world.list),
        expected_list(&list_after(done), &world.lock)
    );
}

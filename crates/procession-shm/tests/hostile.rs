//! Sessions full of nonsense: whoever looks at one, or works with it, gets errors or wrong answers, and nothing worse.
//!
//! A child makes copies of a lively session, changes some of their words (chosen among those that mean something), and does
//! with each copy all that a tool and a member do. It has little memory of its own and limited time. What it must not do is
//! crash, panic, hang, or ask for memory without end. `PROCESSION_FUZZ_SECONDS` says how long, `PROCESSION_FUZZ_SEED`
//! repeats one batch.
//!
//! The bytes of mutexes stay as they are, and so does what says where they stand: a lock that some process never gives back
//! cannot be told from one whose holder a debugger has stopped, and that one is waited for.
#![cfg(not(loom))]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::boards::{busy, use_board};
use common::stores::{Value, got, stored, with_key};
use common::world::World;
use common::{Dice, Inside, inside, setting, start};
use procession_shm::arena::BlockOwner;
use procession_shm::board::Board;
use procession_shm::layout::Geometry;
use procession_shm::memory::Memory;
use procession_shm::objects::Handle;
use procession_shm::pipe::PipeEnd;
use procession_shm::ring::{Message, Ring};
use procession_shm::segment::Segment;
use procession_shm::store::{Batch, Key, List, Map, Run, Stored, Target, Update};
use procession_shm::sync::{Barrier, Condition, Event, Lock, Semaphore};
use procession_shm::{Session, bundle, kinds};
use procession_sys::clock::Deadline;
use procession_sys::memory::SharedMemory;
use procession_sys::process::Exit;

/// Copies that one child works through.
const BATCH: u64 = 25;
/// Private memory that this program may have: the copies are shared memory and do not count.
const HEAP: usize = 512 << 20;
/// Shared memory that working with one copy may add.
const GROWTH: u64 = 256 << 20;

/// Refuses what exceeds [`HEAP`], which ends the program.
struct Limited;

static TAKEN: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator, but that it fails at times, as allocators may.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if TAKEN.fetch_add(layout.size(), Ordering::Relaxed) + layout.size() > HEAP {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's layout, as this function demands it.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        TAKEN.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: it came from the system's allocator, with this layout.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static LIMITED: Limited = Limited;

/// The session that is copied, seen from the child.
struct Template {
    memory: SharedMemory,
    geometry: Geometry,
    /// Offsets of words that are not zero, by table.
    words: Vec<Vec<u64>>,
    pages: Vec<(u64, Vec<u8>)>,
}

impl Template {
    fn read(inside: &Inside) -> Self {
        let memory = SharedMemory::attach_read_only(inside.memory()).unwrap();
        let segment = Segment::new(SharedMemory::attach_read_only(inside.memory()).unwrap());
        let geometry = Geometry::read(&segment).unwrap();
        let mut pages = Vec::new();
        let mut at = 0;
        while let Some(present) = memory.next_present(at) {
            let mut page = vec![0; 4096];
            at = present - present % 4096;
            memory.read_at(at, &mut page).unwrap();
            if page.iter().any(|b| *b != 0) {
                pages.push((at, page));
            }
            at += 4096;
        }
        let tables = [
            geometry.slot(0),
            geometry.entry(0),
            geometry.hold(0, 0),
            geometry.extent_record(0),
            geometry.block_record(0, 0),
            geometry.extent(0),
        ];
        let mut words = vec![Vec::new(); tables.len() + 1];
        for (at, page) in &pages {
            for (line, bytes) in (*at..).step_by(64).zip(page.chunks_exact(64)) {
                if !is_mutex(bytes) {
                    let table = tables.iter().filter(|start| **start <= line).count();
                    let filled = bytes
                        .chunks_exact(8)
                        .enumerate()
                        .filter(|(_, w)| *w != [0; 8]);
                    words[table].extend(filled.map(|(i, _)| line + i as u64 * 8));
                }
            }
        }
        // An object's kind and place: the first two words of its entry.
        words[2].retain(|at| (at - geometry.entry(0)) % Geometry::ENTRY >= 16);
        words.retain(|table| !table.is_empty());
        assert!(words.len() >= 6, "the session is not lively enough");
        Self {
            memory,
            geometry,
            words,
            pages,
        }
    }

    fn copy(&self) -> Segment {
        let copy = SharedMemory::create("copy", self.memory.len()).unwrap();
        let copy = Segment::new(copy);
        for (at, page) in &self.pages {
            copy.write(*at, page).unwrap();
        }
        copy
    }

    /// Changes a word or some.
    fn spoil(&self, copy: &Segment, dice: &mut Dice) {
        for _ in 0..=dice.below(8) {
            let at = self.any_word(dice);
            let mut old = [0; 8];
            copy.read(at, &mut old).unwrap();
            let old = u64::from_le_bytes(old);
            let new = match dice.below(8) {
                0 => dice.roll(),
                1 => old ^ 1 << dice.below(64),
                2 => old.wrapping_add(dice.below(5)).wrapping_sub(2),
                3 => self.any_word(dice),
                4 => self.geometry.extent(dice.below(4) as u32) + dice.below(64) * 64,
                5 => [0, u64::MAX, 1 << 32, 1 << 63, u64::MAX >> 32][dice.below(5) as usize],
                6 => old.rotate_left(32),
                _ => old & !0xffff_ffff | dice.below(1 << 16),
            };
            copy.write(at, &new.to_le_bytes()).unwrap();
        }
    }

    fn any_word(&self, dice: &mut Dice) -> u64 {
        let table = &self.words[dice.below(self.words.len() as u64) as usize];
        table[dice.below(table.len() as u64) as usize]
    }
}

/// Does this line hold one of the C library's mutexes, robust and shared between processes?
fn is_mutex(line: &[u8]) -> bool {
    line[16..20] == 0x90u32.to_le_bytes()
}

/// All that a tool does.
fn look(copy: &Segment) {
    let fd = copy.memory().fd().try_clone_to_owned().unwrap();
    let Ok(session) = Session::observe(kinds::KINDS, fd) else {
        return;
    };
    for (number, slot) in session.slots() {
        let _ = (
            slot.state(),
            slot.name(),
            slot.exit_code(),
            slot.process_id(),
        );
        let _ = session
            .owner_in(number)
            .and_then(|owner| session.slot_of(owner));
        let _ = session.view_holds(number, 0..session.geometry().objects, |_| ());
    }
    for (_, entry) in session.entries() {
        let kind = entry.kind().and_then(|k| session.kind(k).ok());
        let _ = (entry.name(), kind.map(|k| (k.describe)(session, entry)));
    }
    let _ = session.for_each_block(|at, _| {
        let _ = session.block_size(at);
    });
}

/// A poll, as all waits here are: what cannot be had now is not waited for.
const NOW: Deadline = Deadline::NOW;

/// All that a member does.
fn work(copy: &Segment, inside: &Inside) {
    let fd = copy.memory().fd().try_clone_to_owned().unwrap();
    let Ok(session) = Session::attach(kinds::KINDS, fd, inside.owner) else {
        return;
    };
    let _ = session.drop_unclaimed();
    let Ok(me) = session.me() else { return };
    let mine = BlockOwner::process(me);
    for len in [10, 1000, 300_000, 5 << 20] {
        if let Ok(at) = session.alloc(len, mine) {
            let _ = session.segment().write(at, &[7; 10]);
            let _ = session.free_block(at);
        }
    }
    let held = inside.args[1..].chunks_exact(2);
    let handles: Vec<Handle> = held
        .filter_map(|name| session.hold(name[0] as u32, name[1] as u32).ok())
        .collect();
    for handle in handles {
        use_object(session, handle);
    }
    let _ = session.recover_now();
    let _ = session.sweep();
    let mut found = Vec::new();
    let _ = session.for_each_block(|at, owner| found.push((at, owner)));
    for (at, owner) in found.into_iter().take(1000) {
        if owner.has(BlockOwner::MANIFEST) {
            let _ = bundle::parts(session, at);
        }
        if owner.has(BlockOwner::TICKET) {
            let _ = session.redeem(at);
        }
        if owner.same_as(mine) {
            let _ = session.free_block(at);
        }
    }
    let _ = session.reserve("child", procession_shm::processes::Role::Process);
    let _ = session.trim();
    let _ = session.leave(0);
}

fn use_object(session: &'static Session, handle: Handle) {
    let mut calm = || true;
    let mut take = |bytes: &[u8], block: Option<u64>| (bytes.len(), block);
    if let Ok(ring) = Ring::of(handle.clone()) {
        for _ in 0..30 {
            if let Ok((_, Some(block))) = ring.port().get(NOW, &mut calm, take) {
                let _ = bundle::unbind(session, block);
                let _ = session.free_block(block);
            }
        }
        for len in [10, 3000, 20_000, 100_000] {
            let _ = ring.port().put(Message::new(&vec![1; len]), NOW, &mut calm);
        }
        let _ = (
            ring.port().get(NOW, &mut calm, take),
            ring.port().task_done(),
        );
    } else if let Ok(end) = PipeEnd::of(handle.clone()) {
        let _ = end.send(Message::new(&[1; 100]), NOW, &mut calm);
        let _ = (
            end.recv(NOW, &mut calm, &mut take),
            end.try_recv(&mut take),
            end.is_at_end(),
        );
    } else if let Ok(lock) = Lock::of(handle.clone()) {
        let _ = (
            lock.acquire(NOW, &mut calm),
            lock.take_recovery(),
            lock.release(),
        );
    } else if let Ok(semaphore) = Semaphore::of(handle.clone()) {
        let _ = (
            semaphore.acquire(NOW, &mut calm),
            semaphore.release(),
            semaphore.release(),
        );
    } else if let Ok(condition) = Condition::of(handle.clone()) {
        if let Ok(ticket) = condition.enlist() {
            let _ = (
                condition.waiters(),
                condition.notify(3),
                ticket.wait(NOW, &mut calm),
            );
        }
    } else if let Ok(event) = Event::of(handle.clone()) {
        event.set();
        let _ = event.wait(NOW, &mut calm);
        event.clear();
    } else if let Ok(barrier) = Barrier::of(handle.clone()) {
        if let Ok(Ok(arrival)) = barrier.arrive(NOW, &mut calm) {
            let _ = (
                barrier.open(arrival, NOW, &mut || true),
                barrier.wait(arrival, NOW, &mut calm),
            );
        }
        let _ = (barrier.abort(), barrier.reset());
    } else if let Ok(board) = Board::of(handle.clone()) {
        use_board(&board);
    } else if let Ok(map) = Map::of(handle.clone()) {
        use_map(session, &map);
    } else if let Ok(list) = List::of(handle.clone()) {
        use_list(session, &list);
    } else if let Ok(memory) = Memory::of(handle) {
        let _ = (memory.len(), memory.pointer());
    }
}

fn use_map(session: &'static Session, map: &Map) {
    let _ = map.snapshot(0, true, &mut |_, c, h| drop(got(c, h)));
    for key in 0..30 {
        let value = Stored::make(session, Message::new(&[1; 300]));
        with_key(key, |key| {
            let _ = map.get(Target::Key(key), &mut got);
            if key.identity.len() % 3 == 0 {
                let _ = map.remove(Target::Key(key), &mut got);
            } else if let Ok(mut value) = value {
                let _ = map.set(Target::Key(key), &mut value);
            }
        });
    }
    let entry = |bytes| {
        Some((
            Key::plain(bytes),
            Stored::make(session, Message::new(bytes)).ok()?,
        ))
    };
    let entries = [&[1; 200][..], &[2; 200], &[3; 3]]
        .into_iter()
        .filter_map(entry);
    if let Ok(mut update) = Update::new(session, entries.collect()) {
        let _ = map.update(&mut update);
    }
    let _ = (map.pop_last(&mut got), map.clear());
}

fn use_list(session: &'static Session, list: &List) {
    let _ = list.snapshot(&mut |c, h| drop(got(c, h)));
    for index in [0, -1, 3, 100] {
        let _ = list.get(index, &mut got);
        if let Ok(mut value) = Stored::make(session, Message::new(&[1; 300])) {
            let _ = (list.set(index, &mut value), list.push(&mut value));
        }
        if let Ok(value) = Stored::make(session, Message::new(&[1; 300])) {
            let mut batch = Batch::new(session, vec![value]).unwrap();
            let _ = (list.insert(index, &mut batch), list.pop(index, &mut got));
        }
    }
    if let (Ok(version), Ok(mut none)) =
        (list.snapshot(&mut |_, _| ()), Batch::new(session, vec![]))
    {
        let _ = list.splice(version, &[Run::Old(1, 2)], &mut none);
    }
}

#[test]
#[ignore = "the body of the other test's children"]
fn child() {
    let Some(mut inside) = inside() else { return };
    let template = Template::read(&inside);
    for case in 0..BATCH {
        let mut dice = Dice::new(inside.args[0] + case);
        inside.report(&format!("copying {case}\n"));
        let copy = template.copy();
        template.spoil(&copy, &mut dice);
        let before = copy.memory().resident_bytes().unwrap();
        inside.report(&format!("looking at {case}\n"));
        look(&copy);
        inside.report(&format!("working with {case}\n"));
        work(&copy, &inside);
        let after = copy.memory().resident_bytes().unwrap();
        assert!(after < before + GROWTH, "{before} bytes became {after}");
    }
    inside.report("done\n");
    std::process::exit(0);
}

/// Everything that a session can contain: queues with all kinds of messages, waiters, locks that are held, a pool's work.
fn lively() -> (&'static Session, World, Board) {
    let session = kinds::create("lively", Some(256 << 20)).unwrap();
    let world = World::create(session);
    for seq in 0..24 {
        world.put(world.ring.port(), seq);
    }
    for seq in [1, 6] {
        world.put(world.small.port(), seq);
    }
    world
        .ends
        .0
        .send(Message::new(b"sent"), NOW, &mut || true)
        .unwrap();
    assert!(world.lock.try_acquire().unwrap() && world.semaphore.try_acquire().unwrap());
    for key in 0..30 {
        let value = Value::numbered(u64::from(key));
        let mut new = stored(session, value, &world.lock);
        with_key(key, |k| world.map.set(Target::Key(k), &mut new)).unwrap();
        let mut new = stored(session, value, &world.lock);
        world.list.push(&mut new).unwrap();
    }
    std::mem::forget(world.condition.enlist().unwrap());
    let _ = world.barrier.arrive(NOW, &mut || true).unwrap().unwrap();
    (session, world, busy(session))
}

#[test]
fn nonsense_in_memory_is_an_error_and_no_crash() {
    let (session, world, board) = lively();
    let of_board = [board.handle().index(), board.handle().generation()];
    let names = [world.names(), of_board.map(u64::from).to_vec()].concat();
    let once = std::env::var("PROCESSION_FUZZ_SEED").is_ok();
    let mut seed = setting("PROCESSION_FUZZ_SEED", u64::from(std::process::id()) << 32);
    let duration = Duration::from_secs(setting("PROCESSION_FUZZ_SECONDS", 5));
    let (begin, mut batches) = (Instant::now(), 0);
    while batches == 0 || !once && begin.elapsed() < duration {
        let args = [vec![seed], names.clone()].concat();
        let mut child = start(session, "fuzz", &args, "");
        let has_ended = child.ends_within(common::within(60));
        if !has_ended {
            child.kill();
        }
        let exit = child.end();
        // Not told of as a death, so that the session is the same for every batch.
        session.abandon(child.owner).unwrap();
        let report = child.report();
        let last = report.lines().last().unwrap_or("nothing");
        assert!(
            has_ended && exit == Exit::Code(0),
            "{} ({exit}) while {last}; repeat with PROCESSION_FUZZ_SEED={seed}",
            if has_ended {
                "the child ended"
            } else {
                "the child hung"
            },
        );
        batches += 1;
        seed += BATCH;
    }
    println!("{} copies", batches * BATCH);
}

//! Producers, consumers and lockers are killed at random instants, while a ledger is kept of every message.
//!
//! A producer notes after each put that it has returned; a consumer notes what it is about to take, then that it has it. In
//! the end each message whose put returned was received once, or was in the hands of a consumer that was killed.
//! `PROCESSION_CHAOS_KILLS` says how many are killed, `PROCESSION_CHAOS_SEED` repeats a run as far as the machine lets it.
#![cfg(not(loom))]

mod common;

use std::collections::HashMap;
use std::time::Duration;

use common::world::{Diary, World, is_long};
use common::{Child, Dice, Inside, Inventory, calmly, eventually, inside, setting, start, within};
use procession_shm::Session;
use procession_shm::kinds;
use procession_shm::ring::{Ring, RingOptions};
use procession_sys::clock::Deadline;
use procession_sys::process::Exit;

/// What one producer puts at most.
const EACH: u64 = 200;
/// Who runs at any time.
const CAST: [&str; 8] = [
    "producer", "consumer", "locker", "producer", "consumer", "producer", "consumer", "locker",
];

/// Lines of the common diary.
const STOP_PRODUCERS: u64 = 0;
const STOP_ALL: u64 = 1;
const INSIDE: u64 = 2;
const ENTRIES: u64 = 3;

/// What all of them share.
struct Stage {
    world: World,
    queue: Ring,
    /// For each producer: how many of its puts have returned. For each consumer: 1 + the message in its hands.
    notes: Diary,
    /// For each message of each producer: how often it was received.
    received: Diary,
}

impl Stage {
    fn create(session: &'static Session, players: u64) -> Self {
        let limit = RingOptions {
            max_messages: 0,
            max_bytes: 1 << 20,
        };
        Self {
            world: World::create(session),
            queue: Ring::create(session, "queue", limit).unwrap(),
            notes: Diary::create(session, players),
            received: Diary::create(session, players * EACH),
        }
    }

    fn names(&self) -> Vec<u64> {
        let handles = [
            self.queue.handle(),
            self.notes.handle(),
            self.received.handle(),
        ];
        let names = handles.map(|h| [u64::from(h.index()), u64::from(h.generation())]);
        [self.world.names(), names.concat()].concat()
    }

    fn find(session: &'static Session, names: &[u64]) -> Self {
        let (world, own) = names.split_at(names.len() - 6);
        let at = |i: usize| {
            session
                .hold(own[2 * i] as u32, own[2 * i + 1] as u32)
                .unwrap()
        };
        Self {
            world: World::find(session, world),
            queue: Ring::of(at(0)).unwrap(),
            notes: Diary::of(at(1)),
            received: Diary::of(at(2)),
        }
    }

    fn says(&self, line: u64) -> bool {
        self.world.diary.read(line) != 0
    }
}

fn message(player: u64, n: u64) -> u64 {
    player * EACH + n
}

fn produce(stage: &Stage, player: u64) {
    for n in 0..EACH {
        if stage.says(STOP_PRODUCERS) {
            return;
        }
        stage.world.put(stage.queue.port(), message(player, n));
        stage.notes.write(player, n + 1);
    }
}

fn consume(stage: &Stage, player: u64) {
    let mut latest: HashMap<u64, u64> = HashMap::new();
    loop {
        let soon = Deadline::after(Some(Duration::from_millis(100)));
        let at_hand = |seq| stage.notes.write(player, seq + 1);
        match stage.world.take_within(stage.queue.port(), soon, at_hand) {
            Some(seq) => {
                stage.received.add(seq);
                stage.notes.write(player, 0);
                let before = latest.insert(seq / EACH, seq);
                assert!(
                    before.is_none_or(|b| b < seq),
                    "{seq} came after {before:?}"
                );
            }
            None if stage.says(STOP_ALL) => return,
            None => {}
        }
    }
}

fn lock(stage: &Stage, player: u64) {
    let diary = &stage.world.diary;
    while !stage.says(STOP_ALL) {
        stage.world.lock.acquire(within(60), &mut calmly).unwrap();
        let is_told = stage.world.lock.take_recovery();
        let other = diary.read(INSIDE);
        assert!(
            other == 0 || is_told,
            "{player} got the lock while {other} was inside"
        );
        diary.write(INSIDE, player + 1);
        let entries = diary.read(ENTRIES);
        std::thread::yield_now();
        assert_eq!(diary.read(INSIDE), player + 1, "somebody came in");
        diary.write(ENTRIES, entries + 1);
        diary.write(INSIDE, 0);
        assert!(stage.world.lock.release());
        stage
            .world
            .semaphore
            .acquire(within(60), &mut calmly)
            .unwrap();
        assert!(stage.world.semaphore.release().unwrap());
    }
}

#[test]
#[ignore = "the body of the players"]
fn child() {
    let Some(inside) = inside() else { return };
    play(&inside);
    std::process::exit(0);
}

fn play(inside: &Inside) {
    let session = inside.attach();
    let stage = Stage::find(session, &inside.args[1..]);
    let player = inside.args[0];
    match inside.task.as_str() {
        "producer" => produce(&stage, player),
        "consumer" => consume(&stage, player),
        _ => lock(&stage, player),
    }
    drop(stage);
    session.leave(0).unwrap();
}

/// What became of the players, for the final account.
#[derive(Default)]
struct Ledger {
    producers: Vec<u64>,
    killed_consumers: Vec<u64>,
    kills: u64,
    messages: u64,
    unseen: u64,
}

struct Troupe<'a> {
    session: &'static Session,
    stage: &'a Stage,
    next: u64,
    playing: Vec<(Child, u64, &'static str)>,
    unreported: Vec<(Child, Exit)>,
    ledger: Ledger,
}

impl Troupe<'_> {
    fn hire(&mut self, role: &'static str) {
        let player = self.next;
        self.next += 1;
        let args = [vec![player], self.stage.names()].concat();
        if role == "producer" {
            self.ledger.producers.push(player);
        }
        self.playing
            .push((start(self.session, role, &args, ""), player, role));
    }

    /// Takes leave of one, killed or not, and says what it was.
    fn bid_farewell(&mut self, index: usize, kill: bool) -> &'static str {
        let (mut child, player, role) = self.playing.swap_remove(index);
        if kill {
            child.kill();
        }
        let exit = child.end();
        match exit {
            Exit::Signal(9) if kill => {
                self.ledger.kills += 1;
                if role == "consumer" {
                    self.ledger.killed_consumers.push(player);
                }
            }
            Exit::Code(0) => {}
            other => panic!("{role} {player} ended with {other}"),
        }
        self.unreported.push((child, exit));
        role
    }

    /// Tells the session of those who ended some time ago: until then, the others must have found out for themselves.
    fn report(&mut self, keep: usize) {
        while self.unreported.len() > keep {
            let (child, exit) = self.unreported.remove(0);
            self.session
                .exited(child.owner, exit.as_exitcode())
                .unwrap();
        }
    }

    /// Every message was received once, unless it was in the hands of somebody who was killed.
    fn account(&mut self) {
        let (notes, ledger) = (&self.stage.notes, &mut self.ledger);
        let in_hand: Vec<u64> = ledger
            .killed_consumers
            .iter()
            .filter_map(|player| notes.read(*player).checked_sub(1))
            .collect();
        for &player in &ledger.producers {
            let acknowledged = notes.read(player);
            ledger.messages += acknowledged;
            for n in 0..EACH {
                let seq = message(player, n);
                let times = self.stage.received.read(seq);
                assert!(
                    times <= 1,
                    "message {n} of producer {player} was received {times} times"
                );
                assert!(
                    times == 0 || n <= acknowledged,
                    "message {n} of {player} was never put"
                );
                if n < acknowledged && times == 0 && !in_hand.contains(&seq) {
                    // A long message is copied after it was taken, so nobody could note that it was at hand.
                    assert!(is_long(seq), "message {n} of producer {player} is lost");
                    ledger.unseen += 1;
                }
            }
        }
        assert!(
            ledger.unseen <= ledger.killed_consumers.len() as u64,
            "messages are lost"
        );
    }
}

fn chaos(seed: u64, kills: u64) {
    let mut dice = Dice::new(seed);
    let session = kinds::create("director", None).unwrap();
    let before = Inventory::take(session);
    let stage = Stage::create(session, kills * 4 + 1000);
    let mut troupe = Troupe {
        session,
        stage: &stage,
        next: 0,
        playing: Vec::new(),
        unreported: Vec::new(),
        ledger: Ledger::default(),
    };
    for role in CAST {
        troupe.hire(role);
    }
    while troupe.ledger.kills < kills {
        let index = dice.below(troupe.playing.len() as u64) as usize;
        let patience = Deadline::after(Some(Duration::from_micros(dice.below(15_000))));
        let ended = troupe.playing[index].0.ends_within(patience);
        let role = troupe.bid_farewell(index, !ended);
        troupe.hire(role);
        troupe.report(6);
    }
    stage.world.diary.write(STOP_PRODUCERS, 1);
    while let Some(i) = troupe
        .playing
        .iter()
        .position(|(_, _, role)| *role == "producer")
    {
        troupe.bid_farewell(i, false);
    }
    eventually("the queue is empty", || {
        session.sweep().unwrap();
        stage.queue.port().is_empty()
    });
    stage.world.diary.write(STOP_ALL, 1);
    while !troupe.playing.is_empty() {
        troupe.bid_farewell(0, false);
    }
    troupe.report(0);
    troupe.account();
    let ledger = &troupe.ledger;
    println!(
        "seed {seed}: {} kills, {} messages, {} lock entries, {} in dead hands unseen",
        ledger.kills,
        ledger.messages,
        stage.world.diary.read(ENTRIES),
        ledger.unseen
    );
    assert!(ledger.messages > kills, "hardly anything happened");
    drop(troupe);
    stage.world.lock.take_recovery();
    stage.world.exercise();
    drop(stage);
    assert_eq!(Inventory::take(session), before, "left behind, or lost");
}

#[test]
fn nothing_is_lost_doubled_or_torn_whoever_is_killed_when() {
    let seed = setting("PROCESSION_CHAOS_SEED", u64::from(std::process::id()));
    let kills = setting("PROCESSION_CHAOS_KILLS", 300);
    let run = std::panic::AssertUnwindSafe(|| chaos(seed, kills));
    if let Err(panic) = std::panic::catch_unwind(run) {
        eprintln!("repeat with PROCESSION_CHAOS_SEED={seed} PROCESSION_CHAOS_KILLS={kills}");
        std::panic::resume_unwind(panic);
    }
}

//! The state machine against a world of workers and items that does anything in any order.

use std::collections::BTreeMap;

use procession_shm::board::JobId;
use proptest::prelude::*;

use super::event::{Event, Failure, Step, Why, WorkerId};
use super::state::{GRACE_NS, Machine, Phase, WorkerState};

fn job() -> JobId {
    JobId::from_word(1 << 8).unwrap()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    Queued,
    Runs(WorkerId),
    Died,
    Done,
    Failed(Failure),
}

#[derive(Debug, Clone, Copy, Default)]
struct Process {
    up: bool,
    item: Option<usize>,
    /// Forbidden to start another item.
    stopped: bool,
    to_be_killed: bool,
}

struct World {
    machine: Machine,
    now: u64,
    target: usize,
    retries: u32,
    to_start: Vec<WorkerId>,
    processes: BTreeMap<WorkerId, Process>,
    /// Ended, and the machine was not told yet.
    unreported: Vec<(WorkerId, i32)>,
    items: Vec<Item>,
    killed: Vec<u32>,
    end_said: bool,
    ended: u32,
    broken: u32,
}

impl World {
    fn new(target: usize, items: usize, retries: u32, startup_limit: u32) -> Self {
        let mut world = Self {
            machine: Machine::new(target, POISON, startup_limit),
            now: 0,
            target,
            retries,
            to_start: Vec::new(),
            processes: BTreeMap::new(),
            unreported: Vec::new(),
            items: vec![Item::Queued; items],
            killed: vec![0; items],
            end_said: false,
            ended: 0,
            broken: 0,
        };
        world.tell(Event::Tick { now_ns: 0 });
        world
    }

    fn tell(&mut self, event: Event) {
        for step in self.machine.on(event) {
            self.execute(step);
        }
        if self.machine.phase() <= Phase::Closing {
            assert_eq!(
                self.machine.workers().count(),
                self.target,
                "as many workers as asked for"
            );
        }
        // Every worker that the machine knows is somewhere in the world.
        for (id, state) in self.machine.workers() {
            let starting = self.to_start.contains(&id);
            let ended = self.unreported.iter().any(|(w, _)| *w == id);
            let runs = self.processes.get(&id);
            assert!(starting || ended || runs.is_some(), "{id:?} is nowhere");
            if state == WorkerState::Condemned && !ended {
                assert!(
                    starting || runs.is_some_and(|p| p.to_be_killed),
                    "{id:?} lives on"
                );
            }
        }
    }

    fn execute(&mut self, step: Step) {
        match step {
            Step::Spawn(id) => {
                assert!(!self.end_said, "nobody is started at the end");
                self.to_start.push(id);
            }
            Step::Kill(id, _) => {
                if let Some(p) = self.processes.get_mut(&id) {
                    p.to_be_killed = true;
                }
            }
            Step::Retry(j, item) => {
                assert_eq!(j, job());
                assert_eq!(self.items[item as usize], Item::Died);
                assert!(self.killed[item as usize] <= self.retries);
                assert!(self.killed[item as usize] < POISON);
                self.items[item as usize] = Item::Queued;
            }
            Step::Fail(j, item, failure) => {
                assert_eq!(j, job());
                assert_eq!(
                    self.items[item as usize],
                    Item::Died,
                    "only what died can fail"
                );
                self.items[item as usize] = Item::Failed(failure);
            }
            Step::End => {
                assert!(!self.end_said);
                self.end_said = true;
                for item in &mut self.items {
                    if *item == Item::Queued {
                        assert!(self.machine.phase() >= Phase::Killing);
                        *item = Item::Failed(Failure::Terminated);
                    }
                }
            }
            Step::Broken(_) => self.broken += 1,
            Step::Ended => self.ended += 1,
        }
    }

    fn nth<T: Copy>(all: impl Iterator<Item = T>, n: usize) -> Option<T> {
        let all: Vec<T> = all.collect();
        (!all.is_empty()).then(|| all[n % all.len()])
    }

    fn start(&mut self, n: usize, works: bool) {
        if self.to_start.is_empty() {
            return;
        }
        let id = self.to_start.remove(n % self.to_start.len());
        if works {
            self.processes.insert(id, Process::default());
            self.tell(Event::Started(id));
        } else {
            self.unreported.push((id, 0));
            let at = self.unreported.len() - 1;
            self.unreported.swap_remove(at);
            self.tell_not_started(id);
        }
    }

    fn tell_not_started(&mut self, id: WorkerId) {
        // The machine's own view is checked after it was told.
        self.tell(Event::NotStarted(id));
    }

    fn up(&mut self, n: usize) {
        let who = Self::nth(self.processes.keys().copied(), n);
        if let Some(id) = who {
            self.processes.get_mut(&id).unwrap().up = true;
            self.tell(Event::Up(id));
        }
    }

    fn take(&mut self, n: usize) {
        if self.end_said {
            return;
        }
        let free = |p: &Process| p.up && p.item.is_none() && !p.stopped;
        let who = Self::nth(
            (self.processes.iter()).filter_map(|(id, p)| free(p).then_some(*id)),
            n,
        );
        let what = self.items.iter().position(|i| *i == Item::Queued);
        if let (Some(id), Some(item)) = (who, what) {
            self.items[item] = Item::Runs(id);
            self.processes.get_mut(&id).unwrap().item = Some(item);
        }
    }

    fn busy(&self, n: usize) -> Option<(WorkerId, usize)> {
        let all = self.processes.iter();
        Self::nth(all.filter_map(|(id, p)| Some((*id, p.item?))), n)
    }

    fn finish(&mut self, n: usize) {
        if let Some((id, item)) = self.busy(n) {
            self.items[item] = Item::Done;
            self.processes.get_mut(&id).unwrap().item = None;
        }
    }

    fn die(&mut self, id: WorkerId, exit: i32) {
        let Some(process) = self.processes.remove(&id) else {
            return;
        };
        self.unreported.push((id, exit));
        if let Some(item) = process.item {
            self.items[item] = Item::Died;
            self.killed[item] += 1;
            let died = Event::Died {
                worker: id,
                pid: 1,
                job: job(),
                item: item as u64,
                retries: self.retries,
                now_ns: self.now,
            };
            self.tell(died);
        }
    }

    fn report(&mut self, n: usize) {
        if self.unreported.is_empty() {
            return;
        }
        let (worker, exit) = self.unreported.remove(n % self.unreported.len());
        self.tell(Event::Exited {
            worker,
            exit: Some(exit),
        });
    }

    fn condemn(&mut self, worker: WorkerId, item: usize, why: Why) {
        self.processes.get_mut(&worker).unwrap().stopped = true;
        self.tell(Event::Condemned {
            worker,
            job: job(),
            item: item as u64,
            why,
        });
    }

    fn cancel(&mut self, n: usize) {
        let item = n % self.items.len();
        match self.items[item] {
            Item::Queued => self.items[item] = Item::Failed(Failure::Cancelled),
            Item::Runs(id) => self.condemn(id, item, Why::Cancelled),
            Item::Died => self.tell(Event::CancelDied {
                job: job(),
                item: item as u64,
            }),
            Item::Done | Item::Failed(_) => {}
        }
    }

    fn act(&mut self, what: u8, n: usize) {
        match what {
            0 | 1 => self.start(n, true),
            2 => self.start(n, !n.is_multiple_of(4)),
            3 | 4 => self.up(n),
            5..=8 => self.take(n),
            9 | 10 => self.finish(n),
            11 => {
                if let Some(id) = Self::nth(self.processes.keys().copied(), n) {
                    self.die(id, -9);
                }
            }
            12 => {
                if let Some((id, _)) = self.busy(n) {
                    self.die(id, -11);
                }
            }
            13 | 14 => self.report(n),
            15 => {
                if let Some((id, item)) = self.busy(n) {
                    self.condemn(id, item, Why::TimedOut);
                }
            }
            16 => self.cancel(n),
            17 => {
                self.now += (n as u64 % 4) * GRACE_NS / 3;
                self.tell(Event::Tick { now_ns: self.now });
            }
            18 => {
                let all = self.processes.iter();
                let doomed = Self::nth(all.filter_map(|(id, p)| p.to_be_killed.then_some(*id)), n);
                if let Some(id) = doomed {
                    self.die(id, -9);
                }
            }
            19 if n.is_multiple_of(16) => self.tell(Event::Close),
            20 if n.is_multiple_of(64) => self.tell(Event::Terminate),
            _ => {}
        }
    }

    /// Nothing goes wrong any more: the pool is closed and everything is let run to its end.
    fn run_out(&mut self) {
        self.tell(Event::Close);
        for _ in 0..1000 {
            self.start(0, true);
            for n in 0..self.processes.len() {
                self.up(n);
            }
            self.take(0);
            self.finish(0);
            let doomed = self.processes.iter().find(|(_, p)| p.to_be_killed);
            if let Some((id, _)) = doomed {
                self.die(*id, -9);
            }
            self.report(0);
            self.now += GRACE_NS / 4;
            self.tell(Event::Tick { now_ns: self.now });
            let is_final = |i: &Item| matches!(i, Item::Done | Item::Failed(_));
            if self.items.iter().all(is_final) {
                self.tell(Event::AllDone);
            }
            if self.end_said {
                let idle = self.processes.iter().find(|(_, p)| p.item.is_none());
                if let Some((id, _)) = idle {
                    self.die(*id, 0);
                }
            }
            if self.ended > 0 {
                return;
            }
        }
        panic!("the pool does not end: {:?} {:?}", self.machine, self.items);
    }
}

const POISON: u32 = 3;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_item_has_one_outcome_and_no_worker_is_forgotten(
        target in 1usize..5,
        items in 1usize..12,
        retries in 0u32..4,
        limit in 1u32..12,
        actions in prop::collection::vec((0u8..21, 0usize..1000), 0..200),
    ) {
        let mut world = World::new(target, items, retries, limit);
        for (what, n) in actions {
            world.act(what, n);
        }
        world.run_out();
        prop_assert_eq!(world.ended, 1);
        prop_assert!(world.broken <= 1);
        prop_assert_eq!(world.machine.workers().count(), 0);
        prop_assert!(world.processes.is_empty() && world.to_start.is_empty());
        let open = |i: &Item| !matches!(i, Item::Done | Item::Failed(_));
        prop_assert!(!world.items.iter().any(open), "{:?}", world.items);
    }
}

fn machine(limit: u32) -> (Machine, WorkerId) {
    let mut machine = Machine::new(1, 3, limit);
    let first = machine.on(Event::Tick { now_ns: 0 });
    assert_eq!(first, [Step::Spawn(WorkerId(1))]);
    (machine, WorkerId(1))
}

fn died(worker: WorkerId, retries: u32) -> Event {
    Event::Died {
        worker,
        pid: 70,
        job: job(),
        item: 5,
        retries,
        now_ns: 10,
    }
}

#[test]
fn an_item_fails_once_it_is_known_how_its_worker_ended() {
    let (mut machine, worker) = machine(9);
    machine.on(Event::Up(worker));
    assert_eq!(machine.on(died(worker, 0)), []);
    let exit = Some(-11);
    let failure = Failure::WorkerDied {
        worker,
        pid: 70,
        exit,
    };
    assert_eq!(
        machine.on(Event::Exited { worker, exit }),
        [Step::Fail(job(), 5, failure), Step::Spawn(WorkerId(2))]
    );
}

#[test]
fn an_item_does_not_wait_for_ever_for_that() {
    let (mut machine, worker) = machine(9);
    machine.on(Event::Up(worker));
    machine.on(died(worker, 0));
    let due = machine.next_tick().unwrap();
    assert_eq!(machine.on(Event::Tick { now_ns: due - 1 }), []);
    let failure = Failure::WorkerDied {
        worker,
        pid: 70,
        exit: None,
    };
    let failed = Step::Fail(job(), 5, failure);
    assert_eq!(machine.on(Event::Tick { now_ns: due }), [failed]);
    assert_eq!(machine.next_tick(), None);
}

#[test]
fn a_poison_item_is_given_up_however_many_retries_it_may_have() {
    let (mut machine, mut worker) = machine(99);
    for _ in 0..2 {
        machine.on(Event::Up(worker));
        assert_eq!(machine.on(died(worker, 1000)), [Step::Retry(job(), 5)]);
        machine.on(Event::Exited {
            worker,
            exit: Some(-9),
        });
        worker.0 += 1;
    }
    assert_eq!(machine.on(died(worker, 1000)), []);
    let steps = machine.on(Event::Exited {
        worker,
        exit: Some(-9),
    });
    assert!(matches!(
        steps[0],
        Step::Fail(_, 5, Failure::WorkerDied { .. })
    ));
}

#[test]
fn a_condemned_worker_that_finished_in_time_is_killed_and_its_item_is_not_failed() {
    let (mut machine, worker) = machine(9);
    machine.on(Event::Up(worker));
    let steps = machine.on(Event::Condemned {
        worker,
        job: job(),
        item: 5,
        why: Why::TimedOut,
    });
    assert_eq!(steps, [Step::Kill(worker, Why::TimedOut)]);
    let steps = machine.on(Event::Exited {
        worker,
        exit: Some(-9),
    });
    assert_eq!(steps, [Step::Spawn(WorkerId(2))]);
}

#[test]
fn workers_that_all_die_at_start_break_the_pool() {
    let (mut machine, mut worker) = machine(3);
    let exit = Some(1);
    for _ in 0..2 {
        let steps = machine.on(Event::Exited { worker, exit });
        worker.0 += 1;
        assert_eq!(steps, [Step::Spawn(worker)]);
    }
    let steps = machine.on(Event::Exited { worker, exit });
    assert!(
        matches!(steps[..], [Step::Broken(b), Step::End, Step::Ended] if b.deaths == 3 && b.exit == exit)
    );
    assert!(machine.broken().is_some());
}

#[test]
fn one_that_comes_up_ends_the_row() {
    let (mut machine, mut worker) = machine(2);
    for _ in 0..5 {
        machine.on(Event::Exited {
            worker,
            exit: Some(1),
        });
        worker.0 += 1;
        machine.on(Event::Up(worker));
        machine.on(Event::Exited {
            worker,
            exit: Some(1),
        });
        worker.0 += 1;
    }
    assert_eq!(machine.broken(), None);
}

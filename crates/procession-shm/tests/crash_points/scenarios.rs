//! What the children do, and what must be true when one of them has died over it.

use procession_shm::bundle::{self, Part};
use procession_shm::memory::Memory;
use procession_shm::pipe;
use procession_shm::processes::{Owner, Role};
use procession_shm::ring::{Message, Ring, RingOptions};
use procession_shm::sync::{Future, Lock, Outcome, Ticket};
use procession_sys::clock::Deadline;
use procession_sys::process::{Exit, kill_self};

use crate::boards::{self, Work};
use crate::common::world::{SHAPES, World};
use crate::common::{Child, calmly, eventually, start, within};
use crate::stores;

/// Something that a child does and may die of.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// Can the child die even before it has joined the session?
    pub(crate) early: bool,
    pub(crate) before: fn(&World) -> Kept,
    pub(crate) child: fn(&World),
    pub(crate) after: fn(&World, Kept),
}

/// What the survivor has in hand meanwhile.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) tickets: Vec<Ticket>,
    pub(crate) work: Option<Work>,
    pub(crate) worker: Option<Child>,
}

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "put",
        early: false,
        before: nothing,
        child: put,
        after: after_put,
    },
    Scenario {
        name: "get",
        early: false,
        before: fill,
        child: get,
        after: after_get,
    },
    Scenario {
        name: "wrap",
        early: false,
        before: nothing,
        child: wrap,
        after: after_wrap,
    },
    Scenario {
        name: "blocks",
        early: false,
        before: nothing,
        child: blocks,
        after: done,
    },
    Scenario {
        name: "sync",
        early: false,
        before: nothing,
        child: sync,
        after: done,
    },
    Scenario {
        name: "notify",
        early: false,
        before: enlist,
        child: notify,
        after: after_notify,
    },
    Scenario {
        name: "barrier",
        early: false,
        before: nothing,
        child: barrier,
        after: done,
    },
    Scenario {
        name: "future",
        early: false,
        before: nothing,
        child: future,
        after: done,
    },
    Scenario {
        name: "objects",
        early: true,
        before: nothing,
        child: objects,
        after: done,
    },
    Scenario {
        name: "processes",
        early: false,
        before: nothing,
        child: processes,
        after: done,
    },
    Scenario {
        name: "recover-put",
        early: false,
        before: bury_put,
        child: recover,
        after: after_recover,
    },
    Scenario {
        name: "recover-free",
        early: false,
        before: bury_free,
        child: recover,
        after: after_recover,
    },
    Scenario {
        name: "recover-destroy",
        early: false,
        before: bury_destroy,
        child: recover,
        after: after_recover,
    },
    Scenario {
        name: "map",
        early: false,
        before: nothing,
        child: stores::map,
        after: stores::after_map,
    },
    Scenario {
        name: "list",
        early: false,
        before: nothing,
        child: stores::list,
        after: stores::after_list,
    },
    Scenario {
        name: "mend-torn-update",
        early: false,
        before: stores::torn_update,
        child: stores::mend,
        after: stores::after_mend_map,
    },
    Scenario {
        name: "mend-half-update",
        early: false,
        before: stores::half_done_update,
        child: stores::mend,
        after: stores::after_mend_map,
    },
    Scenario {
        name: "mend-list",
        early: false,
        before: stores::torn_list,
        child: stores::mend,
        after: stores::after_mend_list,
    },
    Scenario {
        name: "board-work",
        early: false,
        before: boards::work_to_do,
        child: boards::work,
        after: boards::after_work,
    },
    Scenario {
        name: "board-own",
        early: false,
        before: boards::worker_to_be,
        child: boards::own,
        after: boards::after_own,
    },
    Scenario {
        name: "board-bury-taking",
        early: false,
        before: boards::bury_taking,
        child: recover,
        after: boards::after_bury,
    },
    Scenario {
        name: "board-bury-handing",
        early: false,
        before: boards::bury_handing,
        child: recover,
        after: boards::after_bury,
    },
    Scenario {
        name: "board-bury-condemned",
        early: false,
        before: boards::bury_condemned,
        child: recover,
        after: boards::after_bury_condemned,
    },
];

pub(crate) fn scenario(name: &str) -> &'static Scenario {
    SCENARIOS
        .iter()
        .find(|s| s.name == name)
        .expect("a scenario's name")
}

fn nothing(_: &World) -> Kept {
    Kept::default()
}

fn done(_: &World, _: Kept) {}

// --- queues ---------------------------------------------------------------------------------

/// What is left in the queue is `plan[got..put]`, where a death may have left the diary one behind.
fn check_queue(world: &World, plan: &[u64], put: u64, got: u64) {
    let mut left = Vec::new();
    while let Some(seq) = world.take(world.ring.port()) {
        left.push(seq);
    }
    let fits = (got..=got + 1).any(|from| {
        (put..=put + 1).any(|to| plan.get(from as usize..to as usize) == Some(&left[..]))
    });
    assert!(
        fits,
        "lost or doubled: {left:?} are left of {plan:?}, of which {put} were put and {got} got"
    );
}

fn put(world: &World) {
    for seq in 0..SHAPES {
        world.put(world.ring.port(), seq);
        world.diary.write(0, seq + 1);
    }
}

fn after_put(world: &World, _: Kept) {
    let plan: Vec<u64> = (0..SHAPES).collect();
    check_queue(world, &plan, world.diary.read(0), 0);
}

fn fill(world: &World) -> Kept {
    put(world);
    Kept::default()
}

fn get(world: &World) {
    while let Some(seq) = world.take(world.ring.port()) {
        world.diary.write(1, seq + 1);
    }
}

fn after_get(world: &World, _: Kept) {
    let plan: Vec<u64> = (0..SHAPES).collect();
    check_queue(world, &plan, SHAPES, world.diary.read(1));
}

/// Middling messages that go around in the first segment again and again.
const WRAPPING: [u64; 9] = [1, 2, 3, 13, 14, 15, 25, 26, 27];

fn wrap(world: &World) {
    for (i, seq) in (1..).zip(WRAPPING) {
        world.put(world.ring.port(), seq);
        world.diary.write(0, i);
        assert_eq!(world.take(world.ring.port()), Some(seq));
        world.diary.write(1, i);
    }
    // The other queue is bounded, and joined; its writer closes it.
    for seq in [1, 4] {
        world.put(world.small.port(), seq);
    }
    assert!(world.small.port().is_full() && world.small.port().task_done().unwrap());
    while world.take(world.small.port()).is_some() {}
}

fn after_wrap(world: &World, _: Kept) {
    check_queue(world, &WRAPPING, world.diary.read(0), world.diary.read(1));
    while world.take(world.small.port()).is_some() {}
}

// --- blocks and objects -------------------------------------------------------------------

fn blocks(world: &World) {
    let session = world.session;
    let sizes = [
        100,
        100,
        500_000,
        500_000,
        500_000,
        500_000,
        500_000,
        3 << 20,
        5 << 20,
    ];
    let made: Vec<u64> = sizes.iter().map(|len| world.block(7, *len)).collect();
    for at in made {
        session.free_block(at).unwrap();
    }
    for apart in [true, false] {
        let parts = [
            Part {
                at: world.block(1, 4 << 20),
                len: 4 << 20,
            },
            Part {
                at: session.make_ticket(world.lock.handle()).unwrap(),
                len: 8,
            },
            Part {
                at: world.block(2, 200),
                len: 200,
            },
        ];
        let manifest = bundle::bind(session, &parts).unwrap();
        if apart {
            for part in bundle::unbind(session, manifest).unwrap() {
                session.free_block(part.at).unwrap();
            }
        } else {
            session.free_block(manifest).unwrap();
        }
    }
}

fn objects(world: &World) {
    let session = world.session;
    let lock = Lock::create(session, "child's").unwrap();
    let inner = Ring::create(session, "inner", RingOptions::default()).unwrap();
    let outer = Ring::create(session, "outer", RingOptions::default()).unwrap();
    let memory = Memory::create(session, "memory", 3 << 20).unwrap();
    let ends = pipe::create(session, "pipe", true).unwrap();
    for seq in [4, 5, 6, 7, 8, 9] {
        world.put(inner.port(), seq);
    }
    // The outer queue keeps the inner one alive, and goes with its contents.
    let ticket = Some(session.make_ticket(inner.handle()).unwrap());
    let message = Message {
        bytes: b"a queue",
        block: ticket,
        ..Message::default()
    };
    outer.port().put(message, within(60), &mut calmly).unwrap();
    ends.0
        .send(Message::new(&vec![1; 50_000]), within(60), &mut calmly)
        .unwrap();
    stores::make_and_drop(world);
    drop((inner, lock, memory, ends));
    drop(outer);
    session.leave(0).unwrap();
}

// --- synchronisation ------------------------------------------------------------------------

fn sync(world: &World) {
    for _ in 0..2 {
        world.lock.acquire(within(60), &mut calmly).unwrap();
        assert!(world.lock.release());
    }
    for _ in 0..2 {
        world.semaphore.acquire(within(60), &mut calmly).unwrap();
    }
    for _ in 0..2 {
        assert!(world.semaphore.release().unwrap());
    }
    world.event.set();
    world.event.wait(within(60), &mut calmly).unwrap();
    world.event.clear();
}

fn enlist(world: &World) -> Kept {
    Kept {
        tickets: vec![world.condition.enlist().unwrap()],
        ..Kept::default()
    }
}

fn notify(world: &World) {
    let ticket = world.condition.enlist().unwrap();
    assert_eq!(world.condition.notify(2), 2);
    ticket.wait(within(60), &mut calmly).unwrap();
    assert!(ticket.leave());
}

fn after_notify(world: &World, kept: Kept) {
    for ticket in kept.tickets {
        if ticket.wait(Deadline::NOW, &mut calmly).is_err() {
            assert_eq!(world.condition.notify(1), 1);
        }
        ticket.wait(within(10), &mut calmly).unwrap();
        assert!(ticket.leave());
    }
}

fn barrier(world: &World) {
    for _ in 0..2 {
        let arrival = world.solo.arrive(within(60), &mut calmly).unwrap().unwrap();
        assert!(arrival.last);
        world
            .solo
            .open(arrival, Deadline::NEVER, &mut || true)
            .unwrap()
            .unwrap();
        world
            .solo
            .wait(arrival, within(60), &mut calmly)
            .unwrap()
            .unwrap();
        world.solo.reset().unwrap();
    }
    let _ = world
        .barrier
        .arrive(within(60), &mut calmly)
        .unwrap()
        .unwrap();
    world.barrier.abort().unwrap();
}

fn future(world: &World) {
    let session = world.session;
    for (len, blocks) in [(1, 0), (100_000, 0), (20, 1), (2000, 2)] {
        let future = Future::create(session, "call").unwrap();
        let mut parts = Vec::new();
        if blocks > 0 {
            parts.push(Part {
                at: world.block(1, 3 << 20),
                len: 3 << 20,
            });
        }
        if blocks > 1 {
            let at = session.make_ticket(world.lock.handle()).unwrap();
            parts.push(Part { at, len: 8 });
        }
        let block = match parts[..] {
            [] => None,
            [one] => Some(one.at),
            _ => Some(bundle::bind(session, &parts).unwrap()),
        };
        let bytes = vec![7; len];
        let message = Message {
            bytes: &bytes,
            block,
            ..Message::default()
        };
        assert!(future.outcome().unwrap().is_none());
        assert!(future.settle(true, message).unwrap());
        future.wait(within(60), &mut calmly).unwrap();
        let Some(Outcome::Told { bytes, block, .. }) = future.outcome().unwrap() else {
            panic!("the outcome was told");
        };
        assert_eq!((bytes.len(), block.is_some()), (len, blocks > 0));
        if let Some(block) = block {
            session.free_block(block).unwrap();
        }
    }
}

// --- processes ------------------------------------------------------------------------------

fn processes(world: &World) {
    let session = world.session;
    let unused = session.reserve("never started", Role::Process).unwrap();
    session.abandon(unused).unwrap();
    let mut grandchild = start(session, "idle", &[], "");
    let exit = grandchild.end();
    assert_eq!(exit, Exit::Code(0));
    session
        .exited(grandchild.owner, exit.as_exitcode())
        .unwrap();
    assert_eq!(session.exit_status(grandchild.owner).unwrap(), Some(0));
    // Nobody says how this one has ended but itself.
    let mut grandchild = start(session, "idle", &[], "");
    grandchild.end();
    assert_eq!(session.exit_status(grandchild.owner).unwrap(), Some(0));
}

// --- death of one who buries ---------------------------------------------------------------

/// Has a child die with its hands full, in the middle of what `crash_at` names; nobody has noticed yet.
fn bury(world: &World, crash_at: &str) -> Kept {
    let mut victim = start(world.session, "victim", &world.names(), crash_at);
    eventually("the victim waits", || {
        world.diary.read(8) == 1 || victim.ends_within(Deadline::NOW)
    });
    let ticket = world.condition.enlist().unwrap();
    world.event.set();
    assert_eq!(victim.end(), Exit::Signal(9));
    world.event.clear();
    assert_eq!(world.lock.owner(), Some(victim.owner));
    world.diary.write(9, victim.owner.word().into());
    Kept {
        tickets: vec![ticket],
        ..Kept::default()
    }
}

fn bury_put(world: &World) -> Kept {
    bury(world, "ring.push.written:7")
}

fn bury_free(world: &World) -> Kept {
    bury(world, "arena.free.done:1")
}

fn bury_destroy(world: &World) -> Kept {
    bury(world, "object.destroy.unlinked:1")
}

pub(crate) fn victim(world: &World) {
    let ticket = world.condition.enlist().unwrap();
    world.diary.write(8, 1);
    world.event.wait(within(60), &mut calmly).unwrap();
    // Its notification has to go on to the one who enlisted after it.
    assert_eq!(world.condition.notify(1), 1);
    world.lock.acquire(within(60), &mut calmly).unwrap();
    world.semaphore.acquire(within(60), &mut calmly).unwrap();
    let _ = world
        .barrier
        .arrive(within(60), &mut calmly)
        .unwrap()
        .unwrap();
    let own = Ring::create(world.session, "victim's", RingOptions::default()).unwrap();
    for seq in 4..10 {
        world.put(own.port(), seq);
    }
    world.block(3, 6 << 20);
    put(world);
    drop(own);
    drop(ticket);
    kill_self();
}

fn recover(world: &World) {
    world.session.recover_now().unwrap();
}

fn after_recover(world: &World, kept: Kept) {
    let victim = Owner::from_word(world.diary.read(9) as u32).unwrap();
    world.session.recover_now().unwrap();
    for ticket in kept.tickets {
        ticket
            .wait(within(10), &mut calmly)
            .expect("the dead waiter's notification went on");
        assert!(ticket.leave());
    }
    world.lock.acquire(within(10), &mut calmly).unwrap();
    assert!(
        world.lock.take_recovery() && !world.lock.take_recovery(),
        "told once"
    );
    assert!(world.lock.release());
    assert_eq!(world.semaphore.recoveries(), 1);
    assert!(world.barrier.is_broken());
    let plan: Vec<u64> = (0..SHAPES).collect();
    check_queue(world, &plan, world.diary.read(0), 0);
    world.session.exited(victim, -9).unwrap();
}

//! A process says goodbye while its other threads are still at work with the session.
#![cfg(not(loom))]

mod common;

use common::world::World;
use common::{calmly, eventually, inside, start, within};
use procession_shm::kinds;
use procession_shm::sync::Ticket;
use procession_sys::process::Exit;

/// Waiters that one condition can have at a time.
const WAITERS: u64 = 4096;

#[test]
#[ignore = "the body of the other tests' children"]
fn child() {
    let Some(inside) = inside() else { return };
    let session = inside.attach();
    let world = World::find(session, &inside.args);
    match inside.task.as_str() {
        // As threads that end with their process in the middle of their waits.
        "wait" => {
            let tickets: Vec<Ticket> = (0..world.diary.read(0))
                .map(|_| world.condition.enlist().unwrap())
                .collect();
            world.diary.write(1, 1);
            eventually("it is told to go", || world.diary.read(2) == 1);
            session.leave(0).unwrap();
            std::mem::forget(tickets);
        }
        other => panic!("no task {other}"),
    }
    std::process::exit(0);
}

#[test]
fn the_places_of_waiters_who_left() {
    let session = kinds::create("other", None).unwrap();
    let world = World::create(session);
    world.diary.write(0, WAITERS);
    world.diary.write(2, 1);
    let mut child = start(session, "wait", &world.names(), "");
    assert_eq!(child.end(), Exit::Code(0));
    session.exited(child.owner, 0).unwrap();
    assert_eq!(world.condition.waiters(), 0);
    world.exercise();
}

#[test]
fn the_notification_of_a_waiter_who_left() {
    let session = kinds::create("other", None).unwrap();
    let world = World::create(session);
    world.diary.write(0, 1);
    let mut child = start(session, "wait", &world.names(), "");
    eventually("the child waits", || world.diary.read(1) == 1);
    let ticket = world.condition.enlist().unwrap();
    assert_eq!(world.condition.notify(1), 1);
    assert_eq!(world.condition.waiters(), 1);
    world.diary.write(2, 1);
    ticket.wait(within(60), &mut calmly).unwrap();
    assert!(ticket.leave());
    assert_eq!(child.end(), Exit::Code(0));
    session.exited(child.owner, 0).unwrap();
    world.exercise();
}

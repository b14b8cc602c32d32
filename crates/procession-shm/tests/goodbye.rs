//! A process says goodbye while its other threads are still at work with the session.
#![cfg(not(loom))]

mod common;

use common::world::{Diary, World};
use common::{Inventory, calmly, eventually, inside, start, within};
use procession_shm::pipe::{self, PipeEnd};
use procession_shm::primitive::Ordering;
use procession_shm::ring::{Message, Ring, RingOptions};
use procession_shm::sync::{Event, Ticket};
use procession_shm::{ShmError, WaitError, fault, kinds};
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
        // As threads that end with their process in the middle of what they do: each stays in the section in which it takes a
        // message.
        "take" => {
            let own = Ring::create(session, "own", RingOptions::default()).unwrap();
            let message = Message::new(b"message");
            own.port().put(message, within(60), &mut calmly).unwrap();
            world.diary.write_handle(2, own.handle());
            let (near, far) = pipe::create(session, "pipe", true).unwrap();
            world.diary.write_handle(4, near.handle());
            eventually("the parent has sent", || world.diary.read(6) == 1);
            drop(near);
            for ring in [world.ring.clone(), own] {
                let diary = world.diary.clone();
                std::thread::spawn(move || {
                    let stay = |_: &[u8], _| stay(&diary);
                    ring.port().get(within(60), &mut calmly, stay)
                });
            }
            let diary = world.diary.clone();
            std::thread::spawn(move || {
                let mut stay = |_: &[u8], _| stay(&diary);
                far.recv(within(60), &mut calmly, &mut stay)
            });
            eventually("all threads are there", || world.diary.read(7) == 3);
            session.leave(0).unwrap();
            world.diary.write(8, 1);
            eventually("it is told to go", || world.diary.read(9) == 1);
        }
        // Objects of its own, until there is room for only a few more.
        "fill" => {
            let there = session.entries().filter(|(_, e)| e.kind().is_some());
            let room = session.geometry().objects as usize - there.count() - 10;
            let all: Vec<Event> = (0..room)
                .map(|_| Event::create(session, "own").unwrap())
                .collect();
            session.leave(0).unwrap();
            std::mem::forget(all);
        }
        // As it finds the table of objects taken by one who is stopped.
        "leave" => {
            let own = Event::create(session, "own").unwrap();
            world.diary.write(0, 1);
            eventually("the other one is stopped", || world.diary.read(1) == 1);
            assert_eq!(session.leave(0), Err(ShmError::Busy));
            assert!(session.current().is_none());
            // Waits for nobody.
            drop(own);
            drop(world);
        }
        "create" => {
            fault::arm_stop("object.create.filled", 1);
            drop(Event::create(session, "another").unwrap());
            session.leave(0).unwrap();
        }
        other => panic!("no task {other}"),
    }
    std::process::exit(0);
}

fn stay(diary: &Diary) {
    diary.add(7);
    loop {
        std::thread::park();
    }
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

#[test]
fn the_objects_of_one_whose_end_nobody_has_looked_for() {
    let session = kinds::create("other", None).unwrap();
    let world = World::create(session);
    let mut child = start(session, "fill", &world.names(), "");
    assert_eq!(child.end(), Exit::Code(0));
    let more: Vec<Event> = (0..100)
        .map(|_| Event::create(session, "more").unwrap())
        .collect();
    drop(more);
    session.exited(child.owner, 0).unwrap();
    world.exercise();
}

#[test]
fn a_goodbye_while_another_one_is_stopped() {
    let session = kinds::create("other", None).unwrap();
    let before = Inventory::take(session);
    let world = World::create(session);
    let mut leaving = start(session, "leave", &world.names(), "");
    eventually("the child is there", || world.diary.read(0) == 1);
    let mut stopped = start(session, "create", &world.names(), "");
    eventually("the other one is stopped", || stopped.is_stopped());
    world.diary.write(1, 1);
    assert_eq!(leaving.end(), Exit::Code(0));
    stopped.go_on();
    assert_eq!(stopped.end(), Exit::Code(0));
    session.exited(leaving.owner, 0).unwrap();
    session.exited(stopped.owner, 0).unwrap();
    world.exercise();
    drop(world);
    assert_eq!(Inventory::take(session), before);
}

#[test]
fn threads_in_the_middle_of_something() {
    let session = kinds::create("other", None).unwrap();
    let before = Inventory::take(session);
    let world = World::create(session);
    world.put(world.ring.port(), 0);
    let mut child = start(session, "take", &world.names(), "");
    eventually("the pipe is there", || world.diary.read(4) != 0);
    let end = PipeEnd::of(world.diary.read_handle(4).unwrap()).unwrap();
    let message = Message::new(b"message");
    end.send(message, within(60), &mut calmly).unwrap();
    world.diary.write(6, 1);
    eventually("the child has said goodbye", || world.diary.read(8) == 1);
    // The peer learns it at once.
    let nothing = end.recv(within(60), &mut calmly, &mut |_: &[u8], _| ());
    assert_eq!(nothing, Err(WaitError::Closed));
    // But as long as the threads are there, so is what they work with, although nobody holds it.
    let own = world.diary.read(2) as u32 - 1;
    let pipe = end.handle().entry().link.load(Ordering::SeqCst) as u32 - 1;
    drop(end);
    let exist = |index: u32| session.entry(index).unwrap().kind().is_some();
    assert!(exist(own) && exist(pipe));
    session
        .view_holds(child.owner.slot(), 0..pipe.max(own) + 1, |h| {
            assert!(!h.held);
        })
        .unwrap();
    world.diary.write(9, 1);
    assert_eq!(child.end(), Exit::Code(0));
    session.exited(child.owner, 0).unwrap();
    assert!(!exist(own) && !exist(pipe));
    // It did not come to take this.
    assert_eq!(world.take(world.ring.port()), Some(0));
    world.exercise();
    drop(world);
    assert_eq!(Inventory::take(session), before);
}

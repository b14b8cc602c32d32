//! Descriptors that become readable, where the means for it are lacking for a while.
#![cfg(not(loom))]

mod common;

use std::fs::File;
use std::os::fd::BorrowedFd;

use common::world::World;
use common::{eventually, inside, start, within};
use procession_shm::{ShmError, kinds};
use procession_sys::clock::Deadline;
use procession_sys::limits;
use procession_sys::poll::wait_readable;
use procession_sys::process::Exit;

/// Takes all descriptors that this process may have.
fn take_all() -> Vec<File> {
    limits::limit_descriptors(256).unwrap();
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

fn is_readable(fd: i32, deadline: Deadline) -> bool {
    // SAFETY: the watch that has it is kept until this process drops its last handle to the object.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    wait_readable(&fd, deadline).unwrap()
}

#[test]
#[ignore = "the body of the other tests' children"]
fn child() {
    let Some(inside) = inside() else { return };
    let session = inside.attach();
    let world = World::find(session, &inside.args);
    let mut taken = take_all();
    match inside.task.as_str() {
        "put" => {
            world.put(world.ring.port(), 0);
            world.diary.write(0, 1);
            eventually("it is told to go on", || world.diary.read(1) == 1);
            taken.clear();
            world.put(world.ring.port(), 0);
        }
        "watch" => {
            world.put(world.ring.port(), 0);
            // Enough for the one who is rung, but not for the one who rings.
            taken.pop();
            let watch = || world.ring.port().watch(&|| Ok(false));
            assert!(matches!(watch(), Err(ShmError::System { .. })));
            taken.clear();
            assert!(is_readable(watch().unwrap(), Deadline::NOW));
        }
        other => panic!("no task {other}"),
    }
    session.leave(0).unwrap();
    std::process::exit(0);
}

/// A child that puts a message while it cannot ring, and then `meanwhile`, before it goes on to put another one.
fn put_silently(meanwhile: impl FnOnce(&World, i32)) {
    let session = kinds::create("watcher", None).unwrap();
    let world = World::create(session);
    let fd = world.ring.port().watch(&|| Ok(false)).unwrap();
    let mut child = start(session, "put", &world.names(), "");
    eventually("the child has put", || world.diary.read(0) == 1);
    assert!(!is_readable(fd, Deadline::NOW));
    meanwhile(&world, fd);
    world.diary.write(1, 1);
    assert!(is_readable(fd, within(60)));
    assert_eq!(child.end(), Exit::Code(0));
    for _ in 0..2 {
        assert_eq!(world.take(world.ring.port()), Some(0));
    }
    assert!(!is_readable(fd, Deadline::NOW));
    session.exited(child.owner, 0).unwrap();
    world.exercise();
}

#[test]
fn the_next_message_rings_for_the_one_that_could_not() {
    put_silently(|_, _| ());
}

#[test]
fn whoever_looks_for_the_dead_rings_for_one_who_could_not() {
    put_silently(|world, fd| {
        eventually("it is rung", || {
            world.session.sweep().unwrap();
            is_readable(fd, Deadline::NOW)
        });
    });
}

#[test]
fn who_could_not_be_rung_is_told_so() {
    let session = kinds::create("watcher", None).unwrap();
    let world = World::create(session);
    let mut child = start(session, "watch", &world.names(), "");
    assert_eq!(child.end(), Exit::Code(0));
}

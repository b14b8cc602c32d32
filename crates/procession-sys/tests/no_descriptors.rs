//! A process that has no descriptor left must not take others for dead. Alone in its program, whose limit it lowers.

use std::fs::File;

use procession_sys::ident::{ProcessId, parent_pid};

#[test]
fn a_process_that_cannot_be_looked_at_is_not_dead() {
    let (me, parent) = (ProcessId::current(), ProcessId::of(parent_pid()).unwrap());
    procession_sys::limits::limit_descriptors(40).unwrap();
    let taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(taken.len() < 40);
    assert!(me.is_alive() && parent.is_alive());
    drop(taken);
    assert!(me.is_alive() && parent.is_alive());
}

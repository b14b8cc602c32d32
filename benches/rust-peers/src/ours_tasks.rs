//! What the children of procession run.

use procession::{Pipe, Queue};
use serde_bytes::ByteBuf;

#[procession::task]
pub fn send_numbers(queue: Queue<u64>, count: u32) {
    for number in 0..u64::from(count) {
        queue.put(number).expect("the queue is open");
    }
}

#[procession::task]
pub fn send_bytes(queue: Queue<ByteBuf>, len: usize, count: u32) {
    let bytes = ByteBuf::from(vec![7; len]);
    for _ in 0..count {
        queue.put(&bytes).expect("the queue is open");
    }
}

#[procession::task]
pub fn echo(pipe: Pipe<u64>) {
    while let Ok(number) = pipe.recv() {
        if pipe.send(number).is_err() {
            return;
        }
    }
}

#[procession::task]
pub fn add_one(number: u64) -> u64 {
    number + 1
}

#[procession::task]
pub fn say_one_more(number: u64, queue: Queue<u64>) {
    queue.put(number + 1).expect("the queue is open");
}

//! What the models share: where their threads sleep.
#![allow(dead_code, unreachable_pub)] // every program of models uses its own part of this

use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::{Condvar, Mutex};
use procession_shm::gate::{Gate, Wake};

/// The kernel's queue of sleepers of one word.
#[derive(Default)]
pub struct Futex {
    /// Sleepers, and how many of them have been woken and have not noticed yet.
    queue: Mutex<(u32, u32)>,
    bell: Condvar,
}

impl Futex {
    pub fn wait(&self, word: &AtomicU32, expected: u32) {
        let mut queue = self.queue.lock().unwrap();
        if word.load(Ordering::SeqCst) != expected {
            return;
        }
        queue.0 += 1;
        while queue.1 == 0 {
            queue = self.bell.wait(queue).unwrap();
        }
        queue.1 -= 1;
    }

    pub fn wake(&self, count: u32) -> usize {
        let mut queue = self.queue.lock().unwrap();
        let woken = queue.0.min(count);
        queue.0 -= woken;
        queue.1 += woken;
        drop(queue);
        self.bell.notify_all();
        woken as usize
    }
}

/// Where threads wait for what they need.
#[derive(Default)]
pub struct Place {
    gate: Gate,
    futex: Futex,
}

impl Place {
    pub fn until<T>(&self, mut ready: impl FnMut() -> Option<T>) -> T {
        loop {
            let seq = self.gate.prepare();
            if let Some(value) = ready() {
                return value;
            }
            self.futex.wait(self.gate.word(), seq);
        }
    }

    pub fn notify(&self, wake: Wake) {
        self.gate.notify(wake, |_, count| self.futex.wake(count));
    }

    pub fn notify_ordered(&self, wake: Wake) {
        self.gate
            .notify_ordered(wake, |_, count| self.futex.wake(count));
    }
}

//! Waiting on a word of shared memory, and waking those who wait.
//!
//! The words are in memory that several processes map, so none of these calls is process-private.

use std::num::NonZeroU32;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use rustix::thread::futex;

/// Why [`wait`] came back. Whoever waits checks its condition again in every case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// Somebody called [`wake`], or the kernel woke us for no reason.
    Woken,
    /// The word did not hold the expected value any more.
    Changed,
    /// A signal handler ran.
    Interrupted,
    /// The time was up.
    TimedOut,
}

/// Sleeps while `word` holds `expected`, for `timeout` at most.
pub fn wait(word: &AtomicU32, expected: u32, timeout: Duration) -> Woken {
    let ts = rustix::time::Timespec {
        tv_sec: timeout.as_secs() as i64,
        tv_nsec: timeout.subsec_nanos().into(),
    };
    woken(futex::wait(
        word,
        futex::Flags::empty(),
        expected,
        Some(&ts),
    ))
}

/// As [`wait`], for one that can be woken by `name` too: [`wake_named`] wakes those who have a bit in common with it.
pub fn wait_named(word: &AtomicU32, expected: u32, timeout: Duration, name: NonZeroU32) -> Woken {
    let until = u128::from(crate::clock::now_ns()).saturating_add(timeout.as_nanos());
    let ts = rustix::time::Timespec {
        tv_sec: i64::try_from(until / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: (until % 1_000_000_000) as i64,
    };
    woken(futex::wait_bitset(
        word,
        futex::Flags::empty(),
        expected,
        Some(&ts),
        name,
    ))
}

fn woken(result: rustix::io::Result<()>) -> Woken {
    match result {
        Ok(()) => Woken::Woken,
        Err(rustix::io::Errno::AGAIN) => Woken::Changed,
        Err(rustix::io::Errno::TIMEDOUT) => Woken::TimedOut,
        // EINTR, and anything unforeseen: the caller re-checks and is bounded by its slices.
        Err(_) => Woken::Interrupted,
    }
}

/// Wakes up to `count` sleepers of `word` and says how many there were.
pub fn wake(word: &AtomicU32, count: u32) -> usize {
    futex::wake(word, futex::Flags::empty(), count.min(i32::MAX as u32)).unwrap_or(0)
}

/// Wakes one sleeper of `word` that called [`wait_named`] with a bit of `name`, and says how many there were.
pub fn wake_named(word: &AtomicU32, name: NonZeroU32) -> usize {
    futex::wake_bitset(word, futex::Flags::empty(), 1, name).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_word_is_not_waited_for() {
        let word = AtomicU32::new(1);
        assert_eq!(wait(&word, 0, Duration::from_secs(60)), Woken::Changed);
    }

    #[test]
    fn an_unchanged_word_times_out() {
        let word = AtomicU32::new(1);
        assert_eq!(wait(&word, 1, Duration::from_millis(1)), Woken::TimedOut);
        assert_eq!(wake(&word, 1), 0);
    }

    #[test]
    fn a_sleeper_is_woken_by_its_name_and_by_no_other() {
        let word = AtomicU32::new(1);
        let name = |bits| NonZeroU32::new(bits).unwrap();
        let brief = Duration::from_millis(1);
        assert_eq!(wait_named(&word, 0, brief, name(2)), Woken::Changed);
        assert_eq!(wait_named(&word, 1, brief, name(2)), Woken::TimedOut);
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| wait_named(&word, 1, Duration::from_secs(60), name(2)));
            while wake_named(&word, name(2)) == 0 {
                assert_eq!(wake_named(&word, name(4)), 0);
                std::thread::yield_now();
            }
            assert_eq!(sleeper.join().unwrap(), Woken::Woken);
        });
    }
}

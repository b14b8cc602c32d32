//! Monotonic time and deadlines.

use std::time::Duration;

/// Nanoseconds of the system's monotonic clock, which all processes of a machine share.
pub fn now_ns() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// A moment until which somebody is willing to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline(Option<u64>);

impl Deadline {
    /// Wait for ever.
    pub const NEVER: Self = Self(None);
    /// Do not wait at all.
    pub const NOW: Self = Self(Some(0));

    /// The moment `timeout` from now; `None` is never. A timeout that overflows the clock is never as well.
    pub fn after(timeout: Option<Duration>) -> Self {
        Self(timeout.and_then(|t| {
            if t.is_zero() {
                return Some(0);
            }
            u64::try_from(t.as_nanos())
                .ok()
                .and_then(|t| now_ns().checked_add(t))
        }))
    }

    /// True for a deadline that was asked not to wait.
    pub fn is_now(self) -> bool {
        self.0 == Some(0)
    }

    /// True once the moment has come.
    pub fn passed(self) -> bool {
        self.0.is_some_and(|at| at == 0 || now_ns() >= at)
    }

    /// What is left, cut to `slice`; zero once the moment has come.
    pub fn slice(self, slice: Duration) -> Duration {
        match self.0 {
            None => slice,
            Some(0) => Duration::ZERO,
            Some(at) => Duration::from_nanos(at.saturating_sub(now_ns())).min(slice),
        }
    }

    /// What is left, `None` for ever.
    pub fn remaining(self) -> Option<Duration> {
        self.0
            .map(|at| Duration::from_nanos(at.saturating_sub(now_ns())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_does_not_pass_and_now_has_passed() {
        assert!(!Deadline::NEVER.passed());
        assert!(Deadline::NOW.passed());
        assert!(Deadline::after(Some(Duration::ZERO)).is_now());
    }

    #[test]
    fn a_huge_timeout_is_never() {
        assert_eq!(Deadline::after(Some(Duration::MAX)), Deadline::NEVER);
    }

    #[test]
    fn slices_are_cut_at_the_deadline() {
        let d = Deadline::after(Some(Duration::from_secs(3600)));
        assert_eq!(
            d.slice(Duration::from_millis(50)),
            Duration::from_millis(50)
        );
        assert_eq!(
            Deadline::NOW.slice(Duration::from_millis(50)),
            Duration::ZERO
        );
    }
}

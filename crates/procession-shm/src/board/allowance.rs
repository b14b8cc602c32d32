//! What a worker may still run before it is replaced: so many tasks, of which one may be several items of a job.

/// What one task is worth: enough that items of large tasks add up.
const TASK: u64 = 1 << 40;

/// What is left to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowance(u64);

impl Allowance {
    /// For a worker that may run `max` tasks in all, zero (or more than can be counted) for any number, and has used up so much.
    pub(super) fn new(max: u64, used: u64) -> Self {
        match max.checked_mul(TASK) {
            None | Some(0) => Self(u64::MAX),
            Some(all) => Self(all.saturating_sub(used)),
        }
    }

    pub(super) fn is_used_up(self) -> bool {
        self.0 == 0
    }

    /// How many items that is of a job with `hint` items in a task. The last one may be begun with what is left of a task.
    pub(super) fn items(self, hint: u64) -> u64 {
        self.0.div_ceil(cost(hint))
    }
}

/// What an item uses up of a job with `hint` items in a task.
pub(super) fn cost(hint: u64) -> u64 {
    TASK.div_ceil(hint.clamp(1, TASK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_runs_as_many_items_as_its_tasks_have() {
        for (hint, items) in [
            (0, 1),
            (1, 1),
            (2, 2),
            (3, 3),
            (1000, 1000),
            (12_345, 12_345),
        ] {
            for max in [1, 2, 5] {
                let (mut used, mut run) = (0, 0);
                while !Allowance::new(max, used).is_used_up() {
                    assert!(Allowance::new(max, used).items(hint) <= max * items - run);
                    used += cost(hint);
                    run += 1;
                }
                assert_eq!(run, max * items, "{hint} in a task, {max} tasks");
            }
        }
    }

    #[test]
    fn without_a_limit_nothing_is_used_up() {
        let any = Allowance::new(0, u64::MAX);
        assert!(!any.is_used_up());
        assert_eq!(Allowance::new(1 << 24, u64::MAX), any);
        assert_eq!(any.items(1), Allowance::new(0, 0).items(1));
        assert!(any.items(0) > 1 << 20);
        assert_eq!(Allowance::new(1, 0).items(u64::MAX), TASK);
    }
}

//! The parent's side of a pool: waiting. Nobody holds the pool's lock while asleep.

use std::time::Duration;

use procession_shm::WaitError;
use procession_shm::board::{JobId, JobWatch};
use procession_shm::wait::{Check, Wait, WaitKind};
use procession_sys::clock::{Deadline, now_ns};

use super::driver::{Inner, Job, Pool};
use super::state::Phase;
use super::{PoolError, Until, Woken};

/// The first sleep before the truth is looked at again (what wakes us is a hint, which may come late or die with its
/// writer), doubled up to the last.
const FIRST_SLICE: Duration = Duration::from_millis(5);
const LAST_SLICE: Duration = Duration::from_millis(100);

/// What a waiting thread looks at.
struct Look {
    watch: Option<JobWatch>,
    /// Wake when so many items are done.
    done: u64,
    next: bool,
    any: bool,
    seen: u64,
    /// When somebody has to call `poll`.
    poll_at: Option<u64>,
}

impl Pool {
    /// Waits for a job's outcomes. `check` runs now and then.
    pub fn wait(
        &self,
        job: JobId,
        until: Until,
        deadline: Deadline,
        check: Check<'_>,
    ) -> Result<Woken, PoolError> {
        self.wait_on(&[(job, until)], true, deadline, check)
    }

    /// Waits until [`Pool::poll`] has something to do.
    pub fn wait_attention(&self, deadline: Deadline, check: Check<'_>) -> Result<Woken, PoolError> {
        self.wait_on(&[], false, deadline, check)
    }

    /// Waits until one of several jobs has what is wanted of it. Jobs that are wholly collected are never ready.
    pub fn wait_many(
        &self,
        wanted: &[(JobId, Until)],
        deadline: Deadline,
        check: Check<'_>,
    ) -> Result<Woken, PoolError> {
        self.wait_on(wanted, false, deadline, check)
    }

    /// If `strict`, it is an error to wait for what cannot come any more.
    fn wait_on(
        &self,
        wanted: &[(JobId, Until)],
        strict: bool,
        deadline: Deadline,
        check: Check<'_>,
    ) -> Result<Woken, PoolError> {
        let mut slice = FIRST_SLICE;
        loop {
            let looks = match self.look(wanted, strict)? {
                Ok(woken) => return Ok(woken),
                Err(looks) => looks,
            };
            let slept = self.sleep(&looks, slice, deadline, &mut *check);
            let timed_out = slept == Err(WaitError::TimedOut);
            let mut inner = self.lock()?;
            for (look, &(job, until)) in looks.iter().zip(wanted) {
                if let Ok(job) = inner.job(job) {
                    job.stop_waiting(look.done);
                    if timed_out && until == Until::Any {
                        job.owned.look_hard()?;
                    }
                }
            }
            slice = (slice * 2).min(LAST_SLICE);
            match slept {
                Err(WaitError::TimedOut) if deadline.passed() => {
                    // The truth once more: the hint may have been lost.
                    for &(job, until) in wanted {
                        if inner.is_ready(job, until)? {
                            return Ok(Woken::Ready);
                        }
                    }
                    return Err(WaitError::TimedOut.into());
                }
                Ok(()) | Err(WaitError::TimedOut) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What there is, or what to look at while asleep: one look for each job, or one for attention alone.
    fn look(
        &self,
        wanted: &[(JobId, Until)],
        strict: bool,
    ) -> Result<Result<Woken, Vec<Look>>, PoolError> {
        let mut inner = self.lock()?;
        if inner.needs_poll() {
            return Ok(Ok(Woken::Attention));
        }
        if let Some(broken) = inner.machine.broken()
            && strict
        {
            return Err(PoolError::Broken(broken));
        }
        for &(job, until) in wanted {
            if inner.is_ready(job, until)? {
                return Ok(Ok(Woken::Ready));
            }
            if strict {
                inner.check_waiting(job)?;
            }
        }
        let mut looks = Vec::with_capacity(wanted.len().max(1));
        for &(job, until) in wanted {
            looks.push(inner.look_for(job, until)?);
        }
        if looks.is_empty() {
            looks.push(inner.look_for_attention());
        }
        Ok(Err(looks))
    }

    fn sleep(
        &self,
        looks: &[Look],
        mut slice: Duration,
        deadline: Deadline,
        check: Check<'_>,
    ) -> Result<(), WaitError> {
        if let Some(at) = looks.iter().filter_map(|l| l.poll_at).min() {
            let left = Duration::from_nanos(at.saturating_sub(now_ns()).max(1));
            slice = slice.min(left);
        }
        let until = match deadline.remaining() {
            _ if deadline.is_now() => Deadline::NOW,
            Some(left) => Deadline::after(Some(slice.min(left).max(Duration::from_nanos(1)))),
            None => Deadline::after(Some(slice)),
        };
        let (session, index) = (self.board.session(), self.handle().index());
        Wait::new(session, index, WaitKind::Result, until)
            .checked(check)
            .until(self.board.finished(), || {
                let events = self.board.events();
                let ready = looks.iter().any(|look| {
                    events != look.seen
                        || look.watch.is_some_and(|w| {
                            w.done() >= look.done
                                || look.next && w.has_next()
                                || look.any && w.has_any()
                        })
                });
                Ok(ready.then_some(()))
            })
    }
}

impl Inner {
    /// Is there something for `poll`?
    fn needs_poll(&self) -> bool {
        let now = now_ns();
        !self.actions.is_empty()
            || self.board.events() != self.seen
            || now >= self.look_at
            || self.next_deadline().is_some_and(|at| now >= at)
    }

    fn is_ready(&mut self, job: JobId, until: Until) -> Result<bool, PoolError> {
        let owned = &mut self.job(job)?.owned;
        Ok(match until {
            Until::Next => owned.has_next()?,
            Until::Any => owned.has_any()?,
            Until::AllDone => owned.finished_prefix()? >= owned.fed(),
            Until::Done(n) => owned.finished_prefix()? >= n,
        })
    }

    /// An error if what is waited for cannot come.
    fn check_waiting(&mut self, job: JobId) -> Result<(), PoolError> {
        let ended = self.machine.phase() == Phase::Ended;
        let owned = &self.job(job)?.owned;
        if owned.is_sealed() && owned.collected() == owned.fed() {
            return Err(PoolError::Wait(WaitError::Closed));
        }
        if ended {
            return Err(PoolError::Terminated);
        }
        Ok(())
    }

    fn look_for_attention(&self) -> Look {
        Look {
            watch: None,
            done: u64::MAX,
            next: false,
            any: false,
            seen: self.seen,
            poll_at: self.poll_at(),
        }
    }

    fn poll_at(&self) -> Option<u64> {
        let look_at = Some(self.look_at);
        self.next_deadline().into_iter().chain(look_at).min()
    }

    fn look_for(&mut self, job: JobId, until: Until) -> Result<Look, PoolError> {
        let seen = self.seen;
        let poll_at = self.poll_at();
        let job = self.job(job)?;
        job.owned.publish();
        let watch = job.owned.watch();
        let (fed, done) = (job.owned.fed(), watch.done());
        let wanted = match until {
            Until::AllDone => fed,
            Until::Done(n) if n >= fed => fed,
            // Which items finish next is not known: look at each.
            _ => done + 1,
        };
        // The count may be ahead of what can be seen from the front.
        let wanted = wanted.max(done + 1);
        job.start_waiting(wanted);
        Ok(Look {
            watch: Some(watch),
            done: wanted,
            next: until == Until::Next,
            any: until == Until::Any,
            seen,
            poll_at,
        })
    }
}

impl Job {
    fn start_waiting(&mut self, done: u64) {
        self.waiting.push(done);
        self.rearm();
    }

    fn stop_waiting(&mut self, done: u64) {
        if let Some(at) = self.waiting.iter().position(|w| *w == done) {
            self.waiting.swap_remove(at);
        }
        self.rearm();
    }

    fn rearm(&self) {
        let first = self.waiting.iter().min().copied();
        self.owned.wake_at(first.unwrap_or(u64::MAX));
    }
}

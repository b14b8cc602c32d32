//! How many workers are awake.
//!
//! More of them than processors do not make quick items any faster: they wake each other up and push each other off. So
//! no more workers are busy with quick items than there are processors, however many a pool has. One of them may sleep in an
//! item, though, and then the others have to come to help. Nobody who works can see to that; so while something is left, one
//! of those who have nothing *keeps the watch*: it looks every [`LOOK_AGAIN`] who is stuck, and has two more woken for each.
//! Who has been at an item for long but runs, or could if it had a processor, is not stuck: with more workers awake it would
//! have to wait for one even longer.
//!
//! Nothing here is needed for anything to be right. If the one who keeps the watch is killed its word runs out after
//! [`WATCH_NS`]; a wake-up that is missing then costs a slice of somebody's sleep.

use std::time::Duration;

use procession_sys::clock::now_ns;
use procession_sys::ident::is_asleep;

use crate::crash_point;
use crate::guard::Txn;
use crate::primitive::Ordering;

use super::layout::{BoardBody, JobSlot};
use super::ledger::{BUSY, LIVE, Ledger, RANGED};
use super::run::Seat;
use super::{Board, add};

/// An item that runs longer does not keep those behind it, nor those who could help.
pub(super) const SLOW_NS: u64 = 1_000_000;
/// A call that takes less is over before somebody else is awake.
const QUICK_NS: u64 = 50_000;
/// Who has been at an item for so long is stuck in any case: it may be a thread of its process that cannot be seen from here.
const STUCK_NS: u64 = 50_000_000;
/// How often the one who keeps the watch looks.
pub const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// For how long it says that it will.
const WATCH_NS: u64 = 5_000_000;

impl JobSlot {
    /// Are its calls so quick that more workers than processors are of no use? Not as long as that is unknown.
    pub(super) fn is_quick(&self) -> bool {
        (1..QUICK_NS).contains(&self.quickest.load(Ordering::Relaxed))
    }

    /// Notes that the calls of a range took `ns` each. Workers who share processors take longer, so it is the least that
    /// counts; it rises slowly, as calls may become slow.
    pub(super) fn note_call(&self, ns: u64) {
        let before = self.quickest.load(Ordering::Relaxed);
        let most = if before == 0 {
            u64::MAX
        } else {
            before.saturating_add(before / 8 + 1)
        };
        self.quickest.store(ns.clamp(1, most), Ordering::Relaxed);
    }
}

impl BoardBody {
    /// Are enough workers busy with quick items? `own` is 1 for one who is counted itself; `strict` is for the one who keeps
    /// the watch while there are others to be woken.
    pub(super) fn is_full(&self, own: u64, strict: bool) -> bool {
        let others = self.busy.load(Ordering::Relaxed).saturating_sub(own);
        let crew = self.crew.load(Ordering::Relaxed);
        others >= self.cpus.load(Ordering::Relaxed).max(1)
            && (strict || others >= crew || !self.watch.is_kept(now_ns))
    }

    /// May a worker that has nothing claim something?
    pub(super) fn may_claim(&self, strict: bool) -> bool {
        if self.requeued.load(Ordering::Acquire) != 0 || self.orphans.load(Ordering::Acquire) != 0 {
            return true;
        }
        let mut ready = self.ready.load(Ordering::Acquire);
        if ready == 0 || !self.is_full(0, strict) {
            return ready != 0;
        }
        while ready != 0 {
            if !self.jobs[ready.trailing_zeros() as usize].is_quick() {
                return true;
            }
            ready &= ready - 1;
        }
        false
    }

    /// Should one more worker be woken, to take something or to keep the watch?
    pub(super) fn needs_one_more(&self) -> bool {
        self.may_claim(false) || self.may_have_work() && !self.watch.is_kept(now_ns)
    }

    /// Is nobody stuck, and enough workers busy? Then even the rest of a slow range is best left to its worker. For `strict` see
    /// [`BoardBody::is_full`].
    pub(super) fn is_well_manned(&self, strict: bool) -> bool {
        self.crew.load(Ordering::Relaxed) <= self.cpus.load(Ordering::Relaxed).max(1)
            && self.watch.is_kept(now_ns)
            && self.is_full(0, strict)
    }

    /// Notes whether a worker is busy, and whether it has a range of several items.
    pub(super) fn count(&'static self, txn: &mut Txn<'_>, ledger: &'static Ledger, now: u64) {
        let before = ledger.counted.load(Ordering::Relaxed);
        if before == now {
            return;
        }
        txn.set(&ledger.counted, now);
        for (flag, total) in [(BUSY, &self.busy), (RANGED, &self.ranged)] {
            if (before ^ now) & flag != 0 {
                add(txn, total, if now & flag != 0 { 1 } else { -1 });
            }
        }
    }
}

impl Board {
    /// May a worker that has nothing claim something?
    pub fn may_claim(&self, strict: bool) -> bool {
        self.body.may_claim(strict)
    }
}

impl Seat {
    /// True if this worker keeps the watch from now on, or goes on doing so: something is left that others may be stuck with,
    /// and nobody else does.
    pub fn keep_watch(&mut self) -> bool {
        let body = self.board.body;
        if !self.something_is_left() {
            self.end_watch();
            return false;
        }
        let now = now_ns();
        let until = now + WATCH_NS;
        let kept = if self.watch == 0 {
            body.watch.begin(now, until)
        } else {
            body.watch.prolong(self.watch, until)
        };
        if kept && self.watch == 0 {
            body.crew.store(0, Ordering::Relaxed);
        }
        self.watch = if kept { until } else { 0 };
        if kept {
            crash_point!("board.watch.kept");
        }
        kept
    }

    /// Does nobody keep the watch although somebody should?
    pub fn is_unwatched(&self) -> bool {
        self.something_is_left() && !self.board.body.watch.is_kept(now_ns)
    }

    fn something_is_left(&self) -> bool {
        self.board.body.may_have_work() || self.others_have_rest()
    }

    /// Has workers woken for those who are stuck. To be called every [`LOOK_AGAIN`] by the one who keeps the watch.
    pub fn look_after_others(&self) {
        self.look_after(is_asleep);
    }

    fn look_after(&self, is_asleep: impl Fn(u32) -> bool) {
        let body = self.board.body;
        let now = now_ns();
        let stuck = body
            .all_ledgers(self.board.session())
            .filter(|(_, l)| {
                let busy =
                    l.state.load(Ordering::Relaxed) == LIVE && l.job.load(Ordering::Relaxed) != 0;
                let ns = now.saturating_sub(l.since_ns.load(Ordering::Relaxed));
                let is_stuck = || ns >= STUCK_NS || is_asleep(l.pid.load(Ordering::Relaxed) as u32);
                busy && ns >= SLOW_NS && is_stuck()
            })
            .count() as u64;
        let crew = body.cpus.load(Ordering::Relaxed).max(1) + 2 * stuck;
        body.crew.store(crew, Ordering::Relaxed);
        for _ in body.busy.load(Ordering::Relaxed)..crew {
            if !body.may_have_work() || !body.work.has_sleepers() {
                break;
            }
            body.wake_worker();
        }
    }

    /// While it keeps the watch it leaves quick items to others, if there are any who sleep.
    pub(super) fn is_spare(&self) -> bool {
        self.watch != 0 && self.board.body.work.has_sleepers()
    }

    /// It has something to do now: somebody else may keep the watch.
    pub(super) fn hand_on_watch(&mut self) {
        if self.watch == 0 {
            return;
        }
        self.end_watch();
        let body = self.board.body;
        let left = body.may_have_work() || body.ranged.load(Ordering::Relaxed) != 0;
        if left && body.work.has_sleepers() {
            body.wake_worker();
        }
    }

    pub(super) fn end_watch(&mut self) {
        if self.watch != 0 {
            self.board.body.watch.end(self.watch);
            self.watch = 0;
            crash_point!("board.watch.ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::super::{Board, JobOptions, Next, OwnedJob, Seat};
    use super::{QUICK_NS, SLOW_NS, STUCK_NS};
    use crate::primitive::Ordering;
    use crate::ring::Message;
    use crate::session::Session;

    /// A board of its own, as if on a machine with one processor, with `count` workers and a job of quick items.
    fn board(count: u32) -> (Board, OwnedJob, Vec<Seat>) {
        static SESSION: OnceLock<&'static Session> = OnceLock::new();
        let session =
            SESSION.get_or_init(|| crate::kinds::create("crew-test", Some(1 << 30)).unwrap());
        let board = Board::create(session, "board", count, 0).unwrap();
        board.body.cpus.store(1, Ordering::Relaxed);
        let mut job = (board.open_job(Message::new(b"f"), JobOptions::default()))
            .unwrap()
            .unwrap();
        job.slot.quickest.store(1000, Ordering::Relaxed);
        for item in 0..100 {
            job.feed(Message::new(b"x"), item < 99).unwrap().unwrap();
        }
        let sit = |n| board.sit_down(n).unwrap().unwrap();
        let seats = (1..=count.into()).map(sit).collect();
        (board, job, seats)
    }

    fn gets_a_task(seat: &mut Seat) -> bool {
        match seat.try_next().unwrap() {
            Next::Task(_) => true,
            Next::Idle => false,
            other => panic!("{other:?}"),
        }
    }

    fn finish(seat: &mut Seat) {
        seat.finish(0, Message::default()).unwrap();
    }

    /// As if whoever works had begun long ago.
    fn make_slow(seat: &Seat) {
        let since = &seat.ledger.since_ns;
        since.store(since.load(Ordering::Relaxed) - SLOW_NS, Ordering::Relaxed);
    }

    #[test]
    fn quick_items_are_for_as_many_workers_as_processors() {
        let (board, _job, mut seats) = board(2);
        let [one, two] = &mut seats[..] else { panic!() };
        assert!(gets_a_task(one));
        assert!(!gets_a_task(two));
        assert!(board.has_work() && !board.may_claim(false));
        // Not one who is busy anyway.
        finish(one);
        assert!(gets_a_task(one));
        // And it is the other's turn once it leaves.
        finish(one);
        drop(seats.remove(0));
        assert!(board.may_claim(false));
        assert!(gets_a_task(&mut seats[0]));
    }

    #[test]
    fn items_that_take_longer_or_are_unknown_are_for_all() {
        for ns in [0, QUICK_NS] {
            let (_board, job, mut seats) = board(2);
            job.slot.quickest.store(ns, Ordering::Relaxed);
            assert!(seats.iter_mut().all(gets_a_task));
        }
    }

    #[test]
    fn who_keeps_the_watch_has_others_help_those_who_are_stuck() {
        let (board, _job, mut seats) = board(4);
        assert!(gets_a_task(&mut seats[0]));
        assert!(seats[1].is_unwatched() && seats[1].keep_watch());
        assert!(!seats[2].is_unwatched() && !seats[2].keep_watch());
        // Nobody is stuck.
        seats[1].look_after(|_| true);
        assert!(!gets_a_task(&mut seats[2]));
        // Two more for one who is.
        make_slow(&seats[0]);
        seats[1].look_after(|_| true);
        assert!(gets_a_task(&mut seats[2]));
        assert!(gets_a_task(&mut seats[3]));
        // All the others are busy, so it may work itself, and the watch is free.
        make_slow(&seats[2]);
        seats[1].look_after(|_| true);
        assert!(gets_a_task(&mut seats[1]));
        assert!(!board.body.watch.is_kept(|| 0));
    }

    #[test]
    fn who_computes_for_long_is_not_stuck() {
        let (board, _job, mut seats) = board(3);
        assert!(gets_a_task(&mut seats[0]));
        assert!(seats[1].keep_watch());
        make_slow(&seats[0]);
        seats[1].look_after(|_| false);
        assert!(!gets_a_task(&mut seats[2]));
        assert!(board.body.is_well_manned(true));
        // Not for ever: it may be that this cannot be seen.
        let since = &seats[0].ledger.since_ns;
        since.store(since.load(Ordering::Relaxed) - STUCK_NS, Ordering::Relaxed);
        seats[1].look_after(|_| false);
        assert!(!board.body.is_well_manned(true));
        assert!(gets_a_task(&mut seats[2]));
    }

    #[test]
    fn a_watch_that_is_over_is_somebody_elses() {
        let (board, mut job, mut seats) = board(3);
        assert!(gets_a_task(&mut seats[0]));
        assert!(seats[1].keep_watch());
        make_slow(&seats[0]);
        seats[1].look_after(|_| true);
        // It was killed, say; what it allowed ends with its watch.
        board.body.watch.end(seats[1].watch);
        assert!(!board.may_claim(false));
        assert!(seats[2].keep_watch());
        assert!(!seats[1].keep_watch());
        // With nothing left there is nothing to watch.
        assert!(job.stop().unwrap());
        finish(&mut seats[0]);
        assert!(!gets_a_task(&mut seats[0]));
        assert!(!seats[2].keep_watch() && !seats[0].is_unwatched());
    }

    #[test]
    fn nobody_is_woken_for_a_job_that_is_all_claimed() {
        let (board, job, mut seats) = board(2);
        job.slot.quickest.store(0, Ordering::Relaxed);
        for _ in 0..100 {
            assert!(board.body.needs_one_more());
            assert!(gets_a_task(&mut seats[0]));
            finish(&mut seats[0]);
        }
        assert!(!board.body.needs_one_more() && !board.has_work());
    }

    #[test]
    fn a_dead_worker_is_not_busy() {
        let (board, _job, mut seats) = board(2);
        assert!(gets_a_task(&mut seats[0]));
        assert!(!gets_a_task(&mut seats[1]));
        assert!(board.bury_worker(1).unwrap());
        assert!(gets_a_task(&mut seats[1]));
    }

    #[test]
    fn one_slow_look_at_quick_calls_does_not_make_them_slow() {
        let (_board, job, _seats) = board(1);
        job.slot.note_call(QUICK_NS * 100);
        assert!(job.slot.is_quick());
        for _ in 0..100 {
            job.slot.note_call(QUICK_NS * 100);
        }
        assert!(!job.slot.is_quick());
        job.slot.note_call(500);
        assert!(job.slot.is_quick());
    }
}

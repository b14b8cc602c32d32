//! Models of the board: two workers, and the owner who cancels, condemns, stops, buries and has items run again. Each item has
//! one outcome, and is run once for it.
//!
//! The cells, the ledgers and the guard are production's. What [`Board`] does with them here is what `claim.rs`, `run.rs`,
//! `condemn.rs`, `bury.rs`, `collect.rs` and `release.rs` do, for one job of [`ITEMS`] items that are all claimed by the first
//! worker.
#![cfg(loom)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering as Real};

use loom::cell::UnsafeCell;
use loom::thread;
use procession_shm::board::cell::{CANCELLED, Cell, DIED, DONE, FAILED, FED};
use procession_shm::board::ledger::{InHand, Ledger, Start, Verdict};
use procession_shm::guard::{Guard, Txn};
use procession_shm::model::{at_every_point, dying_at};
use procession_shm::primitive::{AtomicU32, AtomicU64, Ordering};
use procession_shm::segment::Shared;
use procession_shm::{Session, crash_point};

const ITEMS: usize = 2;
const JOB: u64 = 1;

/// What stands in the session.
#[repr(C)]
struct Words {
    cells: [Cell; ITEMS],
    ledgers: [Ledger; 3],
    guard: Guard,
    /// An item to be run again, + 1.
    requeued: AtomicU64,
    /// 1 once nothing of the job shall be started any more.
    closing: AtomicU64,
}

// SAFETY: repr(C) of cells, ledgers, a guard and an atomic.
unsafe impl Shared for Words {}

struct Board {
    session: &'static Session,
    words: &'static Words,
    /// Written by whoever runs an item, read by whoever collects it: who ran it, and how often it was run to its end.
    runs: [UnsafeCell<(u64, u32)>; ITEMS],
    /// Items whose result was committed.
    done: [AtomicBool; ITEMS],
    /// Makes the checker try which thread is first: it does not see that a look races with a change that comes later.
    first: AtomicU32,
}

#[allow(clippy::arc_with_non_send_sync)] // that is what the checker looks after
fn board(session: &'static Session) -> Arc<Board> {
    let words: &'static Words = session.make();
    words.guard.init().unwrap();
    for cell in &words.cells {
        cell.feed();
    }
    let board = Board {
        session,
        words,
        runs: Default::default(),
        done: Default::default(),
        first: AtomicU32::new(0),
    };
    let mut txn = board.lock();
    words.ledgers[0].fill(&mut txn, JOB, 0, ITEMS as u64);
    txn.commit();
    Arc::new(board)
}

fn verdict(item: u64) -> Verdict {
    Verdict::new(JOB as usize, item)
}

/// Does `f` in a thread of its own.
fn beside<T: 'static>(
    board: &Arc<Board>,
    f: impl FnOnce(&Board) -> T + 'static,
) -> thread::JoinHandle<T> {
    let board = board.clone();
    thread::spawn(move || {
        board.begin();
        f(&board)
    })
}

impl Board {
    fn begin(&self) {
        self.first.fetch_add(1, Ordering::Relaxed);
    }

    fn lock(&self) -> Txn<'static> {
        self.words.guard.lock(self.session).unwrap()
    }

    fn states(&self) -> [u64; ITEMS] {
        self.words.cells.each_ref().map(Cell::state)
    }

    /// Runs what the worker of ledger `n` has; true if it is condemned.
    fn work(&self, n: usize) -> bool {
        let ledger = &self.words.ledgers[n];
        let mut item = ledger.rest().0;
        while item < ledger.end() {
            let cell = &self.words.cells[item as usize];
            match ledger.start(n as u32, cell, item) {
                Start::Started => {
                    ledger.step(item);
                    self.run(item as usize, n as u64, cell);
                }
                Start::Settled => ledger.step(item),
                Start::Condemned => {
                    self.put_back(n, item);
                    return true;
                }
            }
            item += 1;
        }
        false
    }

    fn put_back(&self, n: usize, item: u64) {
        let (ledger, cell) = (&self.words.ledgers[n], &self.words.cells[item as usize]);
        let mut txn = self.lock();
        let goes_on = ledger.unstart(&mut txn, cell, item, &self.words.closing);
        txn.commit();
        if !goes_on {
            ledger.step(item);
        }
    }

    fn run(&self, item: usize, n: u64, cell: &Cell) {
        // SAFETY: whoever has started an item has it alone, which the model checker checks.
        self.runs[item].with_mut(|run| unsafe {
            (*run).0 = n;
            (*run).1 += 1;
        });
        crash_point!("board.finish.written");
        cell.finish(DONE, [n, 0, 0]);
        self.done[item].store(true, Real::Relaxed);
        crash_point!("board.finish.committed");
    }

    /// The far half of the other one's range, as `find_slow` takes it; or what is left by a dead one, or is to be run again.
    fn claim(&self, n: usize, from: usize) -> bool {
        let (ledger, victim) = (&self.words.ledgers[n], &self.words.ledgers[from]);
        let mut txn = self.lock();
        let requeued = self.words.requeued.load(Ordering::Relaxed);
        let (next, end) = victim.rest();
        if requeued > 0 {
            txn.set(&self.words.requeued, 0);
            ledger.fill(&mut txn, JOB, requeued - 1, requeued);
        } else if next < end {
            let first = next + (end - next) / 2;
            victim.cut(&mut txn, first);
            ledger.fill(&mut txn, JOB, first, end);
        } else {
            return false;
        }
        crash_point!("board.claim.filled");
        txn.commit();
        crash_point!("board.claim.committed");
        true
    }

    /// The worker of ledger `n` is dead. (Its range stays where it is, to be taken by others.)
    fn bury(&self, n: usize) {
        self.bury_with(n, |in_hand| in_hand);
    }

    fn bury_with(&self, n: usize, believed: impl Fn(InHand) -> InHand) {
        let ledger = &self.words.ledgers[n];
        let mut txn = self.lock();
        if let Some(item) = ledger.current() {
            let cell = &self.words.cells[item as usize];
            match believed(ledger.in_hand(n as u32, cell, verdict(item))) {
                InHand::Nothing => {}
                InHand::Unbegun => {
                    ledger.unstart(&mut txn, cell, item, &self.words.closing);
                }
                InHand::Run { .. } => ledger.let_die(&mut txn, cell, item),
            }
        }
        crash_point!("board.bury.filled");
        txn.commit();
    }

    /// The owner is going to kill the worker for its first item; false if it does not run that one (any more).
    fn condemn(&self) -> bool {
        let ledger = &self.words.ledgers[0];
        let is_running = || ledger.current() == Some(0) && self.words.cells[0].run_by(0).is_some();
        is_running() && ledger.condemn(verdict(0), is_running)
    }

    /// The owner stops the job: what waits is cancelled.
    fn stop(&self) {
        self.words.closing.store(1, Ordering::SeqCst);
        let mut txn = self.lock();
        for ledger in &self.words.ledgers[..2] {
            ledger.cut(&mut txn, ledger.rest().0);
            txn.checkpoint();
        }
        txn.commit();
        for cell in &self.words.cells {
            let _ = cell.cancel();
        }
    }

    /// The owner has an item run again that has died.
    fn retry(&self, item: usize) {
        let mut txn = self.lock();
        txn.set(&self.words.requeued, item as u64 + 1);
        self.words.cells[item].feed_again(&mut txn);
        txn.commit();
    }

    /// How often an item was run, and that its result is that of the last run.
    fn collect(&self, item: usize) -> u32 {
        let cell = &self.words.cells[item];
        assert!(cell.is_finished(), "{item} is lost: {}", cell.state());
        // SAFETY: nobody runs an item that has an outcome, which the model checker checks.
        let (who, runs) = self.runs[item].with(|run| unsafe { *run });
        if cell.state() == DONE {
            assert_eq!(cell.words()[0], who);
        }
        runs
    }

    /// Nobody works any more: what has died gets its outcome, all else is found, and the books are right.
    fn settle(&self, again: bool) {
        let died = self.states().map(|state| state == DIED);
        for item in (0..ITEMS).filter(|i| died[*i]) {
            if again {
                self.retry(item);
                assert!(self.claim(2, 0));
                self.work(2);
            } else {
                assert!(self.words.cells[item].fail());
            }
        }
        for from in [0, 1] {
            while self.claim(2, from) {
                self.work(2);
            }
        }
        for (item, died) in died.into_iter().enumerate() {
            let (runs, state) = (self.collect(item), self.words.cells[item].state());
            let most = match state {
                DONE => 1 + u32::from(died),
                FAILED => 1,
                _ => 0,
            };
            assert!(runs <= most && (runs > 0 || state != DONE));
            assert_eq!(state == FAILED, died && !again);
            assert_eq!(state == DONE, self.done[item].load(Real::Relaxed));
        }
    }
}

/// A victim goes through its range while the far half is taken off it.
#[test]
fn what_is_taken_off_a_worker_is_run_once() {
    let session = Session::create();
    loom::model(move || {
        let board = board(session);
        let victim = beside(&board, |board| board.work(0));
        board.begin();
        if board.claim(1, 0) {
            board.work(1);
        }
        victim.join().unwrap();
        assert_eq!(board.states(), [DONE; ITEMS]);
        assert_eq!([0, 1].map(|i| board.collect(i)), [1, 1]);
    });
}

/// The owner cancels while items are run, and collects at once what is finished.
#[test]
fn an_item_is_run_or_cancelled() {
    let session = Session::create();
    loom::model(move || {
        let board = board(session);
        let worker = beside(&board, |board| board.work(0));
        board.begin();
        for (item, cell) in board.words.cells.iter().enumerate() {
            match cell.cancel() {
                Ok(()) => assert_eq!(board.collect(item), 0),
                Err(_) if cell.is_finished() => assert_eq!(board.collect(item), 1),
                Err(_) => {}
            }
        }
        worker.join().unwrap();
        for (item, state) in board.states().into_iter().enumerate() {
            assert!(matches!(state, DONE | CANCELLED));
            assert_eq!(board.collect(item), u32::from(state == DONE));
        }
    });
}

/// The owner kills the worker for its first item, if it still runs that one. Then it has started no other.
#[test]
fn who_is_condemned_has_nothing_else_in_hand() {
    let session = Session::create();
    loom::model(move || {
        let board = board(session);
        let worker = beside(&board, |board| board.work(0));
        board.begin();
        let condemned = board.condemn();
        let stopped = worker.join().unwrap();
        let second = board.words.cells[1].state();
        assert_eq!(second, if stopped { FED } else { DONE });
        assert!(stopped || !condemned);
    });
}

/// An item that died is to be run again, while somebody has a range that still names it.
#[test]
fn what_is_run_again_is_run_once() {
    let session = Session::create();
    loom::model(move || {
        let board = board(session);
        let other = &board.words.ledgers[1];
        assert_eq!(other.start(1, &board.words.cells[0], 0), Start::Started);
        board.bury(1);
        assert_eq!(board.states()[0], DIED);
        let names_it = beside(&board, |board| board.work(0));
        board.begin();
        board.retry(0);
        while board.claim(1, 0) {
            board.work(1);
        }
        names_it.join().unwrap();
        assert_eq!(board.states(), [DONE; ITEMS]);
        assert_eq!([0, 1].map(|i| board.collect(i)), [1, 1]);
    });
}

/// Worker `n`, who is `mortal`, dies anywhere and is buried, while `other` does something else. Then what has died is given up,
/// or run again, and a third worker does what is left.
fn deaths(again: bool, n: usize, mortal: fn(&Board), other: fn(&Board)) {
    deaths_buried_by(Board::bury, again, n, mortal, other);
}

fn deaths_buried_by(
    bury: fn(&Board, usize),
    again: bool,
    n: usize,
    mortal: fn(&Board),
    other: fn(&Board),
) {
    let session = Session::create();
    at_every_point(|point| {
        let has_died = Arc::new(AtomicBool::new(false));
        let died = has_died.clone();
        loom::model(move || {
            let board = board(session);
            let died = died.clone();
            let thread = beside(&board, move |board| {
                if dying_at(point, || mortal(board)).is_none() {
                    died.store(true, Real::Relaxed);
                    bury(board, n);
                }
            });
            board.begin();
            other(&board);
            thread.join().unwrap();
            board.settle(again);
        });
        has_died.load(Real::Relaxed)
    });
}

fn works(board: &Board) {
    assert!(!board.work(0), "nobody is condemned");
}

fn takes_half(board: &Board) {
    if board.claim(1, 0) {
        board.work(1);
    }
}

fn cancels(board: &Board) {
    for cell in &board.words.cells {
        let _ = cell.cancel();
    }
}

/// The owner condemns worker 0 for its first item, with something `before` and `behind` that; the worker dies anywhere
/// meanwhile, or is killed in the end. No other item dies with it, and what it puts back is not lost.
fn condemned(before: fn(&Board), behind: fn(&Board)) {
    condemned_buried_by(Board::bury, before, behind);
}

fn condemned_buried_by(bury: fn(&Board, usize), before: fn(&Board), behind: fn(&Board)) {
    let session = Session::create();
    at_every_point(|point| {
        let has_died = Arc::new(AtomicBool::new(false));
        let died = has_died.clone();
        loom::model(move || {
            let board = board(session);
            let worker = beside(&board, move |board| dying_at(point, || board.work(0)));
            board.begin();
            before(&board);
            let is_certain = board.condemn();
            behind(&board);
            let done = worker.join().unwrap();
            died.fetch_or(done.is_none(), Real::Relaxed);
            if is_certain || done.is_none() {
                bury(&board, 0);
            } else if done == Some(true) {
                // The owner has thought better of it.
                assert!(!board.work(0));
            }
            assert!(!is_certain || board.states()[1] != DIED);
            let closing = board.words.closing.load(Ordering::SeqCst) != 0;
            assert!(!closing || !board.states().contains(&FED));
            board.settle(false);
        });
        has_died.load(Real::Relaxed)
    });
}

fn nothing(_: &Board) {}

#[test]
fn what_a_condemned_worker_started_is_not_lost_to_who_takes_it_over() {
    condemned(nothing, takes_half);
}

#[test]
fn what_a_condemned_worker_started_is_not_lost_to_who_has_taken_it_over() {
    let takes = |board: &Board| {
        board.claim(1, 0);
    };
    let works = |board: &Board| assert!(!board.work(1));
    condemned(takes, works);
}

#[test]
fn what_a_condemned_worker_started_is_cancelled_with_its_job() {
    condemned(nothing, Board::stop);
}

/// It is buried at once, before the owner has made up its mind.
#[test]
fn a_worker_dies_while_it_is_condemned() {
    let works = |board: &Board| {
        board.work(0);
    };
    for again in [false, true] {
        deaths(again, 0, works, |board| {
            board.condemn();
        });
        deaths(again, 0, works, |board| {
            board.condemn();
            takes_half(board);
        });
    }
}

/// Buries worker 0; if it dies over that, somebody else does.
fn buries(board: &Board, point: u32, has_died: &AtomicBool) {
    if dying_at(point, || board.bury(0)).is_none() {
        has_died.store(true, Real::Relaxed);
        board.bury(0);
    }
}

/// Worker 0 was killed with its second item in hand that it had not put back yet; who buries it dies as well.
fn dead_and_condemned(other: fn(&Board)) {
    let session = Session::create();
    at_every_point(|point| {
        let has_died = Arc::new(AtomicBool::new(false));
        let died = has_died.clone();
        loom::model(move || {
            let (board, died) = (board(session), died.clone());
            let [first, second] = &board.words.cells;
            let ledger = &board.words.ledgers[0];
            assert_eq!(ledger.start(0, first, 0), Start::Started);
            assert!(board.condemn());
            ledger.step(0);
            board.run(0, 0, first);
            assert_eq!(ledger.start(0, second, 1), Start::Condemned);
            let thread = beside(&board, move |board| buries(board, point, &died));
            board.begin();
            other(&board);
            thread.join().unwrap();
            let [_, second] = board.states();
            let closing = board.words.closing.load(Ordering::SeqCst) != 0;
            assert!(second == DONE || second == if closing { CANCELLED } else { FED });
            board.settle(false);
        });
        has_died.load(Real::Relaxed)
    });
}

#[test]
fn who_buries_a_condemned_worker_dies_while_its_item_is_taken_over() {
    dead_and_condemned(takes_half);
}

#[test]
fn who_buries_a_condemned_worker_dies_while_its_job_is_stopped() {
    dead_and_condemned(Board::stop);
}

/// Worker 0 was killed while it ran its first item, and who buries it dies as well.
#[test]
fn who_buries_a_worker_dies_while_items_are_taken_off_it() {
    let session = Session::create();
    at_every_point(|point| {
        let has_died = Arc::new(AtomicBool::new(false));
        let died = has_died.clone();
        loom::model(move || {
            let (board, died) = (board(session), died.clone());
            let ledger = &board.words.ledgers[0];
            let started = ledger.start(0, &board.words.cells[0], 0);
            assert_eq!(started, Start::Started);
            let thread = beside(&board, move |board| buries(board, point, &died));
            board.begin();
            takes_half(&board);
            thread.join().unwrap();
            assert_eq!(board.states()[0], DIED);
            assert!(ledger.rest().0 == 1, "its death is not noted");
            board.settle(false);
        });
        has_died.load(Real::Relaxed)
    });
}

#[test]
fn a_worker_dies_while_items_are_taken_off_it() {
    for again in [false, true] {
        deaths(again, 0, works, takes_half);
    }
}

#[test]
fn a_worker_dies_that_takes_items_off_another() {
    for again in [false, true] {
        deaths(again, 1, takes_half, works);
    }
}

#[test]
fn a_worker_dies_while_items_are_cancelled() {
    for again in [false, true] {
        deaths(again, 0, works, cancels);
    }
}

/// It looks whether an item waits, instead of starting it.
#[test]
#[should_panic(expected = "Causality violation")]
fn a_worker_that_does_not_swap_is_noticed() {
    let session = Session::create();
    loom::model(move || {
        let board = board(session);
        let worker = beside(&board, |board| board.work(0));
        board.begin();
        let cell = &board.words.cells[0];
        if cell.state() == FED {
            board.run(0, 1, cell);
        }
        worker.join().unwrap();
    });
}

/// Whoever has named an item need not have started it, and may have finished it.
#[test]
#[should_panic(expected = "assertion")]
fn a_burial_that_does_not_ask_the_cell_is_noticed() {
    let bury = |board: &Board, n| board.bury_with(n, |_| InHand::Run { handing: false });
    deaths_buried_by(bury, false, 1, takes_half, works);
}

/// What a condemned worker has started it has not begun.
#[test]
#[should_panic(expected = "assertion")]
fn a_burial_that_does_not_ask_for_the_verdict_is_noticed() {
    let bury = |board: &Board, n| {
        board.bury_with(n, |in_hand| match in_hand {
            InHand::Unbegun => InHand::Run { handing: false },
            other => other,
        });
    };
    condemned_buried_by(bury, nothing, nothing);
}

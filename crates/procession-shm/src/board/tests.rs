use std::collections::HashSet;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64 as Count, Ordering::SeqCst};
use std::time::Duration;

use procession_sys::clock::Deadline;

use super::*;
use crate::ring::Message;
use crate::wait::{Wait, WaitKind};

fn session() -> &'static Session {
    static SESSION: OnceLock<&'static Session> = OnceLock::new();
    SESSION.get_or_init(|| crate::kinds::create("board-test", Some(1 << 30)).unwrap())
}

fn board(seats: u32) -> Board {
    Board::create(session(), "board", seats, 0).unwrap()
}

fn open(board: &Board) -> OwnedJob {
    let options = JobOptions::default();
    let job = board.open_job(Message::default(), options).unwrap();
    job.unwrap()
}

fn bytes_of(owner: &Board) -> usize {
    let mut count = 0;
    session()
        .for_each_block(|_, of| count += usize::from(of.same_as(BlockOwner::object(owner.index()))))
        .unwrap();
    count
}

fn next(seat: &mut Seat) -> Option<Task> {
    match seat.try_next().unwrap() {
        Next::Task(task) => Some(task),
        _ => None,
    }
}

/// A worker's thread: reverses the bytes of each item until the board has ended.
fn work(board: &Board, number: u64, ran: &Count) {
    let mut seat = board.sit_down(number).unwrap().unwrap();
    seat.up();
    loop {
        match seat.try_next().unwrap() {
            Next::Task(task) => {
                let mut bytes = task.arguments.to_vec();
                bytes.reverse();
                ran.fetch_add(1, SeqCst);
                seat.finish(7, Message::new(&bytes)).unwrap();
            }
            Next::Idle if board.has_ended() => return,
            Next::Idle => {
                let soon = Deadline::after(Some(Duration::from_millis(1)));
                let wait = Wait::new(session(), board.index(), WaitKind::Task, soon);
                let _ = { wait }.until(board.work(), || {
                    Ok((board.has_work() || board.has_ended()).then_some(()))
                });
            }
            other => panic!("{other:?}"),
        }
    }
}

fn payload_for(item: u64) -> Vec<u8> {
    // Every form that a payload can have: inline, shared memory of the chunk, a block of its own.
    let len = match item % 64 {
        0 => 3000,
        n if n % 8 == 0 => 400,
        n => n % 25,
    };
    (0..len).map(|i| (item + i) as u8).collect()
}

/// Lets the workers go also when the test fails, so that it fails and does not hang.
struct EndAtExit<'a>(&'a Board);

impl Drop for EndAtExit<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn run_many(items: u64, as_finished: bool) {
    let board = board(8);
    let ran = Count::new(0);
    std::thread::scope(|scope| {
        let _end = EndAtExit(&board);
        for number in 1..=4 {
            let (board, ran) = (&board, &ran);
            scope.spawn(move || work(board, number, ran));
        }
        let options = JobOptions {
            as_finished,
            ..JobOptions::default()
        };
        let mut job = board
            .open_job(Message::new(b"f"), options)
            .unwrap()
            .unwrap();
        let mut seen = HashSet::new();
        let until = Deadline::after(Some(Duration::from_secs(60)));
        let mut fed = 0;
        while seen.len() < items as usize {
            if fed < items
                && job
                    .feed(Message::new(&payload_for(fed)), fed % 3 != 0)
                    .unwrap()
                    .is_some()
            {
                fed += 1;
            }
            let got = if as_finished {
                job.collect_any().unwrap()
            } else {
                job.collect_next().unwrap()
            };
            let Some((item, taken)) = got else {
                job.publish();
                assert!(!until.passed(), "only {} items are done", seen.len());
                std::thread::yield_now();
                continue;
            };
            let Taken::Done { status: 7, payload } = taken else {
                panic!("{taken:?}")
            };
            let mut expected = payload_for(item);
            expected.reverse();
            assert_eq!(payload.bytes(), expected);
            assert!(seen.insert(item), "{item} came twice");
            if !as_finished {
                assert_eq!(item + 1, seen.len() as u64);
            }
        }
        assert_eq!(ran.load(SeqCst), items);
        assert!(job.stop().unwrap());
        while !job.try_free().unwrap() {
            std::thread::yield_now();
        }
        board.end();
    });
    assert_eq!(bytes_of(&board), 1, "only the board itself is left");
}

#[test]
fn every_item_is_run_once_and_collected_in_order() {
    run_many(20_000, false);
}

#[test]
fn every_item_is_run_once_and_collected_as_it_finishes() {
    run_many(20_000, true);
}

#[test]
fn a_buried_worker_loses_exactly_the_item_in_hand() {
    let board = board(4);
    let options = JobOptions {
        as_finished: true,
        hint: 8,
        ..JobOptions::default()
    };
    let mut job = board
        .open_job(Message::default(), options)
        .unwrap()
        .unwrap();
    for i in 0..8u8 {
        job.feed(Message::new(&[i]), false).unwrap().unwrap();
    }
    let mut seat = board.sit_down(1).unwrap().unwrap();
    assert_eq!(next(&mut seat).unwrap().item, 0);
    seat.finish(0, Message::new(b"a")).unwrap();
    assert_eq!(next(&mut seat).unwrap().item, 1);
    // As if its process had been killed here.
    assert!(board.bury_worker(1).unwrap());
    std::mem::forget(seat);
    let gone = board.departed().unwrap().unwrap();
    assert_eq!(gone.len(), 1);
    assert_eq!(gone[0].died, Some((job.id(), 1)));
    assert_eq!((gone[0].worker, gone[0].tasks), (1, 1));
    assert!(board.departed().unwrap().unwrap().is_empty());
    assert!(job.fail(1).unwrap());
    // The rest is taken up by another one, which also gets the seat if there is no other.
    let mut seat = board.sit_down(2).unwrap().unwrap();
    let mut items = Vec::new();
    while let Some(task) = next(&mut seat) {
        items.push(task.item);
        seat.finish(0, Message::new(b"b")).unwrap();
    }
    items.sort_unstable();
    assert_eq!(items, [2, 3, 4, 5, 6, 7]);
    let mut outcomes = Vec::new();
    while let Some((item, taken)) = job.collect_any().unwrap() {
        outcomes.push((item, matches!(taken, Taken::Failed { .. })));
    }
    outcomes.sort_unstable();
    assert_eq!(outcomes.len(), 8);
    assert_eq!(outcomes[1], (1, true));
    assert_eq!(outcomes.iter().filter(|o| o.1).count(), 1);
}

#[test]
fn a_died_item_can_be_run_again_with_its_arguments() {
    let board = board(4);
    let options = JobOptions {
        keep_arguments: true,
        ..JobOptions::default()
    };
    let mut job = board
        .open_job(Message::default(), options)
        .unwrap()
        .unwrap();
    let block = session()
        .alloc(100, BlockOwner::process(session().me().unwrap()))
        .unwrap();
    session().segment().write(block, b"beside").unwrap();
    let message = Message {
        block: Some(block),
        ..Message::new(&[7; 5000])
    };
    job.feed(message, false).unwrap().unwrap();
    for attempt in 1..=3 {
        let mut seat = board.sit_down(attempt).unwrap().unwrap();
        let mut task = next(&mut seat).unwrap();
        assert_eq!(task.arguments.bytes(), [7; 5000]);
        let copy = task.arguments.take_block().unwrap();
        assert_ne!(copy, block);
        assert_eq!(session().segment().bytes(copy, 6).unwrap(), b"beside");
        session().segment().write(copy, b"BROKEN").unwrap();
        session().free_block(copy).unwrap();
        if attempt < 3 {
            assert!(board.bury_worker(attempt).unwrap());
            std::mem::forget(seat);
            assert_eq!(
                board.departed().unwrap().unwrap()[0].died,
                Some((job.id(), 0))
            );
            assert!(job.retry(0).unwrap());
        } else {
            seat.finish(1, Message::new(b"at last")).unwrap();
        }
    }
    let (0, Taken::Done { status: 1, payload }) = job.collect_next().unwrap().unwrap() else {
        panic!()
    };
    assert_eq!(payload.bytes(), b"at last");
    assert!(
        session().block(block).unwrap().owner.load(SeqCst) == 0,
        "the arguments are freed"
    );
}

#[test]
fn the_rest_behind_a_slow_item_is_taken_over() {
    let board = board(4);
    let options = JobOptions {
        hint: 16,
        ..JobOptions::default()
    };
    let mut job = board
        .open_job(Message::default(), options)
        .unwrap()
        .unwrap();
    for _ in 0..32 {
        job.feed(Message::new(b"x"), false).unwrap().unwrap();
    }
    let mut slow = board.sit_down(1).unwrap().unwrap();
    let in_hand = next(&mut slow).unwrap();
    let mut quick = board.sit_down(2).unwrap().unwrap();
    let mut others = HashSet::new();
    while others.len() < 31 {
        match next(&mut quick) {
            Some(task) => {
                assert!(others.insert(task.item));
                quick.finish(0, Message::default()).unwrap();
            }
            None => std::thread::yield_now(),
        }
    }
    assert!(!others.contains(&in_hand.item));
    slow.finish(0, Message::default()).unwrap();
    assert!(next(&mut slow).is_none());
    assert_eq!(job.finished_prefix().unwrap(), 32);
}

#[test]
fn a_condemned_worker_starts_nothing_else() {
    let board = board(4);
    let options = JobOptions {
        hint: 4,
        ..JobOptions::default()
    };
    let mut job = board
        .open_job(Message::default(), options)
        .unwrap()
        .unwrap();
    for _ in 0..8 {
        job.feed(Message::default(), false).unwrap().unwrap();
    }
    let mut seat = board.sit_down(9).unwrap().unwrap();
    next(&mut seat).unwrap();
    assert!(board.condemn(job.id(), 1).is_none(), "it does not run that");
    assert_eq!(board.condemn(job.id(), 0).unwrap().worker, 9);
    seat.finish(0, Message::default()).unwrap();
    assert!(matches!(seat.try_next().unwrap(), Next::Condemned));
    assert!(board.bury_worker(9).unwrap());
    std::mem::forget(seat);
    assert_eq!(board.departed().unwrap().unwrap()[0].died, None);
    let mut seat = board.sit_down(10).unwrap().unwrap();
    let mut left = 0;
    while next(&mut seat).is_some() {
        left += 1;
        seat.finish(0, Message::default()).unwrap();
    }
    assert_eq!(left, 7);
}

#[test]
fn cancelled_items_are_not_run() {
    let board = board(4);
    let mut job = (board.open_job(Message::default(), JobOptions::default()))
        .unwrap()
        .unwrap();
    for _ in 0..3 {
        job.feed(Message::default(), false).unwrap().unwrap();
    }
    assert_eq!(job.cancel(1).unwrap(), CancelCell::Cancelled);
    assert_eq!(job.cancel(1).unwrap(), CancelCell::TooLate);
    assert_eq!(job.cancel(3).unwrap(), CancelCell::TooLate);
    let mut seat = board.sit_down(1).unwrap().unwrap();
    assert_eq!(next(&mut seat).unwrap().item, 0);
    assert_eq!(job.cancel(0).unwrap(), CancelCell::Running);
    seat.finish(0, Message::default()).unwrap();
    assert_eq!(next(&mut seat).unwrap().item, 2);
    seat.finish(0, Message::default()).unwrap();
    assert!(matches!(
        job.collect_next().unwrap(),
        Some((0, Taken::Done { .. }))
    ));
    assert!(matches!(
        job.collect_next().unwrap(),
        Some((1, Taken::Cancelled))
    ));
    assert!(matches!(
        job.collect_next().unwrap(),
        Some((2, Taken::Done { .. }))
    ));
    assert_eq!(job.recount().unwrap(), 3);
}

#[test]
fn a_worker_stops_after_its_tasks_and_leaves_the_rest() {
    let board = Board::create(session(), "board", 4, 2).unwrap();
    let mut job = (board.open_job(Message::default(), JobOptions::default()))
        .unwrap()
        .unwrap();
    for _ in 0..5 {
        job.feed(Message::default(), false).unwrap().unwrap();
    }
    let mut run = Vec::new();
    for worker in 1..=3 {
        let mut seat = board.sit_down(worker).unwrap().unwrap();
        while let Next::Task(task) = seat.try_next().unwrap() {
            run.push(task.item);
            seat.finish(0, Message::default()).unwrap();
        }
    }
    assert_eq!(run, [0, 1, 2, 3, 4]);
}

#[test]
fn a_full_window_says_so_and_one_slow_item_does_not_fill_it() {
    let board = board(2);
    let options = JobOptions {
        total: Some(3 * CHUNK),
        as_finished: true,
        ..JobOptions::default()
    };
    let mut job = board
        .open_job(Message::default(), options)
        .unwrap()
        .unwrap();
    for _ in 0..3 * CHUNK {
        job.feed(Message::default(), false).unwrap().unwrap();
    }
    assert_eq!(job.feed(Message::default(), false).unwrap(), None);
    let mut slow = board.sit_down(1).unwrap().unwrap();
    assert_eq!(next(&mut slow).unwrap().item, 0);
    let mut seat = board.sit_down(2).unwrap().unwrap();
    for round in 0..4 {
        let mut ran = 0;
        while let Some(_task) = next(&mut seat) {
            ran += 1;
            seat.finish(0, Message::default()).unwrap();
        }
        assert!(ran >= CHUNK, "round {round} ran {ran}");
        while job.collect_any().unwrap().is_some() {}
        // All but the first chunk have been collected; their places are free.
        while job.feed(Message::default(), false).unwrap().is_some() {}
        assert!(
            job.fed() >= (3 + 2 * round) * CHUNK,
            "round {round}: {}",
            job.fed()
        );
    }
}

#[test]
fn results_do_not_go_to_a_chunk_that_was_at_the_same_place_before() {
    let board = board(2);
    let mut seat = board.sit_down(1).unwrap().unwrap();
    let long = [b'r'; 400];
    for _ in 0..2 {
        let mut job = (board.open_job(Message::new(b"f"), JobOptions::default()))
            .unwrap()
            .unwrap();
        job.feed(Message::default(), false).unwrap().unwrap();
        next(&mut seat).unwrap();
        assert_eq!(seat.function().unwrap().bytes(), b"f");
        seat.finish(0, Message::new(&long)).unwrap();
        assert!(next(&mut seat).is_none());
        // Whatever else is allocated now must not be where the result is.
        let mine = BlockOwner::process(session().me().unwrap());
        let others: Vec<u64> = (0..64)
            .map(|_| session().alloc(4096, mine).unwrap())
            .collect();
        for at in &others {
            session().segment().write(*at, &[b'x'; 4096]).unwrap();
        }
        let Some((0, Taken::Done { payload, .. })) = job.collect_next().unwrap() else {
            panic!()
        };
        assert_eq!(payload.bytes(), long);
        for at in others {
            session().free_block(at).unwrap();
        }
        assert!(job.stop().unwrap());
        assert!(job.try_free().unwrap());
    }
}

#[test]
fn finished_items_can_be_found_before_they_are_announced() {
    let board = board(2);
    let options = JobOptions {
        as_finished: true,
        ..JobOptions::default()
    };
    let mut job = board
        .open_job(Message::default(), options)
        .unwrap()
        .unwrap();
    for _ in 0..CHUNK {
        job.feed(Message::default(), true).unwrap().unwrap();
    }
    job.publish();
    let mut seat = board.sit_down(1).unwrap().unwrap();
    for finished in 1..=CHUNK / 2 {
        next(&mut seat).unwrap();
        seat.finish(0, Message::default()).unwrap();
        if finished % 7 == 0 {
            job.look_hard().unwrap();
            while job.collect_any().unwrap().is_some() {}
            assert_eq!(job.collected(), finished);
        }
    }
}

#[test]
fn nothing_of_a_closed_job_is_taken_for_the_next_one_in_its_slot() {
    let board = board(2);
    let mut job = open(&board);
    for _ in 0..10 {
        job.feed(Message::default(), false).unwrap().unwrap();
    }
    // Before anybody came to it.
    assert!(job.try_free().unwrap());
    assert!(!board.has_work());
    let slot = &board.body.jobs[job.id().slot()];
    let left = [&slot.id, &slot.cursor, &slot.fed].map(|word| word.load(SeqCst));
    assert_eq!(left, [0, 0, 0]);
}

#[test]
fn whoever_repairs_a_board_has_everybody_look_again_at_once() {
    let board = board(2);
    let mut job = open(&board);
    job.feed(Message::default(), false).unwrap().unwrap();
    // A worker has taken the hint back, and dies before it has looked a second time.
    let dying = board.clone();
    let died = std::thread::spawn(move || {
        let section = dying.lock().unwrap();
        dying.body.ready.store(0, SeqCst);
        std::mem::forget(section);
    });
    died.join().unwrap();
    assert!(!board.has_work());
    let entry = session().entry(board.index()).unwrap();
    (OPS.settle)(session(), board.index(), entry).unwrap();
    assert!(board.has_work());
}

#[test]
fn torn_counts_are_an_error_to_whoever_looks() {
    let owner = board(2);
    let bits = |job: &layout::JobSlot, id| {
        job.id.store(id, SeqCst);
        job.fed.store(u64::MAX * id, SeqCst);
        job.done.store(u64::MAX * id, SeqCst);
    };
    let entry = session().entry(owner.index()).unwrap();
    assert!(count::describe(session(), entry).is_ok());
    owner.body.ledgers.store(u64::MAX, SeqCst);
    assert!(owner.body.all_ledgers(session()).count() <= MOST_SEATS as usize);
    owner.body.ledgers.store(2, SeqCst);
    for job in &owner.body.jobs[..2] {
        bits(job, 1);
    }
    assert!(count::describe(session(), entry).is_err());
    for job in &owner.body.jobs[..2] {
        bits(job, 0);
    }
}

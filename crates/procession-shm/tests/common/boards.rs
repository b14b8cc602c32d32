//! A board in the middle of its work, and everything that can be done with a board.

use procession_shm::Session;
use procession_shm::board::{Board, JobOptions, Next, OwnedJob, Seat};
use procession_shm::ring::Message;

/// Payloads of every form: inline, in memory of the chunk, in a block of their own.
fn payload(item: u64) -> Vec<u8> {
    vec![item as u8; [3, 24, 400, 3000][item as usize % 4]]
}

/// Jobs of both orders with items that wait, run, are finished, are collected; and a worker who has one in hand.
pub fn busy(session: &'static Session) -> Board {
    let board = Board::create(session, "board", 4, 0).unwrap();
    let mut seat = board.sit_down(1).unwrap().unwrap();
    seat.up();
    for as_finished in [false, true] {
        let options = JobOptions {
            as_finished,
            keep_arguments: as_finished,
            ..JobOptions::default()
        };
        let function = Message::new(&[1; 3000]);
        let mut job = board.open_job(function, options).unwrap().unwrap();
        for item in 0..80 {
            let bytes = payload(item);
            job.feed(Message::new(&bytes), true).unwrap().unwrap();
        }
        job.publish();
        run(&mut seat, 40);
        collect(&mut job, 10);
        let _ = job.cancel(79);
        // Its owner goes on in another copy.
        std::mem::forget(job);
    }
    assert!(matches!(seat.try_next().unwrap(), Next::Task(_)));
    std::mem::forget(seat);
    board
}

fn run(seat: &mut Seat, most: u64) {
    for item in 0..most {
        let Ok(Next::Task(mut task)) = seat.try_next() else {
            return;
        };
        let _ = (task.bytes().len(), task.take_block());
        let _ = (seat.function(), seat.running(), seat.is_condemned());
        let _ = seat.finish(7, Message::new(&payload(item)));
    }
}

fn collect(job: &mut OwnedJob, most: u64) {
    for _ in 0..most {
        let _ = (job.has_any(), job.has_next(), job.look_hard());
        let _ = (job.collect_next(), job.collect_any());
    }
}

/// Everything that its workers and its owner do.
pub fn use_board(board: &Board) {
    let _ = (board.seats(), board.has_work(), board.events());
    for seated in board.seated().take(100) {
        if let Some((job, item)) = seated.running {
            let _ = (board.counts(job), board.condemn(job, item));
        }
    }
    if let Ok(Some(mut seat)) = board.sit_down(2) {
        seat.up();
        let _ = seat.others_have_rest();
        run(&mut seat, 50);
    }
    for worker in [1, 2] {
        let _ = board.bury_worker(worker);
    }
    let _ = board.departed();
    if let Ok(Some(mut job)) = board.open_job(Message::new(b"f"), JobOptions::default()) {
        for item in 0..50 {
            let _ = job.feed(Message::new(&payload(item)), item % 2 == 0);
        }
        job.publish();
        if let Ok(Some(mut seat)) = board.sit_down(3) {
            run(&mut seat, 50);
        }
        let _ = (job.cancel(49), job.fail(3), job.retry(4));
        let _ = (job.finished_prefix(), job.recount());
        collect(&mut job, 60);
        let _ = (job.stop(), job.try_free());
    }
    board.end();
}

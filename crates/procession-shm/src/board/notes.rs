//! What a worker notes of an item while it runs it, for items that are many calls.
//!
//! The notes stand in a slab of the chunk, the progress in the cell, whose result words are free while the item runs:
//!
//! | word of the result | |
//! |---|---|
//! | 1 | where the notes stand, as in a result: finishing is one store of the head |
//! | 2 | bytes noted << 32, calls begun << 16, calls noted |
//! | 3 | the same place, and [`NOTED`] |
//!
//! A result that is more than the notes stands in a block of its own, which only the first word names: so the notes are there
//! until the head says that the item is done.
//!
//! If all goes well the notes are the item's result. If the worker dies they tell what was finished, and which call it was.

use crate::crash_point;
use crate::error::{Corrupt, ShmError};
use crate::primitive::Ordering;
use crate::session::Session;

use super::cell::{Cell, DONE};
use super::payload::SLAB;
use super::run::Seat;

/// In the upper bits of the result's last word: there are notes. No place in a session is so far behind.
const NOTED: u64 = 0x4e6f << 48;

/// The most bytes that can be noted.
pub const NOTES_MAX: u64 = 1024;

/// Progress of an item whose worker has died.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Noted {
    /// Calls that were begun.
    pub begun: usize,
    /// Calls whose outcome was noted.
    pub calls: usize,
    /// What was noted of them.
    pub bytes: Vec<u8>,
}

/// Notes of the item in hand.
#[derive(Debug)]
pub struct Notes {
    session: &'static Session,
    cell: &'static Cell,
    at: u64,
    len: u64,
    begun: u64,
    calls: u64,
}

impl Notes {
    /// A call begins.
    #[inline]
    pub fn begin(&mut self) {
        self.begun += 1;
        self.tell();
        crash_point!("board.notes.begun");
    }

    /// Notes the outcome of a call; false if there is no room.
    #[inline]
    pub fn add(&mut self, parts: &[&[u8]]) -> Result<bool, Corrupt> {
        let len: usize = parts.iter().map(|p| p.len()).sum();
        if self.len + len as u64 > NOTES_MAX {
            return Ok(false);
        }
        for part in parts {
            self.session.segment().write(self.at + self.len, part)?;
            self.len += part.len() as u64;
        }
        crash_point!("board.notes.written");
        self.calls += 1;
        self.tell();
        crash_point!("board.notes.told");
        Ok(true)
    }

    /// What was noted.
    pub fn bytes(&self) -> Result<&[u8], Corrupt> {
        self.session.segment().bytes(self.at, self.len)
    }

    #[inline]
    fn tell(&self) {
        let progress = self.len << 32 | (self.begun & 0xffff) << 16 | self.calls & 0xffff;
        self.cell.result[2].store(progress, Ordering::Release);
    }
}

/// The progress in the cell of an item whose worker died.
pub(super) fn noted(session: &Session, cell: &Cell) -> Result<Option<Noted>, Corrupt> {
    let [progress, place] = [2, 3].map(|i| cell.result[i].load(Ordering::Relaxed));
    if place >> 48 != NOTED >> 48 {
        return Ok(None);
    }
    let (at, len) = (place & !NOTED, progress >> 32);
    if len > NOTES_MAX {
        return Err(Corrupt("a worker's notes are too long"));
    }
    Ok(Some(Noted {
        begun: (progress >> 16 & 0xffff) as usize,
        calls: (progress & 0xffff) as usize,
        bytes: session.segment().bytes(at, len)?.to_vec(),
    }))
}

impl Seat {
    /// Begins notes of the item in hand.
    pub fn notes(&mut self) -> Result<Notes, ShmError> {
        let (Some((cell, _)), Some(range)) = (self.running, self.range) else {
            return Err(Corrupt("no task is in hand").into());
        };
        let at = self.slab.room(&self.board, &range, NOTES_MAX)?;
        let notes = Notes {
            session: self.board.session(),
            cell,
            at,
            len: 0,
            begun: 0,
            calls: 0,
        };
        notes.tell();
        cell.result[1].store(at, Ordering::Relaxed);
        cell.result[3].store(NOTED | at, Ordering::Release);
        self.noted = true;
        crash_point!("board.notes.opened");
        Ok(notes)
    }

    /// Commits what was noted as the result of the item in hand.
    pub fn finish_noted(&mut self, status: u8, notes: &Notes) -> Result<(), ShmError> {
        let (Some((cell, item)), Some(range)) = (self.running, self.range) else {
            return Err(Corrupt("no task is in hand").into());
        };
        self.slab.keep(notes.at + notes.len);
        crash_point!("board.notes.closed");
        let head = DONE | SLAB << 8 | u64::from(status) << 16 | notes.len << 32;
        cell.finish_in_place(head);
        self.committed(&range, item)
    }

    /// Counts the calls of an item that was many, but one.
    pub fn count_calls(&mut self, calls: u64) {
        let more = calls.saturating_sub(1);
        self.more_calls += more;
        self.tasks += more;
        self.used = self.used.saturating_add(more.saturating_mul(self.cost));
        if let Some(slot) = self.shown {
            let before = slot.tasks_done.load(Ordering::Relaxed);
            slot.tasks_done.store(before + more, Ordering::Relaxed);
        }
    }

    /// Asks the owner for items that are one call each.
    pub fn ask_single(&self) {
        if let Some(range) = self.range {
            range
                .slot
                .flags
                .fetch_or(super::layout::SINGLE, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Board, JobOptions, Next, Taken};
    use super::*;
    use crate::ring::Message;

    fn board() -> Board {
        let session = crate::kinds::create("notes", None).unwrap();
        Board::create(session, "board", 4, 0).unwrap()
    }

    #[test]
    fn notes_are_the_result_or_what_is_left_of_the_dead() {
        let board = board();
        let mut job = board
            .open_job(Message::default(), JobOptions::default())
            .unwrap()
            .unwrap();
        for _ in 0..3 {
            job.feed(Message::new(b"two calls"), false).unwrap();
        }
        job.seal();
        let mut seat = board.sit_down(1).unwrap().unwrap();
        // One goes well.
        assert!(matches!(seat.try_next().unwrap(), Next::Task(_)));
        let mut notes = seat.notes().unwrap();
        for call in [b"one", b"two"] {
            notes.begin();
            assert!(notes.add(&[call, b";"]).unwrap());
        }
        assert!(!notes.add(&[&[0; NOTES_MAX as usize]]).unwrap(), "no room");
        seat.count_calls(2);
        seat.finish_noted(5, &notes).unwrap();
        assert_eq!(seat.tasks(), 2);
        // One is run by a worker that keeps no notes, one by a worker that dies in its second call.
        assert!(matches!(seat.try_next().unwrap(), Next::Task(_)));
        seat.finish(6, Message::new(b"plain")).unwrap();
        assert!(matches!(seat.try_next().unwrap(), Next::Task(_)));
        let mut notes = seat.notes().unwrap();
        notes.begin();
        assert!(notes.add(&[b"one;"]).unwrap());
        notes.begin();
        board.bury_worker(1).unwrap();
        std::mem::forget(seat);
        board.departed().unwrap();
        assert!(job.fail(2).unwrap());

        let Some((0, Taken::Done { status, payload })) = job.collect_next().unwrap() else {
            panic!("the first is done");
        };
        assert_eq!((status, &payload[..]), (5, &b"one;two;"[..]));
        let Some((1, Taken::Done { status: 6, .. })) = job.collect_next().unwrap() else {
            panic!("the second is done");
        };
        let Some((2, Taken::Failed { noted: Some(left) })) = job.collect_next().unwrap() else {
            panic!("the third has died, with notes");
        };
        assert_eq!((left.begun, left.calls), (2, 1));
        assert_eq!(left.bytes, b"one;");
    }

    #[test]
    fn what_another_run_of_the_same_item_noted_is_forgotten() {
        let board = board();
        let mut job = board
            .open_job(Message::default(), JobOptions::default())
            .unwrap()
            .unwrap();
        job.feed(Message::new(b"calls"), false).unwrap();
        job.seal();
        for (worker, notes) in [(1, true), (2, false)] {
            let mut seat = board.sit_down(worker).unwrap().unwrap();
            assert!(matches!(seat.try_next().unwrap(), Next::Task(_)));
            if notes {
                seat.notes().unwrap().begin();
            }
            board.bury_worker(worker).unwrap();
            std::mem::forget(seat);
            board.departed().unwrap();
            if worker == 1 {
                assert!(job.retry(0).unwrap());
            }
        }
        assert!(job.fail(0).unwrap());
        assert!(matches!(
            job.collect_next().unwrap(),
            Some((0, Taken::Failed { noted: None }))
        ));
    }
}

//! A worker's side of a pool.

use procession_shm::WaitError;
use procession_shm::board::{Board, LOOK_AGAIN, Next, Notes, Payload, Seat, Task};
use procession_shm::objects::Handle;
use procession_shm::ring::Message;
use procession_shm::wait::{Check, Wait, WaitKind};
use procession_sys::clock::Deadline;

use super::PoolError;
use super::event::WorkerId;

/// A worker of a pool. One thread at a time. Dropped, it leaves; an item in hand has then failed.
#[derive(Debug)]
pub struct Worker {
    seat: Seat,
}

impl Worker {
    /// Joins the pool behind `handle` as the worker that it knows by `id`. To be done before whatever may fail at start-up.
    pub fn join(handle: Handle, id: WorkerId) -> Result<Self, PoolError> {
        let board = Board::of(handle)?;
        match board.sit_down(id.0)? {
            Some(seat) => Ok(Self { seat }),
            None => Err(PoolError::TooMany("workers", u64::from(board.seats()))),
        }
    }

    /// The next task, waiting for one. `None`: it is time to leave. Asking for the first time says that start-up has
    /// succeeded. A task that was not finished is finished with status 255 and no bytes.
    #[inline]
    pub fn next(&mut self, check: Check<'_>) -> Result<Option<Task>, PoolError> {
        if self.seat.running().is_some() {
            self.seat.finish(u8::MAX, Message::default())?;
        }
        self.seat.up();
        loop {
            match self.seat.try_next()? {
                Next::Task(task) => return Ok(Some(task)),
                Next::Enough => return Ok(None),
                Next::Idle | Next::Condemned if self.seat.board().has_ended() => return Ok(None),
                Next::Idle => self.idle(check)?,
                Next::Condemned => self.await_death(check)?,
            }
        }
    }

    /// The next task if there is one at once. `None` says nothing: ask [`Worker::next`], which waits.
    #[inline]
    pub fn try_next(&mut self) -> Result<Option<Task>, PoolError> {
        if self.seat.running().is_some() {
            self.seat.finish(u8::MAX, Message::default())?;
        }
        self.seat.up();
        match self.seat.try_next()? {
            Next::Task(task) => Ok(Some(task)),
            Next::Idle | Next::Enough | Next::Condemned => Ok(None),
        }
    }

    /// Sleeps until there may be work, or something to look after.
    #[cold]
    fn idle(&mut self, check: Check<'_>) -> Result<(), PoolError> {
        let watching = self.seat.keep_watch();
        let board = self.seat.board();
        let deadline = if watching {
            Deadline::after(Some(LOOK_AGAIN))
        } else {
            Deadline::NEVER
        };
        let (session, index) = (board.session(), board.handle().index());
        let wait = Wait::new(session, index, WaitKind::Task, deadline).checked(check);
        let mut wait = if watching || board.has_work() {
            wait.without_spinning()
        } else {
            wait.looking_out(board.lookout())
        };
        if !watching {
            wait = wait.numbered(board.last_sleeper(), self.seat.number());
        }
        let slept = wait.until(board.work(), || {
            let ready = board.has_ended()
                || board.may_claim(watching)
                || !watching && self.seat.is_unwatched();
            Ok(ready.then_some(()))
        });
        match slept {
            Ok(()) => Ok(()),
            Err(WaitError::TimedOut) => {
                self.seat.look_after_others();
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The parent has decided to kill this process for an item that it finished just then.
    #[cold]
    fn await_death(&self, check: Check<'_>) -> Result<(), PoolError> {
        let board = self.seat.board();
        let (session, index) = (board.session(), board.handle().index());
        Wait::new(session, index, WaitKind::Exit, Deadline::NEVER)
            .checked(check)
            .until(board.work(), || {
                let over = board.has_ended() || !self.seat.is_condemned();
                Ok(over.then_some(()))
            })?;
        Ok(())
    }

    /// The function of the job of the task in hand: a copy of this process's own, to be kept for as long as it likes.
    pub fn function(&self) -> Result<Payload, PoolError> {
        Ok(self.seat.function()?)
    }

    /// Commits the result of the task in hand. On an error (no memory) it is still in hand, and something smaller may do.
    #[inline]
    pub fn finish(&mut self, status: u8, result: Message<'_>) -> Result<(), PoolError> {
        Ok(self.seat.finish(status, result)?)
    }

    /// Begins notes of the task in hand, which is many calls: should this worker die, its parent gets them.
    pub fn notes(&mut self) -> Result<Notes, PoolError> {
        Ok(self.seat.notes()?)
    }

    /// Commits what was noted as the result of the task in hand.
    pub fn finish_noted(&mut self, status: u8, notes: &Notes) -> Result<(), PoolError> {
        Ok(self.seat.finish_noted(status, notes)?)
    }

    /// Of the task in hand: how many calls it is.
    pub fn count_calls(&mut self, calls: u64) {
        self.seat.count_calls(calls);
    }

    /// Asks the parent for tasks that are one call each: the results of this job are too large for anything else.
    pub fn ask_single(&self) {
        self.seat.ask_single();
    }

    /// Tasks finished.
    pub fn tasks_done(&self) -> u64 {
        self.seat.tasks()
    }

    /// Leaves the pool.
    pub fn leave(self) {
        drop(self);
    }
}

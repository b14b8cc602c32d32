//! The worker's side: tasks in, results out, until it is time to leave.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use procession_engine::launch::Arrival;
use procession_engine::pool::{self as engine, JobId, Message, Task, WorkerId};
use procession_engine::transit::Parcel;
use procession_shm::objects::Handle;
use procession_shm::{Session, ShmError};
use serde::{Deserialize, Serialize};

use crate::error::MessageError;
use crate::registry::{self, Input, Known};
use crate::transit;

/// The status of a result.
pub(super) const DONE: u8 = 0;
/// The status of a panic; the bytes are what it said.
pub(super) const PANICKED: u8 = 1;
/// The status of what could not be decoded or encoded; the bytes say why.
pub(super) const UNSENDABLE: u8 = 2;

/// What a worker is told when it starts. The arguments of the initializer follow it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Assignment {
    pub(super) board: BoardHandle,
    pub(super) worker: u64,
    /// A task to run first.
    pub(super) initializer: Option<String>,
}

/// The pool's work in shared memory.
#[derive(Debug)]
pub(crate) struct BoardHandle(pub(super) Handle);

transit::travels!([] BoardHandle, |board| &board.0, |handle| Ok(BoardHandle(handle)));

/// Why a worker cannot work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkError {
    #[error("the task `{0}` is not in this program")]
    Unknown(String),
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error(transparent)]
    Pool(#[from] engine::PoolError),
    #[error(transparent)]
    Session(#[from] ShmError),
}

/// Works until it is time to leave. The exit code.
pub(crate) fn work(
    session: &'static Session,
    assignment: Assignment,
    input: Input<'_>,
) -> Result<i32, WorkError> {
    let id = WorkerId(assignment.worker);
    let mut worker = engine::Worker::join(assignment.board.0, id)?;
    if let Some(name) = assignment.initializer {
        let known = registry::named(&name).ok_or(WorkError::Unknown(name))?;
        let code = known.run(input)?;
        if code != 0 {
            return Ok(code);
        }
    } else {
        drop(input);
        Arrival::settled(session)?;
    }
    catch_messages();
    let mut function = None;
    let mut output = Vec::new();
    while let Some(mut task) = worker.next(&mut || true)? {
        output.clear();
        let (status, attached) = match known(&mut function, &worker, &task)? {
            Ok(known) => run(known, &mut task, &mut output),
            Err(name) => {
                output.extend(format!("the task `{name}` is not in this program").bytes());
                (UNSENDABLE, None)
            }
        };
        finish(&mut worker, status, &output, attached)?;
    }
    Ok(0)
}

/// The task's function, remembered from one task to the next of the same job.
fn known<'a>(
    cache: &'a mut Option<(JobId, Result<Known, String>)>,
    worker: &engine::Worker,
    task: &Task,
) -> Result<Result<Known, &'a str>, WorkError> {
    if cache.as_ref().is_none_or(|(job, _)| *job != task.job) {
        let name = String::from_utf8_lossy(&worker.function()?).into_owned();
        *cache = Some((task.job, registry::named(&name).ok_or(name)));
    }
    Ok(match cache {
        Some((_, Ok(known))) => Ok(*known),
        Some((_, Err(name))) => Err(name),
        None => Err(""),
    })
}

/// Runs a task, whatever it does; `output` is its result or what is to be said about it.
fn run(known: Known, task: &mut Task, output: &mut Vec<u8>) -> (u8, Option<Parcel>) {
    let result = transit::attached(task.arguments.take_block()).map(|attached| {
        let bytes = task.arguments.bytes();
        MESSAGE.set(Some(String::new()));
        // A panic leaves nothing of ours half done: the output is written anew, the task's own values are the task's.
        let result = catch_unwind(AssertUnwindSafe(|| {
            known.work(Input { bytes, attached }, output)
        }));
        result.map_err(|_| MESSAGE.take().unwrap_or_default())
    });
    let (status, text) = match result {
        Ok(Ok(Ok(attached))) => return (DONE, attached),
        Ok(Err(message)) => (PANICKED, message),
        Ok(Ok(Err(error))) | Err(error) => (UNSENDABLE, error.to_string()),
    };
    output.clear();
    output.extend_from_slice(text.as_bytes());
    (status, None)
}

thread_local! {
    /// What the panic of the task in hand has said, while there is a task in hand.
    static MESSAGE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The message of a panic in a task goes to whoever asked for the task, not to standard error.
fn catch_messages() {
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let payload = panic.payload();
        let text = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("a value that is no text");
        let text = match panic.location() {
            Some(place) => format!("{text} (at {place})"),
            None => text.to_owned(),
        };
        let caught = MESSAGE.with_borrow_mut(|message| match message {
            Some(message) => {
                *message = text;
                true
            }
            None => false,
        });
        if !caught {
            others(panic);
        }
    }));
}

/// Hands the result over. One that there is no room for is replaced by saying so.
fn finish(
    worker: &mut engine::Worker,
    status: u8,
    output: &[u8],
    attached: Option<Parcel>,
) -> Result<(), WorkError> {
    let message = Message {
        block: attached.as_ref().map(Parcel::block),
        ..Message::new(output)
    };
    if let Err(error) = worker.finish(status, message) {
        let text = error.to_string();
        worker.finish(UNSENDABLE, Message::new(text.as_bytes()))?;
        return Ok(());
    }
    if let Some(parcel) = attached {
        parcel.sent();
    }
    Ok(())
}

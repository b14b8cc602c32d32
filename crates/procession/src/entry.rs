//! Where a process comes in: as the program that the user started, or as a child with an errand.

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use procession_engine::launch::{self, Arrival, Program};
use procession_engine::{home, process};
use serde::{Deserialize, Serialize};

use crate::codec::{Codec, CodecError, Postcard};
use crate::error::{MessageError, SessionError, SpawnError};
use crate::registry::Input;
use crate::{pool, registry, transit};

/// What a child is started for. The task's arguments follow it, in the task's own codec.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Errand {
    /// Bytes that the process may take beyond what it starts with.
    pub(crate) memory_limit: Option<u64>,
    pub(crate) kind: Kind,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// Run the task of this name, and end.
    Run { task: String },
    /// Work for a pool.
    Work(pool::Assignment),
}

/// How a child of this process gets to its errand.
static DOOR: OnceLock<Door> = OnceLock::new();

#[derive(Debug, Clone)]
struct Door {
    args: Vec<OsString>,
    /// A test harness opens it, which prints something first.
    is_harness: bool,
}

/// The exit code of a child that could not begin (as `EX_SOFTWARE` of old).
const CANNOT_BEGIN: i32 = 70;
/// The exit code of a program that panicked.
const PANICKED: i32 = 101;

/// Lets children in: where this process was started as one, it does its errand and ends here; otherwise nothing happens.
///
/// `#[procession::main]` calls it. A program that cannot use the attribute calls it first thing in `main`, before it reads
/// its arguments or prints anything.
pub fn init() {
    enter(Door {
        args: std::env::args_os().collect(),
        is_harness: false,
    });
}

fn enter(door: Door) {
    DOOR.get_or_init(|| door);
    match launch::arrive(build_id()) {
        Ok(None) => {}
        Ok(Some(arrival)) => {
            let code = match catch_unwind(AssertUnwindSafe(|| run_errand(arrival))) {
                Ok(Ok(code)) => code,
                Ok(Err(error)) => {
                    eprintln!("procession: {error}");
                    CANNOT_BEGIN
                }
                Err(_) => PANICKED,
            };
            end(code)
        }
        Err(error) => {
            eprintln!("procession: {error}");
            std::process::exit(CANNOT_BEGIN)
        }
    }
}

fn end(code: i32) -> ! {
    // What goes wrong here the survivors find out by themselves.
    let _ = process::join_detached();
    let _ = home::leave(code);
    std::process::exit(code)
}

/// `#[procession::main]`.
pub fn run_main<R>(main: fn() -> R) -> R {
    init();
    let _goodbye = Goodbye;
    main()
}

/// `#[procession::test]`. `path` is the test's with its crate, which the harness leaves out.
pub fn run_test<R>(path: &str, test: fn() -> R) -> R {
    let name = path.split_once("::").map_or(path, |(_, name)| name);
    let own = std::env::args_os().next().unwrap_or_default();
    let choice = [
        "--exact",
        name,
        "--include-ignored",
        "--nocapture",
        "--test-threads=1",
    ];
    enter(Door {
        args: [own].into_iter().chain(choice.map(Into::into)).collect(),
        is_harness: true,
    });
    test()
}

/// At the end of `main`, however it is left.
struct Goodbye;

impl Drop for Goodbye {
    fn drop(&mut self) {
        let code = if std::thread::panicking() {
            PANICKED
        } else {
            let _ = process::join_detached();
            0
        };
        let _ = home::leave(code);
    }
}

/// This program, as its children run it.
pub(crate) fn program() -> Result<Program, SpawnError> {
    let door = DOOR.get().ok_or(SpawnError::NotReady)?.clone();
    Ok(Program {
        args: door.args,
        is_talkative: door.is_harness,
        ..Program::this(build_id())
    })
}

fn build_id() -> u64 {
    static ID: OnceLock<u64> = OnceLock::new();
    *ID.get_or_init(|| launch::build_id(registry::names().into_iter()))
}

/// Why a child could not do its errand.
#[derive(Debug, thiserror::Error)]
enum ErrandError {
    #[error("the task `{0}` is not in this program")]
    Unknown(String),
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("cannot limit the memory: {0}")]
    Limit(procession_sys::Errno),
    #[error(transparent)]
    Work(#[from] pool::WorkError),
}

fn run_errand(arrival: Arrival) -> Result<i32, ErrandError> {
    let Arrival {
        session,
        bytes,
        block,
    } = arrival;
    let attached = transit::attached(block)?;
    let ((errand, args), attached) = transit::decode(attached, || split::<Errand>(&bytes))?;
    let input = Input {
        bytes: args,
        attached: attached
            .ok_or(SessionError::Gone)
            .map_err(MessageError::from)?,
    };
    if let Some(limit) = errand.memory_limit {
        procession_sys::limits::limit_growth(limit).map_err(ErrandError::Limit)?;
    }
    match errand.kind {
        Kind::Run { task } => {
            let known = registry::named(&task).ok_or(ErrandError::Unknown(task))?;
            Ok(known.run(input)?)
        }
        Kind::Work(assignment) => Ok(pool::work(session, assignment, input)?),
    }
}

/// The value at the start of a message, and the bytes after it.
fn split<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), CodecError> {
    postcard::take_from_bytes(bytes).map_err(CodecError::new)
}

/// An errand in bytes.
pub(crate) fn encode(errand: &Errand, to: &mut Vec<u8>) -> Result<(), CodecError> {
    Postcard::encode(errand, to)
}

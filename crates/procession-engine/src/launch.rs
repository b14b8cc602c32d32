//! Starting a program as a member of the session, and arriving there.
//!
//! The parent reserves a place, puts the first message into a queue that only the child will know, and starts the program
//! with two things: the session's memory under a fixed descriptor number, and a `Bootstrap` record in the environment.
//! The child enters its place, sees to it that it does not outlive its parent, and takes the message.

use std::ffi::OsString;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use procession_shm::processes::{Owner, Role};
use procession_shm::ring::{Message, Ring, RingOptions};
use procession_shm::{Session, ShmError, crash_point};
use procession_sys::clock::Deadline;
use procession_sys::{Errno, ident, orphan, spawn};

use crate::env::{BOOTSTRAP, SESSION_FD, STDOUT_FD};
use crate::error::{ArriveError, StartError};
use crate::home;
use crate::process::{self, Child};
use crate::transit::Parcel;

/// What to execute. The environment is this process's own, plus what makes it a child.
#[derive(Debug, Clone)]
pub struct Program {
    /// The file.
    pub path: PathBuf,
    /// Its arguments, the first of which is its own name.
    pub args: Vec<OsString>,
    /// Whatever the program prints before it arrives is thrown away: for programs whose `main` is not ours.
    pub is_talkative: bool,
    /// Tells builds apart (see [`build_id`]); the child refuses to begin if its own is another.
    pub build: u64,
}

impl Program {
    /// The program that this process runs, whatever has become of its file, with the same arguments.
    pub fn this(build: u64) -> Self {
        Self {
            path: spawn::THIS_PROGRAM.into(),
            args: std::env::args_os().collect(),
            is_talkative: false,
            build,
        }
    }
}

/// A number that two processes share if they run the same executable and know the same `names`.
pub fn build_id<'a>(names: impl Iterator<Item = &'a str>) -> u64 {
    let mut hasher = DefaultHasher::new();
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    if let Ok(file) = std::fs::metadata(spawn::THIS_PROGRAM) {
        (file.dev(), file.ino(), file.size()).hash(&mut hasher);
        (file.mtime(), file.mtime_nsec()).hash(&mut hasher);
    }
    names.for_each(|name| name.hash(&mut hasher));
    hasher.finish()
}

/// What the parent tells the child about its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bootstrap {
    owner: Owner,
    parent: u32,
    /// The queue with the first message: index and generation.
    inbox: (u32, u32),
    /// Is standard output elsewhere?
    is_talkative: bool,
    build: u64,
}

/// The first field of the record, so that another version's record is recognised as such.
const VERSION: &str = "1";

impl Bootstrap {
    fn to_text(self) -> String {
        let Self {
            owner,
            parent,
            inbox: (index, generation),
            is_talkative,
            build,
        } = self;
        let (owner, talkative) = (owner.word(), u8::from(is_talkative));
        format!("{VERSION}:{owner}:{parent}:{index}:{generation}:{talkative}:{build}")
    }

    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.split(':').collect();
        let [VERSION, owner, parent, index, generation, talkative, build] = fields[..] else {
            return None;
        };
        Some(Self {
            owner: Owner::from_word(owner.parse().ok()?)?,
            parent: parent.parse().ok()?,
            inbox: (index.parse().ok()?, generation.parse().ok()?),
            is_talkative: talkative == "1",
            build: build.parse().ok()?,
        })
    }
}

/// Starts `program` as a member called `name`. It will find `bytes` and what is in `parcel`.
pub fn start(
    program: &Program,
    name: &str,
    role: Role,
    bytes: &[u8],
    parcel: Option<Parcel>,
) -> Result<Child, StartError> {
    process::reap_detached();
    let session = home::session()?;
    let inbox = Ring::create(session, "start", RingOptions::default())?;
    let message = Message {
        block: parcel.as_ref().map(Parcel::block),
        ..Message::new(bytes)
    };
    inbox.port().put(message, Deadline::NEVER, &mut || true)?;
    if let Some(parcel) = parcel {
        parcel.sent();
    }
    crash_point!("launch.start.addressed");
    let owner = session.reserve(name, role)?;
    let bootstrap = Bootstrap {
        owner,
        parent: std::process::id(),
        inbox: (inbox.handle().index(), inbox.handle().generation()),
        is_talkative: program.is_talkative,
        build: program.build,
    };
    let variable = (BOOTSTRAP.into(), bootstrap.to_text().into());
    let env: Vec<_> = std::env::vars_os()
        .filter(|(name, _)| name != BOOTSTRAP)
        .chain([variable])
        .collect();
    let nowhere = program
        .is_talkative
        .then(|| File::options().write(true).open("/dev/null").ok())
        .flatten();
    let stdout = std::io::stdout();
    let mut fds = vec![(session.segment().memory().fd(), SESSION_FD)];
    if let Some(nowhere) = &nowhere {
        fds.extend([(stdout.as_fd(), STDOUT_FD), (nowhere.as_fd(), 1)]);
    }
    match spawn::spawn(&program.path, &program.args, &env, &fds) {
        Ok((pid, pidfd)) => {
            crash_point!("launch.start.spawned");
            session.started(owner, pid);
            crash_point!("launch.start.told");
            Ok(Child::new(session, owner, pid, pidfd, name))
        }
        Err(source) => {
            session.abandon(owner)?;
            Err(StartError::Program {
                program: program.path.display().to_string(),
                source,
            })
        }
    }
}

/// A child that has entered its place, and what it was given.
#[derive(Debug)]
pub struct Arrival {
    /// The session.
    pub session: &'static Session,
    /// The first message.
    pub bytes: Vec<u8>,
    /// The block that came with it (see [`crate::transit`]).
    pub block: Option<u64>,
}

impl Arrival {
    /// To be called once everything in the message is held: gives up what the parent held on this process's behalf.
    pub fn settled(session: &'static Session) -> Result<(), ShmError> {
        session.drop_unclaimed()?;
        if let Some(slot) = session.current().and_then(|me| session.slot_of(me)) {
            slot.settle();
        }
        Ok(())
    }
}

/// If this process was started by [`start`], enters its place. `build` is the program's own [`build_id`].
pub fn arrive(build: u64) -> Result<Option<Arrival>, ArriveError> {
    let Some(text) = std::env::var_os(BOOTSTRAP) else {
        return Ok(None);
    };
    let text = text.to_string_lossy();
    let bootstrap =
        Bootstrap::parse(&text).ok_or_else(|| ArriveError::Malformed(text.to_string()))?;
    let memory = match spawn::take_inherited(SESSION_FD) {
        Ok(fd) => fd,
        // The variable was inherited by a program that a child of ours has started on its own account.
        Err(Errno::BADF) if ident::parent_pid() != bootstrap.parent => return Ok(None),
        Err(source) => {
            let what = "take the session's descriptor";
            return Err(ArriveError::System { what, source });
        }
    };
    if bootstrap.is_talkative {
        let what = "have standard output back";
        spawn::take_inherited(STDOUT_FD)
            .and_then(|stdout| spawn::replace_stdout(&stdout))
            .map_err(|source| ArriveError::System { what, source })?;
    }
    let what = "ask for a signal at the parent's death";
    orphan::guard(bootstrap.parent).map_err(|source| ArriveError::System { what, source })?;
    if bootstrap.build != build {
        return Err(ArriveError::OtherBuild);
    }
    let session = home::join(memory, bootstrap.owner)?;
    crash_point!("launch.arrive.joined");
    let (index, generation) = bootstrap.inbox;
    let inbox = Ring::of(session.hold(index, generation)?)?;
    let (bytes, block) = inbox
        .port()
        .get(Deadline::NEVER, &mut || true, |bytes, block| {
            (bytes.to_vec(), block)
        })?;
    crash_point!("launch.arrive.addressed");
    Ok(Some(Arrival {
        session,
        bytes,
        block,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_back_and_others_refused() {
        let record = Bootstrap {
            owner: Owner::from_word(4097).unwrap(),
            parent: 12,
            inbox: (3, 1),
            is_talkative: true,
            build: u64::MAX,
        };
        assert_eq!(Bootstrap::parse(&record.to_text()), Some(record));
        let newer = record.to_text().replacen('1', "2", 1);
        assert_eq!(Bootstrap::parse(&newer), None);
        assert_eq!(Bootstrap::parse("1:0:12:3:1:0:5"), None);
        assert_eq!(Bootstrap::parse(""), None);
    }

    #[test]
    fn a_build_is_told_apart_by_the_names_it_knows() {
        let id = |names: &[&'static str]| build_id(names.iter().copied());
        assert_eq!(id(&["a", "b"]), id(&["a", "b"]));
        assert_ne!(id(&["a", "b"]), id(&["ab"]));
    }
}

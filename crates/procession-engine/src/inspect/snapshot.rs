//! One picture of a session.
//!
//! The tables are walked as far as they have ever been used, which their headers say and their sizes bound. Nothing is locked:
//! what belongs together is read until two readings agree, a few times at most.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use procession_shm::processes::{Owner, Role, Slot, State, WaitRecord};
use procession_shm::wait::WaitKind;
use procession_shm::{Session, ShmError};
use procession_sys::clock::now_ns;
use procession_sys::proc;

use super::report::{
    Member, MemoryUse, ProcessReport, ProcessState, Report, TaskReport, WaitReport,
};

/// What to read, beyond the processes themselves.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// List processes that have ended as well.
    pub ended: bool,
    /// Read the proportional memory of each process; some milliseconds for a large one.
    pub proportional: bool,
    /// Which objects to list.
    pub objects: Objects,
    /// Look at this many objects at most.
    pub max_objects: usize,
}

/// Which objects to list, and how much of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objects {
    /// Those with something to see (see [`super::ObjectReport::is_busy`]).
    Busy,
    /// All.
    All,
    /// All, and the processes that hold each: the cost grows with processes times objects.
    AllWithHolders,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ended: false,
            proportional: false,
            objects: Objects::Busy,
            max_objects: 10_000,
        }
    }
}

/// How often something is read before it is taken as it came.
const READINGS: u32 = 4;

/// Reads a session.
pub fn snapshot(session: &'static Session, options: &Options) -> Result<Report, ShmError> {
    let mut reader = Reader {
        session,
        now: now_ns(),
        waiters: HashMap::new(),
        owners: HashMap::new(),
        semaphores: 0,
    };
    let header = session.header();
    let slots: Vec<(Raw, Vec<RawWait>)> = session
        .slots()
        .filter_map(|(number, slot)| Some((reader.raw(number, slot)?, reader.raw_waits(slot))))
        .filter(|(raw, _)| options.ended || raw.state != State::Gone)
        .collect();
    for wait in slots.iter().flat_map(|(_, waits)| waits) {
        if let Some(object) = wait.object {
            *reader.waiters.entry(object).or_default() += 1;
        }
    }
    let processes = slots
        .into_iter()
        .map(|(raw, waits)| reader.process(raw, &waits, options))
        .collect();
    let (mut objects, objects_cut) = reader.objects(options);
    if options.objects == Objects::AllWithHolders {
        reader.find_holders(&mut objects)?;
    }
    Ok(Report {
        id: session.id(),
        age_ns: reader.age(header.created_ns.load(Ordering::Relaxed)),
        processes,
        objects,
        object_count: header.object_count.load(Ordering::Relaxed),
        objects_cut,
        memory: MemoryUse {
            used: session.bytes_used(),
            budget: header.budget.load(Ordering::Relaxed),
            resident: session
                .segment()
                .memory()
                .resident_bytes()
                .map_err(ShmError::system("measure the session's memory"))?,
        },
        deaths: header.deaths.load(Ordering::Relaxed),
    })
}

/// What must fit together in a slot.
#[derive(Clone, PartialEq, Eq)]
struct Raw {
    owner: Owner,
    state: State,
    pid: u32,
    start_time: u64,
    parent: u32,
    role: Role,
    name: String,
    exit_code: Option<i32>,
    since_ns: u64,
    /// Board, job, item, since; left out of the comparison, since a busy worker changes it all the time.
    task: Task,
    torn: bool,
}

/// Always equal: see [`Raw::task`].
#[derive(Clone)]
struct Task {
    board: u32,
    job: u32,
    item: u64,
    since_ns: u64,
    done: u64,
}

impl PartialEq for Task {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Task {}

#[derive(Clone, Copy, PartialEq, Eq)]
struct RawWait {
    thread: u32,
    kind: u32,
    object: Option<u32>,
    since_ns: u64,
}

/// Reads until two readings in a row agree. False with the last one if they never did.
fn settled<T: PartialEq>(mut read: impl FnMut() -> T) -> (T, bool) {
    let mut last = read();
    for _ in 0..READINGS {
        let next = read();
        if next == last {
            return (next, true);
        }
        last = next;
    }
    (last, false)
}

/// What is known in the course of one snapshot.
pub(super) struct Reader {
    pub(super) session: &'static Session,
    now: u64,
    /// Threads that wait for each object.
    pub(super) waiters: HashMap<u32, u32>,
    /// What `owners_of` has found out.
    pub(super) owners: HashMap<u32, Vec<Member>>,
    /// Semaphores whose holders were looked up.
    pub(super) semaphores: u32,
}

impl Reader {
    pub(super) fn age(&self, since_ns: u64) -> u64 {
        self.now.saturating_sub(since_ns)
    }

    fn raw(&self, number: u32, slot: &'static Slot) -> Option<Raw> {
        let (raw, agreed) = settled(|| {
            let id = slot.process_id();
            Some(Raw {
                owner: self.session.owner_in(number)?,
                state: slot.state(),
                pid: id.pid,
                start_time: id.start_time,
                parent: slot.parent.load(Ordering::Relaxed),
                role: Role::from_word(slot.role.load(Ordering::Relaxed)),
                name: slot.name(),
                exit_code: slot.exit_code(),
                since_ns: slot.since_ns.load(Ordering::Relaxed),
                task: Task {
                    board: slot.task_board.load(Ordering::Acquire),
                    job: slot.task_job.load(Ordering::Relaxed),
                    item: slot.task_item.load(Ordering::Relaxed),
                    since_ns: slot.task_since_ns.load(Ordering::Relaxed),
                    done: slot.tasks_done.load(Ordering::Relaxed),
                },
                torn: false,
            })
        });
        let raw = raw.filter(|raw| raw.state != State::Free)?;
        Some(Raw {
            torn: !agreed,
            ..raw
        })
    }

    fn raw_waits(&self, slot: &'static Slot) -> Vec<RawWait> {
        let objects = self.session.geometry().objects;
        let one = |record: &WaitRecord| {
            let (wait, agreed) = settled(|| RawWait {
                thread: record.thread.load(Ordering::Acquire),
                since_ns: record.since_ns.load(Ordering::Acquire),
                kind: record.kind.load(Ordering::Relaxed),
                object: record
                    .object
                    .load(Ordering::Relaxed)
                    .checked_sub(1)
                    .filter(|o| *o < objects),
            });
            // What changes that fast is no wait to speak of.
            (agreed && wait.thread != 0).then_some(wait)
        };
        slot.waits.iter().filter_map(one).collect()
    }

    fn process(&mut self, raw: Raw, waits: &[RawWait], options: &Options) -> ProcessReport {
        let seen = proc::snapshot(raw.pid)
            .filter(|seen| raw.start_time == 0 || seen.start_time == raw.start_time);
        let mut state = state(raw.state, raw.pid, seen.as_ref().and_then(|s| s.state));
        if state == ProcessState::Starting && raw.pid == 0 && !self.is_there(raw.parent) {
            // Nobody is left who would start it.
            state = ProcessState::Dead;
        }
        let seen = seen.filter(|_| raw.state != State::Gone);
        let task = raw.task.board.checked_sub(1).map(|board| TaskReport {
            board: self.object_name(board),
            job: raw.task.job,
            item: raw.task.item,
            age_ns: self.age(raw.task.since_ns),
        });
        let waits = if state.is_alive() { waits } else { &[] };
        ProcessReport {
            owner: raw.owner.word(),
            pid: raw.pid,
            parent: Owner::from_word(raw.parent).map(|p| self.member(p)),
            role: raw.role.as_str(),
            name: raw.name,
            state,
            exit_code: raw.exit_code,
            waits: waits.iter().map(|w| self.wait(*w)).collect(),
            task: task.filter(|_| state.is_alive()),
            tasks_done: raw.task.done,
            rss: seen.as_ref().map(|s| s.rss),
            pss: (options.proportional && seen.is_some())
                .then(|| proc::proportional_memory(raw.pid))
                .flatten(),
            cpu_ns: seen.as_ref().map(|s| s.cpu_ns),
            threads: seen.as_ref().map(|s| s.threads),
            age_ns: self.age(raw.since_ns),
            torn: raw.torn,
        }
    }

    fn is_there(&self, parent: u32) -> bool {
        Owner::from_word(parent)
            .and_then(|owner| self.session.slot_of(owner))
            .is_some_and(|slot| slot.process_id().is_alive())
    }

    fn wait(&mut self, wait: RawWait) -> WaitReport {
        WaitReport {
            thread: wait.thread,
            kind: WaitKind::from_word(wait.kind).map_or("?", WaitKind::as_str),
            object: wait.object.map(|o| self.object_name(o)),
            age_ns: self.age(wait.since_ns),
            owners: wait.object.map(|o| self.owners_of(o)).unwrap_or_default(),
        }
    }

    pub(super) fn member(&self, owner: Owner) -> Member {
        let slot = self.session.slot_of(owner);
        Member {
            owner: owner.word(),
            pid: slot.map(|s| s.process_id().pid).filter(|pid| *pid != 0),
            name: slot.map(Slot::name).unwrap_or_default(),
        }
    }
}

/// The session and the system see a process from two sides.
fn state(state: State, pid: u32, letter: Option<char>) -> ProcessState {
    match (state, letter) {
        (State::Gone | State::Free, _) => ProcessState::Ended,
        (State::Dying, _) => ProcessState::Ending,
        (_, Some('Z' | 'X' | 'x')) => ProcessState::Zombie,
        (State::Reserved, Some(_)) => ProcessState::Starting,
        (State::Reserved, None) if pid == 0 => ProcessState::Starting,
        (State::Reserved | State::Live, None) => ProcessState::Dead,
        (State::Live, Some('R')) => ProcessState::Running,
        (State::Live, Some('D')) => ProcessState::Uninterruptible,
        (State::Live, Some('T')) => ProcessState::Stopped,
        (State::Live, Some('t')) => ProcessState::Traced,
        (State::Live, Some(_)) => ProcessState::Sleeping,
    }
}

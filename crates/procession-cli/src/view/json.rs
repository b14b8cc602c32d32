//! One JSON document for programs.
//!
//! Its form is an interface: fields may be added, but none is renamed or taken away within a major version. Sizes are bytes,
//! times are ages in seconds at the moment of the snapshot.

use std::collections::BTreeMap;
use std::io::{self, Write};

use procession_engine::inspect::{
    Member, ObjectName, ObjectReport, ProcessReport, Report, TaskReport, WaitReport,
};
use serde::Serialize;

#[derive(Serialize)]
struct Document {
    sessions: Vec<Session>,
}

#[derive(Serialize)]
struct Session {
    /// In hexadecimal: programs that read numbers as floats would lose digits.
    id: String,
    age: f64,
    deaths: u64,
    memory: Memory,
    object_count: u64,
    objects_cut: bool,
    processes: Vec<Process>,
    objects: Vec<Object>,
}

#[derive(Serialize)]
struct Memory {
    used: u64,
    budget: u64,
    resident: u64,
}

#[derive(Serialize)]
struct Process {
    pid: Option<u32>,
    parent: Option<Named>,
    role: &'static str,
    name: String,
    state: &'static str,
    exit_code: Option<i32>,
    waits: Vec<Wait>,
    task: Option<Task>,
    tasks_done: u64,
    rss: Option<u64>,
    pss: Option<u64>,
    cpu: Option<f64>,
    threads: Option<u64>,
    age: f64,
    torn: bool,
}

#[derive(Serialize)]
struct Named {
    pid: Option<u32>,
    name: String,
}

#[derive(Serialize)]
struct ObjectRef {
    index: u32,
    kind: Option<String>,
    name: String,
}

#[derive(Serialize)]
struct Wait {
    thread: u32,
    kind: &'static str,
    object: Option<ObjectRef>,
    age: f64,
    owners: Vec<Named>,
}

#[derive(Serialize)]
struct Task {
    pool: ObjectRef,
    job: u32,
    item: u64,
    age: f64,
}

#[derive(Serialize)]
struct Object {
    index: u32,
    generation: u32,
    kind: String,
    name: String,
    creator: Option<Named>,
    age: f64,
    references: u64,
    holder_count: Option<u32>,
    holders: Vec<Named>,
    waiters: u32,
    owners: Vec<Named>,
    counters: BTreeMap<&'static str, u64>,
}

/// Writes the sessions as one line.
pub fn write(out: &mut dyn Write, reports: &[Report]) -> io::Result<()> {
    let sessions = reports.iter().map(session).collect();
    serde_json::to_writer(&mut *out, &Document { sessions })?;
    writeln!(out)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "exact to the microsecond for centuries"
)]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn session(report: &Report) -> Session {
    Session {
        id: format!("{:016x}", report.id),
        age: seconds(report.age_ns),
        deaths: report.deaths,
        memory: Memory {
            used: report.memory.used,
            budget: report.memory.budget,
            resident: report.memory.resident,
        },
        object_count: report.object_count,
        objects_cut: report.objects_cut,
        processes: report.processes.iter().map(process).collect(),
        objects: report.objects.iter().map(object).collect(),
    }
}

fn process(p: &ProcessReport) -> Process {
    Process {
        pid: (p.pid != 0).then_some(p.pid),
        parent: p.parent.as_ref().map(named),
        role: p.role,
        name: p.name.clone(),
        state: p.state.as_str(),
        exit_code: p.exit_code,
        waits: p.waits.iter().map(wait).collect(),
        task: p.task.as_ref().map(task),
        tasks_done: p.tasks_done,
        rss: p.rss,
        pss: p.pss,
        cpu: p.cpu_ns.map(seconds),
        threads: p.threads,
        age: seconds(p.age_ns),
        torn: p.torn,
    }
}

fn named(member: &Member) -> Named {
    Named {
        pid: member.pid,
        name: member.name.clone(),
    }
}

fn all_named(members: &[Member]) -> Vec<Named> {
    members.iter().map(named).collect()
}

fn object_ref(object: &ObjectName) -> ObjectRef {
    ObjectRef {
        index: object.index,
        kind: object.kind.clone(),
        name: object.name.clone(),
    }
}

fn wait(wait: &WaitReport) -> Wait {
    Wait {
        thread: wait.thread,
        kind: wait.kind,
        object: wait.object.as_ref().map(object_ref),
        age: seconds(wait.age_ns),
        owners: all_named(&wait.owners),
    }
}

fn task(task: &TaskReport) -> Task {
    Task {
        pool: object_ref(&task.board),
        job: task.job,
        item: task.item,
        age: seconds(task.age_ns),
    }
}

fn object(o: &ObjectReport) -> Object {
    Object {
        index: o.index,
        generation: o.generation,
        kind: o.kind.clone(),
        name: o.name.clone(),
        creator: o.creator.as_ref().map(named),
        age: seconds(o.age_ns),
        references: o.references,
        holder_count: o.holder_count,
        holders: all_named(&o.holders),
        waiters: o.waiters,
        owners: all_named(&o.owners),
        counters: o.counters.iter().copied().collect(),
    }
}

//! Tables for people.

use std::fmt::Write;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use procession_engine::inspect::{
    Member, ObjectName, ObjectReport, ProcessReport, Report, TaskReport, WaitReport,
};

use super::text::{age, bytes, clean};

/// What of a report is shown, and how.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shown {
    /// Columns of the terminal; `None` for as wide as it takes.
    pub width: Option<u16>,
    /// All objects were asked for, with their holders.
    pub all_objects: bool,
    /// Memory is shown with shared pages divided.
    pub pss: bool,
}

/// Rows of the table of objects, where not all were asked for.
const OBJECT_ROWS: usize = 20;

/// Counters that say nothing while they are zero.
const SILENT_ZEROS: [&str; 4] = ["maxsize", "recoveries", "broken", "bytes"];

/// The width of the terminal, if the output is one.
pub fn terminal_width() -> Option<u16> {
    let mut table = Table::new();
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.width()
}

/// One session: a line about it, its processes, its objects.
pub fn session(report: &Report, shown: Shown) -> String {
    let mut text = headline(report);
    let _ = writeln!(text, "{}", processes(report, shown).trim_fmt());
    let rows = if shown.all_objects {
        usize::MAX
    } else {
        OBJECT_ROWS
    };
    if !report.objects.is_empty() {
        let _ = writeln!(text, "\n{}", objects(report, shown, rows).trim_fmt());
    }
    let left_out = report.objects.len().saturating_sub(rows);
    if left_out > 0 {
        let _ = writeln!(text, "... and {left_out} more (--objects shows all)");
    } else if report.objects_cut {
        let _ = writeln!(
            text,
            "... not all objects were looked at (--objects shows all)"
        );
    }
    if report.processes.iter().any(|p| p.torn) {
        let _ = writeln!(text, "~ changed while it was read");
    }
    text
}

fn headline(report: &Report) -> String {
    let alive = report.processes.iter().filter(|p| p.state.is_alive());
    let mut text = format!(
        "session {:016x}: {}, {}, {} of {} in use, {} old",
        report.id,
        count(alive.count() as u64, "process", "processes"),
        count(report.object_count, "object", "objects"),
        bytes(report.memory.used),
        bytes(report.memory.budget),
        age(report.age_ns),
    );
    if report.deaths > 0 {
        let _ = write!(text, ", {} so far", count(report.deaths, "death", "deaths"));
    }
    text.push('\n');
    text
}

fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

fn processes(report: &Report, shown: Shown) -> Table {
    let mut table = new_table(
        shown,
        &[
            "PID",
            "ROLE",
            "NAME",
            "STATE",
            "WAITS FOR",
            "SINCE",
            "TASK",
            "DONE",
            if shown.pss { "PSS" } else { "RSS" },
            "AGE",
        ],
        &[0, 5, 7, 8, 9],
    );
    for p in &report.processes {
        let memory = if shown.pss { p.pss } else { p.rss };
        let (first, more) = match p.waits.split_first() {
            Some((first, more)) => (Some(first), more),
            None => (None, &[][..]),
        };
        table.add_row(vec![
            pid(p),
            p.role.to_owned(),
            clean(&p.name),
            state(p),
            first.map_or_else(nothing, wait),
            first.map_or_else(nothing, |w| age(w.age_ns)),
            p.task.as_ref().map_or_else(nothing, task),
            number(p.tasks_done),
            memory.map_or_else(nothing, bytes),
            age(p.age_ns),
        ]);
        // Each further thread that waits has a row of its own, where it stays beside its time when the cell is broken.
        for w in more {
            let mut row = vec![String::new(); 10];
            row[4] = wait(w);
            row[5] = age(w.age_ns);
            table.add_row(row);
        }
    }
    table
}

fn objects(report: &Report, shown: Shown, rows: usize) -> Table {
    let mut head = vec![
        "OBJECT", "KIND", "NAME", "CREATOR", "REFS", "WAITERS", "OWNER", "CONTENTS", "AGE",
    ];
    let mut numbers = vec![0, 4, 5, 8];
    if shown.all_objects {
        head.insert(5, "HOLDERS");
        numbers = vec![0, 4, 5, 6, 9];
    }
    let mut table = new_table(shown, &head, &numbers);
    for o in report.objects.iter().take(rows) {
        let mut row = vec![
            format!("#{}", o.index),
            o.kind.clone(),
            clean(&o.name),
            o.creator.as_ref().map_or_else(nothing, member),
            o.references.to_string(),
            number(u64::from(o.waiters)),
            if o.owners.is_empty() {
                nothing()
            } else {
                members(&o.owners)
            },
            contents(o),
            age(o.age_ns),
        ];
        if shown.all_objects {
            row.insert(5, o.holder_count.map_or_else(nothing, |n| n.to_string()));
        }
        table.add_row(row);
    }
    table
}

fn new_table(shown: Shown, head: &[&str], numbers: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    // Colours and widths depend on nothing but what the caller says.
    table.force_no_tty();
    if let Some(width) = shown.width {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(width);
    }
    table.set_header(head.iter().map(Cell::new));
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if i + 1 == head.len() { 0 } else { 2 }));
        if numbers.contains(&i) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn nothing() -> String {
    "-".to_owned()
}

fn number(n: u64) -> String {
    if n > 0 { n.to_string() } else { nothing() }
}

fn pid(process: &ProcessReport) -> String {
    let pid = match process.pid {
        0 => "?".to_owned(),
        pid => pid.to_string(),
    };
    if process.torn { format!("{pid}~") } else { pid }
}

fn state(process: &ProcessReport) -> String {
    let state = process.state.as_str();
    match process.exit_code {
        Some(code) if !process.state.is_alive() => format!("{state} ({code})"),
        _ => state.to_owned(),
    }
}

fn wait(wait: &WaitReport) -> String {
    let mut text = wait.kind.to_owned();
    if let Some(o) = &wait.object {
        let _ = write!(text, " {}", object(o));
    }
    if !wait.owners.is_empty() {
        let _ = write!(text, ", held by {}", members(&wait.owners));
    }
    text
}

fn object(object: &ObjectName) -> String {
    let kind = object.kind.as_deref().unwrap_or("gone object");
    let mut text = format!("{kind} #{}", object.index);
    if !object.name.is_empty() {
        let _ = write!(text, " {}", clean(&object.name));
    }
    text
}

fn task(task: &TaskReport) -> String {
    format!(
        "item {} of job {} in #{}, {}",
        task.item,
        task.job,
        task.board.index,
        age(task.age_ns)
    )
}

fn members(members: &[Member]) -> String {
    const MOST: usize = 3;
    let mut shown: Vec<String> = members.iter().take(MOST).map(member).collect();
    if members.len() > MOST {
        shown.push(format!("{} more", members.len() - MOST));
    }
    shown.join(", ")
}

fn member(member: &Member) -> String {
    match (member.pid, member.name.as_str()) {
        (None, _) => "gone".to_owned(),
        (Some(pid), "") => pid.to_string(),
        (Some(pid), name) => format!("{pid} {}", clean(name)),
    }
}

fn contents(object: &ObjectReport) -> String {
    let told: Vec<String> = object
        .counters
        .iter()
        .filter(|(label, value)| *value > 0 || !SILENT_ZEROS.contains(label))
        .map(|(label, value)| match *label {
            "bytes" => bytes(*value),
            label => format!("{label} {value}"),
        })
        .collect();
    if told.is_empty() {
        nothing()
    } else {
        told.join(", ")
    }
}

//! `procession ps`.

use std::io::{IsTerminal, Write};

use anyhow::Result;
use procession_engine::inspect::{
    InspectError, Objects, Observed, Options, Report, find_all, find_by_pid, snapshot,
};

use crate::args::Ps;
use crate::view::{json, table};

/// Finds the sessions that were asked for and shows them.
pub(crate) fn run(args: &Ps, out: &mut dyn Write, err: &mut dyn Write) -> Result<i32> {
    let (sessions, failures) = find(args.pid);
    for failure in &failures {
        writeln!(err, "procession: {failure}")?;
    }
    if let (Some(every), Some(session)) = (args.watch, sessions.first()) {
        return watch(args, *session, every, out);
    }
    let mut reports = Vec::new();
    for session in &sessions {
        match snapshot(session.session(), &options(args)) {
            Ok(report) => reports.push(report),
            Err(error) => writeln!(err, "procession: process {}: {error}", session.found_in())?,
        }
    }
    let nothing = reports.is_empty();
    if nothing && failures.is_empty() && sessions.is_empty() {
        writeln!(err, "procession: no running session of this user")?;
    }
    if args.json {
        json::write(out, &reports)?;
    } else {
        show(args, &reports, out)?;
    }
    Ok(i32::from(nothing))
}

fn find(pid: Option<u32>) -> (Vec<Observed>, Vec<InspectError>) {
    match pid.map(find_by_pid) {
        Some(Ok(observed)) => (vec![observed], Vec::new()),
        Some(Err(error)) => (Vec::new(), vec![error]),
        None => {
            let found = find_all();
            (found.sessions, found.failures)
        }
    }
}

fn options(args: &Ps) -> Options {
    let plain = Options {
        ended: args.all,
        proportional: args.pss,
        ..Options::default()
    };
    if args.objects {
        Options {
            objects: Objects::AllWithHolders,
            max_objects: usize::MAX,
            ..plain
        }
    } else {
        plain
    }
}

fn show(args: &Ps, reports: &[Report], out: &mut dyn Write) -> Result<()> {
    let shown = table::Shown {
        width: table::terminal_width(),
        all_objects: args.objects,
        pss: args.pss,
    };
    for (i, report) in reports.iter().enumerate() {
        if i > 0 {
            writeln!(out)?;
        }
        write!(out, "{}", table::session(report, shown))?;
    }
    Ok(())
}

/// Shows it again and again. Ends with the session: when no process of it is left.
fn watch(
    args: &Ps,
    observed: Observed,
    every: std::time::Duration,
    out: &mut dyn Write,
) -> Result<i32> {
    let clear = !args.json && std::io::stdout().is_terminal();
    loop {
        let report = snapshot(observed.session(), &options(args))?;
        if !report.processes.iter().any(|p| p.state.is_alive()) {
            return Ok(0);
        }
        if clear {
            // Home, and erase what is below: less flicker than erasing first.
            write!(out, "\x1b[H\x1b[J")?;
        }
        if args.json {
            json::write(out, std::slice::from_ref(&report))?;
        } else {
            show(args, std::slice::from_ref(&report), out)?;
        }
        out.flush()?;
        std::thread::sleep(every);
    }
}

//! `procession ps` and its kin: a running session, seen from outside.
//!
//! | module | is |
//! |---|---|
//! | `args` | what can be asked for |
//! | `cmd` | one file for each verb: finds out, then shows |
//! | `view` | tables for people, JSON for programs |
//!
//! What is found out comes from [`procession_engine::inspect`]; a new verb is a file in `cmd`, a variant in `args`, and a line in
//! [`run_with`]. Exit codes: 0 shown, 1 nothing to show or not permitted, 2 not understood.

#![forbid(unsafe_code)]

mod args;
mod cmd;
pub mod view;

use std::ffi::OsString;
use std::io::{self, Write};

use clap::Parser;

/// Does what `arguments` (without the program's name) ask for, on the standard output; returns the exit code.
pub fn run(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> i32 {
    let mut out = io::BufWriter::new(io::stdout().lock());
    run_with(arguments, &mut out, &mut io::stderr())
}

/// As [`run`], with the output anywhere.
pub fn run_with(
    arguments: impl IntoIterator<Item = impl Into<OsString>>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> i32 {
    let name = std::iter::once(OsString::from("procession"));
    let all = name.chain(arguments.into_iter().map(Into::into));
    let result = match args::Arguments::try_parse_from(all) {
        Ok(arguments) => match arguments.verb {
            args::Verb::Ps(ps) => cmd::ps::run(&ps, out, err),
        },
        Err(error) => {
            let to: &mut dyn Write = if error.use_stderr() {
                &mut *err
            } else {
                &mut *out
            };
            return match write!(to, "{}", error.render()).and_then(|()| to.flush()) {
                Ok(()) => error.exit_code(),
                Err(_) => 1,
            };
        }
    };
    match result.and_then(|code| out.flush().map(|()| code).map_err(Into::into)) {
        Ok(code) => code,
        // Whoever read has seen enough.
        Err(error) if is_broken_pipe(&error) => 0,
        Err(error) => {
            // Whatever can be shown of a failing output is shown; there is nobody else to tell.
            let _ = writeln!(err, "procession: {error:#}");
            1
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

//! What can be asked for.

use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Look into running procession programs.
#[derive(Parser)]
#[command(
    name = "procession",
    version,
    after_help = "In Python, `python -m procession run [-m MODULE | SCRIPT] [ARGUMENTS]` runs a program that was written for \
                  multiprocessing, unmodified, with procession in its place."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Show the processes of running sessions: what they do, and what they wait for.
    Ps(Ps),
}

/// Show the processes of running sessions: what they do, and what they wait for.
///
/// Nothing is stopped and nothing is changed by looking.
#[derive(Args)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
pub(crate) struct Ps {
    /// Only the session that this process belongs to; without it, all sessions of this user.
    pub(crate) pid: Option<u32>,
    /// List processes that have ended as well, with their exit codes.
    #[arg(long, short)]
    pub(crate) all: bool,
    /// List all objects with the number of processes that hold each, not only those that somebody waits for, has locked
    /// or has put something in.
    #[arg(long, short)]
    pub(crate) objects: bool,
    /// Count memory that several processes share only in parts (PSS); takes some milliseconds for each process.
    #[arg(long)]
    pub(crate) pss: bool,
    /// For programs: one JSON document, on one line.
    #[arg(long)]
    pub(crate) json: bool,
    /// Again every so many seconds, until the session has ended.
    #[arg(long, value_name = "SECONDS", requires = "pid", value_parser = seconds)]
    pub(crate) watch: Option<Duration>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if !(0.01..=86_400.0).contains(&seconds) {
        return Err("not between 0.01 and 86400".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

//! `procession-peers LIBRARY ROW` measures once and prints seconds for each operation.

#![forbid(unsafe_code)]

mod ours;
mod ours_tasks;
mod theirs;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How much is done in one measurement.
const SMALL: u32 = 200_000;
const LARGE: u32 = 400;
const TRIPS: u32 = 20_000;
const STARTS: usize = 10;
const CALLS: usize = 2_000;
const TASKS: u64 = 10_000;

#[procession::main]
fn main() -> Result<()> {
    // A child of procspawn starts here, as one of ipc-channel does in `theirs::child`.
    procspawn::init();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let seconds = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["child", row, server] => return theirs::child(row, server.to_owned()),
        ["procession", "channel-u64"] => ours::channel_of_numbers(SMALL)?,
        ["procession", "channel-1k"] => ours::channel_of_bytes(1 << 10, SMALL)?,
        ["procession", "channel-1m"] => ours::channel_of_bytes(1 << 20, LARGE)?,
        ["procession", "round-trip"] => ours::round_trip(TRIPS)?,
        ["procession", "process"] => ours::process(STARTS)?,
        ["procession", "pool-call"] => ours::pool_call(CALLS)?,
        ["procession", "pool-map"] => ours::pool_map(TASKS)?,
        ["ipc-channel", "channel-u64"] => theirs::channel_of_numbers(SMALL)?,
        ["ipc-channel", "channel-1k"] => theirs::channel_of_bytes("channel-1k", SMALL)?,
        ["ipc-channel", "channel-1m"] => theirs::channel_of_bytes("channel-1m", LARGE)?,
        ["ipc-channel", "round-trip"] => theirs::round_trip(TRIPS)?,
        ["procspawn", "process"] => theirs::process(STARTS)?,
        ["procspawn", "pool-call"] => theirs::pool_call(CALLS)?,
        ["procspawn", "pool-map"] => theirs::pool_map(TASKS)?,
        _ => bail!("usage: procession-peers LIBRARY ROW"),
    };
    println!("{seconds:e}");
    Ok(())
}

/// Seconds of each of `count` things that were begun then.
fn each(began: Instant, count: u32) -> f64 {
    began.elapsed().as_secs_f64() / f64::from(count)
}

/// The middle one of some times, without the first few.
fn middle(mut times: Vec<Duration>) -> f64 {
    times.drain(..times.len() / 5);
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

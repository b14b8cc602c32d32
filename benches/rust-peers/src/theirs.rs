//! The measurements of ipc-channel and procspawn.

use std::process::{Child, Command};
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use ipc_channel::ipc::{self, IpcBytesReceiver, IpcOneShotServer, IpcReceiver, IpcSender};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{LARGE, SMALL, each, middle};

/// Two channels of numbers, there and back.
type Ends = (IpcSender<u64>, IpcReceiver<u64>);

/// What the other process runs: it makes its end and says hello with the other one.
pub fn child(row: &str, server: String) -> Result<()> {
    match row {
        "channel-u64" => {
            let (sender, receiver) = ipc::channel::<u64>()?;
            IpcSender::connect(server)?.send(receiver)?;
            for number in 0..=u64::from(SMALL) {
                sender.send(number)?;
            }
        }
        "channel-1k" => send_bytes(server, 1 << 10, SMALL)?,
        "channel-1m" => send_bytes(server, 1 << 20, LARGE)?,
        "round-trip" => {
            let (to_us, from_them) = ipc::channel::<u64>()?;
            let (to_them, from_us) = ipc::channel::<u64>()?;
            let ends: Ends = (to_us, from_us);
            IpcSender::connect(server)?.send(ends)?;
            while let Ok(number) = from_them.recv() {
                to_them.send(number)?;
            }
        }
        _ => bail!("no such row: {row}"),
    }
    Ok(())
}

fn send_bytes(server: String, len: usize, count: u32) -> Result<()> {
    let (sender, receiver) = ipc::bytes_channel()?;
    IpcSender::connect(server)?.send(receiver)?;
    let bytes = vec![7; len];
    for _ in 0..=count {
        sender.send(&bytes)?;
    }
    Ok(())
}

/// Starts the other process and takes what it says hello with.
fn meet<T: Serialize + DeserializeOwned>(row: &str) -> Result<(Child, T)> {
    let (server, name) = IpcOneShotServer::<T>::new()?;
    let program = std::env::current_exe()?;
    let child = Command::new(program).args(["child", row, &name]).spawn()?;
    let (_, hello) = server.accept()?;
    Ok((child, hello))
}

pub fn channel_of_numbers(count: u32) -> Result<f64> {
    let (mut child, receiver) = meet::<IpcReceiver<u64>>("channel-u64")?;
    ensure!(receiver.recv()? == 0);
    let began = Instant::now();
    for number in 1..=u64::from(count) {
        ensure!(receiver.recv()? == number);
    }
    let seconds = each(began, count);
    child.wait()?;
    Ok(seconds)
}

pub fn channel_of_bytes(row: &str, count: u32) -> Result<f64> {
    let (mut child, receiver) = meet::<IpcBytesReceiver>(row)?;
    let len = receiver.recv()?.len();
    let began = Instant::now();
    for _ in 0..count {
        ensure!(receiver.recv()?.len() == len);
    }
    let seconds = each(began, count);
    child.wait()?;
    Ok(seconds)
}

pub fn round_trip(count: u32) -> Result<f64> {
    let (mut child, (sender, receiver)) = meet::<Ends>("round-trip")?;
    let turn = |count: u32| -> Result<()> {
        for number in 0..u64::from(count) {
            sender.send(number)?;
            ensure!(receiver.recv()? == number);
        }
        Ok(())
    };
    turn(count / 10)?;
    let began = Instant::now();
    turn(count)?;
    let seconds = each(began, count);
    drop(sender);
    child.wait()?;
    Ok(seconds)
}

pub fn process(count: usize) -> Result<f64> {
    let mut times = Vec::new();
    for number in 0..count as u64 {
        let began = Instant::now();
        let process = procspawn::spawn(number, |number| number + 1);
        ensure!(process.join()? == number + 1);
        times.push(began.elapsed());
    }
    Ok(middle(times))
}

pub fn pool_call(count: usize) -> Result<f64> {
    let pool = procspawn::Pool::new(2)?;
    let mut times = Vec::new();
    for number in 0..count as u64 {
        let began = Instant::now();
        let task = pool.spawn(number, |number| number + 1);
        ensure!(task.join()? == number + 1);
        times.push(began.elapsed());
    }
    pool.shutdown();
    Ok(middle(times))
}

pub fn pool_map(count: u64) -> Result<f64> {
    let pool = procspawn::Pool::new(2)?;
    for number in 0..100 {
        pool.spawn(number, |number: u64| number + 1).join()?;
    }
    let began = Instant::now();
    // Each task that waits keeps descriptors open; all at once would be too many.
    for first in (0..count).step_by(100) {
        let tasks: Vec<_> = (first..first + 100)
            .map(|number| pool.spawn(number, |number| number + 1))
            .collect();
        for (number, task) in (first..).zip(tasks) {
            ensure!(task.join()? == number + 1);
        }
    }
    let seconds = each(began, u32::try_from(count)?);
    pool.shutdown();
    Ok(seconds)
}

//! The measurements of procession.

use std::time::Instant;

use anyhow::{Result, ensure};
use procession::{Pipe, Pool, Process, Queue};
use serde_bytes::ByteBuf;

use crate::ours_tasks::{add_one, echo, say_one_more, send_bytes, send_numbers};
use crate::{each, middle};

pub fn channel_of_numbers(count: u32) -> Result<f64> {
    let queue: Queue<u64> = Queue::new()?;
    let process = Process::spawn(send_numbers, (queue.clone(), count + 1))?;
    ensure!(queue.get()? == 0);
    let began = Instant::now();
    for number in 1..=u64::from(count) {
        ensure!(queue.get()? == number);
    }
    let seconds = each(began, count);
    process.join()?;
    Ok(seconds)
}

pub fn channel_of_bytes(len: usize, count: u32) -> Result<f64> {
    // The peer's socket lets its sender run ahead by about as much.
    let queue: Queue<ByteBuf> = Queue::bounded(if len > 1 << 16 { 4 } else { 0 })?;
    let process = Process::spawn(send_bytes, (queue.clone(), len, count + 1))?;
    ensure!(queue.get()?.len() == len);
    let began = Instant::now();
    for _ in 0..count {
        ensure!(queue.get()?.len() == len);
    }
    let seconds = each(began, count);
    process.join()?;
    Ok(seconds)
}

pub fn round_trip(count: u32) -> Result<f64> {
    let (here, there) = Pipe::<u64>::pair()?;
    let process = Process::spawn(echo, there)?;
    let turn = |count: u32| -> Result<()> {
        for number in 0..u64::from(count) {
            here.send(number)?;
            ensure!(here.recv()? == number);
        }
        Ok(())
    };
    turn(count / 10)?;
    let began = Instant::now();
    turn(count)?;
    let seconds = each(began, count);
    drop(here);
    process.join()?;
    Ok(seconds)
}

pub fn process(count: usize) -> Result<f64> {
    let queue: Queue<u64> = Queue::new()?;
    let mut times = Vec::new();
    for number in 0..count as u64 {
        let began = Instant::now();
        let process = Process::spawn(say_one_more, (number, queue.clone()))?;
        ensure!(queue.get()? == number + 1);
        process.join()?;
        times.push(began.elapsed());
    }
    Ok(middle(times))
}

pub fn pool_call(count: usize) -> Result<f64> {
    let pool = Pool::new(2)?;
    let mut times = Vec::new();
    for number in 0..count as u64 {
        let began = Instant::now();
        ensure!(pool.submit(add_one, number)?.get()? == number + 1);
        times.push(began.elapsed());
    }
    Ok(middle(times))
}

pub fn pool_map(count: u64) -> Result<f64> {
    let pool = Pool::new(2)?;
    pool.map(add_one, 0..100)?;
    let began = Instant::now();
    ensure!(pool.map(add_one, 0..count)?.len() as u64 == count);
    Ok(each(began, u32::try_from(count)?))
}

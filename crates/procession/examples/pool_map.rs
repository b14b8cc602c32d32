//! Four workers share the squares of ten numbers.

use procession::{Pool, PoolError};

#[procession::task]
fn worker(num: u64) -> u64 {
    num * num
}

#[procession::main]
fn main() -> Result<(), PoolError> {
    let pool = Pool::new(4)?;
    println!("{:?}", pool.map(worker, 0..10)?);
    Ok(())
}

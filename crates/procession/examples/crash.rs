//! Workers die, and what they were not working on is not affected.

use procession::{Pool, PoolError};

#[procession::task]
fn risky(x: i64) -> i64 {
    match x {
        2 => std::process::abort(),
        4 => panic!("four is too many"),
        6 => std::process::exit(3),
        _ => 100 / (x + 1),
    }
}

#[procession::main]
fn main() -> Result<(), PoolError> {
    let pool = Pool::new(2)?;
    for (x, result) in pool.imap(risky, 0..8)?.enumerate() {
        match result {
            Ok(value) => println!("{x}: {value}"),
            Err(PoolError::WorkerDied { exit, .. }) => {
                println!(
                    "{x}: the worker died ({})",
                    exit.map_or("nobody knows how".to_owned(), |e| e.to_string())
                );
            }
            Err(error) => println!("{x}: {error}"),
        }
    }
    Ok(())
}

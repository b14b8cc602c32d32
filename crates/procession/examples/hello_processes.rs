//! Five processes, each printing its number.

use procession::Process;

#[procession::task]
fn worker(num: u32) {
    println!("Worker {num}");
}

#[procession::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut processes = Vec::new();
    for i in 0..5 {
        processes.push(Process::spawn(worker, i)?);
    }
    for process in processes {
        process.join()?;
    }
    Ok(())
}

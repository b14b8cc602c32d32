//! One process fills a queue, another empties it; `None` says that nothing more will come.

use procession::{Process, Queue};

#[procession::task]
fn producer(queue: Queue<Option<u64>>) {
    for item in 0..5 {
        queue.put(Some(item)).expect("the queue is open");
    }
    queue.put(None).expect("the queue is open");
}

#[procession::task]
fn consumer(queue: Queue<Option<u64>>) {
    while let Ok(Some(item)) = queue.get() {
        println!("Consumed {item}");
    }
}

#[procession::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let queue = Queue::new()?;
    let processes = [
        Process::spawn(producer, queue.clone())?,
        Process::spawn(consumer, queue)?,
    ];
    for process in processes {
        process.join()?;
    }
    Ok(())
}

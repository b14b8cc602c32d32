//! A time limit for each item: the worker that takes too long is replaced, the others do not notice.

use std::time::Duration;

use procession::{Event, Pool, PoolError};

#[procession::task]
fn answer(question: u64, never: Event) -> u64 {
    if question == 3 {
        never.wait().expect("the session lives");
    }
    question + 40
}

#[procession::main]
fn main() -> Result<(), PoolError> {
    let pool = Pool::builder()
        .workers(2)
        .timeout(Duration::from_millis(300))
        .start()?;
    let never = Event::new()?;
    let questions = (0..6).map(|question| (question, never.clone()));
    for result in pool.imap(answer, questions)? {
        match result {
            Ok(answer) => println!("The answer is {answer}"),
            Err(error) => println!("No answer: {error}"),
        }
    }
    Ok(())
}

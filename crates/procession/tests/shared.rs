//! Queues, pipes and what processes synchronise with, between processes.

use std::time::Duration;

use procession::sync::BarrierError;
use procession::{
    Barrier, Condition, Event, Exit, GetError, Lock, Pipe, Process, PutError, Queue, Semaphore,
};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(1);

fn finish(process: &Process) {
    assert_eq!(process.join_timeout(LONG).unwrap(), Some(Exit::Code(0)));
}

#[procession::task]
fn put_range(queue: Queue<u64>, from: u64, to: u64) {
    for number in from..to {
        queue.put(number).expect("the queue is open");
    }
}

#[procession::task]
fn add_up(numbers: Queue<u64>, sums: Queue<u64>) {
    let sum = numbers
        .iter()
        .map(|number| number.expect("a number"))
        .sum::<u64>();
    sums.put(sum).expect("the queue is open");
}

#[procession::test]
fn many_put_and_many_get_and_nothing_is_lost() {
    let (numbers, sums) = (Queue::bounded(100).unwrap(), Queue::new().unwrap());
    let getters =
        [(); 2].map(|()| Process::spawn(add_up, (numbers.clone(), sums.clone())).unwrap());
    let putters = [0, 1, 2]
        .map(|i| Process::spawn(put_range, (numbers.clone(), i * 1000, (i + 1) * 1000)).unwrap());
    putters.iter().for_each(finish);
    numbers.close().unwrap();
    getters.iter().for_each(finish);
    let total = sums.get().unwrap() + sums.get().unwrap();
    assert_eq!(total, (0..3000).sum::<u64>());
}

#[procession::test]
fn a_closed_queue_gives_what_it_has_and_takes_nothing() {
    let queue = Queue::<String>::new().unwrap();
    queue.put("last".to_owned()).unwrap();
    queue.close().unwrap();
    assert!(queue.is_closed());
    assert!(matches!(
        queue.put("late".to_owned()),
        Err(PutError::Closed)
    ));
    assert_eq!(queue.get().unwrap(), "last");
    assert!(matches!(queue.get(), Err(GetError::Closed)));
    assert!(matches!(queue.try_get(), Err(GetError::Closed)));
}

#[procession::test]
fn closing_wakes_who_waits() {
    let (numbers, sums) = (Queue::new().unwrap(), Queue::new().unwrap());
    let process = Process::spawn(add_up, (numbers.clone(), sums.clone())).unwrap();
    numbers.put(5).unwrap();
    numbers.close().unwrap();
    assert_eq!(sums.get_timeout(LONG).unwrap(), 5);
    finish(&process);
}

#[procession::test]
fn limits_and_timeouts() {
    let queue = Queue::bounded(1).unwrap();
    assert!(matches!(queue.try_get(), Err(GetError::Empty)));
    assert!(matches!(queue.get_timeout(SHORT), Err(GetError::TimedOut)));
    queue.put(1_u64).unwrap();
    assert!(queue.is_full());
    assert!(matches!(queue.try_put(2), Err(PutError::Full)));
    assert!(matches!(
        queue.put_timeout(2, SHORT),
        Err(PutError::TimedOut)
    ));
    assert_eq!((queue.len(), queue.get().unwrap()), (1, 1));
    assert!(queue.is_empty());
}

#[procession::test]
fn large_messages_and_references_to_values() {
    let queue = Queue::<Vec<u8>>::new().unwrap();
    let large = vec![7; 5 << 20];
    queue.put(&large).unwrap();
    queue.put(Vec::new()).unwrap();
    assert_eq!(queue.get().unwrap(), large);
    assert!(queue.get().unwrap().is_empty());
}

/// What is long is read where it stands, together with the objects in it.
#[procession::test]
fn large_messages_with_shared_objects() {
    type Both = (Vec<u8>, Queue<u64>);
    let queue = Queue::<Both>::new().unwrap();
    let (one, other) = Pipe::<Both, Both>::pair().unwrap();
    let (large, inner) = (vec![7; 1 << 20], Queue::new().unwrap());
    let both: Both = (large.clone(), inner.clone());
    queue.put(&both).unwrap();
    one.send(&both).unwrap();
    let (first, through_queue) = queue.get().unwrap();
    let (second, through_pipe) = other.recv().unwrap();
    assert!(first == large && second == large);
    through_queue.put(1).unwrap();
    through_pipe.put(2).unwrap();
    assert_eq!((inner.get().unwrap(), inner.get().unwrap()), (1, 2));
}

#[procession::test]
fn unfinished_tasks_are_waited_for() {
    let queue = Queue::new().unwrap();
    queue.put(1_u64).unwrap();
    assert!(!queue.join_timeout(SHORT).unwrap());
    queue.get().unwrap();
    assert!(queue.task_done().unwrap());
    assert!(!queue.task_done().unwrap());
    queue.join().unwrap();
}

/// A message with shared objects in it.
#[derive(serde::Serialize, serde::Deserialize)]
struct Order {
    number: u64,
    answer: Queue<u64>,
    done: Vec<Event>,
}

#[procession::task]
fn fill_orders(orders: Queue<Order>) {
    for order in orders.iter() {
        let order = order.expect("an order");
        order.answer.put(order.number * 2).expect("it is open");
        order.done.iter().for_each(Event::set);
    }
}

#[procession::test]
fn shared_objects_travel_inside_of_messages_to_a_process_that_already_runs() {
    let orders = Queue::new().unwrap();
    let process = Process::spawn(fill_orders, orders.clone()).unwrap();
    for number in 0..20 {
        let answer = Queue::new().unwrap();
        let done = vec![Event::new().unwrap(), Event::new().unwrap()];
        let order = Order {
            number,
            answer: answer.clone(),
            done: done.clone(),
        };
        orders.put(order).unwrap();
        assert_eq!(answer.get_timeout(LONG).unwrap(), number * 2);
        assert!(done.iter().all(|event| event.wait_timeout(LONG).unwrap()));
    }
    orders.close().unwrap();
    finish(&process);
}

#[procession::test]
fn an_object_lives_on_in_a_message_that_nobody_has_taken_yet() {
    let outer = Queue::<Queue<u64>>::new().unwrap();
    let inner = Queue::new().unwrap();
    inner.put(9).unwrap();
    outer.put(&inner).unwrap();
    drop(inner);
    assert_eq!(outer.get().unwrap().try_get().unwrap(), 9);
}

#[procession::test]
fn a_shared_object_is_nothing_outside_of_its_session() {
    let error = serde_json::to_string(&Event::new().unwrap()).unwrap_err();
    assert!(
        error.to_string().contains("process of its session"),
        "{error}"
    );
    let error = serde_json::from_str::<Event>("0").unwrap_err();
    assert!(
        error.to_string().contains("process of its session"),
        "{error}"
    );
}

#[procession::task]
fn echo(pipe: Pipe<u64, String>) {
    while let Ok(text) = pipe.recv() {
        pipe.send(text.len() as u64).expect("somebody listens");
    }
}

#[procession::test]
fn the_ends_of_a_pipe_talk_and_learn_of_the_end() {
    let (here, there) = Pipe::<String, u64>::pair().unwrap();
    let process = Process::spawn(echo, there).unwrap();
    for text in ["a", "bc", ""] {
        here.send(text.to_owned()).unwrap();
        assert_eq!(here.recv_timeout(LONG).unwrap(), text.len() as u64);
    }
    assert!(matches!(here.try_recv(), Err(GetError::Empty)));
    assert!(!here.poll(SHORT).unwrap());
    drop(here);
    finish(&process);
}

#[procession::test]
fn a_pipe_whose_other_end_was_killed_is_closed() {
    let (here, there) = Pipe::<String, u64>::pair().unwrap();
    let process = Process::spawn(echo, there).unwrap();
    here.send("alive".to_owned()).unwrap();
    here.recv_timeout(LONG).unwrap();
    process.kill().unwrap();
    assert!(matches!(here.recv_timeout(LONG), Err(GetError::Closed)));
    process.join().unwrap();
    assert!(matches!(here.send(String::new()), Err(PutError::Closed)));
}

#[procession::task]
fn die_with_the_lock(lock: Lock) {
    let _guard = lock.lock().expect("the session lives");
    std::process::abort();
}

#[procession::test]
fn the_lock_of_a_dead_owner_is_recovered_and_the_next_is_told_once() {
    let lock = Lock::new().unwrap();
    let process = Process::spawn(die_with_the_lock, lock.clone()).unwrap();
    assert_eq!(process.join_timeout(LONG).unwrap(), Some(Exit::Signal(6)));
    let guard = lock.lock_timeout(LONG).unwrap().expect("freed");
    assert!(guard.recovered());
    assert!(lock.try_lock().unwrap().is_none());
    assert!(lock.is_locked());
    drop(guard);
    assert!(!lock.lock().unwrap().recovered());
}

#[procession::task]
fn count_up(lock: Lock, total: Queue<u64>, times: u64) {
    for _ in 0..times {
        let _guard = lock.lock().expect("the session lives");
        // Only right if nobody else does the same at the same time.
        let now = total.try_get().expect("the total is there");
        total.try_put(now + 1).expect("the queue is open");
    }
}

#[procession::test]
fn a_lock_keeps_processes_apart() {
    let (lock, total) = (Lock::new().unwrap(), Queue::new().unwrap());
    total.put(0).unwrap();
    let processes =
        [(); 3].map(|()| Process::spawn(count_up, (lock.clone(), total.clone(), 200)).unwrap());
    processes.iter().for_each(finish);
    assert_eq!(total.get().unwrap(), 600);
}

#[procession::task]
fn die_with_a_permit(semaphore: Semaphore) {
    semaphore.acquire().expect("the session lives").keep();
    std::process::abort();
}

#[procession::test]
fn permits_of_the_dead_come_back() {
    let semaphore = Semaphore::new(1).unwrap();
    let process = Process::spawn(die_with_a_permit, semaphore.clone()).unwrap();
    process.join_timeout(LONG).unwrap().expect("dead");
    let permit = semaphore.acquire_timeout(LONG).unwrap().expect("back");
    assert!(permit.recovered());
    assert!(semaphore.acquire_timeout(SHORT).unwrap().is_none());
    permit.keep();
    semaphore.release().unwrap();
    assert_eq!(semaphore.value(), 1);
}

#[procession::task]
fn wait_for_change(lock: Lock, changed: Condition, ready: Semaphore, answers: Queue<u64>) {
    let guard = lock.lock().expect("the session lives");
    ready.release().expect("the session lives");
    let guard = changed.wait(guard).expect("the session lives");
    drop(guard);
    answers.put(1).expect("the queue is open");
}

#[procession::test]
fn a_condition_wakes_one_or_all() {
    let (lock, changed) = (Lock::new().unwrap(), Condition::new().unwrap());
    let (ready, answers) = (Semaphore::new(0).unwrap(), Queue::new().unwrap());
    let args = || {
        let (lock, changed) = (lock.clone(), changed.clone());
        (lock, changed, ready.clone(), answers.clone())
    };
    let processes = [(); 3].map(|()| Process::spawn(wait_for_change, args()).unwrap());
    for _ in &processes {
        ready.acquire_timeout(LONG).unwrap().expect("ready").keep();
    }
    // Whoever has the lock now knows that all the others wait.
    let guard = lock.lock().unwrap();
    assert_eq!(changed.notify_one(&guard), 1);
    drop(guard);
    assert_eq!(answers.get_timeout(LONG).unwrap(), 1);
    let guard = lock.lock().unwrap();
    assert_eq!(changed.notify_all(&guard), 2);
    drop(guard);
    processes.iter().for_each(finish);
    assert_eq!(answers.len(), 2);
}

#[procession::task]
fn die_at(barrier: Barrier) {
    drop(barrier);
    std::process::abort();
}

#[procession::task]
fn meet(barrier: Barrier, leaders: Queue<bool>) {
    for _ in 0..3 {
        leaders
            .put(barrier.wait().expect("all come"))
            .expect("open");
    }
}

#[procession::test]
fn a_barrier_opens_again_and_again_with_one_leader_each_time() {
    let (barrier, leaders) = (Barrier::new(3).unwrap(), Queue::new().unwrap());
    let processes =
        [(); 3].map(|()| Process::spawn(meet, (barrier.clone(), leaders.clone())).unwrap());
    processes.iter().for_each(finish);
    leaders.close().unwrap();
    let leaders: Vec<bool> = leaders.iter().map(Result::unwrap).collect();
    assert_eq!(leaders.len(), 9);
    assert_eq!(leaders.iter().filter(|leader| **leader).count(), 3);
}

#[procession::test]
fn a_party_that_gives_up_breaks_the_barrier() {
    let barrier = Barrier::new(2).unwrap();
    assert_eq!(barrier.wait_timeout(SHORT), Err(BarrierError::Broken));
    assert!(barrier.is_broken());
    barrier.reset().unwrap();
    assert!(!barrier.is_broken());
    let process = Process::spawn(die_at, barrier.clone()).unwrap();
    process.join_timeout(LONG).unwrap().expect("dead");
}

//! Pools: results, and what becomes of items whose workers do not live to tell.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use procession::{Event, Exit, Lock, Pool, PoolError, Queue, Semaphore, SpawnError, Ticket};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(50);

#[procession::task]
fn square(x: u64) -> u64 {
    x * x
}

#[procession::task]
fn divide(a: i64, b: i64) -> i64 {
    a / b
}

#[procession::task]
fn fail_odd(x: u64) -> Result<u64, String> {
    if x % 2 == 1 {
        return Err(format!("{x} is odd"));
    }
    Ok(x)
}

#[procession::task]
fn abort_at_three(x: u64) -> u64 {
    if x == 3 {
        std::process::abort();
    }
    x
}

#[procession::task]
fn wait_for(event: Event) -> bool {
    event.wait().is_ok()
}

#[procession::task]
fn say_and_wait(started: Event, never: Event) -> bool {
    started.set();
    never.wait().is_ok()
}

#[procession::task]
fn pid(_: u64) -> u32 {
    std::process::id()
}

#[procession::task]
fn fail_first(attempts: Semaphore) -> u64 {
    attempts.release().expect("the session lives");
    if attempts.value() == 1 {
        std::process::abort();
    }
    attempts.value()
}

#[procession::task]
fn take_memory(bytes: usize) -> usize {
    std::hint::black_box(vec![1_u8; bytes]).len()
}

#[procession::task]
fn long_text(letters: usize) -> String {
    "x".repeat(letters)
}

#[procession::task]
fn new_queue(x: u64) -> Queue<u64> {
    let queue = Queue::new().expect("the session lives");
    queue.put(x).expect("it is open");
    queue
}

#[procession::task]
fn with_lock(lock: Lock, x: u64) -> u64 {
    let _guard = lock.lock().expect("the session lives");
    x + 1
}

static PREPARED: AtomicU64 = AtomicU64::new(0);

#[procession::task]
fn prepare(value: u64) {
    PREPARED.store(value, Ordering::Relaxed);
}

#[procession::task]
fn prepared(x: u64) -> u64 {
    PREPARED.load(Ordering::Relaxed) + x
}

#[procession::task]
fn refuse() -> Result<(), String> {
    Err("not today".to_owned())
}

fn unmarked(x: u64) -> u64 {
    x
}

#[procession::test]
fn map_gives_results_in_the_order_of_the_items() {
    let pool = Pool::new(3).unwrap();
    let squares: Vec<u64> = (0..5000).map(|x| x * x).collect();
    assert_eq!(pool.map(square, 0..5000).unwrap(), squares);
    assert_eq!(pool.map(divide, [(7, 2), (9, 3)]).unwrap(), [3, 3]);
    assert!(pool.map(square, []).unwrap().is_empty());
}

#[procession::test]
fn imap_takes_items_only_a_little_ahead() {
    let pool = Pool::builder().workers(2).ahead(8).start().unwrap();
    let taken = AtomicU64::new(0);
    let items = (0..).inspect(|_| {
        taken.fetch_add(1, Ordering::Relaxed);
    });
    let first: Vec<u64> = pool
        .imap(square, items)
        .unwrap()
        .take(5)
        .map(Result::unwrap)
        .collect();
    assert_eq!(first, [0, 1, 4, 9, 16]);
    // One more than may be outstanding was looked at to know whether there is one.
    assert!(taken.load(Ordering::Relaxed) <= 5 + 8 + 1);
    let mut any: Vec<(u64, u64)> = pool
        .imap_unordered(square, 0..100)
        .unwrap()
        .map(|(item, result)| (item, result.unwrap()))
        .collect();
    any.sort_unstable();
    assert!(any.iter().copied().eq((0..100).map(|x| (x, x * x))));
}

#[procession::test]
fn errors_that_a_task_returns_are_its_results() {
    let pool = Pool::new(1).unwrap();
    let results = pool.map(fail_odd, 0..2).unwrap();
    assert_eq!(results, [Ok(0), Err("1 is odd".to_owned())]);
}

#[procession::test]
fn a_panic_is_an_error_of_its_item_and_the_worker_lives_on() {
    let pool = Pool::new(1).unwrap();
    let workers = pool.workers();
    match pool.map(divide, [(1, 1), (1, 0), (2, 1)]).unwrap_err() {
        PoolError::Panicked { item: 1, message } => {
            assert!(message.contains("divide by zero"), "{message}");
            assert!(message.contains("tests/pool.rs:"), "{message}");
        }
        other => panic!("{other}"),
    }
    assert_eq!(pool.map(divide, [(4, 2)]).unwrap(), [2]);
    assert_eq!(pool.workers(), workers);
}

#[procession::test]
fn a_worker_that_dies_takes_only_its_item_with_it() {
    let pool = Pool::new(2).unwrap();
    let results: Vec<_> = pool.imap(abort_at_three, 0..20).unwrap().collect();
    assert_eq!(results.len(), 20);
    for (x, result) in (0_u64..).zip(results) {
        match result {
            Ok(y) => assert_eq!(x, y),
            Err(PoolError::WorkerDied { item, exit, .. }) => {
                assert_eq!((x, item, exit), (3, 3, Some(Exit::Signal(6))));
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(pool.workers().len(), 2);
}

#[procession::test]
fn tickets_wait_each_for_its_own_result() {
    let pool = Pool::new(2).unwrap();
    let go = Event::new().unwrap();
    let mut slow = pool.submit(wait_for, go.clone()).unwrap();
    let tickets: Vec<Ticket<u64>> = (0..100).map(|x| pool.submit(square, x).unwrap()).collect();
    // Asked in another order than they were made, from several threads.
    std::thread::scope(|scope| {
        for (x, ticket) in (0..100).rev().zip(tickets.into_iter().rev()) {
            scope.spawn(move || assert_eq!(ticket.get().unwrap(), x * x));
        }
    });
    assert_eq!(slow.get_timeout(SHORT).unwrap(), None);
    assert!(!slow.is_done().unwrap());
    go.set();
    assert_eq!(slow.get_timeout(LONG).unwrap(), Some(true));
    assert!(slow.is_done().unwrap());
    assert!(matches!(slow.get(), Err(PoolError::Taken)));
}

#[procession::test]
fn an_item_that_takes_too_long_is_ended() {
    let pool = Pool::new(1).unwrap();
    let never = Event::new().unwrap();
    let ticket = pool.timeout(SHORT).submit(wait_for, never).unwrap();
    assert!(matches!(ticket.get(), Err(PoolError::TimedOut { .. })));
    assert_eq!(pool.submit(square, 3).unwrap().get().unwrap(), 9);
}

#[procession::test]
fn what_waits_and_what_runs_can_be_cancelled() {
    let pool = Pool::new(1).unwrap();
    let (started, never) = (Event::new().unwrap(), Event::new().unwrap());
    let running = pool
        .submit(say_and_wait, (started.clone(), never.clone()))
        .unwrap();
    assert!(started.wait_timeout(LONG).unwrap());
    let waiting = pool.submit(wait_for, never).unwrap();
    assert!(waiting.cancel().unwrap());
    assert!(running.cancel().unwrap());
    assert!(matches!(running.get(), Err(PoolError::Cancelled { .. })));
    assert!(matches!(waiting.get(), Err(PoolError::Cancelled { .. })));
    let done = pool.submit(square, 4).unwrap();
    while !done.is_done().unwrap() {
        std::thread::yield_now();
    }
    assert!(!done.cancel().unwrap());
    assert_eq!(done.get().unwrap(), 16);
}

#[procession::test]
fn an_item_whose_worker_died_is_run_again_if_asked_for() {
    let pool = Pool::new(1).unwrap();
    let attempts = Semaphore::new(0).unwrap();
    let ticket = pool.retries(1).submit(fail_first, attempts).unwrap();
    assert_eq!(ticket.get().unwrap(), 2);
}

#[procession::test]
fn workers_are_replaced_after_so_many_tasks() {
    let pool = Pool::builder().workers(1).max_tasks(2).start().unwrap();
    let pids = pool.map(pid, 0..6).unwrap();
    let different: HashSet<u32> = pids.iter().copied().collect();
    assert_eq!(different.len(), 3, "{pids:?}");
}

#[procession::test]
fn a_worker_that_wants_too_much_memory_dies_alone() {
    let pool = Pool::builder()
        .workers(2)
        .memory_limit(64 << 20)
        .start()
        .unwrap();
    let greedy = pool.submit(take_memory, 512 << 20).unwrap();
    let modest = pool.submit(take_memory, 1 << 20).unwrap();
    assert!(matches!(greedy.get(), Err(PoolError::WorkerDied { .. })));
    assert_eq!(modest.get().unwrap(), 1 << 20);
}

#[procession::test]
fn an_initializer_runs_first_in_every_worker() {
    let pool = Pool::builder()
        .workers(2)
        .initializer(prepare, 100)
        .start()
        .unwrap();
    assert_eq!(pool.map(prepared, 0..4).unwrap(), [100, 101, 102, 103]);
}

#[procession::test]
fn an_initializer_that_fails_time_and_again_breaks_the_pool() {
    let pool = Pool::builder()
        .workers(1)
        .initializer(refuse, ())
        .start()
        .unwrap();
    match pool.map(square, 0..3).unwrap_err() {
        PoolError::Broken { exit, .. } => assert_eq!(exit, Some(Exit::Code(1))),
        other => panic!("{other}"),
    }
}

#[procession::test]
fn large_results_and_shared_objects_travel() {
    let pool = Pool::new(2).unwrap();
    let texts = pool.map(long_text, [0, 10, 100_000, 3 << 20]).unwrap();
    let lengths: Vec<usize> = texts.iter().map(String::len).collect();
    assert_eq!(lengths, [0, 10, 100_000, 3 << 20]);
    let queues = pool.map(new_queue, 0..3).unwrap();
    for (x, queue) in (0..).zip(queues) {
        assert_eq!(queue.try_get().unwrap(), x);
    }
    let lock = Lock::new().unwrap();
    let items = (0..50).map(|x| (lock.clone(), x));
    assert!(pool.map(with_lock, items).unwrap().into_iter().eq(1..51));
}

#[procession::test]
fn joined_it_works_off_what_it_has_and_dropped_it_does_not() {
    let pool = Pool::new(2).unwrap();
    let tickets: Vec<_> = (0..10).map(|x| pool.submit(square, x).unwrap()).collect();
    drop(pool.submit(square, 7).unwrap());
    pool.join().unwrap();
    for (x, ticket) in (0..).zip(tickets) {
        assert_eq!(ticket.get().unwrap(), x * x);
    }
    let pool = Pool::new(1).unwrap();
    let never = pool.submit(wait_for, Event::new().unwrap()).unwrap();
    drop(pool);
    assert!(matches!(never.get(), Err(PoolError::Terminated)));
}

#[procession::test]
fn what_is_no_task_is_refused() {
    let pool = Pool::new(1).unwrap();
    assert!(matches!(
        pool.map(unmarked, 0..3),
        Err(PoolError::Spawn(SpawnError::NotATask(_)))
    ));
    let wrong = Pool::builder().initializer(unmarked, 1).start();
    assert!(matches!(
        wrong,
        Err(PoolError::Spawn(SpawnError::NotATask(_)))
    ));
}

#[procession::test]
fn a_pool_that_is_dropped_leaves_no_process() {
    let pool = Pool::new(3).unwrap();
    let workers = pool.workers();
    assert_eq!(workers.len(), 3);
    drop(pool);
    for pid in workers {
        assert!(procession_sys::ident::ProcessId::of(pid).is_none());
    }
}

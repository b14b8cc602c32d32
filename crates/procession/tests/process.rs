//! Processes: how they start, end, and what is left of them.

use std::time::Duration;

use procession::{Event, Exit, Process, Queue, SpawnError};

/// Longer than anything here takes, so that a hang is a failure and not a stuck terminal.
const LONG: Duration = Duration::from_secs(60);

#[procession::task]
fn add_to(queue: Queue<u64>, a: u64, b: u64) {
    queue.put(a + b).expect("the queue is open");
}

#[procession::task]
fn wait_for(event: Event) {
    event.wait().expect("the session lives");
}

#[procession::task]
fn check(x: i64) -> Result<i64, String> {
    if x < 0 {
        return Err("on purpose".to_owned());
    }
    Ok(x + 3)
}

#[procession::task]
fn panics() {
    panic!("as it should");
}

#[procession::task]
fn exit_with(code: i32) {
    std::process::exit(code);
}

#[procession::task]
fn take_memory(bytes: usize) {
    std::hint::black_box(vec![1_u8; bytes]);
}

#[procession::task]
fn spawn_another(queue: Queue<u64>) {
    let child = Process::spawn(add_to, (queue, 20, 22)).expect("a child may have children");
    assert!(child.join().expect("it is our child").is_success());
}

#[procession::task]
fn leave_another(queue: Queue<u32>, never: Event) {
    let child = Process::spawn(wait_for, never).expect("a child may have children");
    queue.put(child.id()).expect("the queue is open");
    std::process::abort();
}

fn unmarked(_: u64) {}

fn exit_of(process: &Process) -> Exit {
    process
        .join_timeout(LONG)
        .expect("our child")
        .expect("ended in time")
}

#[procession::test]
fn a_task_gets_its_arguments_and_its_process_ends() {
    let queue = Queue::new().unwrap();
    let process = Process::spawn(add_to, (queue.clone(), 1, 2)).unwrap();
    assert_ne!(process.id(), std::process::id());
    assert_eq!(exit_of(&process), Exit::Code(0));
    assert_eq!(queue.try_get().unwrap(), 3);
    assert!(!process.is_alive());
    // Asked again, it is the same, and signals have nobody to reach.
    assert_eq!(process.join().unwrap(), Exit::Code(0));
    process.kill().unwrap();
}

#[procession::test]
fn a_task_can_be_called_as_the_function_it_is() {
    assert_eq!(check(0), Ok(3));
    assert_eq!([1, 2].map(check), [Ok(4), Ok(5)]);
}

#[procession::test]
fn exit_codes_say_how_the_task_ended() {
    let exits = [
        Process::spawn(check, 1),
        Process::spawn(check, -1),
        Process::spawn(panics, ()),
        Process::spawn(exit_with, 7),
    ]
    .map(|process| exit_of(&process.unwrap()));
    assert_eq!(exits, [0, 1, 101, 7].map(Exit::Code));
}

#[procession::test]
fn a_waiting_process_can_be_killed_and_terminated() {
    let never = Event::new().unwrap();
    for (end, signal) in [
        (Process::kill as fn(&Process) -> _, 9),
        (Process::terminate, 15),
    ] {
        let process = Process::spawn(wait_for, never.clone()).unwrap();
        let exit = process.join_timeout(Duration::from_millis(1)).unwrap();
        assert_eq!(exit, None);
        assert!(process.is_alive());
        end(&process).unwrap();
        assert_eq!(exit_of(&process), Exit::Signal(signal));
    }
}

#[procession::test]
fn several_threads_may_join_one_process() {
    let go = Event::new().unwrap();
    let process = Process::spawn(wait_for, go.clone()).unwrap();
    std::thread::scope(|scope| {
        let joins = [(); 3].map(|()| scope.spawn(|| exit_of(&process)));
        go.set();
        for join in joins {
            assert_eq!(join.join().unwrap(), Exit::Code(0));
        }
    });
}

#[procession::test]
fn dropped_with_kill_on_drop_it_is_gone() {
    let never = Event::new().unwrap();
    let process = Process::builder()
        .kill_on_drop(true)
        .spawn(wait_for, never)
        .unwrap();
    let id = process.id();
    drop(process);
    assert!(!is_running(id));
}

#[procession::test]
fn dropped_otherwise_it_goes_on() {
    let (go, queue) = (Event::new().unwrap(), Queue::new().unwrap());
    drop(Process::spawn(wait_then_add, (go.clone(), queue.clone())).unwrap());
    go.set();
    assert_eq!(queue.get_timeout(LONG).unwrap(), 1);
}

#[procession::task]
fn wait_then_add(go: Event, queue: Queue<u64>) {
    go.wait().expect("the session lives");
    queue.put(1).expect("the queue is open");
}

#[procession::test]
fn children_have_children_in_the_same_session() {
    let queue = Queue::new().unwrap();
    let process = Process::spawn(spawn_another, queue.clone()).unwrap();
    assert_eq!(exit_of(&process), Exit::Code(0));
    assert_eq!(queue.try_get().unwrap(), 42);
}

#[procession::test]
fn an_orphan_ends_soon_after_its_parent() {
    let (queue, never) = (Queue::new().unwrap(), Event::new().unwrap());
    let parent = Process::spawn(leave_another, (queue.clone(), never)).unwrap();
    let orphan = queue.get_timeout(LONG).unwrap();
    assert_eq!(exit_of(&parent), Exit::Signal(6));
    let deadline = std::time::Instant::now() + LONG;
    while is_running(orphan) {
        assert!(
            std::time::Instant::now() < deadline,
            "the orphan is still there"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[procession::test]
fn a_memory_limit_ends_the_one_who_wants_more() {
    let limited = || Process::builder().memory_limit(64 << 20);
    let modest = limited().spawn(take_memory, 1 << 20).unwrap();
    assert_eq!(exit_of(&modest), Exit::Code(0));
    let greedy = limited().spawn(take_memory, 512 << 20).unwrap();
    assert_eq!(exit_of(&greedy), Exit::Signal(6));
}

#[procession::test]
fn what_is_no_task_is_refused_before_anything_starts() {
    let error = Process::spawn(unmarked, 1).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, SpawnError::NotATask(_)));
    assert!(
        text.contains("process::unmarked") && text.contains("#[procession::task]"),
        "{text}"
    );
    let captured = 3;
    let closure = move || captured;
    assert!(matches!(
        Process::spawn(closure, ()),
        Err(SpawnError::NotATask(_))
    ));
}

#[procession::test]
fn a_name_is_given_or_made_from_the_task() {
    let named = Process::builder().name("seven").spawn(exit_with, 0);
    assert_eq!(named.unwrap().name(), "seven");
    let unnamed = Process::spawn(exit_with, 0).unwrap();
    assert!(unnamed.name().starts_with("exit_with-"), "{unnamed:?}");
}

/// Does the process exist, other than as a zombie?
fn is_running(pid: u32) -> bool {
    procession_sys::ident::ProcessId::of(pid)
        .is_some_and(procession_sys::ident::ProcessId::is_alive)
}

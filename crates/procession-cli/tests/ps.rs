//! What `procession ps` prints.

use procession_cli::run_with;
use procession_cli::view::table::{Shown, session};
use procession_engine::inspect::{
    Member, MemoryUse, ObjectName, ObjectReport, ProcessReport, ProcessState, Report, TaskReport,
    WaitReport,
};

const SECOND: u64 = 1_000_000_000;

fn member(pid: u32, name: &str) -> Member {
    Member {
        owner: pid,
        pid: Some(pid),
        name: name.to_owned(),
    }
}

fn process(pid: u32, role: &'static str, name: &str) -> ProcessReport {
    ProcessReport {
        owner: pid,
        pid,
        parent: None,
        role,
        name: name.to_owned(),
        state: ProcessState::Sleeping,
        exit_code: None,
        waits: Vec::new(),
        task: None,
        tasks_done: 0,
        rss: Some(10 << 20),
        pss: Some(4 << 20),
        cpu_ns: None,
        threads: None,
        age_ns: 75 * SECOND,
        torn: false,
    }
}

fn name(index: u32, kind: &str, name: &str) -> ObjectName {
    ObjectName {
        index,
        kind: Some(kind.to_owned()),
        name: name.to_owned(),
    }
}

fn wait(kind: &'static str, object: Option<ObjectName>, owners: Vec<Member>) -> WaitReport {
    WaitReport {
        thread: 1,
        kind,
        object,
        age_ns: 2_500_000_000,
        owners,
    }
}

/// Two workers: one waits with two threads, the other has a task; a child that is dead; one that is torn.
fn report() -> Report {
    let mut worker = process(101, "worker", "worker-1");
    worker.waits = vec![
        wait(
            "acquire",
            Some(name(3, "lock", "cache")),
            vec![member(100, "app.py")],
        ),
        wait("get", Some(name(4, "queue", "")), Vec::new()),
    ];
    let mut busy = process(102, "worker", "worker-2");
    busy.state = ProcessState::Running;
    busy.tasks_done = 1234;
    busy.task = Some(TaskReport {
        board: name(7, "pool", ""),
        job: 2,
        item: 56,
        age_ns: SECOND / 4,
    });
    let mut dead = process(103, "process", "evil\x1b[31m\nname");
    dead.state = ProcessState::Ended;
    dead.exit_code = Some(-9);
    dead.rss = None;
    let mut torn = process(0, "process", "");
    torn.state = ProcessState::Starting;
    torn.torn = true;
    torn.rss = None;
    let lock = ObjectReport {
        index: 3,
        generation: 1,
        kind: "lock".to_owned(),
        name: "cache".to_owned(),
        creator: Some(member(100, "app.py")),
        age_ns: 60 * SECOND,
        references: 4,
        waiters: 1,
        owners: vec![member(100, "app.py")],
        counters: vec![("recoveries", 0)],
        ..ObjectReport::default()
    };
    let queue = ObjectReport {
        index: 4,
        kind: "queue".to_owned(),
        references: 5,
        holder_count: Some(4),
        waiters: 1,
        counters: vec![("length", 0), ("maxsize", 0), ("put", 9), ("bytes", 2048)],
        ..ObjectReport::default()
    };
    Report {
        id: 0xabc,
        age_ns: 75 * SECOND,
        processes: vec![process(100, "main", "app.py"), worker, busy, dead, torn],
        objects: vec![lock, queue],
        object_count: 12,
        objects_cut: false,
        memory: MemoryUse {
            used: 3 << 20,
            budget: 4 << 30,
            resident: 5 << 20,
        },
        deaths: 1,
    }
}

#[test]
fn the_tables_for_people() {
    let expected = "\
session 0000000000000abc: 4 processes, 12 objects, 3.0 MiB of 4.0 GiB in use, 1m15s old, 1 death so far
PID  ROLE     NAME             STATE       WAITS FOR                                 SINCE  TASK                           DONE       RSS    AGE
100  main     app.py           sleeping    -                                             -  -                                 -  10.0 MiB  1m15s
101  worker   worker-1         sleeping    acquire lock #3 cache, held by 100 app.py  2.5 s  -                                 -  10.0 MiB  1m15s
                                           get queue #4                              2.5 s
102  worker   worker-2         running     -                                             -  item 56 of job 2 in #7, 250 ms  1234  10.0 MiB  1m15s
103  process  evil\u{fffd}[31m\u{fffd}name  ended (-9)  -                                             -  -                                 -         -  1m15s
 ?~  process                   starting    -                                             -  -                                 -         -  1m15s

OBJECT  KIND   NAME   CREATOR     REFS  WAITERS  OWNER       CONTENTS                   AGE
    #3  lock   cache  100 app.py     4        1  100 app.py  -                        1m00s
    #4  queue         -              5        1  -           length 0, put 9, 2.0 KiB   0 ms
~ changed while it was read
";
    let shown = session(&report(), Shown::default());
    // Compared word by word: how many blanks there are between is the table library's business.
    assert_eq!(words(&shown), words(expected), "\n{shown}");
    assert!(shown.lines().all(|l| l.trim_end() == l), "\n{shown}");
    assert!(!shown.contains('\x1b'));
}

fn words(text: &str) -> Vec<Vec<&str>> {
    text.lines()
        .map(|l| l.split_whitespace().collect())
        .collect()
}

#[test]
fn all_objects_come_with_their_holders_and_memory_is_divided_on_request() {
    let shown = Shown {
        all_objects: true,
        pss: true,
        ..Shown::default()
    };
    let shown = session(&report(), shown);
    assert!(
        shown.contains(" PSS ") && shown.contains(" 4.0 MiB "),
        "{shown}"
    );
    assert!(!shown.contains(" RSS "));
    let queue = shown.lines().find(|l| l.contains("#4  queue")).unwrap();
    assert_eq!(
        words(queue)[0][..6],
        ["#4", "queue", "-", "5", "4", "1"],
        "{shown}"
    );
}

#[test]
fn a_long_table_of_objects_is_cut_and_says_so() {
    let mut report = report();
    report.objects = vec![report.objects[0].clone(); 25];
    let shown = session(&report, Shown::default());
    assert!(
        shown.contains("... and 5 more (--objects shows all)"),
        "{shown}"
    );
    report.objects.truncate(1);
    report.objects_cut = true;
    let shown = session(&report, Shown::default());
    assert!(shown.contains("not all objects were looked at"), "{shown}");
}

#[test]
fn a_narrow_terminal_gets_narrow_tables() {
    let shown = Shown {
        width: Some(100),
        ..Shown::default()
    };
    let shown = session(&report(), shown);
    let widest = shown.lines().skip(1).map(|l| l.chars().count()).max();
    assert!(widest.unwrap() <= 100, "{shown}");
}

fn run(arguments: &[&str]) -> (i32, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = run_with(arguments, &mut out, &mut err);
    (
        code,
        String::from_utf8(out).unwrap(),
        String::from_utf8(err).unwrap(),
    )
}

#[test]
fn a_session_is_shown_by_the_pid_of_a_member() {
    procession_engine::home::session().unwrap();
    let pid = std::process::id();
    let (code, out, err) = run(&["ps", &pid.to_string(), "--json"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    let process = &document["sessions"][0]["processes"][0];
    assert_eq!(process["pid"], pid);
    assert_eq!(process["role"], "main");
    assert!(process["rss"].as_u64().unwrap() > 0);

    let (code, out, _) = run(&["ps", &pid.to_string()]);
    assert_eq!(code, 0);
    assert!(out.contains(&format!("{pid}  main")), "{out}");

    let (code, out, _) = run(&["ps"]);
    assert_eq!(code, 0);
    assert!(out.contains(&format!("{pid}  main")), "{out}");
}

#[test]
fn what_cannot_be_shown_is_said_and_told_by_the_exit_code() {
    let (code, out, err) = run(&["ps", "4294967295"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert_eq!(err, "procession: there is no process 4294967295\n");
    let (code, out, _) = run(&["ps", "4294967295", "--json"]);
    assert_eq!((code, out.as_str()), (1, "{\"sessions\":[]}\n"));
    for bad in [
        &["ps", "x"][..],
        &["fly"],
        &[],
        &["ps", "--watch", "1"],
        &["ps", "1", "--watch", "nan"],
    ] {
        let (code, out, err) = run(bad);
        assert_eq!((code, out.as_str()), (2, ""), "{bad:?}");
        assert!(err.contains("Usage") || err.contains("--help"), "{err}");
    }
    let (code, out, _) = run(&["--help"]);
    assert_eq!(code, 0);
    assert!(out.contains("python -m procession run"), "{out}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    struct Closed;
    impl std::io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    procession_engine::home::session().unwrap();
    let pid = std::process::id().to_string();
    for arguments in [vec!["ps", &pid], vec!["ps", &pid, "--json"]] {
        let mut err = Vec::new();
        assert_eq!(run_with(arguments, &mut Closed, &mut err), 0);
        assert_eq!(String::from_utf8(err).unwrap(), "");
    }
}

//! A process dies at every step of every protocol, and the others go on as if it had stopped before or after that step.
//!
//! Each scenario runs once in a child that notes which crash points it passes, and how often. Then it runs again for each of
//! them, in a child that dies there. What was committed must be there once and whole, everything must still work, and in
//! the end the session must hold exactly what it held before. `PROCESSION_CRASH_ALL=1` dies at every single pass; usually
//! a sample of the passes of one point is enough.
#![cfg(not(loom))]

mod boards;
#[path = "../common/mod.rs"]
mod common;
mod scenarios;
mod stores;

use std::collections::BTreeMap;
use std::path::Path;

use common::world::World;
use common::{Inventory, calmly, inside, start, within};
use procession_shm::{Session, fault, kinds};
use procession_sys::process::Exit;
use scenarios::{SCENARIOS, Scenario, scenario, victim};

#[test]
#[ignore = "the body of the other tests' children"]
fn child() {
    let Some(mut inside) = inside() else { return };
    if inside.task == "idle" {
        inside.attach().leave(0).unwrap();
        std::process::exit(0);
    }
    let records = std::env::var("PROCESSION_CRASH_AT").is_ok_and(|at| at == "record");
    let arm = || {
        if records {
            fault::record();
        } else {
            fault::arm_from_env();
        }
    };
    let scenario = SCENARIOS.iter().find(|s| s.name == inside.task);
    let early = scenario.is_some_and(|s| s.early);
    if early {
        arm();
    }
    let session = inside.attach();
    let world = World::find(session, &inside.args);
    if !early {
        arm();
    }
    let others: fn(&World) = match inside.task.as_str() {
        "board-worker" => boards::worker,
        "board-victim" => boards::work,
        _ => victim,
    };
    scenario.map_or(others, |s| s.child)(&world);
    let passed: Vec<String> = fault::passed()
        .iter()
        .map(|(p, n)| format!("{p} {n}\n"))
        .collect();
    inside.report(&passed.concat());
    std::process::exit(0);
}

/// Runs a scenario whose child dies at `crash_at`, or ends if that is "record"; returns what the child noted. The first
/// time nobody says that the child has died: the others have to find out.
///
/// How often a point is passed depends a little on what the arena looks like, so that later deaths may not come about.
fn run(session: &'static Session, scenario: &Scenario, crash_at: &str, is_first: bool) -> String {
    let before = Inventory::take(session);
    let world = World::create(session);
    let kept = (scenario.before)(&world);
    let mut child = start(session, scenario.name, &world.names(), crash_at);
    let exit = child.end();
    let expected = if crash_at == "record" {
        Exit::Code(0)
    } else {
        Exit::Signal(9)
    };
    assert!(
        exit == expected || !is_first && exit == Exit::Code(0),
        "the child ended with {exit}"
    );
    let had_lock = world.lock.owner() == Some(child.owner);
    if !is_first {
        session.exited(child.owner, exit.as_exitcode()).unwrap();
    }
    if had_lock {
        world.lock.acquire(within(10), &mut calmly).unwrap();
        assert!(
            world.lock.take_recovery(),
            "the death of the lock's owner was not told"
        );
        world.lock.release();
    }
    (scenario.after)(&world, kept);
    world.exercise();
    session.exited(child.owner, exit.as_exitcode()).unwrap();
    drop(world);
    assert_eq!(Inventory::take(session), before, "left behind, or lost");
    child.report()
}

fn points(session: &'static Session, scenario: &Scenario) -> BTreeMap<String, u32> {
    let report = run(session, scenario, "record", false);
    report
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(point, times)| (point.to_owned(), times.parse().unwrap()))
        .collect()
}

/// At most `most` of 1..=times, evenly spread, the last among them.
fn sample(times: u32, most: u32) -> impl Iterator<Item = u32> {
    let count = times.min(most);
    (1..=count).map(move |i| (u64::from(i) * u64::from(times) / u64::from(count)) as u32)
}

fn die_everywhere(name: &str) {
    let scenario = scenario(name);
    let session = kinds::create("survivor", None).unwrap();
    let all = common::setting("PROCESSION_CRASH_ALL", 0) != 0;
    let mut deaths = 0;
    for (point, times) in points(session, scenario) {
        let most = if point.starts_with("guard.") { 8 } else { 3 };
        for n in sample(times, if all { u32::MAX } else { most }) {
            let crash_at = format!("{point}:{n}");
            let run = || run(session, scenario, &crash_at, n == 1);
            if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
                eprintln!("this was scenario {name}, death at {crash_at} of {times}");
                std::panic::resume_unwind(panic);
            }
            deaths += 1;
        }
    }
    println!("{name}: {deaths} deaths");
    assert!(deaths > 0);
}

macro_rules! deaths {
    ($($test:ident: $scenario:literal,)*) => {
        $(#[test]
        fn $test() {
            die_everywhere($scenario);
        })*

        #[test]
        fn every_scenario_has_a_test() {
            assert_eq!(SCENARIOS.iter().map(|s| s.name).collect::<Vec<_>>(), [$($scenario),*]);
        }
    };
}

deaths! {
    putting: "put",
    getting: "get",
    going_around: "wrap",
    blocks_and_bundles: "blocks",
    locking: "sync",
    notifying: "notify",
    meeting: "barrier",
    telling_an_outcome: "future",
    making_and_dropping_objects: "objects",
    starting_processes: "processes",
    burying_one_who_died_putting: "recover-put",
    burying_one_who_died_freeing: "recover-free",
    burying_one_who_died_destroying: "recover-destroy",
    changing_a_map: "map",
    changing_a_list: "list",
    going_on_with_an_update: "mend-torn-update",
    going_on_with_half_an_update: "mend-half-update",
    freeing_what_a_list_lost: "mend-list",
    working_for_a_board: "board-work",
    owning_a_board: "board-own",
    burying_a_worker_who_died_taking: "board-bury-taking",
    burying_a_worker_who_died_handing: "board-bury-handing",
    burying_a_worker_who_died_condemned: "board-bury-condemned",
}

/// The points named in the source files below `at`.
fn named(at: &Path, found: &mut Vec<String>) {
    for file in std::fs::read_dir(at).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            named(&path, found);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for after in text.split("crash_point!(\"").skip(1) {
            found.push(after.split('"').next().unwrap().to_owned());
        }
    }
}

#[test]
fn every_point_in_the_source_is_passed_by_a_scenario() {
    let session = kinds::create("survivor", None).unwrap();
    let mut source = Vec::new();
    named(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut source,
    );
    assert!(source.len() > 60, "the source was not found");
    let passed: Vec<String> = SCENARIOS
        .iter()
        .flat_map(|s| points(session, s).into_keys())
        .collect();
    source.retain(|p| !passed.contains(p));
    assert!(source.is_empty(), "nobody dies at {source:?}");
}

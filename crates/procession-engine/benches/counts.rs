//! The hot paths by the instruction: `cargo bench -p procession-engine --bench counts`. It needs valgrind, and
//! gungraun-runner of the library's version; where one is absent it says so and is over.

mod operations;

use std::process::{Command, Stdio};

/// What runs under valgrind. Each function gets an operation that has run before, and gives it back, so that neither its
/// making nor its end is counted.
mod counted {
    use std::hint::black_box;

    use gungraun::{library_benchmark, library_benchmark_group, main};

    use super::operations::{
        AllocFree, Counting, Locking, NoWait, Notify, Operation, PoolItems, PushPop, warm,
    };

    fn ring(len: usize) -> PushPop {
        warm(PushPop::new(len))
    }

    fn memory(len: u64) -> AllocFree {
        warm(AllocFree::new(len))
    }

    fn items(batch: usize) -> PoolItems {
        warm(PoolItems::new(batch))
    }

    fn lock() -> Locking {
        warm(Locking::new())
    }

    fn semaphore() -> Counting {
        warm(Counting::new())
    }

    fn gate() -> Notify {
        warm(Notify::new())
    }

    fn event() -> NoWait {
        warm(NoWait::new())
    }

    #[library_benchmark]
    #[bench::bytes_16(args = (16), setup = ring)]
    #[bench::bytes_1024(args = (1024), setup = ring)]
    fn ring_push_pop(mut ring: PushPop) -> PushPop {
        ring.run();
        black_box(ring)
    }

    #[library_benchmark]
    #[bench::alone(setup = lock)]
    fn lock_acquire_release(mut lock: Locking) -> Locking {
        lock.run();
        black_box(lock)
    }

    #[library_benchmark]
    #[bench::alone(setup = semaphore)]
    fn semaphore_acquire_release(mut semaphore: Counting) -> Counting {
        semaphore.run();
        black_box(semaphore)
    }

    #[library_benchmark]
    #[bench::bytes_64(args = (64), setup = memory)]
    #[bench::bytes_65536(args = (65_536), setup = memory)]
    fn arena_alloc_free(mut memory: AllocFree) -> AllocFree {
        memory.run();
        black_box(memory)
    }

    #[library_benchmark]
    #[bench::nobody_there(setup = gate)]
    fn gate_notify(mut gate: Notify) -> Notify {
        gate.run();
        black_box(gate)
    }

    #[library_benchmark]
    #[bench::it_is_set(setup = event)]
    fn event_wait(mut event: NoWait) -> NoWait {
        event.run();
        black_box(event)
    }

    #[library_benchmark]
    #[bench::one(args = (1), setup = items)]
    #[bench::batch_of_64(args = (64), setup = items)]
    fn pool_feed_claim_publish_collect(mut items: PoolItems) -> PoolItems {
        items.run();
        black_box(items)
    }

    library_benchmark_group!(
        name = hot_paths,
        benchmarks = [
            ring_push_pop,
            lock_acquire_release,
            semaphore_acquire_release,
            arena_alloc_free,
            gate_notify,
            event_wait,
            pool_feed_claim_publish_collect,
        ]
    );
    main!(library_benchmark_groups = hot_paths);

    pub(super) fn run() {
        main();
    }
}

fn main() {
    // Run by `cargo test` it only shows that it builds; the runner calls it with a word of its own.
    let asked = std::env::args().any(|word| word == "--bench" || word == "--gungraun-run");
    if !asked {
        return;
    }
    for name in ["valgrind", "gungraun-runner"] {
        let found = Command::new(name)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if found.is_err() {
            println!("SKIPPED: instructions are not counted, as there is no {name} here");
            return;
        }
    }
    counted::run();
}

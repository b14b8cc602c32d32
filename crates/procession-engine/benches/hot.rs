//! The hot paths by the clock: `cargo bench -p procession-engine --bench hot`.

mod operations;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use procession_shm::ring::{Message, Ring, RingOptions};
use procession_sys::clock::Deadline;

use operations::{
    AllocFree, Counting, Locking, NoWait, Notify, Operation, PoolItems, PushPop, session, warm,
};

fn alone(c: &mut Criterion) {
    let mut measure = |name: &str, mut operation: Box<dyn FnMut()>| {
        c.bench_function(name, |b| b.iter(&mut operation));
    };
    for len in [16, 1 << 10, 64 << 10] {
        let mut ring = warm(PushPop::new(len));
        measure(
            &format!("ring: push, pop, {len} B"),
            Box::new(move || ring.run()),
        );
    }
    let mut lock = warm(Locking::new());
    measure("lock: acquire, release", Box::new(move || lock.run()));
    let mut semaphore = warm(Counting::new());
    measure(
        "semaphore: acquire, release",
        Box::new(move || semaphore.run()),
    );
    for len in [64, 4 << 10, 64 << 10] {
        let mut memory = warm(AllocFree::new(len));
        measure(
            &format!("arena: alloc, free, {len} B"),
            Box::new(move || memory.run()),
        );
    }
    let mut gate = warm(Notify::new());
    measure("gate: notify, nobody there", Box::new(move || gate.run()));
    let mut event = warm(NoWait::new());
    measure("event: wait, it is set", Box::new(move || event.run()));
}

fn pool(c: &mut Criterion) {
    let mut group = c.benchmark_group("pool: feed, claim, publish, collect");
    for batch in [1, 64] {
        let mut items = warm(PoolItems::new(batch));
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(format!("{batch} at a time"), |b| b.iter(|| items.run()));
    }
    group.finish();
}

/// Two threads that wake each other, or find each other awake.
fn together(c: &mut Criterion) {
    let ring = |name| Ring::create(session(), name, RingOptions::default()).expect("a ring");
    let (there, back) = (ring("there"), ring("back"));
    let echo = {
        let (there, back) = (there.clone(), back.clone());
        std::thread::spawn(move || {
            let get = || {
                there
                    .port()
                    .get(Deadline::NEVER, &mut || true, |bytes, _| bytes.len())
            };
            while get().expect("an open ring") > 0 {
                back.port()
                    .put(Message::new(b"back"), Deadline::NEVER, &mut || true)
                    .expect("an open ring");
            }
        })
    };
    let send = |bytes: &[u8]| {
        there
            .port()
            .put(Message::new(bytes), Deadline::NEVER, &mut || true)
            .expect("an open ring");
    };
    let receive = || {
        back.port()
            .get(Deadline::NEVER, &mut || true, |bytes, _| bytes.len())
            .expect("an open ring")
    };
    c.bench_function("ring: round trip between two threads", |b| {
        b.iter(|| {
            send(b"there");
            receive()
        });
    });
    send(b"");
    echo.join().expect("the echo ends");
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = alone, pool, together
}
criterion_main!(benches);

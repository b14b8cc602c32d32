"""What is measured: each function takes a library and returns seconds for each operation.

A workload gets the library as an object with the names of `multiprocessing`, so that the same lines
run on both.  It warms up first: processes started, memory touched.
"""

from __future__ import annotations

import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Workload = Callable[[Any], float]
WORKLOADS: dict[str, Workload] = {}

now = time.perf_counter


def workload(name: str) -> Callable[[Workload], Workload]:
    """Enter a function into the table under a name."""

    def enter(function: Workload) -> Workload:
        WORKLOADS[name] = function
        return function

    return enter


# --------------------------------------------------------------------------------- queues


def _produce(queue: Any, value: Any, count: int, start: Any) -> None:
    start.wait()
    for _ in range(count):
        queue.put(value)


def _consume(queue: Any, count: int, done: Any) -> None:
    for _ in range(count):
        queue.get()
    done.put(None)


def _queue(mp: Any, value: Any, count: int, producers: int = 1, consumers: int = 1) -> float:
    queue, start = mp.Queue(), mp.Event()
    share = count // producers
    makers = [
        mp.Process(target=_produce, args=(queue, value, share, start)) for _ in range(producers)
    ]
    done = mp.Queue()
    takers = [
        mp.Process(target=_consume, args=(queue, count // consumers, done))
        for _ in range(consumers if consumers > 1 else 0)
    ]
    for process in makers + takers:
        process.start()
    start.set()
    queue_get = queue.get
    began = now()
    if takers:
        for _ in takers:
            done.get()
    else:
        for _ in range(count):
            queue_get()
    seconds = now() - began
    for process in makers + takers:
        process.join()
    return seconds / count


def _queue_of(value: Any, count: int) -> Workload:
    def run(mp: Any) -> float:
        return _queue(mp, value, count)

    return run


WORKLOADS["queue: int"] = _queue_of(12345, 60_000)
WORKLOADS["queue: tuple of 3"] = _queue_of((1, "two", 3.0), 60_000)
WORKLOADS["queue: 1 KB bytes"] = _queue_of(b"x" * 1024, 60_000)
WORKLOADS["queue: 64 KB bytes"] = _queue_of(b"x" * 65_536, 5_000)
WORKLOADS["queue: 1 KB array"] = _queue_of(np.zeros(128), 20_000)
WORKLOADS["queue: 1 MB array"] = _queue_of(np.zeros(131_072), 300)


@workload("queue: 4 producers, 4 consumers, int")
def queue_many(mp: Any) -> float:
    return _queue(mp, 12345, 80_000, 4, 4)


def _produce_array(queue: Any, megabytes: int, count: int, go: Any) -> None:
    array = np.ones(megabytes * 131_072)
    for _ in range(count):
        go.get()
        queue.put(array)


@workload("queue: 100 MB array")
def queue_large(mp: Any) -> float:
    queue, go = mp.Queue(), mp.Queue()
    process = mp.Process(target=_produce_array, args=(queue, 100, 6, go))
    process.start()
    times = []
    # The first ones touch the memory; a page that is fresh costs many times as much as a warm one.
    for _ in range(6):
        began = now()
        go.put(None)
        array = queue.get()
        assert array[0] == array[-1] == 1
        times.append(now() - began)
        del array
    process.join()
    return statistics.median(times[2:])


# ---------------------------------------------------------------------------------- pipes


def _echo(conn: Any) -> None:
    while (got := conn.recv()) is not None:
        conn.send(got)


@workload("pipe: round trip, int")
def pipe_round_trip(mp: Any) -> float:
    here, there = mp.Pipe()
    process = mp.Process(target=_echo, args=(there,))
    process.start()
    send, recv = here.send, here.recv
    for i in range(2000):
        send(i)
        recv()
    count = 10_000
    began = now()
    for i in range(count):
        send(i)
        recv()
    seconds = now() - began
    send(None)
    process.join()
    return seconds / count


# ---------------------------------------------------------------------------------- pools


def nothing(x: Any) -> Any:
    """The no-op that is mapped."""
    return x


def first_of(array: Any) -> Any:
    """An array in, an array out."""
    return array


def with_array(array: Any, item: int) -> float:
    """A task that looks at a large shared argument."""
    return float(array[item])


def _pool_map(items: Any, chunksize: int | None) -> Workload:
    def run(mp: Any) -> float:
        with mp.Pool(2) as pool:
            pool.map(nothing, range(1000))
            began = now()
            assert len(pool.map(nothing, items, chunksize)) == len(items)
            return (now() - began) / len(items)

    return run


WORKLOADS["pool: map no-op, int, chunksize=1"] = _pool_map(range(100_000), 1)
WORKLOADS["pool: map no-op, tuple, chunksize=1"] = _pool_map([(i, i) for i in range(100_000)], 1)
WORKLOADS["pool: map no-op, int, default"] = _pool_map(range(1_000_000), None)


@workload("pool: imap_unordered no-op, chunksize=1")
def pool_imap(mp: Any) -> float:
    with mp.Pool(2) as pool:
        pool.map(nothing, range(1000))
        began = now()
        assert sum(1 for _ in pool.imap_unordered(nothing, range(50_000))) == 50_000
        return (now() - began) / 50_000


def _round_trips(mp: Any, pause: float, count: int, pick: float) -> float:
    times = []
    with mp.Pool(2) as pool:
        pool.map(nothing, range(1000))
        for i in range(count):
            if pause:
                time.sleep(pause)
            began = now()
            pool.apply_async(nothing, (i,)).get()
            times.append(now() - began)
    return sorted(times)[int(len(times) * pick)]


WORKLOADS["pool: apply_async round trip, median"] = lambda mp: _round_trips(mp, 0, 3000, 0.5)
WORKLOADS["pool: apply_async round trip, 99th percentile"] = lambda mp: _round_trips(
    mp, 0, 3000, 0.99
)
WORKLOADS["pool: apply_async after 10 ms idle, median"] = lambda mp: _round_trips(mp, 0.01, 60, 0.5)


@workload("pool: map 200 arrays of 1 MB, returned")
def pool_arrays(mp: Any) -> float:
    arrays = [np.full(131_072, float(i)) for i in range(200)]
    with mp.Pool(2) as pool:
        pool.map(first_of, arrays)
        began = now()
        assert len(pool.map(first_of, arrays)) == 200
        return (now() - began) / 200


@workload("pool: partial with a 100 MB array, 20 items, chunksize=1")
def pool_partial(mp: Any) -> float:
    task = functools.partial(with_array, np.ones(100 * 131_072))
    with mp.Pool(2) as pool:
        pool.map(task, range(4), chunksize=1)
        began = now()
        pool.map(task, range(20), chunksize=1)
        return (now() - began) / 20


@workload("pool: Pool(16) to the first result, and the end")
def pool_start(mp: Any) -> float:
    began = now()
    with mp.Pool(16) as pool:
        pool.map(nothing, [1])
        pool.close()
        pool.join()
    return now() - began


# ------------------------------------------------------------------------ locks and processes


@workload("lock: acquire and release")
def lock_acquire(mp: Any) -> float:
    lock = mp.Lock()
    acquire, release = lock.acquire, lock.release
    count = 300_000
    began = now()
    for _ in range(count):
        acquire()
        release()
    return (now() - began) / count


@workload("lock: with")
def lock_with(mp: Any) -> float:
    lock = mp.Lock()
    count = 300_000
    began = now()
    for _ in range(count):
        with lock:
            pass
    return (now() - began) / count


def nop() -> None:
    """What a process does that does nothing."""


def _process(method: str) -> Workload:
    def run(mp: Any) -> float:
        ctx = mp.get_context(method)
        times = []
        for _ in range(8):
            began = now()
            process = ctx.Process(target=nop)
            process.start()
            process.join()
            times.append(now() - began)
        return statistics.median(times[2:])

    return run


for _method in ("fork", "forkserver", "spawn"):
    WORKLOADS[f"process: start and join, {_method}"] = _process(_method)


@workload("cpu-bound map on all cores, against the serial time on one")
def efficiency(mp: Any) -> float:
    items = [200_000] * 24
    began = now()
    for item in items:
        _spin(item)
    serial = now() - began
    cores = len(os.sched_getaffinity(0))
    with mp.Pool(cores) as pool:
        pool.map(_spin, [1000] * 4)
        began = now()
        pool.map(_spin, items, chunksize=1)
        return (now() - began) * cores / serial


def _spin(count: int) -> int:
    total = 0
    for i in range(count):
        total += i * i % 7
    return total

"""Pools with small tasks, and with tasks that compute."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from peers import workers_of
from rows import (
    BOTH,
    FUTURES,
    JOBLIB,
    MP,
    MPIRE,
    NO_SPIN,
    OURS,
    POOLS,
    Row,
    add,
    at_least,
    ratio,
)
from targets import compute, nothing

SECTION = "Pools, small tasks (2 workers)"
now = time.perf_counter


def share_for(library: str, count: int) -> int:
    """How many items: the peers take so long for each that fewer tell as much."""
    return count if library in (*BOTH, NO_SPIN) else count // 10


def mapped(library: str, items: Sequence[Any], chunksize: int | None, repeat: int = 1) -> float:
    """Seconds for each item of a map."""
    pool = workers_of(library)
    pool.map(nothing, range(1000), chunksize)
    times = []
    for _ in range(repeat):
        began = now()
        assert len(pool.map(nothing, items, chunksize)) == len(items)
        times.append(now() - began)
    pool.end()
    return statistics.median(times) / len(items)


def unordered(library: str) -> float:
    """Seconds for each item of `imap_unordered`."""
    count = share_for(library, 50_000)
    pool = workers_of(library)
    assert sum(1 for _ in pool.unordered(nothing, range(1000))) == 1000
    began = now()
    assert sum(1 for _ in pool.unordered(nothing, range(count))) == count
    seconds = now() - began
    pool.end()
    return seconds / count


def round_trips(library: str, pause: float, count: int, pick: float, limit: float = 10.0) -> float:
    """Seconds from the call to its result, one after the other; of all times the one at `pick`."""
    times: list[float] = []
    pool = workers_of(library)
    pool.map(nothing, range(200), 1)
    end = now() + limit
    while len(times) < count and now() < end:
        if pause:
            time.sleep(pause)
        began = now()
        pool.call(nothing, 1)
        times.append(now() - began)
    pool.end()
    times.sort()
    return times[int(len(times) * pick)]


def from_threads(library: str) -> float:
    """Seconds for each of many calls, where four threads each wait for one after the other."""
    count = share_for(library, 2000)
    pool = workers_of(library)
    pool.map(nothing, range(200), 1)

    def body() -> None:
        for _ in range(count):
            pool.call(nothing, 1)

    threads = [threading.Thread(target=body) for _ in range(4)]
    began = now()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = now() - began
    pool.end()
    return seconds / (4 * count)


def efficiency(library: str) -> float:
    """How much of the processors a map uses: 1 is what two cores can do at best.

    Each map stands between two measurements of one process alone, as the processors' speed changes.
    """
    cores = len(os.sched_getaffinity(0))
    items = [150_000] * (16 * cores)

    def serial() -> float:
        began = now()
        for item in items:
            compute(item)
        return now() - began

    def parallel() -> float:
        began = now()
        pool.map(compute, items, 1)
        return now() - began

    pool = workers_of(library, cores)
    pool.map(compute, [1000] * 20 * cores, 1)
    shares = []
    before = serial()
    for _ in range(5):
        both = parallel()
        after = serial()
        shares.append((before + after) / 2 / cores / both)
        before = after
    pool.end()
    return statistics.median(shares)


def _map_row(
    name: str,
    title: str,
    goal: float,
    items_of: Callable[[int], Sequence[Any]],
    chunksize: int | None,
    libraries: tuple[str, ...] = POOLS,
) -> None:
    def run(library: str) -> float:
        count = share_for(library, 100_000)
        return mapped(library, items_of(count), chunksize, 1 if chunksize else 7)

    add(Row(name, title, SECTION, run, libraries, ratio(goal)))


def _trip_row(name: str, title: str, goal: float, pause: float, count: int, pick: float) -> None:
    def run(library: str) -> float:
        return round_trips(library, pause, count, pick)

    add(Row(name, title, SECTION, run, POOLS, ratio(goal)))


_map_row("map-int", "`map` of a no-op, int, chunksize=1", 30, range, 1)
_map_row(
    "map-tuple",
    "`map` of a no-op, tuple, chunksize=1",
    12,
    lambda count: [(i, i) for i in range(count)],
    1,
)
_map_row(
    "map-int-default",
    "`map` of a no-op, int, default chunks",
    1.3,
    range,
    None,
    (MP, OURS, JOBLIB, MPIRE),
)
add(
    Row(
        "imap-unordered",
        "`imap_unordered` of a no-op, chunksize=1",
        SECTION,
        unordered,
        (MP, OURS, FUTURES, JOBLIB, MPIRE),
        ratio(20),
    )
)
_trip_row("apply-median", "`apply_async` round trip, median", 20, 0.0, 3000, 0.5)
_trip_row("apply-p99", "`apply_async` round trip, 99th percentile", 20, 0.0, 3000, 0.99)
_trip_row("apply-idle", "`apply_async` after 10 ms idle, median", 3, 0.01, 100, 0.5)
add(
    Row(
        "apply-threads",
        "`apply_async` round trips by 4 threads, each call",
        SECTION,
        from_threads,
        (MP, OURS, FUTURES),
        None,
    )
)
add(
    Row(
        "efficiency",
        "`map` that computes, on all cores: share of the ideal",
        SECTION,
        efficiency,
        POOLS,
        at_least(0.97),
        unit="x",
    )
)

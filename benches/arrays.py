"""Pools with NumPy arrays as arguments and results."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from peers import workers_of
from rows import BOTH, FUTURES, JOBLIB, MP, MPIRE, OURS, POOLS, Row, add, ratio

SECTION = "Pools, arrays (2 workers)"
now = time.perf_counter


def same(array: Any) -> Any:
    """An array in, an array out."""
    return array


def element(array: Any, item: int) -> float:
    """A task that looks at one element of a large array."""
    return float(array[item])


def element_of(pair: tuple[Any, int]) -> float:
    """The same, with its arguments in one."""
    return element(*pair)


def there_and_back(megabytes: int, count: int, repeat: int) -> Callable[[str], float]:
    def run(library: str) -> float:
        arrays = [np.full(megabytes * 131_072, float(i)) for i in range(count)]
        pool = workers_of(library)
        times = []
        for _ in range(repeat + 1):
            began = now()
            found = pool.map(same, arrays, None)
            times.append(now() - began)
            assert len(found) == count
            assert found[-1][0] == found[-1][-1] == count - 1
            del found
        pool.end()
        # The first one warms the memory up.
        return statistics.median(times[1:]) / count

    return run


def with_partial(library: str) -> float:
    """Seconds for each of 20 items of a map whose function carries 100 MB."""
    task = functools.partial(element, np.ones(100 * 131_072))
    pool = workers_of(library)
    pool.map(task, range(2), 1)
    began = now()
    assert pool.map(task, range(20), 1) == [1.0] * 20
    seconds = now() - began
    pool.end()
    return seconds / 20


def with_starmap(library: str) -> float:
    """The same with the array as an argument of each item."""
    array = np.ones(100 * 131_072)
    pool = workers_of(library)

    def run(count: int) -> list[Any]:
        pairs = [(array, i) for i in range(count)]
        if library in BOTH:
            return list(pool.pool.starmap(element, pairs, 1))  # type: ignore[attr-defined]
        return pool.map(element_of, pairs, 1)

    run(2)
    began = now()
    assert run(20) == [1.0] * 20
    seconds = now() - began
    pool.end()
    return seconds / 20


add(
    Row(
        "map-arrays-1m",
        "`map` of 200 arrays of 1 MB, returned",
        SECTION,
        there_and_back(1, 200, 3),
        POOLS,
        ratio(8),
        touch=1200,
    )
)
add(
    Row(
        "map-arrays-64m",
        "`map` of 8 arrays of 64 MB, returned",
        SECTION,
        there_and_back(64, 8, 1),
        (MP, OURS, FUTURES, JOBLIB),
        ratio(10),
        touch=2000,
    )
)
add(
    Row(
        "partial-100m",
        "`map` of a `partial` with a 100 MB array, 20 items, chunksize=1",
        SECTION,
        with_partial,
        (MP, OURS, FUTURES, JOBLIB, MPIRE),
        ratio(30),
        touch=800,
    )
)
add(
    Row(
        "starmap-100m",
        "`starmap` with one 100 MB array in all of 20 items, chunksize=1",
        SECTION,
        with_starmap,
        (MP, OURS, FUTURES, JOBLIB),
        ratio(30),
        touch=800,
    )
)

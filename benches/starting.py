"""Starting and ending processes and pools, and the memory of those that wait.

NumPy is imported in the main module of all measurements.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

from peers import package, workers_of
from rows import BOTH, FUTURES, MP, OURS, POOLS, Row, add, ratio
from targets import nop, nothing

SECTION = "Processes: start, end, memory (NumPy imported in main)"
now = time.perf_counter


def start_and_join(method: str) -> Callable[[str], float]:
    def run(library: str) -> float:
        ctx = package(library).get_context(method)
        times = []
        for _ in range(10):
            began = now()
            process = ctx.Process(target=nop)
            process.start()
            process.join()
            times.append(now() - began)
        # The first ones start the fork server.
        return statistics.median(times[2:])

    return run


def pool_start(method: str, *, first: bool) -> Callable[[str], float]:
    """From making a pool of 16 to its first result; the program's first pool, or a later one."""

    def run(library: str) -> float:
        if not first:
            pool = workers_of(library, 2, method)
            pool.call(nothing, 1)
            pool.end()
        began = now()
        pool = workers_of(library, 16, method)
        pool.call(nothing, 1)
        seconds = now() - began
        pool.end()
        return seconds

    return run


def pool_end(method: str) -> Callable[[str], float]:
    def run(library: str) -> float:
        pool = workers_of(library, 16, method)
        # All workers are there once each has had a chance at some task.
        pool.map(nothing, range(2000), 1)
        time.sleep(0.5)
        began = now()
        pool.end()
        return now() - began

    return run


def replaced(method: str) -> Callable[[str], float]:
    """A map of 4 tasks in a pool of 2 whose workers run one task each."""

    def run(library: str) -> float:
        times = []
        with package(library).get_context(method).Pool(2, maxtasksperchild=1) as pool:
            for _ in range(10):
                began = now()
                pool.map(nothing, range(4), 1)
                times.append(now() - began)
        return statistics.median(times)

    return run


def proportional(pid: int) -> float:
    """The proportional set size of a process, in bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return float(line.split()[1]) * 1024
    raise OSError(f"process {pid} has no Pss")


def memory(method: str) -> Callable[[str], float]:
    """What one of 8 idle workers takes, in bytes."""

    def run(library: str) -> float:
        mp = package(library)
        with mp.get_context(method).Pool(8) as pool:
            pool.map(nothing, range(2000), 1)
            time.sleep(1.0)
            sizes = [proportional(child.pid) for child in mp.active_children()]
        assert len(sizes) == 8, f"{len(sizes)} workers"
        return sum(sizes) / 8

    return run


for _method, _goal in (("forkserver", ratio(25)), ("fork", None), ("spawn", None)):
    add(
        Row(
            f"process-{_method}",
            f"`Process` start and join, {_method}",
            SECTION,
            start_and_join(_method),
            BOTH,
            _goal,
        )
    )
for _first, _words in ((True, "first pool of the program"), (False, "a later pool")):
    add(
        Row(
            f"pool-start-{'first' if _first else 'later'}",
            f"`Pool(16)` to its first result, forkserver, {_words}",
            SECTION,
            pool_start("forkserver", first=_first),
            POOLS,
            ratio(8),
        )
    )
add(
    Row(
        "pool-end",
        "`Pool(16)`: close and join, forkserver",
        SECTION,
        pool_end("forkserver"),
        (MP, OURS, FUTURES),
        ratio(5),
    )
)
for _method in ("fork", "forkserver"):
    add(
        Row(
            f"pool-replace-{_method}",
            f"`Pool(2, maxtasksperchild=1)`: map of 4 tasks, {_method}",
            SECTION,
            replaced(_method),
            BOTH,
            None,
        )
    )
for _method, _factor in (("fork", 1.0), ("forkserver", 3.0)):
    add(
        Row(
            f"memory-{_method}",
            f"PSS of one of 8 idle workers, {_method}",
            SECTION,
            memory(_method),
            BOTH,
            ratio(_factor),
            unit="B",
        )
    )

"""What must not grow: the cost of a message, of a task, of looking, and of doing nothing."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peers import package, workers_of
from rows import BOTH, MP, OURS, Measured, Row, add, at_most
from targets import nothing

SECTION = "Cost stays flat"
now = time.perf_counter

# Ten million messages take a minute: `run.py --deep`.
DEEP = "BENCH_DEEP"


def backlog(library: str) -> Measured:
    """The dearest message of queues that hold 10^3 and more, as a multiple of one of 10^3."""
    sizes = [10**3, 10**4, 10**5]
    if library == OURS:
        sizes += [10**6, 10**7] if os.environ.get(DEEP) else [10**6]
    costs = {f"{size:.0e} queued, s": _put_and_get(library, size) for size in sizes}
    first, *others = costs.values()
    return Measured(max(others) / first, costs)


def _put_and_get(library: str, size: int) -> float:
    """Seconds for each message, put and got, when so many are put before the first is got.

    One process does both and never waits, so it is the processor's time that counts: a long turn
    is interrupted by other processes more often than a short one.
    """
    queue = package(library).Queue()
    put, get = queue.put, queue.get
    times = []
    # The standard queue takes a hundred times as long for each.
    repeat = max(3, (500_000 if library == OURS else 20_000) // size)
    for _ in range(repeat + 1):
        began = time.process_time()
        for i in range(size):
            put(i)
        for _ in range(size):
            get()
        times.append((time.process_time() - began) / size)
    # The first one makes the queue as large as it becomes.
    return statistics.median(times[1:])


def crew_round_trip(library: str) -> Measured:
    """A task there and back with 8 and 64 workers, as a multiple of that with 2."""
    return _by_workers(lambda pool: _trips(pool, 400), library)


def crew_map(library: str) -> Measured:
    """An item of a map with 8 and 64 workers, as a multiple of that with 2."""
    count = 50_000 if library == OURS else 10_000

    def cost(pool: Any) -> float:
        began = now()
        pool.map(nothing, range(count), 1)
        return (now() - began) / count

    return _by_workers(cost, library)


def _trips(pool: Any, count: int) -> float:
    times = []
    for _ in range(count):
        began = now()
        pool.call(nothing, 1)
        times.append(now() - began)
    return statistics.median(times)


def _by_workers(cost: Any, library: str) -> Measured:
    costs = {}
    for workers in (2, 8, 64):
        pool = workers_of(library, workers)
        pool.map(nothing, range(50 * workers), 1)
        time.sleep(0.5)
        costs[f"{workers} workers, s"] = statistics.median(cost(pool) for _ in range(3))
        pool.end()
    first, *others = costs.values()
    return Measured(max(others) / first, costs)


def looking(_library: str) -> Measured:
    """Seconds of `procession ps` on a session of 500 processes, the command as users call it."""
    mp = package(OURS)
    mp.set_start_method("fork", force=True)
    end = mp.Event()
    processes = [mp.Process(target=end.wait) for _ in range(500)]
    for process in processes:
        process.start()
    command = shutil.which("procession", path=str(Path(sys.executable).parent))
    script = "import sys, procession_cli; sys.exit(procession_cli.main())"
    asked = [*([command] if command else [sys.executable, "-c", script]), "ps", str(os.getpid())]
    try:
        whole = _seconds(asked)
        lines = len(subprocess.run(asked, capture_output=True, check=True).stdout.splitlines())
        assert lines > 500, f"{lines} lines for 500 processes"
        bare = _seconds([sys.executable, "-c", "pass"])
    finally:
        end.set()
        for process in processes:
            process.join()
    return Measured(whole, {"of which the interpreter's start, s": bare})


def _seconds(command: list[str]) -> float:
    times = []
    for _ in range(7):
        began = now()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        times.append(now() - began)
    return statistics.median(times)


def idle(library: str) -> Measured:
    """What a pool of 64 workers does without work, its parent included: % of one processor."""
    seconds = 4.0
    pool = workers_of(library, 64)
    pool.map(nothing, range(10_000), 1)
    time.sleep(2.0)
    members = sorted({os.getpid(), *_descendants(os.getpid())})
    before = {pid: _running(pid) for pid in members}
    began = now()
    time.sleep(seconds)
    took = now() - began
    used = {pid: _running(pid) - before[pid] for pid in members}
    pool.end()
    parent = used.pop(os.getpid())
    share = 100 / took
    return Measured(
        (parent + sum(used.values())) * share,
        {"the parent, %": parent * share, "the workers, %": sum(used.values()) * share},
    )


def _running(pid: int) -> float:
    """Seconds that the threads of a process have run, by the scheduler's own count."""
    total = 0
    for stat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        total += int(stat.read_text().split()[0])
    return total / 1e9


def _descendants(pid: int) -> Iterator[int]:
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            yield child
            yield from _descendants(child)


for _name, _title, _run in (
    ("flat-queue", "a message, 10^6 queued against 10^3 (`multiprocessing`: 10^5)", backlog),
    ("flat-call", "`apply_async` round trip, 64 workers against 2", crew_round_trip),
    ("flat-map", "`map` of a no-op, chunksize=1, 64 workers against 2", crew_map),
):
    add(Row(_name, _title, SECTION, _run, BOTH, at_most(1.3), unit="x"))
add(
    Row(
        "ps-500",
        "`procession ps`, 500 processes",
        SECTION,
        looking,
        (OURS,),
        at_most(0.050),
    )
)
add(
    Row(
        "idle-64",
        "a pool of 64 idle workers, % of a processor",
        SECTION,
        idle,
        (MP, OURS),
        at_most(0.5),
        unit="%",
    )
)

"""Many processes, objects and messages at a time, and that they leave nothing behind."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest

import procession
from children import finish, start
from procession import _native

COUNT = 200

Eventually = Callable[..., None]

FORK = procession.get_context("fork")


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_two_hundred_processes(method: str, eventually: Callable[..., None]) -> None:
    ctx = procession.get_context(method)
    # A method of ours is what they run: for a function of this file each would import pytest.
    barrier: Any = ctx.Barrier(COUNT + 1)
    # The fork server and its descriptors come with the first child.
    first = ctx.Process(target=barrier.reset)
    first.start()
    first.join()
    assert first.exitcode == 0
    first.close()
    descriptors = len(os.listdir("/proc/self/fd"))
    members = _native.session_info()["processes"]

    processes = [ctx.Process(target=barrier.wait) for _ in range(COUNT)]
    for process in processes:
        process.start()
    eventually(lambda: barrier.n_waiting == COUNT, "all have come", bound=60.0)
    assert _native.session_info()["processes"] >= members + COUNT
    barrier.wait(60)
    for process in processes:
        process.join()
        assert process.exitcode == 0
        process.close()

    eventually(lambda: _native.session_info()["processes"] <= members, "members are gone")
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_ten_thousand_queues_and_locks(eventually: Eventually) -> None:
    procession.Lock()
    _native.trim()
    before, fds = _native.session_info(), open_descriptors()
    things: list[Any] = [procession.Queue() for _ in range(10_000)]
    things += [procession.Lock() for _ in range(10_000)]
    for number, queue in enumerate(things[:10_000:100]):
        queue.put(number)
    assert open_descriptors() == fds
    assert _native.session_info()["objects"] == before["objects"] + 20_000
    assert [queue.get() for queue in things[:10_000:100]] == list(range(100))
    del queue
    things.clear()
    after = _native.session_info()
    assert after["objects"] == before["objects"]
    assert after["bytes_used"] <= before["bytes_used"] + 1_000_000
    _native.trim()
    resident = _native.session_info()["bytes_resident"]
    # The tables of objects stay; the memory of the objects themselves is given back.
    assert resident <= before["bytes_resident"] + 8_000_000


def put_numbers(queue: Any, start: int, stop: int) -> None:
    put = queue.put
    for number in range(start, stop):
        put(number)


def sum_numbers(queue: Any, results: Any, count: int) -> None:
    get = queue.get
    total = 0
    for _ in range(count):
        total += get()
    results.put(total)


def test_ten_million_small_messages() -> None:
    """Nothing is lost or doubled, and memory stays bounded."""
    total, parts = 10_000_000, 2
    share = total // parts
    results = FORK.Queue()
    pairs = [FORK.Queue(10_000) for _ in range(parts)]
    began = time.monotonic()
    processes = []
    for part, queue in enumerate(pairs):
        processes.append(start(FORK, put_numbers, queue, part * share, (part + 1) * share))
        processes.append(start(FORK, sum_numbers, queue, results, share))
    sums = [results.get(timeout=300) for _ in range(parts)]
    print(f"{total / (time.monotonic() - began):.0f} messages a second")
    assert sum(sums) == total * (total - 1) // 2
    finish(*processes)
    assert all(queue.empty() for queue in pairs)
    assert _native.session_info()["bytes_used"] < 50_000_000

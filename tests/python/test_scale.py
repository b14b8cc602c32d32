"""Many processes at a time, and that they leave nothing behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

import procession
from procession import _native


def report_and_wait(queue: Any, event: Any, number: int) -> None:
    queue.put(number)
    event.wait()


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_two_hundred_processes(method: str, eventually: Callable[..., None]) -> None:
    ctx = procession.get_context(method)
    queue: Any = ctx.Queue()
    event: Any = ctx.Event()
    # The fork server and its descriptors come with the first child.
    first = ctx.Process(target=report_and_wait, args=(queue, event, -1))
    event.set()
    first.start()
    first.join()
    first.close()
    assert queue.get(timeout=60) == -1
    event.clear()
    descriptors = len(os.listdir("/proc/self/fd"))
    members = _native.session_info()["processes"]

    processes = [ctx.Process(target=report_and_wait, args=(queue, event, n)) for n in range(200)]
    for process in processes:
        process.start()
    assert sorted(queue.get(timeout=60) for _ in processes) == list(range(200))
    assert _native.session_info()["processes"] >= members + 200
    event.set()
    for process in processes:
        process.join()
        assert process.exitcode == 0
        process.close()

    eventually(lambda: _native.session_info()["processes"] <= members, "members are gone")
    assert len(os.listdir("/proc/self/fd")) <= descriptors

"""Many processes at a time, and that they leave nothing behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

import procession
from procession import _native

COUNT = 200


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

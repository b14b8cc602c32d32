"""What is wrong gets a clear error: handles of others, pools of others, arguments out of range."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import pytest

import procession
from procession import _native


def square(x: int) -> int:
    return x * x


class Unpicklable:
    def __init__(self) -> None:
        self.parts = {"deep": [1, threading.Lock()]}


def in_fork(call: Any) -> str:
    """What a forked child, not one of ours, gets when it calls this."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            call()
            text = "nothing was raised"
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    assert os.waitpid(pid, 0)[1] == 0
    return text


def test_a_handle_of_another_program_is_refused() -> None:
    index, generation = procession.Event().handle()
    code = (
        "import procession\nfrom procession import _native\nprocession.Event()\n"
        f"_native.EventCore.from_handle({index}, {generation})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "OSError: the shared object belongs to another session" in done.stderr


def test_a_handle_of_an_object_that_is_gone_is_refused() -> None:
    event = procession.Event()
    index, generation = event.handle()
    del event
    with pytest.raises(OSError, match="does not exist any more"):
        _native.EventCore.from_handle(index, generation)
    with pytest.raises(RuntimeError, match="out of range"):
        _native.EventCore.from_handle(1 << 30, generation)


def test_a_handle_of_another_kind_is_refused() -> None:
    event = procession.Event()
    with pytest.raises(RuntimeError, match="event"):
        _native.QueueCore.from_handle(*event.handle())


def test_a_pool_is_used_by_its_own_process_only() -> None:
    with procession.get_context("fork").Pool(1) as pool:
        assert "RuntimeError: the pool belongs to another process" in in_fork(
            lambda: pool.map(square, [1, 2])
        )
        assert pool.map(square, [1, 2]) == [1, 4]


def test_arguments_out_of_range() -> None:
    with pytest.raises(ValueError, match="Number of processes must be at least 1"):
        procession.Pool(0)
    with procession.get_context("fork").Pool(1) as pool:
        with pytest.raises(ValueError, match=r"Chunksize must be 1\+, not -1"):
            pool.map(square, [1, 2], chunksize=-1)
        with pytest.raises(ValueError, match=r"Chunksize must be 1\+, not 0"):
            pool.imap(square, [1, 2], chunksize=0)
        with pytest.raises(ValueError, match="timeout must be positive"):
            pool.map(square, [1, 2], timeout=-1)
        with pytest.raises(ValueError, match="retries must not be negative"):
            pool.map(square, [1, 2], retries=-1)
        with pytest.raises(TypeError, match="cannot pickle") as raised:
            pool.map(square, [1, Unpicklable()])  # type: ignore[list-item]
        assert "['deep'][1] cannot be pickled" in raised.value.__notes__[0]
        assert pool.map(square, [3]) == [9], "nothing was lost"

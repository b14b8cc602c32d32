"""Arrays that were received, and what becomes of them in the children of a fork."""

from __future__ import annotations

import gc
import os
from typing import Any

import numpy as np

import procession
from procession import _native

SIZE = 100_000


def receive(queue: Any, value: float) -> Any:
    queue.put(np.full(SIZE, value))
    return queue.get(timeout=60)


def test_a_received_array_is_writable_and_gives_its_block_back() -> None:
    queue: Any = procession.Queue()
    receive(queue, 0)
    gc.collect()
    before = _native.session_info()["bytes_used"]
    array = receive(queue, 1)
    assert _native.session_info()["bytes_used"] > before
    array[:] = 5
    view = array[10:20]
    del array
    gc.collect()
    assert (view == 5).all()
    del view
    gc.collect()
    assert _native.session_info()["bytes_used"] == before


def check_in_child(array: Any, here: Any, there: Any) -> None:
    here.put(float(array.sum()))
    there.get(timeout=60)
    # Meanwhile the parent has dropped its array and filled others.
    array[0] += 1
    here.put(float(array.sum()))


def test_a_forked_child_keeps_what_its_parent_drops() -> None:
    ctx = procession.get_context("fork")
    queue: Any = ctx.Queue()
    here: Any = ctx.Queue()
    there: Any = ctx.Queue()
    array = receive(queue, 3)
    process = ctx.Process(target=check_in_child, args=(array, here, there))
    process.start()
    assert here.get(timeout=60) == 3 * SIZE
    del array
    gc.collect()
    others = [receive(queue, 7) for _ in range(5)]
    there.put(None)
    assert here.get(timeout=60) == 3 * SIZE + 1
    process.join()
    assert all((o == 7).all() for o in others)


def test_a_forked_child_writes_to_a_copy() -> None:
    queue: Any = procession.Queue()
    array = receive(queue, 3)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        array[:] = 9
        os.write(writer, b"x")
        os._exit(0)
    assert os.read(reader, 1) == b"x"
    os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)
    assert (array == 3).all()

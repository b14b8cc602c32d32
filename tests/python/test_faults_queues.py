"""Writers and readers that die in the middle of it: the others get whole messages, and go on."""

from __future__ import annotations

import os
import queue as stdlib_queue
import signal
from collections.abc import Callable
from typing import Any

import pytest

from children import finish, start
from procession import _native

Eventually = Callable[..., None]

HUGE = 200_000_000


# ----------------------------------------------------------------------- run in child processes


def put_huge(queue: Any, started: Any) -> None:
    data = b"x" * HUGE
    started.set()
    while True:
        queue.put(data)


def send_huge(end: Any, started: Any) -> None:
    data = b"x" * HUGE
    started.set()
    while True:
        end.send_bytes(data)


def report_lengths(queue: Any, results: Any) -> None:
    while (item := queue.get()) is not None:
        results.put(len(item))


def report_one(queue: Any, started: Any, results: Any) -> None:
    started.release()
    results.put((os.getpid(), queue.get()))


def put_many(queue: Any, count: int, size: int) -> None:
    for i in range(count):
        queue.put((i, b"x" * size))


def kill(*processes: Any) -> None:
    for process in processes:
        process.kill()
    finish(*processes, status=-signal.SIGKILL)


def used() -> int:
    return int(_native.session_info()["bytes_used"])


def drained(queue: Any) -> list[Any]:
    found = []
    while True:
        try:
            found.append(queue.get(timeout=1))
        except stdlib_queue.Empty:
            return found


def receive_to_the_end(reader: Any) -> None:
    for _ in range(10_000):
        assert len(reader.recv_bytes()) == HUGE


def copying(before: int, queue: Any) -> Callable[[], bool]:
    """The copy of a huge message into the session has begun."""
    return lambda: used() > before + HUGE // 2 or not queue.empty()


# ----------------------------------------------------------------------------------------- writers


def test_a_producer_killed_in_a_huge_put(ctx: Any, eventually: Eventually) -> None:
    queue, results, started = ctx.Queue(), ctx.Queue(), ctx.Event()
    before = used()
    # Blocked in get() all the time.
    consumer = start(ctx, report_lengths, queue, results)
    producer = start(ctx, put_huge, queue, started)
    assert started.wait(60)
    eventually(copying(before, queue))
    kill(producer)
    # Nobody is blocked, and what comes is whole.
    queue.put(b"after")
    lengths = []
    while not lengths or lengths[-1] != 5:
        lengths.append(results.get(timeout=60))
    assert set(lengths[:-1]) <= {HUGE}
    queue.put(None)
    finish(consumer)
    with pytest.raises(stdlib_queue.Empty):
        queue.get(timeout=1)
    _native.sweep()
    eventually(lambda: used() < before + 10_000_000, "the memory has come back")


def test_a_writer_killed_in_a_huge_send(ctx: Any, eventually: Eventually) -> None:
    reader, writer = ctx.Pipe(duplex=False)
    started = ctx.Event()
    before = used()
    process = start(ctx, send_huge, writer, started)
    writer.close()
    assert started.wait(60)
    eventually(lambda: used() > before + HUGE // 2)
    kill(process)
    # At most the messages that it had sent, and each as a whole.
    with pytest.raises(EOFError):
        receive_to_the_end(reader)
    reader.close()
    _native.sweep()
    eventually(lambda: used() < before + 10_000_000, "the memory has come back")


def test_many_producers_are_killed_one_by_one(ctx: Any) -> None:
    queue = ctx.Queue()
    producers = [start(ctx, put_many, queue, 1_000_000, size) for size in (10, 40_000)]
    got: dict[int, list[int]] = {10: [], 40_000: []}
    for producer in producers:
        for _ in range(200):
            i, data = queue.get(timeout=60)
            got[len(data)].append(i)
        kill(producer)
    for i, data in drained(queue):
        got[len(data)].append(i)
    # What each has put is there without a gap, in its order.
    for numbers in got.values():
        assert numbers == list(range(len(numbers)))
    queue.put("after")
    assert queue.get(timeout=1) == "after"


# ----------------------------------------------------------------------------------------- readers


def test_a_consumer_killed_in_a_blocked_get(ctx: Any) -> None:
    queue, results, started = ctx.Queue(), ctx.Queue(), ctx.Semaphore(0)
    victims = [start(ctx, report_one, queue, started, results) for _ in range(2)]
    other = start(ctx, report_one, queue, started, results)
    for _ in range(3):
        assert started.acquire(timeout=60)
    kill(*victims)
    # The message is not for the dead.
    queue.put("message")
    assert results.get(timeout=60) == (other.pid, "message")
    finish(other)


def test_a_consumer_killed_while_it_takes_huge_messages(ctx: Any, eventually: Eventually) -> None:
    queue, results = ctx.Queue(), ctx.Queue()
    before = used()
    victim = start(ctx, report_lengths, queue, results)
    for _ in range(4):
        queue.put(b"x" * (HUGE // 4))
    # It is somewhere between its first and its last.
    assert results.get(timeout=60) == HUGE // 4
    kill(victim)
    assert {len(item) for item in drained(queue)} <= {HUGE // 4}
    _native.sweep()
    eventually(lambda: used() < before + 10_000_000, "the memory has come back")
    queue.put("after")
    assert queue.get(timeout=1) == "after"
    with pytest.raises(stdlib_queue.Empty):
        queue.get(timeout=1)


# -------------------------------------------------------------------------------------------- ends


@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue", "JoinableQueue"])
def test_a_process_is_joined_before_its_queue_is_drained(kind: str, ctx: Any) -> None:
    queue = getattr(ctx, kind)()
    process = start(ctx, put_many, queue, 300, 100_000)
    finish(process)
    assert [queue.get()[0] for _ in range(300)] == list(range(300))
    assert queue.empty()

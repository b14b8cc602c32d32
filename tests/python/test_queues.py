"""Queues: what goes in comes out, once, in order, whoever dies meanwhile."""

from __future__ import annotations

import array
import os
import queue as stdlib_queue
import signal
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import procession
from children import finish, start
from procession import _native, connection

Eventually = Callable[..., None]

FORK = procession.get_context("fork")


# ----------------------------------------------------------------------- run in child processes


def put_all(queue: Any, items: list[Any]) -> None:
    for item in items:
        queue.put(item)


def put_range(queue: Any, start: int, count: int) -> None:
    for i in range(start, start + count):
        queue.put(i)


def forward(source: Any, target: Any) -> None:
    """Until a None comes."""
    while (item := source.get()) is not None:
        target.put((os.getpid(), item))


def echo_once(source: Any, target: Any) -> None:
    target.put(source.get())


def work(queue: Any, done: Any) -> None:
    while (item := queue.get()) is not None:
        done.put(item)
        queue.task_done()
    queue.task_done()


def put_through(carrier: Any, item: Any) -> None:
    carrier.get().put(item)


def put_forever(queue: Any, item: Any, started: Any) -> None:
    started.set()
    while True:
        queue.put(item)


def get_forever(queue: Any, started: Any) -> None:
    started.set()
    while True:
        queue.get()


# ---------------------------------------------------------------------------------- in one process

SIMPLE = [
    None,
    True,
    False,
    0,
    -(2**63),
    2**63,
    2**200,
    1.5,
    float("inf"),
    "",
    "grüße",
    "\ud800",
    b"",
    b"x" * 100_000,
    "y" * 100_000,
    (),
    (1, "a", None, 2.5, b"z"),
    tuple(range(40)),
    ("nested", (1, 2)),
    [1, 2, 3],
    {"key": {"inner": [1]}},
    frozenset({1, 2}),
    array.array("d", [1.0, 2.0]),
    bytearray(b"abc"),
    Counter("abca"),
    stdlib_queue.Empty,
    len,
]


@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue", "JoinableQueue"])
def test_objects_survive_unchanged(kind: str) -> None:
    queue = getattr(procession, kind)()
    for item in SIMPLE:
        queue.put(item)
    for item in SIMPLE:
        got = queue.get()
        assert got == item
        assert type(got) is type(item)
    assert queue.empty()


def test_put_takes_a_snapshot() -> None:
    queue = procession.Queue()
    item = [1]
    queue.put(item)
    item.append(2)
    assert queue.get() == [1]


def test_order_is_kept_across_all_sizes() -> None:
    queue = procession.Queue()
    sizes = [0, 1, 100, 5_000, 40_000, 1 << 20, 3] * 20
    for number, size in enumerate(sizes):
        queue.put((number, b"x" * size))
    for number, size in enumerate(sizes):
        got, data = queue.get(timeout=10)
        assert got == number
        assert len(data) == size


def test_maxsize() -> None:
    queue = procession.Queue(2)
    assert not queue.full()
    queue.put(1)
    queue.put(2, block=False)
    assert queue.full()
    assert queue.qsize() == 2
    with pytest.raises(stdlib_queue.Full):
        queue.put(3, block=False)
    with pytest.raises(stdlib_queue.Full):
        queue.put_nowait(3)
    with pytest.raises(stdlib_queue.Full):
        queue.put(3, timeout=0.01)
    with pytest.raises(stdlib_queue.Full):
        queue.put(3, timeout=-1)
    assert queue.get() == 1
    queue.put(3)
    assert [queue.get(), queue.get()] == [2, 3]


def test_get_in_time_or_not_at_all() -> None:
    queue = procession.Queue()
    for options in ({"block": False}, {"timeout": 0.01}, {"timeout": 0}, {"timeout": -1}):
        with pytest.raises(stdlib_queue.Empty):
            queue.get(**options)
    with pytest.raises(stdlib_queue.Empty):
        queue.get_nowait()


def test_a_getter_is_woken_by_a_put() -> None:
    queue = procession.Queue()
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(queue.get()))
    thread.start()
    queue.put("here")
    thread.join(20)
    assert got == ["here"]


def test_a_putter_is_woken_by_a_get() -> None:
    queue = procession.Queue(1)
    queue.put(1)
    thread = threading.Thread(target=queue.put, args=(2,))
    thread.start()
    assert queue.get() == 1
    assert queue.get(timeout=20) == 2
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])
def test_after_close(kind: str) -> None:
    queue = getattr(procession, kind)()
    queue.put(1)
    queue.close()
    queue.close()
    queue.join_thread()
    with pytest.raises(ValueError, match="is closed"):
        queue.put(1)
    with pytest.raises(ValueError, match="is closed"):
        queue.get()
    with pytest.raises(OSError, match="is closed"):
        queue.empty()


def test_close_before_use_and_join_thread_before_close() -> None:
    queue = procession.Queue()
    with pytest.raises(AssertionError):
        queue.join_thread()
    queue.cancel_join_thread()
    queue.close()
    assert queue.empty()


def test_simple_queue_after_close() -> None:
    queue = procession.SimpleQueue()
    queue.close()
    with pytest.raises(OSError, match="closed"):
        queue.put(1)
    with pytest.raises(OSError, match="closed"):
        queue.get()
    with pytest.raises(OSError, match="closed"):
        queue.empty()


def test_closing_is_for_this_process_only(ctx: Any) -> None:
    queue = ctx.Queue()
    process = start(ctx, put_all, queue, [1, 2])
    finish(process)
    other = ctx.Queue()
    child = start(ctx, forward, queue, other)
    queue.put(None)
    queue.close()
    pid = other.get(timeout=20)[0]
    assert pid == child.pid
    assert other.get(timeout=20) == (pid, 2)
    finish(child)


def test_task_done_and_join(ctx: Any) -> None:
    queue, done = ctx.JoinableQueue(), ctx.Queue()
    workers = [start(ctx, work, queue, done) for _ in range(3)]
    for item in range(50):
        queue.put(item)
    queue.join()
    # All are done when join() returns, and everything that was put before is there.
    assert sorted(done.get(timeout=0) for _ in range(50)) == list(range(50))
    for _ in workers:
        queue.put(None)
    queue.join()
    finish(*workers)
    with pytest.raises(ValueError, match="too many times"):
        queue.task_done()


def test_join_waits_for_the_last_task() -> None:
    queue = procession.JoinableQueue()
    queue.put(1)
    thread = threading.Thread(target=queue.join)
    thread.start()
    assert queue.get() == 1
    thread.join(0.05)
    assert thread.is_alive()
    queue.task_done()
    thread.join(20)
    assert not thread.is_alive()


# ------------------------------------------------------------------------------ between processes


def test_many_producers_and_consumers(ctx: Any) -> None:
    tasks, results = ctx.Queue(20), ctx.Queue()
    consumers = [start(ctx, forward, tasks, results) for _ in range(3)]
    producers = [start(ctx, put_range, tasks, n * 200, 200) for n in range(3)]
    got = [results.get(timeout=30) for _ in range(600)]
    assert sorted(item for _, item in got) == list(range(600))
    for n in range(3):
        # Whatever the interleaving, what one producer put was taken in its order by each consumer.
        for consumer in consumers:
            seen = [i for pid, i in got if pid == consumer.pid and n * 200 <= i < (n + 1) * 200]
            assert seen == sorted(seen)
    finish(*producers)
    put_all(tasks, [None] * 3)
    finish(*consumers)


def test_join_before_drain(ctx: Any) -> None:
    queue = ctx.Queue()
    process = start(ctx, put_all, queue, [b"x" * 1_000_000] * 20)
    finish(process)
    assert queue.qsize() == 20
    for _ in range(20):
        assert len(queue.get(timeout=10)) == 1_000_000


def test_what_was_put_survives_a_kill(ctx: Any, eventually: Eventually) -> None:
    queue, started = ctx.Queue(100), ctx.Event()
    process = start(ctx, put_forever, queue, "item", started)
    eventually(queue.full)
    process.kill()
    finish(process, status=-signal.SIGKILL)
    assert [queue.get(timeout=10) for _ in range(100)] == ["item"] * 100
    # One put may have been on its way; afterwards the queue is as good as new.
    while True:
        try:
            assert queue.get(timeout=0) == "item"
        except stdlib_queue.Empty:
            break
    queue.put("after")
    assert queue.get(timeout=1) == "after"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_killed_in_the_middle_of_a_huge_put(method: str, eventually: Eventually) -> None:
    ctx = procession.get_context(method)
    queue, started = ctx.Queue(), ctx.Event()
    used = _native.session_info()["bytes_used"]
    process = ctx.Process(target=put_forever, args=(queue, b"x" * 200_000_000, started))
    process.start()
    assert started.wait(30)
    # The copy into the session has begun, and is not finished.
    eventually(
        lambda: _native.session_info()["bytes_used"] > used + 150_000_000 or queue.qsize() > 0
    )
    process.kill()
    finish(process, status=-signal.SIGKILL)
    # Whole messages or none.
    while True:
        try:
            assert len(queue.get(timeout=1)) == 200_000_000
        except stdlib_queue.Empty:
            break
    queue.put("after")
    assert queue.get(timeout=1) == "after"
    _native.sweep()
    eventually(lambda: _native.session_info()["bytes_used"] < used + 10_000_000)


def test_a_killed_consumer_takes_nobody_with_it(ctx: Any, eventually: Eventually) -> None:
    queue, started = ctx.Queue(), ctx.Event()
    consumers = [start(ctx, get_forever, queue, started) for _ in range(2)]
    assert started.wait(30)
    for i in range(2000):
        queue.put(i)
        if i == 1000:
            for consumer in consumers:
                consumer.kill()
    finish(*consumers, status=-signal.SIGKILL)
    left = []
    while True:
        try:
            left.append(queue.get(timeout=1))
        except stdlib_queue.Empty:
            break
    # What is left is the end of what was put, without a gap.
    assert left == list(range(2000 - len(left), 2000))
    assert len(left) >= 998
    queue.put("after")
    assert queue.get(timeout=1) == "after"


def test_a_stopped_consumer_does_not_block_the_others(ctx: Any) -> None:
    queue, results = ctx.Queue(), ctx.Queue()
    stopped = start(ctx, forward, queue, results)
    os.kill(stopped.pid, signal.SIGSTOP)
    try:
        other = start(ctx, forward, queue, results)
        queue.put(1)
        queue.put(2)
        got = {results.get(timeout=20)[1]}
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
    got.add(results.get(timeout=20)[1])
    assert got == {1, 2}
    put_all(queue, [None, None])
    finish(stopped, other)


def test_queues_through_queues(ctx: Any) -> None:
    carrier, target = ctx.Queue(), ctx.Queue()
    process = start(ctx, put_through, carrier, "hello")
    carrier.put(target)
    assert target.get(timeout=20) == "hello"
    finish(process)


def test_a_queue_lives_in_a_message_alone() -> None:
    carrier, inner = FORK.Queue(), FORK.Queue()
    before = _native.session_info()["objects"]
    inner.put("kept")
    carrier.put(inner)
    del inner
    assert _native.session_info()["objects"] == before
    assert carrier.get().get(timeout=1) == "kept"
    assert _native.session_info()["objects"] == before - 1


def test_a_queue_that_holds_itself_is_given_back() -> None:
    before = _native.session_info()["objects"]
    queue = FORK.Queue()
    queue.put(queue)
    assert queue.get() is not queue
    del queue
    assert _native.session_info()["objects"] == before


def test_shared_objects_cannot_be_pickled_elsewhere() -> None:
    import pickle

    with pytest.raises(RuntimeError, match="should only be shared between processes"):
        pickle.dumps(procession.Queue())


def test_fork_context_queues_are_refused_by_spawned_children() -> None:
    ctx = procession.get_context("spawn")
    process = ctx.Process(target=put_all, args=(FORK.Queue(), []))
    with pytest.raises(RuntimeError, match="created in a fork context"):
        process.start()


# ------------------------------------------------------------------------------- waiting for them


def test_wait_for_readers_and_descriptors() -> None:
    first, second = procession.Queue(), procession.SimpleQueue()
    reader, writer = os.pipe()
    try:
        objects = [first._reader, second._reader, reader]
        assert connection.wait(objects, 0) == []
        second.put(1)
        assert connection.wait(objects, 20) == [second._reader]
        first.put(1)
        os.write(writer, b"x")
        assert connection.wait(objects, 20) == objects
    finally:
        os.close(reader)
        os.close(writer)


def test_a_ring_for_what_another_took_is_not_readiness() -> None:
    """Another process takes what this one was told of: it neither returns it nor spins."""
    queue, taken = FORK.Queue(), FORK.Queue()
    reader, writer = os.pipe()
    try:
        queue.fileno()
        queue.put(1)
        process = start(FORK, echo_once, queue, taken)
        assert taken.get(timeout=20) == 1
        finish(process)
        assert connection.wait([queue._reader, reader], 0.05) == []
        # The rings were taken: the descriptor is quiet until something comes.
        assert connection.wait([queue.fileno()], 0) == []
        queue.put(2)
        assert connection.wait([queue._reader, reader], 20) == [queue._reader]
        assert connection.wait([queue.fileno()], 20) == [queue.fileno()]
        assert queue.get() == 2
        assert connection.wait([queue.fileno()], 0) == []
    finally:
        os.close(reader)
        os.close(writer)


def test_signals_interrupt_a_get() -> None:
    class Interrupted(Exception):
        pass

    def handler(signum: int, frame: object) -> None:
        raise Interrupted

    old = signal.signal(signal.SIGUSR1, handler)
    try:
        queue = procession.Queue()
        main = threading.get_ident()
        timer = threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGUSR1))
        timer.start()
        with pytest.raises(Interrupted):
            queue.get()
        timer.join()
        queue.put(1)
        assert queue.get(timeout=1) == 1
    finally:
        signal.signal(signal.SIGUSR1, old)

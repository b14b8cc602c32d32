"""Queues and pipes between two or more processes that run."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
from peers import package
from rows import BOTH, FIFO, MP, OURS, Row, add, ratio

SECTION = "Queues and pipes"
now = time.perf_counter


def _produce(queue: Any, value: Any, count: int, start: Any) -> None:
    start.wait()
    for _ in range(count):
        queue.put(value)


def _consume(queue: Any, count: int, done: Any) -> None:
    for _ in range(count):
        queue.get()
    done.put(None)


class _Patient:
    """A queue of faster-fifo, which gives up by itself, with the waits of the other queues."""

    def __init__(self, queue: Any) -> None:
        self.queue = queue

    def put(self, value: Any) -> None:
        self.queue.put(value, True, 60.0)

    def get(self) -> Any:
        return self.queue.get(True, 60.0)


def _queue_of(library: str) -> tuple[Any, Any]:
    """The package whose processes are used, and a queue."""
    if library == FIFO:
        import faster_fifo

        # Large enough that no producer is kept waiting, as those of the other queues are not.
        return package(MP), _Patient(faster_fifo.Queue(512 << 20))
    mp = package(library)
    mp.set_start_method("fork", force=True)
    return mp, mp.Queue()


def stream(library: str, value: Any, count: int, producers: int = 1, consumers: int = 1) -> float:
    """Seconds for each message, from the start of the first put to the last get."""
    mp, queue = _queue_of(library)
    mp.set_start_method("fork", force=True)
    start, done = mp.Event(), mp.Queue()
    share = count // producers
    makers = [
        mp.Process(target=_produce, args=(queue, value, share, start)) for _ in range(producers)
    ]
    takers = [
        mp.Process(target=_consume, args=(queue, count // consumers, done))
        for _ in range(consumers if consumers > 1 else 0)
    ]
    for process in makers + takers:
        process.start()
    get = queue.get
    start.set()
    began = now()
    if takers:
        for _ in takers:
            done.get()
    else:
        for _ in range(count):
            get()
    seconds = now() - began
    for process in makers + takers:
        process.join()
    return seconds / count


def _produce_on_request(queue: Any, megabytes: int, count: int, go: Any) -> None:
    array = np.ones(megabytes * 131_072)
    for _ in range(count):
        go.get()
        queue.put(array)


def large(library: str, megabytes: int = 100, count: int = 7) -> float:
    """Seconds from the wish for a large array to having it; the first ones warm the memory up."""
    mp, queue = _queue_of(library)
    go = mp.Queue()
    process = mp.Process(target=_produce_on_request, args=(queue, megabytes, count, go))
    process.start()
    times = []
    for _ in range(count):
        began = now()
        go.put(None)
        array = queue.get()
        assert array[0] == array[-1] == 1
        times.append(now() - began)
        del array
    process.join()
    return statistics.median(times[2:])


def _echo(conn: Any) -> None:
    while (got := conn.recv()) is not None:
        conn.send(got)


def round_trips(library: str, count: int = 10_000, limit: float = 10.0) -> float:
    """Seconds for an int there and back, the other side running; no longer than the limit."""
    mp = package(library)
    mp.set_start_method("fork", force=True)
    here, there = mp.Pipe()
    process = mp.Process(target=_echo, args=(there,))
    process.start()
    send, recv = here.send, here.recv
    for i in range(min(2000, count)):
        send(i)
        recv()
    done, began = 0, now()
    while done < count and now() - began < limit:
        for i in range(20):
            send(i)
            recv()
        done += 20
    seconds = now() - began
    send(None)
    process.join()
    return seconds / done


def _row(name: str, title: str, goal: float, value: Any, count: int, touch: int = 0) -> None:
    def run(library: str) -> float:
        if touch:
            # What holds large messages is made by the first ones and used again by the next.
            stream(library, value, count)
        return stream(library, value, count)

    add(Row(name, title, SECTION, run, (MP, OURS, FIFO), ratio(goal), touch=touch))


_row("queue-int", "`Queue` 1:1, int", 20, 12345, 60_000)
_row("queue-tuple", "`Queue` 1:1, tuple of 3", 6, (1, "two", 3.0), 60_000)
_row("queue-1k", "`Queue` 1:1, 1 KB bytes", 12, b"x" * 1024, 60_000)
_row("queue-64k", "`Queue` 1:1, 64 KB bytes", 7, b"x" * 65_536, 5_000, 400)
_row("queue-array-1k", "`Queue` 1:1, 1 KB array", 5, np.zeros(128), 30_000)
_row("queue-array-1m", "`Queue` 1:1, 1 MB array", 30, np.ones(131_072), 300, 800)
add(
    Row(
        "queue-array-100m",
        "`Queue` 1:1, 100 MB array",
        SECTION,
        large,
        (MP, OURS, FIFO),
        ratio(20),
        touch=800,
    )
)
add(
    Row(
        "queue-4-4",
        "`Queue` 4:4, int",
        SECTION,
        lambda library: stream(library, 12345, 80_000, 4, 4),
        (MP, OURS, FIFO),
        ratio(15),
    )
)
add(Row("pipe", "`Pipe` round trip, int", SECTION, round_trips, BOTH, ratio(20)))

"""Managers: what a client of this program does with a manager's dict, list and `Value`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from peers import package
from rows import BOTH, MP, Row, add, ratio

SECTION = "Managers"
now = time.perf_counter


def rounds(library: str) -> int:
    """Operations for a measurement: a round trip is as much work as many looks at memory."""
    return 5_000 if library == MP else 100_000


def get(shared: Any, count: int) -> None:
    """Read one key again and again."""
    for _ in range(count):
        shared["key"]


def put(shared: Any, count: int) -> None:
    """Write one key again and again."""
    for i in range(count):
        shared["key"] = i


def text(shared: Any, count: int) -> None:
    """Write and read a text of 1 KB."""
    value = "x" * 1024
    for _ in range(count // 2):
        shared["text"] = value
        shared["text"]


def records(shared: Any, count: int) -> None:
    """Write and read a small dict."""
    value = {"name": "value", "numbers": [1, 2, 3]}
    for _ in range(count // 2):
        shared["record"] = value
        shared["record"]


def one_client(work: Callable[[Any, int], None]) -> Callable[[str], float]:
    """Seconds for each operation, where nobody else is at it."""

    def run(library: str) -> float:
        count = rounds(library)
        with package(library).Manager() as manager:
            shared = manager.dict(key=0)
            work(shared, 200)
            began = now()
            work(shared, count)
            return (now() - began) / count

    return run


def client(work: Callable[[Any, int], None], shared: Any, count: int, ready: Any, go: Any) -> None:
    """One of two clients."""
    work(shared, 200)
    ready.release()
    go.wait()
    work(shared, count)


def two_clients(work: Callable[[Any, int], None]) -> Callable[[str], float]:
    """Seconds for each operation of all, where two processes are at the same key."""

    def run(library: str) -> float:
        ctx, count = package(library), rounds(library)
        ready, go = ctx.Semaphore(0), ctx.Event()
        with ctx.Manager() as manager:
            shared = manager.dict(key=0)
            clients = [
                ctx.Process(target=client, args=(work, shared, count, ready, go)) for _ in range(2)
            ]
            for process in clients:
                process.start()
            for _ in clients:
                ready.acquire()
            began = now()
            go.set()
            for process in clients:
                process.join()
            return (now() - began) / (2 * count)

    return run


def append(library: str) -> float:
    """Seconds for an append to a list."""
    count = rounds(library)
    with package(library).Manager() as manager:
        shared = manager.list()
        began = now()
        for i in range(count):
            shared.append(i)
        return (now() - began) / count


def increment(library: str) -> float:
    """Seconds for an increment of a value, which is a get and a set, under a lock."""
    ctx, count = package(library), rounds(library) // 2
    lock = ctx.Lock()
    with ctx.Manager() as manager:
        shared = manager.Value("i", 0)
        began = now()
        for _ in range(count):
            with lock:
                shared.value += 1
        seconds = now() - began
        if shared.value != count:
            raise RuntimeError(f"{count} increments made {shared.value}")
    return seconds / count


def row(name: str, title: str, run: Callable[[str], float]) -> None:
    """Enter a row: all of them have one goal."""
    add(Row(name, title, SECTION, run, BOTH, ratio(20)))


row("manager-get", "`Manager().dict()`: get", one_client(get))
row("manager-set", "`Manager().dict()`: set", one_client(put))
row("manager-get-two", "`Manager().dict()`: get, by two clients", two_clients(get))
row("manager-set-two", "`Manager().dict()`: set, by two clients", two_clients(put))
row("manager-text", "`Manager().dict()`: set or get, 1 KB `str`", one_client(text))
row("manager-record", "`Manager().dict()`: set or get, small `dict`", one_client(records))
row("manager-append", "`Manager().list()`: append", append)
row("manager-value", "`Manager().Value()`: increment under a `Lock`", increment)

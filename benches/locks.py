"""Locks that nobody else wants."""

from __future__ import annotations

import time

from peers import package
from rows import BOTH, Row, add, ratio

SECTION = "Locks"
COUNT = 300_000
now = time.perf_counter


def acquire_and_release(library: str) -> float:
    """Seconds for a pair of calls."""
    lock = package(library).Lock()
    acquire, release = lock.acquire, lock.release
    began = now()
    for _ in range(COUNT):
        acquire()
        release()
    return (now() - began) / COUNT


def with_statement(library: str) -> float:
    """Seconds for an empty `with`."""
    lock = package(library).Lock()
    began = now()
    for _ in range(COUNT):
        with lock:
            pass
    return (now() - began) / COUNT


add(
    Row(
        "lock-calls",
        "`Lock`: `acquire()` and `release()`",
        SECTION,
        acquire_and_release,
        BOTH,
        ratio(0.8),
    )
)
add(Row("lock-with", "`Lock`: `with`", SECTION, with_statement, BOTH, ratio(1.5)))

"""Queues that are made of a pipe of the system, locks and a thread.

Ours are not.  But there are libraries (loky, and with it joblib's default backend) that derive
their queues from the standard library's and replace the parts: they bring the thread that sends,
how a queue is passed on, locks of their own, and processes that never join a session.  Such a class
gets the base that it expects; which classes these are is decided in ``queues``.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from queue import Empty, Full
from typing import Any

from . import util
from ._connection_base import Connection
from .queues import Queue, SimpleQueue, _sentinel
from .reduction import ForkingPickler

__all__ = ["PartsQueue", "PartsSimpleQueue"]


def _pipe() -> tuple[Connection, Connection]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    return Connection(reader, writable=False), Connection(writer, readable=False)


class PartsQueue(Queue[Any]):
    """A queue whose subclass brings ``_start_thread``, which sends what is in ``_buffer``."""

    # The native queue has properties of these names.
    _reader: Any = None
    _writer: Any = None
    _closed = False
    _close: Any = None

    def __init__(self, maxsize: int = 0, *, ctx: Any) -> None:
        self._maxsize = maxsize if maxsize > 0 else 2**31 - 1
        self._reader, self._writer = _pipe()
        self._rlock, self._wlock = ctx.Lock(), ctx.Lock()
        self._sem = ctx.BoundedSemaphore(self._maxsize)
        self._opid = os.getpid()
        self._ignore_epipe = False
        self._reset()

    def _reset(self, after_fork: bool = False) -> None:
        """Start with nothing in hand; called wherever the queue arrives."""
        self._notempty = threading.Condition(threading.Lock())
        self._buffer: deque[Any] = deque()
        self._thread: threading.Thread | None = None
        self._jointhread: Any = None
        self._joincancelled = self._closed = False
        self._close = None
        self._send_bytes, self._recv_bytes = self._writer.send_bytes, self._reader.recv_bytes
        self._poll = self._reader.poll
        if not after_fork:
            util.register_after_fork(self, PartsQueue._after_fork)

    def _after_fork(self) -> None:
        self._reset(after_fork=True)

    def _start_thread(self) -> None:
        raise NotImplementedError("a class derived from this one brings its thread")

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        """Hand an object to the thread."""
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")
        if not self._sem.acquire(block, timeout):
            raise Full
        with self._notempty:
            if self._thread is None:
                self._start_thread()
            self._buffer.append(obj)
            self._notempty.notify()

    def put_nowait(self, obj: Any) -> None:
        """Hand an object to the thread, unless the queue is full."""
        self.put(obj, False)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the oldest object out, waiting for it."""
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._rlock.acquire(block, timeout):
            raise Empty
        try:
            if not block or deadline is not None:
                remaining = max(deadline - time.monotonic(), 0.0) if block and deadline else 0.0
                if not self._poll(remaining):
                    raise Empty
            message = self._recv_bytes()
            self._sem.release()
        finally:
            self._rlock.release()
        return ForkingPickler.loads(message)

    def get_nowait(self) -> Any:
        """Take the oldest object out, if there is one."""
        return self.get(False)

    def qsize(self) -> int:
        """How many objects are in the queue or on their way into it."""
        return int(self._maxsize - self._sem._semlock._get_value())

    def empty(self) -> bool:
        """Is there nothing to get?"""
        return not self._poll(0.0)

    def full(self) -> bool:
        """Is there no room?"""
        return bool(self._sem._semlock._is_zero())

    def close(self) -> None:
        """This process will put and get no more."""
        self._closed = True
        self._reader.close()
        close, self._close = self._close, None
        if close is not None:
            close()

    def join_thread(self) -> None:
        """Wait until the thread has sent everything."""
        assert self._closed, f"Queue {self!r} not closed"
        if self._jointhread is not None:
            self._jointhread()

    def cancel_join_thread(self) -> None:
        """Do not wait for the thread when this process exits."""
        self._joincancelled = True
        if self._jointhread is not None:
            self._jointhread.cancel()

    def _terminate_broken(self) -> None:
        # The thread may be stuck in a full pipe that nobody reads any more.
        self._reader.close()
        self.close()
        self.join_thread()

    @staticmethod
    def _finalize_join(thread: Any) -> None:
        thread = thread()
        if thread is not None:
            thread.join()

    @staticmethod
    def _finalize_close(buffer: deque[Any], notempty: threading.Condition) -> None:
        with notempty:
            buffer.append(_sentinel)
            notempty.notify()


class PartsSimpleQueue(SimpleQueue[Any]):
    """A queue whose subclass sends through ``_writer`` itself, and passes on its parts."""

    _reader: Any = None
    _writer: Any = None

    def __init__(self, *, ctx: Any) -> None:
        self._reader, self._writer = _pipe()
        self._rlock, self._wlock = ctx.Lock(), ctx.Lock()

    def put(self, obj: Any) -> None:  # type: ignore[override]
        """Put an object in."""
        message = ForkingPickler.dumps(obj)
        with self._wlock:
            self._writer.send_bytes(message)

    def get(self) -> Any:  # type: ignore[override]
        """Take the oldest object out, waiting for it."""
        with self._rlock:
            message = self._reader.recv_bytes()
        return ForkingPickler.loads(message)

    def empty(self) -> bool:
        """Is there nothing to get?"""
        return not self._reader.poll(0.0)

    def close(self) -> None:
        """This process will put and get no more."""
        self._reader.close()
        self._writer.close()

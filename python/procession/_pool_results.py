"""What the asynchronous methods of pools return."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from ._pool_inputs import Input
from .context import TimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._pool_futures import SharedFuture

__all__ = [
    "ApplyResult",
    "AsyncResult",
    "IMapIterator",
    "IMapUnorderedIterator",
    "MapResult",
    "job_counter",
]

# Numbers what this process has asked pools for.
job_counter = itertools.count()


class ApplyResult:
    """The result of one call, which may still be under way.

    There is no thread that fetches results: whoever waits for one does it, for all.  It can be
    sent to other processes of the program, and be waited for and cancelled there.
    """

    def __init__(
        self,
        pool: Any,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> None:
        self._pool = pool
        self._number = next(job_counter)
        self._done = False
        self._success = False
        self._value: Any = None
        self._callback = callback
        self._error_callback = error_callback
        # It has come, and its callback is to be called before it is told.
        self._handed = False
        # Of those who wait for another thread to bring it.
        self._waiters: list[threading.Event] = []
        # Where a pool of processes finds it, and what it is called for an error to name it.
        self._key: Any = None
        self._func: Any = None
        # Stands for this result in other processes, once it was sent to one.
        self._future: SharedFuture | None = None

    def __repr__(self) -> str:
        cls = type(self)
        state = "pending" if not self._done else "done" if self._success else "failed"
        return f"<{cls.__module__}.{cls.__qualname__} {self._number} {state} at {id(self):#x}>"

    def __reduce__(self) -> Any:
        from . import _pool_futures

        return _pool_futures.pass_on(self)

    def _advance(self) -> None:
        """Look for results without waiting."""
        if not self._done:
            self._pool._drive(self, 0.0)

    def ready(self) -> bool:
        """Is the call finished?"""
        self._advance()
        return self._done

    def successful(self) -> bool:
        """Has the call returned without an exception?"""
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._success

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the call to finish."""
        if not self._done:
            self._pool._drive(self, timeout)

    def get(self, timeout: float | None = None) -> Any:
        """Return the call's result, or raise its exception."""
        if not self._done:
            self._pool._drive(self, timeout)
            if not self._done:
                raise TimeoutError
        if self._success:
            return self._value
        raise self._value

    def cancel(self) -> bool:
        """Stop the call, even if it is running; false if it had finished already."""
        if self._done:
            return False
        return bool(self._pool._cancel(self))

    def _has_come(self) -> bool:
        """Is the outcome here, whether its callback has been called or not?"""
        return self._done or self._handed

    def _has_callback(self, success: bool) -> bool:
        return (self._callback if success else self._error_callback) is not None

    def _set(self, success: bool, value: Any) -> None:
        if self._done:
            return
        self._success, self._value = success, value
        callback = self._callback if success else self._error_callback
        try:
            if callback is not None:
                callback(value)
        finally:
            self._done = True
            self._callback = self._error_callback = self._func = None
            for waiter in list(self._waiters):
                waiter.set()
            # The result does not keep the pool: it may outlive it.
            self._pool = None
            if self._future is not None:
                from . import _pool_futures

                _pool_futures.tell(self._future, success, value)

    def __class_getitem__(cls, item: Any) -> Any:
        import types

        return types.GenericAlias(cls, item)


AsyncResult = ApplyResult


class MapResult(ApplyResult):
    """The results of a map, in order; the exception of the first item that failed instead."""

    def __init__(
        self,
        pool: Any,
        chunksize: int,
        length: int,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> None:
        super().__init__(pool, callback, error_callback)
        self._chunksize, self._length = chunksize, length
        self._finished = 0
        self._results: list[Any] = []
        self._errors: list[tuple[int, BaseException]] = []
        self._job: int | None = None
        self._source: Iterator[Any] | None = None
        # If calls are handed over in batches: items that these have left, and where the results
        # belong that come behind the last item.
        self._batched = False
        self._left: list[tuple[int, Any]] = []
        self._places: list[int] = []

    @property
    def _number_left(self) -> int:
        """Chunks to come: programs show progress by it."""
        if self._done:
            return 0
        done, total = self.progress()
        return -((done - total) // self._chunksize) if self._chunksize > 0 else 0

    def _place_of(self, item: int) -> int:
        return item if item < self._length else self._places[item - self._length]

    def _put_in_place(self) -> None:
        """Outcomes of items that were run again go where they belong."""
        results, length = self._results, self._length
        for place, value in zip(self._places, results[length:], strict=False):
            results[place] = value
        del results[length:]
        self._errors = [(self._place_of(item), error) for item, error in self._errors]
        self._places = []

    def _outcome(self) -> tuple[bool, Any]:
        if self._errors:
            return False, min(self._errors, key=lambda e: e[0])[1]
        return True, self._results

    def _set_empty(self) -> None:
        # The standard library calls no callback for a map of nothing.
        self._callback = self._error_callback = None
        self._set(True, [])

    def progress(self) -> tuple[int, int]:
        """How many items are finished, and how many there are."""
        pool = self._pool
        if pool is None:
            return self._length, self._length
        done, total = pool._progress(self)
        return int(done), int(total)


class IMapIterator:
    """Results as they come in the order of the input, which is consumed only as far as needed."""

    _ordered = True

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._job: int | None = None
        self._input = Input()
        # Outcomes that the engine has handed out and the reader has not got yet; and whether these
        # are all, so that the engine's job is not needed any more.
        self._taken: deque[tuple[bool, Any]] = deque()
        self._detached = False
        self._lock = threading.Lock()

    def __iter__(self) -> IMapIterator:
        return self

    def __reduce__(self) -> Any:
        raise TypeError(
            f"cannot pass a {type(self).__name__} to another process: it reads its input here; "
            "send the results, one by one, or use apply_async or map_async, whose results can be "
            "sent"
        )

    def next(self, timeout: float | None = None) -> Any:
        """Return the next result; TimeoutError if it takes too long."""
        deadline = None if timeout is None else time.monotonic() + timeout
        item: tuple[bool, Any] | None
        if timeout is None:
            with self._lock:
                item = self._take(None)
        else:
            if not self._lock.acquire(timeout=max(timeout, 0.0)):
                # Another thread is reading.
                raise TimeoutError
            try:
                item = self._take(deadline)
            finally:
                self._lock.release()
        if item is None:
            error, self._input.error = self._input.error, None
            if error is None:
                raise StopIteration
            try:
                raise error
            finally:
                # Its traceback has this frame, and with it all that the input had.
                del error
        success, value = item
        if success:
            return value
        raise value

    def _take(self, deadline: float | None) -> tuple[bool, Any] | None:
        """The next outcome, for whoever has the lock; None at the end."""
        pool = self._pool
        if pool is None:
            raise StopIteration
        if self._taken and self._input.given != self._input.last:
            self._input.given += 1
            return self._taken.popleft()
        item: tuple[bool, Any] | None = pool._next(self, deadline)
        if item is None:
            self._pool = None
        return item

    def __next__(self) -> Any:
        return self.next()

    def __del__(self) -> None:
        pool = self._pool
        if pool is not None:
            pool._abandon(self)


class IMapUnorderedIterator(IMapIterator):
    """Results as they come, in whatever order."""

    _ordered = False

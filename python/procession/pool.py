"""Pools of worker processes and of threads.

Beyond the standard library: a worker that dies fails only the item that it was running
(``WorkerDied``) and is replaced; ``timeout=`` and ``retries=`` for each item;
``AsyncResult.cancel()`` stops a running call; ``imap`` reads its input only as far as it is read.
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

from . import get_context, util
from ._pool_errors import (
    ExceptionWithTraceback as ExceptionWithTraceback,
    MaybeEncodingError as MaybeEncodingError,
    PoolBroken as PoolBroken,
    RemoteTraceback as RemoteTraceback,
    TaskCancelled as TaskCancelled,
    TaskTimeout as TaskTimeout,
    WorkerDied as WorkerDied,
    rebuild_exc as rebuild_exc,
)
from ._pool_processes import Options, Processes
from ._pool_queues import (
    mapstar as mapstar,
    starmapstar as starmapstar,
    worker as worker,
)
from ._pool_results import (
    ApplyResult as ApplyResult,
    AsyncResult as AsyncResult,
    IMapIterator as IMapIterator,
    IMapUnorderedIterator as IMapUnorderedIterator,
    MapResult as MapResult,
    job_counter as job_counter,
)
from ._pool_threads import Threads
from .context import TimeoutError as TimeoutError

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterable

__all__ = ["Pool", "ThreadPool"]

INIT = "INIT"
RUN = "RUN"
CLOSE = "CLOSE"
TERMINATE = "TERMINATE"


# Where programs find them, and what their tracebacks and pickles are to say.
for _class in (
    ApplyResult, ExceptionWithTraceback, IMapIterator, IMapUnorderedIterator, MapResult,
    MaybeEncodingError, PoolBroken, RemoteTraceback, TaskCancelled, TaskTimeout, WorkerDied,
):  # fmt: skip
    _class.__module__ = __name__


def _default_size() -> int:
    count = getattr(os, "process_cpu_count", None)
    if count is not None:
        return count() or 1
    return len(os.sched_getaffinity(0)) or 1


def _is_positive_int(value: object) -> bool:
    return isinstance(value, int) and value > 0


class Pool:
    """A pool of worker processes.

    ``timeout`` (seconds an item may run) and ``retries`` (how often an item whose worker died is
    run again) are defaults for all calls, which may give their own.
    """

    _wrap_exception = True

    @staticmethod
    def Process(ctx: Any, *args: Any, **kwds: Any) -> Any:
        """Make a worker's process object."""
        return ctx.Process(*args, **kwds)

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
        *,
        timeout: float | None = None,
        retries: int = 0,
    ) -> None:
        self._state = INIT
        self._ctx = context or get_context()
        if processes is None:
            processes = _default_size()
        if processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if maxtasksperchild is not None and not _is_positive_int(maxtasksperchild):
            raise ValueError("maxtasksperchild must be a positive int or None")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._defaults = Options(timeout, retries)
        self._processes = processes
        self._initializer, self._initargs = initializer, initargs
        self._maxtasksperchild = maxtasksperchild
        self._engine: Any = self._make_engine()
        # At the latest before the program joins its other children at its end.
        self._terminate = util.Finalize(self, _terminate, (self._engine,), exitpriority=15)
        self._state = RUN

    def _make_engine(self) -> Any:
        make, ctx = self.Process, self._ctx

        def start(**kwds: Any) -> Any:
            return make(ctx, **kwds)

        return Processes(
            start, self._processes, self._initializer, self._initargs, self._maxtasksperchild
        )

    @property
    def _pool(self) -> list[Any]:
        workers: list[Any] = self._engine.workers
        return workers

    def _repopulate_pool(self) -> None:
        self._engine._act()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if getattr(self, "_state", None) == RUN and self._terminate.still_active():
            _warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self)
            self.terminate()

    def __repr__(self) -> str:
        cls = self.__class__
        return (
            f"<{cls.__module__}.{cls.__qualname__} state={self._state} pool_size={len(self._pool)}>"
        )

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __enter__(self) -> Pool:
        self._check_running()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: types.TracebackType | None,
    ) -> None:
        self.terminate()

    def _check_running(self) -> None:
        if self._state != RUN:
            raise ValueError("Pool not running")

    def _options(self, timeout: float | None, retries: int | None) -> Options:
        if timeout is None and retries is None:
            return self._defaults
        return Options(
            self._defaults.timeout if timeout is None else timeout,
            self._defaults.retries if retries is None else retries,
        )

    # -------------------------------------------------------------------------- the methods

    def apply(
        self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: dict[str, Any] = {}
    ) -> Any:
        """Call ``func(*args, **kwds)`` in a worker and return its result."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: dict[str, Any] = {},
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        timeout: float | None = None,
        retries: int | None = None,
    ) -> ApplyResult:
        """Call ``func(*args, **kwds)`` in a worker, without waiting for it."""
        self._check_running()
        result = ApplyResult(self, callback, error_callback)
        self._submit(result, func, args, kwds, self._options(timeout, retries))
        self._engine.look_after()
        return result

    def map(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        *,
        timeout: float | None = None,
        retries: int | None = None,
    ) -> list[Any]:
        """Call ``func`` on each item; return the results in order."""
        result = self._map(func, iterable, False, chunksize, None, None, timeout, retries).get()
        return list(result) if not isinstance(result, list) else result

    def starmap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        timeout: float | None = None,
        retries: int | None = None,
    ) -> list[Any]:
        """Call ``func(*item)`` for each item; return the results in order."""
        result = self._map(func, iterable, True, chunksize, None, None, timeout, retries).get()
        return list(result) if not isinstance(result, list) else result

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        timeout: float | None = None,
        retries: int | None = None,
    ) -> MapResult:
        """As ``map``, without waiting for it."""
        result = self._map(
            func, iterable, False, chunksize, callback, error_callback, timeout, retries
        )
        self._engine.look_after()
        return result

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        timeout: float | None = None,
        retries: int | None = None,
    ) -> MapResult:
        """As ``starmap``, without waiting for it."""
        result = self._map(
            func, iterable, True, chunksize, callback, error_callback, timeout, retries
        )
        self._engine.look_after()
        return result

    def imap(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        timeout: float | None = None,
        retries: int | None = None,
        buffersize: int | None = None,
    ) -> IMapIterator:
        """As ``map``, as an iterator: results as they come, input as it is needed."""
        iterator = IMapIterator(self)
        return self._imap(iterator, func, iterable, chunksize, timeout, retries, buffersize)

    def imap_unordered(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        timeout: float | None = None,
        retries: int | None = None,
        buffersize: int | None = None,
    ) -> IMapIterator:
        """As ``imap``, in whatever order results come."""
        iterator = IMapUnorderedIterator(self)
        return self._imap(iterator, func, iterable, chunksize, timeout, retries, buffersize)

    def _map(
        self, func: Any, iterable: Any, star: bool, chunksize: int | None, callback: Any,
        error_callback: Any, timeout: float | None, retries: int | None,
    ) -> MapResult:  # fmt: skip
        self._check_running()
        if chunksize is not None and chunksize < 0:
            raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")
        items = iterable if hasattr(iterable, "__len__") else list(iterable)
        chunk = chunksize or 0
        result = MapResult(self, chunk, len(items), callback, error_callback)
        self._submit_map(result, func, star, items, chunk, self._options(timeout, retries))
        return result

    def _imap(
        self, iterator: IMapIterator, func: Any, iterable: Any, chunksize: int,
        timeout: float | None, retries: int | None, buffersize: int | None,
    ) -> IMapIterator:  # fmt: skip
        self._check_running()
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        self._submit_imap(
            iterator, func, iterable, chunksize, self._options(timeout, retries), buffersize
        )
        self._engine.look_after()
        return iterator

    # ------------------------------------------------------------------- to and from the engine

    def _submit(
        self, result: ApplyResult, func: Any, args: Any, kwds: Any, options: Options
    ) -> None:
        self._engine.submit(result, func, args, kwds, options)

    def _submit_map(
        self, result: MapResult, func: Any, star: bool, items: Any, chunk: int, options: Options
    ) -> None:
        self._engine.submit_map(result, func, star, items, chunk, options)

    def _submit_imap(
        self, iterator: IMapIterator, func: Any, items: Any, chunk: int, options: Options,
        buffersize: int | None,
    ) -> None:  # fmt: skip
        self._engine.imap(iterator, func, items, chunk, options, buffersize)

    def _drive(self, result: ApplyResult, timeout: float | None) -> None:
        self._engine.drive(result, timeout)

    def _next(self, iterator: IMapIterator, deadline: float | None) -> Any:
        return self._engine.next(iterator, deadline)

    def _cancel(self, result: ApplyResult) -> bool:
        return bool(self._engine.cancel(result))

    def _share(self, result: ApplyResult) -> None:
        self._engine.share(result)

    def _progress(self, result: MapResult) -> tuple[int, int]:
        done, total = self._engine.progress(result)
        return done, total

    def _abandon(self, iterator: IMapIterator) -> None:
        self._engine.abandon(iterator)

    # ------------------------------------------------------------------------------- the end

    def close(self) -> None:
        """Take no more work; the workers leave when what there is has been done."""
        util.debug("closing pool")
        if self._state == RUN:
            self._state = CLOSE
            self._engine.close()

    def terminate(self) -> None:
        """Stop at once, without finishing what is under way."""
        util.debug("terminating pool")
        if self._state != TERMINATE:
            self._state = TERMINATE
            self._terminate()

    def join(self) -> None:
        """Wait for the workers to end; ``close`` or ``terminate`` comes first."""
        util.debug("joining pool")
        if self._state == RUN:
            raise ValueError("Pool is still running")
        if self._state not in (CLOSE, TERMINATE):
            raise ValueError("In unknown state")
        self._engine.join()


def _terminate(engine: Any) -> None:
    engine.terminate()


class ThreadPool(Pool):
    """A pool of threads, with the same methods."""

    _wrap_exception = False

    @staticmethod
    def Process(ctx: Any, *args: Any, **kwds: Any) -> Any:
        """Make a worker's thread object."""
        from .dummy import Process

        return Process(*args, **kwds)

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None:
        super().__init__(processes, initializer, initargs)

    def _make_engine(self) -> Any:
        return Threads(self._processes, self._initializer, tuple(self._initargs))

    def _submit(
        self, result: ApplyResult, func: Any, args: Any, kwds: Any, options: Options
    ) -> None:
        self._refuse(options)
        self._engine.submit(result, func, args, kwds)

    def _submit_map(
        self, result: MapResult, func: Any, star: bool, items: Any, chunk: int, options: Options
    ) -> None:
        self._refuse(options)
        self._engine.submit_map(result, func, star, list(items))

    def _submit_imap(
        self, iterator: IMapIterator, func: Any, items: Any, chunk: int, options: Options,
        buffersize: int | None,
    ) -> None:  # fmt: skip
        self._refuse(options)
        window = buffersize or max(4 * self._processes, 16, 2 * chunk)
        self._engine.imap(iterator, func, items, chunk, window)

    def _refuse(self, options: Options) -> None:
        if options.timeout is not None or options.retries:
            raise ValueError(
                "a thread cannot be stopped: timeout and retries need a Pool of processes"
            )

    def _cancel(self, result: ApplyResult) -> bool:
        return False

    def _share(self, result: ApplyResult) -> None:
        # The thread that sets the result tells it.
        pass

    def _progress(self, result: MapResult) -> tuple[int, int]:
        return result._finished, result._length

    def _abandon(self, iterator: IMapIterator) -> None:
        self._engine.abandon(iterator)

"""A pool of threads, with the interface of the pool of processes."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from typing import TYPE_CHECKING, Any

from ._pool_callbacks import Callbacks
from ._pool_errors import report
from ._pool_inputs import Input, Reader, may_block
from ._pool_results import ApplyResult, IMapIterator, MapResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    _Task = Callable[[], None]


# Seconds until an initializer that has failed is tried again.
PAUSE = 0.1


class ThreadWorker(threading.Thread):
    """One thread of the pool."""

    def __init__(self, threads: Threads, initializer: Any, initargs: Any) -> None:
        super().__init__(daemon=True)
        self._threads = threads
        self._initializer = initializer
        self._initargs = initargs

    exitcode: int | None = None

    def run(self) -> None:
        """Work until told to stop."""
        while self._initializer is not None:
            try:
                self._initializer(*self._initargs)
                break
            except Exception as error:
                # Tried again, as if another thread had been started in the place of this one.
                report(error)
                if self._threads.is_over(PAUSE):
                    return
        while (task := self._threads.tasks.get()) is not None:
            task()
            del task


class Threads:
    """Runs tasks on threads and tells results of it: what PoolCore is for processes."""

    def __init__(self, processes: int, initializer: Any, initargs: Any) -> None:
        self.tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._callbacks = Callbacks()
        self._stopping = False
        # Input of imaps that is not at its end; the threads go on as long as there is any.
        self._open: list[_Window] = []
        self._closing = self._told_to_end = False
        self.workers = [ThreadWorker(self, initializer, initargs) for _ in range(processes)]
        for worker in self.workers:
            worker.start()

    def submit(self, result: ApplyResult, func: Any, args: Any, kwds: Any) -> None:
        """Run one call."""

        def task() -> None:
            success, value = _call(self._stopping, func, args, kwds)
            self._finish(lambda: self._callbacks.settle(result, success, value))

        self._put(task)

    def submit_map(self, result: MapResult, func: Any, star: bool, items: list[Any]) -> None:
        """Run one call for each item."""
        total = len(items)
        results: list[Any] = [None] * total
        claims = itertools.count()
        if total == 0:
            result._set_empty()

        def task() -> None:
            complete: Callable[[], None] | None = None
            for index in claims:
                if index >= total:
                    break
                args = items[index] if star else (items[index],)
                success, value = _call(self._stopping, func, args, {})
                if success:
                    results[index] = value
                else:
                    result._errors.append((index, value))
                with self._changed:
                    result._finished += 1
                    if result._finished == total:
                        complete = self._completing(result)
            if complete is not None:
                result._results = results
                result._errors.sort(key=lambda e: e[0])
            self._finish(complete)

        # Each thread that comes to the map works on it to its end: it was asked for before what
        # waits behind it.
        for _ in range(min(total, len(self.workers))):
            self._put(task)

    def _completing(self, result: MapResult) -> Callable[[], None]:
        return lambda: self._callbacks.settle(result, *result._outcome())

    def imap(
        self, iterator: IMapIterator, func: Any, items: Iterable[Any], chunk: int, window: int
    ) -> None:
        """Run one call for each item of an iterable, as far ahead of its reader as the window.

        Items are taken a chunk at a time; where the iterable raises, the chunk is not run.
        """
        state = iterator._input = _Window(func, chunk, window)
        try:
            state.source = iter(items)
        except TypeError as error:
            # Told to the reader, as whatever else the input raises.
            state.error, state.ended = error, True
            return
        self._open.append(state)
        if may_block(items):
            state.thread = Reader(lambda: self._feed(state))
            state.thread.start()
        else:
            self._feed(state)

    def _go_on(self, state: _Window) -> None:
        """See to it that the input is read as far as its window reaches."""
        if state.thread is None:
            self._feed(state)
        elif state.ended or state.closed or state.fed - state.given < state.window:
            state.thread.kick()

    def _feed(self, state: _Window) -> bool:
        """Read as much of an input as there is room for; false at its end."""
        with state.feeding:
            state.ended |= state.closed
            while not state.ended and state.fed - state.given < state.window:
                try:
                    items = list(itertools.islice(state.source or (), state.chunk))
                except BaseException as error:
                    state.ended = True
                    state.error = error
                    break
                if state.closed:
                    state.ended = True
                    break
                for item in items:
                    self._put(self._numbered(state, state.fed, item))
                    state.fed += 1
                state.ended = len(items) < state.chunk
        if not state.ended:
            return True
        state.source = None
        if state in self._open:
            self._open.remove(state)
            self._end_if_done()
        with self._changed:
            self._changed.notify_all()
        return False

    def abandon(self, iterator: IMapIterator) -> None:
        """Nobody will read this imap on.

        As in pools of processes, one that was not read at all is run to the end.
        """
        state: Any = iterator._input
        if state.ended:
            return
        if state.given:
            state.closed = True
            state.ended = state.thread is None
        else:
            state.open_up()
        self._go_on(state)

    def _numbered(self, state: _Window, number: int, item: Any) -> _Task:
        def task() -> None:
            outcome = _call(self._stopping, state.func, (item,), {})

            def done() -> None:
                state.outcomes[number] = outcome

            self._finish(done)

        return task

    def next(self, iterator: IMapIterator, deadline: float | None) -> tuple[bool, Any] | None:
        """The next outcome of an imap; None at its end."""
        state: Any = iterator._input
        while True:
            self._go_on(state)
            with self._changed:
                found = state.pop(iterator._ordered)
                if found is not None or (state.ended and state.given == state.fed):
                    return found  # type: ignore[no-any-return]
                if not self._wait(deadline):
                    from .context import TimeoutError

                    raise TimeoutError

    def drive(self, result: ApplyResult, timeout: float | None) -> None:
        """Wait for a result."""
        self._callbacks.wait_for(result, timeout)

    def _wait(self, deadline: float | None) -> bool:
        remaining = None if deadline is None else deadline - time.monotonic()
        if remaining is not None and remaining <= 0:
            return False
        self._changed.wait(remaining)
        return True

    def _put(self, task: _Task) -> None:
        self.tasks.put(task)

    def _finish(self, done: Callable[[], None] | None) -> None:
        try:
            if done is not None:
                done()
        finally:
            with self._changed:
                self._changed.notify_all()

    def close(self) -> None:
        """Let the threads end once all tasks are done."""
        self._closing = True
        self._end_if_done()

    def look_after(self) -> None:
        """Do nothing: threads do not die."""

    def is_over(self, within: float) -> bool:
        """Is nothing left to be done for the threads, or so many seconds later?"""
        with self._changed:
            return self._stopping or self._changed.wait_for(lambda: self._stopping, within)

    def _end_if_done(self) -> None:
        if self._closing and not self._open and not self._told_to_end:
            self._told_to_end = True
            for _ in self.workers:
                self.tasks.put(None)

    def terminate(self) -> None:
        """Let the threads end after the calls that they are running; the rest is dropped."""
        self._stopping = True
        for state in list(self._open):
            state.closed = state.ended = True
            self._go_on(state)
        self._open.clear()
        self.close()
        self._callbacks.end()
        with self._changed:
            self._changed.notify_all()

    def join(self) -> None:
        """Wait for the threads, once they have all that is still to be done."""
        for state in list(self._open):
            state.open_up()
            self._go_on(state)
        for worker in self.workers:
            worker.join()
        self._callbacks.end()
        if not self._stopping:
            self._callbacks.join()


class _Window(Input):
    def __init__(self, func: Any, chunk: int, window: int) -> None:
        super().__init__()
        self.func = func
        # The outcomes' reader feeds, and whoever ends the pool.
        self.feeding = threading.RLock()
        self.chunk, self.window = chunk, window
        self.fed = 0
        self.ended = False
        self.outcomes: dict[int, tuple[bool, Any]] = {}

    def pop(self, ordered: bool) -> tuple[bool, Any] | None:
        number = self.given if ordered else next(iter(self.outcomes), -1)
        found = self.outcomes.pop(number, None)
        if found is not None:
            self.given += 1
        return found


def _call(stopping: bool, func: Any, args: Any, kwds: Any) -> tuple[bool, Any]:
    if stopping:
        from ._pool_errors import TaskCancelled

        return False, TaskCancelled("the pool was terminated")
    try:
        return True, func(*args, **kwds)
    except BaseException as error:
        # SystemExit too: the call's result must come, and the thread is needed by other calls.
        return False, error

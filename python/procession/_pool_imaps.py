"""Imaps of a pool of processes: their input is read as far ahead of their reader as is needed."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from ._pool_errors import TaskCancelled
from ._pool_inputs import Input, Reader, may_block
from ._pool_maps import ANY, ATTENTION, NEXT, TIMED_OUT, Maps
from ._pool_worker import MAP
from .context import TimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ._pool_processes import Options
    from ._pool_results import IMapIterator
    from .process import BaseProcess

# An imap starts small, so that little input is consumed for a reader that stops early, and
# looks further ahead as long as its workers run dry.
LARGEST_WINDOW = 4096
# A reader that reads half a window in less time than this (seconds) is given a larger one, too.
QUICK = 0.001
# The most outcomes that are taken from the engine before they are asked for.
MOST_TAKEN = 64


class TooManyImaps(RuntimeError):
    """There is no room for another one, and there will be none by itself."""


class Imaps(Maps):
    """What a pool's processes do for ``imap`` and ``imap_unordered``."""

    workers: list[BaseProcess]
    _ended: bool
    _stopped: bool

    def __init__(self, processes: int) -> None:
        super().__init__(processes)
        self._imaps: weakref.WeakValueDictionary[int, IMapIterator] = weakref.WeakValueDictionary()
        # What was dropped before anything was read of it: run to the end all the same.
        self._unread: set[IMapIterator] = set()
        # Inputs that are read by threads of their own, and not at their end.
        self._read_by_threads: set[Input] = set()
        # Whoever reads the input of an imap that is not its reader.
        self._feeding = threading.RLock()

    if TYPE_CHECKING:
        _open_now: Callable[..., int]

    def imap(
        self, iterator: IMapIterator, func: Any, items: Iterable[Any], chunk: int, options: Options,
        buffersize: int | None,
    ) -> None:  # fmt: skip
        """Run one call for each item of an iterable, as it is read."""
        source = iterator._input
        try:
            job = self._open_now(MAP, func, None, iterator._ordered, options, chunk)
        except Exception as error:
            if self._is_over(error) or isinstance(error, TooManyImaps):
                raise
            # The function cannot be pickled: the reader's error.
            source.error, source.last = error, 0
            iterator._detached = True
            return
        iterator._job = job
        self._core.expect_items(job, items, 1, 1)
        source.job, source.chunk = job, chunk
        source.window = buffersize or max(4 * len(self.workers), 16, 2 * chunk)
        source.widest = buffersize or LARGEST_WINDOW
        source.fed_at = time.monotonic()
        try:
            source.source = iter(items)
        except TypeError as error:
            # Told to the reader, as whatever else the input raises.
            source.source, source.error = iter(()), error
        self._imaps[job] = iterator
        if may_block(items):
            ordered = iterator._ordered
            source.thread = Reader(lambda: self._feed(source, ordered))
            self._read_by_threads.add(source)
            try:
                source.thread.start()
            except BaseException:
                source.thread = None
                self._drop_job(iterator, job)
                raise
        else:
            self._feed(source, iterator._ordered)

    def _feed_imap(self, iterator: IMapIterator) -> None:
        """See to it that the input is read as far as its window reaches."""
        source = iterator._input
        if source.thread is None:
            self._feed(source, iterator._ordered)
        elif source.source is not None and self._room_for(source):
            source.thread.kick()

    def _room_for(self, source: Input) -> int:
        """How much of the window is to be filled; none while that is less than half of it."""
        under_way = self._core.progress(source.job)[0] - source.given
        return source.window - under_way if under_way < source.window - source.window // 2 else 0

    def _feed(self, source: Input, ordered: bool) -> bool:
        """Read as much of an input as there is room for; false at its end."""
        if source.closed or self._stopped:
            self._end_input(source)
        if source.source is None:
            return False
        try:
            while room := self._room_for(source):
                now = time.monotonic()
                if now - source.fed_at < QUICK:
                    source.widen()
                source.fed_at = now
                if self._read(source, room, ordered):
                    self._core.seal(source.job)
                    self._end_input(source)
                    return False
                if source.thread is None:
                    break
        except BaseException as error:
            if source.thread is None:
                # Of a signal's handler, perhaps: whoever asks next goes on.
                raise
            self._end_input(source)
            # The job may have gone meanwhile, with its reader or with the pool. If not, whoever
            # waits for its outcomes must not do so for ever.
            if not (source.closed or self._stopped):
                source.error = source.error or error
                self._close_job(source.job)
            return False
        return True

    def _read(self, source: Input, room: int, ordered: bool) -> bool:
        """Read so many items; true if that was the end of the input."""
        if source.source is None:
            return True
        try:
            ended: bool = self._core.feed_iter(source.job, source.source, room)[1]
        except BaseException as error:
            if source.closed or self._stopped:
                raise
            # The input has failed: what it gave before is still worked on, then its error raised.
            # As in the standard library, that is so for whole chunks.
            source.error = error
            fed = self._core.progress(source.job)[0]
            if ordered:
                source.last = fed - fed % source.chunk
            return True
        return ended

    def _end_input(self, source: Input) -> None:
        source.source = None
        self._read_by_threads.discard(source)
        self._close_when_fed()

    def _drop_job(self, iterator: IMapIterator, job: int) -> None:
        """Nobody wants what is left of an imap."""
        source = iterator._input
        source.closed = iterator._detached = True
        self._imaps.pop(job, None)
        self._close_job(job)
        if source.thread is None:
            self._end_input(source)
        else:
            source.thread.kick()
            self._close_when_fed()

    def next(self, iterator: IMapIterator, deadline: float | None) -> tuple[bool, Any] | None:
        """The next outcome of an imap; None at its end."""
        job, source = iterator._job, iterator._input
        if job is None:
            return None
        until = NEXT if iterator._ordered else ANY
        while True:
            if source.given == source.last:
                if not iterator._detached:
                    self._close_job(job)
                return None
            if iterator._taken:
                source.given += 1
                return iterator._taken.popleft()
            if iterator._detached:
                return None
            self._feed_imap(iterator)
            # Some at once, but not so many that the workers run dry while the caller works on them.
            most = min(source.window // 4, MOST_TAKEN) or 1
            if self._core.take(job, iterator._ordered, most, iterator._taken):
                continue
            if source.source is None and self._core.is_exhausted(job):
                self._close_job(job)
                return None
            if self._stopped:
                # What was fed has been told.
                source.given += 1
                source.last = source.given
                return False, TaskCancelled("the pool was terminated")
            if source.source is not None:
                fed, claimed, _, _ = self._core.progress(job)
                # The workers have taken all there was: look further ahead.
                if claimed == fed and not self._room_for(source) and source.widen():
                    continue
            woken = self._wait_for_outcome(job, until, source, deadline)
            if woken == TIMED_OUT or (
                woken == ATTENTION and deadline is not None and time.monotonic() >= deadline
            ):
                raise TimeoutError

    def _wait_for_outcome(
        self, job: int, until: int, source: Input, deadline: float | None
    ) -> int | None:
        try:
            return self._wait(job, until, 0, deadline)
        except Exception:
            # A thread has come to the end of the input meanwhile, and all outcomes are taken.
            if source.thread is not None and self._core.is_exhausted(job):
                return None
            raise

    def abandon(self, iterator: IMapIterator) -> None:
        """Nobody will read this imap, or nobody will read on.

        Where nothing was read the calls are made for what they do, and all of them are. Where the
        reader has stopped on the way, the rest is not wanted.
        """
        source = iterator._input
        if iterator._job is None or self._ended or iterator._detached:
            return
        if source.given or self._stopped:
            self._drop_job(iterator, iterator._job)
            return
        source.open_up()
        unread = type(iterator)(None)
        vars(unread).update(vars(iterator), _pool=None)
        self._unread.add(unread)
        self._imaps[iterator._job] = unread
        self._supervise()

    def _close_input(self, source: Input) -> None:
        source.closed = True
        if source.thread is not None:
            source.thread.kick()

    def _close_inputs(self) -> None:
        """The pool stops: no thread shall go on reading."""
        for source in list(self._read_by_threads):
            self._close_input(source)

    def _finish_unread(self) -> None:
        """Go on with what nobody will read."""
        with self._feeding:
            for iterator in list(self._unread):
                job = iterator._job
                assert job is not None
                self._feed_imap(iterator)
                while taken := self._core.take(job, iterator._ordered, MOST_TAKEN, deque()):
                    iterator._input.given += taken
                if iterator._input.source is None and self._core.is_exhausted(job):
                    self._close_job(job)
                    iterator._detached = True
                    self._unread.discard(iterator)

    def _run_to_the_end(self, iterator: IMapIterator) -> None:
        """What nobody reads now: hand over all of its input; outcomes are taken to make room."""
        job = iterator._job
        if job is None or iterator._detached or not iterator._lock.acquire(blocking=False):
            return
        try:
            with self._feeding:
                iterator._input.open_up()
                self._feed_imap(iterator)
            self._core.take(job, iterator._ordered, 1 << 30, iterator._taken)
        finally:
            iterator._lock.release()

    def _finish_imaps(self) -> None:
        """At the end of the pool: all imaps are run to their end."""
        self._finish_unread()
        for iterator in list(self._imaps.values()):
            if iterator._input.source is not None and iterator not in self._unread:
                self._run_to_the_end(iterator)

    def _drain(self, iterator: IMapIterator) -> None:
        """An imap that only its reader keeps open gives its job back."""
        job = iterator._job
        if job is None or iterator._input.source is not None or iterator._detached:
            return
        fed, _, done, _ = self._core.progress(job)
        if done < fed:
            return
        # One that is being read comes to its end by itself, and its reader may wait for us.
        if not iterator._lock.acquire(blocking=False):
            return
        try:
            self._core.take(job, iterator._ordered, fed, iterator._taken)
            if self._core.is_exhausted(job):
                self._close_job(job)
            iterator._detached = True
        finally:
            iterator._lock.release()

"""Imaps of a pool of processes: their input is read as far ahead of their reader as is needed."""

from __future__ import annotations

import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from ._pool_maps import ANY, NEXT, TIMED_OUT, Maps
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


class Imaps(Maps):
    """What a pool's processes do for ``imap`` and ``imap_unordered``."""

    workers: list[BaseProcess]
    _ended: bool
    _tasks: dict[int, str]

    def __init__(self, processes: int) -> None:
        super().__init__(processes)
        self._imaps: weakref.WeakValueDictionary[int, IMapIterator] = weakref.WeakValueDictionary()
        # What was dropped before anything was read of it: run to the end all the same.
        self._unread: set[IMapIterator] = set()
        # Whoever reads the input of an imap that is not its reader.
        self._feeding = threading.RLock()

    if TYPE_CHECKING:
        _open_now: Callable[..., int]

    def imap(
        self, iterator: IMapIterator, func: Any, items: Iterable[Any], chunk: int, options: Options,
        buffersize: int | None,
    ) -> None:  # fmt: skip
        """Run one call for each item of an iterable, as it is read."""
        source = iter(items)
        job = self._open_now(MAP, func, None, iterator._ordered, options, chunk)
        iterator._job = job
        self._core.expect_items(job, items, 1, 1)
        iterator._source = source
        iterator._window = buffersize or max(4 * len(self.workers), 16, 2 * chunk)
        iterator._widest = buffersize or LARGEST_WINDOW
        iterator._chunk = chunk
        iterator._fed_at = time.monotonic()
        self._imaps[job] = iterator
        self._feed_imap(iterator)

    def _feed_imap(self, iterator: IMapIterator) -> None:
        if iterator._source is None:
            return
        assert iterator._job is not None
        under_way = self._core.progress(iterator._job)[0] - iterator._given
        if under_way >= iterator._window - iterator._window // 2:
            return
        now = time.monotonic()
        if now - iterator._fed_at < QUICK:
            iterator._widen()
        iterator._fed_at = now
        room = iterator._window - under_way
        try:
            _, ended = self._core.feed_iter(iterator._job, iterator._source, room)
        except BaseException as error:
            # The input has failed: what it gave before is still worked on, then its error raised.
            # As in the standard library, that is so for whole chunks.
            iterator._source_error = error
            fed = self._core.progress(iterator._job)[0]
            if iterator._ordered:
                iterator._last = fed - fed % iterator._chunk
            ended = True
        if ended:
            iterator._source = None
            self._core.seal(iterator._job)
            self._close_when_fed()

    def next(self, iterator: IMapIterator, deadline: float | None) -> tuple[bool, Any] | None:
        """The next outcome of an imap; None at its end."""
        job = iterator._job
        assert job is not None
        until = NEXT if iterator._ordered else ANY
        while True:
            if iterator._given == iterator._last:
                if not iterator._detached:
                    self._core.close_job(job)
                return None
            if iterator._taken:
                iterator._given += 1
                return iterator._taken.popleft()
            if iterator._detached:
                return None
            self._feed_imap(iterator)
            # Some at once, but not so many that the workers run dry while the caller works on them.
            most = min(iterator._window // 4, MOST_TAKEN) or 1
            if taken := self._core.take(job, iterator._ordered, most):
                iterator._taken.extend(taken)
                continue
            if iterator._source is None and self._core.is_exhausted(job):
                self._core.close_job(job)
                self._tasks.pop(job, None)
                return None
            if iterator._source is not None:
                fed, claimed, _, _ = self._core.progress(job)
                # The workers have taken all there was: look further ahead.
                if claimed == fed and iterator._widen():
                    continue
            if self._wait(job, until, 0, deadline) == TIMED_OUT:
                raise TimeoutError

    def abandon(self, iterator: IMapIterator) -> None:
        """Nobody will read this imap, or nobody will read on.

        Where nothing was read the calls are made for what they do, and all of them are. Where the
        reader has stopped on the way, the rest is not wanted.
        """
        if iterator._job is None or self._ended or iterator._detached:
            return
        if iterator._given or self._stopped:
            self._core.close_job(iterator._job)
            return
        unread = type(iterator)(None)
        vars(unread).update(vars(iterator), _pool=None, _window=1 << 30)
        self._unread.add(unread)
        self._imaps[iterator._job] = unread
        self._supervise()

    def _finish_unread(self) -> None:
        """Go on with what nobody will read."""
        with self._feeding:
            for iterator in list(self._unread):
                job = iterator._job
                assert job is not None
                self._feed_imap(iterator)
                while taken := self._core.take(job, iterator._ordered, MOST_TAKEN):
                    iterator._given += len(taken)
                if iterator._source is None and self._core.is_exhausted(job):
                    self._core.close_job(job)
                    self._tasks.pop(job, None)
                    iterator._detached = True
                    self._unread.discard(iterator)

    def _run_to_the_end(self, iterator: IMapIterator) -> None:
        """What nobody reads now: hand over all of its input; outcomes are taken to make room."""
        job = iterator._job
        if job is None or iterator._detached or not iterator._lock.acquire(blocking=False):
            return
        try:
            with self._feeding:
                iterator._window = 1 << 30
                self._feed_imap(iterator)
            iterator._taken.extend(self._core.take(job, iterator._ordered, 1 << 30))
        finally:
            iterator._lock.release()

    def _finish_imaps(self) -> None:
        """At the end of the pool: all imaps are run to their end."""
        self._finish_unread()
        for iterator in list(self._imaps.values()):
            if iterator._source is not None and iterator not in self._unread:
                self._run_to_the_end(iterator)

    def _drain(self, iterator: IMapIterator) -> None:
        """An imap that only its reader keeps open gives its job back."""
        job = iterator._job
        if job is None or iterator._source is not None or iterator._detached:
            return
        fed, _, done, _ = self._core.progress(job)
        if done < fed:
            return
        # One that is being read comes to its end by itself, and its reader may wait for us.
        if not iterator._lock.acquire(blocking=False):
            return
        try:
            iterator._taken.extend(self._core.take(job, iterator._ordered, fed))
            if self._core.is_exhausted(job):
                self._core.close_job(job)
            iterator._detached = True
        finally:
            iterator._lock.release()

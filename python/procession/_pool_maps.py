"""Maps of a pool of processes: one job each, fed as there is room, collected by whoever waits.

Where calls turn out to be quick, the engine is given many as one (a batch).  A batch that is left
half-way, because a worker died over one of its calls or one result was large, leaves the rest of
its items: they are run again as items of their own, at the end of the same job, and their outcomes
put into their places.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from ._pool_errors import PoolBroken, TaskCancelled
from ._pool_worker import MAP, STARMAP

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from . import _native
    from ._pool_processes import Options
    from ._pool_results import ApplyResult, MapResult

TIMED_OUT, READY, ATTENTION = range(3)
NEXT, ANY, ALL_DONE, DONE = range(4)

# The most calls that are handed over as one, unless chunksize says less.
LARGEST_BATCH = 256


class Maps:
    """What a pool's processes do for ``map`` and its like."""

    _core: _native.PoolCore
    _acting: threading.RLock  # type: ignore[valid-type, unused-ignore]
    _replaces: bool
    _closing: bool
    _stopped: bool

    def __init__(self, processes: int) -> None:
        self._size = processes
        # Those that are not complete, by job; and those that wait for other jobs to end.
        self._maps: dict[int, MapResult] = {}
        self._backlog: deque[tuple[MapResult, Any, bool, Sequence[Any], int, Options]] = deque()
        # To be delivered without anybody waiting here.
        self._watched_maps: set[MapResult] = set()

    if TYPE_CHECKING:

        def _open(
            self,
            mode: int,
            func: Any,
            total: int | None,
            ordered: bool,
            options: Options,
            chunk: int,
        ) -> int | None: ...
        def _act(self) -> bool: ...
        def _wait(self, job: int, until: int, number: int, deadline: float | None) -> int: ...
        def _supervise(self) -> None: ...
        def _close_when_fed(self) -> None: ...
        def _close_job(self, job: int) -> None: ...
        def _settle(self, result: ApplyResult, success: bool, value: Any) -> None: ...
        def _await_callback(self, result: ApplyResult, deadline: float | None) -> None: ...

    # -------------------------------------------------------------------------------- new ones

    def submit_map(
        self, result: MapResult, func: Any, star: bool, items: Sequence[Any], chunk: int,
        options: Options,
    ) -> None:  # fmt: skip
        """Run one call for each item of a list."""
        # Not its truth, which arrays do not have.
        if len(items) == 0:
            result._set_empty()
            return
        with self._acting:
            if self._backlog or not self._try_to_begin(result, func, star, items, chunk, options):
                self._backlog.append((result, func, star, items, chunk, options))
                self._supervise()
        if result._callback is not None or result._error_callback is not None:
            with self._acting:
                if not result._has_come():
                    self._watched_maps.add(result)
            self._supervise()

    def _try_to_begin(self, result: MapResult, *terms: Any) -> bool:
        """As `_begin`, where an error is the map's."""
        try:
            return self._begin(result, *terms)
        except Exception as error:
            if self._is_over(error):
                raise
            if result._job is not None:
                self._end_map(result, result._job)
            self._settle(result, False, error)
            return True

    def _is_over(self, error: Exception) -> bool:
        """Is it the pool's error, and not that of what it was given?"""
        return self._stopped or self._closing or isinstance(error, PoolBroken)

    def _begin(
        self, result: MapResult, func: Any, star: bool, items: Sequence[Any], chunk: int,
        options: Options,
    ) -> bool:  # fmt: skip
        """Open a map's job; false if the engine has as many jobs as it can have."""
        mode = STARMAP if star else MAP
        # Where workers are replaced after so many tasks: what the standard library would make one.
        task = chunk or (-(-len(items) // (4 * self._size)) if self._replaces else 0)
        job = self._open(mode, func, len(items), True, options, task)
        if job is None:
            return False
        # Items that may be stopped, or run again, are handed over by themselves.
        single = chunk == 1 or options.timeout is not None or options.retries or self._replaces
        batches = 1 if single else min(chunk or LARGEST_BATCH, LARGEST_BATCH)
        known = self._core.expect_items(job, items, batches, self._size)
        result._job = job
        result._batched = batches > 1
        result._source = iter(() if known else items)
        self._maps[job] = result
        self._feed_map(result)
        return True

    def _begin_backlog(self) -> None:
        """Begin what has waited, as far as the engine has room."""
        with self._acting:
            try:
                while self._backlog and self._try_to_begin(*self._backlog[0]):
                    self._backlog.popleft()
            except ValueError:
                # Another thread is terminating the pool, and will cancel these.
                if not self._stopped:
                    raise

    def _feed_map(self, result: MapResult) -> bool:
        """Give the engine as many items as it takes; true if that was the end of the map."""
        with self._acting:
            source = result._source
            if source is None:
                return False
            assert result._job is not None
            try:
                _, ended = self._core.feed_iter(result._job, source, 1 << 30)
            except BaseException as error:
                self._end_map(result, result._job)
                result._source = None
                if self._stopped:
                    self._settle(result, False, TaskCancelled("the pool was terminated"))
                    return True
                self._settle(result, False, error)
                if not isinstance(error, Exception):
                    raise
                return True
            if ended:
                result._source = None
                if not result._batched:
                    self._core.seal(result._job)
                    self._close_when_fed()
            return False

    def _finish_map(self, result: MapResult, job: int) -> None:
        # In this order: a signal's handler may raise in between, and then it is done again.
        self._settle(result, *result._outcome())
        self._end_map(result, job)
        result._results, result._errors = [], []

    def _end_map(self, result: MapResult, job: int) -> None:
        self._watched_maps.discard(result)
        self._maps.pop(job, None)
        self._close_job(job)

    # ------------------------------------------------------------------------------- outcomes

    def _collect_map(self, result: MapResult, job: int) -> bool:
        """Take in what has come of a map; true if that was all."""
        if self._core.collect(job, result._results, result._errors, result._left):
            return True
        if not result._batched or result._source is not None:
            return False
        fed, _, _, collected = self._core.progress(job)
        if collected < fed:
            return False
        result._put_in_place()
        if result._left and self._stopped:
            stopped = TaskCancelled("the pool was terminated")
            result._errors += [(place, stopped) for place, _ in result._left]
            result._left = []
        if result._left:
            # By themselves, at the end of the job.
            self._core.no_batches(job)
            places = [place for place, _ in result._left]
            again = [item for _, item in result._left]
            # At once: if a signal's handler raises, all of it was done or none.
            result._places, result._source, result._left = places, iter(again), []
            return self._feed_map(result)
        result._batched = False
        self._core.seal(job)
        self._close_when_fed()
        return True

    def _drive_map(self, result: MapResult, deadline: float | None) -> None:
        """Work on a map until it is complete, or the time is up."""
        while True:
            with self._acting:
                if result._has_come():
                    break
                if result._job is None:
                    self._begin_backlog()
                if result._job is not None and (
                    self._feed_map(result) or self._collect_map(result, result._job)
                ):
                    self._finish_map(result, result._job)
                    self._begin_backlog()
                    continue
                job = result._job
                fed, _, done, collected = self._core.progress(job) if job else (0, 0, 0, 0)
            if job is None:
                # All that is in its way is looked after; whatever ends makes room.
                self._collect_maps()
                if deadline is not None and time.monotonic() >= deadline:
                    return
                if self._core.wait_attention(0.02) == ATTENTION:
                    self._act()
                continue
            if deadline is not None and done <= collected and time.monotonic() >= deadline:
                return
            until = collected + max(1, (fed - collected) // 4)
            woken = self._wait(job, DONE, until, deadline)
            if woken == TIMED_OUT and deadline is not None:
                # Something may have come; it is taken in before giving up.
                with self._acting:
                    if job in self._maps and not self._collect_map(result, job):
                        return
        if not result._done:
            self._await_callback(result, deadline)

    def _collect_maps(self) -> None:
        """Take in what has come of any map, and complete those that are at their end."""
        with self._acting:
            for job, result in list(self._maps.items()):
                if result._has_come():
                    self._end_map(result, job)
                    continue
                if self._feed_map(result) or self._collect_map(result, job):
                    self._finish_map(result, job)
            self._begin_backlog()

    def _progress_of(self, result: MapResult) -> tuple[int, int]:
        job = result._job
        if result._handed:
            return result._length, result._length
        if job is None:
            return 0, result._length
        fed, _, done, collected = self._core.progress(job)
        have = len(result._results) - len(result._left)
        if not result._batched:
            return max(done, have), result._length
        # Batches count as one: what is not collected yet is estimated.
        share = (done - collected) / max(fed, 1)
        return min(have + int(share * result._length), result._length), result._length

    def _unfed_maps(self) -> bool:
        return bool(self._backlog) or any(
            m._source is not None or m._batched for m in list(self._maps.values())
        )

    def _cancel_backlog(self, result: MapResult | None = None) -> bool:
        """Cancel what has not begun: one, or all."""
        with self._acting:
            waiting = [b[0] for b in self._backlog if result is None or b[0] is result]
            self._backlog = deque(b for b in self._backlog if b[0] not in waiting)
        for one in waiting:
            self._settle(one, False, TaskCancelled("it was cancelled before it had begun"))
        return bool(waiting)

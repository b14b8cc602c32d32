"""Single calls in a pool of processes: all with the same terms are items of one job.

Their outcomes come one after the other, whoever asked for them.  Of the threads that wait, one
collects for all (it leads), the others wait for their own results, or to be the next to lead.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from ._pool_callbacks import Callbacks
from ._pool_imaps import Imaps
from ._pool_maps import ANY, TIMED_OUT
from ._pool_worker import APPLY

if TYPE_CHECKING:
    from ._pool_processes import Options
    from ._pool_results import ApplyResult

# Seconds until it is looked again whether a full job has room, while another thread collects.
FULL_PAUSE = 0.001


class Stream:
    """A job for calls, and who waits for their outcomes."""

    def __init__(self, job: int) -> None:
        self.job = job
        # Whoever has it collects. A signal's handler may wait for a result, too.
        self.lead = threading.RLock()
        # Taken from the engine and not delivered yet: (item, success, value).
        self.found: deque[tuple[int, bool, Any]] = deque()
        # Of those who wait for others to collect, in the order in which they came.
        self.followers: dict[threading.Event, None] = {}

    def leave_the_lead(self) -> None:
        """Let go, and have another go on."""
        self.lead.release()
        self.call_a_follower()

    def call_a_follower(self) -> None:
        """Wake the one that has waited longest: nobody may be leading."""
        if self.followers:
            follower = next(iter(list(self.followers)), None)
            if follower is not None:
                follower.set()

    def is_free(self) -> bool:
        """Is nobody leading, but for this thread?"""
        if not self.lead.acquire(blocking=False):
            return False
        self.lead.release()
        return True


class Calls(Imaps):
    """What a pool's processes do for ``apply_async``."""

    def __init__(self, processes: int) -> None:
        super().__init__(processes)
        self._streams: dict[tuple[float | None, int], Stream] = {}
        self._calls: dict[tuple[int, int], ApplyResult] = {}
        self._callbacks = Callbacks()
        # Results that have to be delivered without anybody waiting here: there are callbacks, or
        # other processes want them.
        self._watched_calls: set[ApplyResult] = set()

    def submit(
        self, result: ApplyResult, func: Any, args: Any, kwds: Any, options: Options
    ) -> None:
        """Run one call."""
        stream = self._stream_for(options)
        while True:
            with self._acting:
                try:
                    item = self._core.feed(stream.job, (func, args, kwds))
                except Exception as error:
                    if self._is_over(error):
                        raise
                    # It cannot be pickled: the call's error, as if it had been made.
                    self._settle(result, False, error)
                    return
                if item is not None:
                    result._func = func
                    result._key = (stream, item)
                    self._calls[stream.job, item] = result
                    break
            self._make_room_for_calls(stream)
        if result._callback is not None or result._error_callback is not None:
            self._watch_call(result)

    def _stream_for(self, options: Options) -> Stream:
        key = options.key()
        stream = self._streams.get(key)
        if stream is None:
            with self._acting:
                stream = self._streams.get(key)
                if stream is None:
                    job = self._open_now(APPLY, None, None, False, options, 1)
                    stream = self._streams[key] = Stream(job)
        return stream

    def _make_room_for_calls(self, stream: Stream) -> None:
        if not stream.lead.acquire(blocking=False):
            time.sleep(FULL_PAUSE)
            return
        try:
            self._collect_calls(stream)
            self._wait(stream.job, ANY, 0, None)
        finally:
            stream.leave_the_lead()

    # ----------------------------------------------------------------------------- outcomes

    def _collect_calls(self, stream: Stream) -> None:
        """Deliver what has come; only for whoever leads."""
        found = stream.found
        while found or self._core.next(stream.job, False, found):
            item, success, value = found[0]
            key = (stream.job, item)
            result = self._calls.get(key)
            if result is None:
                # It was done before the thread that has submitted it could note that it had.
                with self._acting:
                    result = self._calls.get(key)
            if result is not None:
                self._settle(result, success, value)
                self._watched_calls.discard(result)
            # What a signal's handler raises before this is done again.
            self._calls.pop(key, None)
            if found and found[0][0] == item:
                found.popleft()

    def _settle(self, result: ApplyResult, success: bool, value: Any) -> None:
        self._callbacks.settle(result, success, value)

    def _collect_if_free(self, stream: Stream) -> bool:
        """Deliver what has come, unless another thread does that; false if so."""
        if not stream.lead.acquire(blocking=False):
            return False
        try:
            self._collect_calls(stream)
        finally:
            stream.leave_the_lead()
        return True

    def _watch_call(self, result: ApplyResult) -> None:
        self._watched_calls.add(result)
        if result._has_come():
            # It was delivered before it stood there.
            self._watched_calls.discard(result)
        self._supervise()

    # ------------------------------------------------------------------------------ waiting

    def _drive_call(self, result: ApplyResult, deadline: float | None) -> None:
        """Wait for a call's outcome, and deliver those of others on the way."""
        if result._has_come():
            self._await_callback(result, deadline)
            return
        stream = result._key[0]
        try:
            while not result._done:
                if result._handed:
                    self._await_callback(result, deadline)
                    return
                if stream.lead.acquire(blocking=False):
                    try:
                        in_time = self._lead(result, stream, deadline)
                    finally:
                        stream.leave_the_lead()
                else:
                    in_time = self._follow(result, stream, deadline)
                if not in_time:
                    return
        finally:
            if stream.followers and stream.is_free():
                stream.call_a_follower()

    def _lead(self, result: ApplyResult, stream: Stream, deadline: float | None) -> bool:
        """Collect for all until a result is there; false if the time is up."""
        while True:
            self._collect_calls(stream)
            if result._has_come():
                return True
            if self._wait(stream.job, ANY, 0, deadline) == TIMED_OUT:
                self._collect_calls(stream)
                return False

    def _follow(self, result: ApplyResult, stream: Stream, deadline: float | None) -> bool:
        """Wait until a result is there, or nobody leads; false if the time is up."""
        told = threading.Event()
        result._waiters.append(told)
        stream.followers[told] = None
        try:
            # What has happened before we stood there nobody tells us.
            if result._has_come() or stream.is_free():
                return True
            return told.wait(_left(deadline))
        finally:
            del stream.followers[told]
            result._waiters.remove(told)

    def _await_callback(self, result: ApplyResult, deadline: float | None) -> None:
        """Wait until a result's callback has been called."""
        self._callbacks.wait_for(result, _left(deadline))


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)

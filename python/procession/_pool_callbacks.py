"""The thread that calls a pool's callbacks, and nobody else does.

As in the standard library: a callback may take its time, or a lock that whoever looks for a result
has, and comes before those who wait for its result are told.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Any

from ._pool_errors import report

if TYPE_CHECKING:
    from ._pool_results import ApplyResult

__all__ = ["Callbacks"]


class Callbacks:
    """Calls callbacks one after the other, in the order in which the results have come."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[tuple[ApplyResult, bool, Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        # Reentrant, as a signal's handler may end the pool in the middle of anything.
        self._lock = threading.RLock()
        self._starting = self._gone = False
        # Whose callbacks are being called: there may be one in another.
        self._current: list[ApplyResult] = []

    def settle(self, result: ApplyResult, success: bool, value: Any) -> None:
        """Set a result, after its callback if it has one for this."""
        if result._has_come():
            return
        if not result._has_callback(success):
            result._set(success, value)
            return
        with self._lock:
            if result._has_come():
                return
            here = self._gone or not self._start()
            if not here:
                # Twice, should a signal's handler raise before it is noted, does no harm.
                self._waiting.put((result, success, value))
            result._handed = True
        if here:
            # The pool has ended, and whoever asks for its results learns so.
            self._call(result, success, value)
            return
        # One of them may be the callbacks' thread, which has to go on.
        for waiter in list(result._waiters):
            waiter.set()

    def _start(self) -> bool:
        """See to it that there is a thread; false if there cannot be one."""
        if self._thread is not None or self._starting:
            return True
        try:
            self._starting = True
            thread = threading.Thread(target=self._run, name="pool callbacks", daemon=True)
            self._thread = thread
            thread.start()
        except BaseException as error:
            if self._thread is not None and self._thread.ident is None:
                self._thread = None
            if not isinstance(error, RuntimeError):
                # Of a signal's handler; the result is settled again.
                raise
            return self._thread is not None
        finally:
            self._starting = False
        return True

    def _run(self) -> None:
        while (one := self._waiting.get()) is not None:
            self._call(*one)
            del one
        with self._lock:
            self._gone = True
        # What was put while the end was said.
        while not self._waiting.empty():
            if (one := self._waiting.get()) is not None:
                self._call(*one)

    def _call(self, result: ApplyResult, success: bool, value: Any) -> None:
        self._current.append(result)
        try:
            result._set(success, value)
        except Exception as error:
            # It has nobody to be raised to, and others wait for their callbacks.
            report(error)
        except BaseException as error:
            report(RuntimeError(f"a callback has raised {type(error).__name__}"))
        finally:
            self._current.remove(result)

    def wait_for(self, result: ApplyResult, timeout: float | None) -> bool:
        """Wait until another thread has set a result; false if that takes longer."""
        deadline = None if timeout is None else time.monotonic() + timeout
        told = threading.Event()
        result._waiters.append(told)
        try:
            while not result._done:
                # Whoever only looks, or has a time to keep, does not call others' callbacks.
                if timeout is None and result._handed and self._help(result):
                    break
                left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
                if not told.wait(left):
                    return result._done
                told.clear()
        finally:
            result._waiters.remove(told)
        return True

    def _help(self, result: ApplyResult) -> bool:
        """Go on with callbacks until that of a result is done, if this is their thread.

        True if it is done.
        """
        if threading.current_thread() is not self._thread:
            return False
        while not result._done:
            if result in self._current:
                raise RuntimeError("a callback waits for its own result")
            one = self._waiting.get()
            if one is None:
                self._waiting.put(None)
                break
            self._call(*one)
        return result._done

    def end(self) -> None:
        """No more callbacks will come; those that wait are called."""
        with self._lock:
            if self._thread is None and not self._starting:
                self._gone = True
            else:
                self._waiting.put(None)

    def join(self) -> None:
        """Wait for the last one."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

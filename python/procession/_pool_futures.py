"""Pools' results in other processes than the pool's own.

Only the process that has the pool can collect what its workers send.  When a result that is not
there yet is passed on, a future in the session stands for it: the pool's process tells it the
outcome, everybody else waits for that.  If that process is gone the outcome is lost, and whoever
waits is told so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _native, context, util
from ._pool_errors import (
    ExceptionWithTraceback,
    MaybeEncodingError,
    PoolBroken,
    RemoteTraceback,
    TaskCancelled,
    rebuild_exc,
)
from ._pool_results import ApplyResult

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SharedFuture", "pass_on", "share_arguments"]


class SharedFuture(_native.FutureCore):
    """An outcome that one process tells and others read."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[int, int]]:
        context.assert_spawning(self)
        popen = context.get_spawning_popen()
        if popen is not None:
            popen.keep(self)
        return SharedFuture.from_handle, self.handle()


def tell(future: SharedFuture, success: bool, value: Any) -> None:
    """Settle a future, with what can be sent of the outcome."""
    try:
        future.settle(success, value if success else _sendable(value))
    except Exception as error:
        future.settle(False, MaybeEncodingError(error, value))


class _Raised:
    """An exception that keeps the text of its first traceback."""

    def __init__(self, error: BaseException, text: str) -> None:
        self.error, self.text = error, text

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild_exc, (self.error, self.text)


def _sendable(error: BaseException) -> Any:
    cause = error.__cause__
    if isinstance(cause, RemoteTraceback):
        return _Raised(error, cause.tb)
    if error.__traceback__ is not None:
        return ExceptionWithTraceback(error, error.__traceback__)
    return error


class Elsewhere:
    """What a result has instead of its pool where that is another process's."""

    def __init__(self, future: SharedFuture) -> None:
        self.future = future

    def _drive(self, result: ApplyResult, timeout: float | None) -> None:
        if not self.future.wait(timeout):
            return
        told = self.future.outcome()
        if told is None:
            told = (
                False,
                PoolBroken("the process of the pool has ended before this call was finished"),
            )
        result._set(*told)

    def _cancel(self, result: ApplyResult) -> bool:
        # The pool's process stops the call; it does so in bounded time, or its end is noticed.
        self.future.ask_to_cancel()
        self._drive(result, None)
        return not result._success and isinstance(result._value, TaskCancelled)

    def _progress(self, result: ApplyResult) -> tuple[int, int]:
        raise RuntimeError(
            "only the process of the pool knows a map's progress: call progress() there"
        )


def _arrive(cls: type[ApplyResult], future: SharedFuture) -> ApplyResult:
    result = cls.__new__(cls)
    ApplyResult.__init__(result, Elsewhere(future))
    return result


def _arrive_done(cls: type[ApplyResult], success: bool, value: Any) -> ApplyResult:
    result = cls.__new__(cls)
    ApplyResult.__init__(result, None)
    result._set(success, value)
    return result


def share(result: ApplyResult) -> SharedFuture:
    """The future that stands for a result in other processes."""
    pool = result._pool
    if isinstance(pool, Elsewhere):
        return pool.future
    future = result._future
    if future is None:
        future = SharedFuture()
        future._create(type(result).__name__)
        result._future = future
        # A process that is forked while we have it finds the result by the future, too.
        util.register_after_fork(result, _is_elsewhere)
    if pool is not None:
        pool._share(result)
    if result._done:
        # It has come meanwhile; who told it may not have seen the future.
        tell(future, result._success, result._value)
    return future


def _is_elsewhere(result: ApplyResult) -> None:
    if not result._done and result._future is not None:
        result._pool = Elsewhere(result._future)
        result._future = None
        result._callback = result._error_callback = None


def pass_on(result: ApplyResult) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """How a result is pickled."""
    result._advance()
    if result._done:
        value = result._value if result._success else _sendable(result._value)
        return _arrive_done, (type(result), result._success, value)
    context.assert_spawning(result)
    return _arrive, (type(result), share(result))


def share_arguments(args: Any, kwargs: dict[str, Any]) -> None:
    """Before a fork: let the child use the results that it is given, here or in a collection."""
    for arg in (*args, *kwargs.values()):
        if isinstance(arg, ApplyResult):
            _share_for_fork(arg)
        elif type(arg) in (list, tuple, set, dict):
            for member in arg.values() if type(arg) is dict else arg:
                if isinstance(member, ApplyResult):
                    _share_for_fork(member)


def _share_for_fork(result: ApplyResult) -> None:
    result._advance()
    if not result._done:
        share(result)

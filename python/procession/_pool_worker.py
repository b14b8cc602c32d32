"""What a worker of a pool does."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from . import _native, util
from ._pool_errors import ExceptionWithTraceback, MaybeEncodingError

if TYPE_CHECKING:
    from collections.abc import Callable

# How a job's function is called: with the item, with its parts, or (the item is it all) as a call.
MAP, STARMAP, APPLY = range(3)


def work(
    handle: tuple[int, int],
    worker: int,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
) -> None:
    """Be a worker: run the initializer, then take items until there are no more to take."""
    member = _native.PoolWorker(*handle, worker)
    if initializer is not None:
        initializer(*initargs)
    util.debug("worker is ready")
    done = member.run(_describe, _unsendable)
    util.debug(f"worker exiting after {done} tasks")


def _describe(error: BaseException) -> Any:
    """What is sent for an exception: it must arrive, whatever it is made of."""
    wrapped = ExceptionWithTraceback(error, error.__traceback__)
    try:
        # An exception that cannot be put together again would be an error in the parent, far from
        # here.
        pickle.loads(_native.dumps(wrapped))
    except Exception as problem:
        return ExceptionWithTraceback(MaybeEncodingError(problem, error), None)
    return wrapped


def _unsendable(problem: BaseException, value: Any) -> Any:
    """What is sent for a result that cannot be pickled, or for which there is no memory."""
    if isinstance(problem, MemoryError):
        return problem
    return MaybeEncodingError(problem, value)

"""What workers of a pool do that is made of two queues.

``Pool`` has no use for it: its work stands in the session, where workers take it without a queue.
It is for programs that build pools of their own upon the standard library's functions.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from . import util
from ._pool_errors import ExceptionWithTraceback, MaybeEncodingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["mapstar", "starmapstar", "worker"]


def mapstar(args: tuple[Any, ...]) -> list[Any]:
    """Call a function for each item of a chunk; ``args`` are the function and the items."""
    func, *items = args
    return list(map(func, *items))


def starmapstar(args: tuple[Callable[..., Any], Iterable[Iterable[Any]]]) -> list[Any]:
    """Call a function for each item of a chunk, with the item's parts as arguments."""
    func, items = args
    return list(itertools.starmap(func, items))


def worker(
    inqueue: Any,
    outqueue: Any,
    initializer: Callable[..., object] | None = None,
    initargs: Iterable[Any] = (),
    maxtasks: int | None = None,
    wrap_exception: bool = False,
) -> None:
    """Take calls ``(job, i, func, args, kwds)`` until there is a None instead of one.

    The answer to each is ``(job, i, (success, value))``.  With ``wrap_exception`` an exception
    brings the text of its traceback along.
    """
    if maxtasks is not None and maxtasks < 1:
        raise AssertionError(f"Maxtasks {maxtasks!r} is not valid")
    if initializer is not None:
        initializer(*initargs)
    completed = 0
    while maxtasks is None or completed < maxtasks:
        try:
            task = inqueue.get()
        except (EOFError, OSError):
            util.debug("worker got EOFError or OSError -- exiting")
            break
        if task is None:
            util.debug("worker got sentinel -- exiting")
            break
        job, i, func, args, kwds = task
        outcome: tuple[bool, Any]
        try:
            outcome = True, func(*args, **kwds)
        except Exception as error:
            wrapped = (
                ExceptionWithTraceback(error, error.__traceback__) if wrap_exception else error
            )
            outcome = False, wrapped
        try:
            outqueue.put((job, i, outcome))
        except Exception as error:
            outqueue.put((job, i, (False, MaybeEncodingError(error, outcome[1]))))
        # An idle worker keeps nothing of what it has done.
        del task, job, i, func, args, kwds, outcome
        completed += 1
    util.debug(f"worker exiting after {completed} tasks")

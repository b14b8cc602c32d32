"""What can go wrong with a task, as exceptions."""

from __future__ import annotations

import pickle
import signal
import threading
import traceback
from typing import Any

from .context import ProcessError, TimeoutError

__all__ = [
    "ExceptionWithTraceback",
    "MaybeEncodingError",
    "PoolBroken",
    "RemoteTraceback",
    "TaskCancelled",
    "TaskTimeout",
    "WorkerDied",
]


class RemoteTraceback(Exception):
    """The cause of an exception that was raised in a worker: its traceback there, as text."""

    def __init__(self, tb: str) -> None:
        self.tb = tb

    def __str__(self) -> str:
        return self.tb


class ExceptionWithTraceback:
    """An exception on its way to the parent, with its traceback as text."""

    def __init__(self, exc: BaseException, tb: Any) -> None:
        lines = traceback.format_exception(type(exc), exc, tb)
        self.exc = exc
        # The traceback's frames stay here; an exception that keeps them keeps all their variables.
        self.exc.__traceback__ = None
        self.tb = f'\n"""\n{"".join(lines)}"""'

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild_exc, (self.exc, self.tb)


def rebuild_exc(exc: BaseException, tb: str) -> BaseException:
    """Put an exception together again in the parent."""
    exc.__cause__ = RemoteTraceback(tb)
    return exc


class MaybeEncodingError(Exception):
    """A result (or exception) of a task cannot be sent to the parent."""

    def __init__(self, exc: Any, value: Any) -> None:
        self.exc = repr(exc)
        self.value = repr(value)
        super().__init__(self.exc, self.value)

    def __str__(self) -> str:
        return f"Error sending result: '{self.value}'. Reason: '{self.exc}'"

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"


class WorkerDied(ProcessError):
    """The worker died while it was running this task; other tasks are not affected."""

    def __init__(
        self,
        exitcode: int | None,
        pid: int,
        item: int,
        task: str = "",
        out_of_memory: bool = False,
    ) -> None:
        super().__init__(exitcode, pid, item, task, out_of_memory)
        #: As ``Process.exitcode``: negative for a signal, None if it is not known.
        self.exitcode = exitcode
        self.pid = pid
        #: Which item of the map (or which submission) the worker was running.
        self.item = item
        #: The function, as text.
        self.task = task
        #: Whether it was the kernel's out-of-memory killer, as far as its counter tells.
        self.out_of_memory = out_of_memory

    @property
    def signal(self) -> signal.Signals | None:
        """The signal that ended the worker, if one did."""
        if self.exitcode is None or self.exitcode >= 0:
            return None
        try:
            return signal.Signals(-self.exitcode)
        except ValueError:
            return None

    def __str__(self) -> str:
        if self.exitcode is None:
            how = "died"
        elif self.exitcode < 0:
            name = self.signal
            how = f"was killed by {name.name if name is not None else f'signal {-self.exitcode}'}"
        else:
            how = f"exited with code {self.exitcode}"
        if self.out_of_memory:
            how += " (by the kernel's out-of-memory killer)"
        what = f" of {self.task}" if self.task else ""
        return f"worker {self.pid} {how} while running item {self.item}{what}"


class TaskTimeout(TimeoutError):
    """The task ran longer than its timeout allows, and was stopped."""


class TaskCancelled(ProcessError):
    """The task was cancelled before it had finished."""


class PoolBroken(ProcessError):
    """Workers die as soon as they start, so the pool has given up."""


class Unsent:
    """Stands for an item that could not be pickled: whoever unpickles it gets the error."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return _raise, (self.error,)


def _raise(error: BaseException) -> None:
    raise error


def unsent(error: Exception) -> Unsent:
    """What is sent to a worker instead of an item that cannot be."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = pickle.PicklingError(f"{type(error).__name__}: {error}")
    return Unsent(error)


def report(error: Exception) -> None:
    """Tell of an exception that has nobody to be raised to, as of one that ends a thread."""
    threading.excepthook(
        threading.ExceptHookArgs(
            (type(error), error, error.__traceback__, threading.current_thread())
        )
    )

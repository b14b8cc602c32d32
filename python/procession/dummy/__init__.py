"""The interface of the package, with threads in place of processes."""

from __future__ import annotations

import array
import builtins
import queue
import sys
import threading
import types
import weakref
from queue import Queue as Queue
from threading import (
    Barrier,
    BoundedSemaphore,
    Condition,
    Event,
    Lock,
    RLock,
    Semaphore,
)
from typing import TYPE_CHECKING, Any

from .connection import Pipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ..pool import ThreadPool

__all__ = [
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Event",
    "JoinableQueue",
    "Lock",
    "Manager",
    "Pipe",
    "Pool",
    "Process",
    "Queue",
    "RLock",
    "Semaphore",
    "active_children",
    "current_process",
    "freeze_support",
]

# Kept beside the threads, which have no place for it in their types.
_children_of: weakref.WeakKeyDictionary[threading.Thread, weakref.WeakSet[DummyProcess]]


class DummyProcess(threading.Thread):
    """A thread that is used like a process."""

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] = types.MappingProxyType({}),
    ) -> None:
        super().__init__(group, target, name, args, builtins.dict(kwargs))
        self._pid = None
        self._start_called = False
        self._parent = current_process()

    def start(self) -> None:
        """Start the thread; only the one that made it may."""
        starter = current_process()
        if self._parent is not starter:
            raise RuntimeError(f"Parent is {self._parent!r} but current_process is {starter!r}")
        self._start_called = True
        _children_of.setdefault(starter, weakref.WeakSet()).add(self)
        super().start()

    @property
    def exitcode(self) -> int | None:
        """0 once the thread has ended, None before."""
        return 0 if self._start_called and not self.is_alive() else None


_children_of = weakref.WeakKeyDictionary()
Process = DummyProcess
current_process = threading.current_thread


def active_children() -> builtins.list[DummyProcess]:
    """The living threads that this one started."""
    return [child for child in _children_of.get(current_process(), ()) if child.is_alive()]


def freeze_support() -> None:
    """Nothing: there is no program to be started again."""


class Namespace:
    """Something to set attributes on."""

    def __init__(self, /, **kwds: Any) -> None:
        self.__dict__.update(kwds)

    def __repr__(self) -> str:
        items = sorted(f"{name}={value!r}" for name, value in vars(self).items() if name[:1] != "_")
        return f"{type(self).__name__}({', '.join(items)})"


dict = builtins.dict
list = builtins.list


def Array(typecode: str, sequence: Any, lock: object = True) -> array.array[Any]:
    """An array; threads share it as it is."""
    return array.array(typecode, sequence)


class Value:
    """A value; threads share it as it is."""

    def __init__(self, typecode: str, value: Any, lock: object = True) -> None:
        self._typecode = typecode
        self._value = value

    @property
    def value(self) -> Any:
        """The value."""
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        self._value = value

    def __repr__(self) -> str:
        return f"<{type(self).__name__}({self._typecode!r}, {self._value!r})>"


def Manager() -> types.ModuleType:
    """This module: among threads everything is shared."""
    return sys.modules[__name__]


def shutdown() -> None:
    """Nothing: there is no server."""


def Pool(
    processes: int | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: Iterable[Any] = (),
) -> ThreadPool:
    """A pool of threads."""
    from ..pool import ThreadPool

    return ThreadPool(processes, initializer, initargs)


JoinableQueue = queue.Queue

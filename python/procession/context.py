"""Contexts: the package's functions, bound to one way of starting processes.

``get_context("spawn").Queue()`` and so on.  The package itself is the default context,
whose start method can be chosen once.  The modules behind the functions are imported
when a function is called, so that a program pays for what it uses.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, cast

from . import _compat, process, reduction as reduction

if TYPE_CHECKING:
    import logging

    from .connection import Connection
    from .managers import SyncManager
    from .pool import Pool as _Pool
    from .popen_fork import Popen
    from .queues import (
        JoinableQueue as _JoinableQueue,
        Queue as _Queue,
        SimpleQueue as _SimpleQueue,
    )
    from .synchronize import (
        Barrier as _Barrier,
        BoundedSemaphore as _BoundedSemaphore,
        Condition as _Condition,
        Event as _Event,
        Lock as _Lock,
        RLock as _RLock,
        Semaphore as _Semaphore,
    )

__all__ = ()


class ProcessError(_compat.LinkableError):
    """Base of the package's exceptions."""


class BufferTooShort(ProcessError):
    """A message is longer than the buffer; it is in ``args[0]``."""


class TimeoutError(ProcessError):
    """Something has not happened in time."""


class AuthenticationError(ProcessError):
    """The other side of a connection does not know the key."""


class BaseContext(_compat.Linkable):
    """What all contexts can do."""

    ProcessError = ProcessError
    BufferTooShort = BufferTooShort
    TimeoutError = TimeoutError
    AuthenticationError = AuthenticationError

    current_process = staticmethod(process.current_process)
    parent_process = staticmethod(process.parent_process)
    active_children = staticmethod(process.active_children)

    _name: ClassVar[str]
    Process: ClassVar[type[process.BaseProcess]]

    def cpu_count(self) -> int:
        """Return the number of CPUs of the machine."""
        count = os.cpu_count()
        if count is None:
            raise NotImplementedError("cannot determine number of cpus")
        return count

    def Manager(self) -> SyncManager:
        """Return a started manager, whose server holds objects for other processes."""
        from .managers import SyncManager

        manager = SyncManager(ctx=self.get_context())
        manager.start()
        return manager

    def Pipe(self, duplex: bool = True) -> tuple[Connection, Connection]:
        """Return two connections that are the ends of a pipe."""
        from .connection import Pipe

        return Pipe(duplex)

    def Lock(self) -> _Lock:
        """Return a lock."""
        from .synchronize import Lock

        return Lock(ctx=self.get_context())

    def RLock(self) -> _RLock:
        """Return a lock that its owner may acquire again."""
        from .synchronize import RLock

        return RLock(ctx=self.get_context())

    def Condition(self, lock: _Lock | _RLock | None = None) -> _Condition:
        """Return a condition variable."""
        from .synchronize import Condition

        return Condition(lock, ctx=self.get_context())

    def Semaphore(self, value: int = 1) -> _Semaphore:
        """Return a semaphore."""
        from .synchronize import Semaphore

        return Semaphore(value, ctx=self.get_context())

    def BoundedSemaphore(self, value: int = 1) -> _BoundedSemaphore:
        """Return a semaphore that cannot be released more often than acquired."""
        from .synchronize import BoundedSemaphore

        return BoundedSemaphore(value, ctx=self.get_context())

    def Event(self) -> _Event:
        """Return an event."""
        from .synchronize import Event

        return Event(ctx=self.get_context())

    def Barrier(
        self,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
    ) -> _Barrier:
        """Return a barrier for ``parties`` processes."""
        from .synchronize import Barrier

        return Barrier(parties, action, timeout, ctx=self.get_context())

    def Queue(self, maxsize: int = 0) -> _Queue[Any]:
        """Return a queue."""
        from .queues import Queue

        return Queue(maxsize, ctx=self.get_context())

    def JoinableQueue(self, maxsize: int = 0) -> _JoinableQueue[Any]:
        """Return a queue that can be waited for until all its items are done."""
        from .queues import JoinableQueue

        return JoinableQueue(maxsize, ctx=self.get_context())

    def SimpleQueue(self) -> _SimpleQueue[Any]:
        """Return a queue without bound and timeouts."""
        from .queues import SimpleQueue

        return SimpleQueue(ctx=self.get_context())

    def Pool(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        *,
        timeout: float | None = None,
        retries: int = 0,
    ) -> _Pool:
        """Return a pool of worker processes.

        ``timeout`` and ``retries`` are defaults for its calls, see ``procession.pool.Pool``.
        """
        from .pool import Pool

        ctx = self.get_context()
        return Pool(
            processes,
            initializer,
            initargs,
            maxtasksperchild,
            ctx,
            timeout=timeout,
            retries=retries,
        )

    def RawValue(self, typecode_or_type: Any, *args: Any) -> Any:
        """Return a ctypes object in shared memory."""
        from .sharedctypes import RawValue

        return RawValue(typecode_or_type, *args)

    def RawArray(self, typecode_or_type: Any, size_or_initializer: Any) -> Any:
        """Return a ctypes array in shared memory."""
        from .sharedctypes import RawArray

        return RawArray(typecode_or_type, size_or_initializer)

    def Value(self, typecode_or_type: Any, *args: Any, lock: Any = True) -> Any:
        """Return a ctypes object in shared memory, with a lock."""
        from .sharedctypes import Value

        return Value(typecode_or_type, *args, lock=lock, ctx=self.get_context())

    def Array(self, typecode_or_type: Any, size_or_initializer: Any, *, lock: Any = True) -> Any:
        """Return a ctypes array in shared memory, with a lock."""
        from .sharedctypes import Array

        return Array(typecode_or_type, size_or_initializer, lock=lock, ctx=self.get_context())

    def freeze_support(self) -> None:
        """Run the child's code if this is the child of a frozen program.

        Only frozen programs on Windows need it; here it does nothing.
        """

    def get_logger(self) -> logging.Logger:
        """Return the package's logger."""
        from .util import get_logger

        return get_logger()

    def log_to_stderr(self, level: str | int | None = None) -> logging.Logger:
        """Let the package's logger write to stderr."""
        from .util import log_to_stderr

        return log_to_stderr(level)

    def allow_connection_pickling(self) -> None:
        """Make connections and sockets picklable, which they are once this is imported."""
        from . import connection  # noqa: F401

    def set_executable(self, executable: str | bytes | os.PathLike[Any] | None) -> None:
        """Set the interpreter that is started for children that are not forked."""
        from .spawn import set_executable

        set_executable(executable)

    def set_forkserver_preload(
        self, module_names: Sequence[str], *, on_error: str = "ignore"
    ) -> None:
        """Set the modules that the fork server imports before it forks.

        ``on_error`` says what happens when one fails: "ignore", "warn" or "fail".
        """
        from .forkserver import set_forkserver_preload

        set_forkserver_preload(module_names, on_error=on_error)

    def get_context(self, method: str | None = None) -> BaseContext:
        """Return the context of a start method, or this one."""
        if method is None:
            return self
        try:
            context = _concrete_contexts[method]
        except KeyError:
            raise ValueError(f"cannot find context for {method!r}") from None
        context._check_available()
        return context

    def get_start_method(self, allow_none: bool = False) -> str | None:
        """Return the name of the start method."""
        return self._name

    def set_start_method(self, method: str | None, force: bool = False) -> None:
        """Choose the start method; only the default context has a choice."""
        raise ValueError("cannot set start method of concrete context")

    @property
    def reducer(self) -> ModuleType:
        """The module that reduces objects to what can be sent to other processes."""
        return cast("ModuleType", globals()["reduction"])

    @reducer.setter
    def reducer(self, reduction: ModuleType) -> None:
        globals()["reduction"] = reduction

    def _check_available(self) -> None:
        pass


class Process(process.BaseProcess):
    """A process that starts in the way of the default context."""

    _start_method = None

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Popen:
        return _default_context.get_context().Process._Popen(process_obj)

    @staticmethod
    def _after_fork() -> None:
        _default_context.get_context().Process._after_fork()


class DefaultContext(BaseContext):
    """The context whose start method can be chosen, once."""

    Process = Process

    def __init__(self, context: BaseContext) -> None:
        self._default_context = context
        self._actual_context: BaseContext | None = None

    def get_context(self, method: str | None = None) -> BaseContext:
        """Return the context of a start method, or the one in use, which is settled now."""
        if method is not None:
            return super().get_context(method)
        if self._actual_context is None:
            self._actual_context = self._default_context
        return self._actual_context

    def set_start_method(self, method: str | None, force: bool = False) -> None:
        """Choose the start method; with ``force`` also when it has been chosen before."""
        if self._actual_context is not None and not force:
            raise RuntimeError("context has already been set")
        if method is None and force:
            self._actual_context = None
            return
        self._actual_context = self.get_context(method)

    def get_start_method(self, allow_none: bool = False) -> str | None:
        """Return the start method; with ``allow_none`` None if none has been chosen."""
        if self._actual_context is None:
            if allow_none:
                return None
            self._actual_context = self._default_context
        return self._actual_context._name

    def get_all_start_methods(self) -> list[str]:
        """Return the names of the start methods, the default first."""
        others = [name for name in _concrete_contexts if name != self._default_context._name]
        return [self._default_context._name, *others]


class ForkProcess(process.BaseProcess):
    """A process that is a fork of this one."""

    _start_method = "fork"

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Popen:
        from .popen_fork import Popen

        return Popen(process_obj)


class SpawnProcess(process.BaseProcess):
    """A process that is a fresh interpreter."""

    _start_method = "spawn"

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Popen:
        from .popen_spawn_posix import Popen

        return Popen(process_obj)

    @staticmethod
    def _after_fork() -> None:
        """Nothing was forked."""


class ForkServerProcess(process.BaseProcess):
    """A process that is a fork of the fork server."""

    _start_method = "forkserver"

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Popen:
        from .popen_forkserver import Popen

        return Popen(process_obj)


class ForkContext(BaseContext):
    """Start processes by forking this one."""

    _name = "fork"
    Process = ForkProcess


class SpawnContext(BaseContext):
    """Start processes as fresh interpreters."""

    _name = "spawn"
    Process = SpawnProcess


class ForkServerContext(BaseContext):
    """Start processes by forking a clean template of the program."""

    _name = "forkserver"
    Process = ForkServerProcess

    def _check_available(self) -> None:
        if not reduction.HAVE_SEND_HANDLE:
            raise ValueError("forkserver start method not available")


_concrete_contexts: dict[str, BaseContext] = {
    "fork": ForkContext(),
    "spawn": SpawnContext(),
    "forkserver": ForkServerContext(),
}
# As in the standard library of the interpreter that runs.
_default_method = "forkserver" if sys.version_info >= (3, 14) else "fork"
_default_context = DefaultContext(_concrete_contexts[_default_method])


def _force_start_method(method: str) -> None:
    _default_context._actual_context = _concrete_contexts[method]


_tls = threading.local()


def get_spawning_popen() -> Popen | None:
    """Return the Popen object for which this thread is pickling a process object."""
    return cast("Popen | None", getattr(_tls, "spawning_popen", None))


def set_spawning_popen(popen: Popen | None) -> None:
    """Note for which Popen object this thread is pickling from now on."""
    _tls.spawning_popen = popen
    _compat.set_spawning_popen(popen)


def assert_spawning(obj: object) -> None:
    """Raise RuntimeError unless ``obj`` is being pickled for another process of the program.

    That is so while a child is being started, and while something is sent through a
    queue, pipe or pool of this package.
    """
    if get_spawning_popen() is None:
        native = sys.modules.get(f"{__package__}._native")
        if native is None or not native.in_transit():
            raise RuntimeError(
                f"{type(obj).__name__} objects should only be shared between processes"
                " through inheritance"
            )

"""Locks, semaphores, conditions, events and barriers, shared between processes.

What they do is native (see the engine's ``sync``); here are the constructors, the way they are
passed to other processes, and how they show themselves.  A lock whose owner was killed is recovered
by the next acquirer, who is told: a ``LockRecoveredWarning``, and the lock's ``recovered`` is true.
With ``on_owner_death="raise"`` it is an ``OwnerDiedError`` instead (the lock is held when it is
raised).
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any, Literal

from . import _native, context, process, util

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BoundedSemaphore", "Condition", "Event", "Lock", "RLock", "Semaphore"]

SEM_VALUE_MAX = 2**31 - 1
RECURSIVE_MUTEX, SEMAPHORE = range(2)

OnOwnerDeath = Literal["warn", "raise", "ignore"]


class LockRecoveredWarning(RuntimeWarning):
    """A lock was taken over from a process that died while it had it."""


class OwnerDiedError(context.ProcessError):
    """A lock was taken over from a process that died while it had it.

    The lock is held by the caller when this is raised.
    """


class _Shared:
    """What all of these have in common: a context, and how they are passed on.

    The classes with quick methods keep their few attributes in slots: CPython 3.13 finds the
    methods of an object with a native base faster as long as the object has no dictionary.
    """

    _is_fork_ctx: bool

    if TYPE_CHECKING:

        def handle(self) -> tuple[int, int]: ...
        def _adopt(self, index: int, generation: int) -> None: ...
        def _set_name(self, name: str) -> None: ...

    def _belongs_to(self, ctx: Any) -> None:
        ctx = ctx or context._default_context.get_context()
        self._is_fork_ctx = ctx.get_start_method() == "fork"

    def _pass_on(self) -> tuple[int, int]:
        """The handle, for a child that is started or a message to another member."""
        context.assert_spawning(self)
        popen = context.get_spawning_popen()
        if popen is not None:
            if self._is_fork_ctx:
                # A child could have it all the same.  But programs that do this do it by mistake.
                raise RuntimeError(
                    "A SemLock created in a fork context is being shared with a process in a "
                    "spawn context. This is not supported. Please use the same context to create "
                    "multiprocessing objects and Process."
                )
            popen.keep(self)
        return self.handle()

    @staticmethod
    def _make_name() -> str:
        return f"{process.current_process()._config.get('semprefix', '/mp')}-{os.urandom(4).hex()}"


class SemLock(_Shared):
    """Base of the classes that are acquired and released; of use by itself as well.

    The classes that derive from it have a native core, whose methods come first; one that is made
    as such passes its calls on to the one of them that its arguments describe.
    """

    _rand = None
    _on_owner_death: OnOwnerDeath = "warn"
    _inner: SemLock

    def __init__(self, kind: int, value: int, maxvalue: int, *, ctx: Any) -> None:
        if kind not in (RECURSIVE_MUTEX, SEMAPHORE):
            raise ValueError(f"kind must be RECURSIVE_MUTEX or SEMAPHORE, not {kind!r}")
        if kind == RECURSIVE_MUTEX:
            if (value, maxvalue) != (1, 1):
                raise ValueError("a recursive mutex is made free: value and maxvalue must be 1")
            self._inner = RLock(ctx=ctx)
        else:
            if not 0 <= value <= maxvalue:
                raise ValueError(f"value must be 0 to {maxvalue}, not {value!r}")
            semaphore = self._inner = Semaphore.__new__(Semaphore)
            semaphore._create_with(value, maxvalue)
            semaphore._set_up(ctx, "warn")
        self._is_fork_ctx = self._inner._is_fork_ctx

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take the lock, or one off the counter; false if it takes too long."""
        return self._inner.acquire(block, timeout)

    def release(self) -> None:
        """Give back what was acquired."""
        self._inner.release()

    def locked(self) -> bool:
        """Is there nothing to be acquired at this moment?"""
        return self._inner.locked()

    def __enter__(self) -> bool:
        return self._inner.__enter__()

    def __exit__(
        self, kind: object = None, value: object = None, traceback: object = None, /
    ) -> None:
        self._inner.__exit__(kind, value, traceback)

    def handle(self) -> tuple[int, int]:
        """How other members of the session find it."""
        return self._inner.handle()

    def _is_mine(self) -> bool:
        return self._inner._is_mine()

    def _get_value(self) -> int:
        return self._inner._get_value()

    if TYPE_CHECKING:

        def owner_info(self) -> tuple[int, str] | None: ...

    @property
    def _semlock(self) -> Any:
        """What a class derived from ours overrides methods of: its own may go by way of this."""
        inner = self.__dict__.get("_inner")
        if inner is not None:
            return inner
        classes = type(self).__mro__
        ours = next(n for n, cls in enumerate(classes) if cls.__module__ == __name__)
        return super(classes[ours - 1], self) if ours else self

    def _is_zero(self) -> bool:
        return self._get_value() == 0

    def get_value(self) -> int:
        """Return how many more acquisitions would not block."""
        return self._get_value()

    def _on_recovered(self) -> None:
        text = f"{self!r} was held by a process that died; what it protects may be half done"
        if self._on_owner_death == "raise":
            raise OwnerDiedError(text)
        if self._on_owner_death == "warn":
            warnings.warn(text, LockRecoveredWarning, stacklevel=3)

    def __getstate__(self) -> Any:
        if "_inner" in self.__dict__:
            return self._inner
        return self._pass_on(), self._is_fork_ctx, self._on_owner_death

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, SemLock):
            self._inner, self._is_fork_ctx = state, state._is_fork_ctx
            return
        handle, self._is_fork_ctx, self._on_owner_death = state
        self._adopt(*handle)
        util.debug(f"recreated blocker with handle {handle[0]!r}")

    def _set_up(self, ctx: Any, on_owner_death: OnOwnerDeath) -> None:
        if on_owner_death not in ("warn", "raise", "ignore"):
            raise ValueError(
                f"on_owner_death must be warn, raise or ignore, not {on_owner_death!r}"
            )
        self._belongs_to(ctx)
        if on_owner_death != "warn":
            self._on_owner_death = on_owner_death
        util.debug(f"created semlock with handle {self.handle()[0]}")


def _owner_name(lock: Any) -> str:
    """Who has a lock, as the standard library words it."""
    try:
        if lock._is_mine():
            name = process.current_process().name
            if threading.current_thread().name != "MainThread":
                name += "|" + threading.current_thread().name
            return str(name)
        if not lock.locked():
            return "None"
        if lock.owner_info() is not None and lock.owner_info()[0] == os.getpid():
            return "SomeOtherThread"
        return "SomeOtherProcess"
    except Exception:
        return "unknown"


class Lock(_native.LockCore, SemLock):
    """A lock that any process or thread may release."""

    __slots__ = ("_is_fork_ctx",)

    def __init__(self, *, ctx: Any = None, on_owner_death: OnOwnerDeath = "warn") -> None:
        self._create()
        self._set_up(ctx, on_owner_death)

    def __repr__(self) -> str:
        return f"<{self.__class__.__name__}(owner={_owner_name(self)})>"


class RLock(_native.RLockCore, SemLock):
    """A lock that its owner may acquire several times."""

    __slots__ = ("_is_fork_ctx",)

    def __init__(self, *, ctx: Any = None, on_owner_death: OnOwnerDeath = "warn") -> None:
        self._create()
        self._set_up(ctx, on_owner_death)

    def __repr__(self) -> str:
        owner = _owner_name(self)
        count: int | str = self._count()
        if owner in ("SomeOtherThread", "SomeOtherProcess"):
            count = "nonzero"
        elif owner == "unknown":
            count = "unknown"
        return f"<{self.__class__.__name__}({owner}, {count})>"


class Semaphore(_native.SemaphoreCore, SemLock):
    """A counter that blocks instead of going below zero."""

    __slots__ = ("_is_fork_ctx",)

    def __init__(
        self, value: int = 1, *, ctx: Any = None, on_owner_death: OnOwnerDeath = "warn"
    ) -> None:
        self._create_with(value, SEM_VALUE_MAX)
        self._set_up(ctx, on_owner_death)

    def _create_with(self, value: int, maximum: int) -> None:
        if not 0 <= value <= SEM_VALUE_MAX:
            raise OSError(22, "Invalid argument")
        self._create(value, maximum)

    def _is_mine(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"<{self.__class__.__name__}(value={self._shown_value()})>"

    def _shown_value(self) -> int | str:
        try:
            return self._get_value()
        except Exception:
            return "unknown"


class BoundedSemaphore(Semaphore):
    """A semaphore that refuses to be released more often than it was acquired."""

    __slots__ = ("_maximum",)

    def __init__(
        self, value: int = 1, *, ctx: Any = None, on_owner_death: OnOwnerDeath = "warn"
    ) -> None:
        self._create_with(value, value)
        self._set_up(ctx, on_owner_death)
        self._maximum = value

    def __getstate__(self) -> Any:
        return super().__getstate__(), self._maximum

    def __setstate__(self, state: Any) -> None:
        state, self._maximum = state
        super().__setstate__(state)

    def __repr__(self) -> str:
        return f"<{self.__class__.__name__}(value={self._shown_value()}, maxvalue={self._maximum})>"


for _cls in (Lock, RLock, Semaphore, BoundedSemaphore):
    _native.own_methods(_cls, "acquire", "release")


class Condition(_Shared, _native.ConditionCore):
    """A place to wait, with a lock, until another process says that something has changed."""

    def __init__(self, lock: Any = None, *, ctx: Any = None) -> None:
        self._create()
        self._belongs_to(ctx)
        self._bind(lock if lock is not None else ctx.RLock() if ctx is not None else RLock())

    def _bind(self, lock: Any) -> None:
        self._lock = lock
        self.acquire: Callable[..., bool] = lock.acquire
        self.release: Callable[[], None] = lock.release

    def __getstate__(self) -> Any:
        return self._pass_on(), self._is_fork_ctx, self._lock

    def __setstate__(self, state: Any) -> None:
        handle, self._is_fork_ctx, lock = state
        self._adopt(*handle)
        self._bind(lock)

    def __enter__(self) -> bool:
        return bool(self._lock.__enter__())

    def __exit__(self, *args: object) -> None:
        self._lock.__exit__(*args)

    def __repr__(self) -> str:
        try:
            waiters: int | str = self._waiters()
        except Exception:
            waiters = "unknown"
        return f"<{self.__class__.__name__}({self._lock}, {waiters})>"

    def wait(self, timeout: float | None = None) -> bool:
        """Release the lock, wait to be notified, take the lock again; false if the time was up."""
        assert self._lock._semlock._is_mine(), "must acquire() condition before using wait()"
        waiter = self._enlist()
        levels = self._lock._semlock._count()
        for _ in range(levels):
            self._lock.release()
        try:
            return waiter.wait(timeout)
        finally:
            for _ in range(levels):
                self._lock.acquire()

    def notify(self, n: int = 1) -> None:
        """Let up to n waiters go on, the longest waiting first."""
        assert self._lock._semlock._is_mine(), "lock is not owned"
        self._notify(max(n, 0))

    def notify_all(self) -> None:
        """Let all waiters go on."""
        self.notify(n=SEM_VALUE_MAX)

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        """Wait until the predicate is true; return its last value."""
        result = predicate()
        deadline = None if timeout is None else time.monotonic() + timeout
        while not result:
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                break
            self.wait(remaining)
            result = predicate()
        return result


class Event(_Shared, _native.EventCore):
    """A flag that processes can wait for."""

    __slots__ = ("_is_fork_ctx",)

    def __init__(self, *, ctx: Any = None) -> None:
        self._create()
        self._belongs_to(ctx)

    # Alone of its kind it takes the attributes along that a program has given it: in the standard
    # library it has no say in what is passed on.
    def __getstate__(self) -> Any:
        return self._pass_on(), self._is_fork_ctx, vars(self)

    def __setstate__(self, state: Any) -> None:
        handle, self._is_fork_ctx, attributes = state
        self._adopt(*handle)
        vars(self).update(attributes)

    def __repr__(self) -> str:
        status = "set" if self.is_set() else "unset"
        return f"<{type(self).__qualname__} at {id(self):#x} {status}>"


class Barrier(_Shared, _native.BarrierCore):
    """A place where a number of processes wait for each other.

    A party that is killed breaks the barrier: the others get ``threading.BrokenBarrierError``.
    """

    def __init__(
        self,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
        *,
        ctx: Any = None,
    ) -> None:
        if parties < 1:
            raise ValueError("parties must be > 0")
        self._create(parties)
        self._belongs_to(ctx)
        self._action = action
        self._timeout = timeout

    def __getstate__(self) -> Any:
        return self._pass_on(), self._is_fork_ctx, self._action, self._timeout

    def __setstate__(self, state: Any) -> None:
        handle, self._is_fork_ctx, self._action, self._timeout = state
        self._adopt(*handle)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the other parties; return this one's place in the order of arrival."""
        deadline = self._timeout if timeout is None else timeout
        until = None if deadline is None else time.monotonic() + deadline
        arrived = self._arrive(deadline)
        if arrived is None:
            raise threading.BrokenBarrierError
        index, last = arrived
        if last:
            self._act()
        left = None if until is None else max(until - time.monotonic(), 0.0)
        if not (self._open(left) if last else self._wait_open(left)):
            raise threading.BrokenBarrierError
        return index

    def _act(self) -> None:
        try:
            if self._action is not None:
                self._action()
        except BaseException:
            self.abort()
            raise

    def __repr__(self) -> str:
        cls = self.__class__
        where = f"{cls.__module__}.{cls.__qualname__} at {id(self):#x}"
        if self.broken:
            return f"<{where}: broken>"
        return f"<{where}: waiters={self.n_waiting}/{self.parties}>"

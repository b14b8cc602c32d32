"""Queues between processes.

``put`` and ``get`` are native: a put that has returned is committed to the session's shared memory,
without a feeder thread, and survives the death of its sender.  So there is nothing that
``join_thread`` would have to wait for, and a process may be joined before its queue is drained.
"""

from __future__ import annotations

import sys
from queue import Empty, Full
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from . import _native, synchronize, util
from .reduction import ForkingPickler

if TYPE_CHECKING:
    import types

__all__ = ["JoinableQueue", "Queue", "SimpleQueue"]

_T = TypeVar("_T")


# See there for whom it is.
_PARTS = f"{__package__}._queue_parts"


def _uses_locks(cls: type) -> bool:
    """Does the code of a class name the locks of the standard library's queues?"""
    codes = (getattr(value, "__code__", None) for value in vars(cls).values())
    names = {name for code in codes if code is not None for name in code.co_names}
    return not names.isdisjoint({"_rlock", "_wlock"})


def _replace_base(cls: type, old: type, new: type) -> None:
    cls.__bases__ = tuple(new if base is old else base for base in cls.__bases__)


class _End:
    """Reader's or writer's side of a queue, where programs expect a connection.

    The queue makes one whenever it is asked: if it kept them, it would be part of a cycle, and stay
    until the garbage collector comes by.
    """

    def __init__(self, queue: Any, *, reader: bool) -> None:
        self._queue = queue
        self._is_reader = reader

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _End):
            return NotImplemented
        return self._queue is other._queue and self._is_reader == other._is_reader

    def __hash__(self) -> int:
        return hash((id(self._queue), self._is_reader))

    @property
    def closed(self) -> bool:
        """Has this process closed the queue?"""
        return bool(self._queue._closed)

    @property
    def _session_object(self) -> Any:
        """What ``connection.wait`` asks whether there is something to get."""
        return self._queue

    def fileno(self) -> int:
        """A descriptor that is readable while there is something to get."""
        return int(self._queue.fileno())

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Is there something to get?"""
        return bool(self._queue.poll(timeout))

    def recv(self) -> Any:
        """Get an object."""
        return self._queue.get()

    def recv_bytes(self) -> bytes:
        """Get an object, as its pickle."""
        return _native.dumps(self._queue.get())

    def send_bytes(self, buf: Any) -> None:
        """Put the object that the pickle is of."""
        self._queue.put(ForkingPickler.loads(buf))

    def send(self, obj: Any) -> None:
        """Put an object."""
        self._queue.put(obj)

    def close(self) -> None:
        """Do nothing: a side takes nothing that could be given back."""

    def __repr__(self) -> str:
        return f"<{'reader' if self._is_reader else 'writer'} of {self._queue!r}>"


class _Base(synchronize._Shared, _native.QueueCore, Generic[_T]):
    """Making queues and passing them on."""

    __slots__ = ("_ignore_epipe", "_is_fork_ctx", "_maxsize")

    if TYPE_CHECKING:

        def put(self, obj: _T, block: bool = True, timeout: float | None = None) -> None: ...
        def get(self, block: bool = True, timeout: float | None = None) -> _T: ...

    def _set_up(self, maxsize: int, ctx: Any) -> None:
        self._belongs_to(ctx)
        self._maxsize = maxsize if maxsize > 0 else 2**31 - 1
        self._create(maxsize)

    def __getstate__(self) -> Any:
        return self._pass_on(), self._is_fork_ctx, self._maxsize

    def __setstate__(self, state: Any) -> None:
        handle, self._is_fork_ctx, self._maxsize = state
        self._adopt(*handle)

    # Libraries put wrappers of their own in the place of these, for what they do with them.
    @property
    def _reader(self) -> Any:
        return self.__dict__.get("_wrapped_reader") or _End(self, reader=True)

    @_reader.setter
    def _reader(self, wrapper: Any) -> None:
        self._wrapped_reader = wrapper

    @property
    def _writer(self) -> Any:
        return self.__dict__.get("_wrapped_writer") or _End(self, reader=False)

    @_writer.setter
    def _writer(self, wrapper: Any) -> None:
        self._wrapped_writer = wrapper

    def _on_queue_feeder_error(self, e: BaseException, obj: Any) -> None:
        """Report an object that cannot be pickled, and so was not put.

        May be overridden; it is called in the thread that puts.
        """
        import traceback

        sys.stderr.write("".join(traceback.format_exception(e)))
        sys.stderr.flush()


class Queue(_Base[_T]):
    """A queue for any number of producers and consumers."""

    def __init_subclass__(cls, **kwds: Any) -> None:
        super().__init_subclass__(**kwds)
        if "_start_thread" in vars(cls) and cls.__module__ != _PARTS:
            from . import _queue_parts

            _replace_base(cls, Queue, _queue_parts.PartsQueue)

    def __init__(self, maxsize: int = 0, *, ctx: Any = None) -> None:
        self._set_up(maxsize, ctx)
        self._ignore_epipe = False
        util.debug("Queue._after_fork()")

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        self._ignore_epipe = False

    # By way of the others, so that who overrides those has all that is put and got.
    def put_nowait(self, obj: _T) -> None:
        """Put without waiting for room."""
        self.put(obj, False)

    def get_nowait(self) -> _T:
        """Take without waiting."""
        return self.get(False)

    def close(self) -> None:
        """This process will put and get no more."""
        self._close()

    def join_thread(self) -> None:
        """Return at once: everything that was put is in the queue already."""
        util.debug("Queue.join_thread()")
        assert self._closed, f"Queue {self!r} not closed"

    def cancel_join_thread(self) -> None:
        """Do nothing: there is no thread, and nothing is lost when this process exits."""
        util.debug("Queue.cancel_join_thread()")

    def _terminate_broken(self) -> None:
        # Called by concurrent.futures when its workers are gone.
        self.close()

    def __class_getitem__(cls, item: Any) -> types.GenericAlias:
        import types

        return types.GenericAlias(cls, item)


class JoinableQueue(Queue[_T]):
    """A queue whose consumers say when they are done with what they got."""

    def task_done(self) -> None:
        """Say that a task that was got is finished."""
        self._task_done()

    def join(self) -> None:
        """Wait until everything that was put has been got and finished."""
        self._join()


_native.own_methods(Queue, "put", "get")
# Its `get` is that of `Queue`, also for who replaces that one.
_native.own_methods(JoinableQueue, "put")


class SimpleQueue(_Base[_T]):
    """A queue with little more than put and get."""

    def __init_subclass__(cls, **kwds: Any) -> None:
        super().__init_subclass__(**kwds)
        if cls.__module__ != _PARTS and _uses_locks(cls):
            from . import _queue_parts

            _replace_base(cls, SimpleQueue, _queue_parts.PartsSimpleQueue)

    def __init__(self, *, ctx: Any = None) -> None:
        self._set_up(0, ctx)

    def _poll(self, timeout: float | None = 0.0) -> bool:
        return self.poll(timeout)

    def _check_open(self) -> None:
        if self._closed:
            raise OSError("handle is closed")

    def empty(self) -> bool:
        """Is there nothing to get?"""
        self._check_open()
        return super().empty()

    def close(self) -> None:
        """This process will put and get no more."""
        self._close()

    def get(self) -> _T:  # type: ignore[override]
        """Take the oldest object out, waiting for it."""
        self._check_open()
        return super().get()

    def put(self, obj: _T) -> None:  # type: ignore[override]
        """Put an object in."""
        self._check_open()
        super().put(obj)

    def _on_queue_feeder_error(self, e: BaseException, obj: Any) -> None:
        raise e

    def __class_getitem__(cls, item: Any) -> types.GenericAlias:
        import types

        return types.GenericAlias(cls, item)


# What the standard library's queues use to end their threads: libraries that derive queues from
# ours for threads of their own import it.
_sentinel = object()

# As in the standard library, the exceptions can be had from here.
_ = (Empty, Full)

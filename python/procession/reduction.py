"""How objects become bytes that another process can read, and how descriptors travel.

``ForkingPickler`` is a pickler to which reductions can be added that only make sense
between processes of one program: those of locks, connections, sockets.
"""

from __future__ import annotations

import array
import copyreg
import functools
import io
import pickle
import socket
import sys
from abc import ABCMeta
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, cast

__all__ = [
    "DupFd",
    "ForkingPickler",
    "dump",
    "recv_handle",
    "recvfds",
    "register",
    "send_handle",
    "sendfds",
]

HAVE_SEND_HANDLE = hasattr(socket, "SCM_RIGHTS") and hasattr(socket.socket, "sendmsg")
# Some systems lose a descriptor unless its receipt is confirmed; Linux does not.
ACKNOWLEDGE = False

_Reduce = Callable[[Any], Any]


class ForkingPickler(pickle.Pickler):
    """A pickler with further reductions, for objects shared between processes."""

    _extra_reducers: ClassVar[dict[type, _Reduce]] = {}
    _copyreg_dispatch_table = copyreg.dispatch_table

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.dispatch_table = self._copyreg_dispatch_table.copy()
        self.dispatch_table.update(self._extra_reducers)

    @classmethod
    def register(cls, type: type, reduce: _Reduce) -> None:
        """Let ``reduce`` reduce the objects of a type."""
        cls._extra_reducers[type] = reduce

    @classmethod
    def dumps(cls, obj: Any, protocol: int | None = None) -> memoryview:
        """Return the pickle of ``obj``, as a buffer."""
        buffer = io.BytesIO()
        cls(buffer, protocol).dump(obj)
        return buffer.getbuffer()

    loads = pickle.loads


register = ForkingPickler.register


def dump(obj: Any, file: Any, protocol: int | None = None) -> None:
    """Write the pickle of ``obj`` to a file, with the reductions of this module."""
    ForkingPickler(file, protocol).dump(obj)


# -------------------------------------------------------------------------------- descriptors


def sendfds(sock: socket.socket, fds: Iterable[int]) -> None:
    """Send descriptors over a Unix socket."""
    numbers = array.array("i", fds)
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)
    sock.sendmsg([bytes([len(numbers) % 256])], [rights])


def recvfds(sock: socket.socket, size: int) -> list[int]:
    """Receive up to ``size`` descriptors, sent by sendfds(), from a Unix socket."""
    numbers = array.array("i")
    space = socket.CMSG_SPACE(numbers.itemsize * size)
    message, ancillary, _, _ = sock.recvmsg(1, space, socket.MSG_CMSG_CLOEXEC)
    if not message and not ancillary:
        raise EOFError
    if len(ancillary) != 1:
        raise RuntimeError(f"received {len(ancillary)} items of ancdata")
    level, kind, data = ancillary[0]
    if (level, kind) != (socket.SOL_SOCKET, socket.SCM_RIGHTS) or len(data) % numbers.itemsize:
        raise RuntimeError("Invalid data received")
    numbers.frombytes(data)
    if not message or len(numbers) % 256 != message[0]:
        raise AssertionError(f"Len is {len(numbers)} but msg[0] is {message[:1]!r}")
    return list(numbers)


def _socket_of(conn: Any) -> socket.socket:
    return socket.fromfd(conn.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)


def _is_pipe_end(conn: Any) -> bool:
    # Not imported for a program that has no pipes.
    native = sys.modules.get(f"{__package__}._native")
    return native is not None and isinstance(conn, native.PipeEnd)


def send_handle(conn: Any, handle: int, destination_pid: int | None) -> None:
    """Send a descriptor over a connection between processes of this machine.

    The end of a ``Pipe()`` has no socket that leads to its peer.  It sends where a duplicate of the
    descriptor can be had, so this process has to be there until the receiver has it.
    """
    if _is_pipe_end(conn):
        from . import resource_sharer

        conn.send(resource_sharer.DupFd(handle))
        return
    with _socket_of(conn) as sock:
        sendfds(sock, [handle])


def recv_handle(conn: Any) -> int:
    """Receive a descriptor from a connection; it belongs to the caller."""
    if _is_pipe_end(conn):
        from . import resource_sharer

        duplicate = conn.recv()
        if not isinstance(duplicate, resource_sharer.DupFd):
            raise RuntimeError("received a message without a descriptor")
        return duplicate.detach()
    with _socket_of(conn) as sock:
        return recvfds(sock, 1)[0]


def DupFd(fd: int) -> Any:
    """Return something picklable whose detach() gives ``fd`` in the process that has it."""
    # Not above: the module of contexts imports this one, which is what their `reducer` is.
    from .context import get_spawning_popen

    popen: Any = get_spawning_popen()
    if popen is not None:
        return popen.DupFd(popen.duplicate_for_child(fd))
    from . import resource_sharer

    return resource_sharer.DupFd(fd)


# ------------------------------------------------------------------------------- reductions


def reduce_array(array: Any) -> Any:
    """Pickle a NumPy array so that it arrives writable, as what is received is its receiver's own.

    With protocol 5 one that cannot be written to here could not be there either; in the standard
    library, which pickles with an older one, it can.
    """
    return array.__reduce_ex__(5 if array.flags.writeable else 4)


def _reduce_method(method: Any) -> tuple[Any, ...]:
    owner = method.__class__ if method.__self__ is None else method.__self__
    return getattr, (owner, method.__func__.__name__)


def _reduce_method_descriptor(method: Any) -> tuple[Any, ...]:
    return getattr, (method.__objclass__, method.__name__)


def _reduce_partial(partial: functools.partial[Any]) -> tuple[Any, ...]:
    return _rebuild_partial, (partial.func, partial.args, partial.keywords or {})


def _rebuild_partial(
    func: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]
) -> functools.partial[Any]:
    return functools.partial(func, *args, **keywords)


def _reduce_socket(sock: socket.socket) -> tuple[Any, ...]:
    return _rebuild_socket, (DupFd(sock.fileno()), sock.family, sock.type, sock.proto)


def _rebuild_socket(duplicate: Any, family: int, type: int, proto: int) -> socket.socket:
    return socket.socket(family, type, proto, fileno=cast("int", duplicate.detach()))


class _HasMethod:
    def method(self) -> None:
        pass


def _register_all() -> None:
    register(type(_HasMethod().method), _reduce_method)
    register(type(list.append), _reduce_method_descriptor)
    register(type(int.__add__), _reduce_method_descriptor)
    register(functools.partial, _reduce_partial)
    register(socket.socket, _reduce_socket)


_register_all()


class AbstractReducer(metaclass=ABCMeta):  # noqa: B024 - as it has always been
    """Base for modules that take this one's place as ``context.reducer``."""

    ForkingPickler = ForkingPickler
    register = register
    dump = dump
    send_handle = send_handle
    recv_handle = recv_handle
    sendfds = sendfds
    recvfds = recvfds
    DupFd = DupFd

    _reduce_method = _reduce_method
    _reduce_method_descriptor = _reduce_method_descriptor
    _rebuild_partial = _rebuild_partial
    _reduce_socket = _reduce_socket
    _rebuild_socket = _rebuild_socket

    def __init__(self, *args: Any) -> None:
        _register_all()

"""Connections between processes, and waiting for any of them.

`Pipe()` gives two ends that talk through the session's shared memory; `Listener` and `Client` talk
over sockets, to other programs and machines as well, in the standard library's wire format.
"""

from __future__ import annotations

import math
import select
import time
from typing import TYPE_CHECKING, Any, Protocol

from . import _native, context, reduction, resource_sharer
from ._connection_auth import (
    _CHALLENGE as _CHALLENGE,
    _FAILURE as _FAILURE,
    _WELCOME as _WELCOME,
    MESSAGE_LENGTH as MESSAGE_LENGTH,
    _create_response as _create_response,
    _verify_challenge as _verify_challenge,
    answer_challenge as answer_challenge,
    deliver_challenge as deliver_challenge,
)
from ._connection_base import (
    Connection as Connection,
    _ConnectionBase as _ConnectionBase,
)
from ._connection_socket import (
    Client as Client,
    Listener as Listener,
    SocketClient as SocketClient,
    SocketListener as SocketListener,
    _validate_family as _validate_family,
    address_type as address_type,
    arbitrary_address as arbitrary_address,
    default_family as default_family,
    families as families,
)
from ._connection_xml import (
    ConnectionWrapper as ConnectionWrapper,
    XmlClient as XmlClient,
    XmlListener as XmlListener,
    _xml_dumps as _xml_dumps,
    _xml_loads as _xml_loads,
)
from .context import AuthenticationError as AuthenticationError, BufferTooShort as BufferTooShort

if TYPE_CHECKING:
    from collections.abc import Iterable

    class _Detachable(Protocol):
        def detach(self) -> int: ...


__all__ = ["Client", "Listener", "Pipe", "wait"]

# Their names before Python 3.12.
CHALLENGE, WELCOME, FAILURE = _CHALLENGE, _WELCOME, _FAILURE

BUFSIZE = 8192
CONNECTION_TIMEOUT = 20.0


class PipeConnection(_native.PipeEnd, Connection):
    """One end of a `Pipe()`: messages go through the session's shared memory.

    Everything that sends, receives and waits is native.  An end is passed on by its handle, to a
    child that is being started or inside a message to any process of the session.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        context.assert_spawning(self)
        return _reduce_pipe_end(self)


_native.own_methods(PipeConnection, "send", "recv", "send_bytes", "recv_bytes", "poll")


class _ParkedEnd:
    """A pipe end that left the session: in a message through a socket, such as a manager's.

    Nobody in between holds the end, which would be gone before the message arrives; so this process
    does, until the receiver asks for it.
    """

    def __init__(self, end: PipeConnection) -> None:
        kept = [PipeConnection.from_handle(*end.handle())]

        def send(conn: Connection, pid: int) -> None:
            conn.send(tuple(kept[0].handle()))
            # Until the receiver has the end, or has gone.
            conn.poll(None)

        self._id = resource_sharer._resource_sharer.register(send, kept.clear)

    def detach(self) -> PipeConnection:
        """The end; once, in any process of the session."""
        with resource_sharer._resource_sharer.get_connection(self._id) as conn:
            end: PipeConnection = PipeConnection.from_handle(*conn.recv())
            return end


def _reduce_pipe_end(end: PipeConnection) -> tuple[Any, ...]:
    popen = context.get_spawning_popen()
    if popen is not None:
        popen.keep(end)
    elif not _native.in_transit():
        return _ParkedEnd.detach, (_ParkedEnd(end),)
    return PipeConnection.from_handle, tuple(end.handle())


def Pipe(duplex: bool = True) -> tuple[PipeConnection, PipeConnection]:
    """A pair of connected ends; without `duplex`, the first receives and the second sends."""
    first, second = _native.make_pipe(duplex)
    return PipeConnection.from_handle(*first.handle()), PipeConnection.from_handle(*second.handle())


_SESSION_TYPES = (_native.PipeEnd, _native.QueueCore)
# poll() takes milliseconds in a C int.
_LONGEST_POLL = 2**31 - 1
# Nobody rings for a process that was killed: those who wait for what it held look for themselves.
_LOOK_AFTER = 0.1


def wait(object_list: Iterable[Any], timeout: float | None = None) -> list[Any]:
    """Wait until objects are ready to be read, and return those.

    The objects may be connections, queues' readers, sockets, descriptors (such as process
    sentinels), and whatever else has a `fileno()`.
    """
    objects = list(object_list)
    # A queue's reader stands for the queue.
    sources = [getattr(obj, "_session_object", obj) for obj in objects]
    if objects and all(isinstance(source, _SESSION_TYPES) for source in sources):
        ready = {id(source) for source in _native.wait_ready(sources, timeout)}
        return [obj for obj, source in zip(objects, sources, strict=True) if id(source) in ready]
    return _wait_descriptors(objects, sources, timeout)


def _wait_descriptors(objects: list[Any], sources: list[Any], timeout: float | None) -> list[Any]:
    poller = select.poll()
    by_descriptor: dict[int, tuple[Any, Any]] = {}
    for obj, source in zip(objects, sources, strict=True):
        fd = _descriptor(obj)
        if fd in by_descriptor:
            raise KeyError(f"{obj!r} (FD {fd}) is already registered")
        by_descriptor[fd] = obj, source
        poller.register(fd, select.POLLIN)
    has_session_objects = any(isinstance(source, _SESSION_TYPES) for source in sources)
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        remaining = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        if has_session_objects and (remaining is None or remaining > _LOOK_AFTER):
            events = poller.poll(_LOOK_AFTER * 1000)
            if not events:
                _native.sweep()
        else:
            events = poller.poll(
                None if remaining is None else min(math.ceil(remaining * 1000), _LONGEST_POLL)
            )
        # The descriptor of a session object says that it is worth a look; the memory says the rest.
        ready = [
            obj
            for obj, source in (by_descriptor[fd] for fd, _event in events)
            if not isinstance(source, _SESSION_TYPES) or _native.wait_ready([source], 0)
        ]
        if ready or remaining == 0.0:
            return ready


def _descriptor(obj: Any) -> int:
    fd = obj if isinstance(obj, int) else obj.fileno()
    if not isinstance(fd, int):
        raise ValueError(f"Invalid file object: {obj!r}")
    if fd < 0:
        raise ValueError(f"Invalid file descriptor: {fd}")
    return fd


def reduce_connection(conn: Connection) -> tuple[Any, ...]:
    """Pickle a connection over a descriptor: the descriptor follows by another way."""
    return rebuild_connection, (reduction.DupFd(conn.fileno()), conn.readable, conn.writable)


def rebuild_connection(df: _Detachable, readable: bool, writable: bool) -> Connection:
    """The connection that `reduce_connection` took apart."""
    return Connection(df.detach(), readable, writable)


reduction.register(Connection, reduce_connection)
reduction.register(PipeConnection, _reduce_pipe_end)

for _member in (
    Connection,
    ConnectionWrapper,
    Listener,
    Client,
    SocketListener,
    SocketClient,
    XmlListener,
    XmlClient,
    answer_challenge,
    deliver_challenge,
    address_type,
    arbitrary_address,
):
    _member.__module__ = __name__
del _member

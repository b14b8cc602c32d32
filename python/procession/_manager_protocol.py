"""What managers, their servers and their proxies say to each other.

A request is ``(ident, method, args, kwds)``, and its answer ``(kind, result)``.  `ident` names an
object of the server; None stands for the server itself.  The kinds are::

    #RETURN          result is what the method returned
    #PROXY           (exposed, token) of the object that the method returned, which stays there
    #ERROR           the exception that the method raised
    #TRACEBACK       the text of a traceback: the server could not do what it was asked to
    #UNSERIALIZABLE  the text of a traceback: the result could not be sent

A connection begins with the authentication of `Listener` and `Client`.  Its first request goes
to the server, and most connections end with the answer; after ``accept_connection`` the
connection stays open for requests to objects, one at a time.
"""

from __future__ import annotations

import array
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from . import connection, reduction

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


# What accept_connection returns where requests to the server itself may follow on the connection.
SERVES_CONTROL = "control"


class Channel(Protocol):
    """A connection, as far as it is used here."""

    def send(self, obj: Any, /) -> object: ...

    def recv(self) -> Any: ...

    def close(self) -> object: ...


class Registration(NamedTuple):
    """What a manager class knows of a type: how one is made, and what stands for it."""

    callable: Callable[..., Any] | None
    exposed: Any
    method_to_typeid: Any
    proxytype: Any


Registry = dict[str, Registration]

# How a manager listens, and how one connects to it, by the name of the serializer.
listener_client: dict[str, tuple[Any, Any]] = {
    "pickle": (connection.Listener, connection.Client),
    "xmlrpclib": (connection.XmlListener, connection.XmlClient),
}


class Token:
    """The name of a shared object: its type, where its server is, and its identity there."""

    __slots__ = ("address", "id", "typeid")

    def __init__(self, typeid: str, address: Any, id: str) -> None:
        self.typeid = typeid
        self.address = address
        self.id = id

    def __getstate__(self) -> tuple[str, Any, str]:
        return self.typeid, self.address, self.id

    def __setstate__(self, state: tuple[str, Any, str]) -> None:
        self.typeid, self.address, self.id = state

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(typeid={self.typeid!r}, address={self.address!r}, "
            f"id={self.id!r})"
        )


class RemoteError(Exception):
    """The server failed; the message is the traceback from there."""

    def __str__(self) -> str:
        rule = "-" * 75
        return f"\n{rule}\n{self.args[0]}{rule}"


class ServerGoneError(EOFError, BrokenPipeError):
    """The manager's server ended while, or before, it was asked something.

    It is an EOFError and a BrokenPipeError at once because the standard library raises either,
    depending on the moment.
    """


def dispatch(
    c: Channel, id: str | None, methodname: str, args: Any = (), kwds: Mapping[str, Any] = {}
) -> Any:
    """Send a request over the connection `c` and return the answer's result, or raise its error."""
    c.send((id, methodname, args, kwds))
    kind, result = c.recv()
    if kind == "#RETURN":
        return result
    try:
        raise convert_to_error(kind, result)
    finally:
        # The exception's traceback refers to this frame: without this there is a cycle.
        del result


def ask_server(
    client: Callable[..., Any], address: Any, authkey: bytes | None, methodname: str, *args: Any
) -> Any:
    """Ask the server at `address` for one thing, over a connection for this purpose alone."""
    conn = client(address, authkey=authkey)
    try:
        return dispatch(conn, None, methodname, args)
    finally:
        conn.close()


def convert_to_error(kind: str, result: Any) -> BaseException:
    """The exception to raise for an answer that is no result."""
    if kind == "#ERROR":
        error: BaseException = result
        return error
    if kind not in ("#TRACEBACK", "#UNSERIALIZABLE"):
        return ValueError(f"Unrecognized message type {kind!r}")
    if not isinstance(result, str):
        raise TypeError(f"Result {result!r} (kind '{kind}') type is {type(result)}, not str")
    if kind == "#UNSERIALIZABLE":
        return RemoteError(f"Unserializable message: {result}\n")
    return RemoteError(result)


class _AmbientKey(threading.local):
    """The key of the manager whose message this thread is unpickling.

    Proxies are pickled without the key, except for a child that is being started: a message is no
    place for it.  One found inside a message of a manager belongs to the same manager, or to one
    with the same key, hence it takes this key rather than that of the process.
    """

    authkey: bytes | None = None


ambient_key = _AmbientKey()


def recv_with_key(c: Channel, authkey: bytes | None) -> Any:
    """Receive a message in which proxies without a key may be."""
    before, ambient_key.authkey = ambient_key.authkey, authkey
    try:
        return c.recv()
    finally:
        ambient_key.authkey = before


def reduce_array(a: array.array[Any]) -> tuple[Any, ...]:
    """Pickle an array by its bytes."""
    return array.array, (a.typecode, a.tobytes())


def rebuild_as_list(obj: Any) -> tuple[Any, ...]:
    """Pickle a view of a dict as a list."""
    return list, (list(obj),)


reduction.register(array.array, reduce_array)
_view: Any
for _view in ({}.items(), {}.keys(), {}.values()):
    reduction.register(type(_view), rebuild_as_list)
del _view

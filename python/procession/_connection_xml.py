"""Connections whose objects travel as XML-RPC instead of pickles: for peers one does not trust."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._connection_socket import Client, Listener

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._connection_base import _ConnectionBase


class ConnectionWrapper:
    """A connection with other functions than pickle's for its objects."""

    def __init__(
        self,
        conn: _ConnectionBase,
        dumps: Callable[[Any], bytes],
        loads: Callable[[bytes | bytearray], Any],
    ) -> None:
        self._conn = conn
        self._dumps = dumps
        self._loads = loads
        self.fileno = conn.fileno
        self.close = conn.close
        self.poll = conn.poll
        self.recv_bytes = conn.recv_bytes
        self._recv_message = conn._recv_message
        self.send_bytes = conn.send_bytes

    def send(self, obj: object) -> None:
        """Send an object."""
        self._conn.send_bytes(self._dumps(obj))

    def recv(self) -> Any:
        """Receive an object."""
        return self._loads(self._conn.recv_bytes())


def _xml_dumps(obj: Any) -> bytes:
    import xmlrpc.client as xmlrpclib

    return xmlrpclib.dumps((obj,), allow_none=True).encode("utf-8")


def _xml_loads(data: bytes | bytearray) -> Any:
    import xmlrpc.client as xmlrpclib

    (obj,), _method = xmlrpclib.loads(data.decode("utf-8"))
    return obj


class XmlListener(Listener):
    """A Listener whose connections speak XML."""

    def accept(self) -> ConnectionWrapper:  # type: ignore[override]
        """Wait for the next connection."""
        return ConnectionWrapper(super().accept(), _xml_dumps, _xml_loads)


def XmlClient(*args: Any, **kwds: Any) -> ConnectionWrapper:
    """Connect to an XmlListener; the arguments are those of Client."""
    return ConnectionWrapper(Client(*args, **kwds), _xml_dumps, _xml_loads)

"""Listeners and clients: connections to addresses, over Unix and TCP sockets."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any, Union

from . import util
from ._connection_auth import answer_challenge, deliver_challenge
from ._connection_base import Connection

if TYPE_CHECKING:
    from types import TracebackType

Address = Union[str, bytes, "tuple[str, int]"]

default_family = "AF_UNIX"
families = ["AF_INET", "AF_UNIX"]


def arbitrary_address(family: str) -> Any:
    """A free address of the given family."""
    if family == "AF_INET":
        return ("localhost", 0)
    if family == "AF_UNIX":
        import tempfile

        return tempfile.mktemp(prefix="listener-", dir=util.get_temp_dir())
    raise ValueError("unrecognized family")


def _validate_family(family: str) -> None:
    if family == "AF_PIPE":
        raise ValueError(f"Family {family} is not recognized.")


def address_type(address: Any) -> str:
    """The family that an address is of."""
    if type(address) is tuple:
        return "AF_INET"
    if type(address) is str and address.startswith("\\\\"):
        return "AF_PIPE"
    if type(address) is str or util.is_abstract_socket_namespace(address):
        return "AF_UNIX"
    raise ValueError(f"address type of {address!r} unrecognized")


class SocketListener:
    """A bound socket that waits for connections."""

    def __init__(self, address: Any, family: str, backlog: int = 1) -> None:
        self._socket = socket.socket(getattr(socket, family))
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # A default timeout, set by someone for sockets of his own, is not for ours.
            self._socket.setblocking(True)
            self._socket.bind(address)
            self._socket.listen(backlog)
            self._address: Any = self._socket.getsockname()
        except OSError:
            self._socket.close()
            raise
        self._family = family
        self._last_accepted: Any = None
        self._unlink: util.Finalize | None = None
        if family == "AF_UNIX" and not util.is_abstract_socket_namespace(address):
            self._unlink = util.Finalize(self, os.unlink, args=(address,), exitpriority=0)

    def accept(self) -> Connection:
        """Wait for the next connection."""
        accepted, self._last_accepted = self._socket.accept()
        accepted.setblocking(True)
        return Connection(accepted.detach())

    def close(self) -> None:
        """Stop listening, and take the address back."""
        try:
            self._socket.close()
        finally:
            unlink, self._unlink = self._unlink, None
            if unlink is not None:
                unlink()


def SocketClient(address: Any) -> Connection:
    """A connection to the socket that listens at `address`."""
    with socket.socket(getattr(socket, address_type(address))) as sock:
        sock.setblocking(True)
        sock.connect(address)
        return Connection(sock.detach())


class Listener:
    """Waits for connections at an address; with an `authkey`, only for those who know it."""

    def __init__(
        self,
        address: Any = None,
        family: str | None = None,
        backlog: int = 1,
        authkey: bytes | None = None,
    ) -> None:
        self._listener: SocketListener | None = None
        family = family or (address and address_type(address)) or default_family
        address = address or arbitrary_address(family)
        _validate_family(family)
        _check_authkey(authkey)
        self._listener = SocketListener(address, family, backlog)
        self._authkey = authkey

    def _open_listener(self) -> SocketListener:
        if self._listener is None:
            raise OSError("listener is closed")
        return self._listener

    def accept(self) -> Connection:
        """Wait for the next connection; AuthenticationError if it comes without the key."""
        connection = self._open_listener().accept()
        if self._authkey is not None:
            try:
                deliver_challenge(connection, self._authkey)
                answer_challenge(connection, self._authkey)
            except BaseException:
                connection.close()
                raise
        return connection

    def close(self) -> None:
        """Stop listening."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    @property
    def address(self) -> Any:
        """The address bound; its port is a real one even where 0 was asked for."""
        return self._open_listener()._address

    @property
    def last_accepted(self) -> Any:
        """Where the last connection came from, or None."""
        return self._open_listener()._last_accepted

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()


def Client(address: Any, family: str | None = None, authkey: bytes | None = None) -> Connection:
    """Connect to the Listener at `address`, and show it the key if there is one."""
    family = family or address_type(address)
    _validate_family(family)
    _check_authkey(authkey)
    connection = SocketClient(address)
    if authkey is not None:
        try:
            answer_challenge(connection, authkey)
            deliver_challenge(connection, authkey)
        except BaseException:
            connection.close()
            raise
    return connection


def _check_authkey(authkey: object) -> None:
    if authkey is not None and not isinstance(authkey, bytes):
        raise TypeError("authkey should be a byte string")

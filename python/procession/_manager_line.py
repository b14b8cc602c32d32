"""The way from this process to a manager's server.

Each thread keeps one connection to each server, its line: requests and answers alternate on it,
and the server answers by one thread for each line, so that a lock which belongs to a thread here
belongs to a thread there.

Making a connection costs several times as much as a request, since both sides prove that they
know the key.  So what is asked of the server itself (to make an object, to count a reference)
goes over the thread's line as well, where the server says that it takes it there.  The standard
library's does not.  Nor is a line used that is busy just now, with a request of the very code
that a signal handler or a finalizer has interrupted.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from . import process, util
from ._manager_protocol import (
    SERVES_CONTROL,
    ServerGoneError,
    ambient_key,
    convert_to_error,
    dispatch,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class Line:
    """An open connection for the requests of one thread."""

    def __init__(self, client: Callable[..., Any], address: Any, authkey: bytes) -> None:
        util.debug("making connection to manager")
        name = process.current_process().name
        thread = threading.current_thread()
        if thread is not threading.main_thread():
            name += "|" + thread.name
        try:
            self._conn = client(address, authkey=authkey)
            accepted = dispatch(self._conn, None, "accept_connection", (name,))
        except (ConnectionError, EOFError, FileNotFoundError) as error:
            # Which of them depends on how far the end of the server has come.
            error.add_note(f"no manager serves at {address!r} any more")
            raise
        self._address = address
        self._authkey = authkey
        self.serves_control = accepted == SERVES_CONTROL
        self.busy = False
        self.closed = False

    def exchange(self, request: tuple[Any, ...], typeid: str = "server") -> tuple[str, Any]:
        """Send a request, to an object of the type `typeid`, and receive its answer."""
        conn = self._conn
        data = conn._dumps(request)
        self.busy = True
        try:
            conn.send_bytes(data)
            answer = conn._recv_message()
        except BaseException as error:
            # Whatever came in between, the answer may still come, and is not that to the next
            # request.
            self.close()
            if isinstance(error, (EOFError, ConnectionError)) or (
                isinstance(error, OSError) and error.errno is None  # in the middle of a message
            ):
                raise ServerGoneError(
                    f"the manager at {self._address!r} ended before it answered "
                    f"{request[1]!r} of a {typeid!r} object"
                ) from error
            raise
        finally:
            self.busy = False
        before, ambient_key.authkey = ambient_key.authkey, self._authkey
        try:
            kind, result = conn._loads(answer)
        finally:
            ambient_key.authkey = before
        return kind, result

    def close(self) -> None:
        """Close the connection."""
        self.closed = True
        self._conn.close()


class Peer:
    """A server, as one thread after the other talks to it; `tls` has the line of each."""

    __slots__ = ("address", "authkey", "client", "tls")

    def __init__(self, client: Callable[..., Any], address: Any, authkey: bytes, tls: Any) -> None:
        self.client = client
        self.address = address
        self.authkey = authkey
        self.tls = tls

    def _open(self) -> Line:
        return Line(self.client, self.address, self.authkey)

    def _line(self, *, make: bool) -> Line | None:
        line: Line | None = getattr(self.tls, "line", None)
        if (line is None or line.closed) and make:
            util.debug("thread %r does not own a connection", threading.current_thread().name)
            line = self.tls.line = self._open()
        return None if line is None or line.closed else line

    def ask(self, request: tuple[Any, ...], typeid: str) -> tuple[str, Any]:
        """Ask an object for something: the kind of the answer, and what it is."""
        line = self._line(make=True)
        assert line is not None
        if not line.busy:
            return line.exchange(request, typeid)
        extra = self._open()
        try:
            return extra.exchange(request, typeid)
        finally:
            extra.close()

    def control(self, methodname: str, /, *args: Any, **kwds: Any) -> Any:
        """Ask the server itself for something."""
        # A thread that only drops what others made has no use for a line.
        line = self._line(make=methodname != "decref")
        if line is None or line.busy or not line.serves_control:
            conn = self.client(self.address, authkey=self.authkey)
            try:
                return dispatch(conn, None, methodname, args, kwds)
            finally:
                conn.close()
        kind, result = line.exchange((None, methodname, args, kwds))
        if kind == "#RETURN":
            return result
        raise convert_to_error(kind, result)

    def hang_up(self) -> None:
        """Close this thread's line."""
        line = self._line(make=False)
        if line is not None and not line.busy:
            util.debug(
                "thread %r has no more proxies so closing conn", threading.current_thread().name
            )
            line.close()
            del self.tls.line

"""Hand over file descriptors at any time, not only while a child is being started.

Pickling a socket for a queue gives the receiver an address and a key; when it unpickles,
it connects to a thread of the sender, which passes the descriptor.  Nothing else in this
package needs this: what lies in shared memory is found by its number.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import process, reduction, util

if TYPE_CHECKING:
    from .connection import Listener

__all__ = ["DupFd", "stop"]

_Send = Callable[[Any, int], object]
_Close = Callable[[], object]
_Identifier = tuple[Any, int]


class DupFd:
    """A descriptor that can be pickled; detached once, in any process of the program."""

    def __init__(self, fd: int) -> None:
        duplicate = os.dup(fd)

        def send(conn: Any, pid: int) -> None:
            reduction.send_handle(conn, duplicate, pid)

        def close() -> None:
            os.close(duplicate)

        self._id = _resource_sharer.register(send, close)

    def detach(self) -> int:
        """Return the descriptor, which now belongs to the caller."""
        with _resource_sharer.get_connection(self._id) as conn:
            return reduction.recv_handle(conn)


class _ResourceSharer:
    """The thread that hands over, and what it has to hand over."""

    def __init__(self) -> None:
        self._forget()
        util.register_after_fork(self, _ResourceSharer._afterfork)

    def _forget(self) -> None:
        self._key = 0
        self._cache: dict[int, tuple[_Send, _Close]] = {}
        self._lock = threading.Lock()
        self._listener: Listener | None = None
        self._address: Any = None
        self._thread: threading.Thread | None = None

    def register(self, send: _Send, close: _Close) -> _Identifier:
        """Keep something until it is asked for; return what to ask for it with."""
        with self._lock:
            if self._address is None:
                self._start()
            self._key += 1
            self._cache[self._key] = (send, close)
            return self._address, self._key

    @staticmethod
    def get_connection(ident: _Identifier) -> Any:
        """Return a connection from which what ``ident`` names can be received."""
        from .connection import Client

        address, key = ident
        conn = Client(address, authkey=process.current_process().authkey)
        conn.send((key, os.getpid()))
        return conn

    def stop(self, timeout: float | None = None) -> None:
        """End the thread and close what nobody has asked for."""
        from .connection import Client

        with self._lock:
            if self._address is None:
                return
            assert self._thread is not None
            assert self._listener is not None
            with Client(self._address, authkey=process.current_process().authkey) as conn:
                conn.send(None)
            self._thread.join(timeout)
            if self._thread.is_alive():
                util.sub_warning("_ResourceSharer thread did not stop when asked")
            self._listener.close()
            self._thread = self._address = self._listener = None
            for _, close in self._cache.values():
                close()
            self._cache.clear()

    def _afterfork(self) -> None:
        for _, close in self._cache.values():
            close()
        if self._listener is not None:
            # The thread was left behind; its socket must not keep the parent's address alive.
            self._listener.close()
        self._forget()

    def _start(self) -> None:
        from .connection import Listener

        assert self._listener is None, "Already have Listener"
        util.debug("starting listener and thread for sending handles")
        self._listener = Listener(authkey=process.current_process().authkey, backlog=128)
        self._address = self._listener.address
        self._thread = threading.Thread(target=self._serve, args=(self._listener,), daemon=True)
        self._thread.start()

    def _serve(self, listener: Listener) -> None:
        # Signals are for the main thread.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            try:
                with listener.accept() as conn:
                    message = conn.recv()
                    if message is None:
                        return
                    key, destination_pid = message
                    send, close = self._cache.pop(key)
                    try:
                        send(conn, destination_pid)
                    finally:
                        close()
            except Exception:
                if not util.is_exiting():
                    sys.excepthook(*sys.exc_info())


_resource_sharer = _ResourceSharer()
stop = _resource_sharer.stop

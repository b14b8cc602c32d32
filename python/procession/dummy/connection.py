"""Connections between threads, made of queues."""

from __future__ import annotations

import time
from queue import Queue
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Client", "Listener", "Pipe"]

families = [None]

_Self = TypeVar("_Self", bound="_Closing")
_Ends = tuple["Queue[Any]", "Queue[Any]"]


class _Closing:
    """Used as a context, it is closed at the end."""

    def close(self) -> None:
        """Close it."""

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()


class Listener(_Closing):
    """Waits for the connections of other threads; its address is a queue."""

    def __init__(self, address: object = None, family: object = None, backlog: int = 1) -> None:
        self._backlog_queue: Queue[_Ends] | None = Queue(backlog)

    def accept(self) -> Connection:
        """Wait for the next connection."""
        if self._backlog_queue is None:
            raise OSError("listener is closed")
        return Connection(*self._backlog_queue.get())

    def close(self) -> None:
        """Forget the address."""
        self._backlog_queue = None

    @property
    def address(self) -> Queue[_Ends] | None:
        """What a Client connects to."""
        return self._backlog_queue


def Client(address: Queue[_Ends]) -> Connection:
    """A connection to the Listener that has this address."""
    there, back = Queue[Any](), Queue[Any]()
    address.put((there, back))
    return Connection(back, there)


def Pipe(duplex: bool = True) -> tuple[Connection, Connection]:
    """A pair of connected ends; both directions work, whatever `duplex` says."""
    there, back = Queue[Any](), Queue[Any]()
    return Connection(there, back), Connection(back, there)


class Connection(_Closing):
    """One end: objects are passed on as they are."""

    def __init__(self, _in: Queue[Any], _out: Queue[Any]) -> None:
        self._in = _in
        self._out = _out
        self.send = self.send_bytes = _out.put
        self.recv = self.recv_bytes = _in.get

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Whether there is something to receive, waiting up to `timeout` seconds for it."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._in.not_empty:
            while not self._in._qsize():
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0.0:
                    return False
                self._in.not_empty.wait(remaining)
            return True

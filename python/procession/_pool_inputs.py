"""What an imap's input is, and the threads that read inputs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Input", "Reader", "may_block"]


class Input:
    """An input that is read as far ahead of the outcomes' reader as its window reaches."""

    def __init__(self) -> None:
        # The engine's job that it is for.
        self.job = 0
        # None at its end.
        self.source: Iterator[Any] | None = None
        # What it raised instead of an item.
        self.error: BaseException | None = None
        self.window = self.widest = self.chunk = 1
        self.fed_at = 0.0
        # How many outcomes the reader has got, and after how many to stop if not at the end.
        self.given, self.last = 0, -1
        # Reads the input in the reader's place.
        self.thread: Reader | None = None
        # Nobody wants any more of it.
        self.closed = False

    def widen(self) -> bool:
        """Look twice as far ahead, if that is not too far; false if it is."""
        if self.window >= self.widest:
            return False
        self.window = min(2 * self.window, self.widest)
        return True

    def open_up(self) -> None:
        """Read all of it, whether somebody reads the outcomes or not."""
        self.window = self.widest = 1 << 30


class Reader(threading.Thread):
    """Reads an input that may keep whoever reads it waiting: for a user, or for a result.

    ``read`` reads as much as there is room for; it returns false when it need not be called again.
    """

    def __init__(self, read: Callable[[], bool]) -> None:
        super().__init__(name="pool input", daemon=True)
        self._read = read
        self._more = threading.Event()

    def kick(self) -> None:
        """Say that there may be room."""
        self._more.set()

    def run(self) -> None:
        """Read to the end."""
        try:
            while True:
                self._more.clear()
                if not self._read():
                    return
                self._more.wait()
        finally:
            # It has what it reads for, which has this thread.
            del self._read


def may_block(items: Iterable[Any]) -> bool:
    """Whether an input may make its reader wait: all but what knows how long it is."""
    return not hasattr(type(items), "__len__")

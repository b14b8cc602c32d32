"""Memory for `Value` and `Array`: blocks of the session, given back when nothing uses them.

The standard library carves its blocks out of files that it maps, and hands the files'
descriptors to children.  Here a block is an object of the session like any other: it travels by
its handle, and the engine recycles it after the last process that held it.
"""

from __future__ import annotations

import mmap
import os
import sys
from typing import TYPE_CHECKING, Any

from . import _native, reduction, util
from .context import assert_spawning, get_spawning_popen

if TYPE_CHECKING:
    from typing import Protocol

    class _Detachable(Protocol):
        def detach(self) -> int: ...


__all__ = ["BufferWrapper"]


class Arena:
    """An anonymous file in memory, mapped: to be shared by its descriptor."""

    def __init__(self, size: int, fd: int = -1) -> None:
        self.size = size
        self.fd = fd
        if fd == -1:
            self.fd = os.memfd_create("procession-arena", os.MFD_CLOEXEC)
            os.ftruncate(self.fd, size)
        util.Finalize(self, os.close, (self.fd,))
        self.buffer = mmap.mmap(self.fd, size)


def reduce_arena(a: Arena) -> tuple[Any, ...]:
    """Pickle an arena by its descriptor."""
    return rebuild_arena, (a.size, reduction.DupFd(a.fd))


def rebuild_arena(size: int, dupfd: _Detachable) -> Arena:
    """Map the arena that another process sent."""
    return Arena(size, dupfd.detach())


reduction.register(Arena, reduce_arena)

Block = tuple[_native.BlockBuffer, int, int]


class Heap:
    """Hands out blocks of the session's memory, as `(memory, start, stop)`.

    There is nothing to keep account of: the engine does, across all processes.
    """

    def __init__(self, size: int = mmap.PAGESIZE) -> None:
        self._size = size

    def malloc(self, size: int) -> Block:
        """A block of at least `size` bytes, zeroed."""
        _check_size(size)
        return _native.BlockBuffer(max(size, 1)), 0, size

    def free(self, block: Block) -> None:
        """Nothing: a block goes back by itself when the last reference to it is dropped."""


def _check_size(size: int) -> None:
    if size < 0:
        raise ValueError(f"Size {size:n} out of range")
    if sys.maxsize <= size:
        raise OverflowError(f"Size {size:n} too large")


class BufferWrapper:
    """A piece of shared memory that a child can be given."""

    _heap = Heap()

    def __init__(self, size: int) -> None:
        self._state = self._heap.malloc(size)

    def create_memoryview(self) -> memoryview:
        """The memory, as bytes."""
        memory, start, stop = self._state
        return memoryview(memory)[start:stop]

    def __getstate__(self) -> tuple[tuple[int, ...], int, int]:
        assert_spawning(self)
        memory, start, stop = self._state
        popen = get_spawning_popen()
        if popen is not None:
            popen.keep(memory)
        return tuple(memory.handle()), start, stop

    def __setstate__(self, state: tuple[tuple[int, ...], int, int]) -> None:
        handle, start, stop = state
        self._state = _native.BlockBuffer.from_handle(*handle), start, stop

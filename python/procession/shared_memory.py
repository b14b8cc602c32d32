"""Named shared memory: blocks that any process of the machine may attach to by name.

The names and the layout of `ShareableList` are those of the standard library, so that a block made
by one package is used by the other.  For memory that stays within one program, the objects of the
session (`Value`, `Array`, large messages) need no name and leave nothing behind.

A mapping is never taken away from under anything that looks into it: where a NumPy array (or any
other holder of `SharedMemory.buf`) outlives the `SharedMemory` object or its `close()`, the memory
stays mapped until the array goes as well.
"""

from __future__ import annotations

import _posixshmem  # type: ignore[import-not-found]
import errno
import mmap
import os
import secrets
import struct
import sys
import types
import weakref
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from . import resource_tracker
from ._shareable_items import FORMATS, WORD, decode, encode, first_format, kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["ShareableList", "SharedMemory"]

_USE_POSIX = True
_O_CREX = os.O_CREAT | os.O_EXCL
# The shortest limit of a system that we know of.
_SHM_SAFE_NAME_LENGTH = 14
_SHM_NAME_PREFIX = "/psm_"


def _make_filename() -> str:
    """A random name for a block."""
    return _SHM_NAME_PREFIX + secrets.token_hex(
        (_SHM_SAFE_NAME_LENGTH - len(_SHM_NAME_PREFIX)) // 2
    )


def _map(fd: int, size: int) -> mmap.mmap:
    if sys.version_info >= (3, 13):
        # The descriptor is ours; a second one inside the mapping would only use up the limit.
        return mmap.mmap(fd, size, trackfd=False)
    return mmap.mmap(fd, size)


def _is_exported(mapping: mmap.mmap) -> bool:
    """Whether a buffer of the mapping is in use."""
    try:
        # No mapping can be so small, but what mmap complains about first is a buffer in use.
        mapping.resize(-1)
    except BufferError:
        return True
    except (TypeError, ValueError):
        pass
    return False


def _check_name(name: str) -> str:
    # The system would take a part of it for the name, before 3.13 without a word.
    if "\0" in name:
        raise ValueError("embedded null character")
    return name


def _check_room(fd: int, size: int) -> None:
    # The file would be made all the same, and whoever wrote to it be killed by SIGBUS.
    room = os.fstatvfs(fd)
    free = room.f_bavail * room.f_frsize
    if room.f_blocks and size > free:
        raise OSError(
            errno.ENOSPC,
            f"no room for {size} bytes of shared memory: {free} are free in /dev/shm",
        )


def _keep_alive(_mapping: mmap.mmap) -> None:
    """Called when the last holder of a view is gone; until then, it refers to the mapping."""


class SharedMemory:
    """A block of shared memory: a new one with `create`, otherwise the one that has this name.

    `close()` ends this process's use of the block and `unlink()`, called once by one process, the
    block itself.  A block that was made and that nobody unlinked is removed, and complained about,
    when the program and its children have ended.  `track` says so for one that is attached to, too,
    or that it is not to be done at all.
    """

    _name: str | None = None
    _fd = -1
    _mmap: mmap.mmap | None = None
    _buf: memoryview | None = None
    _flags = os.O_RDWR
    _mode = 0o600
    _prepend_leading_slash = True
    _track: bool | None = True

    def __init__(
        self,
        name: str | None = None,
        create: bool = False,
        size: int = 0,
        *,
        track: bool | None = None,
    ) -> None:
        if not size >= 0:
            raise ValueError("'size' must be a positive integer")
        if create:
            self._flags = _O_CREX | os.O_RDWR
            if size == 0:
                raise ValueError("'size' must be a positive number different from zero")
        if name is None and not self._flags & os.O_EXCL:
            raise ValueError("'name' can only be None if create=True")
        # None for a block that somebody else has made, and will look after.
        self._track = track if track is not None or not self._flags & os.O_CREAT else True
        full_name = self._name = self._open(name)
        try:
            if create:
                _check_room(self._fd, size)
                os.ftruncate(self._fd, size)
            self._size = os.fstat(self._fd).st_size
            self._mmap = _map(self._fd, self._size)
        except OSError:
            if create:
                # It was not registered yet, so that there is nothing to take back from the tracker.
                self._track = False
                self.unlink()
            raise
        if self._track:
            resource_tracker.register(full_name, "shared_memory")
        self._buf = memoryview(self._mmap)

    def _open(self, name: str | None) -> str:
        """Open the block of that name, or a new one; the name, as the system has it."""
        if name is not None:
            full_name = _check_name("/" + name if self._prepend_leading_slash else name)
            self._fd = _posixshmem.shm_open(full_name, self._flags, mode=self._mode)
            return full_name
        while True:
            candidate = _make_filename()
            try:
                self._fd = _posixshmem.shm_open(candidate, self._flags, mode=self._mode)
            except FileExistsError:
                continue
            return candidate

    def __del__(self) -> None:
        # No close(): whoever still has a view of the memory, even through a NumPy array that a
        # memoryview does not know of, keeps the mapping by the references themselves.
        self._buf = None
        self._mmap = None
        self._close_descriptor()

    def __reduce__(self) -> tuple[Any, ...]:
        rebuild: Callable[..., SharedMemory] = type(self)
        if self._track is False:
            rebuild = partial(rebuild, track=False)
        return rebuild, (self.name, False, self.size)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, size={self.size})"

    @property
    def buf(self) -> memoryview:
        """The memory, as bytes; None once it has been closed."""
        return self._buf  # type: ignore[return-value]

    @property
    def name(self) -> str:
        """The name by which other processes attach to the block."""
        name = self._name
        if name is not None and self._prepend_leading_slash:
            name = name.removeprefix("/")
        return name  # type: ignore[return-value]

    @property
    def size(self) -> int:
        """The size in bytes, which may be more than was asked for."""
        return self._size

    def close(self) -> None:
        """End the use of the block in this process.

        BufferError where parts of `buf` are still in use.  Arrays that were built upon `buf`
        without taking part in Python's buffer accounting stay valid.
        """
        view, mapping = self._buf, self._mmap
        if view is not None:
            view.release()
            self._buf = None
        if mapping is not None:
            if _is_exported(mapping):
                raise BufferError("cannot close exported pointers exist")
            self._mmap = None
            # Not mapping.close(): NumPy keeps arrays of a buffer that it does not hold any more, by
            # a reference to the mapping, and others by one to the view.
            if view is not None:
                watched = weakref.ref(view)
                del view
                if (held := watched()) is not None:
                    weakref.finalize(held, _keep_alive, mapping).atexit = False
        self._close_descriptor()

    # Bound here because at the interpreter's end the module's globals may be gone.
    def _close_descriptor(self, _close: Callable[[int], None] = os.close) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            _close(fd)

    def unlink(self) -> None:
        """Remove the name; the memory goes when the last process has closed it.

        Only one process should do so, once.
        """
        if self._name:
            _posixshmem.shm_unlink(_check_name(self._name))
            if self._track is None:
                # The tracker is its maker's only if that was a process of this program.
                resource_tracker.register(self._name, "shared_memory")
            if self._track is not False:
                resource_tracker.unregister(self._name, "shared_memory")


class ShareableList:
    """A list in shared memory of int, float, bool, str, bytes and None.

    Its length never changes, and a str or bytes may be replaced by one that fits in its place.
    """

    def __init__(self, sequence: Iterable[Any] | None = None, *, name: str | None = None) -> None:
        if name is not None and sequence is None:
            self.shm = SharedMemory(name)
            self._list_len: int = len(self)
            self._allocated_offsets: list[int] = list(
                struct.unpack_from(f"{self._list_len + 1}q", self.shm.buf, WORD)
            )
        else:
            self._create(list(sequence or ()), name)

    def _create(self, values: list[Any], name: str | None) -> None:
        encoded = [encode(value) for value in values]
        formats = list(map(first_format, values, encoded))
        if any(len(fmt) > WORD for fmt in formats):
            raise ValueError("an item is too long for its format to be written down")
        sizes = [struct.calcsize(fmt) for fmt in formats]
        count = self._list_len = len(values)
        self._allocated_offsets = [0, *accumulate(sizes)]
        self.shm = SharedMemory(name, create=True, size=self._codes_start + max(count, 1))
        buf = self.shm.buf
        struct.pack_into(f"{count + 2}q", buf, 0, count, *self._allocated_offsets)
        struct.pack_into("=" + "".join(formats), buf, self._data_start, *encoded)
        names = [fmt.encode() for fmt in formats]
        struct.pack_into("8s" * count, buf, self._formats_start, *names)
        struct.pack_into(f"{count}b", buf, self._codes_start, *map(kind, values))

    @property
    def _data_start(self) -> int:
        return (self._list_len + 2) * WORD

    @property
    def _formats_start(self) -> int:
        return self._data_start + self._allocated_offsets[-1]

    @property
    def _codes_start(self) -> int:
        return self._formats_start + self._list_len * WORD

    def _index(self, position: int, complaint: str) -> int:
        index = position + self._list_len if position < 0 else position
        if not 0 <= index < self._list_len:
            raise IndexError(complaint)
        return index

    def _get_packing_format(self, position: int) -> str:
        """The `struct` format of the item at a position."""
        index = self._index(position, "Requested position out of range.")
        (padded,) = struct.unpack_from("8s", self.shm.buf, self._formats_start + index * WORD)
        return str(padded.rstrip(b"\0"), "ascii")

    def __getitem__(self, position: int) -> Any:
        index = self._index(position, "index out of range")
        start = self._data_start + self._allocated_offsets[index]
        (stored,) = struct.unpack_from(self._get_packing_format(index), self.shm.buf, start)
        (kind,) = struct.unpack_from("b", self.shm.buf, self._codes_start + index)
        return decode(stored, kind)

    def __setitem__(self, position: int, value: Any) -> None:
        index = self._index(position, "assignment index out of range")
        start, end = self._allocated_offsets[index : index + 2]
        encoded = encode(value)
        if isinstance(encoded, bytes):
            if len(encoded) > end - start:
                raise ValueError("bytes/str item exceeds available storage")
            fmt = f"{end - start}s"
        else:
            fmt = FORMATS[type(value)]
        # First what may fail: a number that has no room leaves the item as it was.
        packed = struct.pack(fmt, encoded)
        buf = self.shm.buf
        start += self._data_start
        buf[start : start + len(packed)] = packed
        struct.pack_into("8s", buf, self._formats_start + index * WORD, fmt.encode())
        struct.pack_into("b", buf, self._codes_start + index, kind(value))

    def __iter__(self) -> Iterator[Any]:
        for index in range(self._list_len):
            yield self[index]

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), name=self.shm.name), ()

    def __len__(self) -> int:
        return int(struct.unpack_from("q", self.shm.buf, 0)[0])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)}, name={self.shm.name!r})"

    @property
    def format(self) -> str:
        """The `struct` formats of all items, one after the other."""
        return "".join(map(self._get_packing_format, range(self._list_len)))

    def count(self, value: object) -> int:
        """How many items are equal to `value`."""
        return sum(value == item for item in self)

    def index(self, value: object) -> int:
        """The position of the first item equal to `value`; ValueError if there is none."""
        for position, item in enumerate(self):
            if value == item:
                return position
        raise ValueError(f"{value!r} not in this container")

    __class_getitem__: Any = classmethod(types.GenericAlias)

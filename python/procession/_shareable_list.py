"""`ShareableList`: a list of fixed length in a block of shared memory.

Layout of the block, native byte order, n items (the standard library's, so that both may share
one):

====================  ==============================================================
int64                 n
int64 x (n + 1)       offset of each item within the data area, and of its end
data area             the items, each in its `struct` format
8 bytes x n           the format of each item, padded with zeros
1 byte x n            what was stored: 0 a number or bool, 1 str, 2 bytes, 3 None
====================  ==============================================================
"""

from __future__ import annotations

import struct
import types
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from .shared_memory import SharedMemory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_WORD = 8
_NUMBER, _STR, _BYTES, _NONE = range(4)
_FORMATS: dict[type, str] = {int: "q", float: "d", bool: "xxxxxxx?", type(None): "xxxxxx?x"}


def _kind(value: object) -> int:
    if isinstance(value, str):
        return _STR
    if isinstance(value, bytes):
        return _BYTES
    return _NONE if value is None else _NUMBER


def _encode(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value


def _decode(stored: Any, kind: int) -> Any:
    if kind == _NONE:
        return None
    if kind == _NUMBER:
        return stored
    # Zeros at the end can't be told from the padding.
    content = stored.rstrip(b"\0")
    return content.decode() if kind == _STR else content


def _first_format(value: Any, encoded: Any) -> str:
    """The format of a new item."""
    if not isinstance(encoded, bytes):
        return _FORMATS[type(value)]
    # The standard library's formula counts characters; where these are too many bytes for the
    # room, it cuts them off.
    room = _WORD * (len(value) // _WORD + 1)
    return f"{max(room, -(-len(encoded) // _WORD) * _WORD)}s"


class ShareableList:
    """A list in shared memory of int, float, bool, str, bytes and None.

    Its length never changes, and a str or bytes may be replaced by one that fits in its place.
    """

    def __init__(self, sequence: Iterable[Any] | None = None, *, name: str | None = None) -> None:
        if name is not None and sequence is None:
            self.shm = SharedMemory(name)
            self._list_len: int = len(self)
            self._allocated_offsets: list[int] = list(
                struct.unpack_from(f"{self._list_len + 1}q", self.shm.buf, _WORD)
            )
        else:
            self._create(list(sequence or ()), name)

    def _create(self, values: list[Any], name: str | None) -> None:
        encoded = [_encode(value) for value in values]
        formats = list(map(_first_format, values, encoded))
        if any(len(fmt) > _WORD for fmt in formats):
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
        struct.pack_into(f"{count}b", buf, self._codes_start, *map(_kind, values))

    @property
    def _data_start(self) -> int:
        return (self._list_len + 2) * _WORD

    @property
    def _formats_start(self) -> int:
        return self._data_start + self._allocated_offsets[-1]

    @property
    def _codes_start(self) -> int:
        return self._formats_start + self._list_len * _WORD

    def _index(self, position: int, complaint: str) -> int:
        index = position + self._list_len if position < 0 else position
        if not 0 <= index < self._list_len:
            raise IndexError(complaint)
        return index

    def _get_packing_format(self, position: int) -> str:
        """The `struct` format of the item at a position."""
        index = self._index(position, "Requested position out of range.")
        (padded,) = struct.unpack_from("8s", self.shm.buf, self._formats_start + index * _WORD)
        return str(padded.rstrip(b"\0"), "ascii")

    def __getitem__(self, position: int) -> Any:
        index = self._index(position, "index out of range")
        start = self._data_start + self._allocated_offsets[index]
        (stored,) = struct.unpack_from(self._get_packing_format(index), self.shm.buf, start)
        (kind,) = struct.unpack_from("b", self.shm.buf, self._codes_start + index)
        return _decode(stored, kind)

    def __setitem__(self, position: int, value: Any) -> None:
        index = self._index(position, "assignment index out of range")
        start, end = self._allocated_offsets[index : index + 2]
        encoded = _encode(value)
        if isinstance(encoded, bytes):
            if len(encoded) > end - start:
                raise ValueError("bytes/str item exceeds available storage")
            fmt = f"{end - start}s"
        else:
            fmt = _FORMATS[type(value)]
        # First what may fail: a number that has no room leaves the item as it was.
        packed = struct.pack(fmt, encoded)
        buf = self.shm.buf
        start += self._data_start
        buf[start : start + len(packed)] = packed
        struct.pack_into("8s", buf, self._formats_start + index * _WORD, fmt.encode())
        struct.pack_into("b", buf, self._codes_start + index, _kind(value))

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


ShareableList.__module__ = SharedMemory.__module__

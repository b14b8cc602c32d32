"""The items of a `ShareableList`, as they are stored in its block of shared memory.

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

from typing import Any

WORD = 8
NUMBER, STR, BYTES, NONE = range(4)
FORMATS: dict[type, str] = {int: "q", float: "d", bool: "xxxxxxx?", type(None): "xxxxxx?x"}


def kind(value: object) -> int:
    """What is noted for an item besides its format."""
    if isinstance(value, str):
        return STR
    if isinstance(value, bytes):
        return BYTES
    return NONE if value is None else NUMBER


def encode(value: Any) -> Any:
    """An item as `struct` takes it."""
    return value.encode() if isinstance(value, str) else value


def decode(stored: Any, kind: int) -> Any:
    """The item that was stored."""
    if kind == NONE:
        return None
    if kind == NUMBER:
        return stored
    # Zeros at the end can't be told from the padding.
    content = stored.rstrip(b"\0")
    return content.decode() if kind == STR else content


def first_format(value: Any, encoded: Any) -> str:
    """The format of a new item."""
    if not isinstance(encoded, bytes):
        return FORMATS[type(value)]
    # The standard library's formula counts characters; where these are too many bytes for the
    # room, it cuts them off.
    room = WORD * (len(value) // WORD + 1)
    return f"{max(room, -(-len(encoded) // WORD) * WORD)}s"

"""Short tuples, lists and dicts travel without a pickle, and come out as from one."""

from __future__ import annotations

import collections
import copy
import enum
import pickle
from typing import Any

import numpy as np
import pytest

import procession

ctx = procession.get_context("fork")


class Text(str):
    __slots__ = ()


class Color(enum.IntEnum):
    RED = 1


class Record(dict[str, int]):
    pass


Pair = collections.namedtuple("Pair", "a b")

VALUES: list[Any] = [
    [],
    {},
    (),
    [1, 2.5, "three", b"four", None, True],
    {"name": "value", "numbers": [1, 2, 3], 4: {"x": (1, [2])}},
    {None: 1, True: 2, 3.5: 3, b"4": 4, "5": 5},
    {"z": 1, "a": 2, "m": 3},
    [list(range(16)), list(range(17))],
    [[[[[[1]]]]]],
    ([1], {"a": 1}, ((),)),
    [1 << 62, 1 << 63, -(1 << 63), 1 << 200],
    {"big": "x" * 5000},
    ["x" * 1024] * 16,
    [["x" * 1000] * 16] * 5,
    ["\ud800", "\0", ""],
    [Text("t"), Color.RED, True],
    {Text("t"): 1, Color.RED: 2},
    {(1, 2): 3, frozenset([4]): 5},
    [Pair(1, [2]), Record(a=1), collections.OrderedDict(b=2), {1, 2}, bytearray(b"x")],
]


def types_of(value: Any) -> Any:
    """The types of a value and of all its parts."""
    if isinstance(value, dict):
        return type(value), [(types_of(k), types_of(v)) for k, v in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [types_of(v) for v in value]
    return type(value)


def same(x: Any) -> Any:
    return x


@pytest.mark.parametrize("value", VALUES, ids=lambda v: f"{v!r:.30}")
def test_the_same_comes_out(value: Any) -> None:
    queue, (reader, writer) = ctx.SimpleQueue(), ctx.Pipe(False)
    before = copy.deepcopy(value)
    queue.put(value)
    writer.send(value)
    with ctx.Manager() as manager:
        shared = manager.dict(value=value)
        got = [queue.get(), reader.recv(), shared["value"]]
        shared["value"] = 1
    for one in got:
        assert one == before
        assert types_of(one) == types_of(before)
        assert list(one) == list(before)
    if isinstance(value, list):
        got[0].append("more")
    assert value == before


class Metres(np.float64):
    pass


SCALARS: list[Any] = [
    np.float64(1.5), np.float32(-2.5), np.float16(0.5), np.longdouble(1) / 3, np.bool_(True),
    np.int8(-128), np.uint64(2**64 - 1), np.longlong(-5), np.complex64(1 + 2j), np.clongdouble(2j),
    np.float64("nan"), np.int64(0), np.datetime64("2020-01-02"), np.str_("text"), np.bytes_(b"b"),
    Metres(2.5), np.zeros(2, dtype="i4,f8")[0], np.array(7), [np.float64(1), (np.int8(2),)],
]  # fmt: skip


@pytest.mark.parametrize("value", SCALARS, ids=lambda v: type(v).__name__)
def test_scalars_of_numpy(value: Any) -> None:
    # As from a pickle, which makes a plain one of a class of one's own.
    expected = pickle.loads(pickle.dumps(value))
    queue: Any = ctx.Queue()
    queue.put(value)
    got = queue.get(timeout=20)
    assert types_of(got) == types_of(expected)
    assert repr(got) == repr(expected)
    with ctx.Pool(1) as pool:
        (back,) = pool.map(same, [value])
    assert types_of(back) == types_of(expected)
    assert repr(back) == repr(expected)


def test_maps_of_records() -> None:
    records = [{"id": i, "tags": [f"{i}", i / 2], "at": (i, None)} for i in range(3000)]
    with ctx.Pool(2) as pool:
        for chunksize in (None, 1):
            got = pool.map(same, records, chunksize)
            assert got == records
            assert types_of(got) == types_of(records)


def test_what_is_there_twice_comes_out_as_one() -> None:
    queue = ctx.SimpleQueue()
    inner: list[Any] = [1]
    inside = (inner,)
    for value in ([inner, inner], {"a": inner, "b": inner}, [[inner], inner], [inside, inside]):
        queue.put(value)
    # The last one is referred to by nothing else.
    del value
    first = queue.get()
    assert first[0] is first[1]
    second = queue.get()
    assert second["a"] is second["b"]
    third = queue.get()
    assert third[0][0] is third[1]
    fourth = queue.get()
    assert fourth[0][0] is fourth[1][0]
    shared = (fresh(),)
    queue.put([shared, shared])
    got = queue.get()
    assert got[0][0] is got[1][0]


def fresh() -> list[int]:
    return [1, 2]


def test_what_contains_itself() -> None:
    queue = ctx.SimpleQueue()
    value: list[Any] = [1]
    value.append(value)
    queue.put(value)
    got = queue.get()
    assert got[1] is got
    record: dict[str, Any] = {"list": []}
    record["list"].append(record)
    queue.put(record)
    del record
    got = queue.get()
    assert got["list"][0] is got


def test_a_key_that_cannot_be_one() -> None:
    with ctx.Manager() as manager:
        shared: Any = manager.dict()
        with pytest.raises(TypeError, match="unhashable"):
            shared[[1, 2]] = 3

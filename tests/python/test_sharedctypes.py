"""ctypes objects in shared memory, their wrappers, and the blocks that they are in."""

from __future__ import annotations

import ctypes
import gc
import pickle
import sys
import weakref
from typing import Any

import pytest

import procession
from procession import heap, sharedctypes
from procession.context import BaseContext
from procession.sharedctypes import Array, RawArray, RawValue, Value, copy, synchronized


class Point(ctypes.Structure):
    """A structure with fields of different types."""

    _fields_ = (("x", ctypes.c_int), ("y", ctypes.c_double), ("z", ctypes.c_longlong))


@pytest.mark.parametrize("code", sorted(sharedctypes.typecode_to_type))
def test_typecodes(code: str) -> None:
    array = RawArray(code, 3)
    assert ctypes.sizeof(array) == 3 * ctypes.sizeof(sharedctypes.typecode_to_type[code])
    assert not any(bytes(array))


def test_raw_objects() -> None:
    assert RawValue("i").value == 0
    assert RawValue(ctypes.c_double, 1.5).value == 1.5
    assert RawValue(Point, 1, 2.0).y == 2.0
    assert RawArray("h", [3, 2, 1])[:] == [3, 2, 1]
    assert len(RawArray("i", 0)) == 0
    assert RawArray("c", b"abc").value == b"abc"
    with pytest.raises(TypeError):
        RawArray("i", 1.5)
    with pytest.raises(ValueError):
        RawArray("i", -1)


def test_values_with_locks() -> None:
    number = Value("i", 7)
    number.value += 1
    assert (number.value, number.get_obj().value) == (8, 8)
    with number, number.get_lock():  # the lock may be acquired again by its owner
        number.value = 9
    assert repr(number) == "<Synchronized wrapper for c_int(9)>"
    point = Value(Point, 3, 2)
    point.z = 1 << 40
    assert (point.x, point.y, point.z) == (3, 2.0, 1 << 40)
    assert type(point) is type(Value(Point))
    assert type(point).__name__ == "SynchronizedPoint"


def test_arrays_with_locks() -> None:
    array = Array("d", [1, 2, 3])
    array[1] = 5
    array[2:] = [6]
    assert (len(array), array[:], list(array)) == (3, [1, 5, 6], [1, 5, 6])
    with pytest.raises(IndexError):
        array[3]
    text = Array("c", 20)
    text.value = b"hello"
    assert text.raw == b"hello" + bytes(15)
    assert type(text) is sharedctypes.SynchronizedString


def test_choice_of_the_lock() -> None:
    assert isinstance(Value("i", lock=False), ctypes.c_int)
    assert isinstance(Array("i", 2, lock=False), ctypes.Array)
    lock = procession.Lock()
    assert Value("i", lock=lock).get_lock() is lock
    with pytest.raises(AttributeError, match="has no method 'acquire'"):
        Value("i", lock="lock")
    with pytest.raises(AssertionError, match="already synchronized"):
        synchronized(Value("i"))


def test_copy_is_independent() -> None:
    original = Point(2, 5.0, 1 << 33)
    duplicate = copy(original)
    original.x = 0
    assert (duplicate.x, duplicate.y, duplicate.z) == (2, 5.0, 1 << 33)


def test_the_default_context_has_them() -> None:
    assert procession.Value("i", 3).value == 3
    assert procession.RawArray("i", 2)[:] == [0, 0]
    assert procession.Array("i", 2, lock=False)[:] == [0, 0]
    assert procession.RawValue("d", 0.5).value == 0.5


def test_only_children_are_given_them() -> None:
    for made in (Value("i"), Array("i", 1)):
        with pytest.raises(RuntimeError, match="through inheritance"):
            pickle.dumps(made)
    with pytest.raises(RuntimeError, match="through inheritance"):
        pickle.dumps(heap.BufferWrapper(1))


def test_blocks() -> None:
    wrapper = heap.BufferWrapper(10)
    view = wrapper.create_memoryview()
    assert (view.nbytes, bytes(view), view.readonly) == (10, bytes(10), False)
    view[3] = 1
    assert wrapper.create_memoryview()[3] == 1
    assert heap.BufferWrapper(0).create_memoryview().nbytes == 0
    with pytest.raises(ValueError, match="out of range"):
        heap.BufferWrapper(-1)
    with pytest.raises(OverflowError, match="too large"):
        heap.BufferWrapper(sys.maxsize)
    with pytest.raises(ValueError, match="out of range"):
        heap.Heap().malloc(-1)


def test_the_memory_outlives_its_wrapper() -> None:
    def view() -> memoryview:
        wrapper = heap.BufferWrapper(8)
        gone.append(weakref.ref(wrapper))
        return wrapper.create_memoryview()

    gone: list[Any] = []
    memory = view()
    gc.collect()
    assert gone[0]() is None
    memory[:] = b"12345678"
    assert bytes(memory) == b"12345678"


def test_arena_is_memory_with_a_descriptor() -> None:
    arena = heap.Arena(4096)
    arena.buffer[0] = 5
    duplicate = heap.rebuild_arena(4096, heap.reduce_arena(arena)[1][1])
    assert duplicate.buffer[0] == 5
    assert duplicate.fd != arena.fd


def double(*values: Any) -> None:
    """Double everything (runs in a child)."""
    number, fraction, point, array, text = values
    number.value *= 2
    fraction.value *= 2
    point.x *= 2
    for index in range(len(array)):
        array[index] *= 2
    text.value *= 2


@pytest.mark.parametrize("lock", [False, True], ids=["raw", "locked"])
def test_a_child_changes_them(ctx: BaseContext, lock: bool) -> None:
    values = (
        ctx.Value("i", 7, lock=lock),
        ctx.Value(ctypes.c_double, 0.25, lock=lock),
        ctx.Value(Point, 3, 2, lock=lock),
        ctx.Array("d", range(4), lock=lock),
        ctx.Array("c", 20, lock=lock),
    )
    number, fraction, point, array, text = values
    text.value = b"ab"
    process = ctx.Process(target=double, args=values)
    process.start()
    process.join()
    assert process.exitcode == 0
    process.close()
    assert (number.value, fraction.value, point.x) == (14, 0.5, 6)
    assert array[:] == [0, 2, 4, 6]
    assert text.value == b"abab"


def add(number: Any, times: int) -> None:
    """Add up under the lock (runs in children)."""
    for _ in range(times):
        with number.get_lock():
            number.value += 1


def test_the_lock_holds_between_processes(ctx: BaseContext) -> None:
    number = ctx.Value("q", 0)
    processes = [ctx.Process(target=add, args=(number, 500)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
        process.close()
    assert number.value == 1500

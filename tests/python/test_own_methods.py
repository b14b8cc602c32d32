"""Native methods that the interpreter finds and calls directly: see ``_native.own_methods``."""

from __future__ import annotations

import inspect
import pickle
from typing import TYPE_CHECKING, Any

import pytest

import procession as mp
from procession import _native, connection, queues, synchronize

if TYPE_CHECKING:
    from collections.abc import Callable

CONTEXT = mp.get_context("spawn")

MADE: list[tuple[Callable[[], Any], tuple[str, ...]]] = [
    (CONTEXT.Queue, ("put", "get")),
    (CONTEXT.JoinableQueue, ("put",)),
    (CONTEXT.Lock, ("acquire", "release")),
    (CONTEXT.RLock, ("acquire", "release")),
    (CONTEXT.Semaphore, ("acquire", "release")),
    (CONTEXT.BoundedSemaphore, ("acquire", "release")),
    (lambda: CONTEXT.Pipe()[0], ("send", "recv", "send_bytes", "recv_bytes", "poll")),
]


@pytest.mark.parametrize(("make", "names"), MADE)
def test_the_class_of_an_object_has_its_quick_methods_itself(
    make: Callable[[], Any], names: tuple[str, ...]
) -> None:
    cls = type(make())
    for name in names:
        method = vars(cls)[name]
        assert type(method) is type(str.upper)
        assert method.__objclass__ is cls
        inherited = next(vars(base)[name] for base in cls.__mro__[1:] if name in vars(base))
        assert inspect.signature(method) == inspect.signature(inherited)
        assert method.__doc__ == inherited.__doc__


@pytest.mark.parametrize(("make", "names"), MADE)
def test_an_object_has_no_dictionary_of_its_own(
    make: Callable[[], Any], names: tuple[str, ...]
) -> None:
    made = make()
    assert not vars(made)
    made.anything = 1
    assert vars(made) == {"anything": 1}


def test_what_is_no_native_method_is_refused() -> None:
    with pytest.raises(TypeError, match="close is no native method"):
        _native.own_methods(queues.Queue, "close")


def test_only_objects_of_the_class_can_be_called_with() -> None:
    lock: Any = CONTEXT.Lock()
    with pytest.raises(TypeError):
        queues.Queue.put(lock, 1)


def test_a_derived_class_may_override_and_extend() -> None:
    class Counting(queues.Queue[int]):
        def __init__(self) -> None:
            super().__init__(ctx=CONTEXT)
            self.puts = 0

        def put(self, obj: int, block: bool = True, timeout: float | None = None) -> None:
            self.puts += 1
            super().put(obj, block, timeout)

    counting = Counting()
    counting.put(5)
    counting.put_nowait(6)
    assert [counting.get(), counting.get(), counting.puts] == [5, 6, 2]


def test_methods_travel_as_before() -> None:
    queue: Any = queues.Queue(ctx=CONTEXT)
    with pytest.raises(RuntimeError, match="through inheritance"):
        pickle.dumps(queue.put)
    assert issubclass(synchronize.Lock, _native.LockCore)
    assert issubclass(connection.PipeConnection, _native.PipeEnd)

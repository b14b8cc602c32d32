"""Managers: the shared types, registered types, references to objects, and states."""

from __future__ import annotations

import array
import gc
import queue
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import procession
from procession import ProcessError, managers
from procession.context import BaseContext
from procession.managers import (
    BaseManager,
    BaseProxy,
    Namespace,
    RemoteError,
    SharedMemoryManager,
    SyncManager,
)


@pytest.fixture
def manager() -> Iterator[SyncManager]:
    """A started manager."""
    with SyncManager(shutdown_timeout=20) as started:
        yield started


def test_list(manager: Any) -> None:
    shared = manager.list(range(5))
    shared.append(5)
    shared += [6]
    shared *= 2
    assert shared[:] == [*range(7)] * 2
    assert (len(shared), shared[-1], shared.index(3), shared.count(2)) == (14, 6, 3, 2)
    assert 3 in shared
    assert [item + 1 for item in shared][:3] == [1, 2, 3]
    assert next(reversed(shared)) == 6
    assert shared.__add__([1]) == [*range(7), *range(7), 1]
    del shared[2:]
    shared.reverse()
    assert (str(shared), shared.pop(), shared.copy()) == ("[1, 0]", 0, [1])
    shared.clear()
    with pytest.raises(IndexError):
        shared.pop()
    assert repr(shared).startswith("<ListProxy object, typeid 'list' at 0x")


def test_dict(manager: Any) -> None:
    shared = manager.dict(a=1)
    shared.update(b=2)
    shared |= {"c": 3}
    assert (shared["b"], shared.get("x"), len(shared), "a" in shared) == (2, None, 3, True)
    assert (list(shared), list(reversed(shared))) == (["a", "b", "c"], ["c", "b", "a"])
    assert shared.keys() == ["a", "b", "c"]
    assert shared.items() == [("a", 1), ("b", 2), ("c", 3)]
    assert shared.values() == [1, 2, 3]
    assert shared | {"d": 4} == {"a": 1, "b": 2, "c": 3, "d": 4}
    assert (shared.pop("c"), shared.setdefault("e", 5), shared.popitem()) == (3, 5, ("e", 5))
    with pytest.raises(KeyError, match="nothing"):
        shared["nothing"]
    iterator = iter(shared)
    assert next(iterator) == "a"
    shared.clear()
    with pytest.raises(RuntimeError, match="changed size"):
        next(iterator)


def test_set(manager: Any) -> None:
    shared = manager.set([1, 2])
    shared.add(3)
    shared |= {4}
    shared -= {1}
    shared ^= {9}
    shared &= {2, 3, 4}
    assert sorted(shared) == [2, 3, 4]
    assert shared == {2, 3, 4}
    assert shared >= {2}
    assert (len(shared), 2 in shared, shared | {5}) == (3, True, {2, 3, 4, 5})
    shared.discard(7)
    with pytest.raises(KeyError):
        shared.remove(7)


def test_namespace_value_and_array(manager: Any) -> None:
    namespace = manager.Namespace(x=1)
    namespace.y = 2
    namespace._hidden = "not shared"
    del namespace.x
    assert (namespace.y, hasattr(namespace, "x"), str(namespace)) == (2, False, "Namespace(y=2)")
    value = manager.Value("i", 5)
    value.value += 1
    assert (value.value, value.get(), str(value)) == (6, 6, "Value('i', 6)")
    numbers = manager.Array("d", [1, 2])
    numbers[0] = 3
    assert (len(numbers), numbers[:]) == (2, array.array("d", [3, 2]))


def test_synchronisation(manager: Any) -> None:
    lock, rlock, condition = manager.Lock(), manager.RLock(), manager.Condition()
    with lock:
        assert not lock.acquire(False)
        assert not lock.acquire(True, 0.01)
    with rlock, rlock:
        pass
    semaphore = manager.BoundedSemaphore(1)
    semaphore.acquire()
    semaphore.release()
    with pytest.raises(ValueError, match="released too many times"):
        semaphore.release()
    event = manager.Event()
    assert not event.wait(0.01)
    event.set()
    assert event.wait(20)
    assert event.is_set()
    with condition:
        assert condition.wait_for(lambda: False, 0.02) is False
        condition.notify()
        condition.notify_all()
    barrier = manager.Barrier(2)
    threads = [threading.Thread(target=barrier.wait) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (2, 0, False)
    barrier.abort()
    assert barrier.broken
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()


def test_a_condition_wakes_another_thread(manager: Any) -> None:
    condition, seen = manager.Condition(), manager.list()

    def consume() -> None:
        with condition:
            condition.wait_for(lambda: len(seen) > 0, 20)
            seen.append("consumed")

    thread = threading.Thread(target=consume)
    thread.start()
    with condition:
        seen.append("produced")
        condition.notify_all()
    thread.join()
    assert seen[:] == ["produced", "consumed"]


def test_queue(manager: Any) -> None:
    shared = manager.Queue(1)
    shared.put("a")
    with pytest.raises(queue.Full):
        shared.put_nowait("b")
    assert shared.get(timeout=20) == "a"
    with pytest.raises(queue.Empty):
        shared.get(timeout=0.01)
    joinable = manager.JoinableQueue()
    joinable.put(1)
    joinable.get()
    joinable.task_done()
    joinable.join()


def test_errors_carry_no_cycle(manager: Any) -> None:
    shared = manager.Queue()
    gc.disable()
    try:
        try:
            shared.get_nowait()
        except queue.Empty as error:
            gone = weakref.ref(error)
        assert gone() is None
    finally:
        gc.enable()


def test_nested_objects_are_shared(manager: Any) -> None:
    inner, outer = manager.dict(x=1), manager.list()
    outer.append(inner)
    outer[0]["y"] = 2
    inner["z"] = 3
    assert outer[0].copy() == {"x": 1, "y": 2, "z": 3}
    assert list(outer[0]) == ["x", "y", "z"]
    outer.append(manager.Queue())
    outer[1].put(5)
    assert outer[1].get() == 5
    outer.append(outer)
    assert outer[2][0]["x"] == 1


def test_references_are_counted(manager: Any) -> None:
    gc.collect()
    start = manager._number_of_objects()
    inner, outer = manager.list([9]), manager.list()
    outer.append(inner)
    assert manager._number_of_objects() == start + 2
    assert "refcount=1\n    [9]" in manager._debug_info()
    del inner
    gc.collect()
    assert manager._number_of_objects() == start + 1
    assert outer[0][:] == [9]
    again = outer.pop()
    assert manager._number_of_objects() == start + 2
    again.append(10)
    del outer
    gc.collect()
    assert again[:] == [9, 10]
    del again
    gc.collect()
    assert manager._number_of_objects() == start


class Watched:
    """Writes a line to a file when it goes, and when it was made."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __del__(self) -> None:
        with open(self.path, "a") as file:
            file.write("gone\n")

    def touch(self) -> str:
        """Be there."""
        return "there"


class WatchedManager(SyncManager):
    """Shares watched objects too."""


WatchedManager.register("Watched", Watched)


def test_an_object_goes_with_the_last_list_that_held_it(tmp_path: Any) -> None:
    path = tmp_path / "log"
    with WatchedManager(shutdown_timeout=20) as manager:
        watched: Any = manager.Watched(str(path))  # type: ignore[attr-defined]
        outer = manager.list([watched])  # type: ignore[attr-defined]
        del watched
        gc.collect()
        assert outer[0].touch() == "there"
        gc.collect()
        outer.clear()
        del outer
        gc.collect()
        # The server forgets what only its own proxies held when it is busy with references.
        manager.list()  # type: ignore[attr-defined]
        assert path.read_text() == "gone\n"


def test_a_proxy_in_a_message_uses_the_key_of_its_manager() -> None:
    assert procession.current_process().authkey != b"another"
    with SyncManager(authkey=b"another", shutdown_timeout=20) as manager:
        shared: Any = manager
        outer = shared.dict(inner=shared.list([1]))
        assert outer["inner"][:] == [1]
        outer["inner"].append(2)
        assert outer["inner"][:] == [1, 2]


class Thing:
    """Has public and other methods."""

    def f(self) -> str:
        """A result."""
        return "f()"

    def g(self) -> str:
        """An error."""
        raise ValueError("from g")

    def _h(self) -> str:
        return "_h()"

    def unpicklable(self) -> object:
        """Something that can't be sent."""
        return threading.Lock()

    def count(self, end: int) -> Iterator[int]:
        """A generator."""
        for number in range(end):
            received = yield number
            if received:
                yield received


class IteratorProxy(BaseProxy):
    """Iterates."""

    _exposed_ = ("__next__",)

    def __iter__(self) -> IteratorProxy:
        return self

    def __next__(self) -> Any:
        return self._callmethod("__next__")


def squares() -> Iterator[int]:
    """The squares of ten numbers."""
    return (number * number for number in range(10))


class ThingManager(BaseManager):
    """Shares things."""


ThingManager.register("Plain", callable=Thing)
ThingManager.register("Chosen", callable=Thing, exposed=("f", "_h"))
ThingManager.register(
    "Counting", callable=Thing, method_to_typeid={"count": "Iterator"}, exposed=("count",)
)
ThingManager.register("Iterator", proxytype=managers.IteratorProxy, create_method=False)
ThingManager.register("squares", callable=squares, proxytype=IteratorProxy)


def things(shared: Any) -> None:
    """Check what each of the registrations of ThingManager gives."""
    plain, chosen = shared.Plain(), shared.Chosen()
    assert [name for name in ("f", "g", "_h") if hasattr(plain, name)] == ["f", "g"]
    assert [name for name in ("f", "g", "_h") if hasattr(chosen, name)] == ["f", "_h"]
    assert (plain.f(), chosen._h(), plain._callmethod("f")) == ("f()", "_h()", "f()")
    with pytest.raises(ValueError, match="from g"):
        plain.g()
    with pytest.raises(RemoteError, match="is not in exposed"):
        plain._callmethod("_h")
    with pytest.raises(RemoteError, match="Unserializable message"):
        plain.unpicklable()
    assert plain.f() == "f()"
    assert type(plain).__name__ == "AutoProxy[Plain]"
    counting = shared.Counting().count(3)
    assert (next(counting), counting.send("hi"), next(counting)) == (0, "hi", 1)
    counting.close()
    with pytest.raises(StopIteration):
        next(counting)
    assert list(shared.squares()) == [number * number for number in range(10)]


def test_registered_types() -> None:
    manager = ThingManager(shutdown_timeout=20)
    manager.start()
    things(manager)
    manager.shutdown()
    assert manager._process.exitcode == 0
    with ThingManager(shutdown_timeout=20) as used_as_context:
        things(used_as_context)


def test_states() -> None:
    manager = SyncManager(shutdown_timeout=20)
    with pytest.raises(AssertionError, match="server not yet started"):
        manager.list()  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="initializer must be a callable"):
        manager.start(1)  # type: ignore[arg-type]
    manager.start()
    for call in (manager.start, manager.get_server):
        with pytest.raises(ProcessError, match="Already started server"):
            call()
    manager.shutdown()
    manager.join()
    for again in (manager.start, manager.get_server, manager.__enter__):
        with pytest.raises(ProcessError, match="Manager has shut down"):
            again()
    shared_memory = SharedMemoryManager()
    with pytest.raises(ValueError, match="address type"):
        shared_memory.SharedMemory(9)


def fill(namespace: Any) -> None:
    """An initializer."""
    namespace.value += 1


def fail() -> None:
    """An initializer that does not work."""
    raise SystemExit(3)


def test_initializer(manager: Any) -> None:
    namespace = manager.Namespace(value=1)
    with SyncManager(shutdown_timeout=20) as second:
        pass
    third = SyncManager(shutdown_timeout=20)
    third.start(fill, (namespace,))
    third.shutdown()
    assert namespace.value == 2
    assert second._process.exitcode == 0
    fourth = SyncManager()
    with pytest.raises(EOFError) as caught:
        fourth.start(fail)
    assert "exit code 3" in caught.value.__notes__[0]


def use(shared: Any, key: str) -> None:
    """Change a list of lists (runs in a child)."""
    shared[0].append(key)
    assert list(shared[1]) == ["k"]
    shared.append(shared[1].copy())


def test_children_use_it(ctx: BaseContext) -> None:
    manager: Any = ctx.Manager()
    with manager:
        shared = manager.list([manager.list(), manager.dict(k=1)])
        processes = [ctx.Process(target=use, args=(shared, name)) for name in "ab"]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
            process.close()
        assert sorted(shared[0]) == ["a", "b"]
        assert shared[2:] == [{"k": 1}] * 2
        assert manager._number_of_objects() == 1
        manager.join(0)


def test_a_proxy_type_that_counts_for_itself() -> None:
    class Counting(BaseProxy):
        _exposed_ = ("f",)

        def __init__(self, *args: Any, **kwds: Any) -> None:
            super().__init__(*args, **{**kwds, "incref": False})
            self._incref()

    def not_a_class(token: Any, serializer: Any, **kwds: Any) -> Any:
        return token.typeid

    class Own(BaseManager):
        pass

    Own.register("Counting", Thing, Counting)
    Own.register("nothing", Thing, not_a_class, exposed=("f",))
    with Own(shutdown_timeout=20) as started:
        shared: Any = started
        proxy = shared.Counting()
        assert proxy._callmethod("f") == "f()"
        assert shared.nothing() == "nothing"
        assert shared._number_of_objects() == 1
        del proxy
        gc.collect()
        assert shared._number_of_objects() == 0


def test_pool(manager: Any) -> None:
    with manager.Pool(2) as pool:
        assert pool.apply(abs, (-1,)) == 1
        assert pool.map(abs, [-1, -2]) == [1, 2]
        assert pool.apply_async(abs, (-3,)).get(20) == 3
        assert list(pool.imap(abs, [-4, -5])) == [4, 5]
        assert pool.starmap(pow, [(2, 3)]) == [8]


def test_small_things() -> None:
    token = managers.Token("list", "/address", "7f")
    assert repr(token) == "Token(typeid='list', address='/address', id='7f')"
    assert isinstance(managers.convert_to_error("#ERROR", ValueError("x")), ValueError)
    assert "Unrecognized" in str(managers.convert_to_error("#OTHER", ""))
    with pytest.raises(TypeError, match="not str"):
        managers.convert_to_error("#TRACEBACK", 1)
    assert repr(Namespace(b=1, a=2, _c=3)) == "Namespace(a=2, b=1)"
    assert managers.public_methods(Thing()) == ["count", "f", "g", "unpicklable"]
    assert managers.MakeProxyType("P", ("a", "b")) is managers.MakeProxyType("P", ["a", "b"])
    assert managers.ListProxy[int].__origin__ is managers.ListProxy
    for name in managers.__all__:
        assert getattr(managers, name).__module__ == managers.__name__

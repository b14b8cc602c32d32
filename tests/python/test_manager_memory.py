"""Managers' dicts, lists and their kin in the session's memory: semantics, lifetime, deaths."""

from __future__ import annotations

import array
import collections
import copy
import decimal
import gc
import os
import random
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import procession
from procession.context import BaseContext
from procession.managers import BaseManager, DictProxy, ServerGoneError, SyncManager


@pytest.fixture
def manager() -> Iterator[Any]:
    """A started manager."""
    with SyncManager(shutdown_timeout=20) as started:
        yield started


class Key:
    """Hashable, and equal to others of its number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self.number == other.number

    def __hash__(self) -> int:
        return self.number

    def __repr__(self) -> str:
        return f"Key({self.number})"


class Text(str):
    """Equal to a text."""

    __slots__ = ()


KEYS: list[Any] = [
    *(0, 1, True, 1.0, -1, 2.5, 10**30, 1e30, float("inf"), None, "", "a", "a longer key"),
    *(b"a", b"", (), (1, "a"), (True, "a"), ((1.0,), None), frozenset({1, 2}), Key(1), Key(7)),
    *(Text("a"), "\udc80", "x" * 5000, 2**63, -(2**63), 1 + 0j, decimal.Decimal(2), 2),
]
VALUES: list[Any] = [
    *(0, None, "text", "long " * 50, b"bytes", [1, [2]], {"k": (1, 2)}, 2**70, 1.5, (1, "a")),
    *("x" * 100_000, list(range(300))),
]


def outcome(function: Any, *args: Any) -> Any:
    """What a call returns, or how it fails."""
    try:
        return function(*args)
    except (KeyError, IndexError, ValueError, TypeError) as error:
        return type(error), error.args


def same(left: Any, right: Any) -> bool:
    """Equal, and of one type: 1 is not True here."""
    return repr(left) == repr(right)


@pytest.mark.parametrize("seed", range(4))
def test_a_dict_is_a_dict(manager: Any, seed: int) -> None:
    rng = random.Random(seed)
    keys = rng.sample(KEYS, 12) if seed else KEYS
    shared, plain = manager.dict(), {}
    for _ in range(600):
        key, value = rng.choice(keys), rng.choice(VALUES)
        match rng.randrange(14):
            case 0 | 1 | 2 | 3:
                shared[key] = plain[key] = value
            case 4 | 5:
                assert same(outcome(shared.__getitem__, key), outcome(plain.__getitem__, key))
            case 6:
                assert same(outcome(shared.pop, key), outcome(plain.pop, key))
            case 7:
                assert same(shared.pop(key, 7), plain.pop(key, 7))
            case 8:
                deleted = outcome(shared.__delitem__, key)
                assert same(deleted, outcome(plain.__delitem__, key))
            case 9:
                assert same(shared.setdefault(key, value), plain.setdefault(key, value))
            case 10:
                assert (key in shared) == (key in plain)
                assert same(shared.get(key, "none"), plain.get(key, "none"))
            case 11 if rng.random() < 0.3:
                assert same(outcome(shared.popitem), outcome(plain.popitem))
            case 12:
                many = {rng.choice(keys): rng.choice(VALUES) for _ in range(rng.randrange(20))}
                shared.update(many)
                plain.update(many)
            case 13 if rng.random() < 0.1:
                shared.clear()
                plain.clear()
        assert len(shared) == len(plain)
    assert same(shared.copy(), plain)
    assert same(list(shared), list(plain))
    assert same(list(reversed(shared)), list(reversed(plain)))
    assert same(shared.items(), list(plain.items()))
    assert same(shared.keys(), list(plain))
    assert same(shared.values(), list(plain.values()))
    assert same(shared | {"new": 1}, plain | {"new": 1})
    assert str(shared) == str(plain)
    assert same(copy.deepcopy(shared), plain)


@pytest.mark.parametrize("seed", range(4))
def test_a_list_is_a_list(manager: Any, seed: int) -> None:
    rng = random.Random(seed)
    shared, plain = manager.list(), []

    def both(name: str, *args: Any) -> None:
        mine, theirs = outcome(getattr(shared, name), *args), outcome(getattr(plain, name), *args)
        assert same(mine, theirs), (name, args)

    for _ in range(500):
        value, index = rng.choice(VALUES), rng.randrange(-12, 12)
        some = [rng.choice(VALUES) for _ in range(rng.randrange(8))]
        part = slice(*(rng.choice([None, *range(-9, 9)]) for _ in range(2)))
        match rng.randrange(16):
            case 0 | 1 | 2:
                both("append", value)
            case 3:
                both("__setitem__", index, value)
            case 4:
                both("__getitem__", rng.choice([index, part, slice(None, None, -2)]))
            case 5:
                both("pop", *rng.choice([(), (0,), (index,)]))
            case 6:
                both("insert", index, value)
            case 7:
                both("__delitem__", rng.choice([index, part, slice(None, None, 3)]))
            case 8:
                both("__setitem__", part, some)
            case 9:
                both("extend", some)
            case 10:
                both("remove", value)
            case 11:
                both("index", value)
                both("count", value)
                both("__contains__", value)
            case 12:
                both("reverse")
            case 13:
                shared.sort(key=repr, reverse=bool(index % 2))
                plain.sort(key=repr, reverse=bool(index % 2))
            case 14 if len(plain) < 50:
                shared *= index % 4
                plain *= index % 4
            case 15 if rng.random() < 0.1:
                both("clear")
        assert len(shared) == len(plain)
    assert same(shared[:], plain)
    assert same(list(shared), plain)
    assert same(list(reversed(shared)), plain[::-1])
    assert same(shared.__add__([1]), [*plain, 1])
    assert str(shared) == str(plain)


def test_errors_are_raised_here(manager: Any) -> None:
    shared = manager.dict(a=1)
    with pytest.raises(KeyError, match="'b'"):
        shared["b"]
    with pytest.raises(TypeError, match="unhashable"):
        shared[[]] = 1
    with pytest.raises(TypeError, match="unhashable"):
        shared.get({})
    with pytest.raises((TypeError, AttributeError)):
        shared["lock"] = lambda: None
    keys, unused = iter(shared), iter(shared)
    assert next(keys) == "a"
    shared["b"] = 1
    for iterator in (keys, unused):
        with pytest.raises(RuntimeError, match="changed size"):
            next(iterator)
    with pytest.raises(AttributeError, match="'Namespace' object has no attribute 'x'"):
        manager.Namespace().x  # noqa: B018
    with pytest.raises(TypeError):
        manager.Array("i", [1])[0] = "text"
    with pytest.raises(IndexError, match="array index out of range"):
        manager.Array("i", [1])[1]


def test_typed_values(manager: Any) -> None:
    value = manager.Value("i", 3)
    value.value += 1
    assert (value.get(), str(value), value._getvalue().value) == (4, "Value('i', 4)", 4)
    numbers = manager.Array("f", [0.1, 2])
    numbers[1] = 0.1
    numbers[:1] = array.array("f", [5, 6])
    assert numbers[:] == array.array("f", [5, 6, 0.1]) == numbers._getvalue()
    space = manager.Namespace(x=1, _hidden=2)
    space.y = [1]
    space.y.append(2)
    del space.x
    assert str(space) == "Namespace(y=[1])"
    assert not hasattr(space, "x")


def test_an_array_comes_as_a_copy(manager: Any) -> None:
    shared = manager.dict(big=np.arange(100_000), small=np.arange(3))
    for name in ("big", "small"):
        first = shared[name]
        first[0] = 99
        assert shared[name][0] == 0
        assert (first[1:] == shared[name][1:]).all()
    big = shared["big"]
    del shared["big"]
    gc.collect()
    assert big[99_999] == 99_999


def test_nested_proxies_live_in_their_containers(manager: Any) -> None:
    outer = manager.dict()
    outer["list"] = manager.list([1])
    outer["lock"] = manager.Lock()
    outer["deep"] = manager.list([manager.dict(x=1)])
    gc.collect()
    outer["list"].append(2)
    assert outer["list"][:] == [1, 2]
    with outer["lock"]:
        pass
    outer["deep"][0]["x"] += 1
    assert outer["deep"][0].copy() == {"x": 2}
    kept = outer["deep"]
    outer.clear()
    assert kept[0]["x"] == 2


def test_nothing_is_left_of_what_nobody_has(manager: Any, eventually: Any) -> None:
    outer = manager.list()
    before = procession._native.session_info()["objects"]
    for _ in range(10):
        outer.append(manager.dict(inner=manager.list([manager.Event()])))
    outer[:] = []
    gc.collect()
    eventually(
        lambda: (
            manager._number_of_objects() == 1
            and procession._native.session_info()["objects"] == before
        )
    )


def _use(data: Any, values: Any, number: Any, space: Any, numbers: Any) -> None:
    data["child"] = {"pid": os.getpid()}
    data["nested"].append(2)
    values += [data["nested"], 5]
    number.value += 1
    space.y = space.x + 1
    numbers[0] = 7


def test_clients_of_all_kinds(ctx: BaseContext) -> None:
    with ctx.Manager() as manager:
        data, values = manager.dict(), manager.list([1])
        number, space = manager.Value("i", 1), manager.Namespace(x=1)
        numbers = manager.Array("d", [0, 0])
        data["nested"] = manager.list([1])
        process = ctx.Process(target=_use, args=(data, values, number, space, numbers))
        process.start()
        process.join()
        assert process.exitcode == 0
        assert data["child"] == {"pid": process.pid}
        assert values[1][:] == data["nested"][:] == [1, 2]
        assert (values[0], values[2], number.value, space.y, numbers[0]) == (1, 5, 2, 2, 7)


def test_no_server_is_asked(manager: Any) -> None:
    shared, values = manager.dict(), manager.list([0])
    os.kill(manager._process.pid, signal.SIGSTOP)
    try:
        shared["a"] = 1
        shared.update(b=2, c=3)
        values.append(shared)
        values[1]["d"] = 4
        assert shared.copy() == {"a": 1, "b": 2, "c": 3, "d": 4}
        assert len(values) == 2
    finally:
        os.kill(manager._process.pid, signal.SIGCONT)


def _change(data: Any, values: Any, ready: Any) -> None:
    ready.set()
    while True:
        for i in range(20):
            data[f"key {i}"] = "value " * i
            values.append("value " * i)
        data.update({f"many {i}": "value " * 9 for i in range(30)})
        values[:] = ["new " * 5] * 12
        for i in range(0, 20, 2):
            data.pop(f"key {i}", None)
            del values[:1]


def test_a_client_may_die_at_any_moment(ctx: BaseContext) -> None:
    with ctx.Manager() as manager:
        data, values = manager.dict(), manager.list()
        data["survivor"] = 0
        for round_ in range(4):
            ready = ctx.Event()
            victims = [ctx.Process(target=_change, args=(data, values, ready)) for _ in range(2)]
            for victim in victims:
                victim.daemon = True
                victim.start()
            assert ready.wait(20)
            if round_ % 2:
                victims[0].terminate()
            for _ in range(40 * round_):
                data["survivor"] += 1
            for victim in victims:
                victim.kill()
                victim.join()
            content = data.copy()
            assert all(
                value == "value " * (9 if key.startswith("many") else int(key[4:]))
                for key, value in content.items()
                if key != "survivor"
            )
            # An update is there as a whole or not at all.
            assert sum(key.startswith("many") for key in content) in (0, 30)
            assert len(data) == len(content) == len(list(data))
            assert all(set(value.split()) <= {"value", "new"} for value in values[:])
            assert len(values[:]) == len(values)
        assert data["survivor"] == sum(40 * round_ for round_ in range(4))


def _count(data: Any, lock: Any, times: int) -> None:
    for i in range(times):
        with lock:
            data["count"] += 1
        data["list"].append(i)


def test_clients_change_it_together(ctx: BaseContext) -> None:
    with ctx.Manager() as manager:
        data, lock = manager.dict(count=0), ctx.Lock()
        data["list"] = manager.list()
        clients = [ctx.Process(target=_count, args=(data, lock, 400)) for _ in range(3)]
        for client in clients:
            client.start()
        for _ in range(20):
            data["list"].sort()
        for client in clients:
            client.join()
        assert data["count"] == 1200
        data["list"].sort()
        assert collections.Counter(data["list"][:]) == dict.fromkeys(range(400), 3)


def _disturb(values: Any, started: Any) -> None:
    while True:
        values[-1] = values[-1]
        started.set()


def _busily(value: int) -> int:
    return sum(range(20_000)) * 0 + value


def test_a_slow_change_gets_its_turn(ctx: BaseContext) -> None:
    with ctx.Manager() as manager:
        values, started = manager.list(range(100, 0, -1)), ctx.Event()
        other = ctx.Process(target=_disturb, args=(values, started), daemon=True)
        other.start()
        assert started.wait(20)
        # While this computes, the other one changes the list thousands of times.
        values.sort(key=_busily)
        assert values[:99] == list(range(1, 100))
        other.kill()
        other.join()
        values.append(5)


def test_after_the_shutdown_use_is_an_error(manager: Any) -> None:
    shared = [
        *(manager.dict(a=1), manager.list([1]), manager.Value("i", 1), manager.Namespace(x=1)),
        manager.Array("i", [1]),
    ]
    manager.shutdown()
    for use in (
        lambda: shared[0]["a"],
        lambda: shared[0].update(b=1),
        lambda: len(shared[1]),
        lambda: shared[1].append(1),
        lambda: shared[2].value,
        lambda: shared[3].x,
        lambda: shared[4][0],
        lambda: shared[0]._getvalue(),
    ):
        # What the standard library raises is one of these, depending on the moment.
        with pytest.raises(ServerGoneError) as caught:
            use()
        assert isinstance(caught.value, EOFError)
        assert isinstance(caught.value, BrokenPipeError)
    assert str(shared[0]).endswith("; '__str__()' failed>")
    assert "DictProxy object" in repr(shared[0])


class Upper(dict):  # type: ignore[type-arg]
    """A dict that a program registers instead."""

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key.upper(), value)


class OwnManager(SyncManager):
    """Has its own dict."""


class FewManager(BaseManager):
    """Has a dict of which little is exposed."""


OwnManager.register("dict", Upper, DictProxy)
FewManager.register("dict", SyncManager._registry["dict"].callable, exposed=("get", "keys"))


def test_types_that_a_program_registers() -> None:
    with OwnManager() as manager:
        shared = manager.dict()
        shared["a"] = 1
        assert shared.copy() == {"A": 1}
        assert manager.list([1])[0] == 1
    with FewManager() as few:
        limited = few.dict(a=1)  # type: ignore[attr-defined]
        assert limited.get("a") == 1
        with pytest.raises(AttributeError):
            limited.pop("a")
        with pytest.raises(Exception, match="not in exposed"):
            limited._callmethod("pop", ("a",))

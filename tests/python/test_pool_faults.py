"""What goes wrong in workers, and that only the item that it happened to is affected."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest

from procession import pool as pools
from procession.context import BaseContext


def killed(x: int) -> int:
    if x == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def crashing(x: int) -> int:
    if x == 5:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        ctypes.string_at(0)
    return x


def exiting_at_once(x: int) -> int:
    if x == 5:
        os._exit(7)
    return x


def exiting(x: int) -> int:
    if x == 5:
        sys.exit(3)
    return x


def tell_and_wait(told: Any, never: Any) -> None:
    told.put(os.getpid())
    never.get()


def die_once(x: int, path: str) -> int:
    if x == 5:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return x
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def unpicklable_result(x: int) -> Any:
    return (lambda: x) if x == 2 else x


class CannotComeBack(Exception):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)


def raise_it(x: int) -> int:
    raise CannotComeBack("one", "two")


class NotAnException(BaseException):
    pass


def raise_base(x: int) -> int:
    raise NotAnException("base")


def bad_initializer() -> None:
    os._exit(9)


def square(x: int) -> int:
    return x * x


def outcomes(pool: Any, func: Any, items: range) -> list[Any]:
    """Each item's result, or its exception."""
    found: list[Any] = []
    iterator = pool.imap(func, items)
    for _ in items:
        try:
            found.append(next(iterator))
        except Exception as error:
            found.append(error)
    return found


@pytest.mark.parametrize(
    ("func", "exitcode"),
    [
        (killed, -signal.SIGKILL),
        (crashing, -signal.SIGSEGV),
        (exiting_at_once, 7),
        (exiting, 3),
    ],
)
class TestDeath:
    def test_exactly_the_running_item_fails(
        self, ctx: BaseContext, func: Callable[[int], int], exitcode: int
    ) -> None:
        with ctx.Pool(2) as pool:
            found = outcomes(pool, func, range(20))
            died = found.pop(5)
            assert found == [i for i in range(20) if i != 5]
            assert isinstance(died, pools.WorkerDied)
            assert died.exitcode == exitcode
            assert died.item == 5
            assert func.__name__ in str(died)
            with pytest.raises(pools.WorkerDied):
                pool.map(func, range(20))
            with pytest.raises(pools.WorkerDied) as info:
                pool.apply_async(func, (5,)).get(60)
            assert info.value.exitcode == exitcode
            # The pool is whole again.
            assert pool.map(square, range(10)) == [i * i for i in range(10)]
            assert len(pool._pool) == 2


class TestRetries:
    def test_a_retried_item_succeeds(self, ctx: BaseContext, tmp_path: Any) -> None:
        path = str(tmp_path / "died")
        with ctx.Pool(2, retries=1) as pool:
            assert pool.starmap(die_once, [(i, path) for i in range(10)]) == list(range(10))

    def test_a_poison_item_is_given_up(self, ctx: BaseContext) -> None:
        with ctx.Pool(2) as pool:
            with pytest.raises(pools.WorkerDied):
                pool.apply_async(killed, (5,), retries=1000).get(60)
            assert pool.map(square, [3]) == [9]


class TestIdleDeath:
    def test_nobody_notices(self, ctx: BaseContext, eventually: Callable[..., None]) -> None:
        with ctx.Pool(2) as pool:
            assert pool.map(square, range(10)) == [i * i for i in range(10)]
            victim = pool._pool[0]
            assert victim.pid is not None
            os.kill(victim.pid, signal.SIGKILL)
            for _ in range(5):
                assert pool.map(square, range(100)) == [i * i for i in range(100)]

            def whole() -> bool:
                pool.map(square, range(4))
                return len(pool._pool) == 2 and victim not in pool._pool

            eventually(whole, "the worker was replaced")


class TestStopping:
    def test_timeout_stops_only_that_task(self, ctx: BaseContext) -> None:
        told: Any = ctx.Queue()
        never: Any = ctx.Queue()
        with ctx.Pool(2) as pool:
            result = pool.apply_async(tell_and_wait, (told, never), timeout=0.3)
            others = pool.map_async(square, range(50))
            with pytest.raises(pools.TaskTimeout):
                result.get(60)
            assert others.get(60) == [i * i for i in range(50)]
            assert pool.map(square, range(5)) == [i * i for i in range(5)]

    def test_cancel_a_running_task(self, ctx: BaseContext, eventually: Callable[..., None]) -> None:
        told: Any = ctx.Queue()
        never: Any = ctx.Queue()
        with ctx.Pool(1) as pool:
            running = pool.apply_async(tell_and_wait, (told, never))
            waiting = pool.apply_async(square, (2,))
            pid = told.get(timeout=60)
            assert running.cancel()
            with pytest.raises(pools.TaskCancelled):
                running.get(60)
            assert waiting.get(60) == 4
            eventually(lambda: not _exists(pid), "the worker was stopped")
            assert not waiting.cancel()


class TestBadResults:
    def test_a_result_that_cannot_be_pickled(self, ctx: BaseContext) -> None:
        with ctx.Pool(2) as pool:
            found = outcomes(pool, unpicklable_result, range(5))
            assert isinstance(found.pop(2), pools.MaybeEncodingError)
            assert found == [0, 1, 3, 4]

    def test_an_exception_that_cannot_be_rebuilt(self, ctx: BaseContext) -> None:
        with ctx.Pool(2) as pool:
            with pytest.raises(pools.MaybeEncodingError, match="CannotComeBack"):
                pool.apply_async(raise_it, (1,)).get(60)
            assert pool.map(square, [2]) == [4]

    def test_an_argument_that_cannot_be_pickled(self, ctx: BaseContext) -> None:
        with ctx.Pool(2) as pool:
            with pytest.raises(Exception, match="pickle") as info:
                pool.map(square, [1, {"a": [1, lambda: 1]}, 2])
            assert any("['a'][1]" in note for note in info.value.__notes__)
            assert pool.map(square, [2]) == [4]

    def test_a_base_exception(self, ctx: BaseContext) -> None:
        with ctx.Pool(2) as pool:
            with pytest.raises(NotAnException):
                pool.apply_async(raise_base, (1,)).get(60)
            assert pool.map(square, [2]) == [4]


class TestStart:
    def test_workers_that_never_get_up_break_the_pool(self, ctx: BaseContext) -> None:
        with (
            ctx.Pool(2, initializer=bad_initializer) as pool,
            pytest.raises(pools.PoolBroken, match="exit code 9"),
        ):
            pool.map(square, range(10))


def _exists(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

"""What goes wrong in workers, and that only the item that it happened to is affected."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import procession
from procession import _native, pool as pools
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


def tell_and_wait(told: Any, never: Any) -> tuple[int, Any]:
    told.put(os.getpid())
    return os.getpid(), never.get()


def ignore_and_wait(told: Any, never: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tell_and_wait(told, never)


def die_once(x: int, path: str) -> int:
    if x == 5:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return x
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def killed_noting(path: str) -> None:
    with open(path, "a") as file:
        file.write("x")
    killed(5)


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


def outcomes(iterator: Iterator[Any], count: int) -> list[Any]:
    """Each item's result, or its exception."""
    found: list[Any] = []
    for _ in range(count):
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
        self,
        ctx: BaseContext,
        func: Callable[[int], int],
        exitcode: int,
        eventually: Callable[..., None],
    ) -> None:
        def check(died: Any, item: int) -> None:
            assert isinstance(died, pools.WorkerDied)
            assert died.exitcode == exitcode
            assert died.signal == (signal.Signals(-exitcode) if exitcode < 0 else None)
            assert died.item == item
            assert died.task == func.__name__
            assert func.__name__ in str(died)
            assert not died.out_of_memory
            eventually(lambda: not _exists(died.pid), "the worker is gone")

        with ctx.Pool(2) as pool:
            found = outcomes(pool.imap(func, range(20)), 20)
            check(found.pop(5), 5)
            assert found == [i for i in range(20) if i != 5]
            found = outcomes(pool.imap_unordered(func, range(20)), 20)
            (died,) = (outcome for outcome in found if not isinstance(outcome, int))
            check(died, 5)
            assert sorted(i for i in found if i is not died) == [i for i in range(20) if i != 5]
            with pytest.raises(pools.WorkerDied) as info:
                pool.map(func, range(20))
            check(info.value, 5)
            calls = [pool.apply_async(func, (i,)) for i in range(10)]
            found = outcomes((call.get(60) for call in calls[:5]), 5)
            assert found == [0, 1, 2, 3, 4]
            with pytest.raises(pools.WorkerDied) as info:
                calls[5].get(60)
            check(info.value, 5)
            assert [call.get(60) for call in calls[6:]] == [6, 7, 8, 9]
            # The pool is whole again.
            assert pool.map(square, range(10)) == [i * i for i in range(10)]
            assert len(pool._pool) == 2


class TestRetries:
    def test_a_retried_item_succeeds(self, ctx: BaseContext, tmp_path: Any) -> None:
        path = str(tmp_path / "died")
        with ctx.Pool(2, retries=1) as pool:
            assert pool.starmap(die_once, [(i, path) for i in range(10)]) == list(range(10))

    def test_a_poison_item_is_given_up(self, ctx: BaseContext, tmp_path: Any) -> None:
        path = str(tmp_path / "runs")
        with ctx.Pool(2) as pool:
            with pytest.raises(pools.WorkerDied):
                pool.apply_async(killed_noting, (path,), retries=1000).get(60)
            # Three workers are enough.
            assert os.path.getsize(path) == 3
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
    def test_timeout_stops_only_that_task(
        self, ctx: BaseContext, eventually: Callable[..., None]
    ) -> None:
        told: Any = ctx.Queue()
        never: Any = ctx.Queue()
        with ctx.Pool(2) as pool:
            # Both have imported what they need, which counts as well.
            both = [pool.apply_async(tell_and_wait, (told, never)) for _ in range(2)]
            assert len({told.get(timeout=60) for _ in both}) == 2
            for _ in both:
                never.put("on")
            assert [task.get(60)[1] for task in both] == ["on", "on"]
            beside = pool.apply_async(tell_and_wait, (told, never))
            pid_beside = told.get(timeout=60)
            result = pool.apply_async(tell_and_wait, (told, never), timeout=0.3)
            pid = told.get(timeout=60)
            others = pool.map_async(square, range(50))
            with pytest.raises(pools.TaskTimeout):
                result.get(60)
            eventually(lambda: not _exists(pid), "the worker was stopped")
            # What ran beside it has not been touched.
            assert not beside.ready()
            never.put("go")
            assert beside.get(60) == (pid_beside, "go")
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

    @pytest.mark.parametrize("how", ["ignoring", "stopped"])
    def test_terminate_ends_a_worker_that_does_not_want_to(
        self, ctx: BaseContext, how: str, eventually: Callable[..., None]
    ) -> None:
        told: Any = ctx.Queue()
        pool = ctx.Pool(2)
        func = ignore_and_wait if how == "ignoring" else tell_and_wait
        results = [pool.apply_async(func, (told, ctx.Queue())) for _ in range(2)]
        pids = [told.get(timeout=60) for _ in results]
        if how == "stopped":
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
        pool.terminate()
        pool.join()
        assert not any(map(_exists, pids))
        for result in results:
            with pytest.raises(pools.TaskCancelled):
                result.get(60)

    @pytest.mark.parametrize("how", ["cancel", "timeout"])
    def test_a_stubborn_task_is_stopped(self, ctx: BaseContext, how: str) -> None:
        told: Any = ctx.Queue()
        with ctx.Pool(1) as pool:
            assert pool.apply(square, (2,)) == 4
            timeout = 0.3 if how == "timeout" else None
            result = pool.apply_async(ignore_and_wait, (told, ctx.Queue()), timeout=timeout)
            told.get(timeout=60)
            if how == "cancel":
                assert result.cancel()
            with pytest.raises((pools.TaskCancelled, pools.TaskTimeout)):
                result.get(60)
            assert pool.map(square, range(5)) == [i * i for i in range(5)]


class TestStopped:
    """A debugger may stop a worker for as long as it likes."""

    def test_a_stopped_worker_is_not_dead(self, ctx: BaseContext) -> None:
        told: Any = ctx.Queue()
        go: Any = ctx.Queue()
        with ctx.Pool(2) as pool:
            pids = {worker.pid for worker in pool._pool}
            result = pool.apply_async(tell_and_wait, (told, go))
            pid = told.get(timeout=60)
            os.kill(pid, signal.SIGSTOP)
            go.put("go")
            for _ in range(3):
                # The other one does all the rest.
                assert pool.map(square, range(500)) == [i * i for i in range(500)]
            with pytest.raises(pools.TimeoutError):
                result.get(1)
            os.kill(pid, signal.SIGCONT)
            assert result.get(60) == (pid, "go")
            assert {worker.pid for worker in pool._pool} == pids

    def test_all_are_stopped_in_the_middle_of_a_map(self, ctx: BaseContext) -> None:
        with ctx.Pool(2) as pool:
            pids = [worker.pid for worker in pool._pool if worker.pid is not None]
            assert pool.map(square, range(10)) == [i * i for i in range(10)]
            result = pool.map_async(square, range(200_000), chunksize=1)
            for _ in range(4):
                for pid in pids:
                    os.kill(pid, signal.SIGSTOP)
                result.wait(0.3)
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)
                result.wait(0.01)
            assert result.get(60) == [i * i for i in range(200_000)]
            assert [worker.pid for worker in pool._pool] == pids


class TestOutOfMemory:
    def test_the_kernels_kills_are_told_apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """By the counter of the group, which is one more after such a kill."""
        kills = [3]
        monkeypatch.setattr(_native, "oom_kills", lambda: kills[0])
        with procession.get_context("fork").Pool(1) as pool:
            kills[0] += 1
            told = []
            for func in (exiting_at_once, killed, killed):
                with pytest.raises(pools.WorkerDied) as info:
                    pool.apply_async(func, (5,)).get(60)
                told.append((info.value.out_of_memory, "out-of-memory" in str(info.value)))
            # One death for each kill, and only one by SIGKILL.
            assert told == [(False, False), (True, True), (False, False)]

    def test_the_counter_can_be_read(self) -> None:
        assert _native.oom_kills() >= 0


class TestBadResults:
    def test_a_result_that_cannot_be_pickled(self, ctx: BaseContext) -> None:
        with ctx.Pool(2) as pool:
            found = outcomes(pool.imap(unpicklable_result, range(5)), 5)
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
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_worker_that_cannot_be_started_does_not_keep_the_others(
    ctx: BaseContext, eventually: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = ctx.Pool(2)
    pids = [worker.pid for worker in pool._pool]
    for pid in pids:
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    # Both are replaced in one go then.
    eventually(lambda: all(_native_ended(worker) for worker in list(pool._pool)))
    engine = pool._engine
    make, refused = engine._start_process, []

    def start_process(*args: Any, **kwds: Any) -> Any:
        if not refused:
            refused.append(True)
            raise OSError(11, "Resource temporarily unavailable")
        return make(*args, **kwds)

    monkeypatch.setattr(engine, "_start_process", start_process)
    # Told to the one who waits, unless the other worker is there so soon that nobody has to.
    with contextlib.suppress(BlockingIOError):
        assert pool.apply(abs, (-1,)) == 1
    assert refused
    with contextlib.suppress(BlockingIOError):
        assert pool.map(abs, range(-9, 0), 1) == list(range(9, 0, -1))
    pool.terminate()
    pool.join()


def _native_ended(worker: Any) -> bool:
    return bool(_native.wait_exit(worker.sentinel, 0.0))

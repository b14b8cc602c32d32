"""Pools of processes and threads: the methods, in the standard library's terms."""

from __future__ import annotations

import functools
import gc
import operator
import os
import pickle
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import procession
from procession import pool as pools
from procession.context import BaseContext


def square(x: int) -> int:
    return x * x


def add(a: int, b: int = 0) -> int:
    return a + b


def fail_on_three(x: int) -> int:
    if x == 3:
        raise ValueError("three")
    return x


def pid_of(_: object) -> int:
    return os.getpid()


def initialize(queue: Any, value: int) -> None:
    global initialized
    initialized = value
    queue.put(os.getpid())


def initialized_value(_: object) -> int:
    return initialized


def put_into(queue: Any, value: int) -> None:
    queue.put(value)


def double(array: Any) -> Any:
    return array * 2


def total(array: Any, item: int) -> float:
    return float(array.sum()) + item


class TestMethods:
    def test_map(self, ctx: BaseContext) -> None:
        with ctx.Pool(3) as pool:
            for count in (0, 1, 2, 10, 1000):
                for chunk in (None, 1, 7, 5000):
                    assert pool.map(square, range(count), chunk) == [i * i for i in range(count)]

    def test_map_of_an_iterator_and_of_other_types(self, ctx: BaseContext) -> None:
        values = [None, True, 1, -(2**70), 1.5, "ä\ud800", b"x" * 100_000, (1, (2,)), {"a": [1]}]
        with ctx.Pool(2) as pool:
            assert pool.map(operator.pos, iter([1, 2])) == [1, 2]
            assert pool.map(_identity, values) == values

    def test_starmap_and_apply(self, ctx: BaseContext) -> None:
        with ctx.Pool(2) as pool:
            assert pool.starmap(add, [(1, 2), (3, 4), [5, 6]]) == [3, 7, 11]
            assert pool.starmap_async(add, [(1, 2)]).get(60) == [3]
            assert pool.apply(add, (1,), {"b": 5}) == 6
            assert pool.apply_async(add, (1, 2)).get(60) == 3
            assert pool.apply_async(add, [1, 2]).get(60) == 3

    def test_imap(self, ctx: BaseContext) -> None:
        with ctx.Pool(2) as pool:
            assert list(pool.imap(square, range(50))) == [i * i for i in range(50)]
            assert list(pool.imap(square, range(50), chunksize=8)) == [i * i for i in range(50)]
            assert sorted(pool.imap_unordered(square, range(50))) == [i * i for i in range(50)]
            iterator = pool.imap(square, [5])
            assert iterator.next(60) == 25
            with pytest.raises(StopIteration):
                iterator.next()

    def test_imap_takes_its_input_as_it_is_read(self) -> None:
        taken = 0

        def numbers() -> Iterator[int]:
            nonlocal taken
            for i in range(100_000):
                taken += 1
                yield i

        with procession.Pool(2) as pool:
            iterator = pool.imap(square, numbers())
            assert next(iterator) == 0
            assert taken < 1000
            iterator = pool.imap_unordered(square, numbers(), buffersize=5)
            taken = 0
            next(iterator)
            assert taken <= 10

    def test_an_iterable_that_raises(self, ctx: BaseContext) -> None:
        def numbers() -> Iterator[int]:
            yield 1
            yield 2
            raise KeyError("no more")

        with ctx.Pool(2) as pool:
            with pytest.raises(KeyError):
                pool.map(square, numbers())
            iterator = pool.imap(square, numbers())
            assert [next(iterator), next(iterator)] == [1, 4]
            with pytest.raises(KeyError):
                next(iterator)
            assert pool.map(square, [3]) == [9]

    def test_async_results(self, ctx: BaseContext) -> None:
        with ctx.Pool(2) as pool:
            result = pool.apply_async(fail_on_three, (3,))
            result.wait(60)
            assert result.ready()
            assert not result.successful()
            with pytest.raises(ValueError, match="three"):
                result.get()
            many = [pool.apply_async(square, (i,)) for i in range(500)]
            assert [r.get(60) for r in many] == [i * i for i in range(500)]
            assert pool.map_async(square, range(10)).get(60) == [i * i for i in range(10)]

    def test_an_unfinished_result(self) -> None:
        queue: Any = procession.Queue()
        with procession.Pool(1) as pool:
            result = pool.apply_async(queue_get, (queue,))
            assert not result.ready()
            with pytest.raises(ValueError, match="not ready"):
                result.successful()
            with pytest.raises(procession.TimeoutError):
                result.get(timeout=0.01)
            queue.put(5)
            assert result.get(60) == 5

    def test_callbacks(self, ctx: BaseContext, eventually: Callable[..., None]) -> None:
        got: list[Any] = []
        errors: list[BaseException] = []
        with ctx.Pool(2) as pool:
            pool.apply_async(square, (3,), callback=got.append)
            pool.map_async(square, range(3), callback=got.append)
            pool.apply_async(fail_on_three, (3,), error_callback=errors.append)
            eventually(lambda: len(got) == 2 and len(errors) == 1)
        assert sorted(got, key=str) == [9, [0, 1, 4]]
        assert str(errors[0]) == "three"

    def test_exceptions_have_the_remote_traceback(self, ctx: BaseContext) -> None:
        with ctx.Pool(2) as pool, pytest.raises(ValueError, match="three") as info:
            pool.map(fail_on_three, range(5))
        cause = info.value.__cause__
        assert isinstance(cause, pools.RemoteTraceback)
        assert 'raise ValueError("three")' in cause.tb

    def test_initializer_and_names(self, ctx: BaseContext) -> None:
        queue: Any = ctx.Queue()
        with ctx.Pool(2, initialize, (queue, 7)) as pool:
            assert pool.map(initialized_value, range(4)) == [7] * 4
            assert {queue.get(timeout=60), queue.get(timeout=60)} == {p.pid for p in pool._pool}
            assert all("PoolWorker" in p.name and p.daemon for p in pool._pool)

    def test_maxtasksperchild(self, ctx: BaseContext) -> None:
        with ctx.Pool(2, maxtasksperchild=3) as pool:
            pids = pool.map(pid_of, range(30), chunksize=1)
            assert max(pids.count(pid) for pid in pids) <= 3
            assert len(set(pids)) >= 10

    @pytest.mark.parametrize(
        ("tasks", "chunk", "items", "each"),
        [(2, 50, 1000, 100), (1, None, 80, 10), (3, 7, 100, 21)],
    )
    def test_maxtasksperchild_counts_chunks(
        self, tasks: int, chunk: int | None, items: int, each: int
    ) -> None:
        def pids(pool: Any) -> list[list[int]]:
            return [
                pool.map(pid_of, range(items), chunk),
                list(pool.imap_unordered(pid_of, range(items), chunk or 10)),
            ]

        with procession.get_context("fork").Pool(2, maxtasksperchild=tasks) as pool:
            for found in pids(pool):
                assert max(found.count(pid) for pid in found) <= each
                # Workers are replaced when they have run so many, and no sooner.
                assert items / each <= len(set(found)) <= items / each + 4

    def test_queues_and_locks_as_arguments_of_running_workers(self, ctx: BaseContext) -> None:
        with ctx.Pool(2) as pool:
            queue: Any = ctx.Queue()
            pool.starmap(put_into, [(queue, i) for i in range(10)])
            assert sorted(queue.get(timeout=60) for _ in range(10)) == list(range(10))


class TestArrays:
    def test_arrays_there_and_back(self, ctx: BaseContext) -> None:
        arrays = [np.full(50_000, i, dtype=float) for i in range(6)]
        with ctx.Pool(2) as pool:
            for i, array in enumerate(pool.map(double, arrays)):
                assert array.shape == (50_000,)
                assert (array == 2 * i).all()
                array[0] = -1

    def test_a_large_argument_of_all_items(self, ctx: BaseContext) -> None:
        shared = np.ones(300_000)
        with ctx.Pool(2) as pool:
            expected = [300_000.0 + i for i in range(20)]
            assert pool.map(functools.partial(total, shared), range(20)) == expected
            assert pool.starmap(total, [(shared, i) for i in range(20)]) == expected


class TestEnds:
    def test_close_and_join_finish_the_work(self, ctx: BaseContext) -> None:
        pool = ctx.Pool(2)
        results = [pool.apply_async(square, (i,)) for i in range(20)]
        mapped = pool.map_async(square, range(100))
        unread = pool.imap(square, range(200))
        pool.close()
        with pytest.raises(ValueError, match="Pool not running"):
            pool.map(square, [1])
        pool.join()
        assert [r.get() for r in results] == [i * i for i in range(20)]
        assert mapped.get() == [i * i for i in range(100)]
        assert list(unread) == [i * i for i in range(200)]

    def test_terminate_ends_running_tasks(self, ctx: BaseContext) -> None:
        queue: Any = ctx.Queue()
        pool = ctx.Pool(2)
        result = pool.apply_async(queue_get, (queue,))
        pool.terminate()
        pool.join()
        with pytest.raises(pools.TaskCancelled):
            result.get(60)

    def test_join_needs_close(self) -> None:
        pool = procession.Pool(1)
        with pytest.raises(ValueError, match="still running"):
            pool.join()
        pool.terminate()
        pool.join()

    def test_a_dropped_pool_warns_and_goes(self) -> None:
        held = [procession.Pool(1)]
        gone = weakref.ref(held[0])

        def forget() -> None:
            held.clear()
            gc.collect()

        with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):
            forget()
        assert gone() is None

    def test_bad_arguments(self) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            procession.Pool(0)
        with pytest.raises(TypeError, match="callable"):
            procession.Pool(1, initializer=5)  # type: ignore[arg-type]
        for bad in (0, -1, 0.5, "12"):
            with pytest.raises(ValueError, match="maxtasksperchild"):
                procession.Pool(1, maxtasksperchild=bad)  # type: ignore[arg-type]
        with procession.Pool(1) as pool:
            with pytest.raises(ValueError, match="Chunksize"):
                pool.imap(square, [1], 0)
            with pytest.raises(ValueError, match="timeout"):
                pool.apply_async(square, (1,), timeout=-1)
            with pytest.raises(NotImplementedError):
                pickle.dumps(pool)

    def test_nothing_is_left_in_the_session(self) -> None:
        def use() -> None:
            with procession.Pool(2) as pool:
                pool.map(square, range(100))
                pool.map(double, [np.ones(100_000)])
                pool.apply_async(square, (1,)).get()
            pool.join()

        use()
        gc.collect()
        from procession import _native

        before = _native.session_info()
        for _ in range(3):
            use()
        gc.collect()
        after = _native.session_info()
        assert after["objects"] == before["objects"]
        assert after["bytes_used"] <= before["bytes_used"]


class TestThreads:
    def test_the_same_methods(self) -> None:
        with pools.ThreadPool(3) as pool:
            assert pool.map(lambda x: x + 1, range(10)) == list(range(1, 11))
            assert pool.starmap(add, [(1, 2)]) == [3]
            assert pool.apply(add, (1, 2)) == 3
            assert list(pool.imap(square, range(9))) == [i * i for i in range(9)]
            assert sorted(pool.imap_unordered(square, range(9))) == [i * i for i in range(9)]
            with pytest.raises(ValueError, match="three"):
                pool.map(fail_on_three, range(5))
            done = threading.Event()
            pool.apply_async(square, (2,), callback=lambda _: done.set())
            assert done.wait(60)

    def test_close_and_join(self) -> None:
        pool = pools.ThreadPool(2)
        results = [pool.apply_async(square, (i,)) for i in range(20)]
        pool.close()
        pool.join()
        assert [r.get() for r in results] == [i * i for i in range(20)]


def _identity(x: object) -> object:
    return x


def queue_get(queue: Any) -> Any:
    return queue.get()


def test_a_worker_of_queues(ctx: BaseContext) -> None:
    """The standard library's functions for those who build a pool of their own."""
    calls, answers = ctx.SimpleQueue(), ctx.SimpleQueue()
    child = ctx.Process(
        target=pools.worker,
        args=(calls, answers, answers.put, ("initialized",)),
        kwargs={"maxtasks": 4, "wrap_exception": True},
    )
    child.start()
    calls.put((1, 0, pools.mapstar, ((abs, (1, -2)),), {}))
    calls.put((1, 1, pools.starmapstar, ((divmod, ((7, 2), (9, 3))),), {}))
    calls.put((2, 0, divmod, (1, 0), {}))
    calls.put((3, 0, threading.Lock, (), {}))
    assert answers.get() == "initialized"
    assert answers.get() == (1, 0, (True, [1, 2]))
    assert answers.get() == (1, 1, (True, [(3, 1), (3, 0)]))
    job, _, (success, error) = answers.get()
    assert (job, success, type(error)) == (2, False, ZeroDivisionError)
    assert "divmod" in str(error.__cause__) or "func(*args" in str(error.__cause__)
    job, _, (success, error) = answers.get()
    assert (job, success, type(error)) == (3, False, pools.MaybeEncodingError)
    child.join()
    assert child.exitcode == 0


def test_results_say_what_they_are(ctx: BaseContext) -> None:
    with ctx.Pool(1) as workers:
        first = workers.apply_async(abs, (-1,))
        second = workers.map_async(abs, [-1, -2], chunksize=2)
        assert first.get() == 1
        assert second.get() == [1, 2]
        assert second.progress() == (2, 2)
        failed = workers.map_async(len, [1, 2])
        with pytest.raises(TypeError) as caught:
            failed.get()
        assert failed.progress() == (2, 2)
    assert re.fullmatch(r"<procession\.pool\.ApplyResult \d+ done at 0x\w+>", repr(first))
    assert re.fullmatch(r"<procession\.pool\.MapResult \d+ failed at 0x\w+>", repr(failed))
    assert next(pools.job_counter) > 2
    cause = type(caught.value.__cause__)
    assert f"{cause.__module__}.{cause.__name__}" == "procession.pool.RemoteTraceback"
    for name in ("WorkerDied", "TaskTimeout", "MaybeEncodingError", "IMapIterator"):
        assert getattr(pools, name).__module__ == "procession.pool"


def test_threads_that_are_terminated_start_nothing_more() -> None:
    started, go_on = [], threading.Event()

    def wait(number: int) -> None:
        started.append(number)
        go_on.wait()

    threads = pools.ThreadPool(2)
    waiting = threads.map_async(wait, range(1000))
    assert waiting.progress() == (0, 1000)
    threads.terminate()
    go_on.set()
    threads.join()
    assert len(started) <= 2
    assert waiting.progress() == (1000, 1000)
    with pytest.raises(pools.TaskCancelled):
        waiting.get()

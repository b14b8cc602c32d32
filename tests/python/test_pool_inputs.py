"""Inputs of imaps that keep whoever reads them waiting."""

from __future__ import annotations

import gc
import os
import queue
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import procession
from procession.pool import TaskCancelled, ThreadPool, WorkerDied

LIMIT = 60
Eventually = Callable[..., None]


def same(x: Any) -> Any:
    return x


def die_at_3(x: int) -> int:
    if x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


@pytest.fixture(params=["processes", "threads"])
def pool(request: pytest.FixtureRequest) -> Iterator[Any]:
    context = procession.get_context("fork")
    with context.Pool(2) if request.param == "processes" else ThreadPool(2) as pool:
        yield pool


class Blocking:
    """Gives what it was given, when it was given it."""

    def __init__(self, *items: Any) -> None:
        self.items: queue.Queue[Any] = queue.Queue()
        self.read = 0
        self.closed = False
        for item in items:
            self.items.put(item)

    def __iter__(self) -> Iterator[Any]:
        try:
            while (item := self.items.get(timeout=LIMIT)) is not None:
                if isinstance(item, BaseException):
                    raise item
                self.read += 1
                yield item
        finally:
            self.closed = True


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "pool input"]


def test_results_do_not_wait_for_further_input(pool: Any) -> None:
    source = Blocking(1, 2)
    results = pool.imap(same, source)
    assert [results.next(LIMIT), results.next(LIMIT)] == [1, 2]
    with pytest.raises(procession.TimeoutError):
        results.next(0.05)
    source.items.put(3)
    assert results.next(LIMIT) == 3
    source.items.put(None)
    with pytest.raises(StopIteration):
        results.next(LIMIT)
    assert list(results) == []


def test_the_reader_is_ahead_by_no_more_than_the_window(pool: Any, eventually: Eventually) -> None:
    source = Blocking(*range(1, 1001), None)
    results = pool.imap(same, source, buffersize=10)
    eventually(lambda: source.read == 10)
    assert [next(results) for _ in range(20)] == list(range(1, 21))
    eventually(lambda: source.read >= 25)
    assert source.read <= 31
    assert list(results) == list(range(21, 1001))
    eventually(lambda: not readers(), "the reader has ended")


@pytest.mark.parametrize("error", [KeyError("here"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_what_the_input_raises(pool: Any, error: BaseException) -> None:
    results = pool.imap(same, Blocking(1, 2, error))
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(type(error)) as raised:
        next(results)
    assert raised.value is error
    with pytest.raises(StopIteration):
        next(results)


def test_the_reader_ends_with_its_imap(pool: Any, eventually: Eventually) -> None:
    source = Blocking(*range(100))
    results = pool.imap(same, source, buffersize=4)
    assert next(results) == 0
    del results
    gc.collect()
    eventually(lambda: not readers(), "the reader has ended")
    assert source.read < 100
    eventually(lambda: source.closed, "the input is given back")
    assert pool.map(same, range(3)) == [0, 1, 2]


def test_an_imap_that_nobody_reads_is_run(pool: Any, eventually: Eventually) -> None:
    source = Blocking(*range(100), None)
    pool.imap(same, source, buffersize=4)
    gc.collect()
    eventually(lambda: source.closed, "all is read")
    pool.close()
    pool.join()
    assert source.read == 100


def test_join_waits_for_the_end_of_the_input(pool: Any) -> None:
    source = Blocking(*range(100))
    results = pool.imap(same, source, buffersize=4)
    pool.close()
    end = threading.Thread(target=pool.join)
    end.start()
    source.items.put(100)
    source.items.put(None)
    end.join(LIMIT)
    assert not end.is_alive()
    assert list(results) == list(range(101))


def test_terminate_does_not_wait_for_input(pool: Any, eventually: Eventually) -> None:
    source = Blocking(1)
    results = pool.imap(same, source)
    assert next(results) == 1
    pool.terminate()
    pool.join()
    source.items.put(2)
    eventually(lambda: not readers(), "the reader has ended")
    assert source.read <= 2


def test_terminate_ends_a_reader_that_is_far_enough_ahead(
    pool: Any, eventually: Eventually
) -> None:
    source = Blocking(*range(100))
    results = pool.imap(same, source, buffersize=4)
    eventually(lambda: source.read == 4)
    pool.terminate()
    eventually(lambda: not readers(), "the reader has ended")
    del results


@pytest.mark.parametrize("kind", [list, iter])
def test_join_after_an_imap_was_dropped_on_the_way(pool: Any, kind: Any) -> None:
    results = pool.imap(same, kind(range(100_000)))
    next(results)
    pool.close()
    del results
    gc.collect()
    joining = threading.Thread(target=pool.join, daemon=True)
    joining.start()
    joining.join(LIMIT)
    assert not joining.is_alive()


def test_whoever_waits_for_input_learns_that_the_pool_is_terminated() -> None:
    source = Blocking(1)
    pool = procession.get_context("fork").Pool(2)
    results = pool.imap(same, source)
    assert next(results) == 1
    end = threading.Timer(0.2, pool.terminate)
    end.start()
    with pytest.raises(TaskCancelled):
        results.next(LIMIT)
    with pytest.raises(StopIteration):
        results.next(LIMIT)
    end.join()
    pool.join()
    source.items.put(None)


@pytest.mark.parametrize("kind", [list, iter])
def test_an_imap_that_was_read_ends_after_the_pool(kind: Any, eventually: Eventually) -> None:
    with procession.get_context("fork").Pool(2) as pool:
        results = pool.imap(same, kind([1, 2, 3]))
        unread = pool.imap(same, kind([1, 2, 3]))
        assert [next(results) for _ in range(3)] == [1, 2, 3]
        eventually(lambda: results._input.source is None, "its input has been read to the end")
    assert list(results) == []
    del unread


def test_a_timeout_while_another_thread_reads(pool: Any) -> None:
    source = Blocking()
    results = pool.imap(same, source)
    other = threading.Thread(target=results.next, args=(LIMIT,), daemon=True)
    other.start()
    with pytest.raises(procession.TimeoutError):
        results.next(0.1)
    source.items.put(1)
    source.items.put(None)
    other.join(LIMIT)
    assert not other.is_alive()


def test_an_input_leaves_nothing_behind(pool: Any) -> None:
    """Neither the thread that has read it nor its exception keeps what it had."""

    class Item:
        pass

    held = Item()
    there = weakref.ref(held)

    def items(held: Any) -> Iterator[int]:
        yield 1
        raise KeyError(id(held))

    results = pool.imap(same, items(held))
    del held
    gc.collect()
    gc.disable()
    try:
        assert next(results) == 1
        with pytest.raises(KeyError):
            next(results)
        del results
        assert there() is None
    finally:
        gc.enable()


def test_an_interrupt_while_a_list_is_read_costs_nothing(monkeypatch: Any) -> None:
    with procession.get_context("fork").Pool(2) as pool:
        results = pool.imap(same, list(range(1000)))
        read, interrupts = pool._engine._room_for, iter([KeyboardInterrupt()] * 3)

        def interrupted(source: Any) -> int:
            for interrupt in interrupts:
                raise interrupt
            room: int = read(source)
            return room

        monkeypatch.setattr(pool._engine, "_room_for", interrupted)
        got: list[int] = []
        while len(got) < 1000:
            try:
                got.append(results.next(LIMIT))
            except KeyboardInterrupt:
                continue
    assert got == list(range(1000))
    assert not list(interrupts), "it was interrupted"


def test_a_death_while_the_input_waits() -> None:
    source = Blocking(1, 2, 3)
    with procession.get_context("fork").Pool(2) as pool:
        results = pool.imap(die_at_3, source)
        assert [next(results), next(results)] == [1, 2]
        with pytest.raises(WorkerDied):
            results.next(LIMIT)
        source.items.put(4)
        assert results.next(LIMIT) == 4
        source.items.put(None)
        assert list(results) == []


def test_many_at_a_time(pool: Any) -> None:
    sources = [Blocking() for _ in range(20)]
    imaps = [pool.imap(same, source) for source in sources]
    for i in range(50):
        for source in sources:
            source.items.put(i)
        if i % 10 == 0:
            assert [one.next(LIMIT) for one in imaps] == [i // 10] * 20
    for source in sources:
        source.items.put(None)
    assert [list(one) for one in imaps] == [list(range(5, 50))] * 20

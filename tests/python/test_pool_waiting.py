"""Several threads that wait for results of one pool, and its callbacks."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import procession
from procession.pool import TaskCancelled

LIMIT = 60
Eventually = Callable[..., None]


def same(x: Any) -> Any:
    return x


def later(x: Any) -> Any:
    time.sleep(0.002)
    return x


def fail(x: Any) -> Any:
    raise KeyError(x)


@pytest.fixture
def pool() -> Iterator[Any]:
    with procession.get_context("fork").Pool(2) as pool:
        yield pool


def in_threads(count: int, body: Callable[[int], None]) -> None:
    """Run a body in several threads; all have to end."""
    failed: list[BaseException] = []

    def run(number: int) -> None:
        try:
            body(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive(), "a thread waits for what is there"
    assert not failed, failed


def test_each_thread_gets_its_own(pool: Any) -> None:
    def body(number: int) -> None:
        for i in range(50):
            assert pool.apply(later, ((number, i),)) == (number, i)

    in_threads(8, body)


def test_many_threads_get_one_result(pool: Any) -> None:
    for _ in range(20):
        result = pool.apply_async(later, (1,))
        in_threads(8, lambda _, result=result: _equal(result.get(LIMIT), 1))


def _equal(a: Any, b: Any) -> None:
    assert a == b


def test_whoever_waits_alone_is_not_left(pool: Any) -> None:
    """The one that collects for all leaves; another must go on, and no other one is there."""
    gate = pool.apply_async(time.sleep, (0.2,))
    long = pool.apply_async(time.sleep, (0.6,))
    leading = threading.Thread(target=gate.wait, daemon=True)
    leading.start()

    def body(number: int) -> None:
        if number == 0:
            # Leaves although its result is not there.
            with pytest.raises(procession.TimeoutError):
                long.get(0.05)
        else:
            long.get(LIMIT)

    in_threads(4, body)
    leading.join(LIMIT)


def test_a_signal_handler_may_wait_for_a_result(pool: Any) -> None:
    inner = []

    def handler(*_: Any) -> None:
        inner.append(pool.apply(same, (2,)))

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        assert pool.apply_async(time.sleep, (0.5,)).get(LIMIT) is None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert inner == [2]


def test_threads_submit_more_than_there_is_room_for(pool: Any) -> None:
    def body(number: int) -> None:
        results = [pool.apply_async(same, ((number, i),)) for i in range(3000)]
        assert [r.get(LIMIT) for r in results] == [(number, i) for i in range(3000)]

    in_threads(3, body)


# ------------------------------------------------------------------------------------- callbacks


def test_callbacks_have_a_thread_of_their_own(pool: Any, eventually: Eventually) -> None:
    names: list[str] = []

    def note(_: Any) -> None:
        names.append(threading.current_thread().name)

    pool.apply_async(same, (1,), callback=note).get(LIMIT)
    pool.map_async(same, range(9), callback=note).get(LIMIT)
    pool.map_async(same, [], callback=note)
    pool.apply_async(fail, (1,), error_callback=note).wait(LIMIT)
    pool.map_async(fail, range(9), error_callback=note).wait(LIMIT)
    eventually(lambda: len(names) == 5, "all are called")
    assert set(names) == {"pool callbacks"}


def test_who_looks_may_hold_what_a_callback_wants(pool: Any, eventually: Eventually) -> None:
    lock, called = threading.Lock(), threading.Event()

    def callback(_: Any) -> None:
        with lock:
            called.set()

    with lock:
        result = pool.apply_async(same, (1,), callback=callback)
        again = pool.map_async(same, range(3), callback=callback)
        plain = pool.apply_async(same, (2,))
        assert plain.get(LIMIT) == 2
        assert not result.ready()
        assert not again.ready()
        with pytest.raises(procession.TimeoutError):
            result.get(0.05)
        with pytest.raises(procession.TimeoutError):
            again.get(0.05)
        assert not result.cancel()
        assert again.progress() == (3, 3)
    assert result.get(LIMIT) == 1
    assert called.is_set(), "the callback comes before the result is told"
    assert again.get(LIMIT) == [0, 1, 2]


def test_a_callback_that_fails(pool: Any, monkeypatch: Any) -> None:
    told: list[type[BaseException] | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_type))
    first = pool.apply_async(same, (1,), callback=fail)
    second = pool.map_async(same, [1], callback=lambda _: exit(3))
    assert first.get(LIMIT) == 1
    assert second.get(LIMIT) == [1]
    assert told == [KeyError, RuntimeError]
    assert pool.apply_async(same, (2,), callback=told.append).get(LIMIT) == 2
    assert told[2:] == [2]


def test_a_callback_may_use_the_pool(pool: Any) -> None:
    got: list[Any] = []
    others: list[Any] = []

    def callback(value: Any) -> None:
        got.append(pool.apply(same, (value + 1,)))
        # One whose callback would come behind this one.
        others.append(pool.apply_async(same, (5,), callback=got.append))
        got.append(others[0].get(LIMIT) + 1)
        with pytest.raises(RuntimeError, match="its own result"):
            result.get(LIMIT)

    gate = threading.Event()
    ahead = pool.apply_async(same, (0,), callback=lambda _: gate.wait(LIMIT))
    result = pool.apply_async(same, (1,), callback=callback)
    gate.set()
    assert ahead.get(LIMIT) == 0
    assert result.get(LIMIT) == 1
    assert got == [2, 5, 6]


def test_all_callbacks_are_called_before_join_returns(pool: Any, eventually: Eventually) -> None:
    got: list[int] = []
    for i in range(200):
        pool.apply_async(same, (i,), callback=got.append)
    pool.close()
    pool.join()
    assert sorted(got) == list(range(200))
    # Those of the pools before this one end by themselves.
    eventually(lambda: not [t for t in threading.enumerate() if t.name.startswith("pool")])


def test_callbacks_of_a_pool_that_was_terminated(pool: Any) -> None:
    errors: list[BaseException] = []
    result = pool.apply_async(time.sleep, (LIMIT,), error_callback=errors.append)
    pool.terminate()
    with pytest.raises(TaskCancelled):
        result.get(LIMIT)
    assert [type(e) for e in errors] == [TaskCancelled]
    pool.join()


def test_terminate_does_not_wait_for_a_callback(pool: Any) -> None:
    gate = threading.Event()
    try:
        pool.apply_async(same, (1,), callback=lambda _: gate.wait(LIMIT))
        assert pool.apply(same, (2,)) == 2
        pool.terminate()
        pool.join()
    finally:
        gate.set()

"""Several threads that wait for results of one pool, and its callbacks."""

from __future__ import annotations

import gc
import random
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

import procession
from procession.pool import TaskCancelled, ThreadPool

LIMIT = 60
Eventually = Callable[..., None]


def same(x: Any) -> Any:
    return x


def wait_for(event: Any) -> int:
    assert event.wait(LIMIT)
    return 1


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
            assert pool.apply(same, ((number, i),)) == (number, i)

    in_threads(8, body)


def waiting(result: Any) -> int:
    """How many threads wait for a result that another one is to bring."""
    return len(result._waiters)


def test_many_threads_get_one_result(pool: Any, eventually: Eventually) -> None:
    for _ in range(10):
        event = procession.get_context("fork").Event()
        result = pool.apply_async(wait_for, (event,))

        def body(number: int, result: Any = result, event: Any = event) -> None:
            if number == 8:
                eventually(lambda: waiting(result) == 7, "all but the one that collects")
                event.set()
            assert result.get(LIMIT) == 1

        in_threads(9, body)


def test_whoever_waits_alone_is_not_left(pool: Any, eventually: Eventually) -> None:
    """The one that collects for all leaves; another must go on, and no other one is there."""
    first, last = (procession.get_context("fork").Event() for _ in range(2))
    gate, long = pool.apply_async(wait_for, (first,)), pool.apply_async(wait_for, (last,))
    left, tired = threading.Event(), threading.Event()

    def body(number: int) -> None:
        if number == 0:
            assert gate.get(LIMIT) == 1
            left.set()
        elif number == 1:
            # Leaves although its result is not there.
            with pytest.raises(procession.TimeoutError):
                long.get(0.01)
            tired.set()
        elif number == 2:
            assert tired.wait(LIMIT)
            eventually(lambda: waiting(long) + waiting(gate) >= 3, "all but the one that collects")
            first.set()
            assert left.wait(LIMIT)
            last.set()
        else:
            assert long.get(LIMIT) == 1

    in_threads(6, body)


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
    # None for a map of nothing, as in the standard library.
    assert pool.map_async(same, [], callback=note).get(LIMIT) == []
    pool.apply_async(fail, (1,), error_callback=note).wait(LIMIT)
    pool.map_async(fail, range(9), error_callback=note).wait(LIMIT)
    eventually(lambda: len(names) >= 4, "all are called")
    assert len(names) == 4
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
        got.append(others[0].get() + 1)
        # Looking calls nobody's callback, nor does waiting for some time.
        assert not result.ready()
        with pytest.raises(procession.TimeoutError):
            result.get(0.01)
        with pytest.raises(RuntimeError, match="its own result"):
            result.get()

    gate = threading.Event()
    ahead = pool.apply_async(same, (0,), callback=lambda _: gate.wait(LIMIT))
    result = pool.apply_async(same, (1,), callback=callback)
    gate.set()
    assert ahead.get(LIMIT) == 0
    assert result.get(LIMIT) == 1
    assert got == [2, 5, 6]


def test_a_callback_waits_for_one_that_another_thread_brings(eventually: Eventually) -> None:
    """A thread collects both; one's callback is to be called while the other's waits for it."""
    got: list[Any] = []
    context = procession.get_context("fork")
    short, long = context.Event(), context.Event()
    with context.Pool(3) as pool:
        last = pool.apply_async(wait_for, (long,))
        collecting = threading.Thread(target=last.get, args=(LIMIT,), daemon=True)
        collecting.start()
        eventually(lambda: not last._key[0].is_free(), "the thread collects")
        second = pool.apply_async(wait_for, (short,), callback=got.append)
        first = pool.apply_async(
            same, (0,), callback=lambda value: got.append((value, second.get()))
        )
        eventually(lambda: waiting(second) == 1, "the callback waits for the thread")
        short.set()
        assert first.get(LIMIT) == 0
        assert got == [1, (0, 1)]
        # All that time it did.
        assert collecting.is_alive()
        long.set()
        collecting.join(LIMIT)


@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_callbacks_come_one_after_the_other(kind: str) -> None:
    inside, most = 0, 0

    def callback(_: Any) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        for _ in range(20):
            # Others may run.
            time.sleep(0)
        inside -= 1

    with procession.get_context("fork").Pool(2) if kind == "processes" else ThreadPool(4) as pool:
        results = [pool.apply_async(same, (i,), callback=callback) for i in range(100)]
        assert [r.get(LIMIT) for r in results] == list(range(100))
    assert most == 1


def test_a_thread_that_cannot_be_started(pool: Any, monkeypatch: Any) -> None:
    pool.apply_async(same, (0,)).get(LIMIT)
    start = threading.Thread.start

    def fail_to_start(thread: threading.Thread) -> None:
        if thread.name == "pool callbacks":
            raise RuntimeError("can't start new thread")
        start(thread)

    got: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail_to_start)
        assert pool.apply_async(same, (1,), callback=got.append).get(LIMIT) == 1
    assert pool.apply_async(same, (2,), callback=got.append).get(LIMIT) == 2
    assert got == [1, 2]
    pool.close()
    pool.join()


def call_for_ever(pool: Any) -> None:
    while True:
        pool.apply_async(same, (1,), callback=same).get(LIMIT)


def test_the_pool_may_be_terminated_by_a_signals_handler(pool: Any) -> None:
    before = signal.signal(signal.SIGALRM, lambda *_: pool.terminate())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises((TaskCancelled, ValueError)):
            call_for_ever(pool)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    pool.join()


class Late:
    """A long input that fails once the engine has as much of it as it takes at a time."""

    def __len__(self) -> int:
        return 1_100_000

    def __iter__(self) -> Iterator[int]:
        yield from range(1_090_000)
        raise KeyError("late")


def test_an_error_of_the_input_is_not_lost_behind_its_callback(pool: Any) -> None:
    gate, errors = threading.Event(), []

    def callback(error: BaseException) -> None:
        gate.wait(1)
        errors.append(error)

    result = pool.map_async(same, Late(), 1, error_callback=callback)
    with pytest.raises(KeyError, match="late"):
        result.get(LIMIT)
    assert len(errors) == 1


def test_waiting_for_one_that_could_not_be_sent(pool: Any) -> None:
    gate = threading.Event()
    result = pool.apply_async(lambda: 0, error_callback=lambda _: gate.wait(1))
    with pytest.raises(Exception, match=r"pickle|local object"):
        result.get(LIMIT)


class Interrupts:
    def __reduce__(self) -> Any:
        raise KeyboardInterrupt


class Rings:
    """As if a signal's handler raised while it is pickled for the first time."""

    rung = False

    def __reduce__(self) -> Any:
        if not self.rung:
            self.rung = True
            raise Alarm
        return Rings, ()


def test_what_a_signals_handler_raises_while_items_are_pickled_is_not_lost(pool: Any) -> None:
    # Quick calls before it, so that it is one of a batch; and items that are pickled by themselves.
    for items in ([Plain() for _ in range(5000)], [1] * 5000):
        for _ in range(30):
            try:
                pool.map(kind, [*items, Rings(), *items])
            except Alarm:
                break
        else:
            pytest.fail("it was not raised, whether in a batch or alone")


class Plain:
    pass


def kind(item: Any) -> str:
    return type(item).__name__


@pytest.mark.parametrize("ahead", [0, 5000])
def test_an_interrupt_while_items_are_pickled_is_not_lost(pool: Any, ahead: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        pool.map(same, [object()] * ahead + [Interrupts()])
    assert pool.map(same, range(3)) == [0, 1, 2]


class Alarm(Exception):
    pass


@pytest.mark.parametrize("method", ["map", "apply"])
def test_what_a_signals_handler_raises_costs_no_result(pool: Any, method: str) -> None:
    armed = False

    def ring(*_: Any) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise Alarm

    def interrupted(result: Any) -> None:
        """Wait for a result, and be interrupted at some moment of it."""
        nonlocal armed
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 4e-4))
            armed = True
            result.wait(LIMIT)
        except Alarm:
            pass
        armed = False

    # Workers of a fork have the handler, but no timer.
    before = signal.signal(signal.SIGALRM, ring)
    try:
        for _ in range(100):
            if method == "map":
                results = [pool.map_async(same, range(1000), 1)]
            else:
                results = [pool.apply_async(same, (i,)) for i in range(30)]
            for result in results:
                interrupted(result)
                interrupted(result)
            expected = [list(range(1000))] if method == "map" else list(range(30))
            assert [result.get(LIMIT) for result in results] == expected
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_map_whose_callback_runs_may_be_sent(pool: Any, eventually: Eventually) -> None:
    gate = threading.Event()
    result = pool.map_async(same, [1], callback=lambda _: gate.wait(LIMIT))
    eventually(lambda: result._handed)
    sent = pool.apply_async(get, (result,))
    eventually(lambda: not pool._engine._watched_maps, "nobody waits for a map that has come")
    gate.set()
    assert sent.get(LIMIT) == [1]


def get(result: Any) -> Any:
    return result.get(LIMIT)


def test_a_pool_that_is_dropped_with_results_to_come(eventually: Eventually) -> None:
    pool = procession.get_context("fork").Pool(2)
    workers = [process.pid for process in pool._pool]
    pool.apply_async(same, (1,))
    pool.map_async(same, [1, 2, 3])
    warnings.simplefilter("ignore", ResourceWarning)
    del pool

    def gone() -> bool:
        gc.collect()
        return not any(psutil.pid_exists(pid) for pid in workers)

    eventually(gone, "the workers have ended")


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

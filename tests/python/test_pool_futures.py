"""Pools' results as arguments, through queues and pipes, and what becomes of them in there."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest

import procession
from procession.pool import (
    AsyncResult,
    MapResult,
    MaybeEncodingError,
    PoolBroken,
    RemoteTraceback,
    TaskCancelled,
    ThreadPool,
    WorkerDied,
)

LIMIT = 60


def double(x: Any) -> Any:
    return x * 2


def fail(x: Any) -> Any:
    raise KeyError(x)


def _keep(event: Any) -> None:
    global _event
    _event = event


def gated(value: Any) -> Any:
    assert _event.wait(LIMIT)
    return value


def sleep_for_long() -> None:
    time.sleep(LIMIT)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def read(result: Any) -> Any:
    return result.get(LIMIT)


def read_all(results: Any) -> Any:
    return [r.get(LIMIT) for r in results]


def outcome_of(result: Any) -> Any:
    """What a process learns of a result, as plain values."""
    try:
        value = result.get(LIMIT)
    except Exception as error:
        return type(error), error.args, str(error.__cause__ or "")
    return result.successful(), value


def reader(inbox: Any, outbox: Any) -> None:
    while (result := inbox.get()) is not None:
        outbox.put(outcome_of(result))


def put_outcome(result: Any, outbox: Any) -> None:
    outbox.put(outcome_of(result))


def put_outcomes(results: Any, outbox: Any) -> None:
    outbox.put([outcome_of(r) for r in results])


def canceller(inbox: Any, outbox: Any) -> None:
    result = inbox.get()
    outbox.put((result.ready(), result.cancel(), outcome_of(result)[0]))


def owner(outbox: Any, asked: Any) -> None:
    """Has a pool, sends a result that is not there yet, and goes only when it is killed."""
    pool = procession.get_context("spawn").Pool(1)
    outbox.put(pool.apply_async(sleep_for_long))
    asked.wait(LIMIT)


@pytest.fixture(params=["fork", "spawn", "forkserver"])
def ctx(request: Any) -> Any:
    return procession.get_context(request.param)


@pytest.fixture
def gate(ctx: Any) -> Any:
    """What `gated` calls wait for."""
    return ctx.Event()


@pytest.fixture
def pool(ctx: Any, gate: Any) -> Any:
    with ctx.Pool(2, _keep, (gate,)) as pool:
        yield pool


@pytest.fixture
def boxes(ctx: Any) -> Any:
    """A process that waits for results that it is sent, and tells what it finds."""
    inbox, outbox = ctx.Queue(), ctx.Queue()
    process = ctx.Process(target=reader, args=(inbox, outbox))
    process.start()
    yield inbox, outbox
    inbox.put(None)
    process.join(LIMIT)
    assert process.exitcode == 0


def test_a_pending_result_goes_through_a_queue(pool: Any, gate: Any, boxes: Any) -> None:
    inbox, outbox = boxes
    result = pool.apply_async(gated, (42,))
    inbox.put(result)
    assert not result.ready()
    gate.set()
    assert outbox.get(timeout=LIMIT) == (True, 42)
    assert result.get(LIMIT) == 42


def test_every_kind_of_outcome_arrives(pool: Any, boxes: Any) -> None:
    inbox, outbox = boxes
    inbox.put(pool.map_async(double, range(5)))
    assert outbox.get(timeout=LIMIT) == (True, [0, 2, 4, 6, 8])
    inbox.put(pool.apply_async(fail, ("leaf",)))
    kind, args, cause = outbox.get(timeout=LIMIT)
    assert (kind, args) == (KeyError, ("leaf",))
    assert "in fail" in cause, "the traceback of the worker came along"
    inbox.put(pool.map_async(fail, [1]))
    assert outbox.get(timeout=LIMIT)[:2] == (KeyError, (1,))
    inbox.put(pool.apply_async(die))
    assert outbox.get(timeout=LIMIT)[0] is WorkerDied
    inbox.put(pool.starmap_async(double, []))
    assert outbox.get(timeout=LIMIT) == (True, [])


def test_a_finished_result_can_be_pickled_anywhere(pool: Any) -> None:
    result = pool.apply_async(double, (4,))
    result.wait(LIMIT)
    again = pickle.loads(pickle.dumps(result))
    assert type(again) is AsyncResult
    assert again.ready()
    assert again.get() == 8
    failed = pool.map_async(fail, [1])
    failed.wait(LIMIT)
    again = pickle.loads(pickle.dumps(failed))
    assert type(again) is MapResult
    assert not again.successful()
    with pytest.raises(KeyError) as raised:
        again.get()
    assert isinstance(raised.value.__cause__, RemoteTraceback)


def test_a_pending_result_can_not_be_pickled_for_anybody(pool: Any) -> None:
    result = pool.apply_async(time.sleep, (LIMIT,))
    with pytest.raises(RuntimeError, match="should only be shared between processes"):
        pickle.dumps(result)
    with pytest.raises(TypeError, match="cannot pass a IMapIterator"):
        pickle.dumps(pool.imap(double, range(3)))


def test_a_result_is_an_argument_of_a_task_of_running_workers(pool: Any) -> None:
    first = pool.apply_async(double, (np.arange(100_000),))
    second = pool.apply_async(read, (first,))
    third = pool.apply_async(read_all, ([second, first],))
    for array in third.get(LIMIT):
        assert (array == 2 * np.arange(100_000)).all()
        array[0] = 7  # its own
    assert first.get(LIMIT)[0] == 0


def test_a_result_is_an_argument_of_a_process(ctx: Any, pool: Any, gate: Any) -> None:
    outbox = ctx.Queue()
    slow = pool.apply_async(gated, ("late",))
    nested = [pool.apply_async(double, ("ab",)), pool.map_async(double, [1])]
    processes = [
        ctx.Process(target=put_outcome, args=(slow, outbox)),
        ctx.Process(target=put_outcomes, args=(nested,), kwargs={"outbox": outbox}),
    ]
    for process in processes:
        process.start()
    assert not slow.ready()
    gate.set()
    got = [outbox.get(timeout=LIMIT) for _ in processes]
    assert (True, "late") in got
    assert [(True, "abab"), (True, [2])] in got
    for process in processes:
        process.join(LIMIT)
        assert process.exitcode == 0


def test_many_read_one_result_and_pass_it_on(ctx: Any, pool: Any, gate: Any) -> None:
    inbox, outbox = ctx.Queue(), ctx.Queue()
    readers = [ctx.Process(target=reader, args=(inbox, outbox)) for _ in range(3)]
    for process in readers:
        process.start()
    result = pool.apply_async(gated, (7,))
    for _ in range(2):
        inbox.put(result)
    # What came out of a queue goes into the next one.
    passing = ctx.SimpleQueue()
    passing.put(result)
    inbox.put(passing.get())
    assert not result.ready()
    gate.set()
    assert [outbox.get(timeout=LIMIT) for _ in range(3)] == [(True, 7)] * 3
    for _ in readers:
        inbox.put(None)
    for process in readers:
        process.join(LIMIT)


def test_another_process_cancels(ctx: Any, pool: Any) -> None:
    inbox, outbox = ctx.Queue(), ctx.Queue()
    process = ctx.Process(target=canceller, args=(inbox, outbox))
    process.start()
    result = pool.apply_async(sleep_for_long)
    inbox.put(result)
    assert outbox.get(timeout=LIMIT) == (False, True, TaskCancelled)
    with pytest.raises(TaskCancelled):
        result.get(LIMIT)
    assert pool.apply(double, (1,)) == 2
    process.join(LIMIT)


def test_a_timeout_in_another_process(ctx: Any, pool: Any) -> None:
    first = pool.apply_async(sleep_for_long)
    with pytest.raises(procession.TimeoutError):
        pool.apply_async(_read_impatiently, (first,)).get(LIMIT)
    assert first.cancel()


def _read_impatiently(result: Any) -> Any:
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    return result.get(0.05)


def test_the_end_of_the_pool_is_told(ctx: Any, boxes: Any) -> None:
    inbox, outbox = boxes
    pool = ctx.Pool(1)
    inbox.put(pool.apply_async(sleep_for_long))
    pool.terminate()
    pool.join()
    assert outbox.get(timeout=LIMIT)[0] is TaskCancelled


def test_the_death_of_the_pools_process_is_told(ctx: Any) -> None:
    outbox, asked = ctx.Queue(), ctx.Event()
    process = ctx.Process(target=owner, args=(outbox, asked))
    process.start()
    result = outbox.get(timeout=LIMIT)
    assert not result.ready()
    process.kill()
    with pytest.raises(PoolBroken, match="process of the pool has ended"):
        result.get(LIMIT)
    process.join(LIMIT)


def test_threads_results_are_passed_on_too(boxes: Any) -> None:
    inbox, outbox = boxes
    with ThreadPool(2) as pool:
        here = threading.Event()
        slow = pool.apply_async(here.wait, (LIMIT,))
        inbox.put(slow)
        unpicklable = pool.apply_async(lambda: here.wait(LIMIT) and (lambda: None))
        inbox.put(unpicklable)
        assert not slow.ready()
        assert not unpicklable.ready()
        here.set()
        assert outbox.get(timeout=LIMIT) == (True, True)
        assert outbox.get(timeout=LIMIT)[0] is MaybeEncodingError


def test_nothing_is_left_of_shared_results(ctx: Any) -> None:
    from procession import _native

    with ctx.Pool(1) as pool:
        pool.apply(double, (1,))
        before = _native.session_info()["objects"]
        for _ in range(20):
            first = pool.apply_async(double, (1,))
            assert pool.apply(read, (first,)) == 2
        del first
        deadline = time.monotonic() + LIMIT
        while _native.session_info()["objects"] > before:
            pool.apply(double, (1,))  # the worker lets go of what it had
            assert time.monotonic() < deadline

"""Quick calls are handed over many at a time, and each still has an outcome of its own."""

from __future__ import annotations

import dataclasses
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import procession
from procession.pool import MaybeEncodingError, TaskCancelled, WorkerDied

LIMIT = 60
COUNT = 20_000


def same(x: Any) -> Any:
    return x


def add(x: Any, y: Any) -> Any:
    return x + y


def odd_one(x: int) -> Any:
    """Quick, until something out of the ordinary comes."""
    if x == 11_111:
        raise KeyError(x)
    if x == 12_222:
        return lambda: x
    if x == 13_333:
        return np.full(100_000, x)
    if x == 14_444:
        return "x" * 100_000
    if x == 15_555:
        return procession.get_context("fork").Lock()
    return x


def die_at(x: int) -> int:
    if x == 17_000:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def leave_at(x: int) -> int:
    if x in (16_000, 17_000):
        sys.exit(3)
    return x


def keep_directory(path: str) -> None:
    global _file
    _file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def log(x: int) -> int:
    """Note each run; one of them is the last of its process."""
    if x > COUNT // 2:
        os.write(_file, f"{x}\n".encode())
    if x == 17_000:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def slow_at_the_end(x: int) -> int:
    if x == COUNT - 1:
        time.sleep(LIMIT)
    return x


@dataclasses.dataclass
class Record:
    number: int
    name: str


class Fragile(Record):
    """One that cannot be made again where it arrives."""

    def __setstate__(self, state: Any) -> None:
        raise KeyError(state["number"])


def number_of(record: Record) -> int:
    return record.number


def die_with(record: Record) -> int:
    return die_at(record.number)


def log_record(record: Record) -> int:
    return log(record.number)


@pytest.fixture
def pool() -> Any:
    with procession.get_context("fork").Pool(2) as pool:
        yield pool


def batches_of(pool: Any, monkeypatch: Any) -> list[int]:
    """How many items the engine had for each map that has ended since."""
    seen = []
    end = pool._engine._end_map

    def end_map(result: Any, job: int) -> None:
        seen.append(pool._engine._core.progress(job)[0])
        end(result, job)

    monkeypatch.setattr(pool._engine, "_end_map", end_map)
    return seen


def test_quick_calls_are_put_together(pool: Any, monkeypatch: Any) -> None:
    seen = batches_of(pool, monkeypatch)
    numbers, texts = list(range(COUNT)), [f"{i}" for i in range(COUNT)]
    pairs = [(i, 1) for i in range(COUNT)]
    maps: list[tuple[Callable[[], list[Any]], list[Any]]] = [
        (lambda: pool.map(same, numbers), numbers),
        (lambda: pool.starmap(add, pairs), list(range(1, COUNT + 1))),
        (lambda: pool.map(same, texts, chunksize=7), texts),
    ]
    for call, expected in maps:
        # Where other processes take the processors away, calls are not quick each time.
        for _ in range(30):
            assert call() == expected
            if seen[-1] < COUNT:
                break
        assert seen[-1] < COUNT, f"no batches: {seen}"
    assert seen[-1] > COUNT // 7, "chunksize is the most that go together"
    del seen[:]
    assert pool.map(same, range(COUNT), chunksize=1) == list(range(COUNT))
    assert pool.map(same, range(COUNT), retries=1) == list(range(COUNT))
    assert pool.map(same, range(COUNT), timeout=LIMIT) == list(range(COUNT))
    assert pool.map(time.sleep, [0.001] * 100) == [None] * 100
    assert seen == [COUNT, COUNT, COUNT, 100]


@pytest.mark.parametrize(
    "items",
    [
        range(0),
        range(5, 6),
        range(COUNT, -COUNT, -3),
        range(2**63 - COUNT, 2**63),
        range(-(2**63), -(2**63) + 5 * COUNT, 5),
        # These have ints that need more than 64 bits.
        range(2**63 - COUNT // 2, 2**63 + COUNT // 2),
        range(-(2**70), 2**70, 2**57),
        range(0, -(2**64), -(2**50)),
    ],
    ids=str,
)
def test_ranges(pool: Any, items: range) -> None:
    assert pool.map(same, items) == list(items)
    assert pool.map(same, items, chunksize=100) == list(items)


def test_ints_of_all_sizes(pool: Any) -> None:
    edges = [sign * 2**bits + more for bits in range(70) for sign in (1, -1) for more in (-1, 0, 1)]
    items = edges * (COUNT // len(edges))
    assert pool.map(same, items) == items
    assert pool.map(str, items) == [str(item) for item in items]
    assert [type(x) for x in pool.map(bool, [0, 1] * 1000)] == [bool] * 2000


def test_objects_are_pickled_together(pool: Any, monkeypatch: Any) -> None:
    seen = batches_of(pool, monkeypatch)
    records = [Record(i, f"number {i}") for i in range(COUNT)]
    for _ in range(30):
        assert pool.map(number_of, records) == list(range(COUNT))
        if seen[-1] < COUNT:
            break
    assert seen[-1] < COUNT, f"no batches: {seen}"
    assert pool.map(same, records) == records
    assert pool.map(same, records, chunksize=5) == records
    mixed = [record if record.number % 3 else record.number for record in records]
    assert pool.map(same, mixed) == mixed
    # Long ones, with large buffers, and the same one again and again.
    one = np.arange(10_000)
    large = [
        (Record(i, "x" * (i % 7) * 1000), one if i % 2 else np.full(5000, i)) for i in range(600)
    ]
    for (a, b), (c, d) in zip(pool.map(same, large), large, strict=True):
        assert a == c
        assert (b == d).all()


def test_large_objects_among_small_ones(pool: Any, monkeypatch: Any) -> None:
    seen = batches_of(pool, monkeypatch)
    records = [Record(i, "x" * 40_000 if 5000 <= i < 5100 else "") for i in range(COUNT)]
    for _ in range(30):
        assert pool.map(number_of, records) == list(range(COUNT))
        if seen[-1] < COUNT // 2:
            break
    assert seen[-1] < COUNT // 2, f"single items from there on: {seen}"


def test_one_of_many_objects_cannot_be_pickled(pool: Any) -> None:
    records: list[Any] = [Record(i, "") for i in range(COUNT)]
    records[15_000] = lambda: 0
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pool.map(number_of, records)
    records[15_000] = Fragile(15_000, "")
    with pytest.raises(KeyError, match="15000"):
        pool.map(number_of, records)
    records[15_000] = Record(15_000, "")
    assert pool.map(number_of, records) == list(range(COUNT))


def test_a_death_among_objects_costs_the_call_alone(tmp_path: Path) -> None:
    path = tmp_path / "runs"
    records = [Record(i, "") for i in range(COUNT)]
    with procession.get_context("fork").Pool(2, keep_directory, (str(path),)) as pool:
        result = pool.map_async(log_record, records)
        with pytest.raises(WorkerDied) as raised:
            result.get(LIMIT)
        assert raised.value.item == 17_000
        with pytest.raises(WorkerDied):
            pool.map(die_with, records)
    runs = [int(line) for line in path.read_text().split()]
    assert sorted(runs) == list(range(COUNT // 2 + 1, COUNT))


def test_what_is_out_of_the_ordinary_in_a_batch(pool: Any) -> None:
    result = pool.map_async(odd_one, range(COUNT))
    with pytest.raises(KeyError) as raised:
        result.get(LIMIT)
    assert raised.value.args == (11_111,)
    assert "in odd_one" in str(raised.value.__cause__)
    items = [i for i in range(COUNT) if i != 11_111]
    with pytest.raises(MaybeEncodingError, match="lambda"):
        pool.map(odd_one, items)
    items.remove(12_222)
    got = pool.map(odd_one, items)
    assert (got[13_331] == np.full(100_000, 13_333)).all()
    assert got[14_442] == "x" * 100_000
    assert got[15_553].acquire(timeout=LIMIT)
    ordinary = [i for i in items if i not in (13_333, 14_444, 15_555)]
    assert [got[items.index(i)] for i in ordinary[::997]] == ordinary[::997]
    assert [v for v in got if type(v) is int] == ordinary


def test_large_results_from_the_start(pool: Any) -> None:
    got = pool.map(np.ones, [5000] * 3000)
    assert len(got) == 3000
    assert all(a.sum() == 5000 for a in got)


@pytest.mark.parametrize("kind", [range, lambda count: list(range(count))], ids=["range", "list"])
@pytest.mark.parametrize("function", [die_at, leave_at])
def test_a_death_costs_the_call_alone(pool: Any, function: Any, kind: Any) -> None:
    result = pool.map_async(function, kind(COUNT))
    with pytest.raises(WorkerDied) as raised:
        result.get(LIMIT)
    assert raised.value.item == (17_000 if function is die_at else 16_000)
    assert raised.value.exitcode == (-9 if function is die_at else 3)
    assert pool.map(same, range(COUNT)) == list(range(COUNT))


@pytest.mark.parametrize("kind", [range, lambda count: list(range(count))], ids=["range", "list"])
def test_nothing_is_run_twice(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "runs"
    pool = procession.get_context("fork").Pool(2, keep_directory, (str(path),))
    with pool, pytest.raises(WorkerDied):
        pool.map(log, kind(COUNT))
    runs = [int(line) for line in path.read_text().split()]
    assert sorted(runs) == list(range(COUNT // 2 + 1, COUNT))


def test_every_outcome_but_one_is_there(pool: Any) -> None:
    result = pool.map_async(die_at, range(COUNT))
    result.wait(LIMIT)
    with pytest.raises(WorkerDied):
        result.get()
    # A callback's view of the same: the one error, no other.
    errors: list[BaseException] = []
    again = pool.map_async(die_at, range(COUNT), error_callback=errors.append)
    again.wait(LIMIT)
    assert [type(e) for e in errors] == [WorkerDied]
    progress = again.progress()
    assert progress == (COUNT, COUNT)


def test_a_map_with_batches_is_cancelled(pool: Any) -> None:
    result = pool.map_async(slow_at_the_end, range(COUNT))
    deadline = time.monotonic() + LIMIT
    while result.progress()[0] < COUNT // 2:
        assert not result.ready()
        assert time.monotonic() < deadline
    assert result.cancel()
    with pytest.raises(TaskCancelled):
        result.get(LIMIT)
    assert pool.map(same, range(100)) == list(range(100))


def test_close_and_join_with_a_result_that_nobody_has() -> None:
    done: list[Any] = []
    pool = procession.get_context("fork").Pool(2)
    pool.map_async(leave_at, range(COUNT), error_callback=done.append)
    pool.map_async(same, range(COUNT))
    pool.close()
    pool.join()
    assert [type(e) for e in done] == [WorkerDied]


def test_more_maps_than_the_engine_has_room_for(pool: Any) -> None:
    for i in range(100):
        pool.map_async(same, range(i))  # nobody waits for these
    results = [pool.map_async(same, range(i)) for i in range(200)]
    last = pool.map_async(same, range(10), callback=(told := []).append)
    assert [r.get(LIMIT) for r in reversed(results)] == [list(range(i)) for i in range(199, -1, -1)]
    last.wait(LIMIT)
    assert told == [list(range(10))]
    iterators = [pool.imap(same, range(10)) for _ in range(200)]
    assert [next(i) for i in iterators] == [0] * 200
    assert [list(i) for i in iterators] == [list(range(1, 10))] * 200


def test_maps_that_wait_for_room_are_cancelled_with_the_pool() -> None:
    with procession.get_context("fork").Pool(1) as pool:
        results = [pool.map_async(time.sleep, [LIMIT]) for _ in range(70)]
        assert results[-1].cancel()
        with pytest.raises(TaskCancelled):
            results[-1].get(LIMIT)
    for result in (results[0], results[-2]):
        with pytest.raises(TaskCancelled):
            result.get(LIMIT)


def test_a_pool_is_terminated_while_another_thread_looks_after_it() -> None:
    with procession.get_context("fork").Pool(1) as pool:
        engine = pool._engine
        waiting = [pool.map_async(time.sleep, [LIMIT]) for _ in range(70)]
        with engine._acting:
            # What terminate() does first. The pool's own thread waits for us meanwhile.
            engine._stopped = True
            engine._core.terminate()
            waiting[0]._source = iter([LIMIT])
            assert engine._feed_map(waiting[0]), "that was the end of it"
            engine._begin_backlog()
            assert engine._backlog
        pool.terminate()
    for result in waiting:
        with pytest.raises(TaskCancelled):
            result.get(LIMIT)


def test_iterators_that_nobody_reads_are_too_many_at_last(pool: Any) -> None:
    def forever() -> Any:
        while True:
            yield 1

    with pytest.raises(RuntimeError, match="too many iterators of imap"):
        _kept = [pool.imap(same, forever()) for _ in range(100)]

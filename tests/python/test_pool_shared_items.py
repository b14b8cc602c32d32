"""Large arrays that many items of one map have in common are sent once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import procession
from procession import _native

LIMIT = 60
SIZE = 8 << 20


def keep(gate: Any) -> None:
    global _gate
    _gate = gate


def pass_gate(_: Any = None) -> None:
    assert _gate.wait(LIMIT)


def add(array: Any, number: int) -> float:
    """Write to the array, which must not be seen by anybody else."""
    pass_gate()
    found = float(array[0] + array[-1]) + number
    array[0] = array[-1] = -1
    return found


def total(array: Any) -> float:
    pass_gate()
    return float(array.sum())


def first_of(pair: Any) -> float:
    return float(pair[0][0])


def megabytes() -> int:
    return _native.session_info()["bytes_used"] >> 20


@pytest.fixture(params=["fork", "spawn", "forkserver"])
def ctx(request: Any) -> Any:
    return procession.get_context(request.param)


@pytest.mark.parametrize("how", ["starmap", "map", "late", "imap"])
def test_an_array_that_all_items_have_is_sent_once(ctx: Any, how: str) -> None:
    array = np.ones(SIZE // 8)
    gate = ctx.Event()
    with ctx.Pool(2, keep, (gate,)) as pool:
        pool.map(abs, [1])
        before = megabytes()
        if how == "map":
            result = pool.map_async(total, [array] * 20, chunksize=1)
            expected = [float(SIZE // 8)] * 20
        elif how == "imap":
            result = pool.imap(total, [array] * 20, buffersize=20)
            expected = [float(SIZE // 8)] * 20
        else:
            items = [(array, i) for i in range(20)]
            expected = [2.0 + i for i in range(20)]
            if how == "late":
                # Not among what the first two have in common: noticed when it comes again.
                items.insert(0, (np.zeros(2), 0))
                expected.insert(0, 0.0)
            result = pool.starmap_async(add, items)
        held = megabytes() - before
        # Two copies at most; the rest is what the workers' messages take.
        assert SIZE >> 20 <= held < 3 * (SIZE >> 20), f"{held} MB for an array of {SIZE >> 20} MB"
        gate.set()
        got = list(result) if how == "imap" else result.get(LIMIT)
        assert got == expected
        assert array[0] == 1


def test_arrays_of_a_generator_are_told_apart() -> None:
    """Each new array may well lie where the last one did."""

    def arrays() -> Any:
        for number in range(12):
            yield (np.full(1 << 17, float(number)), number)

    with procession.get_context("fork").Pool(2) as pool:
        assert pool.map(first_of, arrays()) == [float(n) for n in range(12)]
        assert list(pool.imap(first_of, arrays())) == [float(n) for n in range(12)]


def test_a_list_that_is_emptied_meanwhile_keeps_what_was_seen() -> None:
    with procession.get_context("fork").Pool(2) as pool:
        items = [(np.full(1 << 17, float(n)), n) for n in range(8)]
        result = pool.map_async(first_of, items)
        items.clear()
        assert result.get(LIMIT) == [float(n) for n in range(8)]

"""What goes through queues: arrays, what cannot be pickled, and whose memory it is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import procession
from children import finish, start
from procession import _native, queues

Eventually = Callable[..., None]

FORK = procession.get_context("fork")


def write_into_array(source: Any, target: Any) -> None:
    received = source.get()
    received[0] = -1
    target.put((received.flags.writeable, int(received[0]), int(received[1])))


def test_what_cannot_be_pickled_is_reported_with_its_place(
    capfd: pytest.CaptureFixture[str],
) -> None:
    queue = procession.Queue()
    queue.put({"fine": 1, "bad": [threading.Lock()]})
    queue.put("next")
    assert queue.get(timeout=1) == "next"
    message = capfd.readouterr().err
    assert "the object['bad'][0] cannot be pickled" in message


def test_the_hook_for_what_cannot_be_pickled() -> None:
    class Hooked(queues.Queue):
        def _on_queue_feeder_error(self, e: BaseException, obj: Any) -> None:
            failures.append((e, obj))

    failures: list[tuple[BaseException, Any]] = []
    queue = Hooked(ctx=FORK)

    def bad() -> None:
        """Nobody else can find it by its name."""

    queue.put(bad)
    ((error, obj),) = failures
    assert obj is bad
    assert any("cannot be pickled" in note for note in error.__notes__)
    assert queue.empty()


def test_simple_queue_raises_what_cannot_be_pickled() -> None:
    queue = procession.SimpleQueue()
    with pytest.raises((AttributeError, TypeError)) as caught:
        queue.put([threading.Lock()])
    assert any("the object[0] cannot be pickled" in note for note in caught.value.__notes__)
    assert queue.empty()


def test_arrays_arrive_writable_and_apart(ctx: Any) -> None:
    numpy = pytest.importorskip("numpy")
    source, target = ctx.Queue(), ctx.Queue()
    original = numpy.arange(1_000_000)
    process = start(ctx, write_into_array, source, target)
    source.put(original)
    assert target.get(timeout=30) == (True, -1, 1)
    assert original[0] == 0
    finish(process)


def test_arrays_of_all_kinds() -> None:
    numpy = pytest.importorskip("numpy")
    queue = procession.Queue()
    base = numpy.arange(60_000, dtype="f8").reshape(200, 300)
    samples = [
        base,
        base.T,
        base[::2, ::3],
        numpy.asfortranarray(base),
        numpy.array(3.5),
        numpy.zeros((0, 5)),
        numpy.array(["a", "bc"]),
        numpy.array([1, "x", None], dtype=object),
        numpy.zeros(3, dtype=[("a", "i4"), ("b", "f8")]),
        numpy.arange(10, dtype=">i4"),
        numpy.array(["2020-01-01"], dtype="datetime64[D]"),
        {"one": base, "two": [base[0]]},
    ]
    for sample in samples:
        queue.put(sample)
        got = queue.get(timeout=10)
        if isinstance(sample, dict):
            assert (got["one"] == base).all()
            assert (got["two"][0] == base[0]).all()
            continue
        assert got.dtype == sample.dtype
        assert got.shape == sample.shape
        assert (got == sample).all()
        assert got.flags.writeable


def test_a_received_array_is_as_private_as_any_other_across_a_fork() -> None:
    numpy = pytest.importorskip("numpy")
    queue, results, changed = FORK.Queue(), FORK.Queue(), FORK.Event()
    queue.put({"array": numpy.zeros(1_000_000)})
    received = queue.get()["array"]

    def child() -> None:
        received[0] = 7
        results.put("written")
        assert changed.wait(30)
        results.put((received[0], received[1]))

    process = start(FORK, child)
    assert results.get(timeout=30) == "written"
    assert received[0] == 0
    received[1] = 5
    changed.set()
    assert results.get(timeout=30) == (7, 0)
    finish(process)


def test_memory_of_arrays_comes_back(eventually: Eventually) -> None:
    numpy = pytest.importorskip("numpy")
    queue = procession.Queue()
    used = _native.session_info()["bytes_used"]
    queue.put(numpy.ones(5_000_000))
    assert _native.session_info()["bytes_used"] > used + 30_000_000
    got = queue.get()
    view = got[10:20]
    del got
    # The view keeps the memory.
    assert view.sum() == 10
    assert _native.session_info()["bytes_used"] > used + 30_000_000
    del view
    eventually(lambda: _native.session_info()["bytes_used"] <= used + 1_000_000)


def test_unread_messages_go_with_their_queue(eventually: Eventually) -> None:
    before = _native.session_info()
    queue = procession.Queue()
    for _ in range(20):
        queue.put(b"x" * 1_000_000)
    queue.put(procession.Lock())
    del queue
    after = _native.session_info()
    assert after["objects"] == before["objects"]
    assert after["bytes_used"] <= before["bytes_used"] + 100_000

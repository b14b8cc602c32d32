"""The package's interface with threads."""

from __future__ import annotations

import queue
import threading
from typing import Any

import pytest

from procession import dummy
from procession.dummy import connection


def test_processes_are_threads() -> None:
    results: Any = dummy.Queue()
    release = dummy.Event()

    def work(value: int, *, more: int) -> None:
        release.wait(20)
        results.put((value + more, dummy.current_process().name))

    process = dummy.Process(target=work, args=(1,), kwargs={"more": 2}, name="worker")
    assert process.exitcode is None
    process.start()
    assert dummy.active_children() == [process]
    assert process.exitcode is None
    release.set()
    process.join()
    assert process.exitcode == 0
    assert dummy.active_children() == []
    assert results.get_nowait() == (3, "worker")


def test_only_the_parent_starts_a_process() -> None:
    process = dummy.Process(target=print)
    errors: list[BaseException] = []

    def start() -> None:
        try:
            process.start()
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "Parent is" in str(errors[0])


def test_pipe() -> None:
    left, right = dummy.Pipe()
    with left, right:
        assert not right.poll()
        assert not right.poll(0.01)
        left.send([1])
        assert right.poll()
        assert right.poll(None)
        assert right.recv() == [1]
        right.send_bytes(b"x")
        assert left.recv_bytes() == b"x"


def test_poll_waits_for_the_sender() -> None:
    left, right = dummy.Pipe()
    timer = threading.Timer(0.02, left.send, ("late",))
    timer.start()
    assert right.poll(20)
    assert right.recv() == "late"
    timer.join()


def test_listener() -> None:
    with connection.Listener() as listener:
        client = connection.Client(listener.address)
        accepted = listener.accept()
        client.send("hello")
        assert accepted.recv() == "hello"
        accepted.send("back")
        assert client.recv() == "back"
    assert connection.families == [None]
    with pytest.raises(OSError, match="closed"):
        listener.accept()


def test_manager_is_the_module() -> None:
    manager: Any = dummy.Manager()
    assert manager is dummy
    assert manager.dict(a=1) == {"a": 1}
    assert manager.list([1]) == [1]
    assert isinstance(manager.JoinableQueue(), queue.Queue)
    assert list(manager.Array("i", [1, 2])) == [1, 2]
    value = manager.Value("i", 5)
    value.value += 1
    assert repr(value) == "<Value('i', 6)>"
    assert repr(manager.Namespace(b=2, a=1, _c=3)) == "Namespace(a=1, b=2)"
    manager.shutdown()
    manager.freeze_support()

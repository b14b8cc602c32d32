"""The servers of managers: in other programs, interrupted, killed, and with shared memory."""

from __future__ import annotations

import gc
import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from multiprocessing import managers as standard
from typing import Any

import psutil
import pytest

import procession
from procession import managers
from procession.managers import (
    BaseManager,
    ServerGoneError,
    SharedMemoryManager,
    SyncManager,
)
from procession.shared_memory import SharedMemory


@pytest.fixture
def manager() -> Iterator[SyncManager]:
    """A started manager."""
    with SyncManager(shutdown_timeout=20) as started:
        yield started


remote_queue: queue.Queue[Any] = queue.Queue()


class RemoteManager(BaseManager):
    """Shares a queue with other programs."""


RemoteManager.register("get_queue", callable=lambda: remote_queue)


class RemoteClient(BaseManager):
    """Knows the name only."""


RemoteClient.register("get_queue")


@pytest.mark.parametrize("serializer", ["pickle", "xmlrpclib"])
def test_remote(serializer: str) -> None:
    manager = RemoteManager(
        address=("localhost", 0), authkey=b"remote", serializer=serializer, shutdown_timeout=20
    )
    manager.start()
    client: Any = RemoteClient(manager.address, b"remote", serializer)
    client.connect()
    shared = client.get_queue()
    shared.put(("text", None, True, 2.5, b"bytes"))
    other: Any = RemoteClient(manager.address, b"remote", serializer)
    other.connect()
    assert list(other.get_queue().get()) == ["text", None, True, 2.5, b"bytes"]
    if serializer == "xmlrpclib":
        with pytest.raises(Exception, match="cannot marshal"):
            shared.put(time.sleep)
        assert shared.empty()
    del shared
    manager.shutdown()


SERVER = """
    import sys
    from queue import Queue
    from {package}.managers import BaseManager, DictProxy, IteratorProxy

    shared = Queue()
    BaseManager.register("get_queue", callable=lambda: shared)
    BaseManager.register("table", dict, DictProxy)
    BaseManager.register("Iterator", proxytype=IteratorProxy, create_method=False)
    server = BaseManager(("localhost", 0), b"remote").get_server()
    print(server.address[1], flush=True)
    server.serve_forever()
"""


@pytest.mark.parametrize(
    ("serving", "calling"),
    [("procession", "procession"), ("procession", "standard"), ("multiprocessing", "procession")],
)
def test_either_package_may_serve_and_call(serving: str, calling: str) -> None:
    package: Any = managers if calling == "procession" else standard

    class Client(package.BaseManager):  # type: ignore[misc]
        pass

    Client.register("get_queue")
    Client.register("table", proxytype=package.DictProxy)
    Client.register("Iterator", proxytype=package.IteratorProxy, create_method=False)
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SERVER.format(package=serving))],
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        try:
            client: Any = Client(("localhost", int(server.stdout.readline())), b"remote")
            client.connect()
            shared, table = client.get_queue(), client.table(a=1)
            shared.put({"a": [1]})
            assert client.get_queue().get() == {"a": [1]}
            table["b"] = 2
            assert list(table) == ["a", "b"]
            gc.collect()
            assert client._number_of_objects() == 2
            with pytest.raises(KeyError):
                table["c"]
            del shared, table
            gc.collect()
            assert client._number_of_objects() == 0
        finally:
            server.kill()


def test_the_wrong_key_is_refused(manager: Any) -> None:
    stranger = SyncManager(manager.address, b"wrong key")
    with pytest.raises(procession.AuthenticationError):
        stranger.connect()
    assert manager.list([1])[:] == [1]


def test_a_killed_server_is_an_error(manager: Any, eventually: Any) -> None:
    shared, event = manager.list([1]), manager.Event()
    waiting: list[BaseException] = []
    started = threading.Event()

    def wait() -> None:
        event.is_set()
        started.set()
        try:
            event.wait()
        except ServerGoneError as error:
            waiting.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    started.wait(20)
    assert shared[0] == 1
    os.kill(manager._process.pid, signal.SIGKILL)
    thread.join(20)
    assert "ended before it answered 'wait' of a 'Event' object" in str(waiting[0])
    with pytest.raises(ServerGoneError, match='"list" object has ended') as caught:
        shared.append(2)
    assert isinstance(caught.value, EOFError)
    assert isinstance(caught.value, BrokenPipeError)
    with pytest.raises(ServerGoneError, match="'is_set' of a 'Event' object"):
        event.is_set()
    with pytest.raises((ConnectionError, EOFError, FileNotFoundError)) as refused:
        event.is_set()
    assert "no manager serves at" in refused.value.__notes__[0]
    assert str(shared).endswith("; '__str__()' failed>")
    manager.shutdown()
    assert manager._process.exitcode == -signal.SIGKILL


def test_an_interrupted_call_does_not_mix_up_answers(manager: Any) -> None:
    class Interrupted(BaseException):
        pass

    def interrupt(signum: int, frame: object) -> None:
        raise Interrupted

    event, shared = manager.Event(), manager.list([1])
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(Interrupted):
            event.wait()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    event.set()
    assert shared[:] == [1]
    assert event.wait() is True


def test_a_signal_handler_may_use_a_proxy_in_the_middle_of_a_call(manager: Any) -> None:
    event = manager.Event()

    def let_it_happen(signum: int, frame: object) -> None:
        event.set()

    before = signal.signal(signal.SIGALRM, let_it_happen)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        assert event.wait(20) is True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


PARENT = """
    import sys
    from procession.managers import SyncManager

    if __name__ == "__main__":
        manager = SyncManager()
        manager.start()
        print(manager._process.pid, flush=True)
        sys.stdin.read()
"""


def test_the_server_ends_with_its_parent(eventually: Any) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        server = psutil.Process(int(parent.stdout.readline()))
        assert server.is_running()
        parent.kill()

    def gone() -> bool:
        return not server.is_running() or server.status() == psutil.STATUS_ZOMBIE

    eventually(gone, "the server ends")


def test_ctrl_c_does_not_end_the_server(manager: Any) -> None:
    os.kill(manager._process.pid, signal.SIGINT)
    assert manager.list([1])[:] == [1]


def test_unpicklable_arguments_leave_the_connection_usable(manager: Any) -> None:
    shared = manager.list()
    with pytest.raises(Exception, match="pickle"):
        shared.append(threading.Lock())
    shared.append(1)
    assert shared[:] == [1]


def test_shared_memory_manager() -> None:
    with SharedMemoryManager(shutdown_timeout=20) as manager:
        block, shareable = manager.SharedMemory(32), manager.ShareableList(["a", 1])
        removed = manager.SharedMemory(8)
        removed.unlink()
        names = [block.name, shareable.shm.name]
        block.buf[0] = 1
        assert list(shareable) == ["a", 1]
        assert all(os.path.exists(f"/dev/shm/{name}") for name in names)
        block.close()
        shareable.shm.close()
        removed.close()
    for name in names:
        with pytest.raises(FileNotFoundError):
            SharedMemory(name)
    assert manager._process.exitcode == 0

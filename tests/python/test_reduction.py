"""Pickling between processes, and the passing of descriptors."""

from __future__ import annotations

import array
import copyreg
import functools
import io
import os
import pickle
import socket
from collections.abc import Iterator
from typing import Any

import pytest

import procession
from procession import reduction, resource_sharer
from procession.context import BaseContext
from procession.reduction import ForkingPickler


class Local:
    """A type of which only the package's pickler knows how to reduce it."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        raise TypeError("not by itself")

    def method(self, more: int) -> object:
        return self.value, more


def reduce_local(local: Local) -> Any:
    return Local, (f"reduced {local.value}",)


@pytest.fixture
def registered() -> Iterator[None]:
    ForkingPickler.register(Local, reduce_local)
    yield
    del ForkingPickler._extra_reducers[Local]


@pytest.mark.usefixtures("registered")
def test_registered_reductions_are_used() -> None:
    data = ForkingPickler.dumps([Local("x")])
    assert isinstance(data, memoryview)
    assert [local.value for local in ForkingPickler.loads(data)] == ["reduced x"]
    file = io.BytesIO()
    reduction.dump(Local("y"), file, protocol=2)
    assert pickle.loads(file.getvalue()).value == "reduced y"
    with pytest.raises(TypeError, match="not by itself"):
        pickle.dumps(Local("x"))
    assert Local not in copyreg.dispatch_table


def test_callables() -> None:
    for function, args in (
        ("text".upper, ()),
        (list.append, ([], 1)),
        (int.__add__, (1, 2)),
        (functools.partial(divmod, 7), (2,)),
        (functools.partial(int, base=2), ("11",)),
    ):
        copy = ForkingPickler.loads(ForkingPickler.dumps(function))
        assert copy(*args) == function(*args)  # type: ignore[operator]


@pytest.mark.usefixtures("registered")
def test_bound_methods() -> None:
    copy = ForkingPickler.loads(ForkingPickler.dumps(Local("x").method))
    assert copy(5) == ("reduced x", 5)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


@pytest.mark.usefixtures("no_leaks")
def test_descriptors_over_a_socket(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    reader, writer = os.pipe()
    reduction.sendfds(left, [reader, writer])
    os.close(reader)
    os.close(writer)
    reader, writer = reduction.recvfds(right, 2)
    assert not os.get_inheritable(reader)
    os.write(writer, b"through")
    assert os.read(reader, 10) == b"through"
    reduction.send_handle(left, reader, os.getpid())
    copy = reduction.recv_handle(right)
    assert os.path.sameopenfile(copy, reader)
    for fd in (reader, writer, copy):
        os.close(fd)


def test_wrong_messages(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    left.send(b"\0")
    with pytest.raises(RuntimeError, match="received 0 items of ancdata"):
        reduction.recv_handle(right)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))]
    left.sendmsg([b"\x05"], rights)
    with pytest.raises(AssertionError, match="Len is 1 but"):
        reduction.recv_handle(right)
    left.close()
    with pytest.raises(EOFError):
        reduction.recvfds(right, 1)


def test_socket_as_argument(ctx: BaseContext, pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    process = ctx.Process(target=socket.socket.send, args=(right, b"from the child"))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert left.recv(100) == b"from the child"


def test_socket_at_any_time(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    try:
        copy = ForkingPickler.loads(ForkingPickler.dumps(right))
        assert copy.fileno() != right.fileno()
        with copy:
            assert (copy.family, copy.type) == (right.family, right.type)
            copy.send(b"the same socket")
        assert left.recv(100) == b"the same socket"
    finally:
        resource_sharer.stop(timeout=20)


def test_kept_descriptors_are_closed(pair: tuple[socket.socket, socket.socket]) -> None:
    """What nobody fetches is closed when the sharer stops."""
    left, right = pair
    resource_sharer.DupFd(right.fileno())
    right.close()
    resource_sharer.stop(timeout=20)
    assert left.recv(1) == b""
    resource_sharer.stop()


def test_abstract_reducer() -> None:
    class Mine(reduction.AbstractReducer):
        pass

    mine = Mine()
    assert mine.ForkingPickler is ForkingPickler
    assert procession.get_context("spawn").reducer is reduction

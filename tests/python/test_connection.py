"""Connections over descriptors, listeners, the handshake, and waiting."""

from __future__ import annotations

import array
import gc
import hmac
import os
import pickle
import signal
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import connection as standard
from typing import Any

import pytest

from procession import AuthenticationError, BufferTooShort, connection, resource_sharer
from procession.connection import Connection, Pipe, wait
from procession.context import BaseContext

Pair = tuple[Connection, Connection]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two ends of a socket pair."""
    one, other = socket.socketpair()
    with Connection(one.detach()) as left, Connection(other.detach()) as right:
        yield left, right


@pytest.fixture
def one_way() -> Iterator[Pair]:
    """The reading and the writing end of a system pipe."""
    reader, writer = os.pipe()
    with (
        Connection(reader, writable=False) as receiving,
        Connection(writer, readable=False) as sending,
    ):
        yield receiving, sending


def in_thread(function: Callable[[], Any]) -> Callable[[], Any]:
    """Call a function in a thread; what is returned waits for its result, or raises its error."""
    outcome: list[tuple[Any, BaseException | None]] = []

    def run() -> None:
        try:
            outcome.append((function(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(30)
        assert outcome, "the thread is stuck"
        value, error = outcome[0]
        if error is not None:
            raise error
        return value

    return result


def test_objects_and_bytes_arrive_in_order(pair: Pair) -> None:
    left, right = pair
    left.send({"a": [1, None]})
    left.send_bytes(b"abc")
    left.send_bytes(b"")
    assert right.recv() == {"a": [1, None]}
    assert right.recv_bytes() == b"abc"
    assert right.recv_bytes() == b""
    assert not right.poll()


def test_large_message_crosses_in_pieces(pair: Pair) -> None:
    left, right = pair
    message = os.urandom(40 << 20)
    sent = in_thread(lambda: left.send_bytes(message))
    assert right.recv_bytes() == message
    sent()
    target = bytearray(len(message) + 3)
    sent = in_thread(lambda: left.send_bytes(message))
    assert right.recv_bytes_into(target, 3) == len(message)
    sent()
    assert target[3:] == message


def test_send_bytes_takes_parts_and_checks_them(pair: Pair) -> None:
    left, right = pair
    message = b"abcdefghijklmnopqrstuvwxyz"
    for args in [(), (5,), (7, 8), (26,), (26, 0)]:
        left.send_bytes(message, *args)
    received = [right.recv_bytes() for _ in range(5)]
    assert received == [message, message[5:], message[7:15], b"", b""]
    left.send_bytes(array.array("i", [1, 2]))
    assert right.recv_bytes() == array.array("i", [1, 2]).tobytes()
    for args, text in [
        ((27,), "buffer length < offset"),
        ((22, 5), "buffer length < offset \\+ size"),
        ((-1,), "offset is negative"),
        ((4, -1), "size is negative"),
    ]:
        with pytest.raises(ValueError, match=text):
            left.send_bytes(message, *args)
    assert not right.poll()


def test_recv_bytes_into(pair: Pair) -> None:
    left, right = pair
    numbers = array.array("i", range(4))
    left.send_bytes(numbers)
    target = array.array("i", [0] * 6)
    assert right.recv_bytes_into(target, 2 * target.itemsize) == 4 * target.itemsize
    assert list(target) == [0, 0, 0, 1, 2, 3]
    left.send_bytes(b"too long")
    with pytest.raises(BufferTooShort) as caught:
        right.recv_bytes_into(bytearray(4))
    assert caught.value.args == (b"too long",)
    left.send_bytes(b"stays")
    for offset, text in [(-1, "negative offset"), (9, "offset too large")]:
        with pytest.raises(ValueError, match=text):
            right.recv_bytes_into(bytearray(8), offset)
    with pytest.raises(TypeError):
        right.recv_bytes_into(b"read only")
    assert right.recv_bytes() == b"stays"


def test_maxlength_ends_receiving(pair: Pair) -> None:
    left, right = pair
    left.send_bytes(b"12345")
    assert right.recv_bytes(5) == b"12345"
    with pytest.raises(ValueError, match="negative maxlength"):
        right.recv_bytes(-1)
    left.send_bytes(b"123456")
    with pytest.raises(OSError, match="bad message length"):
        right.recv_bytes(5)
    assert not right.readable
    assert right.writable
    right.send(1)
    assert left.recv() == 1


def test_directions(one_way: Pair) -> None:
    receiving, sending = one_way
    assert (receiving.readable, receiving.writable) == (True, False)
    assert (sending.readable, sending.writable) == (False, True)
    with pytest.raises(OSError, match="read-only"):
        receiving.send(1)
    for method in (sending.recv, sending.poll, sending.recv_bytes):
        with pytest.raises(OSError, match="write-only"):
            method()


def test_a_length_that_is_none_closes_a_reader(one_way: Pair) -> None:
    receiving, sending = one_way
    os.write(sending.fileno(), b"\xff\xff\xff\xf0")
    with pytest.raises(OSError, match="bad message length"):
        receiving.recv()
    assert receiving.closed


def test_long_length_is_understood(one_way: Pair) -> None:
    receiving, sending = one_way
    os.write(sending.fileno(), b"\xff\xff\xff\xff" + (3).to_bytes(8, "big") + b"abc")
    assert receiving.recv_bytes() == b"abc"


def test_end_of_file(one_way: Pair) -> None:
    receiving, sending = one_way
    os.write(sending.fileno(), b"\0\0\0\x04ab")
    sending.close()
    with pytest.raises(OSError, match="got end of file during message"):
        receiving.recv()
    with pytest.raises(EOFError):
        receiving.recv()


def test_closed(pair: Pair) -> None:
    left, right = pair
    left.close()
    left.close()
    assert left.closed
    for method in (left.fileno, left.recv, left.poll, left.recv_bytes):
        with pytest.raises(OSError, match="handle is closed"):
            method()
    with pytest.raises(OSError, match="handle is closed"):
        left.send(1)
    with pytest.raises(EOFError):
        right.recv()
    with pytest.raises(BrokenPipeError):
        right.send(1)


def test_invalid_arguments() -> None:
    with pytest.raises(ValueError, match="invalid handle"):
        Connection(-1)
    with pytest.raises(ValueError, match="at least one"):
        Connection(0, readable=False, writable=False)
    with pytest.raises((TypeError, AttributeError)):
        Connection("1")  # type: ignore[arg-type]


def test_dropped_connection_closes_its_descriptor(pair: Pair) -> None:
    class Derived(Connection):
        pass

    derived = Derived(os.dup(pair[0].fileno()))
    derived.note = "attributes may be set"  # type: ignore[attr-defined]
    fd, gone = derived.fileno(), weakref.ref(derived)
    del derived
    gc.collect()
    assert gone() is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_pipe_ends_are_connections() -> None:
    left, right = Pipe()
    with left, right:
        assert isinstance(left, Connection)
        left.send([1])
        assert wait([right], 10) == [right]
        assert right.recv() == [1]
    assert left.closed
    receiving, sending = Pipe(duplex=False)
    with receiving, sending:
        assert not sending.readable
        with pytest.raises(OSError, match="read-only"):
            receiving.send(1)


def test_pipe_end_is_not_for_any_pickle() -> None:
    left, right = Pipe()
    with left, right, pytest.raises((RuntimeError, pickle.PicklingError)):
        pickle.dumps(left)


def test_pipe_end_crosses_a_socket(pair: Pair) -> None:
    try:
        receiving, sending = Pipe(duplex=False)
        pair[0].send(sending)
        given = pair[1].recv()
        given.send("through it")
        assert receiving.recv() == "through it"
        for end in (receiving, sending, given):
            end.close()
    finally:
        resource_sharer.stop(20)


def test_wait_returns_what_is_ready(pair: Pair) -> None:
    left, right = pair
    assert wait([left, right], 0) == []
    assert wait([left, right], -1) == []
    left.send(1)
    assert wait([left, right], 10) == [right]
    assert wait([right.fileno(), left.fileno()]) == [right.fileno()]
    reader, writer = os.pipe()
    pipe_end, other_end = Pipe()
    try:
        os.write(writer, b"x")
        assert wait([reader, right, left, pipe_end], 10) == [reader, right]
        other_end.send(1)
        assert wait([left, pipe_end], 10) == [pipe_end]
    finally:
        os.close(reader)
        os.close(writer)
        pipe_end.close()
        other_end.close()


def test_wait_refuses_what_cannot_be_waited_for(pair: Pair) -> None:
    left, right = pair
    with pytest.raises(KeyError):
        wait([left, left.fileno()], 0)
    with pytest.raises(ValueError, match="descriptor"):
        wait([-1], 0)
    right.close()
    with pytest.raises(OSError, match="handle is closed"):
        wait([right], 0)


def test_wait_sees_a_hang_up(pair: Pair) -> None:
    left, right = pair
    left.close()
    assert wait([right], 10) == [right]


def test_signal_handlers_run_during_wait(pair: Pair) -> None:
    left, right = pair

    def answer(signum: int, frame: object) -> None:
        left.send("from the handler")

    before = signal.signal(signal.SIGALRM, answer)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert wait([right], 30) == [right]
        assert right.recv() == "from the handler"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("family", connection.families)
def test_listener_and_client(family: str) -> None:
    with connection.Listener(family=family, authkey=b"key") as listener:
        dialled = in_thread(lambda: connection.Client(listener.address, authkey=b"key"))
        with listener.accept() as accepted, dialled() as client:
            client.send("hello")
            assert accepted.recv() == "hello"
            if family == "AF_INET":
                assert listener.last_accepted[0] == "127.0.0.1"
    with pytest.raises(OSError, match="listener is closed"):
        listener.accept()


def test_unix_address_is_removed() -> None:
    listener = connection.Listener()
    path = listener.address
    assert os.path.exists(path)
    with pytest.raises(OSError):
        connection.Listener(path)
    listener.close()
    listener.close()
    assert not os.path.exists(path)


def test_abstract_address() -> None:
    with (
        connection.Listener(f"\0procession-{os.getpid()}") as listener,
        connection.Client(listener.address) as client,
        listener.accept() as accepted,
    ):
        client.send(1)
        assert accepted.recv() == 1


def test_addresses_and_families() -> None:
    assert connection.default_family == "AF_UNIX"
    assert connection.address_type(("localhost", 1)) == "AF_INET"
    assert connection.address_type("/a/path") == "AF_UNIX"
    assert connection.address_type(r"\\.\pipe") == "AF_PIPE"
    with pytest.raises(ValueError, match="unrecognized"):
        connection.address_type(None)
    with pytest.raises(ValueError, match="unrecognized family"):
        connection.arbitrary_address("AF_X")
    with pytest.raises(ValueError, match="is not recognized"):
        connection.Listener(r"\\.\pipe")
    with pytest.raises(TypeError, match="byte string"):
        connection.Listener(authkey="text")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="byte string"):
        connection.Client("/nowhere", authkey="text")  # type: ignore[arg-type]


@pytest.mark.parametrize("listening", [connection, standard], ids=["ours", "standard"])
@pytest.mark.parametrize("dialling", [connection, standard], ids=["ours", "standard"])
def test_handshake_with_the_standard_library(listening: Any, dialling: Any) -> None:
    with listening.Listener(authkey=b"shared") as listener:
        dialled = in_thread(lambda: dialling.Client(listener.address, authkey=b"shared"))
        accepted = listener.accept()
        with accepted, dialled() as client:
            client.send({"from": "client"})
            accepted.send_bytes(b"x" * 100_000)
            assert accepted.recv() == {"from": "client"}
            assert client.recv_bytes() == b"x" * 100_000


@pytest.mark.parametrize("listening", [connection, standard], ids=["ours", "standard"])
@pytest.mark.parametrize("dialling", [connection, standard], ids=["ours", "standard"])
def test_wrong_key(listening: Any, dialling: Any) -> None:
    if listening is dialling is standard:
        pytest.skip("not ours to test")
    errors = (AuthenticationError, standard.AuthenticationError)
    with listening.Listener(authkey=b"right") as listener:
        dialled = in_thread(lambda: dialling.Client(listener.address, authkey=b"wrong"))
        with pytest.raises(errors):
            listener.accept()
        with pytest.raises((*errors, EOFError, ConnectionError)):
            dialled()


class Scripted:
    """A peer that says what it was told to say, and remembers what it heard."""

    def __init__(self, *says: bytes) -> None:
        self.says = list(says)
        self.heard: list[bytes] = []

    def recv_bytes(self, maxlength: int) -> bytes:
        return self.says.pop(0)

    def send_bytes(self, data: bytes) -> None:
        self.heard.append(data)


def test_challenge_of_an_old_python_is_answered_in_its_way() -> None:
    challenge = b"is-twenty-bytes-long"
    peer = Scripted(connection._CHALLENGE + challenge, connection._WELCOME)
    connection.answer_challenge(peer, b"key")
    assert peer.heard == [hmac.new(b"key", challenge, "md5").digest()]


def test_answer_of_an_old_python_is_accepted() -> None:
    class Old(Scripted):
        def recv_bytes(self, maxlength: int) -> bytes:
            message = self.heard[0].removeprefix(connection._CHALLENGE)
            return hmac.new(b"key", message, "md5").digest()

    peer = Old()
    connection.deliver_challenge(peer, b"key")
    assert peer.heard[-1] == connection._WELCOME


@pytest.mark.parametrize(
    "answer",
    [b"something bogus", b"{sha1}" + b"x" * 20, b"{sha256}short", b"{sha256}" + b"x" * 32],
)
def test_bad_answers_are_refused(answer: bytes) -> None:
    peer = Scripted(answer)
    with pytest.raises(AuthenticationError):
        connection.deliver_challenge(peer, b"key")
    assert peer.heard[-1] == connection._FAILURE


@pytest.mark.parametrize(
    "says",
    [
        (b"no challenge",),
        (connection._CHALLENGE,),
        (connection._CHALLENGE + b"{sha256}" + b"x" * 40, b"something bogus"),
        (connection._CHALLENGE + b"{rot13}" + b"x" * 40,),
    ],
)
def test_bad_challenges_are_refused(says: tuple[bytes, ...]) -> None:
    with pytest.raises(AuthenticationError):
        connection.answer_challenge(Scripted(*says), b"key")


def test_xml_connections_refuse_what_is_not_plain_data() -> None:
    with connection.XmlListener(authkey=b"k") as listener:
        dialled = in_thread(lambda: connection.XmlClient(listener.address, authkey=b"k"))
        accepted = listener.accept()
        client = dialled()
        try:
            client.send(["text", 1, None, 2.5])
            assert accepted.recv() == ["text", 1, None, 2.5]
            with pytest.raises(TypeError):
                client.send(object())
        finally:
            accepted.close()
            client.close()


def shout(pipe: Any) -> None:
    """Receive a connection and use it (runs in a child)."""
    with pipe, pipe.recv() as given:
        given.send(given.recv().upper())


def test_connections_can_be_sent_to_a_child(ctx: BaseContext, pair: Pair) -> None:
    left, right = pair
    ours, theirs = ctx.Pipe()
    process = ctx.Process(target=shout, args=(theirs,))
    process.start()
    theirs.close()
    ours.send(right)
    left.send("quiet")
    assert left.recv() == "QUIET"
    process.join()
    process.close()
    ours.close()

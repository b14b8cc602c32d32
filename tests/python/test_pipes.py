"""Pipes: two ends, whoever holds them, until nobody does."""

from __future__ import annotations

import array
import os
import selectors
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

import procession
from children import finish, start
from procession import _native, connection, reduction
from procession.context import BufferTooShort

Eventually = Callable[..., None]

FORK = procession.get_context("fork")


# ----------------------------------------------------------------------- run in child processes


def echo(end: Any) -> None:
    """Until a None comes."""
    while (item := end.recv()) is not None:
        end.send(item)


def send_all(end: Any, items: list[Any]) -> None:
    for item in items:
        end.send(item)


def hold(end: Any, ready: Any) -> None:
    ready.set()
    end.recv()


def send_through(carrier: Any, item: Any) -> None:
    end = carrier.recv()
    end.send(item)


def send_descriptor(end: Any, path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    reduction.send_handle(end, fd, os.getppid())
    os.close(fd)
    # The descriptor is handed over while the sender is there.
    end.recv()


# ---------------------------------------------------------------------------------- in one process


def test_directions() -> None:
    receiver, sender = procession.Pipe(duplex=False)
    assert (receiver.readable, receiver.writable) == (True, False)
    assert (sender.readable, sender.writable) == (False, True)
    sender.send("one way")
    assert receiver.recv() == "one way"
    with pytest.raises(OSError, match="write-only"):
        sender.recv()
    with pytest.raises(OSError, match="read-only"):
        receiver.send(1)
    with pytest.raises(OSError, match="write-only"):
        sender.poll()


def test_both_directions_are_apart() -> None:
    one, two = procession.Pipe()
    one.send(1)
    two.send(2)
    assert (one.recv(), two.recv()) == (2, 1)
    assert not one.poll()
    assert not two.poll(0.01)
    assert not two.poll(-1)


def test_end_of_file_comes_after_the_messages() -> None:
    receiver, sender = procession.Pipe(duplex=False)
    sender.send(1)
    sender.send_bytes(b"2")
    sender.close()
    assert receiver.poll()
    assert receiver.recv() == 1
    assert receiver.recv_bytes() == b"2"
    assert receiver.poll()
    for _ in range(2):
        with pytest.raises(EOFError):
            receiver.recv()
        with pytest.raises(EOFError):
            receiver.recv_bytes()
        with pytest.raises(EOFError):
            receiver.recv_bytes_into(bytearray(1))


def test_sending_to_nobody() -> None:
    one, two = procession.Pipe()
    two.close()
    with pytest.raises(BrokenPipeError):
        one.send(1)
    with pytest.raises(BrokenPipeError):
        one.send_bytes(b"1")


def test_after_close() -> None:
    one, _two = procession.Pipe()
    one.close()
    one.close()
    assert one.closed
    for call in (one.recv, one.poll, one.fileno, one.recv_bytes):
        with pytest.raises(OSError, match="handle is closed"):
            call()
    with pytest.raises(OSError, match="handle is closed"):
        one.send(1)


def test_context_manager() -> None:
    with procession.Pipe()[0] as end:
        assert not end.closed
    assert end.closed


def test_bytes_of_any_buffer() -> None:
    one, two = procession.Pipe()
    numbers = array.array("i", range(10))
    one.send_bytes(numbers)
    assert two.recv_bytes() == numbers.tobytes()
    one.send_bytes(b"0123456789", 3)
    one.send_bytes(memoryview(b"0123456789"), 3, 4)
    one.send_bytes(b"", 0)
    assert [two.recv_bytes() for _ in range(3)] == [b"3456789", b"3456", b""]
    for bad in ((-1,), (11,), (0, -1), (5, 6)):
        with pytest.raises(ValueError, match=r"offset|size|length"):
            one.send_bytes(b"0123456789", *bad)
    target = array.array("i", [0] * 12)
    one.send_bytes(numbers)
    assert two.recv_bytes_into(target, 4) == 40
    assert list(target) == [0, *range(10), 0]
    with pytest.raises(ValueError, match="offset"):
        two.recv_bytes_into(target, -1)
    with pytest.raises(ValueError, match="offset"):
        two.recv_bytes_into(target, 49)


def test_too_little_room() -> None:
    one, two = procession.Pipe()
    one.send_bytes(b"long message")
    with pytest.raises(BufferTooShort) as caught:
        two.recv_bytes_into(bytearray(3))
    assert caught.value.args == (b"long message",)
    one.send_bytes(b"long message")
    with pytest.raises(OSError, match="bad message length"):
        two.recv_bytes(3)


def test_send_and_recv_bytes_speak_pickle_to_each_other() -> None:
    import pickle

    one, two = procession.Pipe()
    one.send_bytes(pickle.dumps({"a": [1]}))
    assert two.recv() == {"a": [1]}
    for item in ({"a": [1]}, 7, "text", (1, None)):
        one.send(item)
        assert pickle.loads(two.recv_bytes()) == item


def test_what_cannot_be_pickled() -> None:
    one, two = procession.Pipe()
    with pytest.raises((AttributeError, TypeError)) as caught:
        one.send({"bad": threading.Lock()})
    assert any("the object['bad'] cannot be pickled" in n for n in caught.value.__notes__)
    assert not two.poll()


@pytest.mark.parametrize("size", [0, 1, 32_767, 32_768, 32_769, 1 << 20, 100_000_000])
def test_sizes(size: int) -> None:
    one, two = procession.Pipe()
    data = bytes(size)
    one.send_bytes(data)
    assert two.recv_bytes() == data
    one.send(data)
    assert two.recv() == data


def test_backlog() -> None:
    """A sender that nobody listens to waits at some time, and goes on when somebody does."""
    receiver, sender = procession.Pipe(duplex=False)
    sent: list[int] = []

    def send() -> None:
        for number in range(100):
            sender.send_bytes(bytes(1 << 20))
            sent.append(number)

    thread = threading.Thread(target=send)
    thread.start()
    thread.join(1)
    assert thread.is_alive()
    assert 0 < len(sent) < 100
    for _ in range(100):
        assert len(receiver.recv_bytes()) == 1 << 20
    thread.join(20)
    assert not thread.is_alive()


def test_a_waiting_sender_learns_that_nobody_listens_any_more() -> None:
    receiver, sender = procession.Pipe(duplex=False)
    failed = threading.Event()

    def send() -> None:
        try:
            while True:
                sender.send_bytes(bytes(1 << 20))
        except BrokenPipeError:
            failed.set()

    thread = threading.Thread(target=send)
    thread.start()
    thread.join(0.3)
    receiver.close()
    assert failed.wait(20)
    thread.join(20)


def test_closing_while_another_thread_receives() -> None:
    one, two = procession.Pipe()
    ended = threading.Event()

    def receive() -> None:
        with pytest.raises(EOFError):
            one.recv()
        ended.set()

    thread = threading.Thread(target=receive)
    thread.start()
    thread.join(0.1)
    two.close()
    assert ended.wait(20)
    thread.join(20)


# ------------------------------------------------------------------------------ between processes


def test_echo(ctx: Any) -> None:
    here, there = ctx.Pipe()
    process = start(ctx, echo, there)
    there.close()
    for item in (1, "two", [3.0], b"4" * 1_000_000, {"five": None}):
        here.send(item)
        assert here.recv() == item
    here.send(None)
    finish(process)


def test_end_of_file_when_the_last_writer_exits(ctx: Any) -> None:
    receiver, sender = ctx.Pipe(duplex=False)
    processes = [start(ctx, send_all, sender, [n]) for n in range(3)]
    sender.close()
    got = [receiver.recv() for _ in range(3)]
    assert sorted(got) == [0, 1, 2]
    with pytest.raises(EOFError):
        receiver.recv()
    finish(*processes)


def test_end_of_file_when_the_last_writer_is_killed(ctx: Any) -> None:
    here, there = ctx.Pipe()
    ready = ctx.Event()
    process = start(ctx, hold, there, ready)
    there.close()
    assert ready.wait(30)
    process.kill()
    with pytest.raises(EOFError):
        here.recv()
    with pytest.raises(BrokenPipeError):
        here.send(1)
    finish(process, status=-signal.SIGKILL)


def test_waiting_for_an_end_beside_a_socket_sees_the_writer_die(ctx: Any) -> None:
    here, there = ctx.Pipe()
    ready = ctx.Event()
    process = start(ctx, hold, there, ready)
    there.close()
    assert ready.wait(30)
    one, two = socket.socketpair()
    with one, two:
        assert connection.wait([here, one], 0.01) == []
        process.kill()
        # Nobody has joined the process: to notice its death is up to the wait.
        assert connection.wait([here, one], 30) == [here]
        with pytest.raises(EOFError):
            here.recv()
    finish(process, status=-signal.SIGKILL)


def test_end_of_file_is_seen_by_a_wait_after_the_last_message() -> None:
    receiver, sender = procession.Pipe(duplex=False)
    one, two = socket.socketpair()
    with one, two:
        receiver.fileno()
        sender.send(1)
        sender.close()
        assert connection.wait([receiver, one], 20) == [receiver]
        assert receiver.recv() == 1
        assert connection.wait([receiver, one], 20) == [receiver]
        with pytest.raises(EOFError):
            receiver.recv()
        assert connection.wait([receiver, one], 20) == [receiver]


def test_selectors() -> None:
    one, two = procession.Pipe()
    with selectors.DefaultSelector() as selector:
        selector.register(one, selectors.EVENT_READ)
        assert selector.select(0) == []
        for round_ in range(3):
            two.send(round_)
            ((key, _),) = selector.select(20)
            assert key.fileobj is one
            assert one.recv() == round_
            assert selector.select(0) == []
        two.close()
        assert len(selector.select(20)) == 1
        with pytest.raises(EOFError):
            one.recv()


def test_the_descriptor_of_an_inherited_end_is_the_childs_own() -> None:
    """A parent that watches an end is not robbed of its wake-ups by a child that uses the same."""
    one, two = procession.Pipe()
    fd = one.fileno()
    results = FORK.Queue()

    def child() -> None:
        results.put(connection.wait([one.fileno()], 30) == [fd])
        results.put(one.recv())
        results.put(connection.wait([one.fileno()], 0))

    process = start(FORK, child)
    two.send("for the child")
    assert results.get(timeout=30) is True
    assert results.get(timeout=30) == "for the child"
    assert results.get(timeout=30) == []
    finish(process)
    two.send("for the parent")
    assert connection.wait([fd], 20) == [fd]
    assert one.recv() == "for the parent"


def test_ends_through_ends_and_queues(ctx: Any) -> None:
    here, there = ctx.Pipe()
    process = start(ctx, send_through, there, "from afar")
    receiver, sender = ctx.Pipe(duplex=False)
    here.send(sender)
    sender.close()
    assert receiver.recv() == "from afar"
    with pytest.raises(EOFError):
        receiver.recv()
    finish(process)
    queue = ctx.Queue()
    queue.put(receiver)
    receiver.close()
    assert queue.get(timeout=10).poll()


def test_an_end_on_its_way_keeps_the_pipe_open() -> None:
    receiver, sender = FORK.Pipe(duplex=False)
    queue = FORK.Queue()
    queue.put(sender)
    sender.close()
    assert not receiver.poll()
    again = queue.get()
    again.send("still there")
    again.close()
    assert receiver.recv() == "still there"
    with pytest.raises(EOFError):
        receiver.recv()


def test_descriptors_over_an_end(ctx: Any, tmp_path: Any) -> None:
    path = tmp_path / "file"
    path.write_text("contents")
    here, there = ctx.Pipe()
    process = start(ctx, send_descriptor, there, str(path))
    fd = reduction.recv_handle(here)
    with open(fd) as file:
        assert file.read() == "contents"
    here.send(None)
    finish(process)


def test_a_message_is_no_descriptor() -> None:
    one, two = procession.Pipe()
    one.send("no descriptor")
    with pytest.raises(RuntimeError, match="without a descriptor"):
        reduction.recv_handle(two)


def test_pipes_leave_nothing_behind() -> None:
    def use(count: int) -> None:
        ends = [procession.Pipe() for _ in range(count)]
        for number, (one, two) in enumerate(ends):
            one.send(number)
            two.send(number)
        for one, two in ends[:20]:
            one.fileno()
            two.fileno()

    # What is made once and kept is made here.
    use(1)
    before, descriptors = _native.session_info(), len(os.listdir("/proc/self/fd"))
    use(1000)
    after = _native.session_info()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert after["objects"] == before["objects"]
    assert after["bytes_used"] <= before["bytes_used"] + 100_000


def test_signals_interrupt_a_recv() -> None:
    class Interrupted(Exception):
        pass

    def handler(signum: int, frame: object) -> None:
        raise Interrupted

    old = signal.signal(signal.SIGUSR1, handler)
    try:
        one, two = procession.Pipe()
        timer = threading.Timer(0.1, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1))
        timer.start()
        with pytest.raises(Interrupted):
            one.recv()
        timer.join()
        two.send(1)
        assert one.recv() == 1
    finally:
        signal.signal(signal.SIGUSR1, old)

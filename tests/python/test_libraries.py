"""What libraries do with the parts of multiprocessing that it does not document.

The classes here do what those of PyTorch and loky do, so that these need not be installed.
"""

from __future__ import annotations

import io
import os
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import procession
from procession import connection, pool, queues, reduction, resource_sharer, spawn, util
from procession.context import BaseContext, assert_spawning


class Wrapper:
    """Sends what it pickles itself, and passes everything else on."""

    def __init__(self, conn: Any) -> None:
        self.conn = conn

    def send(self, obj: Any) -> None:
        buffer = io.BytesIO()
        reduction.ForkingPickler(buffer, pickle.HIGHEST_PROTOCOL).dump(obj)
        self.send_bytes(buffer.getvalue())

    def recv(self) -> Any:
        return pickle.loads(self.recv_bytes())

    def __getattr__(self, name: str) -> Any:
        if "conn" in self.__dict__:
            return getattr(self.conn, name)
        raise AttributeError(name)


class WrappedQueue(queues.Queue[Any]):
    """Replaces both sides."""

    def __init__(self, *args: Any, **kwds: Any) -> None:
        super().__init__(*args, **kwds)
        self._reader = Wrapper(self._reader)
        self._writer = Wrapper(self._writer)


class Handle:
    """Is reduced by what is registered for it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd


def rebuild_handle(duplicate: Any) -> Handle:
    return Handle(duplicate.detach())


def reduce_handle(handle: Handle) -> tuple[Callable[..., Handle], tuple[Any]]:
    return rebuild_handle, (reduction.DupFd(handle.fd),)


reduction.ForkingPickler.register(Handle, reduce_handle)


def write_to(handle: Handle) -> int:
    return os.write(handle.fd, b"written")


def write_to_each(queue: Any, answers: Any) -> None:
    while (handle := queue.get()) is not None:
        answers.put(write_to(handle))


def test_registered_reductions_apply_everywhere(ctx: BaseContext) -> None:
    reader, writer = os.pipe()
    handle = Handle(writer)
    tasks, answers = ctx.Queue(), ctx.SimpleQueue()
    child = ctx.Process(target=write_to_each, args=(tasks, answers))
    child.start()
    tasks.put(handle)
    assert answers.get() == 7
    tasks.put(None)
    child.join()
    with ctx.Pool(1) as workers:
        assert workers.map(write_to, [handle]) == [7]
        assert workers.apply(write_to, (handle,)) == 7
    assert os.read(reader, 100) == b"written" * 3
    os.close(reader)
    os.close(writer)


def test_both_sides_of_a_queue_can_be_wrapped(ctx: BaseContext) -> None:
    queue, answers = WrappedQueue(ctx=ctx), ctx.SimpleQueue()
    queue._writer.send(["sent", 1])
    queue.put("put")
    assert queue._reader.recv() == ["sent", 1]
    assert queue.get() == "put"
    assert not queue._reader.poll()
    child = ctx.Process(target=write_to_each, args=(queue, answers))
    child.start()
    queue._writer.send(None)
    child.join()
    assert child.exitcode == 0


def test_the_names_that_pytorch_uses() -> None:
    assert issubclass(pool.Pool, object)
    assert callable(pool.Pool._repopulate_pool)
    for module, names in (
        (resource_sharer, ("DupFd",)),
        (reduction, ("ForkingPickler", "DupFd", "register")),
        (util, ("register_after_fork", "Finalize", "get_temp_dir")),
        (connection, ("wait", "Connection")),
        (spawn, ("set_executable", "get_executable")),
        (procession, ("get_context", "get_all_start_methods", "SimpleQueue")),
    ):
        for name in names:
            assert callable(getattr(module, name)), f"{module.__name__}.{name}"


class Threaded(queues.Queue[Any]):
    """Brings the thread that sends, and passes on its parts."""

    def __getstate__(self) -> Any:
        assert_spawning(self)
        parts = ("_maxsize", "_reader", "_writer", "_rlock", "_wlock", "_sem", "_opid")
        return {name: getattr(self, name) for name in parts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._ignore_epipe = False
        self._reset()

    def _start_thread(self) -> None:
        self._buffer.clear()
        self._thread = threading.Thread(target=self._feed, args=(self._buffer, self._notempty))
        self._thread.daemon = True
        self._thread.start()
        self._jointhread = util.Finalize(
            self._thread, type(self)._finalize_join, [weakref.ref(self._thread)], exitpriority=-5
        )
        self._close = util.Finalize(
            self, type(self)._finalize_close, [self._buffer, self._notempty], exitpriority=10
        )

    def _feed(self, buffer: Any, notempty: threading.Condition) -> None:
        while True:
            with notempty:
                notempty.wait_for(lambda: buffer)
                obj = buffer.popleft()
            if obj is queues._sentinel:
                self._writer.close()
                return
            with self._wlock:
                self._send_bytes(pickle.dumps(("by its own thread", obj)))


class Direct(queues.SimpleQueue[Any]):
    """Sends by itself."""

    def put(self, obj: Any) -> None:
        with self._wlock:
            self._writer.send_bytes(pickle.dumps(("by itself", obj)))

    def __getstate__(self) -> Any:
        assert_spawning(self)
        return self._reader, self._writer, self._rlock, self._wlock

    def __setstate__(self, state: Any) -> None:
        self._reader, self._writer, self._rlock, self._wlock = state


def echo(tasks: Any, answers: Any) -> None:
    while (task := tasks.get())[1] is not None:
        answers.put(task)
    answers.put("end")
    answers.close()
    if hasattr(answers, "join_thread"):
        answers.join_thread()


def test_queues_whose_classes_replace_the_parts(ctx: BaseContext) -> None:
    tasks, answers = Threaded(2, ctx=ctx), Direct(ctx=ctx)
    back = Threaded(ctx=ctx)
    for queue, how in ((answers, "by itself"), (back, "by its own thread")):
        child = ctx.Process(target=echo, args=(tasks, queue))
        child.start()
        tasks.put("first")
        tasks.put([2] * 100_000)
        tasks.put(None)
        assert queue.get() == (how, ("by its own thread", "first"))
        assert queue.get() == (how, ("by its own thread", [2] * 100_000))
        assert queue.get() == (how, "end")
        child.join()
        assert child.exitcode == 0
        assert queue.empty()
    assert isinstance(tasks, queues.Queue)
    for queue in (tasks, back):
        queue.close()
        queue.join_thread()
    answers.close()


def test_queues_that_only_add_something_stay_native(ctx: BaseContext) -> None:
    class Counted(queues.Queue[Any]):
        def __getstate__(self) -> Any:
            return super().__getstate__(), self.count

        def __setstate__(self, state: Any) -> None:
            state, self.count = state
            super().__setstate__(state)

    class Named(queues.SimpleQueue[Any]):
        name = "mine"

    assert Counted.__bases__[0] is queues.Queue[Any].__origin__  # type: ignore[attr-defined]
    assert Named.__bases__[0] is queues.SimpleQueue
    queue = Named(ctx=ctx)
    queue.put(1)
    assert queue.get() == 1

"""What programs do with queues and locks beyond the plain call, the same with both packages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("multiprocessing.synchronize")

#: The text of a program, after the import of the package as `mp`; what it prints is compared.
PROGRAMS = {
    "flags that are no bools": """\
from queue import Empty, Full

queue = mp.Queue(1)
queue.put("a", 1, 5)
# (That anything else is taken for its truth is so since 3.12.)
for no in (0, False):
    try:
        queue.put("b", no)
    except Full:
        print("full")
print(queue.get(block=1, timeout=20))
for no in (0, False):
    try:
        queue.get(no)
    except Empty:
        print("empty")
for lock in (mp.Lock(), mp.RLock(), mp.Semaphore(), mp.BoundedSemaphore()):
    print(lock.acquire(1), type(lock).__name__)
print(mp.Condition().acquire(0), mp.Value("i", 0).get_lock().acquire(1))
lock = mp.Lock()
print(lock.acquire(0), lock.acquire(0))
first, second = mp.Pipe(0)
print(first.readable, first.writable, second.readable, second.writable)
""",
    "a queue that notes what goes through it": """\
context = mp.get_context("fork")
seen = []


class Noting(mp.queues.Queue):
    def put(self, *args, **kwds):
        seen.append(("put", args, kwds))
        super().put(*args, **kwds)

    def get(self, *args, **kwds):
        seen.append(("get", args, kwds))
        return super().get(*args, **kwds)


class Both(mp.queues.JoinableQueue, Noting):
    pass


noting = Noting(ctx=context)
noting.put_nowait(1)
while noting.empty():
    pass
print(noting.get_nowait(), seen)
seen.clear()
both = Both(ctx=context)
both.put(2)
print(both.get(True, 20), seen)
single = context.JoinableQueue()
single.put = lambda *args: print("instead", args)
single.put_nowait(3)
original, mp.queues.Queue.get = mp.queues.Queue.get, lambda self, *args: ("instead", args)
print(context.JoinableQueue().get_nowait())
mp.queues.Queue.get = original
""",
    "attributes of an event": """\
import sys
import types


class Named(mp.synchronize.Event):
    def __init__(self, name, ctx):
        super().__init__(ctx=ctx)
        self.name = name


def tell(named, plain, queue):
    queue.put((named.name, named.is_set(), plain.tag))


if __name__ == "__main__":
    context = mp.get_context("spawn")
    named, plain, queue = Named("a name", context), context.Event(), context.Queue()
    named.set()
    plain.tag = [1]
    child = context.Process(target=tell, args=(named, plain, queue))
    child.start()
    print(queue.get(timeout=60))
    child.join()
""",
    "a lock with methods of its own": """\
class Noting(mp.synchronize.Lock):
    def __enter__(self):
        print("enter")
        return self._semlock.__enter__()

    def __exit__(self, *args):
        print("exit")
        return self._semlock.__exit__(*args)


context = mp.get_context("fork")
noting = Noting(ctx=context)
with noting as entered:
    print(entered, noting.acquire(timeout=0.01), noting._semlock._is_mine())
condition = mp.Condition(noting)
with condition:
    print(condition.wait(0.01))
print(noting)
""",
    "a lock that another thread has": """\
import threading

lock = mp.Lock()
condition = mp.Condition(lock)


def without_it():
    for call in (condition.notify, condition.wait):
        try:
            print(call())
        except AssertionError as error:
            print(error)
    print(lock)


with condition:
    thread = threading.Thread(target=without_it)
    thread.start()
    thread.join()
    condition.notify()
    print(condition.wait(0.01))
print(lock)
""",
    "an answer to a message that is too long": """\
mine, yours = mp.Pipe()
mine.send_bytes(b"x" * 100)
try:
    yours.recv_bytes(10)
except OSError as error:
    print(error)
print(yours.readable, yours.writable, yours.closed)
yours.send("too long")
print(mine.recv())
try:
    yours.recv()
except OSError as error:
    print(error)
reader, writer = mp.Pipe(False)
writer.send_bytes(b"x" * 100)
try:
    reader.recv_bytes(10)
except OSError as error:
    print(error)
print(reader.closed)
""",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_see_no_difference(name: str, run_program: Callable[..., Any]) -> None:
    told = {}
    for library in ("multiprocessing", "procession"):
        ran = run_program(
            f"import {library} as mp\nimport {library}.queues, {library}.synchronize\n"
            + PROGRAMS[name]
        )
        assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
        told[library] = ran.stdout
    assert told["procession"] == told["multiprocessing"] != ""

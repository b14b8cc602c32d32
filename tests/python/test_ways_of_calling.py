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
    "arrays as the input of a map": """\
import multiprocessing.pool

import numpy as np


def show(value):
    return str(value)


def add(a, b):
    return int(a + b)


for Pool in (mp.Pool, mp.pool.ThreadPool):
    with Pool(2) as pool:
        for array in (np.arange(5), np.arange(0), np.array([0]), np.eye(2)):
            print(pool.map(show, array), pool.map_async(show, array, 1).get(20))
            print(list(pool.imap(show, array)))
        print(pool.starmap(add, np.ones((3, 2))))
""",
    "arrays that cannot be written to": """\
import numpy as np


def double(array):
    array *= 2
    return array


arrays = [
    np.frombuffer(bytes(range(64)), "u1"),
    np.frombuffer(bytes(100_000), "u1"),
    np.broadcast_to(np.arange(3), (2, 3)),
]
queue, (first, second) = mp.Queue(), mp.Pipe()
for array in arrays:
    for sent in (array, [array], {"nested": (1, array)}):
        queue.put(sent)
        got = queue.get(timeout=30)
        first.send(sent)
        for got in (got, second.recv()):
            while not isinstance(got, np.ndarray):
                got = list(got.values() if isinstance(got, dict) else got)[-1]
            got += 1
            print(got.flags.writeable, got.dtype, int(got.sum()))
with mp.Pool(2) as pool:
    print([int(array.sum()) for array in pool.map(double, arrays, 1)])
""",
    "imaps that nobody reads": """\
import multiprocessing.pool


def note(value):
    noted.release()


def count(calls):
    return sum(noted.acquire(timeout=30) for _ in range(calls)), noted.acquire(False)


noted = mp.Semaphore(0)
for Pool in (mp.Pool, mp.pool.ThreadPool):
    for method in ("imap", "imap_unordered"):
        pool = Pool(2)
        getattr(pool, method)(note, range(300))
        kept = getattr(pool, method)(note, iter(range(200)))
        pool.close()
        pool.join()
        print(count(500), len(list(kept)))
        pool = Pool(2)
        getattr(pool, method)(note, range(40))
        print(count(40))
        pool.terminate()
        pool.join()
""",
    "workers that are replaced while nobody waits": """\
def tell(number):
    queue.put(number)


queue = mp.Queue()
with mp.Pool(2, maxtasksperchild=1) as pool:
    results = [pool.apply_async(tell, (number,)) for number in range(6)]
    print(sorted(queue.get(timeout=30) for _ in range(6)))
    result = pool.map_async(tell, range(6), 1)
    print(sorted(queue.get(timeout=30) for _ in range(6)))
    results = pool.imap(tell, range(6))
    print(sorted(queue.get(timeout=30) for _ in range(6)))
""",
    "workers that die while nobody waits": """\
import os


def tell(number):
    if number < 2:
        os._exit(1)
    queue.put(number)


queue = mp.Queue()
with mp.Pool(2) as pool:
    results = [pool.apply_async(tell, (number,)) for number in range(6)]
    print(sorted(queue.get(timeout=30) for _ in range(4)))
""",
    "what goes with a spawned child": """\
import socket


def write(memory, connection):
    memory.buf[0] = 1


if __name__ == "__main__":
    SharedMemory = __import__(mp.__name__ + ".shared_memory", fromlist=["x"]).SharedMemory
    Connection = __import__(mp.__name__ + ".connection", fromlist=["x"]).Connection
    context = mp.get_context("spawn")
    memory = SharedMemory(create=True, size=4)
    mine, yours = socket.socketpair()
    child = context.Process(target=write, args=(memory, Connection(yours.detach())))
    child.start()
    child.join()
    print(memory.buf[0], child.exitcode)
    memory.close()
    memory.unlink()
    with context.Manager() as manager:
        space = manager.Namespace(a=1)
        print(space._callmethod("__getattribute__", ("__dict__",)), space)
        for call in (lambda: space.b, lambda: delattr(space, "b")):
            try:
                call()
            except AttributeError as error:
                print(error)
""",
    "signs of progress": """\
def same(value):
    return value


with mp.Pool(2) as pool:
    result = pool.map_async(same, range(10), 3)
    print(result._number_left >= 0, result.get(30) == list(range(10)), result._number_left)
""",
    "modules that come along": """\
queue = mp.Queue()
child = mp.Process(target=int)
child.start()
print(mp.connection.wait([child.sentinel], 30) == [child.sentinel])
print(mp.queues.Queue is type(queue), mp.synchronize.Lock.__name__, mp.util.__name__[-4:])
try:
    mp.nothing
except AttributeError as error:
    print(str(error)[-7:])
""",
    "threads whose initializer fails at first": """\
import itertools
import sys
import threading
import multiprocessing.pool

threading.excepthook = lambda args: None
tries = itertools.count()


def initializer():
    if next(tries) < 3:
        raise OSError("not yet")


pool = mp.pool.ThreadPool(2, initializer)
print(pool.map_async(abs, [-1, -2], 1).get(30))
pool.terminate()
""",
    "input that waits for results": """\
import multiprocessing.pool
import queue
import threading


def double(x):
    return 2 * x


def items(results):
    yield 1
    while (item := results.get(timeout=20)) < 100:
        yield item
    raise ValueError(threading.current_thread() is threading.main_thread())


for make in (mp.get_context("fork").Pool, mp.pool.ThreadPool):
    with make(2) as pool:
        for method in (pool.imap, pool.imap_unordered):
            results = queue.Queue()
            try:
                for result in method(double, items(results)):
                    print(result)
                    results.put(result)
            except ValueError as error:
                print("end of input", error)
            # Not one call, but none to begin with.
            nothing = method(double, 5)
            try:
                next(nothing)
            except TypeError as error:
                print(error)
""",
    "what cannot be pickled": """\
def plain(x):
    return x


def add(x, y):
    return 0


class Strange(Exception):
    def __init__(self, a, b):
        super().__init__(a)


class Refuses:
    def __reduce__(self):
        raise Strange(1, 2)


def told(get):
    try:
        return get()
    except Exception as error:
        return type(error).__name__


with mp.get_context("fork").Pool(2) as pool:
    local = lambda: 1
    calls = [
        lambda: pool.apply_async(local),
        lambda: pool.apply_async(plain, (local,)),
        lambda: pool.apply_async(plain, kwds={"x": local}),
        lambda: pool.apply_async(plain, (Refuses(),)),
        lambda: pool.map_async(local, [1, 2, 3]),
        lambda: pool.map_async(plain, [1, 2, local], 1),
        lambda: pool.starmap_async(add, [(1, 2), (3, local)]),
    ]
    for call in calls:
        result = call()
        print(told(lambda: result.get(20)), told(result.successful))
    errors = []
    pool.apply_async(local, error_callback=errors.append).wait(20)
    pool.map_async(local, range(1000), error_callback=errors.append).wait(20)
    print([type(error).__name__ for error in errors])
    for method in (pool.imap, pool.imap_unordered):
        results = method(plain, [1, local, 3, local, 5])
        print(sorted(str(told(lambda: next(results))) for _ in range(5)))
        print(told(lambda: next(results)))
        print(told(lambda: next(method(local, [1, 2]))))
    print(told(lambda: pool.map(plain, [local] + [1] * 10000)))
    print(pool.map(plain, range(3)))
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
    # The standard library's pool of threads was seen to lose its threads, with a result to come.
    for library, tries in (("multiprocessing", 3), ("procession", 1)):
        for _ in range(tries):
            ran = run_program(
                f"import {library} as mp\nimport {library}.queues, {library}.synchronize\n"
                + PROGRAMS[name]
            )
            if ran.returncode == 0:
                break
        assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
        told[library] = ran.stdout
    assert told["procession"] == told["multiprocessing"] != ""

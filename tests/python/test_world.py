"""The world around: executors, and every way in which a program can be started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from procession.context import BaseContext

# ------------------------------------------------------------------------------- executors

given: list[str] = []


def remember(text: str) -> None:
    given.append(text)


def square(x: int) -> int:
    return x * x


def fail(x: int) -> int:
    raise LookupError(f"no {x}")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def what_was_given() -> tuple[int, list[str]]:
    return os.getpid(), given


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_executors_take_our_contexts(ctx: BaseContext) -> None:
    with ProcessPoolExecutor(
        2,
        mp_context=ctx,  # type: ignore[arg-type]
        initializer=remember,
        initargs=("given",),
    ) as executor:
        assert list(executor.map(square, range(20), chunksize=3)) == [n * n for n in range(20)]
        pid, seen = executor.submit(what_was_given).result()
        assert pid != os.getpid()
        assert seen == ["given"]
        with pytest.raises(LookupError, match="no 7") as caught:
            executor.submit(fail, 7).result()
        assert "_RemoteTraceback" in type(caught.value.__cause__).__name__
        large = executor.submit(bytes, 3_000_000)
        assert large.result() == bytes(3_000_000)
        with pytest.raises((AttributeError, TypeError), match=r"pickle|local object"):
            executor.submit(lambda: 1).result()
        assert executor.submit(square, 3).result() == 9


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_executors_notice_a_death(ctx: BaseContext) -> None:
    with ProcessPoolExecutor(2, mp_context=ctx) as executor:  # type: ignore[arg-type]
        assert executor.submit(square, 3).result() == 9
        with pytest.raises(BrokenProcessPool):
            executor.submit(die).result()
        with pytest.raises(BrokenProcessPool):
            executor.submit(square, 3)


def test_executors_replace_their_workers(start_method: str, ctx: BaseContext) -> None:
    if start_method == "fork":
        pytest.skip("an executor refuses it")
    with ProcessPoolExecutor(1, mp_context=ctx, max_tasks_per_child=2) as executor:  # type: ignore[arg-type]
        pids = [executor.submit(os.getpid).result() for _ in range(4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]


WAIT = """\
import select, sys
import {first}, {second}
import multiprocessing.connection

queue = procession.SimpleQueue()
reader, writer = procession.Pipe(duplex=False)
other_reader, other_writer = multiprocessing.Pipe(duplex=False)
for end, send in ((queue._reader, queue.put), (reader, writer.send)):
    descriptor = end.fileno()
    for _ in range(3):
        send("message")
        assert multiprocessing.connection.wait([end, other_reader]) == [end]
        assert end.recv() == "message"
        # Whatever the descriptor says now, there is nothing.
        assert multiprocessing.connection.wait([end, other_reader], 0) == []
other_writer.send("message")
assert multiprocessing.connection.wait([reader, queue._reader, other_reader]) == [other_reader]
assert multiprocessing.connection.wait([other_reader], 0) == [other_reader]
print(multiprocessing.connection.wait.__wrapped__.__module__)
"""


@pytest.mark.parametrize("first", ["procession", "multiprocessing"])
def test_the_standard_package_waits_for_our_objects(first: str, run_program: Any) -> None:
    second = "multiprocessing" if first == "procession" else "procession"
    done = run_program(WAIT.replace("{first}", first).replace("{second}", second))
    assert (done.stdout, done.stderr) == ("multiprocessing.connection\n", "")


# Ran with both packages: what the other passes on with its own means has to arrive.
BOTH = """\
import os, sys
import {first}, {second}
from multiprocessing.connection import Pipe
from multiprocessing.reduction import DupFd, ForkingPickler


class Handle:
    def __init__(self, fd):
        self.fd = fd


def rebuild(duplicate):
    return Handle(duplicate.detach())


ForkingPickler.register(Handle, lambda handle: (rebuild, (DupFd(handle.fd),)))


def child(conn, queue):
    handle = conn.recv()
    os.write(handle.fd, b"from the pipe ")
    os.write(queue.get().fd, b"from the queue")
    conn.send("done")


if __name__ == "__main__":
    context = procession.get_context(sys.argv[1])
    reader, writer = os.pipe()
    ours, theirs = Pipe()
    queue = context.Queue()
    process = context.Process(target=child, args=(theirs, queue))
    process.start()
    theirs.close()
    ours.send(Handle(writer))
    queue.put(Handle(writer))
    print(ours.recv(), os.read(reader, 100).decode(), multiprocessing.__name__)
    process.join()
    print(process.exitcode)
"""


@pytest.mark.parametrize("first", ["procession", "multiprocessing"])
def test_what_the_standard_package_sends_arrives(
    first: str, start_method: str, tmp_path: Path
) -> None:
    second = "multiprocessing" if first == "procession" else "procession"
    source = BOTH.replace("{first}", first).replace("{second}", second)
    (tmp_path / "program.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "program.py", start_method],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    expected = "done from the pipe from the queue multiprocessing\n0\n"
    assert (done.stdout, done.stderr) == (expected, "")


# -------------------------------------------------------------------------- starting programs

PROGRAM = """\
import os, pickle, sys
import {package} as mp


class Point:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return type(self) is type(other) and self.x == other.x

    def moved(self, by):
        return Point(self.x + by)


def child(queue, point):
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    queue.put((point, point.moved(1), type(point).__module__, __name__))
    queue.put((main.__name__, file and os.path.basename(file), sys.argv[1:]))


if __name__ == "__main__":
    context = mp.get_context(sys.argv[1])
    queue = context.Queue()
    process = context.Process(target=child, args=(queue, Point(3)))
    process.start()
    process.join(60)
    print("exit", process.exitcode)
    if process.exitcode == 0:
        point, moved, *names = queue.get()
        print(point == Point(3), moved == Point(4), *names)
        print(*queue.get())
        with context.Pool(2) as pool:
            print(pool.map(Point(1).moved, [1, 2]) == [Point(2), Point(3)])
    else:
        # What is not of the main module works all the same.
        process = context.Process(target=queue.put, args=("put",))
        process.start()
        process.join(60)
        print("exit", process.exitcode)
        if process.exitcode == 0:
            print(queue.get())
            with context.Pool(2) as pool:
                print(pool.map(abs, [-1, -2]))
"""


def outcome(package: str, how: str, method: str, folder: Path) -> tuple[int, str]:
    folder.mkdir()
    source = PROGRAM.replace("{package}", package)
    program, standard_input = [str(folder / "program.py")], None
    (folder / "program.py").write_text(source)
    if how == "module":
        program = ["-m", "program"]
    elif how == "package":
        (folder / "package").mkdir()
        (folder / "package" / "__main__.py").write_text(source)
        program = ["-m", "package"]
    elif how == "command":
        program = ["-c", source]
    elif how == "stdin":
        program, standard_input = ["-"], source
    elif how == "zip":
        with zipfile.ZipFile(folder / "program.zip", "w") as archive:
            archive.writestr("__main__.py", source)
        program = ["program.zip"]
    done = subprocess.run(
        [sys.executable, *program, method],
        input=standard_input,
        stdin=subprocess.DEVNULL if standard_input is None else None,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("how", ["script", "module", "package", "command", "stdin", "zip"])
def test_a_program_may_be_started_in_any_way(how: str, start_method: str, tmp_path: Path) -> None:
    ours = outcome("procession", how, start_method, tmp_path / "ours")
    assert ours == outcome("multiprocessing", how, start_method, tmp_path / "plain")
    assert ours[1].startswith("exit ")

"""How programs end: the parent is killed, or Ctrl-C reaches all processes at once."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

Eventually = Callable[..., None]

#: Longer than anything here takes; who still runs then is ended.
LIMIT = 60


@contextmanager
def running(source: str, folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A program in a session (of the system) of its own, of which nothing is left afterwards."""
    path = folder / "program.py"
    path.write_text(textwrap.dedent(source))
    with subprocess.Popen(
        [sys.executable, str(path), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as program:
        try:
            yield program
        finally:
            for process in members(program.pid):
                process.kill()


def members(group: int) -> list[psutil.Process]:
    """The processes of a group that have not ended."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def said(program: subprocess.Popen[str], what: str) -> None:
    assert program.stdout is not None
    line = program.stdout.readline()
    if line.strip() != what:
        program.kill()
        pytest.fail(f"{line!r} instead of {what!r}: {program.communicate(timeout=LIMIT)[1]}")


# ------------------------------------------------------------------------------- the parent's death

FAMILY = """
    import os, sys, threading
    import procession
    from procession.shared_memory import SharedMemory

    def square(x):
        return x * x

    def wait(queue, ready):
        ready.release()
        queue.get()

    def hold(lock, ready):
        with lock:
            ready.release()
            threading.Event().wait()

    def middle(method, ready):
        ctx = procession.get_context(method)
        ctx.Process(target=wait, args=(ctx.Queue(), ready)).start()
        threading.Event().wait()

    if __name__ == "__main__":
        method = sys.argv[1]
        ctx = procession.get_context(method)
        ready, queue, lock = ctx.Semaphore(0), ctx.Queue(), ctx.Lock()
        block = SharedMemory(create=True, size=100_000)
        queue.put(bytes(50_000_000))
        ctx.Process(target=wait, args=(ctx.Queue(), ready)).start()
        ctx.Process(target=hold, args=(lock, ready)).start()
        ctx.Process(target=middle, args=(method, ready)).start()
        for _ in range(3):
            ready.acquire()
        pool = ctx.Pool(2)
        assert pool.map(square, range(100)) == [i * i for i in range(100)]
        running = pool.apply_async(wait, (ctx.Queue(), ready))
        ready.acquire()
        print("ready", flush=True)
        threading.Event().wait()
"""


def memory_of(pid: int) -> set[tuple[int, int]]:
    """What the memory objects are (device, inode) that a process of ours has open."""
    found = set()
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            link = f"/proc/{pid}/fd/{name}"
            try:
                if os.readlink(link).startswith("/memfd:procession"):
                    status = os.stat(link)
                    found.add((status.st_dev, status.st_ino))
            except (FileNotFoundError, ProcessLookupError):
                continue
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        pass
    return found


def everybodys_memory() -> set[tuple[int, int]]:
    return {memory for pid in psutil.pids() for memory in memory_of(pid)}


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_nothing_is_left_of_a_killed_program(
    start_method: str, sig: int, tmp_path: Path, eventually: Eventually
) -> None:
    """No process (the fork server, workers, grandchildren), no file, no descriptor."""
    files = set(os.listdir("/dev/shm"))
    with running(FAMILY, tmp_path, start_method) as program:
        said(program, "ready")
        family = members(program.pid)
        # The main one, four of ours, the workers; and what the start method and the block need.
        assert len(family) >= 7
        session = memory_of(program.pid)
        assert session
        assert session <= everybodys_memory()
        program.send_signal(sig)
        program.wait(LIMIT)
        eventually(lambda: not members(program.pid), "all have ended")
        # Also those that had gone to another group.
        eventually(lambda: all(has_ended(process) for process in family), "all have ended")
        eventually(lambda: not session & everybodys_memory(), "the session's memory is gone")
        eventually(lambda: not set(os.listdir("/dev/shm")) - files, "the named block is gone")


# ------------------------------------------------------------------------------------------- Ctrl-C

INTERRUPTED = """
    import sys, threading, time
    import procession

    def compute(x=0):
        while True:
            x += 1

    def sleep(ready, x=0):
        ready.release()
        # Not all at once: a signal just before the system call would not interrupt that.
        while True:
            time.sleep(0.1)

    def get(ready, queue):
        ready.release()
        queue.get()

    def parent(ready, method):
        ctx = procession.get_context(method)
        child = ctx.Process(target=sleep, args=(ready,))
        child.start()
        child.join()

    if __name__ == "__main__":
        method, what = sys.argv[1:]
        ctx = procession.get_context(method)
        ready = ctx.Semaphore(0)

        def children(target, *args):
            processes = [ctx.Process(target=target, args=(ready, *args)) for _ in range(3)]
            for process in processes:
                process.start()
            for _ in processes:
                ready.acquire()
            print("ready", flush=True)
            return processes

        if what == "get":
            children(get, ctx.Queue())
            ctx.Queue().get()
        elif what == "join":
            for process in children(sleep):
                process.join()
        elif what == "compute":
            children(sleep)
            compute()
        elif what == "grandchildren":
            children(parent, method)[0].join()
        elif what == "map":
            with ctx.Pool(2) as pool:
                pool.map(abs, range(10))
                print("ready", flush=True)
                pool.map(compute, range(100))
        elif what == "starting":
            ctx.Pool(2).map(compute, range(100))
        elif what == "imap":
            pool = ctx.Pool(2)
            items = pool.imap(compute, range(10))
            print("ready", flush=True)
            next(items)
"""


@pytest.mark.parametrize("what", ["get", "join", "compute", "grandchildren", "map", "imap"])
def test_one_traceback_of_an_interrupted_program(
    start_method: str, what: str, tmp_path: Path, eventually: Eventually
) -> None:
    """The signal goes to all processes, as that of the terminal does; only the main one tells."""
    with running(INTERRUPTED, tmp_path, start_method, what) as program:
        said(program, "ready")
        os.killpg(program.pid, signal.SIGINT)
        _, told = program.communicate(timeout=LIMIT)
        eventually(lambda: not members(program.pid), "all have ended")
    assert program.returncode == -signal.SIGINT
    assert told.count("Traceback") == 1, told
    assert told.splitlines()[-1] == "KeyboardInterrupt"
    assert "Process-" not in told


# Read by each interpreter before anything else; those that are started for children wait in it.
SLOW_TO_START = """
    import fcntl, os, sys

    folder = os.path.dirname(__file__)
    if "-c" in sys.orig_argv:
        open(os.path.join(folder, f"starts-{os.getpid()}"), "w").close()
        with open(os.path.join(folder, "wait")) as file:
            fcntl.flock(file, fcntl.LOCK_SH)
"""


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_children_that_are_just_starting_do_not_tell_of_an_interrupt(
    start_method: str, tmp_path: Path, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(SLOW_TO_START))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    lock = os.open(tmp_path / "wait", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with running(INTERRUPTED, tmp_path, start_method, "starting") as program:
        eventually(lambda: list(tmp_path.glob("starts-*")), "an interpreter starts")
        os.killpg(program.pid, signal.SIGINT)
        os.close(lock)
        _, told = program.communicate(timeout=LIMIT)
        eventually(lambda: not members(program.pid), "all have ended")
    assert program.returncode == -signal.SIGINT
    assert told.count("Traceback") == 1, told
    assert told.splitlines()[-1] == "KeyboardInterrupt"


def test_a_child_that_alone_is_interrupted_tells_of_it(start_method: str, tmp_path: Path) -> None:
    source = """
        import os, signal, sys
        import procession

        def wait(queue, told):
            told.put(os.getpid())
            queue.get()

        if __name__ == "__main__":
            ctx = procession.get_context(sys.argv[1])
            told = ctx.Queue()
            process = ctx.Process(target=wait, args=(ctx.Queue(), told))
            process.start()
            os.kill(told.get(), signal.SIGINT)
            process.join()
            print(process.exitcode, flush=True)
        """
    with running(source, tmp_path, start_method) as program:
        output, told = program.communicate(timeout=LIMIT)
    assert (output, program.returncode) == ("1\n", 0)
    assert "Traceback" in told
    assert told.splitlines()[-1] == "KeyboardInterrupt"

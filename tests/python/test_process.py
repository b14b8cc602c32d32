"""Process objects: life, signals, exit codes, and what a child finds."""

from __future__ import annotations

import os
import pickle
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import procession
from procession.context import BaseContext
from procession.process import AuthenticationString, BaseProcess


def ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(
    ("target", "args", "exitcode"),
    [
        (os.getpid, (), 0),
        (sys.exit, (), 0),
        (sys.exit, (7,), 7),
        (sys.exit, ("text",), 1),
        (int, ("not a number",), 1),
        (os._exit, (9,), 9),
        (signal.raise_signal, (signal.SIGKILL,), -signal.SIGKILL),
        (None, (), 0),
    ],
)
def test_exit_codes(
    ctx: BaseContext,
    target: Callable[..., object] | None,
    args: tuple[Any, ...],
    exitcode: int,
) -> None:
    process = ctx.Process(target=target, args=args)
    process.start()
    process.join()
    assert process.exitcode == exitcode


def test_life(ctx: BaseContext) -> None:
    process = ctx.Process(target=time.sleep, args=(1000,), name="sleeper")
    assert process.exitcode is None
    assert process.pid is None
    assert not process.is_alive()
    assert repr(process).endswith(f"name='sleeper' parent={os.getpid()} initial>")
    with pytest.raises(ValueError, match="process not started"):
        _ = process.sentinel

    process.start()
    assert process.is_alive()
    assert process.ident == process.pid != os.getpid()
    assert process in procession.active_children()
    assert process.join(timeout=0.01) is None
    assert process.exitcode is None
    assert f"pid={process.pid} parent={os.getpid()} started>" in repr(process)
    with pytest.raises(ValueError, match="Cannot close a process while it is still running"):
        process.close()
    with pytest.raises(AssertionError, match="process has already started"):
        process.daemon = True
    with pytest.raises(AssertionError, match="cannot start a process twice"):
        process.start()

    process.terminate()
    assert select.select([process.sentinel], [], [], 20)[0] == [process.sentinel]
    process.join()
    assert not process.is_alive()
    assert process.exitcode == -signal.SIGTERM
    assert process not in procession.active_children()
    assert repr(process).endswith("stopped exitcode=-SIGTERM>")
    process.terminate()

    process.close()
    process.close()
    assert repr(process).endswith("closed>")
    for use in (process.is_alive, process.join, process.terminate, process.start):
        with pytest.raises(ValueError, match="process object is closed"):
            use()
    with pytest.raises(ValueError, match="process object is closed"):
        _ = process.sentinel


@pytest.mark.parametrize(
    ("method", "exitcode"),
    [("kill", -signal.SIGKILL), ("terminate", -signal.SIGTERM), ("interrupt", 1)],
)
def test_signals(
    ctx: BaseContext, eventually: Callable[..., None], method: str, exitcode: int
) -> None:
    process = ctx.Process(target=time.sleep, args=(1000,))
    process.start()
    assert process.pid is not None
    # SIGINT means KeyboardInterrupt only once the interpreter is up and sleeps.
    kernel_stack = Path(f"/proc/{process.pid}/syscall")
    eventually(lambda: kernel_stack.read_text().startswith("230 "), "the child sleeps")
    getattr(process, method)()
    process.join()
    assert process.exitcode == exitcode


def test_signals_before_start() -> None:
    with pytest.raises(AttributeError):
        procession.Process().terminate()
    with pytest.raises(AssertionError, match="can only join a started process"):
        procession.Process().join()


def test_many_at_once(ctx: BaseContext) -> None:
    processes = [ctx.Process(target=sys.exit, args=(number,)) for number in range(30)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == list(range(30))


def test_names_and_identities() -> None:
    class Special(procession.Process):
        pass

    assert Special().name.startswith("Special-")
    process = procession.Process(name="given")
    assert process.name == "given"
    process.name = "changed"
    assert process.name == "changed"
    with pytest.raises(AssertionError, match="name must be a string"):
        process.name = 5  # type: ignore[assignment]
    with pytest.raises(AssertionError, match="group argument must be None"):
        procession.Process(group=1)  # type: ignore[arg-type]


def test_authkey_is_inherited_and_secret() -> None:
    authkey = procession.current_process().authkey
    assert procession.Process().authkey == authkey
    with pytest.raises(TypeError, match="disallowed for security reasons"):
        pickle.dumps(AuthenticationString(b"key"))


def test_main_process() -> None:
    main = procession.current_process()
    assert main.name == "MainProcess"
    assert main.is_alive()
    assert main.pid == os.getpid()
    assert main.exitcode is None
    assert not main.daemon
    assert procession.parent_process() is None


@pytest.mark.parametrize(
    ("end", "exitcode"),
    [(sys.exit, 3), (os._exit, 255)],
    ids=["said how it ends", "said nothing"],
)
def test_reaped_by_somebody_else(end: Callable[[int], None], exitcode: int) -> None:
    process = procession.get_context("fork").Process(target=end, args=(3,))
    process.start()
    assert process.pid is not None
    os.waitpid(process.pid, 0)
    process.join()
    assert not process.is_alive()
    assert process.exitcode == exitcode


def test_join_from_threads_and_handlers() -> None:
    """All who ask get the exit code, also a signal handler in the middle of asking."""
    process = procession.get_context("fork").Process(target=time.sleep, args=(0.3,))
    process.start()
    asked: list[int | None] = []
    codes: list[int | None] = []

    def wait() -> None:
        process.join()
        codes.append(process.exitcode)

    threads = [threading.Thread(target=wait) for _ in range(4)]
    old = signal.signal(signal.SIGALRM, lambda *_: asked.append(process.exitcode))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        for thread in threads:
            thread.start()
        process.join()
        for thread in threads:
            thread.join()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert asked
    assert set(asked) <= {None, 0}
    assert codes == [0, 0, 0, 0]


def test_target_is_let_go() -> None:
    """After the start, nothing but the child holds the target and its arguments."""

    class Argument:
        alive = 0

        def __init__(self) -> None:
            Argument.alive += 1

        def __del__(self) -> None:
            Argument.alive -= 1

    process = procession.get_context("fork").Process(target=id, args=(Argument(),))
    process.start()
    process.join()
    assert Argument.alive == 0


@pytest.mark.usefixtures("no_leaks")
def test_nothing_is_left(ctx: BaseContext) -> None:
    for _ in range(5):
        process = ctx.Process(target=os.getpid)
        process.start()
        process.join()
        process.close()


def test_descriptors_of_children_do_not_grow(start_method: str, run_program: Any) -> None:
    source = """
        import os, sys, time
        import procession

        def count():
            sys.exit(len(os.listdir("/proc/self/fd")))

        if __name__ == "__main__":
            ctx = procession.get_context(sys.argv[1])
            counts = []
            idle = []
            for _ in range(3):
                process = ctx.Process(target=count)
                process.start()
                process.join()
                counts.append(process.exitcode)
                more = [ctx.Process(target=time.sleep, args=(1000,)) for _ in range(5)]
                for process in more:
                    process.start()
                idle += more
            for process in idle:
                process.kill()
            print(*counts)
        """
    result = run_program(source, start_method)
    assert result.stderr == ""
    first, second, third = result.stdout.split()
    assert first == second == third


def test_what_a_child_finds(start_method: str, run_program: Any) -> None:
    source = """
        import os, sys
        import procession

        def report(config):
            me, parent = procession.current_process(), procession.parent_process()
            assert me.name == "child" and me.pid == os.getpid() and me.is_alive()
            assert parent.pid == config["pid"] and parent.name == "MainProcess"
            assert parent.is_alive()
            assert procession.active_children() == []
            assert me.authkey == config["authkey"]
            assert procession.get_start_method() == config["method"]
            assert sys.stdin.read() == ""
            assert sys.argv[1] == config["method"]
            print("found", flush=True)

        if __name__ == "__main__":
            method = sys.argv[1]
            main = procession.current_process()
            config = {"pid": os.getpid(), "authkey": bytes(main.authkey), "method": method}
            process = procession.get_context(method).Process(
                target=report, args=(config,), name="child"
            )
            process.start()
            process.join()
            print(process.exitcode)
        """
    result = run_program(source, start_method)
    assert result.stderr == ""
    assert result.stdout == "found\n0\n"


def test_end_of_a_child(start_method: str, run_program: Any) -> None:
    """A child waits for its threads, runs its own exit functions and flushes its output."""
    source = """
        import atexit, sys, threading, time
        import procession

        def child():
            atexit.register(print, "exit function of the child")
            threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
            print("target", end=" ")

        if __name__ == "__main__":
            atexit.register(print, "exit function of the parent")
            process = procession.get_context(sys.argv[1]).Process(target=child)
            process.start()
            process.join()
            print(process.exitcode)
        """
    result = run_program(source, start_method)
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "target thread",
        "exit function of the child",
        "0",
        "exit function of the parent",
    ]


def test_exit_of_the_parent(start_method: str, run_program: Any) -> None:
    """At exit daemons are ended and the other children are waited for."""
    source = """
        import sys, time
        import procession

        def wait(seconds, text):
            time.sleep(seconds)
            print(text, flush=True)

        if __name__ == "__main__":
            ctx = procession.get_context(sys.argv[1])
            ctx.Process(target=wait, args=(1000, "daemon"), daemon=True).start()
            ctx.Process(target=wait, args=(0.3, "child")).start()
            print("main", flush=True)
        """
    result = run_program(source, start_method)
    assert result.stderr == ""
    assert result.stdout.splitlines() == ["main", "child"]


def test_daemons_have_no_children(run_program: Any) -> None:
    source = """
        import procession

        def child():
            procession.Process(target=print).start()

        if __name__ == "__main__":
            process = procession.Process(target=child, daemon=True)
            process.start()
            process.join()
        """
    result = run_program(source)
    assert "daemonic processes are not allowed to have children" in result.stderr


def test_errors_are_told(start_method: str, run_program: Any) -> None:
    source = """
        import sys
        import procession

        def fail():
            raise LookupError("what happened")

        if __name__ == "__main__":
            ctx = procession.get_context(sys.argv[1])
            for target, args in ((fail, ()), (sys.exit, ("a reason",))):
                process = ctx.Process(target=target, args=args, name="child")
                process.start()
                process.join()
                print(process.exitcode)
        """
    result = run_program(source, start_method)
    assert result.stdout == "1\n1\n"
    lines = result.stderr.splitlines()
    assert lines[:2] == ["Process child:", "Traceback (most recent call last):"]
    assert '    raise LookupError("what happened")' in lines
    assert lines[-2:] == ["LookupError: what happened", "a reason"]


@pytest.mark.parametrize(("role", "told"), [("process", True), ("worker", False)])
def test_interrupts_are_told_unless_by_a_worker(role: str, told: bool, run_program: Any) -> None:
    source = f"""
        import procession, signal

        if __name__ == "__main__":
            procession.set_start_method("fork")
            process = procession.Process(
                target=signal.raise_signal, args=(signal.SIGINT,), name="child"
            )
            process._role = {role!r}
            process.start()
            process.join()
            print(process.exitcode)
        """
    result = run_program(source)
    assert result.stdout == "1\n"
    assert ("KeyboardInterrupt" in result.stderr) is told


FAMILY = """
import os, signal, sys, time
import procession

def tell(name):
    with open(os.path.join(sys.argv[2], name + ".part"), "w") as file:
        file.write(str(os.getpid()))
    os.rename(file.name, file.name.removesuffix(".part"))

def grandchild():
    tell("grandchild")
    time.sleep(1000)

def child():
    tell("child")
    process = procession.get_context(sys.argv[1]).Process(target=grandchild)
    process.start()
    process.join()

if __name__ == "__main__":
    procession.get_context(sys.argv[1]).Process(target=child).start()
    signal.pause()
"""


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
def test_children_end_with_their_parent(
    start_method: str, sig: int, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    """However a program dies, its children and grandchildren do not stay behind."""
    program = tmp_path / "program.py"
    program.write_text(FAMILY)
    main = psutil.Popen([sys.executable, str(program), start_method, str(tmp_path)])
    names = [tmp_path / "child", tmp_path / "grandchild"]
    try:
        eventually(lambda: all(name.exists() for name in names), "the family is there")
        family = [int(name.read_text()) for name in names]
        family += [process.pid for process in main.children(recursive=True)]
        assert not any(ended(pid) for pid in family)
    finally:
        main.send_signal(sig)
        main.wait()
    eventually(lambda: all(ended(pid) for pid in family), f"all of {family} have ended")


def test_parent_is_seen_to_die(start_method: str, run_program: Any, tmp_path: Path) -> None:
    source = """
        import os, signal, sys, time
        import procession

        def grandchild(path):
            parent = procession.parent_process()
            before = parent.is_alive()
            open(path + ".ready", "w").close()
            parent.join(20)
            with open(path + ".part", "w") as file:
                print(before, parent.is_alive(), file=file)
            os.rename(path + ".part", path)

        def child(method, path):
            procession.get_context(method).Process(target=grandchild, args=(path,)).start()
            time.sleep(1000)

        if __name__ == "__main__":
            method, path = sys.argv[1:3]
            process = procession.get_context(method).Process(target=child, args=(method, path))
            process.start()
            deadline = time.monotonic() + 20
            while not os.path.exists(path + ".ready") and time.monotonic() < deadline:
                time.sleep(0.01)
            process.kill()
            while not os.path.exists(path) and time.monotonic() < deadline:
                time.sleep(0.01)
            print(open(path).read().strip())
        """
    result = run_program(source, start_method, str(tmp_path / "seen"))
    assert result.stdout == "True False\n", result.stderr


def test_base_process_cannot_start() -> None:
    with pytest.raises(NotImplementedError):
        BaseProcess().start()

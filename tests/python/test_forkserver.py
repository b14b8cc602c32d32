"""The fork server: what it preloads, whom it serves, and how it ends."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import procession
from procession import forkserver, spawn

ctx = procession.get_context("forkserver")


@pytest.fixture
def server() -> Iterator[forkserver.ForkServer]:
    """The server of this process, fresh, and ended after the test."""
    fork_server = forkserver._forkserver
    fork_server._stop()
    modules = fork_server._preload_modules
    yield fork_server
    fork_server._stop()
    fork_server.set_forkserver_preload(modules)


def run(target: Callable[..., object], *args: object) -> int | None:
    process = ctx.Process(target=target, args=args)
    process.start()
    process.join()
    code = process.exitcode
    process.close()
    return code


def server_pid(server: forkserver.ForkServer) -> int:
    server.ensure_running()
    assert server._forkserver_pid is not None
    return server._forkserver_pid


def test_children_are_the_servers(server: forkserver.ForkServer) -> None:
    process = ctx.Process(target=time.sleep, args=(1000,))
    process.start()
    try:
        assert process.pid is not None
        assert psutil.Process(process.pid).ppid() == server_pid(server)
        assert psutil.Process(process.pid).num_threads() == 1
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL


def spare_of(server: forkserver.ForkServer, eventually: Callable[..., None]) -> int:
    """The pid of the child that the server has forked ahead."""
    found: list[psutil.Process] = []

    def look() -> bool:
        found[:] = psutil.Process(server_pid(server)).children()
        return len(found) == 1 and found[0].status() == psutil.STATUS_SLEEPING

    eventually(look, "there is a spare child")
    return found[0].pid


def test_a_child_that_was_forked_ahead_is_used(
    server: forkserver.ForkServer, eventually: Callable[..., None]
) -> None:
    assert run(sys.exit, 2) == 2
    spare = spare_of(server, eventually)
    # As all are, and no member of the program until it is asked for.
    os.kill(spare, signal.SIGINT)
    told = ctx.SimpleQueue()
    assert run(told.put, "x" * 100_000) == 0
    assert told.get() == "x" * 100_000
    assert spare_of(server, eventually) != spare
    process = ctx.Process(target=time.sleep, args=(1000,))
    spare = spare_of(server, eventually)
    process.start()
    assert process.pid == spare
    process.terminate()
    process.join()
    assert process.exitcode == -signal.SIGTERM


def test_a_child_that_was_forked_ahead_dies(
    server: forkserver.ForkServer, eventually: Callable[..., None]
) -> None:
    assert run(sys.exit, 2) == 2
    spare = spare_of(server, eventually)
    os.kill(spare, signal.SIGSTOP)
    process = ctx.Process(target=sys.exit, args=(3,))
    process.start()
    assert process.pid == spare
    # In between: it has the request, and is no member of the program yet.
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    spare = spare_of(server, eventually)
    os.kill(spare, signal.SIGKILL)
    eventually(lambda: not psutil.pid_exists(spare), "the server has noticed")
    assert run(sys.exit, 4) == 4
    spare = spare_of(server, eventually)
    os.kill(server_pid(server), signal.SIGKILL)
    eventually(lambda: not psutil.pid_exists(spare), "it has ended with its server")


def test_server_survives_interrupts(server: forkserver.ForkServer) -> None:
    pid = server_pid(server)
    assert run(os.getpid) == 0
    os.kill(pid, signal.SIGINT)
    assert run(sys.exit, 3) == 3
    assert server_pid(server) == pid


def test_dead_server_is_replaced(server: forkserver.ForkServer) -> None:
    first = server_pid(server)
    orphan = ctx.Process(target=time.sleep, args=(1000,))
    orphan.start()
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    assert run(sys.exit, 4) == 4
    assert server_pid(server) != first
    # Its child ends with it, and nobody has learned how.
    orphan.join()
    assert orphan.exitcode == 255


@pytest.mark.usefixtures("no_leaks")
def test_stop_and_start_again(server: forkserver.ForkServer) -> None:
    pid = server_pid(server)
    server._stop()
    assert not psutil.pid_exists(pid)
    assert not server.is_running()
    server._stop()
    assert run(os.getpid) == 0
    server._stop()


def test_refused_requests_do_no_harm(server: forkserver.ForkServer) -> None:
    pid = server_pid(server)
    address = server._forkserver_address
    assert address is not None
    for message in (b"", b"x", bytes(5000), forkserver.REQUEST.pack(1, 0, 3)):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.connect(address)
            if message:
                client.send(message)
                assert client.recv(100) == b""
    assert run(sys.exit, 5) == 5
    assert server_pid(server) == pid


def test_clients_that_say_nothing_keep_nobody_waiting(server: forkserver.ForkServer) -> None:
    server.ensure_running()
    assert server._forkserver_address is not None
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.connect(server._forkserver_address)
        assert run(sys.exit, 6) == 6


def test_descriptors_are_handed_over(server: forkserver.ForkServer) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = ctx.Process(target=socket.socket.sendall, args=(theirs, b"from the child"))
        process.start()
        process.join()
        assert process.exitcode == 0
        assert ours.recv(100) == b"from the child"


def test_socket_timeouts_do_not_matter(server: forkserver.ForkServer) -> None:
    """The server takes longer to start than this program wants to wait for its sockets."""
    socket.setdefaulttimeout(1e-6)
    try:
        assert run(sys.exit, 9) == 9
    finally:
        socket.setdefaulttimeout(None)


def test_too_many_descriptors(server: forkserver.ForkServer) -> None:
    token = 0
    with pytest.raises(ValueError, match="too many fds"):
        server.request(token, forkserver.INLINE, b"", [0] * 300)


def test_wrong_preload() -> None:
    with pytest.raises(TypeError, match="module_names must be a list of strings"):
        procession.set_forkserver_preload([1, 2, 3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="on_error must be one of"):
        procession.set_forkserver_preload(["os"], on_error="shrug")


@pytest.mark.usefixtures("no_leaks")
def test_child_that_reads_from_a_pipe(server: forkserver.ForkServer) -> None:
    """The interface of the standard library's fork server."""
    server.ensure_running()
    status_r, data_w = forkserver.connect_to_new_process([])
    process = ctx.Process(target=sys.exit, args=(8,))
    process._config.clear()
    with open(data_w, "wb") as data, open(status_r, "rb", buffering=0) as status:
        pickle.dump(spawn.get_preparation_data("by hand") | {"authkey": b"key"}, data)
        pickle.dump(process, data)
        data.flush()
        pid = forkserver.read_signed(status.fileno())
        assert psutil.Process(pid).ppid() == server_pid(server)
        assert forkserver.read_signed(status.fileno()) == 8
        with pytest.raises(EOFError, match="unexpected EOF"):
            forkserver.read_signed(status.fileno())


def test_main_module_is_imported_once(run_program: Any) -> None:
    source = """
        import os, sys
        import procession
        print("imported", os.getpid() == int(os.environ.setdefault("MAIN", str(os.getpid()))))

        def child(server):
            assert __name__ == "__mp_main__"
            assert os.getppid() == server
            assert "decimal" in sys.modules
            assert sys.argv[1:] == ["argument"]

        if __name__ == "__main__":
            from procession import forkserver
            procession.set_start_method("forkserver")
            procession.set_forkserver_preload(["__main__", "decimal", "no.such.module"])
            forkserver.ensure_running()
            for _ in range(3):
                process = procession.Process(
                    target=child, args=(forkserver._forkserver._forkserver_pid,)
                )
                process.start()
                process.join()
                assert process.exitcode == 0
        """
    result = run_program(source, "argument")
    assert result.stderr == ""
    assert sorted(result.stdout.splitlines()) == ["imported False", "imported True"]


def test_broken_main_is_told_by_the_child(run_program: Any) -> None:
    source = """
        import procession
        if __name__ != "__main__":
            raise LookupError("only when imported")
        procession.set_start_method("forkserver")
        process = procession.Process(target=print)
        process.start()
        process.join()
        print(process.exitcode)
        """
    result = run_program(source)
    assert result.stdout == "1\n"
    assert result.stderr.count("LookupError: only when imported") == 1


@pytest.mark.parametrize(("on_error", "told"), [("warn", 1), ("ignore", 0)])
def test_missing_modules(on_error: str, told: int, run_program: Any) -> None:
    source = f"""
        import procession
        if __name__ == "__main__":
            procession.set_start_method("forkserver")
            procession.set_forkserver_preload(["no_such_module"], on_error={on_error!r})
            process = procession.Process(target=int)
            process.start()
            process.join()
            print(process.exitcode)
        """
    result = run_program(source)
    assert result.stdout == "0\n"
    assert result.stderr.count("fork server cannot preload 'no_such_module'") == told
    assert told or result.stderr == ""


def test_missing_module_ends_the_server_if_asked_to(run_program: Any) -> None:
    source = """
        import procession
        if __name__ == "__main__":
            procession.set_start_method("forkserver")
            procession.set_forkserver_preload(["no_such_module"], on_error="fail")
            try:
                procession.Process(target=int).start()
            except (RuntimeError, OSError) as error:
                print("failed")
        """
    result = run_program(source)
    assert result.stdout == "failed\n"
    assert "ModuleNotFoundError: No module named 'no_such_module'" in result.stderr


def test_descendants_share_the_server(run_program: Any) -> None:
    source = """
        import os
        import procession

        def grandchild(server):
            assert os.getppid() == server
            assert procession.parent_process().pid != server

        def child():
            process = procession.Process(target=grandchild, args=(os.getppid(),))
            process.start()
            process.join()
            print(process.exitcode, flush=True)

        if __name__ == "__main__":
            procession.set_start_method("forkserver")
            process = procession.Process(target=child)
            process.start()
            process.join()
        """
    result = run_program(source)
    assert (result.stdout, result.stderr) == ("0\n", "")


ORPHANS = """
import os, sys, time
import procession

def stay(name):
    path = os.path.join(sys.argv[1], name)
    with open(path + ".part", "w") as file:
        file.write(str(os.getpid()))
    os.rename(path + ".part", path)
    time.sleep(1000)

def middle():
    procession.Process(target=stay, args=("grandchild",)).start()
    stay("middle")

if __name__ == "__main__":
    procession.set_start_method("forkserver")
    procession.Process(target=stay, args=("other",)).start()
    procession.Process(target=middle).start()
    time.sleep(1000)
"""


def test_children_of_a_dead_client_end(tmp_path: Path, eventually: Callable[..., None]) -> None:
    """The server tells the children of a process that died, and only those."""
    program = tmp_path / "program.py"
    program.write_text(ORPHANS)
    main = psutil.Popen([sys.executable, str(program), str(tmp_path)])
    try:
        names = [tmp_path / name for name in ("other", "middle", "grandchild")]
        eventually(lambda: all(name.exists() for name in names), "all are there")
        other, middle, grandchild = (psutil.Process(int(name.read_text())) for name in names)
        fork_server = other.parent()
        assert fork_server is not None
        assert middle.parent() == grandchild.parent() == fork_server != main
        middle.kill()
        eventually(lambda: not grandchild.is_running(), "the orphan ends")
        assert other.is_running()
        assert fork_server.is_running()
    finally:
        main.kill()
        main.wait()
    eventually(lambda: not other.is_running() and not fork_server.is_running(), "all end")


def test_server_ends_with_its_program(run_program: Any, eventually: Callable[..., None]) -> None:
    source = """
        import procession
        from procession import forkserver
        if __name__ == "__main__":
            forkserver.ensure_running()
            print(forkserver._forkserver._forkserver_pid)
        """
    result = run_program(source)
    assert result.stderr == ""
    eventually(lambda: not psutil.pid_exists(int(result.stdout)), "the server ends")


def test_server_works_after_fork(server: forkserver.ForkServer) -> None:
    """A forked child uses its parent's server; it is not its own to reap or stop."""
    pid = server_pid(server)

    def child() -> None:
        forkserver._forkserver._stop()
        assert server_pid(forkserver._forkserver) == pid
        sys.exit(run(sys.exit, 7))

    process = procession.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 7
    assert server_pid(server) == pid

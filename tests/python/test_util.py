"""Finalizers, after-fork hooks, logging and the other helpers."""

from __future__ import annotations

import gc
import io
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import procession
from procession import util

fork = procession.get_context("fork")


class Thing:
    """Something that can be referred to weakly."""


@pytest.fixture
def registry() -> Iterator[None]:
    """Only the finalizers of the test."""
    others = dict(util._finalizer_registry)
    util._finalizer_registry.clear()
    yield
    util._finalizer_registry.clear()
    util._finalizer_registry.update(others)


@pytest.mark.usefixtures("registry")
def test_finalizer_runs_once_when_its_object_goes() -> None:
    calls: list[Any] = []
    thing = Thing()
    finalizer = util.Finalize(thing, calls.append, args=(1,))
    assert finalizer.still_active()
    assert "callback=append, args=(1,)>" in repr(finalizer)
    del thing
    gc.collect()
    assert calls == [1]
    assert not finalizer.still_active()
    assert repr(finalizer) == "<Finalize object, dead>"
    assert finalizer() is None
    assert calls == [1]


@pytest.mark.usefixtures("registry")
def test_finalizer_called_or_cancelled() -> None:
    thing = Thing()
    finalizer = util.Finalize(thing, dict, kwargs={"a": 1})
    assert finalizer() == {"a": 1}
    calls: list[Any] = []
    other = util.Finalize(thing, calls.append, args=(2,), exitpriority=1)
    other.cancel()
    other.cancel()
    assert other() is None
    del thing
    util._run_finalizers()
    assert calls == []


@pytest.mark.usefixtures("registry")
def test_order_at_exit() -> None:
    calls: list[str] = []
    things = [Thing() for _ in range(2)]
    util.Finalize(things[0], calls.append, args=("never",))
    util.Finalize(things[1], calls.append, args=("b",), exitpriority=0)
    util.Finalize(None, calls.append, args=("a",), exitpriority=0)
    util.Finalize(None, calls.append, args=("high",), exitpriority=10)
    util.Finalize(None, calls.append, args=("low",), exitpriority=-1)
    util._run_finalizers(0)
    assert calls == ["high", "a", "b"]
    util._run_finalizers()
    assert calls == ["high", "a", "b", "low"]
    assert not util._finalizer_registry


@pytest.mark.usefixtures("registry")
def test_failing_finalizer_keeps_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[int] = []
    util.Finalize(None, int, args=("x",), exitpriority=2)
    util.Finalize(None, calls.append, args=(1,), exitpriority=1)
    util._run_finalizers()
    assert calls == [1]
    assert "ValueError: invalid literal" in capsys.readouterr().err


def test_wrong_finalizers() -> None:
    with pytest.raises(ValueError, match="Without object, exitpriority cannot be None"):
        util.Finalize(None, print)
    with pytest.raises(TypeError, match="Exitpriority \\('1'\\) must be None or int"):
        util.Finalize(None, print, exitpriority="1")  # type: ignore[arg-type]


@pytest.mark.usefixtures("registry")
def test_inherited_finalizer_does_nothing() -> None:
    calls: list[int] = []
    finalizer = util.Finalize(None, calls.append, args=(1,), exitpriority=1)

    def child() -> None:
        finalizer()
        sys.exit(len(calls))

    process = fork.Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0
    finalizer()
    assert calls == [1]


def test_after_fork_hooks_run_in_their_order() -> None:
    order: list[str] = []
    first, second, gone = Thing(), Thing(), Thing()
    util.register_after_fork(first, lambda _: order.append("first"))
    util.register_after_fork(gone, lambda _: order.append("gone"))
    util.register_after_fork(second, lambda thing: order.append("second"))
    del gone
    gc.collect()
    process = fork.Process(target=lambda: sys.exit(order != ["first", "second"]))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert order == []


def test_locks_are_free_in_the_child() -> None:
    lock = util.ForkAwareThreadLock()
    local = util.ForkAwareLocal()
    local.value = 1

    def child() -> None:
        sys.exit(not lock.acquire(timeout=10) or hasattr(local, "value"))

    with lock:
        assert not lock.acquire(blocking=False)
        process = fork.Process(target=child)
        process.start()
        process.join()
    assert process.exitcode == 0
    assert local.value == 1


def test_temp_dir_goes_with_the_process(start_method: str, run_program: Any) -> None:
    source = """
        import os, sys
        import procession
        from procession import util

        def child(folder):
            assert util.get_temp_dir() == folder

        if __name__ == "__main__":
            folder = util.get_temp_dir()
            assert os.path.isdir(folder) and os.path.basename(folder).startswith("pymp-")
            process = procession.get_context(sys.argv[1]).Process(target=child, args=(folder,))
            process.start()
            process.join()
            assert process.exitcode == 0 or start_method != "fork"
            print(folder)
        """.replace("start_method", repr(start_method))
    result = run_program(source, start_method)
    folder = result.stdout.strip()
    assert folder
    assert not os.path.exists(folder)


def test_records_name_their_callers_file() -> None:
    logger = procession.get_logger()
    assert logger is logging.getLogger("multiprocessing")
    assert not logger.propagate
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelno)d %(filename)s %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(util.SUBDEBUG)
    try:
        for log in (util.sub_debug, util.debug, util.info, util.sub_warning, util.warn):
            log("%s", "text")
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
    expected = [f"{number} {os.path.basename(__file__)} text" for number in (5, 10, 20, 25, 30)]
    assert stream.getvalue().splitlines() == expected


def test_log_of_a_child(start_method: str, run_program: Any) -> None:
    source = """
        import logging, sys
        import procession

        if __name__ == "__main__":
            procession.log_to_stderr(logging.INFO)
            process = procession.get_context(sys.argv[1]).Process(target=int, name="child")
            process.start()
            process.join()
        """
    result = run_program(source, start_method)
    lines = [line for line in result.stderr.splitlines() if "/child]" in line]
    assert "[INFO/child] child process calling self.run()" in lines
    assert "[INFO/child] process exiting with exitcode 0" in lines
    assert "[INFO/child] process shutting down" in lines
    assert "[INFO/MainProcess] process shutting down" in result.stderr.splitlines()


def test_abstract_addresses() -> None:
    assert util.abstract_sockets_supported
    assert util.is_abstract_socket_namespace("\0name")
    assert util.is_abstract_socket_namespace(b"\0name")
    assert not util.is_abstract_socket_namespace("/tmp/name")
    assert not util.is_abstract_socket_namespace(b"")
    with pytest.raises(TypeError, match="address type of 5 unrecognized"):
        util.is_abstract_socket_namespace(5)  # type: ignore[arg-type]


def test_closing_descriptors() -> None:
    reader, writer = os.pipe()
    extra = os.dup(reader)

    def child() -> None:
        util.close_all_fds_except([0, 1, 2, writer])
        still_open = [fd for fd in (reader, writer, extra) if _is_open(fd)]
        os._exit(still_open != [writer])

    process = fork.Process(target=child)
    process.start()
    process.join()
    util.close_fds(reader, writer, extra)
    assert process.exitcode == 0
    assert not _is_open(extra)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_programs_inherit_only_what_is_passed() -> None:
    reader, writer = os.pipe()
    code = "import os, sys; os.write(int(sys.argv[1]), b'%d' % len(os.listdir('/proc/self/fd')))"
    args = [sys.executable, "-c", code, str(writer)]
    pid = util.spawnv_passfds(os.fsencode(sys.executable), args, [0, 1, 2, writer])
    os.close(writer)
    with open(reader, "rb") as answer:
        # The four, and the one that lists the folder.
        assert answer.read() == b"5"
    assert os.waitpid(pid, 0)[1] == 0


def test_exit_state() -> None:
    assert not util.is_exiting()

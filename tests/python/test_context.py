"""Contexts, the package's own names, and living beside the standard package."""

from __future__ import annotations

import inspect
import os
from typing import Any

import pytest

import procession
from procession import context, process, reduction
from procession.context import BaseContext


@pytest.fixture(autouse=True)
def restore_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context._default_context, "_actual_context", None)


def test_names_begin_with_the_method(ctx: BaseContext, start_method: str) -> None:
    for name in (type(ctx).__name__, ctx.Process.__name__):
        assert name.lower().startswith(start_method)
    assert ctx.get_start_method() == start_method
    assert ctx.get_context() is ctx
    assert procession.get_context(start_method) is ctx
    assert ctx.Process._start_method == start_method
    with pytest.raises(ValueError, match="cannot set start method of concrete context"):
        ctx.set_start_method("fork")


def test_start_method_is_chosen_once() -> None:
    assert procession.get_start_method(allow_none=True) is None
    procession.set_start_method("spawn")
    assert procession.get_start_method() == "spawn"
    with pytest.raises(RuntimeError, match="context has already been set"):
        procession.set_start_method("fork")
    procession.set_start_method("fork", force=True)
    assert procession.get_start_method() == "fork"
    procession.set_start_method(None, force=True)
    assert procession.get_start_method(allow_none=True) is None
    assert procession.get_start_method() == procession.get_all_start_methods()[0]
    with pytest.raises(RuntimeError, match="context has already been set"):
        procession.set_start_method("spawn")


def test_unknown_method() -> None:
    with pytest.raises(ValueError, match="cannot find context for 'thread'"):
        procession.get_context("thread")
    assert sorted(procession.get_all_start_methods()) == ["fork", "forkserver", "spawn"]


def test_default_method_is_that_of_the_standard_library(run_program: Any) -> None:
    source = """
        import multiprocessing, procession
        assert procession.get_start_method() == multiprocessing.get_start_method()
        print("same")
        """
    assert run_program(source).stdout == "same\n"


def test_module_has_the_default_contexts_names() -> None:
    default = context._default_context
    public = {name for name in dir(default) if not name.startswith("_")}
    assert set(procession.__all__) == public
    for name in public - {"reducer"}:
        assert getattr(procession, name) == getattr(default, name)
    assert procession.cpu_count() == os.cpu_count()


def test_signature_of_process() -> None:
    names = list(inspect.signature(procession.Process).parameters)
    assert names == ["group", "target", "name", "args", "kwargs", "daemon"]


def test_reducer_can_be_replaced() -> None:
    assert procession.get_context("spawn").reducer is reduction
    other: Any = object()
    try:
        context._default_context.reducer = other
        assert procession.get_context("spawn").reducer is other
    finally:
        context._default_context.reducer = reduction


def test_sharing_outside_of_a_start_is_refused() -> None:
    with pytest.raises(
        RuntimeError,
        match="dict objects should only be shared between processes through inheritance",
    ):
        context.assert_spawning({})
    context.set_spawning_popen(object())  # type: ignore[arg-type]
    try:
        context.assert_spawning({})
    finally:
        context.set_spawning_popen(None)


def test_exceptions() -> None:
    for name in ("BufferTooShort", "TimeoutError", "AuthenticationError"):
        assert issubclass(getattr(procession, name), procession.ProcessError)
    assert not issubclass(procession.TimeoutError, TimeoutError)


LINKED = """
import multiprocessing.context, multiprocessing.process
for name in ("ProcessError", "BufferTooShort", "TimeoutError", "AuthenticationError"):
    theirs, ours = getattr(multiprocessing, name), getattr(procession, name)
    assert ours is not theirs
    try:
        raise ours("text")
    except theirs as error:
        assert type(error) is ours and str(error) == "text"
for method in ("fork", "spawn", "forkserver"):
    ctx = procession.get_context(method)
    assert isinstance(ctx, multiprocessing.context.BaseContext)
    assert not isinstance(multiprocessing.get_context(method), procession.context.BaseContext)
    assert isinstance(ctx.Process(), multiprocessing.process.BaseProcess)
    assert ctx.get_context() is ctx
print("linked")
"""


@pytest.mark.parametrize(
    "order",
    [
        "import procession",
        "import multiprocessing; import procession",
        "import procession; import concurrent.futures.process",
    ],
)
def test_standard_names_catch_ours(order: str, run_program: Any) -> None:
    result = run_program(f"{order}\n{LINKED}")
    assert result.stdout == "linked\n", result.stderr


def test_standard_package_is_not_needed(start_method: str, run_program: Any) -> None:
    source = """
        import logging, sys
        sys.modules["multiprocessing"] = None
        import procession

        if __name__ == "__main__":
            process = procession.get_context(sys.argv[1]).Process(target=print, args=("child",))
            process.start()
            process.join()
            assert not any(name.startswith("multiprocessing.") for name in sys.modules)
        """
    result = run_program(source, start_method)
    assert (result.stdout, result.stderr) == ("child\n", "")


def test_import_is_light(run_program: Any) -> None:
    source = """
        import sys
        import procession
        for name in ("multiprocessing", "procession._native", "logging", "procession.pool"):
            assert name not in sys.modules, name
        print("light")
        """
    assert run_program(source).stdout == "light\n"


@pytest.mark.parametrize("before", ["import logging", "import multiprocessing, logging", ""])
def test_log_records_name_the_process(start_method: str, before: str, run_program: Any) -> None:
    source = """
        import sys
        BEFORE
        import procession

        def child():
            import logging
            logging.basicConfig(format="%(processName)s", stream=sys.stdout)
            logging.warning("")
            procession.current_process().name = "renamed"
            logging.warning("")

        if __name__ == "__main__":
            process = procession.get_context(sys.argv[1]).Process(target=child, name="given")
            process.start()
            process.join()
        """.replace("BEFORE", before)
    result = run_program(source, start_method)
    assert (result.stdout, result.stderr) == ("given\nrenamed\n", "")


def test_install_makes_multiprocessing_ours(start_method: str, run_program: Any) -> None:
    source = """
        import sys
        import procession
        procession.install()
        import multiprocessing, multiprocessing.process, concurrent.futures.process
        from multiprocessing import util

        def check():
            import multiprocessing, multiprocessing.spawn
            assert multiprocessing is procession
            assert multiprocessing.spawn is sys.modules["procession.spawn"]
            assert multiprocessing.process.__spec__.name == "procession.process"
            try:
                import multiprocessing.popen_spawn_win32
            except ModuleNotFoundError as error:
                assert error.name == "multiprocessing.popen_spawn_win32"
            print("ours", flush=True)

        if __name__ == "__main__":
            check()
            process = multiprocessing.get_context(sys.argv[1]).Process(target=check)
            process.start()
            process.join()
        """
    result = run_program(source, start_method)
    assert (result.stdout, result.stderr) == ("ours\nours\n", "")


def test_other_systems_are_refused(run_program: Any) -> None:
    source = """
        import sys
        sys.platform = "sunos5"
        try:
            import procession
        except ImportError as error:
            print(error)
        """
    assert run_program(source).stdout == ("procession runs on Linux on x86_64 and aarch64 only\n")


def test_process_classes_share_their_base() -> None:
    for cls in (context.ForkProcess, context.SpawnProcess, context.ForkServerProcess):
        assert issubclass(cls, process.BaseProcess)
    assert issubclass(procession.Process, process.BaseProcess)

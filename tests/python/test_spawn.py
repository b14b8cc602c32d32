"""Children that are fresh interpreters: how they are started and prepared."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import procession
from procession import process, spawn, util


def test_preparation_data() -> None:
    data = spawn.get_preparation_data("name")
    assert data["name"] == "name"
    assert data["authkey"] == procession.current_process().authkey
    assert data["dir"] == os.getcwd()
    assert data["orig_dir"] == process.ORIGINAL_DIR
    assert data["sys_argv"] is sys.argv
    assert "" not in data["sys_path"]
    assert data["start_method"] == procession.get_start_method()


def test_command_line() -> None:
    command = spawn.get_command_line(pipe_handle=5, tracker_fd=None)
    assert command[0] == spawn.get_executable()
    assert command[-1] == "--multiprocessing-fork"
    assert command[-2].endswith("spawn_main(pipe_handle=5, tracker_fd=None)")
    assert spawn.is_forking(["-c", "--multiprocessing-fork"])
    assert not spawn.is_forking(["-c"])
    with pytest.raises(AssertionError, match="Not forking"):
        spawn.spawn_main(5)


@pytest.mark.parametrize(
    "executable", [sys.executable, os.fsencode(sys.executable), Path(sys.executable)]
)
def test_executable_can_be_set(executable: Any) -> None:
    old = spawn.get_executable()
    try:
        procession.set_executable(executable)
        child = procession.get_context("spawn").Process(target=sys.exit, args=(5,))
        child.start()
        child.join()
        assert child.exitcode == 5
    finally:
        procession.set_executable(old)


def test_missing_executable_is_an_exit_code() -> None:
    old = spawn.get_executable()
    try:
        procession.set_executable("/nonexistent/python")
        child = procession.get_context("spawn").Process(target=os.getpid)
        child.start()
        child.join()
        assert child.exitcode == 255
    finally:
        procession.set_executable(old)


def test_hooks_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debuggers and coverage tools follow children by replacing these two functions."""
    calls: list[str] = []
    get_command_line, spawnv_passfds = spawn.get_command_line, util.spawnv_passfds

    def command_line(**kwds: Any) -> list[Any]:
        calls.append("command line")
        return get_command_line(**kwds)

    def start(path: Any, args: Any, passfds: Any) -> int:
        calls.append("start")
        return spawnv_passfds(path, args, passfds)

    monkeypatch.setattr(spawn, "get_command_line", command_line)
    monkeypatch.setattr(util, "spawnv_passfds", start)
    child = procession.get_context("spawn").Process(target=sys.exit, args=(3,))
    child.start()
    child.join()
    assert child.exitcode == 3
    assert calls == ["command line", "start"]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_interpreter_options_are_passed_on(method: str, run_program: Any) -> None:
    source = """
        import sys
        import procession

        def child():
            print(sys.flags.optimize, sys.flags.no_user_site, sys.warnoptions, flush=True)

        if __name__ == "__main__":
            child()
            process = procession.get_context(sys.argv[1]).Process(target=child)
            process.start()
            process.join()
        """
    result = run_program(source, method, options=("-O", "-s", "-W", "error"))
    assert result.stderr == ""
    here, there = result.stdout.splitlines()
    assert here == there


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_unguarded_main_is_an_error_that_helps(method: str, run_program: Any) -> None:
    source = """
        import sys
        import procession
        process = procession.get_context(sys.argv[1]).Process(target=print)
        process.start()
        process.join()
        print(process.exitcode)
        """
    result = run_program(source, method)
    assert "if __name__ == '__main__':" in result.stderr
    assert result.stderr.count("RuntimeError: ") == 1
    assert result.stdout == "1\n"


MODULE = """
import sys
import procession

def child():
    print(__name__, sys.modules["__main__"].__spec__ is not None, flush=True)

if __name__ == "__main__":
    process = procession.get_context(sys.argv[1]).Process(target=child)
    process.start()
    process.join()
    print(process.exitcode)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_main_by_name(method: str, tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "program.py").write_text(MODULE)
    result = subprocess.run(
        [sys.executable, "-m", "package.program", method],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert (result.stdout, result.stderr) == ("__mp_main__ True\n0\n", "")


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_package_outside_of_the_usual_path(method: str, tmp_path: Path) -> None:
    """Children find the package where their parent has found it."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "procession").symlink_to(Path(procession.__file__).parent)
    program = tmp_path / "program.py"
    program.write_text(f"import sys; sys.path.insert(0, {str(folder)!r})\n{MODULE}")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-I", "-S", str(program), method],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )
    assert (result.stdout, result.stderr) == ("__mp_main__ False\n0\n", "")


def test_large_arguments(ctx: Any) -> None:
    """start() does not wait for the child to read, however much there is to read."""
    child = ctx.Process(target=len, args=(b"x" * 20_000_000,))
    child.start()
    child.join()
    assert child.exitcode == 0


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.usefixtures("no_leaks")
def test_unpicklable_target(method: str) -> None:
    child = procession.get_context(method).Process(target=lambda: None)
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        child.start()
    assert not child.is_alive()
    assert procession.active_children() == []


def test_what_is_unpickled_wrongly_is_told(run_program: Any) -> None:
    source = """
        import sys
        import procession

        class Broken:
            def __reduce__(self):
                return fail, ()

        def fail():
            raise LookupError("cannot be unpickled")

        if __name__ == "__main__":
            for method in ("spawn", "forkserver"):
                process = procession.get_context(method).Process(target=print, args=(Broken(),))
                process.start()
                process.join()
                print(process.exitcode)
        """
    result = run_program(source)
    assert result.stdout == "1\n1\n"
    assert result.stderr.count("LookupError: cannot be unpickled") == 2

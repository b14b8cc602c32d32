"""How a process that was not forked becomes what its parent wanted: the child's side.

The parent starts an interpreter with the command of ``get_command_line()``, whose
``spawn_main()`` reads two pickles: the preparation data (where to find modules, what the
main module was) and the process object.  The fork server's children read the same.
Debuggers and coverage tools replace ``get_command_line`` to join in.
"""

from __future__ import annotations

import os
import pickle
import runpy
import sys
import types
from typing import IO, Any, NamedTuple

from . import _compat, process, util
from ._install import install, is_installed as is_installed
from .context import _default_context

__all__ = [
    "_main",
    "freeze_support",
    "get_command_line",
    "get_executable",
    "get_preparation_data",
    "import_main_path",
    "set_executable",
]

WINEXE = False
WINSERVICE = False

# The key of the preparation data under which a child finds its Member.
MEMBER = "procession"

_FORKING_FLAG = "--multiprocessing-fork"


class Member(NamedTuple):
    """What a fresh interpreter needs in order to take its place in the session."""

    token: int
    parent_pid: int
    session_fd: int
    tracker_fds: tuple[int, int]
    installed: bool
    interruptible: bool


_python_exe: bytes | None


def set_executable(exe: str | bytes | os.PathLike[Any] | None) -> None:
    """Set the interpreter that is started for children that are not forked."""
    global _python_exe
    _python_exe = None if exe is None else os.fsencode(exe)


def get_executable() -> Any:
    """Return the interpreter that is started for children that are not forked."""
    return _python_exe


set_executable(sys.executable)


def is_forking(argv: list[str]) -> bool:
    """Return whether this command line is that of a child."""
    return len(argv) >= 2 and argv[1] == _FORKING_FLAG


def freeze_support() -> None:
    """In a frozen program: if it was started as a child, run the child and exit."""
    if is_forking(sys.argv):
        texts = dict(argument.split("=") for argument in sys.argv[2:])
        arguments: dict[str, Any] = {
            name: None if text == "None" else int(text) for name, text in texts.items()
        }
        spawn_main(**arguments)
        sys.exit()


def _import_statement(module: str, name: str) -> str:
    """Python code that imports ``name`` from our ``module`` in a fresh interpreter.

    The parent may have found this package in a folder that is not on the path by default.
    """
    package = str(__package__)
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return f"import sys; sys.path.append({folder!r}); from {package}.{module} import {name}"


def get_command_line(**kwds: Any) -> list[Any]:
    """Return the command that starts a child; ``kwds`` are the arguments of spawn_main()."""
    if getattr(sys, "frozen", False):
        return [sys.executable, _FORKING_FLAG, *(f"{k}={v!r}" for k, v in kwds.items())]
    arguments = ", ".join(f"{k}={v!r}" for k, v in kwds.items())
    program = f"{_import_statement('spawn', 'spawn_main')}; spawn_main({arguments})"
    options = util._args_from_interpreter_flags()
    return [get_executable(), *options, "-c", program, _FORKING_FLAG]


def spawn_main(
    pipe_handle: int, parent_pid: int | None = None, tracker_fd: int | None = None
) -> None:
    """In a fresh interpreter: be the child that is described in the file ``pipe_handle``."""
    assert is_forking(sys.argv), "Not forking"
    from . import _child, resource_tracker

    resource_tracker._resource_tracker._fd = tracker_fd
    parent_sentinel = _child.open_sentinel(os.getppid() if parent_pid is None else parent_pid)
    exitcode = _main(pipe_handle, parent_sentinel)
    util._exitcode = exitcode
    sys.exit(exitcode)


def _main(fd: int, parent_sentinel: int) -> int:
    parent = os.getppid()
    try:
        with os.fdopen(fd, "rb", closefd=True) as from_parent:
            process_obj = _receive(from_parent)
    except KeyboardInterrupt:
        if process.is_interrupted_with(parent):
            return 1
        raise
    return process_obj._bootstrap(parent_sentinel)


def _receive(from_parent: IO[bytes]) -> process.BaseProcess:
    """Read the preparation data and the process object, and get ready for it."""
    from . import _native

    current = process.current_process()
    current._inheriting = True
    try:
        preparation_data = pickle.load(from_parent)
        member = preparation_data.pop(MEMBER, None)
        if member is not None:
            _join(member)
        prepare(preparation_data)
        process_obj: process.BaseProcess = pickle.load(from_parent)
        _native.settled()
    finally:
        del current._inheriting
    return process_obj


def _join(member: Member) -> None:
    from . import _child, resource_tracker

    resource_tracker._resource_tracker.inherit(member.tracker_fds)
    _child.enter(member.token, member.parent_pid, member.session_fd)
    if member.installed:
        install(programs=False)  # what reaches those is inherited
    if member.interruptible:
        _child.let_interrupts_in()


_NOT_SAFE_TO_IMPORT = """
        A process was about to be started while this one, a child itself, was still being
        prepared: it was importing the main module of the program.

        Children that are not forked import the main module, so what that module does when
        it is imported happens again in each of them. Start processes only where the module
        is run as the program:

            if __name__ == '__main__':
                freeze_support()
                ...

        (freeze_support() is needed only in programs that are frozen to an executable.)
        See "Safe importing of main module" in the documentation of multiprocessing.
        """


def _check_not_importing_main() -> None:
    if getattr(process.current_process(), "_inheriting", False):
        raise RuntimeError(_NOT_SAFE_TO_IMPORT)


def get_preparation_data(name: str) -> dict[str, Any]:
    """Return what a child has to know of this process before it can unpickle anything."""
    _check_not_importing_main()
    data: dict[str, Any] = {
        "log_to_stderr": util._log_to_stderr,
        "authkey": process.current_process().authkey,
    }
    if util._logger is not None:
        data["log_level"] = util._logger.getEffectiveLevel()
    data |= {
        "name": name,
        "sys_path": [process.ORIGINAL_DIR if path == "" else path for path in sys.path],
        "sys_argv": sys.argv,
        "orig_dir": process.ORIGINAL_DIR,
        "dir": os.getcwd(),
        "start_method": _default_context.get_start_method(),
    }
    data |= main_module_data()
    return data


def main_module_data() -> dict[str, str]:
    """How a child finds the main module: by name, by path, or (then empty) not at all."""
    main_module = sys.modules["__main__"]
    name = getattr(main_module.__spec__, "name", None)
    if name is not None:
        return {"init_main_from_name": name}
    path = getattr(main_module, "__file__", None)
    if path is None:
        return {}
    if not os.path.isabs(path) and process.ORIGINAL_DIR is not None:
        path = os.path.join(process.ORIGINAL_DIR, path)
    return {"init_main_from_path": os.path.normpath(path)}


# The modules that were __main__ before: something may still refer to their contents.
old_main_modules: list[types.ModuleType] = []


def prepare(data: dict[str, Any]) -> None:
    """Make this process such that the process object can be unpickled."""
    current = process.current_process()
    if "name" in data:
        current.name = data["name"]
    if "authkey" in data:
        current.authkey = data["authkey"]
        _compat.set_authkey()
    if data.get("log_to_stderr"):
        util.log_to_stderr()
    if "log_level" in data:
        util.get_logger().setLevel(data["log_level"])
    if "sys_path" in data:
        sys.path = data["sys_path"]
    if "sys_argv" in data:
        sys.argv = data["sys_argv"]
    if "dir" in data:
        os.chdir(data["dir"])
    if "orig_dir" in data:
        process.ORIGINAL_DIR = data["orig_dir"]
    if "start_method" in data:
        _default_context.set_start_method(data["start_method"], force=True)
    if "init_main_from_name" in data:
        _fixup_main_from_name(data["init_main_from_name"])
    elif "init_main_from_path" in data:
        _fixup_main_from_path(data["init_main_from_path"])


def _become_main(content: dict[str, Any]) -> None:
    """Let ``content`` be the main module, whose ``__name__`` tells it that it is not run."""
    old_main_modules.append(sys.modules["__main__"])
    main_module = types.ModuleType("__mp_main__")
    main_module.__dict__.update(content)
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main_module


def _fixup_main_from_name(mod_name: str) -> None:
    # The __main__.py of a package or archive runs unguarded, so it is never imported.
    if mod_name == "__main__" or mod_name.endswith(".__main__"):
        return
    # Already there: this process was forked from one that had it.
    if getattr(sys.modules["__main__"].__spec__, "name", None) == mod_name:
        return
    _become_main(runpy.run_module(mod_name, run_name="__mp_main__", alter_sys=True))


def _fixup_main_from_path(main_path: str) -> None:
    # The script that starts IPython used to run unguarded too.
    if os.path.splitext(os.path.basename(main_path))[0] == "ipython":
        return
    if getattr(sys.modules["__main__"], "__file__", None) == main_path:
        return
    _become_main(runpy.run_path(main_path, run_name="__mp_main__"))


def import_main_path(main_path: str) -> None:
    """Let the module at ``main_path`` be the main module."""
    _fixup_main_from_path(main_path)

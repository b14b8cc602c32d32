"""Run a program as ``__main__``, as ``python SCRIPT`` and ``python -m MODULE`` do.

The program gets a ``__main__`` of its own that stays for good: runpy takes the module away when the
program's last line is done, but its threads and exit handlers, and children that are started later,
still need it.
"""

from __future__ import annotations

import builtins
import importlib.util
import io
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader, SourcelessFileLoader
from types import CodeType, ModuleType
from typing import Any


def run_script(path: str, arguments: Sequence[str]) -> None:
    """Run a file with source or compiled code, or a folder or archive that holds a ``__main__``."""
    absolute = os.path.join(os.getcwd(), path)
    if pkgutil.get_importer(absolute) is not None:
        _set_first_path(absolute)
        _run_found("__main__", arguments, path)
        return
    sys.argv[:] = [path, *arguments]
    _set_first_path(os.path.dirname(os.path.realpath(path)))
    try:
        code, loader = _read(absolute)
    except OSError as error:
        reason = f"[Errno {error.errno}] {error.strerror}"
        print(f"{sys.executable}: can't open file {absolute!r}: {reason}", file=sys.stderr)
        sys.exit(2)
    main = _new_main(__file__=absolute, __cached__=None, __loader__=loader, __spec__=None)
    exec(code, main.__dict__)


def run_module(name: str, arguments: Sequence[str]) -> None:
    """Run a module of ``sys.path``, or the ``__main__`` of a package."""
    _set_first_path(os.getcwd())
    # What the module sees of the command line while its parents are imported.
    sys.argv[:] = ["-m", *arguments]
    _run_found(name, arguments, None)


def _run_found(name: str, arguments: Sequence[str], first: str | None) -> None:
    """Import the code called ``name`` and run it. ``first`` is to be argv[0], else the file is."""
    # A script's own __main__ is looked for afresh; ours must not be found instead.
    sys.modules.pop("__main__", None)
    spec, code = _find(name)
    sys.argv[:] = [first or spec.origin or name, *arguments]
    main = _new_main(
        __file__=spec.origin,
        __cached__=spec.cached,
        __loader__=spec.loader,
        __package__=spec.parent,
        __spec__=spec,
    )
    exec(code, main.__dict__)


def _find(name: str) -> tuple[ModuleSpec, CodeType]:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        sys.exit(f"{sys.executable}: Error while finding module specification for {name!r} ({why})")
    if spec is None:
        sys.exit(f"{sys.executable}: No module named {name}")
    if spec.submodule_search_locations is not None:
        if name == "__main__" or name.endswith(".__main__"):
            sys.exit(f"{sys.executable}: Cannot use package as __main__ module")
        return _find(f"{name}.__main__")
    # Not every loader that has it says so by its class: that of archives does not.
    get_code: Callable[[str], CodeType | None] = getattr(spec.loader, "get_code", lambda _: None)
    code = get_code(name)
    if code is None:
        sys.exit(f"{sys.executable}: No code object available for {name}")
    return spec, code


def _read(path: str) -> tuple[CodeType, SourceFileLoader | SourcelessFileLoader]:
    if path.endswith(".pyc"):
        loader = SourcelessFileLoader("__main__", path)
        compiled = loader.get_code("__main__")
        assert compiled is not None, "a loader of files knows the code of its file"
        return compiled, loader
    with io.open_code(path) as file:
        source = file.read()
    return compile(source, path, "exec", dont_inherit=True), SourceFileLoader("__main__", path)


def _new_main(**attributes: Any) -> ModuleType:
    main = ModuleType("__main__")
    main.__dict__.update(__annotations__={}, __builtins__=builtins, **attributes)
    sys.modules["__main__"] = main
    return main


def _set_first_path(path: str) -> None:
    """Put the program's place where Python put ours, unless it was told to put none."""
    if not sys.flags.safe_path:
        sys.path[0] = path

"""Let ``import multiprocessing`` mean procession, in this process and all its children.

For programs and libraries that cannot be edited::

    import procession
    procession.install()        # before anything imports multiprocessing

Children get it in two ways.  Those that this package starts are told so by their parent.  Programs
that are started otherwise (``subprocess``, a test runner's workers) are reached by way of
``PYTHONPATH``: the folder ``_fresh`` on it holds a ``sitecustomize`` that waits for somebody to
import ``multiprocessing``, and calls ``install()`` then.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import Loader, MetaPathFinder
else:
    Loader = MetaPathFinder = object  # see _compat.py

__all__ = ["install", "is_installed"]

_OURS = str(__package__)
_THEIRS = "multiprocessing"
_FRESH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_fresh")


class _AliasLoader(Loader):
    """Loads a module by returning another one that is loaded."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has put the alias's name there.
        module.__spec__ = self._spec


class _AliasFinder(MetaPathFinder):
    """Finds our modules under the standard package's names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _THEIRS and not fullname.startswith(f"{_THEIRS}."):
            return None
        ours = _OURS + fullname.removeprefix(_THEIRS)
        try:
            module = importlib.import_module(ours)
        except ModuleNotFoundError as error:
            if error.name != ours:
                raise
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname) from None
        return ModuleSpec(fullname, _AliasLoader(module), is_package=hasattr(module, "__path__"))


_finder = _AliasFinder()


def install(*, programs: bool = True) -> None:
    """Make ``multiprocessing`` and its modules names of ours.

    Modules that have imported the standard package before keep what they have got.  ``programs``
    says whether it is also for the Python programs that this one starts as programs of their own.
    """
    if not is_installed():
        sys.meta_path.insert(0, _finder)
    for name in [name for name in sys.modules if name.partition(".")[0] == _THEIRS]:
        del sys.modules[name]
    for name, module in list(sys.modules.items()):
        if name == _OURS or (name.startswith(f"{_OURS}.") and not name.startswith(f"{_OURS}._")):
            sys.modules[_THEIRS + name.removeprefix(_OURS)] = module
    if programs:
        _reach_programs()


def is_installed() -> bool:
    """Return whether install() has been called in this process or one that started it."""
    return _finder in sys.meta_path


def _reach_programs() -> None:
    """Put the folder with our ``sitecustomize`` in front of the path of programs to come."""
    path = os.environ.get("PYTHONPATH", "")
    if _FRESH not in path.split(os.pathsep):
        # An empty part of it would mean the current folder.
        os.environ["PYTHONPATH"] = _FRESH + os.pathsep + path if path else _FRESH
    if _FRESH not in sys.path:
        # As in programs that were started with it: they hand on the path they have got.
        sys.path.insert(0 if sys.flags.safe_path else 1, _FRESH)

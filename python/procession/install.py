"""Let ``import multiprocessing`` mean procession, in this process and all its children.

For programs and libraries that cannot be edited::

    import procession.install
    procession.install.install()        # before anything imports multiprocessing
"""

from __future__ import annotations

import importlib
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


def install() -> None:
    """Make ``multiprocessing`` and its modules names of ours.

    Modules that have imported the standard package before keep what they have got.
    """
    if not is_installed():
        sys.meta_path.insert(0, _finder)
    for name in [name for name in sys.modules if name.partition(".")[0] == _THEIRS]:
        del sys.modules[name]
    for name, module in list(sys.modules.items()):
        if name == _OURS or (name.startswith(f"{_OURS}.") and not name.startswith(f"{_OURS}._")):
            sys.modules[_THEIRS + name.removeprefix(_OURS)] = module


def is_installed() -> bool:
    """Return whether install() has been called in this process or one that started it."""
    return _finder in sys.meta_path

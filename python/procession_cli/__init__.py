"""The console script ``procession``.

Beside the package and not in it: a look at a running program needs the native code and nothing
else, and importing ``procession`` would take longer than the look.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from types import ModuleType


def main() -> int:
    """Do what the command line asks for and return the exit code."""
    if sys.argv[1:2] == ["run"]:
        from procession.__main__ import main as run

        return run()
    code: int = _native().cli(sys.argv[1:])
    return code


def _native() -> ModuleType:
    """The extension without its package; with it, if it is not where the package should be."""
    folder = os.path.join(os.path.dirname(os.path.dirname(__file__)), "procession")
    spec = PathFinder.find_spec("_native", [folder])
    if spec is None or spec.loader is None:
        from procession import _native as packaged

        return packaged
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

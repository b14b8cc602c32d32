"""The console script ``procession``.

Beside the package and not in it: a look at a running program needs the native code and nothing
else, and importing ``procession`` would take longer than the look. For the same reason this module
imports as little as it can, and the script is a file of ours (``wheel-data/scripts``): the one that
installers write for an entry point imports ``re`` first, which takes as long as the look itself.
"""

import os
import sys
from importlib.machinery import ExtensionFileLoader, PathFinder

# As `typing` has it, which would have to be imported.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType


def main() -> int:
    """Do what the command line asks for and return the exit code."""
    if _is_run():
        from procession.__main__ import main as run

        return run()
    code: int = _native().cli(sys.argv[1:])
    return code


def script() -> int:
    """As ``main``, for the script: a process that has only looked ends at once.

    There is nothing in it that an orderly end of the interpreter could be for.
    """
    code = main()
    if not _is_run():
        for stream in (sys.stdout, sys.stderr):
            # There is none where the descriptor is closed.
            if stream is not None:
                stream.flush()
        os._exit(code)
    return code


def _is_run() -> bool:
    return sys.argv[1:2] == ["run"]


def _native() -> "ModuleType":
    """The extension without its package; with it, if it is not where the package should be."""
    folder = os.path.join(os.path.dirname(os.path.dirname(__file__)), "procession")
    spec = PathFinder.find_spec("_native", [folder])
    if spec is None or not isinstance(spec.loader, ExtensionFileLoader):
        from procession import _native as packaged

        return packaged
    module = spec.loader.create_module(spec)
    spec.loader.exec_module(module)
    return module

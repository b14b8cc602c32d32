"""Runs in the programs that a program under ``procession run`` starts, before anything else.

Its folder is on their ``PYTHONPATH`` (see ``_install.py``).  It must cost nothing where it is not
needed, be understood by interpreters that the package does not support, and leave the place that it
has taken to the ``sitecustomize`` of whoever else has one.
"""

import sys

TYPE_CHECKING = False  # without the time that the import of typing takes
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

_FOLDER = __file__.rpartition("/")[0]


class _Waiting:
    """Waits for somebody to import ``multiprocessing``."""

    @classmethod
    def find_spec(
        cls,
        fullname: "str",
        path: "Sequence[str] | None" = None,
        target: "ModuleType | None" = None,
    ) -> "ModuleSpec | None":
        """Install procession at the first import of the standard package."""
        if fullname != "multiprocessing":
            return None
        sys.meta_path.remove(cls)
        found = _load()._finder.find_spec(fullname, path, target)
        # Whoever has asked for it would take a module that is there for its own, and load it again.
        del sys.modules[fullname]
        return found  # type: ignore[no-any-return]


def _load() -> "Any":
    """Install the procession whose folder this file is in, also where it is not on the path."""
    if "procession" not in sys.modules:
        import importlib.util

        home = _FOLDER.rpartition("/")[0]
        spec = importlib.util.spec_from_file_location("procession", home + "/__init__.py")
        assert spec is not None
        assert spec.loader is not None, "a file of Python has a loader"
        sys.modules["procession"] = module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules["procession"]
            raise
    from procession import _install

    _install.install()
    return _install


if sys.version_info >= (3, 11) and sys.implementation.name == "cpython":
    if "multiprocessing" in sys.modules:
        _load()
    else:
        sys.meta_path.insert(0, _Waiting)

# Now the one that would have been found without ours. Ours is on the path again after that, for
# programs that make the path of their children from their own.
_at = sys.path.index(_FOLDER) if _FOLDER in sys.path else -1
if _at >= 0:
    del sys.path[_at]
_ours = sys.modules.pop("sitecustomize", None)
try:
    import sitecustomize  # type: ignore[import-not-found] # noqa: F401
except ImportError as _error:
    if getattr(_error, "name", None) != "sitecustomize":
        raise
finally:
    if _ours is not None:
        sys.modules.setdefault("sitecustomize", _ours)
    if _at >= 0:
        sys.path.insert(_at, _FOLDER)

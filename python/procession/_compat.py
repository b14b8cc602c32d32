"""Getting along with the standard library's own multiprocessing package.

Programs use both: their own code has moved to procession, a library that they call still
imports ``multiprocessing``.  Some things have to fit then, and all are done here:

- ``except multiprocessing.TimeoutError`` catches ours, and ``isinstance(context,
  multiprocessing.context.BaseContext)`` holds for ours.  The standard classes are added
  to the bases of ours as soon as both packages are there, in whatever order they came.
- ``%(processName)s`` of the logging module is right.  It asks the module that is called
  ``multiprocessing``, which does not know our children; so that one is told their names.
- The standard package's queues and connections can be arguments of our processes, and what is
  registered with its ``ForkingPickler`` is known to ours: an executor that was given our context
  makes such queues, and libraries register there how their objects are sent.
- Nothing of it is imported for its own sake, except in programs that log.  The package
  works where the standard one does not exist, or is an alias of this one.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.abc import Loader, MetaPathFinder
    from importlib.machinery import ModuleSpec
    from types import ModuleType
else:
    # The abstract classes have nothing to inherit, and importing them takes longer than
    # importing all of this package.
    Loader = MetaPathFinder = object

__all__ = ["Linkable", "LinkableError", "link", "prepare_logging", "set_process_name"]

_STANDARD = "multiprocessing"


class Linkable:
    """Base of classes that get a standard class as a further base.

    ``__bases__`` can be assigned only where the class has a base written in Python.
    """


class LinkableError(Exception):
    """The same for exceptions."""


def standard(submodule: str) -> ModuleType | None:
    """The standard library's loaded module of that name, unless it is one of ours."""
    module = sys.modules.get(f"{_STANDARD}.{submodule}")
    if module is None or module.__name__.partition(".")[0] != _STANDARD:
        return None
    return module


def link() -> None:
    """Derive our classes from the standard ones, if those are loaded."""
    theirs_context, theirs_process = standard("context"), standard("process")
    if theirs_context is None or theirs_process is None:
        return
    from . import context, process

    # From base to derived: each class is given bases that already fit.
    for name in ("ProcessError", "BufferTooShort", "TimeoutError", "AuthenticationError"):
        _add_base(getattr(context, name), getattr(theirs_context, name, None))
    _add_base(context.BaseContext, getattr(theirs_context, "BaseContext", None))
    _add_base(process.BaseProcess, getattr(theirs_process, "BaseProcess", None))
    if process._current_process._name != "MainProcess":
        set_process_name(process._current_process._name)
    _share_reductions()
    _share_authkey()
    _share_wait()


def _add_base(ours: type, theirs: Any) -> None:
    if isinstance(theirs, type) and not issubclass(ours, theirs):
        # A standard library of another shape must not break the import of ours.
        with contextlib.suppress(TypeError):
            ours.__bases__ = (*ours.__bases__, theirs)


def set_process_name(name: str) -> None:
    """Tell the standard package, if it is loaded or logging needs it, what we are called."""
    prepare_logging()
    module = standard("process")
    if module is not None:
        with contextlib.suppress(AttributeError):
            module.current_process()._name = name


class _Reducers(dict[type, Any]):
    """The standard pickler's table: what is registered there is told to ours."""

    def __init__(self, theirs: dict[type, Any], ours: dict[type, Any]) -> None:
        super().__init__(theirs)
        self._ours = ours
        for key, reduce in theirs.items():
            ours.setdefault(key, reduce)

    def __setitem__(self, key: type, reduce: Any) -> None:
        super().__setitem__(key, reduce)
        self._ours[key] = reduce


def _share_reductions() -> None:
    theirs = getattr(standard("reduction"), "ForkingPickler", None)
    table = getattr(theirs, "_extra_reducers", None)
    if isinstance(table, dict) and not isinstance(table, _Reducers):
        from .reduction import ForkingPickler

        theirs._extra_reducers = _Reducers(table, ForkingPickler._extra_reducers)  # type: ignore[union-attr]


def _share_wait() -> None:
    """Let ``connection.wait`` of the other package do as ours where it gets objects of ours.

    A descriptor of ours says that it is worth a look, and may say so once too often: whoever goes
    by the descriptor alone would then block in ``recv``.
    """
    theirs = standard("connection")
    original: Any = getattr(theirs, "wait", None)
    if original is None or hasattr(original, "__wrapped__"):
        return
    import functools

    @functools.wraps(original)
    def wait(object_list: Any, timeout: float | None = None) -> list[Any]:
        from . import connection

        objects = list(object_list)
        sources = [getattr(obj, "_session_object", obj) for obj in objects]
        if any(isinstance(source, connection._SESSION_TYPES) for source in sources):
            return connection.wait(objects, timeout)
        found: list[Any] = original(objects, timeout)
        return found

    theirs.wait = wait  # type: ignore[union-attr]


def set_spawning_popen(popen: Any) -> None:
    """Let the standard package's objects be pickled for a child of ours, too."""
    module = standard("context")
    if module is not None:
        module.set_spawning_popen(popen)


# Whether this process was prepared by its parent and has not got everything from it by fork.
_prepared = False


def _share_authkey() -> None:
    """One key for both, so that a child can fetch what the other package passes on by a socket."""
    from . import process

    current, theirs = process._current_process, standard("process")
    if theirs is None:
        return
    if _prepared:
        theirs.current_process().authkey = bytes(current.authkey)
    elif current.authkey is process._first_authkey:
        current.authkey = bytes(theirs.current_process().authkey)


def set_authkey() -> None:
    """In a child that is prepared: our key is its parent's from now on."""
    global _prepared
    _prepared = True
    _share_authkey()


def prepare_logging() -> None:
    """Where the program logs, load what logging asks for the name of the process.

    Called before a child is forked, so that the children need not pay for it.
    """
    if "logging" in sys.modules and _STANDARD not in sys.modules:
        with contextlib.suppress(ImportError):
            __import__(_STANDARD)


def _in_child() -> bool:
    process = sys.modules.get(f"{__package__}.process")
    return process is not None and process.parent_process() is not None


class _Watcher(MetaPathFinder):
    """Waits for somebody to import the standard package, then links, then goes away."""

    def __init__(self) -> None:
        names = (f"{_STANDARD}.{module}" for module in ("context", "connection"))
        self._awaited = {name for name in names if name not in sys.modules}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "logging" and _in_child():
            # logging will ask the module named so for the name of this process.
            with contextlib.suppress(ImportError):
                __import__(_STANDARD)
        if fullname not in self._awaited:
            return None
        self._awaited.remove(fullname)
        if not self._awaited:
            with contextlib.suppress(ValueError):
                sys.meta_path.remove(self)
        for finder in list(sys.meta_path):
            spec = finder.find_spec(fullname, path, target) if finder is not self else None
            if spec is not None:
                break
        else:
            return None
        # An alias of another package has no file of its own: nothing to link to.
        if spec.has_location and spec.loader is not None:
            spec.loader = _LinkingLoader(spec.loader)
        return spec


class _LinkingLoader(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        link()


def watch() -> None:
    """Link now if the standard package is loaded, otherwise when it gets loaded."""
    if standard("context") is not None:
        link()
    elif _STANDARD in sys.modules:
        return
    if standard("connection") is None:
        sys.meta_path.insert(0, _Watcher())

"""What the modules of the package have in common: logging, finalizers, after-fork hooks, fds.

The registries here are meant for use from outside as well: debuggers, tracers and
coverage tools call ``register_after_fork`` and replace ``spawnv_passfds``.
"""

from __future__ import annotations

import atexit
import itertools
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from . import _compat, process

if TYPE_CHECKING:
    import logging

__all__ = [
    "SUBDEBUG",
    "SUBWARNING",
    "Finalize",
    "ForkAwareLocal",
    "ForkAwareThreadLock",
    "close_all_fds_except",
    "debug",
    "get_logger",
    "get_temp_dir",
    "info",
    "is_exiting",
    "log_to_stderr",
    "register_after_fork",
    "sub_debug",
    "sub_warning",
    "warn",
]

_T = TypeVar("_T")

# ---------------------------------------------------------------------------------- logging

NOTSET = 0
SUBDEBUG = 5
DEBUG = 10
INFO = 20
SUBWARNING = 25
_WARNING = 30

LOGGER_NAME = "multiprocessing"
DEFAULT_LOGGING_FORMAT = "[%(levelname)s/%(processName)s] %(message)s"

_logger: logging.Logger | None = None
_log_to_stderr = False


# stacklevel=2: the record names the file that called, not this one.
def sub_debug(msg: object, *args: object) -> None:
    """Log at the level SUBDEBUG, if the package's logger is in use."""
    if _logger:
        _logger.log(SUBDEBUG, msg, *args, stacklevel=2)


def debug(msg: object, *args: object) -> None:
    """Log at the level DEBUG, if the package's logger is in use."""
    if _logger:
        _logger.log(DEBUG, msg, *args, stacklevel=2)


def info(msg: object, *args: object) -> None:
    """Log at the level INFO, if the package's logger is in use."""
    if _logger:
        _logger.log(INFO, msg, *args, stacklevel=2)


def sub_warning(msg: object, *args: object) -> None:
    """Log at the level SUBWARNING, if the package's logger is in use."""
    if _logger:
        _logger.log(SUBWARNING, msg, *args, stacklevel=2)


def warn(msg: object, *args: object) -> None:
    """Log at the level WARNING, if the package's logger is in use."""
    if _logger:
        _logger.log(_WARNING, msg, *args, stacklevel=2)


def get_logger() -> logging.Logger:
    """Return the package's logger; the first call makes it."""
    global _logger
    import logging

    _compat.prepare_logging()
    if _logger is None:
        logger = logging.getLogger(LOGGER_NAME)
        logger.propagate = False
        _logger = logger
        # Registered anew so that it runs before logging's own handler, which it needs.
        atexit.unregister(_exit_function)
        atexit.register(_exit_function)
    return _logger


def log_to_stderr(level: str | int | None = None) -> logging.Logger:
    """Let the package's logger write to stderr, and set its level if one is given."""
    global _log_to_stderr
    import logging

    logger = get_logger()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(DEFAULT_LOGGING_FORMAT))
    logger.addHandler(handler)
    if level:
        logger.setLevel(level)
    _log_to_stderr = True
    return logger


# ------------------------------------------------------------------------- files and sockets

abstract_sockets_supported = sys.platform == "linux"


def is_abstract_socket_namespace(address: str | bytes | None) -> bool:
    """Return whether a Unix socket address has no file in the file system."""
    if not address:
        return False
    if isinstance(address, bytes):
        return address[0] == 0
    if isinstance(address, str):
        return address[0] == "\0"
    raise TypeError(f"address type of {address!r} unrecognized")


def _remove_temp_dir(rmtree: Callable[[str], object], tempdir: str) -> None:
    rmtree(tempdir)
    current = process.current_process()
    # The module may be half taken apart when a finalizer runs at the interpreter's end.
    if current is not None:
        current._config["tempdir"] = None


def get_temp_dir() -> str:
    """Return a folder for this process and its children; it is removed at the end."""
    tempdir: str | None = process.current_process()._config.get("tempdir")
    if tempdir is None:
        import shutil
        import tempfile

        tempdir = tempfile.mkdtemp(prefix="pymp-")
        info("created temp directory %s", tempdir)
        Finalize(None, _remove_temp_dir, args=(shutil.rmtree, tempdir), exitpriority=-100)
        process.current_process()._config["tempdir"] = tempdir
    return tempdir


# -------------------------------------------------------------------------- after-fork hooks

_HookKey = tuple[int, int, Callable[[Any], object]]
_afterfork_registry: weakref.WeakValueDictionary[_HookKey, Any] = weakref.WeakValueDictionary()
_afterfork_counter = itertools.count()


def register_after_fork(obj: _T, func: Callable[[_T], object]) -> None:
    """Call ``func(obj)`` in every child at its start, as long as ``obj`` exists."""
    _afterfork_registry[(next(_afterfork_counter), id(obj), func)] = obj


def _run_after_forkers() -> None:
    hooks = sorted(_afterfork_registry.items(), key=lambda item: item[0][0])
    for (_, _, func), obj in hooks:
        try:
            func(obj)
        except Exception as error:
            info("after forker raised exception %s", error)


# ------------------------------------------------------------------------------- finalization

_FinalizerKey = tuple[int | None, int]
_finalizer_registry: dict[_FinalizerKey, Finalize] = {}
_finalizer_counter = itertools.count()


class Finalize:
    """Calls a function once: when its object goes, when called, or at exit.

    At exit only those with an ``exitpriority`` are called, the highest first and, among
    equals, the youngest first.  In a forked child an inherited one does nothing.
    """

    _weakref: weakref.ref[Any] | None
    _callback: Callable[..., object] | None
    _args: Sequence[Any] | None
    _kwargs: Mapping[str, Any] | None
    _key: _FinalizerKey | None

    def __init__(
        self,
        obj: object | None,
        callback: Callable[..., object],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        exitpriority: int | None = None,
    ) -> None:
        if exitpriority is not None and not isinstance(exitpriority, int):
            raise TypeError(
                f"Exitpriority ({exitpriority!r}) must be None or int, not {type(exitpriority)!s}"
            )
        self._weakref = None
        if obj is not None:
            self._weakref = weakref.ref(obj, self)
        elif exitpriority is None:
            raise ValueError("Without object, exitpriority cannot be None")
        self._callback = callback
        self._args = args
        self._kwargs = kwargs or {}
        self._key = (exitpriority, next(_finalizer_counter))
        self._pid = os.getpid()
        _finalizer_registry[self._key] = self

    def __call__(
        self,
        wr: weakref.ref[Any] | None = None,
        # Bound here because the module's globals may be gone when the last objects go.
        _finalizer_registry: dict[_FinalizerKey, Finalize] = _finalizer_registry,
        sub_debug: Callable[..., None] = sub_debug,
        getpid: Callable[[], int] = os.getpid,
    ) -> Any:
        """Call the function, unless it has been called or cancelled before."""
        key, callback = self._key, self._callback
        if key is None or callback is None or _finalizer_registry.pop(key, None) is None:
            sub_debug("finalizer no longer registered")
            return None
        result: Any = None
        args, kwargs = self._args or (), self._kwargs or {}
        if self._pid != getpid():
            sub_debug("finalizer ignored because different process")
        else:
            sub_debug("finalizer calling %s with args %s and kwargs %s", callback, args, kwargs)
            result = callback(*args, **kwargs)
        self._clear()
        return result

    def _clear(self) -> None:
        self._weakref = self._callback = self._args = self._kwargs = self._key = None

    def cancel(self) -> None:
        """Never call the function."""
        if self._key is not None and _finalizer_registry.pop(self._key, None) is not None:
            self._clear()

    def still_active(self) -> bool:
        """Return whether the function is still to be called."""
        return self._key in _finalizer_registry

    def __repr__(self) -> str:
        kind = type(self).__name__
        if self._weakref is None or self._weakref() is None or self._key is None:
            return f"<{kind} object, dead>"
        text = f"<{kind} object, callback={getattr(self._callback, '__name__', self._callback)}"
        if self._args:
            text += f", args={self._args}"
        if self._kwargs:
            text += f", kwargs={self._kwargs}"
        if self._key[0] is not None:
            text += f", exitpriority={self._key[0]}"
        return text + ">"


def _run_finalizers(minpriority: int | None = None) -> None:
    """Call the finalizers that have a priority, of at least ``minpriority`` if given."""

    def due(key: _FinalizerKey) -> bool:
        return key[0] is not None and (minpriority is None or key[0] >= minpriority)

    # A copy of the keys (atomic), because finalizers and other threads change the registry.
    keys = [key for key in list(_finalizer_registry) if due(key)]
    for key in sorted(keys, key=lambda key: (key[0] or 0, key[1]), reverse=True):
        finalizer = _finalizer_registry.get(key)
        if finalizer is None:
            continue
        sub_debug("calling %s", finalizer)
        try:
            finalizer()
        except Exception:
            import traceback

            traceback.print_exc()
    if minpriority is None:
        _finalizer_registry.clear()


# ------------------------------------------------------------------------------ end of process

_exiting: bool | None = False
_exitcode = 0


def is_exiting() -> bool:
    """Return whether this process is ending."""
    return _exiting or _exiting is None


def _exit_function(
    # Bound here because the module's globals may be gone by then.
    info: Callable[..., None] = info,
    debug: Callable[..., None] = debug,
    _run_finalizers: Callable[..., None] = _run_finalizers,
    active_children: Callable[[], list[process.BaseProcess]] = process.active_children,
    current_process: Callable[[], process.BaseProcess | None] = process.current_process,
) -> None:
    """At exit: run finalizers, end the daemons, wait for the other children."""
    global _exiting
    if not _exiting:
        _exiting = True
        native = sys.modules.get(f"{__package__}._native")
        if native is not None and isinstance(getattr(sys, "last_value", None), KeyboardInterrupt):
            # Told by now; the children that were interrupted with us need not.
            native.note_interrupt()
        info("process shutting down")
        debug('running all "atexit" finalizers with priority >= 0')
        _run_finalizers(0)
        if current_process() is not None:
            for child in active_children():
                if child.daemon:
                    info("calling terminate() for daemon %s", child.name)
                    child._started().terminate()
            for child in active_children():
                info("calling join() for process %s", child.name)
                child.join()
    debug('running the remaining "atexit" finalizers')
    _run_finalizers()


def _leave_session() -> None:
    """Say goodbye to the session, if this process ever came to be in one."""
    native = sys.modules.get(f"{__package__}._native")
    if native is not None:
        native.leave(_exitcode)


# The last registered is the first to run: the goodbye comes after everything of ours.
atexit.register(_leave_session)
atexit.register(_exit_function)


# ---------------------------------------------------------------------------- fork-aware types


class ForkAwareThreadLock:
    """A lock between threads that is free in every child, whoever held it in the parent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.acquire = self._lock.acquire
        self.release = self._lock.release
        register_after_fork(self, ForkAwareThreadLock._at_fork_reinit)

    def _at_fork_reinit(self) -> None:
        self._lock._at_fork_reinit()  # type: ignore[attr-defined]

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.__exit__(exc_type, exc_value, traceback)


class ForkAwareLocal(threading.local):
    """Thread-local data that starts empty in every child."""

    def __init__(self) -> None:
        register_after_fork(self, lambda obj: obj.__dict__.clear())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


# ------------------------------------------------------------------- descriptors and programs

try:
    MAXFD = os.sysconf("SC_OPEN_MAX")
except (OSError, ValueError):
    MAXFD = 256


def close_all_fds_except(fds: Iterable[int]) -> None:
    """Close every file descriptor that is not among ``fds``."""
    kept = sorted([*fds, -1, MAXFD])
    assert kept[-1] == MAXFD, "fd too large"
    for low, high in itertools.pairwise(kept):
        # An empty range is not asked for: closerange(0, 0) closes everything on some versions.
        if low + 1 < high:
            os.closerange(low + 1, high)


def check_descriptors(count: int) -> None:
    """OSError unless so many descriptors are free: better before a child exists than after."""
    taken: list[int] = []
    try:
        for _ in range(count):
            taken.append(os.pidfd_open(os.getpid()))
    finally:
        for fd in taken:
            os.close(fd)


def close_fds(*fds: int) -> None:
    """Close each of the file descriptors."""
    for fd in fds:
        os.close(fd)


_null_stdin: Any = None


def _close_stdin() -> None:
    """Let the standard input be /dev/null, as a child must not read its parent's."""
    global _null_stdin
    if sys.stdin is None or (sys.stdin is _null_stdin and not sys.stdin.closed):
        return
    try:
        sys.stdin.close()
    except (OSError, ValueError):
        pass
    try:
        fd = os.open(os.devnull, os.O_RDONLY)
        try:
            _null_stdin = sys.stdin = open(fd, encoding="utf-8", closefd=False)
        except BaseException:
            os.close(fd)
            raise
    except (OSError, ValueError):
        pass


def _flush_std_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError):
            pass  # None, or closed


def _args_from_interpreter_flags() -> list[str]:
    """The options with which an interpreter behaves as this one: -W, -X, -O and so on."""
    options: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return options


def spawnv_passfds(path: str | bytes, args: Sequence[str | bytes], passfds: Iterable[int]) -> int:
    """Start a program that inherits exactly the given descriptors; return its pid."""
    import _posixsubprocess

    errors_r, errors_w = os.pipe()
    try:
        arguments: list[Any] = [args, [path], True, tuple(sorted(map(int, passfds))), None, None]
        arguments += [-1, -1, -1, -1, -1, -1, errors_r, errors_w]
        arguments += [False, False, -1, None, None, None, -1, None]
        arguments += [subprocess._USE_VFORK]
        # Looked up at each call: debuggers replace it in order to follow the child.
        return int(_posixsubprocess.fork_exec(*arguments))
    finally:
        close_fds(errors_r, errors_w)


def _cleanup_tests() -> None:
    """Bring everything of the package to an end; test suites call it after their last test."""
    import gc

    from . import forkserver, resource_tracker

    process._cleanup()
    forkserver._forkserver._stop()
    resource_tracker._resource_tracker._stop()
    _run_finalizers()
    gc.collect()

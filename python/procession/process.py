"""The ``Process`` object, and who the current process, its parent and its children are.

A process object lives twice: in the parent, where it starts, watches and ends the
child, and in the child, where its ``run()`` is called by ``_bootstrap()``.  How a child
comes into being is the business of the ``popen_*`` modules; a process object only holds
one of their ``Popen`` objects.

``KeyboardInterrupt`` in a child.  Ctrl-C at a terminal interrupts every process of the
foreground group at once, and a traceback from each of them buries the one that matters.
So a child prints nothing about an interrupt when it is a pool's worker, when it runs in
the foreground group of a terminal, or when its parent was interrupted at the same time (a
service manager signals the whole group): the main process tells of it then.  A child that
alone was interrupted prints the traceback as it does for any other exception.  The exit
code is 1 in all cases.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from _weakrefset import WeakSet
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from . import _compat

if TYPE_CHECKING:
    from .popen_fork import Popen

__all__ = ["BaseProcess", "active_children", "current_process", "parent_process"]

# Seconds that a child which was interrupted waits to see whether its parent is as well.
_INTERRUPT_GRACE = 0.25

ORIGINAL_DIR: str | None
try:
    ORIGINAL_DIR = os.path.abspath(os.getcwd())
except OSError:
    ORIGINAL_DIR = None


def current_process() -> BaseProcess:
    """Return the process object of the current process."""
    return _current_process


def active_children() -> list[BaseProcess]:
    """Return the children that are still running; finished ones are reaped on the way."""
    _cleanup()
    return list(_children)


def parent_process() -> BaseProcess | None:
    """Return the process object of the parent, or None in the main process."""
    return _parent_process


def _cleanup() -> None:
    """Reap the children that have ended and forget them."""
    for child in list(_children):
        popen = child._popen
        if popen is not None and popen.poll() is not None:
            _children.discard(child)


class BaseProcess(_compat.Linkable):
    """Something that runs in a process of its own; used like ``threading.Thread``."""

    # What the session is told about the child: "process", "worker" or "manager".
    _role: str = "process"
    _start_method: str | None = None

    _identity: tuple[int, ...]
    _config: dict[str, Any]
    _parent_pid: int | None
    _parent_name: str
    _popen: Popen | None
    _closed: bool
    _sentinel: int
    _target: Callable[..., object] | None
    _args: tuple[Any, ...]
    _kwargs: dict[str, Any]
    _name: str
    _inheriting: bool

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Popen:
        raise NotImplementedError

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        assert group is None, "group argument must be None for now"
        self._identity = (*_current_process._identity, next(_process_counter))
        self._config = _current_process._config.copy()
        self._parent_pid = os.getpid()
        self._parent_name = _current_process.name
        self._popen = None
        self._closed = False
        self._target = target
        self._args = tuple(args)
        self._kwargs = dict(kwargs) if kwargs else {}
        self._name = name or f"{type(self).__name__}-{':'.join(map(str, self._identity))}"
        if daemon is not None:
            self.daemon = daemon
        _dangling.add(self)

    def _check_closed(self) -> None:
        if self._closed:
            raise ValueError("process object is closed")

    def run(self) -> None:
        """What the child does: call the target. Subclasses may override it."""
        if self._target:
            self._target(*self._args, **self._kwargs)

    def start(self) -> None:
        """Start the child process."""
        self._check_closed()
        assert self._popen is None, "cannot start a process twice"
        assert self._parent_pid == os.getpid(), (
            "can only start a process object created by current process"
        )
        assert not _current_process._config.get("daemon"), (
            "daemonic processes are not allowed to have children"
        )
        _cleanup()
        self._popen = self._Popen(self)
        self._sentinel = self._popen.sentinel
        # The target may refer to this object, and nobody here needs it any more.
        del self._target, self._args, self._kwargs
        _children.add(self)

    def _started(self) -> Popen:
        # Before start() this is None, and the caller gets the AttributeError that the
        # standard library gives for signalling a process that is not there.
        self._check_closed()
        return cast("Popen", self._popen)

    def interrupt(self) -> None:
        """Interrupt the process by SIGINT."""
        self._started().interrupt()

    def terminate(self) -> None:
        """End the process by SIGTERM."""
        self._started().terminate()

    def kill(self) -> None:
        """End the process by SIGKILL."""
        self._started().kill()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the child has ended, or until ``timeout`` seconds have passed.

        Nothing has to be emptied first: what a child has put into a queue is in shared
        memory, and its end does not depend on somebody reading it.
        """
        self._check_closed()
        assert self._parent_pid == os.getpid(), "can only join a child process"
        assert self._popen is not None, "can only join a started process"
        if self._popen.wait(timeout) is not None:
            _children.discard(self)

    def is_alive(self) -> bool:
        """Return whether the process is running."""
        self._check_closed()
        if self is _current_process:
            return True
        assert self._parent_pid == os.getpid(), "can only test a child process"
        if self._popen is None:
            return False
        if self._popen.poll() is None:
            return True
        _children.discard(self)
        return False

    def close(self) -> None:
        """Give back what the object holds; an error while the process is running."""
        if self._popen is not None:
            if self._popen.poll() is None:
                raise ValueError(
                    "Cannot close a process while it is still running. "
                    "You should first call join() or terminate()."
                )
            self._popen.close()
            self._popen = None
            del self._sentinel
            _children.discard(self)
        self._closed = True

    @property
    def name(self) -> str:
        """The name, for people; it need not be unique."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        assert isinstance(name, str), "name must be a string"
        self._name = name
        if self is _current_process:
            _compat.set_process_name(name)

    @property
    def daemon(self) -> bool:
        """Whether the process is ended when its parent ends, instead of being joined."""
        return bool(self._config.get("daemon", False))

    @daemon.setter
    def daemon(self, daemonic: bool) -> None:
        assert self._popen is None, "process has already started"
        self._config["daemon"] = daemonic

    @property
    def authkey(self) -> AuthenticationString:
        """The key by which processes of one program recognise each other."""
        return cast("AuthenticationString", self._config["authkey"])

    @authkey.setter
    def authkey(self, authkey: bytes) -> None:
        self._config["authkey"] = AuthenticationString(authkey)

    @property
    def exitcode(self) -> int | None:
        """The exit code (-N: ended by signal N), or None while it has not ended."""
        self._check_closed()
        return None if self._popen is None else self._popen.poll()

    @property
    def ident(self) -> int | None:
        """The process id, or None before the start."""
        self._check_closed()
        if self is _current_process:
            return os.getpid()
        return None if self._popen is None else self._popen.pid

    pid = ident

    @property
    def sentinel(self) -> int:
        """A file descriptor that becomes readable when the process ends (a pidfd)."""
        self._check_closed()
        try:
            return self._sentinel
        except AttributeError:
            raise ValueError("process not started") from None

    def __repr__(self) -> str:
        exitcode: int | None = None
        if self is _current_process:
            status = "started"
        elif self._closed:
            status = "closed"
        elif self._parent_pid != os.getpid():
            status = "unknown"
        elif self._popen is None:
            status = "initial"
        else:
            exitcode = self._popen.poll()
            status = "started" if exitcode is None else "stopped"
        parts = [type(self).__name__, f"name={self._name!r}"]
        if self._popen is not None:
            parts.append(f"pid={self._popen.pid}")
        parts += [f"parent={self._parent_pid}", status]
        if exitcode is not None:
            parts.append(f"exitcode={_exitcode_to_name.get(exitcode, exitcode)}")
        if self.daemon:
            parts.append("daemon")
        return f"<{' '.join(parts)}>"

    def _bootstrap(
        self, parent_sentinel: int | None = None, *, let_interrupts_in: bool = False
    ) -> int:
        """In the child: become this process, run, and return the exit code."""
        from . import _child, context, util

        global _children, _current_process, _parent_process, _process_counter
        try:
            if let_interrupts_in:
                _child.let_interrupts_in()
            if self._start_method is not None:
                context._force_start_method(self._start_method)
            _process_counter = itertools.count(1)
            _children = set()
            util._close_stdin()
            former, _current_process = _current_process, self
            _parent_process = _ParentProcess(self._parent_name, self._parent_pid, parent_sentinel)
            _compat.set_process_name(self._name)
            main_thread = threading.main_thread()
            if hasattr(main_thread, "_set_native_id"):
                main_thread._set_native_id()
            try:
                self._after_fork()
            finally:
                # Its finalizers must find the after-fork hooks done.
                del former
            util.info("child process calling self.run()")
            self.run()
            exitcode = 0
        except SystemExit as end:
            exitcode = _code_of(end)
        except BaseException as error:
            exitcode = 1
            if not (isinstance(error, KeyboardInterrupt) and self._interrupted_with_others()):
                _print_failure(self._name)
        finally:
            threading._shutdown()  # type: ignore[attr-defined]
            util.info("process exiting with exitcode %d", exitcode)
            util._flush_std_streams()
        return exitcode

    def _interrupted_with_others(self) -> bool:
        """Whether somebody else reports this KeyboardInterrupt; see the module's text."""
        from . import _native

        _native.note_interrupt()
        parent = None if _parent_process is None else _parent_process.pid
        return self._role == "worker" or is_interrupted_with(parent)

    @staticmethod
    def _after_fork() -> None:
        from . import util

        util._finalizer_registry.clear()
        util._run_after_forkers()


def _code_of(end: SystemExit) -> int:
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code
    if sys.stderr is not None:
        sys.stderr.write(f"{end.code}\n")
    return 1


def _print_failure(name: str) -> None:
    if sys.stderr is not None:
        import traceback

        sys.stderr.write(f"Process {name}:\n")
        traceback.print_exc()


def _in_terminal_foreground() -> bool:
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def is_interrupted_with(parent: int | None) -> bool:
    """Whether the signal that has interrupted this process went to its ``parent`` as well."""
    return _in_terminal_foreground() or _is_interrupted(parent)


def _is_interrupted(parent: int | None) -> bool:
    from . import _native

    if parent is None:
        return False
    # The same signal may reach it a little later, and it may have to come out of a computation.
    deadline = time.monotonic() + _INTERRUPT_GRACE
    while not (interrupted := _native.was_interrupted(parent)):
        if time.monotonic() > deadline:
            break
        time.sleep(0.005)
    return interrupted


class AuthenticationString(bytes):
    """An authentication key; pickled only into a child that is being started."""

    def __reduce__(self) -> tuple[Any, ...]:
        from .context import get_spawning_popen

        if get_spawning_popen() is None:
            raise TypeError(
                "Pickling an AuthenticationString object is disallowed for security reasons"
            )
        return AuthenticationString, (bytes(self),)


class _ParentProcess(BaseProcess):
    """The parent as its child sees it: watched through a pidfd, never joined by waitpid."""

    def __init__(self, name: str, pid: int | None, sentinel: int | None) -> None:
        self._identity = ()
        self._name = name
        self._pid = pid
        self._parent_pid = None
        self._popen = None
        self._closed = False
        if sentinel is not None:
            self._sentinel = sentinel
        self._config = {}

    def is_alive(self) -> bool:
        """Return whether the parent is running."""
        from . import _native

        return not _native.wait_exit(self.sentinel, 0.0)

    def join(self, timeout: float | None = None) -> None:
        """Wait until the parent has ended, or until ``timeout`` seconds have passed."""
        from . import _native

        _native.wait_exit(self.sentinel, None if timeout is None else max(timeout, 0.0))

    @property
    def ident(self) -> int | None:
        """The process id."""
        return self._pid

    pid = ident


class _MainProcess(BaseProcess):
    """The process that the user started; everything in its config is inherited."""

    def __init__(self) -> None:
        self._identity = ()
        self._name = "MainProcess"
        self._parent_pid = None
        self._popen = None
        self._closed = False
        self._config = {"authkey": AuthenticationString(os.urandom(32)), "semprefix": "/mp"}

    def close(self) -> None:
        """The main process holds nothing that could be given back."""


_parent_process: BaseProcess | None = None
_current_process: BaseProcess = _MainProcess()
_first_authkey = _current_process.authkey
_process_counter = itertools.count(1)
_children: set[BaseProcess] = set()

_exitcode_to_name: dict[int, str] = {-number: f"-{number.name}" for number in signal.Signals}


def _forget_children() -> None:
    """In a forked child, also one of os.fork(): the children are the parent's, not ours."""
    global _children
    _children = set()


os.register_at_fork(after_in_child=_forget_children)

# Every process object that is still referred to; test suites look here for leaks.
_dangling: WeakSet[BaseProcess] = WeakSet()

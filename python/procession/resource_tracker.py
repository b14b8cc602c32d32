"""A process that removes named resources which a program has left behind.

Almost everything of this package lies in anonymous memory and needs no cleaning up.  Only
named shared memory (``shared_memory.SharedMemory``) has a name in the file system that
outlives the program.  Every process of the program tells the tracker, through one pipe,
what it has made and removed; when the last writer of the pipe has gone, the tracker
removes the rest and says so.

The pipe is handed to every child, but the tracker is started by whichever process first
has something to register.  Who has it running is settled by a lock on the pipe's reading
end: the tracker holds it all its life.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from typing import NoReturn

from . import spawn, util

__all__ = ["ensure_running", "register", "unregister"]

_IGNORED_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# POSIX guarantees that no other writer gets in between the bytes of a message so long.
_MAX_MESSAGE = 512


def cleanup_noop(name: str) -> NoReturn:
    """Stands for the kind of resource that only probes name."""
    raise RuntimeError("noop should never be registered or cleaned up")


def _ignore(name: str) -> None:
    """Clean up a resource that test suites make up."""


def _unlink_shared_memory(name: str) -> None:
    import _posixshmem  # type: ignore[import-not-found]

    _posixshmem.shm_unlink(name)


_CLEANUP_FUNCS: dict[str, Callable[[str], object]] = {
    "noop": cleanup_noop,
    "dummy": _ignore,
    "shared_memory": _unlink_shared_memory,
}


class ReentrantCallError(RuntimeError):
    """The tracker was called by something that it had called itself."""


class ResourceTracker:
    """Access to the tracker, which is started when it is first needed."""

    def __init__(self) -> None:
        # Reentrant so that reentrance can be noticed instead of being a deadlock.
        self._lock = threading.RLock()
        self._entered = False
        self._fd: int | None = None
        self._read_fd: int | None = None
        self._pid: int | None = None
        self._exitcode: int | None = None

    def _stop(self) -> None:
        """End the tracker, if this process is the last that uses it, and wait for it."""
        with self._lock:
            if self._entered:
                raise ReentrantCallError("Reentrant call into the multiprocessing resource tracker")
            for fd in (self._fd, self._read_fd):
                if fd is not None:
                    os.close(fd)
            self._fd = self._read_fd = None
            if self._pid is not None:
                _, status = os.waitpid(self._pid, 0)
                self._pid = None
                self._exitcode = os.waitstatus_to_exitcode(status)

    def getfd(self) -> int:
        """Return the writing end of the pipe of a tracker that is running."""
        self.ensure_running()
        assert self._fd is not None
        return self._fd

    def fds_for_child(self) -> tuple[int, int]:
        """Return both ends of the pipe, for a child; the tracker need not be running."""
        with self._lock:
            return self._pipe()

    def inherit(self, fds: tuple[int, int]) -> None:
        """In a child: use the pipe that the parent has handed over."""
        for fd in fds:
            os.set_inheritable(fd, False)
        self._fd, self._read_fd = fds
        self._pid = None

    def _pipe(self) -> tuple[int, int]:
        if self._fd is None:
            self._read_fd, self._fd = os.pipe()
        elif self._read_fd is None:
            # Somebody else's child got only this end; the tracker has the other.
            self._read_fd = os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_NONBLOCK)
        return self._fd, self._read_fd

    def ensure_running(self) -> None:
        """Start the tracker unless some process of the program has it running already."""
        with self._lock:
            if self._entered:
                # A finalizer came in between; what it interrupts is starting the tracker.
                raise ReentrantCallError("Reentrant call into the multiprocessing resource tracker")
            self._entered = True
            try:
                self._start_unless_running()
            finally:
                self._entered = False

    def _start_unless_running(self) -> None:
        _, read_fd = self._pipe()
        # Opened anew, because a lock belongs to an opening, and all have inherited this one.
        fd = os.open(f"/proc/self/fd/{read_fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            if self._pid is not None:
                self._reap_dead()
            os.set_blocking(fd, True)
            self._start(fd)
        finally:
            os.close(fd)

    def _reap_dead(self) -> None:
        assert self._pid is not None
        try:
            os.waitpid(self._pid, 0)
        except ChildProcessError:
            pass
        self._pid = self._exitcode = None
        warnings.warn(
            "resource_tracker: process died unexpectedly, relaunching.  Some resources might leak.",
            stacklevel=4,
        )

    def _start(self, fd: int) -> None:
        inherited = [fd]
        try:
            inherited.append(sys.stderr.fileno())
        except Exception:
            pass  # None, closed, or not a file: then there is nobody to warn
        executable = spawn.get_executable()
        program = f"{spawn._import_statement('resource_tracker', 'main')}; main({fd})"
        command = [executable, *util._args_from_interpreter_flags(), "-c", program]
        # Blocked until the tracker ignores them: Ctrl-C right now must not end it.
        old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED_SIGNALS)
        try:
            self._pid = util.spawnv_passfds(executable, command, inherited)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)

    def _check_alive(self) -> bool:
        """Return whether the tracker still reads."""
        if self._fd is None or self._read_fd is None:
            return False
        fd = os.open(f"/proc/self/fd/{self._read_fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def register(self, name: str, rtype: str) -> None:
        """Note that the program has made the resource ``name`` of the kind ``rtype``."""
        self._send("REGISTER", name, rtype)

    def unregister(self, name: str, rtype: str) -> None:
        """Note that the resource has been removed."""
        self._send("UNREGISTER", name, rtype)

    def _send(self, cmd: str, name: str, rtype: str) -> None:
        message = f"{cmd}:{name}:{rtype}\n".encode("ascii")
        if len(message) > _MAX_MESSAGE:
            raise ValueError("msg too long")
        try:
            self.ensure_running()
        except ReentrantCallError:
            warnings.warn(
                "ResourceTracker called reentrantly for resource cleanup, which is unsupported. "
                f"The {rtype} object {name!r} might leak.",
                stacklevel=3,
            )
        assert self._fd is not None
        written = os.write(self._fd, message)
        assert written == len(message), f"nbytes {written} but len(msg) {len(message)}"


_resource_tracker = ResourceTracker()
ensure_running = _resource_tracker.ensure_running
register = _resource_tracker.register
unregister = _resource_tracker.unregister
getfd = _resource_tracker.getfd
fds_for_child = _resource_tracker.fds_for_child


def main(fd: int) -> NoReturn:
    """Be the tracker: read the pipe ``fd`` to its end, then clean up."""
    for number in _IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _IGNORED_SIGNALS)
    for stream in (sys.stdin, sys.stdout):
        try:
            stream.close()
        except Exception:
            pass
    cache: dict[str, set[str]] = {rtype: set() for rtype in _CLEANUP_FUNCS}
    exitcode = 0
    try:
        with open(fd, "rb") as messages:
            for line in messages:
                try:
                    _note(cache, line)
                except Exception:
                    exitcode = 3
                    sys.excepthook(*sys.exc_info())
    finally:
        exitcode = max((_clean_up(rtype, names) for rtype, names in cache.items()), default=0) or (
            exitcode
        )
        sys.exit(exitcode)


def _note(cache: dict[str, set[str]], line: bytes) -> None:
    cmd, name, rtype = line.strip().decode("ascii").split(":")
    if rtype not in _CLEANUP_FUNCS:
        raise ValueError(
            f"Cannot register {name} for automatic cleanup: unknown resource type {rtype}"
        )
    if cmd == "REGISTER":
        cache[rtype].add(name)
    elif cmd == "UNREGISTER":
        cache[rtype].remove(name)
    elif cmd != "PROBE":
        raise RuntimeError(f"unrecognized command {cmd!r}")


def _clean_up(rtype: str, names: set[str]) -> int:
    """Remove what is left of a kind; return 0 if nothing was, 2 if something stays, else 1."""
    if not names:
        return 0
    # Test suites leave these behind on purpose.
    if rtype != "dummy":
        _warn(
            f"resource_tracker: There appear to be {len(names)} leaked {rtype} objects to "
            f"clean up at shutdown: {names}"
        )
    result = 1
    for name in names:
        try:
            _CLEANUP_FUNCS[rtype](name)
        except Exception as error:
            result = 2
            _warn(f"resource_tracker: {name!r}: {error}")
    return result


def _warn(message: str) -> None:
    try:
        warnings.warn(message, stacklevel=3)
    except Exception:
        pass  # the filters make it an error; the cleaning up goes on

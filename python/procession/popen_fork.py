"""Start a child by forking this process, and look after it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import NoReturn

from . import _child, _compat, _native, process, util

__all__ = ["Popen"]

# The pidfds of all children of this process; what it forks closes them.
_sentinels: set[int] = set()

# "The next fork is that of ..." must not be said by two threads at once.
_forking = threading.RLock()

# What exitcode says about a child that ended without anybody learning how.
UNKNOWN_EXIT = 255


def _close_sentinel(fd: int) -> None:
    _sentinels.discard(fd)
    os.close(fd)


class Popen:
    """A started child: its pid, its pidfd as ``sentinel``, and how it ended."""

    method = "fork"

    pid: int
    sentinel: int

    def __init__(self, process_obj: process.BaseProcess) -> None:
        # For its pidfd; and for what it opens in the beginning, with a copy of ours.
        util.check_descriptors(4)
        util._flush_std_streams()
        _compat.prepare_logging()
        self.returncode: int | None = None
        self.finalizer: util.Finalize | None = None
        self._kept: list[object] = []
        # Reentrant, as a signal handler may ask for the exit code in the middle of asking.
        self._reaping = threading.RLock()
        if self.method == "fork":
            self._share_results(process_obj)
        self._token = _native.prepare_child(process_obj._name, process_obj._role)
        try:
            self._launch(process_obj)
        except BaseException:
            _native.child_abandoned(self._token)
            raise

    @staticmethod
    def _share_results(process_obj: process.BaseProcess) -> None:
        """A pool's results among the arguments get futures, as they do when they are pickled."""
        if f"{__package__}.pool" in sys.modules:
            from ._pool_futures import share_arguments

            share_arguments(process_obj._args, process_obj._kwargs)

    def duplicate_for_child(self, fd: int) -> int:
        """Let the child have ``fd``; return what it will know it by."""
        return fd

    def keep(self, obj: object) -> None:
        """Let ``obj``, which is on its way to the child, exist until the child has it."""
        self._kept.append(obj)

    def _let_go(self) -> None:
        if self._kept and (self.returncode is not None or _native.child_ready(self._token)):
            self._kept.clear()

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """Return the exit code, or None while the child runs; wait for it if flag is 0."""
        if self.returncode is None:
            if not flag & os.WNOHANG:
                _native.wait_exit(self.sentinel, None)
            with self._reaping:
                if self.returncode is None:
                    self._note(self._reap())
        self._let_go()
        return self.returncode

    def _reap(self) -> int | None:
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            # Somebody else has waited for it, or SIGCHLD is ignored: how it ended is lost.
            if not _native.wait_exit(self.sentinel, 0.0):
                return None
            code = _native.exit_status(self._token)
            return UNKNOWN_EXIT if code is None else code
        return os.waitstatus_to_exitcode(status) if pid == self.pid else None

    def _note(self, code: int | None) -> None:
        if code is not None and self.returncode is None:
            self.returncode = code
            _native.child_exited(self._token, code)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end of the child; return its exit code, or None after the timeout."""
        if self.returncode is not None:
            return self.returncode
        limit = None if timeout is None else max(timeout, 0.0)
        if not _native.wait_exit(self.sentinel, limit):
            self._let_go()
            return None
        return self.poll()

    def _send_signal(self, sig: int) -> None:
        if self.returncode is None:
            try:
                # By pidfd: should somebody else have reaped it, its pid may be another's.
                signal.pidfd_send_signal(self.sentinel, sig)
            except ProcessLookupError:
                pass
            except OSError:
                if self.wait(timeout=0.1) is None:
                    raise

    def interrupt(self) -> None:
        """Send SIGINT to the child."""
        self._send_signal(signal.SIGINT)

    def terminate(self) -> None:
        """Send SIGTERM to the child."""
        self._send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the child."""
        self._send_signal(signal.SIGKILL)

    def _launch(self, process_obj: process.BaseProcess) -> None:
        parent_pid = os.getpid()
        interruptible = _child.is_interruptible()
        with _forking, _child.interrupts_held_back():
            _native.fork_into(self._token)
            pid = os.fork()
        if pid == 0:
            self._run_child(process_obj, parent_pid, interruptible)
        self._adopt(pid)

    def _adopt(self, pid: int, sentinel: int | None = None) -> None:
        """Begin to look after the child ``pid``, which is running."""
        if sentinel is None:
            try:
                sentinel = os.pidfd_open(pid)
            except OSError:
                # No descriptor left: a child that nobody can watch must not go on.
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
        self.pid, self.sentinel = pid, sentinel
        _sentinels.add(sentinel)
        self.finalizer = util.Finalize(self, _close_sentinel, (sentinel,))
        _native.child_started(self._token, pid)

    def _run_child(
        self, process_obj: process.BaseProcess, parent_pid: int, interruptible: bool
    ) -> NoReturn:
        code = 1
        try:
            _child.start_over_at_exit()
            _child.enter(self._token, parent_pid)
            _child.forget_parents_files(_sentinels)
            sentinel = _child.open_sentinel(parent_pid)
            code = process_obj._bootstrap(sentinel, let_interrupts_in=interruptible)
        except Exception:
            # Not the user's code, whose errors _bootstrap() tells: ours.
            sys.excepthook(*sys.exc_info())
        finally:
            _child.finish(code)

    def close(self) -> None:
        """Close the sentinel."""
        if self.finalizer is not None:
            self.finalizer()

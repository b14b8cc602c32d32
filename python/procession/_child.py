"""The first and the last steps of a child process, however it was started."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
from collections.abc import Iterator
from typing import NoReturn

from . import _native, process, util

__all__ = [
    "enter",
    "finish",
    "interrupts_held_back",
    "is_interruptible",
    "let_interrupts_in",
    "open_sentinel",
]


def is_interruptible() -> bool:
    """Whether this thread gets the signal of Ctrl-C, and so its children should."""
    return signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@contextlib.contextmanager
def interrupts_held_back() -> Iterator[None]:
    """While a child is started: a Ctrl-C reaches it only once it can deal with it.

    The child has the signal blocked, also where it is a fork that leaves this block of code.
    """
    parent = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        if os.getpid() == parent:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_interrupts_in() -> None:
    """In the child, once it can tell of a ``KeyboardInterrupt``, or not tell."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def enter(token: int, parent_pid: int, session_fd: int = -1) -> None:
    """Become the member of the session that ``token`` names, and end with ``parent_pid``.

    ``session_fd`` is the session's memory, for an interpreter that has not inherited it.
    """
    if session_fd >= 0:
        os.set_inheritable(session_fd, False)
    _native.enter_child(token, session_fd)
    _native.guard_orphan(parent_pid)


def open_sentinel(parent_pid: int) -> int:
    """A descriptor that becomes readable when this process's parent ends."""
    try:
        sentinel = os.pidfd_open(parent_pid)
    except ProcessLookupError:
        return _always_readable()
    if os.getppid() != parent_pid:
        # It ended before, and the pid may already belong to somebody else.
        os.close(sentinel)
        return _always_readable()
    return sentinel


def _always_readable() -> int:
    reader, writer = os.pipe()
    os.close(writer)
    return reader


def forget_parents_files(sentinels: set[int]) -> None:
    """In a forked child: close what belongs to the parent's life, such as its children's pidfds.

    Without this the descriptors of a child would grow with the number of its siblings.
    """
    for fd in sentinels:
        os.close(fd)
    sentinels.clear()
    grandparent = process.parent_process()
    if grandparent is not None and getattr(grandparent, "_sentinel", -1) >= 0:
        os.close(grandparent._sentinel)


def start_over_at_exit() -> None:
    """In a forked child: what the parent wanted done at its exit is not for this process."""
    atexit._clear()
    atexit.register(util._exit_function)


def finish(code: int) -> NoReturn:
    """End this process: exit functions, streams, goodbye to the session, gone.

    A forked child leaves without taking the interpreter apart: it would spend more time on
    that than most children run, and would run destructors of objects that the parent has.
    """
    try:
        atexit._run_exitfuncs()
        util._flush_std_streams()
    finally:
        try:
            _native.leave(code)
        finally:
            os._exit(code)

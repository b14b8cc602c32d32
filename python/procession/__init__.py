"""Processes that talk through shared memory: a drop-in for ``multiprocessing``.

The names, signatures and exceptions are those of the standard library's package, so that
``import procession as multiprocessing`` is all that a program has to change.
"""

from __future__ import annotations

import os
import sys

if sys.platform != "linux" or os.uname().machine not in ("x86_64", "aarch64"):
    raise ImportError("procession runs on Linux on x86_64 and aarch64 only")

from . import _compat, context, process as process, reduction as reduction
from ._install import install as install
from .context import (
    AuthenticationError,
    BufferTooShort,
    Process,
    ProcessError,
    TimeoutError,
)
from .process import active_children, current_process, parent_process

__all__ = [
    "Array",
    "AuthenticationError",
    "Barrier",
    "BoundedSemaphore",
    "BufferTooShort",
    "Condition",
    "Event",
    "JoinableQueue",
    "Lock",
    "Manager",
    "Pipe",
    "Pool",
    "Process",
    "ProcessError",
    "Queue",
    "RLock",
    "RawArray",
    "RawValue",
    "Semaphore",
    "SimpleQueue",
    "TimeoutError",
    "Value",
    "active_children",
    "allow_connection_pickling",
    "cpu_count",
    "current_process",
    "freeze_support",
    "get_all_start_methods",
    "get_context",
    "get_logger",
    "get_start_method",
    "log_to_stderr",
    "parent_process",
    "reducer",
    "set_executable",
    "set_forkserver_preload",
    "set_start_method",
]

_default = context._default_context

Array = _default.Array
Barrier = _default.Barrier
BoundedSemaphore = _default.BoundedSemaphore
Condition = _default.Condition
Event = _default.Event
JoinableQueue = _default.JoinableQueue
Lock = _default.Lock
Manager = _default.Manager
Pipe = _default.Pipe
Pool = _default.Pool
Queue = _default.Queue
RLock = _default.RLock
RawArray = _default.RawArray
RawValue = _default.RawValue
Semaphore = _default.Semaphore
SimpleQueue = _default.SimpleQueue
Value = _default.Value
allow_connection_pickling = _default.allow_connection_pickling
cpu_count = _default.cpu_count
freeze_support = _default.freeze_support
get_all_start_methods = _default.get_all_start_methods
get_context = _default.get_context
get_logger = _default.get_logger
get_start_method = _default.get_start_method
log_to_stderr = _default.log_to_stderr
reducer = _default.reducer
set_executable = _default.set_executable
set_forkserver_preload = _default.set_forkserver_preload
set_start_method = _default.set_start_method

SUBDEBUG = 5
SUBWARNING = 25

# Functions of the main module are pickled under this name; in children that import the
# main module anew it is that module's.
if "__main__" in sys.modules:
    sys.modules["__mp_main__"] = sys.modules["__main__"]

_compat.watch()


def __getattr__(name: str) -> object:
    """Return a module that the standard package would have loaded along the way by now.

    Programs say ``mp.connection.wait`` having made no more than a queue.
    """
    if name in ("connection", "pool", "queues", "synchronize", "util"):
        import importlib

        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

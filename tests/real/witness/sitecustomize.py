"""Writes down which code of the two packages is run, by every process that Python starts.

An audit hook sees each module's code just before it is executed, cannot be removed, and stays in
forked children.
"""

from __future__ import annotations

import os
import sys
from typing import Any


def _watch() -> None:
    log = os.environ.get("WITNESS_LOG")
    if not log:
        return
    standard = os.path.join(os.path.dirname(os.__file__), "multiprocessing", "")
    ours = os.path.join("procession", "")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.fork":
            write("fork", "")
        elif event == "exec":
            path = getattr(arguments[0], "co_filename", "")
            if path.startswith(standard):
                write("standard", path.removeprefix(standard))
            elif os.path.dirname(path).endswith("procession") and path.endswith(".py"):
                write("procession", path.rpartition(ours)[2])

    def write(what: str, which: str) -> None:
        # Opened each time: programs close descriptors that they do not know.
        file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(file, f"{os.getpid()} {what} {which}\n".encode())
        finally:
            os.close(file)

    sys.addaudithook(hook)


_watch()

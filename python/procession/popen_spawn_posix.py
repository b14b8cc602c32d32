"""Start a child as a fresh interpreter."""

from __future__ import annotations

import io
import os

from . import _child, _native, context, popen_fork, process, resource_tracker, spawn, util
from .context import set_spawning_popen

__all__ = ["Popen"]


class _DupFd:
    """A descriptor that the child inherits under its own number."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def detach(self) -> int:
        return self.fd


class Popen(popen_fork.Popen):
    """A started child that is a fresh interpreter."""

    method = "spawn"
    DupFd = _DupFd

    def __init__(self, process_obj: process.BaseProcess) -> None:
        self._fds: list[int] = []
        super().__init__(process_obj)

    def duplicate_for_child(self, fd: int) -> int:
        """Let the child inherit ``fd``."""
        self._fds.append(fd)
        return fd

    def _launch(self, process_obj: process.BaseProcess) -> None:
        prep_data = spawn.get_preparation_data(process_obj._name)
        session_fd = _native.session_fd()
        tracker_fds = resource_tracker.fds_for_child()
        prep_data[spawn.MEMBER] = spawn.Member(
            self._token,
            os.getpid(),
            session_fd,
            tracker_fds,
            spawn.is_installed(),
            _child.is_interruptible(),
        )
        self._fds += [session_fd, *tracker_fds]
        data = io.BytesIO()
        set_spawning_popen(self)
        try:
            context.reduction.dump(prep_data, data)
            context.reduction.dump(process_obj, data)
        finally:
            set_spawning_popen(None)
        # A file in memory, not a pipe: start() need not wait until the child has read, and
        # a child that dies before that is a child with an exit code, not a broken pipe.
        pipe_handle = os.memfd_create("procession-start")
        try:
            _write_all(pipe_handle, memoryview(data.getvalue()))
            os.lseek(pipe_handle, 0, os.SEEK_SET)
            self._fds.append(pipe_handle)
            command = spawn.get_command_line(
                tracker_fd=tracker_fds[0], pipe_handle=pipe_handle, parent_pid=os.getpid()
            )
            executable = spawn.get_executable()
            with _child.interrupts_held_back():
                pid = util.spawnv_passfds(executable, command, self._fds)
            self._adopt(pid)
        finally:
            os.close(pipe_handle)


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]

"""Start a child by way of the fork server."""

from __future__ import annotations

import io
import os

from . import _native, context, forkserver, popen_fork, process, reduction, spawn
from .context import set_spawning_popen

if not reduction.HAVE_SEND_HANDLE:
    raise ImportError("No support for sending fds between processes")

__all__ = ["Popen"]


class _DupFd:
    """A descriptor that the child gets under a new number, known by its place in a list."""

    def __init__(self, ind: int) -> None:
        self.ind = ind

    def detach(self) -> int:
        fds = forkserver.get_inherited_fds()
        assert fds is not None
        return fds[self.ind]


class Popen(popen_fork.Popen):
    """A started child whose real parent is the fork server, which alone can reap it."""

    method = "forkserver"
    DupFd = _DupFd

    def __init__(self, process_obj: process.BaseProcess) -> None:
        self._fds: list[int] = []
        super().__init__(process_obj)

    def duplicate_for_child(self, fd: int) -> int:
        """Let the child get ``fd``; return its place among the child's descriptors."""
        self._fds.append(fd)
        return len(self._fds) - 1

    def _launch(self, process_obj: process.BaseProcess) -> None:
        prep_data = spawn.get_preparation_data(process_obj._name)
        data = io.BytesIO()
        set_spawning_popen(self)
        try:
            context.reduction.dump(prep_data, data)
            context.reduction.dump(process_obj, data)
        finally:
            set_spawning_popen(None)
        server = forkserver._forkserver
        # Not `getbuffer`, which an interrupt would leave in the traceback: since 3.13 it is told of
        # that the file ends before its buffer does.
        contents = memoryview(data.getvalue())
        self._adopt(*server.start_child(self._token, contents, self._fds))
        self._server_pid = server._forkserver_pid

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """Return the exit code, or None while the child runs; wait for it if flag is 0."""
        if self.returncode is None:
            limit = 0.0 if flag & os.WNOHANG else None
            if _native.wait_exit(self.sentinel, limit):
                self.returncode = forkserver._forkserver.collect(
                    self._token, self._server_pid, popen_fork.UNKNOWN_EXIT
                )
        self._let_go()
        return self.returncode

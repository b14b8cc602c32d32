"""The fork server, seen from the processes that use it.

The server is a *zygote*: one clean, single-threaded interpreter that has imported the main
module and the modules of ``set_forkserver_preload``, and forks a ready child for each
request in about a millisecond.  What it does with a request is in ``_zygote.py``.

A request is one message on a Unix socket of packets: a header, the pickled child if it is
small (else it is in a file in memory), and the child's descriptors.  The answer is one
message as well: the pid, and a pidfd.  The exit status comes by way of the session.

The process that first needs the server starts it and is its owner; what the owner and its
descendants fork or have forked by the server uses the same one.  The server ends with its
owner, and so do its children.
"""

from __future__ import annotations

import array
import errno
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Sequence
from typing import Any

from . import _child, _native, resource_tracker, spawn, util

__all__ = [
    "connect_to_new_process",
    "ensure_running",
    "get_inherited_fds",
    "set_forkserver_preload",
]

# The kernel passes at most 253 descriptors in a message.
MAXFDS_TO_SEND = 256
_KERNEL_MAXFDS = 253
SIGNED_STRUCT = struct.Struct("q")

# Header of a request: the child's token, kind of request, number of descriptors of ours.
REQUEST = struct.Struct("=QBB")
INLINE, IN_FILE, BY_PIPE = range(3)
# Larger pickles go through a file, so that a request always fits into a socket's buffer.
MAX_INLINE = 32 * 1024
MAX_REQUEST = REQUEST.size + MAX_INLINE

_ON_ERROR = ("ignore", "warn", "fail")

# How long to wait, after a child's death, for the server to say how it died.
_STATUS_TIMEOUT = 10.0


class ForkServer:
    """Access to the fork server of this process and its relatives."""

    def __init__(self) -> None:
        self._forkserver_address: str | bytes | None = None
        self._forkserver_alive_fd: int | None = None
        self._forkserver_pid: int | None = None
        self._forkserver_pidfd: int | None = None
        self._owner_pid: int | None = None
        self._token = 0
        self._inherited_fds: list[int] | None = None
        self._preload_modules: list[str] = ["__main__"]
        self._on_error = "ignore"
        self._lock = util.ForkAwareThreadLock()

    def _stop(self) -> None:
        """End the server and wait until it has ended; only its owner can."""
        with self._lock:
            self._stop_unlocked()

    def _stop_unlocked(self) -> None:
        if self._forkserver_pid is None or self._owner_pid != os.getpid():
            return
        if self._forkserver_alive_fd is not None:
            # A byte and not only the end of the file: forked children have the pipe as well.
            try:
                os.write(self._forkserver_alive_fd, b"\0")
            except BrokenPipeError:
                pass
        self._forget()

    def _forget(self) -> None:
        """Let go of a server that is dead or about to end, and reap it if it is our child."""
        if self._owner_pid == os.getpid() and self._forkserver_pid is not None:
            try:
                _, status = os.waitpid(self._forkserver_pid, 0)
                _native.child_exited(self._token, os.waitstatus_to_exitcode(status))
            except ChildProcessError:
                pass
        for fd in (self._forkserver_alive_fd, self._forkserver_pidfd):
            if fd is not None:
                os.close(fd)
        self._forkserver_address = None
        self._forkserver_alive_fd = self._forkserver_pidfd = self._forkserver_pid = None

    def set_forkserver_preload(
        self, modules_names: Sequence[str], *, on_error: str = "ignore"
    ) -> None:
        """Set the modules that the server imports before it forks; a hint, as it may run.

        ``on_error``: "ignore" modules that cannot be imported, "warn" about them, or
        "fail", which ends the server.
        """
        if not all(type(name) is str for name in modules_names):
            raise TypeError("module_names must be a list of strings")
        if on_error not in _ON_ERROR:
            raise ValueError(f"on_error must be one of {_ON_ERROR}, not {on_error!r}")
        self._preload_modules = list(modules_names)
        self._on_error = on_error

    def get_inherited_fds(self) -> list[int] | None:
        """Return what the parent sent along, or None if the fork server did not start us."""
        return self._inherited_fds

    def connect_to_new_process(self, fds: Sequence[int]) -> tuple[int, int]:
        """Ask for a child that reads its pickles from a pipe.

        Return ``(status_r, data_w)``.  From ``status_r`` the child's pid can be read at
        once and its exit code at its end, both with read_signed(); into ``data_w`` belong
        the preparation data and the process object.
        """
        opened: list[int] = []
        token = _native.prepare_child("forkserver child", "process")
        try:
            opened += os.pipe()
            opened += os.pipe()
            status_r, status_w, data_r, data_w = opened
            pid, pidfd = self.request(token, BY_PIPE, b"", [data_r, status_w, *fds])
        except BaseException:
            _native.child_abandoned(token)
            util.close_fds(*opened)
            raise
        _native.child_started(token, pid)
        util.close_fds(pidfd, status_w, data_r)
        return status_r, data_w

    def start_child(self, token: int, data: memoryview, fds: Sequence[int]) -> tuple[int, int]:
        """Have a child forked that unpickles ``data``; return its pid and a pidfd."""
        if len(data) <= MAX_INLINE:
            return self.request(token, INLINE, bytes(data), fds)
        with open(os.memfd_create("procession-start"), "w+b", buffering=0) as file:
            while data:
                data = data[file.write(data) :]
            file.seek(0)
            return self.request(token, IN_FILE, b"", [file.fileno(), *fds])

    def request(self, token: int, kind: int, data: bytes, fds: Sequence[int]) -> tuple[int, int]:
        """Send one request to the server and return its answer: pid and pidfd."""
        all_fds = [*resource_tracker.fds_for_child(), *fds]
        if len(all_fds) > _KERNEL_MAXFDS:
            raise ValueError("too many fds")
        message = REQUEST.pack(token, kind, len(all_fds)) + data
        with self._connect() as client:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", all_fds))
            # Taken now: a child whose pidfd there is no room for would run unseen.
            place = os.dup(client.fileno())
            try:
                client.sendmsg([message], [rights])
                client.recv(1, socket.MSG_PEEK)
            finally:
                os.close(place)
            answer, pidfds, flags, _ = socket.recv_fds(
                client, SIGNED_STRUCT.size, 1, socket.MSG_CMSG_CLOEXEC
            )
        if len(answer) != SIGNED_STRUCT.size:
            raise RuntimeError("the fork server ended before it had started the process")
        number: int = SIGNED_STRUCT.unpack(answer)[0]
        if number < 0:
            raise OSError(
                -number, f"the fork server cannot start a process: {os.strerror(-number)}"
            )
        if flags & socket.MSG_CTRUNC or len(pidfds) != 1:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return number, pidfds[0]

    def _connect(self) -> socket.socket:
        """A connection to the server, which is started if need be."""
        while True:
            self.ensure_running()
            client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            # Whatever socket.setdefaulttimeout() says: the server may be importing.
            client.settimeout(None)
            try:
                assert self._forkserver_address is not None
                client.connect(self._forkserver_address)
                # The address may have become another's since our server died.
                if not is_same_user(client):
                    raise PermissionError("the fork server's address is used by another user")
                return client
            except ConnectionRefusedError:
                client.close()
                if self.is_running():
                    raise
            except BaseException:
                client.close()
                raise

    def is_running(self) -> bool:
        """Return whether there is a server that is alive."""
        pidfd = self._forkserver_pidfd
        if pidfd is None:
            return False
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return not poll.poll(0)

    def ensure_running(self) -> None:
        """Start the server unless it is running. Any process may call this."""
        with self._lock:
            if self.is_running():
                return
            self._forget()
            self._start()

    def _start(self) -> None:
        token = _native.prepare_child("forkserver", "zygote")
        alive_r = alive_w = owner = -1
        try:
            session_fd = _native.session_fd()
            alive_r, alive_w = os.pipe()
            owner = os.pidfd_open(os.getpid())
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
                # The kernel makes up a name that is free and has no file.
                listener.bind("")
                listener.listen(128)
                passed = [listener.fileno(), alive_r, session_fd, owner]
                keywords: dict[str, Any] = self._preload_data() | {
                    "member": (token, os.getpid(), session_fd, owner),
                    "on_error": self._on_error,
                    "installed": spawn.is_installed(),
                    "interruptible": _child.is_interruptible(),
                }
                program = (
                    f"{spawn._import_statement('forkserver', 'main')}; "
                    f"main({passed[0]}, {alive_r}, {self._to_preload()!r}, **{keywords!r})"
                )
                executable = spawn.get_executable()
                options = util._args_from_interpreter_flags()
                command = [executable, *options, "-c", program]
                with _child.interrupts_held_back():
                    pid = util.spawnv_passfds(executable, command, passed)
                address = listener.getsockname()
            self._forkserver_pidfd = os.pidfd_open(pid)
        except BaseException:
            _native.child_abandoned(token)
            if alive_w >= 0:
                os.close(alive_w)
            raise
        finally:
            util.close_fds(*(fd for fd in (alive_r, owner) if fd >= 0))
        _native.child_started(token, pid)
        self._token = token
        self._forkserver_address, self._forkserver_alive_fd = address, alive_w
        self._forkserver_pid, self._owner_pid = pid, os.getpid()

    def _to_preload(self) -> list[str]:
        """The modules for the server: of this package all that the program has by now, or will.

        Each child would import those anew otherwise, as soon as it gets a queue or a lock.
        """
        own = {f"{__package__}.{name}" for name in ("connection", "queues", "synchronize")}
        own |= {name for name in list(sys.modules) if name.startswith(f"{__package__}.")}
        return [*sorted(name for name in own if "__main__" not in name), *self._preload_modules]

    def _preload_data(self) -> dict[str, Any]:
        """What the server has to know in order to import what it is to preload."""
        if not self._preload_modules:
            return {}
        data = spawn.get_preparation_data("ignore")
        keywords = {"sys_path": data["sys_path"], "sys_argv": list(data["sys_argv"])}
        if "init_main_from_name" in data:
            keywords["main_name"] = data["init_main_from_name"]
        if "init_main_from_path" in data:
            keywords["main_path"] = data["init_main_from_path"]
        return keywords

    def collect(self, token: int, server_pid: int | None, unknown: int) -> int:
        """How a child ended that is known to be dead; ``unknown`` if that is lost.

        It has mostly said so at its end.  Otherwise the server that started it is about to
        publish it, unless that is dead itself.
        """
        deadline = time.monotonic() + _STATUS_TIMEOUT
        pause = 0.00005
        while True:
            alive = self._forkserver_pid == server_pid and self.is_running()
            status = _native.exit_status(token)
            if status is not None:
                return status
            if not alive or time.monotonic() > deadline:
                return unknown
            time.sleep(pause)
            pause = min(2 * pause, 0.005)


def is_same_user(sock: socket.socket) -> bool:
    """Return whether the other side of a Unix socket is run by our user."""
    return peer(sock)[1] == os.geteuid()


def peer(sock: socket.socket) -> tuple[int, int]:
    """The process id and the user id of the other side of a Unix socket."""
    credentials = struct.Struct("=iII")
    pid, uid, _ = credentials.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size)
    )
    return pid, uid


def main(
    listener_fd: int,
    alive_r: int,
    preload: Sequence[str],
    main_path: str | None = None,
    sys_path: list[str] | None = None,
    *,
    main_name: str | None = None,
    sys_argv: list[str] | None = None,
    member: tuple[int, int, int, int] | None = None,
    on_error: str = "ignore",
    installed: bool = False,
    interruptible: bool = False,
) -> None:
    """Be the fork server until it is no longer needed."""
    from . import _zygote

    if installed:
        from ._install import install

        install(programs=False)  # what reaches those is inherited
    _zygote.join_session(member)
    _zygote.preload(preload, main_path, main_name, sys_path, sys_argv, on_error)
    owner = -1 if member is None else member[3]
    with socket.socket(fileno=listener_fd) as listener:
        _zygote.Zygote(listener, alive_r, owner, interruptible).serve()
    _child.finish(0)


def read_signed(fd: int) -> int:
    """Read a number from a pipe."""
    data = b""
    while len(data) < SIGNED_STRUCT.size:
        chunk = os.read(fd, SIGNED_STRUCT.size - len(data))
        if not chunk:
            raise EOFError("unexpected EOF")
        data += chunk
    number: int = SIGNED_STRUCT.unpack(data)[0]
    return number


def write_signed(fd: int, n: int) -> None:
    """Write a number into a pipe."""
    data = SIGNED_STRUCT.pack(n)
    while data:
        data = data[os.write(fd, data) :]


_forkserver = ForkServer()
ensure_running = _forkserver.ensure_running
get_inherited_fds = _forkserver.get_inherited_fds
connect_to_new_process = _forkserver.connect_to_new_process
set_forkserver_preload = _forkserver.set_forkserver_preload

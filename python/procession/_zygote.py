"""The fork server, seen from inside: import once, then fork on request.

It has one thread, and one loop over descriptors: the listener, requests that have been
accepted but not read, a pidfd for every child, one for every process that has asked for a
child, one for the owner, and the pipe by which it can be told to stop.

- A child ended (its pidfd): reap it, publish its exit status in the session.
- A process ended that had asked for children: tell those, by way of the session, that they
  are orphans.  They cannot see it themselves, since their real parent is this process.
- The owner ended, or the pipe says stop: take no more requests, and leave when the last
  child has gone.  The children of a dead owner get half a second for that.
- Nothing happens: fork a spare child, which does what all children do first and waits for
  the next request.

Whatever a request is like, the loop goes on: the reading and unpickling is done by the child.
"""

from __future__ import annotations

import array
import errno
import gc
import os
import resource
import selectors
import signal
import socket
import struct
import sys
import warnings
from collections.abc import Callable, Sequence

from . import _child, _compat, _native, forkserver, process, spawn, util
from ._zygote_child import Request, Server, be_child, be_spare

__all__ = ["Zygote", "join_session", "preload"]

# The descriptors that are ours: both ends of the tracker's pipe, then what the kind needs.
_FEWEST_FDS = {forkserver.INLINE: 2, forkserver.IN_FILE: 3, forkserver.BY_PIPE: 4}


def join_session(member: tuple[int, int, int, int] | None) -> None:
    """Take the place in the session that the owner has reserved."""
    if member is not None:
        token, owner_pid, session_fd, _ = member
        _child.enter(token, owner_pid, session_fd)
        # It needs nothing of what its owner held when it was started.
        _native.settled()


def preload(
    modules: Sequence[str],
    main_path: str | None,
    main_name: str | None,
    sys_path: list[str] | None,
    sys_argv: list[str] | None,
    on_error: str,
) -> None:
    """Import what the children will need, so that they find it imported."""
    if sys_path is not None:
        sys.path[:] = sys_path
    if sys_argv is not None:
        sys.argv[:] = sys_argv
    for name in modules:
        try:
            if name == "__main__":
                _import_main(main_path, main_name)
            else:
                __import__(name)
        except Exception as error:
            # A broken main module is no matter of preloading: each child imports it anew
            # then, and reports what is wrong where the user looks for it.
            if name != "__main__" or on_error == "fail":
                _report(name, error, on_error)


def _import_main(main_path: str | None, main_name: str | None) -> None:
    current = process.current_process()
    # What it starts while it is imported is refused, as in a child.
    current._inheriting = True
    try:
        if main_name is not None:
            spawn._fixup_main_from_name(main_name)
        elif main_path is not None:
            spawn.import_main_path(main_path)
    finally:
        del current._inheriting


def _report(name: str, error: Exception, on_error: str) -> None:
    if on_error == "fail":
        raise error
    if on_error == "warn":
        warnings.warn(f"fork server cannot preload {name!r}: {error!r}", stacklevel=3)
    elif not isinstance(error, ImportError):
        # Not a missing module but a broken one; this the standard library tells as well.
        sys.excepthook(type(error), error, error.__traceback__)


class _Asker:
    """A process that has asked for children."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid, self.pidfd = pid, pidfd
        self.children: set[int] = set()


class _Forked:
    """A child, on its way from the fork to the grave."""

    def __init__(self, pid: int, pidfd: int, token: int, asker: _Asker, status_w: int) -> None:
        self.pid, self.pidfd, self.token = pid, pidfd, token
        self.asker, self.status_w = asker, status_w


class _Spare:
    """A child that waits for a request, outside of the session."""

    def __init__(self, pid: int, pidfd: int, line: socket.socket) -> None:
        self.pid, self.pidfd, self.line = pid, pidfd, line


class Zygote:
    """The server's loop and what it has to remember."""

    def __init__(
        self, listener: socket.socket, alive_r: int, owner: int, interruptible: bool
    ) -> None:
        self._listener, self._alive_r, self._owner = listener, alive_r, owner
        self._interruptible = interruptible
        self._pid = os.getpid()
        self._askers: dict[int, _Asker] = {}
        self._children: dict[int, _Forked] = {}
        self._waiting: set[socket.socket] = set()
        self._spare: _Spare | None = None
        self._wants_spare = False
        self._accepting = True
        self._selector = selectors.EpollSelector()

    def serve(self) -> None:
        """Answer requests until the server is no longer needed."""
        self._get_ready()
        while self._accepting or self._children:
            # Not while something waits to be done, of which the next request may be a part.
            wants_spare = self._wants_spare and self._accepting
            events = self._selector.select(0 if wants_spare else None)
            if not events and wants_spare:
                self._wants_spare = False
                self._make_spare()
            for key, _ in events:
                # An earlier event of the same round may have taken this one's source away.
                if self._selector.get_map().get(key.fd) is key:
                    key.data()

    def _get_ready(self) -> None:
        util._close_stdin()
        _compat.prepare_logging()
        # Each child has a pidfd here, so the server needs more descriptors than they do.
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
        # A Ctrl-C that came before is forgotten; the children, who inherit this, will get theirs.
        sigint = signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self._interruptible:
            _child.let_interrupts_in()
        self._server = Server(self._pid, limits, sigint)
        fork_server = forkserver._forkserver
        fork_server._forkserver_address = self._listener.getsockname()
        fork_server._forkserver_pidfd = os.pidfd_open(self._pid)
        fork_server._forkserver_pid = self._pid
        self._listener.setblocking(False)
        self._watch(self._listener.fileno(), self._accept)
        self._watch(self._alive_r, self._stop)
        if self._owner >= 0:
            self._watch(self._owner, self._owner_ended)
        # What the imports have printed must not be printed by every child again.
        util._flush_std_streams()
        # What is there now stays: the collector need not touch, and so unshare, its pages.
        gc.collect()
        gc.freeze()

    def _watch(self, fd: int, action: Callable[[], None]) -> None:
        self._selector.register(fd, selectors.EVENT_READ, action)

    # ----------------------------------------------------------------------------- the end

    def _stop(self) -> None:
        if self._accepting:
            self._accepting = False
            for fd in (self._alive_r, self._listener.fileno(), self._owner):
                if fd >= 0:
                    self._selector.unregister(fd)
            for sock in list(self._waiting):
                self._drop(sock)
            self._listener.close()
            if self._spare is not None:
                self._spare_ended(self._spare)

    def _owner_ended(self) -> None:
        self._stop()
        for child in self._children.values():
            _native.orphaned(child.pid)

    # ------------------------------------------------------------------------------ deaths

    def _child_ended(self, child: _Forked) -> None:
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if pid == 0:
            return
        del self._children[child.pid]
        self._selector.unregister(child.pidfd)
        os.close(child.pidfd)
        exitcode = os.waitstatus_to_exitcode(status)
        _native.child_exited(child.token, exitcode)
        if child.status_w >= 0:
            _tell(child.status_w, exitcode)
            os.close(child.status_w)
        child.asker.children.discard(child.pid)
        if not child.asker.children:
            self._forget_asker(child.asker)

    def _asker_ended(self, asker: _Asker) -> None:
        for pid in asker.children:
            _native.orphaned(pid)
        self._forget_asker(asker)

    def _forget_asker(self, asker: _Asker) -> None:
        if self._askers.get(asker.pid) is asker:
            del self._askers[asker.pid]
            self._selector.unregister(asker.pidfd)
            os.close(asker.pidfd)

    # ---------------------------------------------------------------------------- requests

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return  # gone again, or no descriptor is free: then it stays in the backlog
        if not forkserver.is_same_user(sock):
            sock.close()
            return
        sock.setblocking(False)
        self._waiting.add(sock)
        self._watch(sock.fileno(), lambda: self._read(sock))
        # Mostly the request is there already.
        self._read(sock)

    def _drop(self, sock: socket.socket) -> None:
        self._waiting.discard(sock)
        self._selector.unregister(sock.fileno())
        sock.close()

    def _read(self, sock: socket.socket) -> None:
        fds: list[int] = []
        try:
            message, fds, flags, _ = socket.recv_fds(
                sock,
                forkserver.MAX_REQUEST,
                forkserver.MAXFDS_TO_SEND,
                socket.MSG_CMSG_CLOEXEC,
            )
            if not message:
                raise ConnectionResetError("closed without a request")
            token, kind, count = forkserver.REQUEST.unpack_from(message)
            if flags & socket.MSG_CTRUNC:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            if flags & socket.MSG_TRUNC or count != len(fds):
                raise ValueError("request cut off")
            if count < _FEWEST_FDS.get(kind, forkserver.MAXFDS_TO_SEND):
                raise ValueError("request of an unknown kind")
            data = message[forkserver.REQUEST.size :]
            self._start(sock, Request(token, kind, data, fds))
        except BlockingIOError:
            return
        except (ConnectionError, ProcessLookupError):
            pass
        except OSError as error:
            _refuse(sock, error.errno or errno.EIO)
        except (ValueError, struct.error) as error:
            # The client sees the end of the connection.
            warnings.warn(f"fork server: request refused: {error!r}", stacklevel=1)
        self._drop(sock)
        util.close_fds(*fds)

    def _asker_of(self, sock: socket.socket) -> _Asker:
        pid, _ = forkserver.peer(sock)
        asker = self._askers.get(pid)
        # A known one that has ended, unnoticed as yet, is another process of the same pid.
        if asker is not None and _native.wait_exit(asker.pidfd, 0.0):
            self._asker_ended(asker)
            asker = None
        if asker is None:
            asker = _Asker(pid, os.pidfd_open(pid))
            self._askers[pid] = asker
            self._watch(asker.pidfd, lambda: self._asker_ended(asker))
        return asker

    def _start(self, sock: socket.socket, request: Request) -> None:
        asker, token = self._asker_of(sock), request.token
        if not _native.child_expected(token):
            raise ProcessLookupError("who asked for the child has given it up")
        util.check_descriptors(4)
        status_w = os.dup(request.fds[3]) if request.kind == forkserver.BY_PIPE else -1
        pid, pidfd = self._hand_over(asker, request) or self._fork(asker, request)
        self._wants_spare = True
        child = _Forked(pid, pidfd, token, asker, status_w)
        self._children[pid] = child
        asker.children.add(pid)
        self._watch(child.pidfd, lambda: self._child_ended(child))
        if status_w >= 0:
            _tell(status_w, pid)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [child.pidfd]))
        try:
            sock.sendmsg([forkserver.SIGNED_STRUCT.pack(pid)], [rights])
        except OSError:
            # Who asked is gone, so nobody will ever look after it.
            _native.orphaned(pid)

    # ------------------------------------------------------------------------- forked children

    def _fork(self, asker: _Asker, request: Request) -> tuple[int, int]:
        _native.fork_into(request.token)
        pid = os.fork()
        if pid == 0:
            self._close_all_but(asker.pidfd)
            be_child(self._server, asker.pidfd, request)
        return pid, _open_pidfd(pid)

    def _make_spare(self) -> None:
        """Fork a child ahead; without one, children are forked when they are asked for."""
        try:
            util.check_descriptors(4)
            line, its_line = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            return
        _native.fork_outside()
        try:
            pid = os.fork()
            if pid == 0:
                line.close()
                self._close_all_but(-1)
                be_spare(self._server, its_line)
            its_line.close()
            spare = _Spare(pid, _open_pidfd(pid), line)
        except OSError:
            line.close()
            its_line.close()
            return
        self._spare = spare
        self._watch(spare.pidfd, lambda: self._spare_ended(spare))

    def _spare_ended(self, spare: _Spare) -> None:
        """It was killed, or is not wanted any more."""
        self._spare = None
        self._selector.unregister(spare.pidfd)
        spare.line.close()
        signal.pidfd_send_signal(spare.pidfd, signal.SIGKILL)
        os.waitpid(spare.pid, 0)
        os.close(spare.pidfd)

    def _hand_over(self, asker: _Asker, request: Request) -> tuple[int, int] | None:
        """Make the spare the child that is asked for, if there is one."""
        spare = self._spare
        if spare is None:
            return None
        token, kind, data, fds = request
        header = forkserver.REQUEST.pack(token, kind, len(fds))
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [asker.pidfd, *fds]))
        try:
            spare.line.sendmsg([header, data], [rights], socket.MSG_DONTWAIT)
        except OSError:
            # It has ended, or these are more descriptors than go into one message.
            self._spare_ended(spare)
            return None
        self._spare = None
        self._selector.unregister(spare.pidfd)
        spare.line.close()
        return spare.pid, spare.pidfd

    def _close_all_but(self, sentinel: int) -> None:
        """Close what is the server's, except the pidfd of the process that asked, if any has."""
        for key in list(self._selector.get_map().values()):
            if key.fd != sentinel:
                os.close(key.fd)
        for child in self._children.values():
            if child.status_w >= 0:
                os.close(child.status_w)
        self._selector.close()
        if self._spare is not None:
            self._spare.line.close()
        # Their descriptors are closed; they must not close what comes under the same number.
        self._listener.detach()
        for sock in self._waiting:
            sock.detach()


def _open_pidfd(pid: int) -> int:
    """Watch a child; one that nobody can watch must not go on."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _refuse(sock: socket.socket, number: int) -> None:
    try:
        sock.send(forkserver.SIGNED_STRUCT.pack(-number))
    except OSError:
        pass  # nobody listens any more


def _tell(status_w: int, number: int) -> None:
    try:
        forkserver.write_signed(status_w, number)
    except BrokenPipeError:
        pass  # nobody listens any more

"""The fork server's children, from the fork to the program's own code."""

from __future__ import annotations

import errno
import io
import os
import resource
import signal
import socket
import sys
from typing import IO, Any, NamedTuple, NoReturn

from . import _child, _native, forkserver, resource_tracker, spawn

__all__ = ["Request", "Server", "be_child", "be_spare"]


class Server(NamedTuple):
    """What a child has to know of its server."""

    pid: int
    #: How it was limited, and what Ctrl-C did, before the server changed that for itself.
    limits: tuple[int, int]
    sigint: Any


class Request(NamedTuple):
    """What kind of child is wanted."""

    token: int
    kind: int
    data: bytes
    #: The descriptors that came with it.
    fds: list[int]


def be_child(server: Server, asker: int, request: Request) -> NoReturn:
    """Be the child that was asked for by the process of the pidfd ``asker``."""
    code = 1
    try:
        _child.start_over_at_exit()
        code = _run(server, asker, request)
    except Exception:
        sys.excepthook(*sys.exc_info())
    finally:
        _child.finish(code)


def be_spare(server: Server, line: socket.socket) -> NoReturn:
    """Wait for the request that makes a child of this process; without one it was never there."""
    code = 1
    try:
        _child.start_over_at_exit()
        message, fds, flags, _ = socket.recv_fds(
            line, forkserver.MAX_REQUEST, forkserver.MAXFDS_TO_SEND, socket.MSG_CMSG_CLOEXEC
        )
        line.close()
        if not message:
            os._exit(0)
        if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        token, kind, _ = forkserver.REQUEST.unpack_from(message)
        request = Request(token, kind, message[forkserver.REQUEST.size :], fds[1:])
        code = _run(server, fds[0], request)
    except Exception:
        sys.excepthook(*sys.exc_info())
    finally:
        _child.finish(code)


def _run(server: Server, asker: int, request: Request) -> int:
    token, kind, data, fds = request
    signal.signal(signal.SIGINT, server.sigint)
    resource.setrlimit(resource.RLIMIT_NOFILE, server.limits)
    try:
        _child.enter(token, server.pid)
    except RuntimeError:
        if _native.child_expected(token):
            raise
        # Who asked for it has given it up, so nobody wants to hear of it.
        return 1
    resource_tracker._resource_tracker.inherit((fds[0], fds[1]))
    fds = fds[2:]
    if kind == forkserver.INLINE:
        stream: IO[bytes] = io.BytesIO(data)
    else:
        stream = open(fds.pop(0), "rb")
    if kind == forkserver.BY_PIPE:
        os.close(fds.pop(0))
    forkserver._forkserver._inherited_fds = fds
    with stream:
        process_obj = spawn._receive(stream)
    del data, stream, request
    return process_obj._bootstrap(parent_sentinel=asker)

"""Connections over a file descriptor: framed messages on a pipe or a stream socket.

A message is its length and its bytes.  The length is four bytes in network order; where it does
not fit, they are -1 and eight bytes follow.  The standard library frames its messages in the
same way, so either side may be either package.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex, TypeVar

from . import reduction
from .context import BufferTooShort

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Buffer

_LENGTH = struct.Struct("!i")
_LONG_LENGTH = struct.Struct("!Q")
_LONGEST_SHORT = 0x7FFFFFFF
# Up to here a copy costs less than a list of parts.
_LONGEST_JOINED = 16384
# A peer may announce any length: the buffer is not made larger than this before bytes have come.
_FIRST_BUFFER = 1 << 24

_Self = TypeVar("_Self", bound="_ConnectionBase")


def _bytes_view(buf: Buffer) -> memoryview:
    view = memoryview(buf)
    return view if view.itemsize == 1 and view.ndim == 1 else view.cast("B")


class _ConnectionBase:
    """What all connections share: argument checks, states and errors.

    A subclass moves the bytes, by `_close`, `_send_bytes`, `_recv_bytes`, `_recv_into` and `_poll`.
    """

    _handle: int | None = None
    _readable: bool
    _writable: bool

    def __init__(self, handle: SupportsIndex, readable: bool = True, writable: bool = True) -> None:
        number = handle.__index__()
        if number < 0:
            raise ValueError("invalid handle")
        if not readable and not writable:
            raise ValueError("at least one of `readable` and `writable` must be True")
        self._handle = number
        self._readable = readable
        self._writable = writable

    def __del__(self) -> None:
        if self._handle is not None:
            self._close()

    def _close(self) -> None:
        raise NotImplementedError

    def _send_bytes(self, buf: Buffer) -> None:
        raise NotImplementedError

    def _recv_bytes(self, maxsize: int | None = None) -> bytes | bytearray | None:
        raise NotImplementedError

    def _recv_into(self, view: memoryview) -> int:
        raise NotImplementedError

    def _poll(self, timeout: float | None) -> bool:
        raise NotImplementedError

    @staticmethod
    def _dumps(obj: object) -> Buffer:
        message = reduction.ForkingPickler.dumps(obj)
        # The buffer of a BytesIO must not be in use when that is collected, and where sending
        # fails, the frames of the traceback may use it until then.  A small copy costs nothing.
        return bytes(message) if len(message) <= _LONGEST_JOINED else message

    @staticmethod
    def _loads(message: Buffer) -> Any:
        return reduction.ForkingPickler.loads(message)

    def _check_closed(self) -> int:
        if self._handle is None:
            raise OSError("handle is closed")
        return self._handle

    def _check_readable(self) -> None:
        if not self._readable:
            raise OSError("connection is write-only")

    def _check_writable(self) -> None:
        if not self._writable:
            raise OSError("connection is read-only")

    def _recv_message(self, maxsize: int | None = None) -> bytes | bytearray:
        message = self._recv_bytes(maxsize)
        if message is None:
            self._bad_message_length()
        return message

    def _bad_message_length(self) -> NoReturn:
        # The rest of the message is still in the stream, hence nothing can be read any more.
        if self._writable:
            self._readable = False
        else:
            self.close()
        raise OSError("bad message length")

    @property
    def closed(self) -> bool:
        """True if the connection is closed."""
        return self._handle is None

    @property
    def readable(self) -> bool:
        """True if the connection can receive."""
        return self._readable

    @property
    def writable(self) -> bool:
        """True if the connection can send."""
        return self._writable

    def fileno(self) -> int:
        """The descriptor that becomes readable when a message is there."""
        return self._check_closed()

    def close(self) -> None:
        """Close the connection; closing it again does nothing."""
        if self._handle is not None:
            try:
                self._close()
            finally:
                self._handle = None

    def send_bytes(self, buf: Buffer, offset: int = 0, size: int | None = None) -> None:
        """Send `size` bytes of a bytes-like object, from `offset` on, as one message."""
        self._check_closed()
        self._check_writable()
        view = _bytes_view(buf)
        length = view.nbytes
        if offset < 0:
            raise ValueError("offset is negative")
        if length < offset:
            raise ValueError("buffer length < offset")
        if size is None:
            size = length - offset
        elif size < 0:
            raise ValueError("size is negative")
        elif offset + size > length:
            raise ValueError("buffer length < offset + size")
        self._send_bytes(view[offset : offset + size])

    def send(self, obj: object) -> None:
        """Send an object, pickled."""
        self._check_closed()
        self._check_writable()
        self._send_bytes(self._dumps(obj))

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Receive one message as bytes.

        A message longer than `maxlength` is an OSError, and the connection can't receive any more.
        """
        self._check_closed()
        self._check_readable()
        if maxlength is not None and maxlength < 0:
            raise ValueError("negative maxlength")
        return bytes(self._recv_message(maxlength))

    def recv_bytes_into(self, buf: Buffer, offset: int = 0) -> int:
        """Receive one message into a writable bytes-like object and return its size.

        Where it does not fit, BufferTooShort carries the message.
        """
        self._check_closed()
        self._check_readable()
        with memoryview(buf) as whole:
            if whole.readonly:
                raise TypeError("a read-write bytes-like object is required")
            with whole.cast("B") as view:
                if offset < 0:
                    raise ValueError("negative offset")
                if offset > view.nbytes:
                    raise ValueError("offset too large")
                with view[offset:] as target:
                    return self._recv_into(target)

    def recv(self) -> Any:
        """Receive an object."""
        self._check_closed()
        self._check_readable()
        return reduction.ForkingPickler.loads(self._recv_message())

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Whether there is something to receive, waiting up to `timeout` seconds for it."""
        self._check_closed()
        self._check_readable()
        return self._poll(timeout)

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()


class Connection(_ConnectionBase):
    """A connection over a descriptor: one end of a pipe, or a connected stream socket.

    The pipe ends made by `Pipe()`, which talk through the session's memory, count as
    connections too.
    """

    # Bound here because at the interpreter's end the module's globals may be gone.
    def _close(self, _close: Callable[[int], None] = os.close) -> None:
        _close(self._check_closed())

    def _poll(self, timeout: float | None) -> bool:
        from .connection import wait

        return bool(wait([self], timeout))

    def _send_bytes(self, buf: Buffer) -> None:
        length = memoryview(buf).nbytes
        # One call for header and body: over TCP a header on its own would wait for an
        # acknowledgement, and an empty body could be a write to a peer that has left already.
        if length <= _LONGEST_JOINED:
            data = _LENGTH.pack(length) + buf
            written = os.write(self._check_closed(), data)
            if written < len(data):
                self._write_all([memoryview(data)[written:]])
            return
        if length > _LONGEST_SHORT:
            header = _LENGTH.pack(-1) + _LONG_LENGTH.pack(length)
        else:
            header = _LENGTH.pack(length)
        self._write_all([memoryview(header), _bytes_view(buf)])

    def _write_all(self, parts: list[memoryview]) -> None:
        fd = self._check_closed()
        try:
            while parts:
                written = os.writev(fd, parts)
                while parts and written >= parts[0].nbytes:
                    written -= parts.pop(0).nbytes
                if parts:
                    parts[0] = parts[0][written:]
        finally:
            for part in parts:
                part.release()

    def _recv_header(self) -> int:
        (size,) = _LENGTH.unpack(self._read(_LENGTH.size))
        if size == -1:
            (size,) = _LONG_LENGTH.unpack(self._read(_LONG_LENGTH.size))
        return int(size)

    def _recv_bytes(self, maxsize: int | None = None) -> bytes | bytearray | None:
        size = self._recv_header()
        if size < 0 or (maxsize is not None and size > maxsize):
            return None
        return self._read(size)

    def _recv_into(self, view: memoryview) -> int:
        size = self._recv_header()
        if size < 0:
            self._bad_message_length()
        if size > view.nbytes:
            raise BufferTooShort(bytes(self._read(size)))
        self._fill(view[:size], 0)
        return size

    def _read(self, size: int) -> bytes | bytearray:
        """Exactly `size` bytes of the stream."""
        if size == 0:
            return b""
        first = os.read(self._check_closed(), min(size, _FIRST_BUFFER))
        if len(first) == size:
            return first
        if not first:
            raise EOFError
        buffer = bytearray(first)
        while len(buffer) < size:
            start = len(buffer)
            buffer.extend(bytes(min(size - start, max(start, _FIRST_BUFFER))))
            with memoryview(buffer) as view:
                self._fill(view[start:], start)
        return buffer

    def _fill(self, view: memoryview, before: int) -> None:
        """Fill `view` from the stream; `before` bytes of this message have been read already."""
        fd = self._check_closed()
        while view.nbytes:
            count = os.readv(fd, [view])
            if count == 0:
                if before == 0:
                    raise EOFError
                raise OSError("got end of file during message")
            before += count
            view = view[count:]

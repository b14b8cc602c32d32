"""The manager that sees to it that blocks of shared memory are removed in the end."""

from __future__ import annotations

import os
from typing import Any

from . import resource_tracker, shared_memory, util
from ._manager_base import BaseManager
from ._manager_protocol import ask_server
from ._manager_server import Server


class _SharedMemoryTracker:
    """The names of the blocks that go when the server goes."""

    def __init__(self, name: str, segment_names: list[str] | None = None) -> None:
        self.shared_memory_context_name = name
        self.segment_names = [] if segment_names is None else segment_names

    def register_segment(self, segment_name: str) -> None:
        """Take charge of a block."""
        util.debug("Register segment %r in pid %s", segment_name, os.getpid())
        self.segment_names.append(segment_name)

    def destroy_segment(self, segment_name: str) -> None:
        """Remove a block."""
        util.debug("Destroy segment %r in pid %s", segment_name, os.getpid())
        self.segment_names.remove(segment_name)
        segment = shared_memory.SharedMemory(segment_name)
        segment.close()
        segment.unlink()

    def unlink(self) -> None:
        """Remove all blocks, but for those that somebody removed himself."""
        for segment_name in self.segment_names[:]:
            try:
                self.destroy_segment(segment_name)
            except FileNotFoundError:
                util.debug("segment %r is gone already", segment_name)

    def __getstate__(self) -> tuple[str, list[str]]:
        return self.shared_memory_context_name, self.segment_names

    def __setstate__(self, state: tuple[str, list[str]]) -> None:
        self.shared_memory_context_name, self.segment_names = state


class SharedMemoryServer(Server):
    """A server that removes blocks of shared memory when it shuts down."""

    public = [*Server.public, "track_segment", "release_segment", "list_segments"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The address of an abstract socket may be bytes.
        address = self.address
        address = os.fsdecode(address) if isinstance(address, bytes) else address
        self.shared_memory_context = _SharedMemoryTracker(f"shm_{address}_{os.getpid()}")
        util.debug("SharedMemoryServer started by pid %s", os.getpid())

    def serve_forever(self) -> None:
        """Serve until a client asks for the shutdown, remove the blocks, and end the process."""
        try:
            super().serve_forever()
        finally:
            self.shared_memory_context.unlink()

    def create(self, c: Any, typeid: str, /, *args: Any, **kwargs: Any) -> tuple[str, Any]:
        """Make an object; one whose proxy says so is told where to register its blocks."""
        if hasattr(self.registry[typeid][-1], "_shared_memory_proxy"):
            kwargs["shared_memory_context"] = self.shared_memory_context
        return super().create(c, typeid, *args, **kwargs)

    def shutdown(self, c: Any) -> None:
        """Remove the blocks, and end the server."""
        self.shared_memory_context.unlink()
        super().shutdown(c)

    def track_segment(self, c: Any, segment_name: str) -> None:
        """Take charge of a block."""
        self.shared_memory_context.register_segment(segment_name)

    def release_segment(self, c: Any, segment_name: str) -> None:
        """Remove a block now."""
        self.shared_memory_context.destroy_segment(segment_name)

    def list_segments(self, c: Any) -> list[str]:
        """The names of the blocks in charge."""
        return self.shared_memory_context.segment_names


class SharedMemoryManager(BaseManager):
    """A manager of blocks of shared memory: they are removed when it shuts down."""

    _Server = SharedMemoryServer
    _noun = "SharedMemoryManager"
    _server_noun = "SharedMemoryServer"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Before the server: it and this process must have the same tracker, or each one's would
        # complain about the blocks that the other removed.
        resource_tracker.ensure_running()
        super().__init__(*args, **kwargs)
        util.debug("%s created by pid %s", type(self).__name__, os.getpid())

    def _track(self, block: shared_memory.SharedMemory) -> None:
        try:
            ask_server(self._Client, self._address, self._authkey, "track_segment", block.name)
        except BaseException:
            block.unlink()
            raise

    def SharedMemory(self, size: int) -> shared_memory.SharedMemory:
        """A new block."""
        block = shared_memory.SharedMemory(None, create=True, size=size)
        self._track(block)
        return block

    def ShareableList(self, sequence: Any) -> shared_memory.ShareableList:
        """A new list in a block."""
        shareable = shared_memory.ShareableList(sequence)
        self._track(shareable.shm)
        return shareable

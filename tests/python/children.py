"""Starting and ending child processes in tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["finish", "start"]


def start(ctx: Any, target: Callable[..., object], *args: Any) -> Any:
    """A process of this context that runs."""
    process = ctx.Process(target=target, args=args)
    process.start()
    return process


def finish(*processes: Any, status: int = 0) -> None:
    """Wait for processes, which are to end with this exit code."""
    for process in processes:
        process.join(60)
        assert process.exitcode == status
        process.close()

"""What other processes run: here alone, so that a child that starts afresh imports nothing else."""

from __future__ import annotations


def nop() -> None:
    """What a process does that does nothing."""


def nothing(x: object) -> object:
    """The no-op that is mapped."""
    return x


def compute(count: int) -> int:
    """A task that needs the processor and nothing else."""
    total = 0
    for i in range(count):
        total += i * i % 7
    return total

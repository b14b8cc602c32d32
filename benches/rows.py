"""What a row of the table is, and where the rows come from.

A row has one function that takes the name of a library and returns what it measured there.  The
modules named in `MODULES` make the rows when they are imported.  Another subject is another module:
it calls `add` for each row and is named here.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

MODULES = (
    "messages",
    "tasks",
    "arrays",
    "locks",
    "starting",
    "flat",
    "busy",
    "manager_workloads",
    "rust",
)

MP = "multiprocessing"
OURS = "procession"
FUTURES = "concurrent.futures"
JOBLIB = "joblib/loky"
MPIRE = "mpire"
PEBBLE = "pebble"
FIFO = "faster-fifo"
NO_SPIN = "procession, PROCESSION_SPIN=0"
PROCSPAWN = "procspawn"
IPC_CHANNEL = "ipc-channel"

BOTH = (MP, OURS)
POOLS = (MP, OURS, FUTURES, JOBLIB, MPIRE, PEBBLE)

# What a library's measurements need in their environment.
ENVIRONMENT: Mapping[str, Mapping[str, str]] = {NO_SPIN: {"PROCESSION_SPIN": "0"}}

Unit = Literal["s", "B", "%", "x"]


@dataclass(frozen=True)
class Measured:
    """A figure, and the figures that it was made from."""

    value: float
    detail: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Goal:
    """What procession is to reach: so many times better than the base, or a bound of its own."""

    kind: Literal["ratio", "at most", "at least"]
    value: float

    def met(self, value: float, ratio: float | None) -> bool:
        """Is it reached by these medians?"""
        if self.kind == "ratio":
            return ratio is not None and ratio >= self.value
        return value <= self.value if self.kind == "at most" else value >= self.value


@dataclass(frozen=True)
class Row:
    """One row: in every unit but `x` with a goal of "at least", less is better."""

    name: str
    title: str
    section: str
    run: Callable[[str], float | Measured]
    libraries: tuple[str, ...] = BOTH
    goal: Goal | None = None
    unit: Unit = "s"
    base: str = MP
    # Megabytes that are touched and freed before the measurement, so that it finds warm pages.
    touch: int = 0


ROWS: dict[str, Row] = {}


def add(row: Row) -> None:
    """Enter a row into the table."""
    if row.name in ROWS:
        raise ValueError(f"there are two rows {row.name!r}")
    ROWS[row.name] = row


def ratio(value: float) -> Goal:
    """At least so many times better than the base."""
    return Goal("ratio", value)


def at_most(value: float) -> Goal:
    """No more than this."""
    return Goal("at most", value)


def at_least(value: float) -> Goal:
    """No less than this."""
    return Goal("at least", value)


def load() -> dict[str, Row]:
    """All rows, of those modules that this tree has."""
    for name in MODULES:
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name)
    return ROWS

"""The Rust crate beside `procspawn` and `ipc-channel`.

The measurements are in the program of `rust-peers`, which `make bench` builds.  Without it there
are no such rows.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from rows import IPC_CHANNEL, OURS, PROCSPAWN, Row, add

SECTION = "Rust: the crate `procession` and its peers"
PROGRAM = "BENCH_RUST_PEERS"


def _measure(name: str) -> Callable[[str], float]:
    def run(library: str) -> float:
        command = [os.environ[PROGRAM], library, name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return float(done.stdout.strip().splitlines()[-1])

    return run


_ROWS = (
    ("channel-u64", "a queue 1:1, `u64`", IPC_CHANNEL, 0),
    ("channel-1k", "a queue 1:1, 1 KB of bytes", IPC_CHANNEL, 0),
    ("channel-1m", "a queue 1:1, 1 MB of bytes", IPC_CHANNEL, 400),
    ("round-trip", "a round trip, `u64`", IPC_CHANNEL, 0),
    ("process", "a process that adds 1: start and join", PROCSPAWN, 0),
    ("pool-call", "a pool's task, there and back", PROCSPAWN, 0),
    ("pool-map", "10,000 tasks in a pool of 2, for each", PROCSPAWN, 0),
)
if Path(os.environ.get(PROGRAM, "no such file")).is_file():
    for _name, _title, _peer, _touch in _ROWS:
        add(
            Row(
                f"rust-{_name}",
                _title,
                SECTION,
                _measure(_name),
                (_peer, OURS),
                base=_peer,
                touch=_touch,
            )
        )

"""More runnable processes than processors: spinning must not make anything slower.

Two processes for each processor burn it besides, and procession is measured with and without.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from messages import round_trips as pipe_round_trips, stream
from peers import workers_of
from rows import MP, NO_SPIN, OURS, Row, add, ratio
from targets import nothing
from tasks import round_trips as call_round_trips, share_for

LIBRARIES = (MP, OURS, NO_SPIN)
now = time.perf_counter

# Ends by itself with its parent.
_BURN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(9999))"


@contextlib.contextmanager
def burners() -> Iterator[None]:
    """Twice as many processes as there are processors, which compute and do nothing else."""
    count = 2 * len(os.sched_getaffinity(0))
    started = [subprocess.Popen([sys.executable, "-S", "-c", _BURN]) for _ in range(count)]
    try:
        time.sleep(0.3)
        yield
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()


def queue(library: str) -> float:
    return stream(library, 12345, 40_000)


def pipe(library: str) -> float:
    return pipe_round_trips(library, 3000, 4.0)


def calls(library: str) -> float:
    return call_round_trips(library, 0.0, 1000, 0.5, 4.0)


def items(library: str) -> float:
    count = share_for(library, 100_000 if library != MP else 20_000)
    pool = workers_of(library)
    pool.map(nothing, range(1000), 1)
    began = now()
    pool.map(nothing, range(count), 1)
    seconds = now() - began
    pool.end()
    return seconds / count


def _beside_burners(run: Callable[[str], float]) -> Callable[[str], float]:
    def beside(library: str) -> float:
        with burners():
            return run(library)

    return beside


_WORDS: tuple[tuple[str, str, Callable[[str], float]], ...] = (
    ("queue", "`Queue` 1:1, int", queue),
    ("pipe", "`Pipe` round trip, int", pipe),
    ("call", "`apply_async` round trip, median", calls),
    ("map", "`map` of a no-op, chunksize=1", items),
)
for _name, _title, _run in _WORDS:
    # Not slower than without: a tenth is left for the noise of so full a machine.
    add(
        Row(
            f"busy-{_name}",
            _title,
            "Spinning on a full machine: two burners for each processor besides",
            _beside_burners(_run),
            LIBRARIES,
            ratio(0.9),
            base=NO_SPIN,
        )
    )
    add(
        Row(
            f"quiet-{_name}",
            _title,
            "Spinning without burners",
            _run,
            LIBRARIES,
            base=NO_SPIN,
        )
    )

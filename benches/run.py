"""Compare procession with its peers, in one run: `make bench`.

Every measurement is a fresh interpreter; the libraries take turns, round by round, so that a slow
moment of the machine hits all.  The table gives medians, and the ratio to `multiprocessing`,
computed round by round before its median is taken; the spread is that of these ratios (quartiles).

    python benches/run.py [--rounds N] [--only TEXT] [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LIBRARIES = ("multiprocessing", "procession")


def measure(library: str, workload: str) -> float | None:
    """One measurement, in a process of its own; None where it fails."""
    command = [sys.executable, str(HERE / "one.py"), library, workload]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        print(f"  {library}, {workload}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return float(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare procession with its peers.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()

    sys.path.insert(0, str(HERE))
    from workloads import WORKLOADS

    results: dict[str, dict[str, list[float | None]]] = {}
    names = [name for name in WORKLOADS if options.only in name]
    for name in names:
        rows = results.setdefault(name, {library: [] for library in LIBRARIES})
        for round_ in range(options.rounds):
            order = LIBRARIES if round_ % 2 == 0 else LIBRARIES[::-1]
            for library in order:
                rows[library].append(measure(library, name))
        print(line(name, rows), flush=True)
    text = table(results)
    print()
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n")
    if options.json:
        about = {"python": platform.python_version(), "cpus": len(os.sched_getaffinity(0))}
        options.json.write_text(json.dumps({"about": about, "seconds": results}, indent=1) + "\n")


def ratios(rows: dict[str, list[float | None]]) -> list[float]:
    """How many times faster than the standard library, round by round."""
    pairs = zip(rows["multiprocessing"], rows["procession"], strict=True)
    return [theirs / ours for theirs, ours in pairs if theirs is not None and ours is not None]


def shown(seconds: list[float | None]) -> str:
    known = [s for s in seconds if s is not None]
    if not known:
        return "-"
    value = statistics.median(known)
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def line(name: str, rows: dict[str, list[float | None]]) -> str:
    """One row of the table."""
    found: Any = ratios(rows)
    if not found:
        return f"| {name} | {' | '.join(shown(rows[x]) for x in LIBRARIES)} | - | - |"
    middle = statistics.median(found)
    low, high = statistics.quantiles(found, n=4)[0::2] if len(found) > 1 else (middle, middle)
    return (
        f"| {name} | {' | '.join(shown(rows[x]) for x in LIBRARIES)} | {middle:.3g}x |"
        f" {low:.3g}-{high:.3g} |"
    )


def table(results: dict[str, dict[str, list[float | None]]]) -> str:
    """The whole table."""
    head = f"| workload, time for each | {' | '.join(LIBRARIES)} | ratio | quartiles |"
    return "\n".join([head, "|---" * 5 + "|", *(line(n, r) for n, r in results.items())])


if __name__ == "__main__":
    main()

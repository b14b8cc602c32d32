"""Compare procession with its peers, in one run: `make bench`.

Every measurement is a fresh interpreter (`one.py`).  Row by row and round by round the libraries
take turns, in another order each round, so that a slow moment of the machine hits all.  A ratio is
computed within each round before its median is taken.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import report
from rows import ENVIRONMENT, OURS, ROWS, Row, load

HERE = Path(__file__).parent
# No measurement takes a tenth of it; what does has hung.
LIMIT = 180.0
PACKAGES = ("numpy", "joblib", "loky", "mpire", "pebble", "faster-fifo")


def measure(library: str, row: Row) -> dict[str, Any] | None:
    """One measurement, in a process of its own; None where it fails."""
    command = [sys.executable, str(HERE / "one.py"), library, row.name]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT.get(library, {})},
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        print(f"  {row.name}, {library}: not done after {LIMIT:.0f} s", file=sys.stderr)
        return None
    if process.returncode != 0 or not out.strip():
        words = err.strip().splitlines()[-1:] or [f"status {process.returncode}"]
        print(f"  {row.name}, {library}: {words[0]}", file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return found


class Results:
    """What was measured: seconds and the like, and what they were made from."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, list[float | None]]] = {}
        self.details: dict[str, dict[str, list[dict[str, float]]]] = {}

    def measure(self, row: Row, libraries: Sequence[str], rounds: int) -> None:
        """Fill a row."""
        values: dict[str, list[float | None]] = {library: [] for library in libraries}
        details: dict[str, list[dict[str, float]]] = {library: [] for library in libraries}
        for turn in range(rounds):
            first = turn % len(libraries)
            for library in [*libraries[first:], *libraries[:first]]:
                found = measure(library, row)
                values[library].append(found["value"] if found else None)
                if found and found["detail"]:
                    details[library].append(found["detail"])
        self.values[row.name] = values
        self.details[row.name] = details


def machine() -> dict[str, Any]:
    """What it ran on, without the names of anybody's machine."""
    model = "unknown processor"
    for text in Path("/proc/cpuinfo").read_text().splitlines():
        if text.startswith("model name"):
            model = text.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "when": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "processor": model,
        "processors": len(os.sched_getaffinity(0)),
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "python": platform.python_version(),
        "load before": round(os.getloadavg()[0], 2),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare procession with its peers.")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each (5)")
    parser.add_argument("--quick", action="store_true", help="two rounds, without the peers")
    parser.add_argument(
        "--only", default=[], action="append", metavar="TEXT", help="rows whose name contains this"
    )
    parser.add_argument("--list", action="store_true", help="name the rows and end")
    parser.add_argument("--deep", action="store_true", help="up to ten million queued messages")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument(
        "--write", type=Path, metavar="PAGE", help="replace the table of this page, of a whole run"
    )
    return parser.parse_args()


def chosen(options: argparse.Namespace) -> list[Row]:
    rows = [row for row in ROWS.values() if not options.only or _named(row, options.only)]
    if not rows:
        raise SystemExit("no row has such a name; see --list")
    return rows


def _named(row: Row, words: Sequence[str]) -> bool:
    return any(word in row.name for word in words)


def head(about: dict[str, Any], rounds: int, minutes: float) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    return (
        f"Measured on {about['when']}: {about['processors']} x {about['processor']}, "
        f"{about['memory']}, {about['system']}, CPython {about['python']}; {packages}. "
        f"{rounds} rounds in {minutes:.0f} minutes; the load was {about['load before']} before."
    )


def main() -> None:
    options = arguments()
    rounds = 2 if options.quick else options.rounds
    if options.deep:
        os.environ["BENCH_DEEP"] = "1"
    load()
    rows = chosen(options)
    if options.list:
        print("\n".join(f"{row.name:20} {row.title}" for row in rows))
        return
    about, results, began = machine(), Results(), time.monotonic()
    for row in rows:
        libraries = [x for x in row.libraries if not options.quick or x in (OURS, row.base)]
        results.measure(row, libraries, rounds)
        seconds = time.monotonic() - began
        print(
            f"{seconds:5.0f} s {report.line(row, results.values[row.name], libraries)}", flush=True
        )
    text = "\n\n".join(
        [
            head(about, rounds, (time.monotonic() - began) / 60),
            report.tables(rows, results.values),
            "### Rows that miss their goal",
            report.missed(rows, results.values),
            "### What some of the figures are made of",
            report.details(results.details, rows),
        ]
    )
    print(f"\n{text}")
    if options.markdown:
        options.markdown.write_text(text + "\n")
    if options.json:
        data = {"about": about, "values": results.values, "details": results.details}
        options.json.write_text(json.dumps(data, indent=1) + "\n")
    if options.write:
        report.write_into(options.write, text)


if __name__ == "__main__":
    main()

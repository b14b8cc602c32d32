"""Run CPython's own tests with the harness beside the repository, and judge the result.

    python scripts/conformance.py HARNESS [OPTIONS OF THE HARNESS]...

Every test that passes with the standard library has to pass, but for those that the harness calls
private and those that ``tests/conformance/known.txt`` names with a reason.  A test that is named
there and passes is an error too, so that the list says what is true.
"""

from __future__ import annotations

import fnmatch
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KNOWN = Path(__file__).resolve().parents[1] / "tests" / "conformance" / "known.txt"
VERSION = "{}.{}".format(*sys.version_info[:2])


@dataclass
class Known:
    """One line of the list."""

    number: int
    pattern: str
    #: Whether it may pass as well, as it depends on time.
    sometimes: bool

    def fits(self, test: str) -> bool:
        """Is it this test that the line is about?"""
        return fnmatch.fnmatchcase(test, self.pattern)


def read_known(text: str, version: str) -> list[Known]:
    """The lines for this version: ``[sometimes] VERSIONS METHOD/Class.test  # reason``."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        entry, _, reason = line.partition("#")
        words = entry.split()
        if not words:
            continue
        sometimes = words[0] == "sometimes"
        if len(words) != 2 + sometimes or not reason.strip():
            raise SystemExit(f"{KNOWN.name}:{number}: not `[sometimes] VERSIONS TEST  # reason`")
        if version in words[-2].split(","):
            found.append(Known(number, words[-1], sometimes))
    return found


def judge(report: dict[str, Any], known: list[Known], baseline: dict[str, Any]) -> list[str]:
    """What is wrong with a report of the harness."""
    problems = [
        f"fails: {test}" for test in report["worse"] if not any(line.fits(test) for line in known)
    ]
    problems += [
        f"what prepares or cleans up fails: {name}"
        for name, fixtures in sorted(report["fixtures"].items())
        if name not in baseline.get("fixtures", [])
        and any(fixture["status"] in ("failed", "error", "timeout") for fixture in fixtures)
    ]
    passed = [
        f"{group}/{name}.{test}"
        for group, classes in report["tests"].items()
        for name, tests in classes.items()
        for test, status in tests.items()
        if status == "passed"
    ]
    for line in known:
        if not line.sometimes:
            problems += [
                f"passes, but is in {KNOWN.name}:{line.number}: {test}"
                for test in passed
                if line.fits(test)
            ]
    return problems


def main() -> int:
    """Run the harness with the interpreter that runs this."""
    harness, *options = sys.argv[1:]
    known = read_known(KNOWN.read_text(), VERSION)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "report.json")
        command = [sys.executable, str(Path(harness, "run.py")), "--package", "procession"]
        command += ["--forgive-private", "--brief", "--quiet", "--output", str(output), *options]
        status = subprocess.run(command, check=False).returncode
        if not output.exists():
            print(f"conformance: the harness ended with status {status} and without a report")
            return 2
        report = json.loads(output.read_text())
    baseline = json.loads(Path(harness, f"baseline-{VERSION}.json").read_text())
    problems = judge(report, known, baseline)
    if status > 1:
        problems.append(f"the harness ended with status {status}")
    for problem in problems:
        print(f"conformance: {problem}")
    counts = f"{len(report['worse'])} worse than the standard library, {len(report['flaky'])} flaky"
    print(f"conformance on {VERSION}: {counts}, {report['seconds']:.0f} s")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

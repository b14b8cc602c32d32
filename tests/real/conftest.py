"""Run a program with the standard library and under ``procession run``, and compare.

A witness (see ``witness/sitecustomize.py``) tells what was really run: the standard package the
first time, and the second time procession and nothing of the standard package, in any process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

WITNESS = Path(__file__).parent / "witness"

#: Seconds a program may take before the test fails.
BOUND = 100


@dataclass
class Run:
    """What a program has done."""

    folder: Path
    stdout: str
    stderr: str
    status: int
    #: The modules that were run, of which package, by the pid of the process.
    modules: dict[str, dict[int, set[str]]] = field(default_factory=dict)
    forks: int = 0

    def files(self, pattern: str) -> dict[str, bytes]:
        """The contents of the files that it has left behind."""
        found = self.folder.rglob(pattern)
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in found}


Compare = Callable[..., Run]


def printed(run: Run) -> object:
    """All that a program has printed."""
    return run.stdout.splitlines(), run.stderr.splitlines()


@pytest.fixture
def compare(tmp_path: Path) -> Compare:
    """Return a function that runs a program both ways, each in its copy of a folder."""

    def run(kind: str, source: Path, command: list[str]) -> Run:
        # The folders have the same name, so that what the programs say of them is the same.
        folder = tmp_path / kind / "here"
        shutil.copytree(source, folder)
        log = tmp_path / f"{kind}.log"
        path = [str(WITNESS), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
        environment |= {
            "PYTHONPATH": os.pathsep.join(path),
            "WITNESS_LOG": str(log),
            "HOME": str(tmp_path / kind),
            "XDG_CACHE_HOME": str(tmp_path / kind / "cache"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",
            "COLUMNS": "100",
        }
        done = subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=BOUND,
            check=False,
        )
        replaced = (
            text.replace(str(tmp_path / kind), "TMP") for text in (done.stdout, done.stderr)
        )
        result = Run(folder, *replaced, done.returncode, {"standard": {}, "procession": {}})
        for line in log.read_text().splitlines() if log.exists() else []:
            pid, what, which = line.split(" ", 2)
            if what == "fork":
                result.forks += 1
            else:
                result.modules[what].setdefault(int(pid), set()).add(which)
        return result

    def both(
        source: Path,
        *program: str,
        modules: set[str],
        status: int = 0,
        in_workers: bool = False,
        forks: bool = True,
        result: Callable[[Run], object] = printed,
    ) -> Run:
        """Run ``program`` both ways: with the same ``result``, by means of ``modules``.

        ``in_workers``: its processes are programs of their own, which load those modules as well.
        Otherwise, with ``forks``, they are forked by the program.
        """
        plain = run("plain", source, [*program])
        ours = run("ours", source, ["-m", "procession", "run", *program])
        for done, used, unused in (
            (plain, "standard", "procession"),
            (ours, "procession", "standard"),
        ):
            assert done.status == status, done.stdout + done.stderr
            assert not done.modules[unused], f"{unused} was used: {done.modules[unused]}"
            users = [pid for pid, seen in done.modules[used].items() if modules <= seen]
            assert users, f"{modules} of {used} not used: {done.modules}"
            if in_workers:
                # The program itself, and at least one of those: the tests may all go to one worker.
                assert len(users) >= 2, f"{modules} of {used} used only by {users}"
            elif forks:
                assert done.forks >= 2, "no two processes were started"
        assert result(ours) == result(plain)
        return ours

    return both

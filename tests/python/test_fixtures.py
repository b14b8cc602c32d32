"""The guards of the test suite do fail when there is something to find."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

LEAKY = """
import os
import subprocess
import sys

def test_descriptor(no_leaks):
    os.open("/dev/null", os.O_RDONLY)

def test_file(no_leaks):
    open("/dev/shm/{name}", "w").close()

def test_child():
    global child
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

def test_condition(eventually):
    eventually(lambda: False, "the impossible", bound=0.05)

def test_clean(ctx, no_leaks):
    process = ctx.Process(target=os.getpid)
    process.start()
    process.join()
    process.close()
"""


def test_each_guard_finds_its_leak(pytester: pytest.Pytester) -> None:
    name = f"procession-test-{pytester.path.name}"
    conftest = (Path(__file__).parent / "conftest.py").read_text()
    pytester.makeconftest(conftest.replace("LEAK_BOUND = 5.0", "LEAK_BOUND = 0.5"))
    pytester.makepyfile(test_leaky=LEAKY.format(name=name))
    try:
        result = pytester.runpytest_subprocess("-q", "-W", "ignore::ResourceWarning")
    finally:
        Path("/dev/shm", name).unlink(missing_ok=True)
    result.assert_outcomes(passed=6, errors=3, failed=1)
    result.stdout.fnmatch_lines_random(
        [
            "*Failed: left behind: {*: '/dev/null'}*",
            f"*Failed: left behind: {{'{name}': *",
            "*Failed: children left behind: {*",
            "*Failed: did not happen within 0.05 s: the impossible*",
        ]
    )

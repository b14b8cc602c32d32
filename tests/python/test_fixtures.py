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
    open({leak!r}, "w").close()

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
    # A folder of its own: what others do to /dev/shm meanwhile must not decide.
    folder = pytester.mkdir("shared")
    conftest = (Path(__file__).parent / "conftest.py").read_text()
    for line, instead in [
        ("LEAK_BOUND = 5.0", "LEAK_BOUND = 0.5"),
        ('SHARED_FOLDER = Path("/dev/shm")', f"SHARED_FOLDER = Path({str(folder)!r})"),
    ]:
        assert line in conftest
        conftest = conftest.replace(line, instead)
    pytester.makeconftest(conftest)
    pytester.makepyfile(test_leaky=LEAKY.format(leak=str(folder / "left")))
    result = pytester.runpytest_subprocess("-q", "-W", "ignore::ResourceWarning")
    result.assert_outcomes(passed=6, errors=3, failed=1)
    result.stdout.fnmatch_lines_random(
        [
            "*Failed: left behind: {*: '/dev/null'}*",
            "*Failed: left behind: {'left': *",
            "*Failed: children left behind: {*",
            "*Failed: did not happen within 0.05 s: the impossible*",
        ]
    )

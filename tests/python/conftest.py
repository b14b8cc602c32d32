"""What all tests of the package share.

`ctx` runs a test once for each start method; `no_leaks` fails a test that leaves descriptors,
children or shared-memory files behind; `eventually` waits for a condition within a bound. A test
that hangs is ended by pytest-timeout and, where no signal handler can run, by faulthandler (both
are set up in pyproject.toml); children print their own stacks on a fatal signal.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import procession
from procession.context import BaseContext

START_METHODS = ("fork", "spawn", "forkserver")

#: How long a process may take to go away, or a condition to become true, before a test fails.
BOUND = 20.0

#: How long what a test used may take to be given back after it.
LEAK_BOUND = 5.0

#: Where named shared memory is.
SHARED_FOLDER = Path("/dev/shm")


def pytest_configure(config: pytest.Config) -> None:
    """Make child processes print their stacks when a fatal signal ends them."""
    os.environ.setdefault("PYTHONFAULTHANDLER", "1")


@pytest.fixture(params=START_METHODS)
def start_method(request: pytest.FixtureRequest) -> str:
    """One start method after the other."""
    method: str = request.param
    return method


@pytest.fixture
def ctx(start_method: str) -> BaseContext:
    """A context for each start method."""
    return procession.get_context(start_method)


Program = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_program(tmp_path: Path) -> Program:
    """Return a function that runs Python source as a program of its own, to its end."""

    def run(
        source: str, *arguments: str, options: tuple[str, ...] = (), bound: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "program.py"
        path.write_text(textwrap.dedent(source))
        command = [sys.executable, *options, str(path), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=bound, check=False)

    return run


def wait_until(condition: Callable[[], object], bound: float = BOUND) -> bool:
    """Wait until the condition holds; False if it does not within `bound` seconds."""
    deadline = time.monotonic() + bound
    pause = 0.001
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.1)
    return True


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Return a function that fails the test unless a condition becomes true within a bound."""

    def check(condition: Callable[[], object], what: str = "", bound: float = BOUND) -> None:
        if not wait_until(condition, bound):
            pytest.fail(f"did not happen within {bound:g} s: {what or condition}")

    return check


def helper_pids() -> set[int]:
    """Return the pids of the package's own helpers, which outlive the tests that needed them."""
    from procession import forkserver, resource_tracker

    # Both modules keep the standard library's names here, and debuggers rely on them too.
    pids: set[Any] = {
        getattr(forkserver._forkserver, "_forkserver_pid", None),
        getattr(resource_tracker._resource_tracker, "_pid", None),
    }
    return pids - {None}


def children() -> dict[int, str]:
    """Return the direct children of this process, zombies included, but for the helpers."""
    helpers = helper_pids()
    found: dict[int, str] = {}
    for child in psutil.Process().children():
        if child.pid in helpers:
            continue
        try:
            found[child.pid] = f"{child.name()} ({child.status()})"
        except psutil.NoSuchProcess:
            continue
    return found


def descriptors() -> dict[int, str]:
    """Return what each open descriptor of this process leads to."""
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except (FileNotFoundError, ProcessLookupError):  # the one that listed the folder
            continue
    return found


def shared_files() -> dict[str, str]:
    """Return this user's files in the shared-memory folder."""
    found: dict[str, str] = {}
    for path in SHARED_FOLDER.iterdir():
        try:
            if path.stat().st_uid == os.getuid():
                found[path.name] = "a file in /dev/shm"
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _new(before: dict[Any, str], now: dict[Any, str]) -> dict[Any, str]:
    return {key: value for key, value in now.items() if before.get(key) != value}


@pytest.fixture(autouse=True)
def no_stray_children() -> Iterator[None]:
    """Fail a test that leaves a child behind, and end that child, so that the next one is clean."""
    before = children()
    yield
    gc.collect()
    if wait_until(lambda: not _new(before, children()), bound=LEAK_BOUND):
        return
    stray = _new(before, children())
    for pid in stray:
        try:
            psutil.Process(pid).kill()
            os.waitpid(pid, 0)
        except (psutil.NoSuchProcess, ChildProcessError):
            continue
    pytest.fail(f"children left behind: {stray}")


@pytest.fixture
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test after which there are more descriptors or shared-memory files than before.

    What is made once and kept (the session, the forkserver) is made before the first look.
    """
    procession.Lock()
    if "start_method" in request.fixturenames:
        first = procession.get_context(request.getfixturevalue("start_method"))
        process = first.Process(target=os.getpid)
        process.start()
        process.join()
        process.close()
    gc.collect()
    fds, files = descriptors(), shared_files()
    yield

    def leaked() -> dict[Any, str]:
        gc.collect()
        return _new(fds, descriptors()) | _new(files, shared_files())

    if not wait_until(lambda: not leaked(), bound=LEAK_BOUND):
        pytest.fail(f"left behind: {leaked()}")

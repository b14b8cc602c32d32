"""The process that removes what a program leaves in /dev/shm."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from procession import resource_tracker
from procession.resource_tracker import ResourceTracker


@pytest.fixture
def tracker() -> Iterator[ResourceTracker]:
    tracker = ResourceTracker()
    yield tracker
    tracker._stop()


@pytest.fixture
def name() -> Iterator[str]:
    """The name of a shared-memory file that exists."""
    path = Path("/dev/shm", f"procession-test-{uuid.uuid4().hex}")
    path.touch()
    yield path.name
    path.unlink(missing_ok=True)


def test_starts_when_first_needed(tracker: ResourceTracker) -> None:
    assert tracker._fd is None
    assert len(set(tracker.fds_for_child())) == 2
    assert tracker._pid is None
    fd = tracker.getfd()
    assert fd == tracker._fd
    assert tracker._pid is not None
    assert tracker._check_alive()
    pid = tracker._pid
    tracker.ensure_running()
    assert tracker._pid == pid
    tracker._stop()
    assert tracker._exitcode == 0
    assert not tracker._check_alive()


def test_removes_what_is_left(
    tracker: ResourceTracker, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    tracker.register(f"/{name}", "shared_memory")
    tracker.register("/removed", "shared_memory")
    tracker.unregister("/removed", "shared_memory")
    tracker._stop()
    assert tracker._exitcode == 1
    assert not Path("/dev/shm", name).exists()
    message = (
        "resource_tracker: There appear to be 1 leaked shared_memory objects "
        f"to clean up at shutdown: {{'/{name}'}}"
    )
    assert message in capfd.readouterr().err


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (b"REGISTER:a:b", "ValueError: Cannot register a for automatic cleanup"),
        (b"UNREGISTER:a:shared_memory", "KeyError: 'a'"),
        (b"FORGET:a:shared_memory", "RuntimeError: unrecognized command 'FORGET'"),
        (b"?", "ValueError"),
    ],
)
def test_wrong_messages_are_told(
    tracker: ResourceTracker, message: bytes, error: str, capfd: pytest.CaptureFixture[str]
) -> None:
    os.write(tracker.getfd(), message + b"\n")
    tracker._stop()
    assert tracker._exitcode == 3
    assert error in capfd.readouterr().err


def test_too_long(tracker: ResourceTracker) -> None:
    with pytest.raises(ValueError, match="msg too long"):
        tracker.register("x" * 600, "shared_memory")


def test_dummies_leak_in_silence(
    tracker: ResourceTracker, capfd: pytest.CaptureFixture[str]
) -> None:
    tracker.register("x", "dummy")
    tracker._stop()
    assert tracker._exitcode == 1
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_ignored(tracker: ResourceTracker, sig: int) -> None:
    tracker.ensure_running()
    assert tracker._pid is not None
    os.kill(tracker._pid, sig)
    tracker.register("x", "dummy")
    tracker._stop()
    assert tracker._exitcode == 1


def test_killed_one_is_replaced(tracker: ResourceTracker) -> None:
    tracker.ensure_running()
    first = tracker._pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    with pytest.warns(UserWarning, match="resource_tracker: process died unexpectedly"):
        tracker.register("x", "dummy")
    assert tracker._pid not in (None, first)
    assert tracker._check_alive()


def test_one_for_the_whole_program(start_method: str, name: str, run_program: Any) -> None:
    """What a child has made stays until the program ends, not until the child does."""
    source = """
        import os, sys
        import procession
        from procession import resource_tracker

        def child(name):
            resource_tracker.register("/" + name, "shared_memory")

        if __name__ == "__main__":
            method, name = sys.argv[1:]
            ctx = procession.get_context(method)
            for _ in range(2):
                process = ctx.Process(target=child, args=(name,))
                process.start()
                process.join()
                assert process.exitcode == 0
            assert os.path.exists("/dev/shm/" + name)
            print("still there")
        """
    if start_method == "fork":
        source = source.replace("ctx =", "resource_tracker.fds_for_child(); ctx =")
    result = run_program(source, start_method, name)
    assert result.stdout == "still there\n"
    # run() has waited for the end of stderr, which the tracker has as well.
    assert result.stderr.count("There appear to be 1 leaked shared_memory objects") == 1
    assert not Path("/dev/shm", name).exists()


def test_noop() -> None:
    with pytest.raises(RuntimeError, match="noop should never be registered"):
        resource_tracker.cleanup_noop("x")

"""``python -m procession``: programs run unmodified, and running programs seen from outside."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

MAIN = [sys.executable, "-m", "procession"]

#: What the console script does, and a check that a look at others needs no package.
CONSOLE = [
    sys.executable,
    "-c",
    "import sys, procession_cli; code = procession_cli.main(); "
    "assert ('procession' in sys.modules) == (sys.argv[1] == 'run'); sys.exit(code)",
]

_INSTALLED = Path(sys.executable).with_name("procession")
_SOURCE = Path(__file__).resolve().parents[2] / "python/wheel-data/scripts/procession"

#: The script itself: as it is installed, or else (without a wheel) the file that it is made of.
SCRIPT = [str(_INSTALLED)] if _INSTALLED.exists() else [sys.executable, str(_SOURCE)]

#: Prints all that a program can see of how it was started.
NOSY = """\
import json, sys
main = sys.modules["__main__"]
seen = {name: repr(value) for name, value in vars(main).items() if name.startswith("__")}
seen.pop("__loader__"), seen.pop("__builtins__")
seen["spec"] = getattr(main.__spec__, "name", None)
seen.pop("__spec__")
print(json.dumps([seen, sys.argv, sys.path[0], __name__]))
sys.exit(7)
"""


def ran(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with the same program in every form that Python can run."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    for path in ("script.py", "package/__main__.py", "package/module.py"):
        (tmp_path / path).write_text(NOSY)
    (tmp_path / "link.py").symlink_to("package/module.py")
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("__main__.py", NOSY)
    return tmp_path


@pytest.mark.parametrize(
    "program",
    [
        ["script.py"],
        ["./package/../script.py", "-m", "x"],
        ["link.py", "--help"],
        ["package"],
        ["archive.zip", "x"],
        ["-m", "script"],
        ["-m", "package", "a", "b"],
        ["-m", "package.module"],
    ],
    ids=" ".join,
)
def test_run_is_like_python_itself(programs: Path, program: list[str]) -> None:
    plain = ran([sys.executable, *program], programs)
    ours = ran([*MAIN, "run", *program], programs)
    assert plain.returncode == ours.returncode == 7, plain.stderr + ours.stderr
    assert json.loads(ours.stdout) == json.loads(plain.stdout)


@pytest.mark.parametrize(
    "program",
    [["nothing.py"], ["-m", "nothing"], ["-m", "package.nothing"], ["-m", "nothing.at.all"]],
    ids=" ".join,
)
def test_what_is_not_there_is_said_as_python_says_it(programs: Path, program: list[str]) -> None:
    plain = ran([sys.executable, *program], programs)
    ours = ran([*MAIN, "run", *program], programs)
    assert ours.returncode == plain.returncode != 0
    assert ours.stderr == plain.stderr


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_run_means_procession_in_the_program_and_its_children(tmp_path: Path, method: str) -> None:
    (tmp_path / "program.py").write_text(
        """\
import multiprocessing
import sys
from multiprocessing import Pool, Queue


def where(queue):
    import multiprocessing.queues
    queue.put((multiprocessing.__name__, multiprocessing.queues.Queue.__module__))


if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    queue = Queue()
    child = multiprocessing.Process(target=where, args=(queue,))
    child.start()
    print(multiprocessing.__name__, *queue.get())
    child.join()
"""
    )
    done = ran([*MAIN, "run", "program.py", method], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["procession", "procession", "procession.queues"]


def test_usage(tmp_path: Path) -> None:
    helped = ran([*MAIN, "run", "--help"], tmp_path)
    assert (helped.returncode, helped.stderr) == (0, "")
    assert "Usage: procession run" in helped.stdout
    for wrong in (["run"], ["run", "-m"], ["run", "-x", "script.py"], ["fly"], []):
        refused = ran([*MAIN, *wrong], tmp_path)
        assert (refused.returncode, refused.stdout) == (2, ""), wrong
        assert "Usage" in refused.stderr, wrong


BUSY = """\
import sys
import procession as mp


def wait_for(lock, queue):
    with lock:
        queue.get()


if __name__ == "__main__":
    mp.set_start_method(sys.argv[1])
    lock, queue = mp.Lock(), mp.Queue()
    children = [mp.Process(target=wait_for, args=(lock, queue), name=f"kid-{i}") for i in (1, 2)]
    for child in children:
        child.start()
    print(*(child.pid for child in children), flush=True)
    sys.stdin.read()
    for child in children:
        queue.put(None)
    for child in children:
        child.join()
"""


@pytest.fixture(params=["fork", "spawn"])
def busy(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[int, list[int]]]:
    """A running program; its pid and those of its two children, who want the same lock."""
    (tmp_path / "busy.py").write_text(BUSY)
    with subprocess.Popen(
        [sys.executable, "busy.py", request.param],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        yield program.pid, [int(pid) for pid in program.stdout.readline().split()]
        program.communicate(timeout=60)
        assert program.returncode == 0


def seen(*arguments: str) -> list[dict[str, Any]]:
    shown = ran([*MAIN, "ps", "--json", *arguments], Path.cwd())
    assert shown.stderr == ""
    sessions: list[dict[str, Any]] = json.loads(shown.stdout)["sessions"]
    return sessions


def test_ps_shows_who_waits_for_whom(
    busy: tuple[int, list[int]], eventually: Callable[..., None]
) -> None:
    pid, kids = busy
    waits: dict[str, dict[int, dict[str, Any]]] = {}

    def one_has_the_lock_and_the_other_wants_it() -> bool:
        (session,) = seen(str(pid))
        waits.clear()
        for process in session["processes"]:
            if process["pid"] in kids and process["waits"]:
                wait = process["waits"][0]
                waits.setdefault(wait["kind"], {})[process["pid"]] = wait
        return sorted(waits) == ["acquire", "get"]

    eventually(one_has_the_lock_and_the_other_wants_it)
    ((reader, getting),) = waits["get"].items()
    ((_, acquiring),) = waits["acquire"].items()
    assert getting["object"]["kind"] == "queue"
    assert [owner["pid"] for owner in acquiring["owners"]] == [reader]
    assert acquiring["age"] >= 0

    (session,) = seen(str(pid), "--objects", "--pss")
    by_pid = {process["pid"]: process for process in session["processes"]}
    assert by_pid[pid]["role"] == "main"
    assert {by_pid[kid]["name"] for kid in kids} == {"kid-1", "kid-2"}
    assert all(by_pid[kid]["parent"]["pid"] == pid for kid in kids)
    assert all(by_pid[kid]["pss"] > 0 for kid in kids)
    assert {"queue", "lock"} <= {found["kind"] for found in session["objects"]}

    assert seen(str(kids[0]))[0]["id"] == session["id"]
    assert [found["id"] for found in seen()].count(session["id"]) == 1

    for command in (MAIN, CONSOLE, SCRIPT):
        table = ran([*command, "ps", str(pid)], Path.cwd())
        assert (table.returncode, table.stderr) == (0, "")
        assert "kid-1" in table.stdout
        assert "get queue #" in table.stdout


def test_a_look_without_streams_succeeds_as_well(busy: tuple[int, list[int]]) -> None:
    pid, _ = busy
    for closed in (">&-", "2>&- >/dev/null"):
        command = ["sh", "-c", f'exec "$@" {closed}', "sh", *SCRIPT, "ps", str(pid)]
        looked = ran(command, Path.cwd())
        assert (looked.returncode, looked.stdout, looked.stderr) == (0, "", "")


def test_ps_says_why_there_is_nothing_to_see() -> None:
    for command in (MAIN, SCRIPT):
        gone = ran([*command, "ps", "4294967295"], Path.cwd())
        assert (gone.returncode, gone.stdout) == (1, "")
        assert gone.stderr == "procession: there is no process 4294967295\n"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        none = ran([*MAIN, "ps", str(other.pid)], Path.cwd())
        other.communicate(b"\n", timeout=60)
    assert (none.returncode, none.stdout) == (1, "")
    assert f"process {other.pid} (" in none.stderr
    assert "does not belong to a procession session" in none.stderr


def test_the_console_script_runs_programs_too(programs: Path) -> None:
    for command in (CONSOLE, SCRIPT):
        usage = ran([*command, "run", "--help"], Path.cwd())
        assert (usage.returncode, usage.stderr) == (0, "")
        assert usage.stdout == ran([*MAIN, "run", "--help"], Path.cwd()).stdout
    # To its orderly end, which a look does without.
    program = programs / "last_words.py"
    program.write_text("import atexit\natexit.register(print, 'goodbye')\nraise SystemExit(7)\n")
    spoken = ran([*SCRIPT, "run", str(program)], programs)
    assert (spoken.returncode, spoken.stdout, spoken.stderr) == (7, "goodbye\n", "")


def test_watching_goes_on_until_interrupted(busy: tuple[int, list[int]]) -> None:
    pid, _ = busy
    command = [*MAIN, "ps", "--json", "--watch", "0.05", str(pid)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        for _ in range(3):
            (session,) = json.loads(watch.stdout.readline())["sessions"]
            assert session["processes"][0]["pid"] == pid
        watch.send_signal(signal.SIGINT)
        watch.stdout.read()
    assert watch.returncode == -signal.SIGINT

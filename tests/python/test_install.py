"""``procession run`` reaches programs that the program starts, whatever else wants to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import procession

PACKAGE = Path(procession.__file__).parent

#: Says what ``multiprocessing`` is, in a child of the start method given and in itself.
WHAT = """\
import multiprocessing, sys


def what():
    import multiprocessing.queues
    print(multiprocessing.queues.Queue.__module__, flush=True)


if __name__ == "__main__":
    child = multiprocessing.get_context(sys.argv[1]).Process(target=what)
    child.start()
    child.join()
    what()
"""

#: Starts a program with subprocess, which starts another one with os.system.
STARTER = """\
import os, subprocess, sys
again = "import os; os.system(" + repr(f"{sys.executable} what.py {sys.argv[1]}") + ")"
sys.exit(subprocess.run([sys.executable, "-c", again]).returncode)
"""


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "what.py").write_text(WHAT)
    (tmp_path / "starter.py").write_text(STARTER)
    return tmp_path


def test_programs_started_by_the_program_get_procession(folder: Path, start_method: str) -> None:
    plain = run("starter.py", start_method, cwd=folder)
    assert plain.stdout.split() == ["multiprocessing.queues"] * 2, plain.stderr
    done = run("-m", "procession", "run", "starter.py", start_method, cwd=folder)
    assert (done.stdout.split(), done.stderr) == (["procession.queues"] * 2, "")


def test_install_reaches_programs_unless_told_not_to(folder: Path) -> None:
    program = """
import procession, runpy, sys
procession.install(**{options})
sys.argv[1:] = ["fork"]
runpy.run_path("starter.py")
"""
    for options, expected in (("{}", "procession"), ("{'programs': False}", "multiprocessing")):
        done = run("-c", program.format(options=options), cwd=folder)
        assert (done.stdout.split(), done.stderr) == ([f"{expected}.queues"] * 2, "")


def test_a_program_that_does_not_use_it_does_not_load_it(tmp_path: Path) -> None:
    source = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    (tmp_path / "starter.py").write_text(source)
    look = "import sys; print([name for name in sys.modules if name.startswith('procession')])"
    done = run("-m", "procession", "run", "starter.py", look, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize(
    "custom",
    [
        "import sys; print(__name__, __file__, __spec__.origin, sys.modules[__name__].__file__)",
        "import multiprocessing.pool",
        "import nothing_of_this_name",
        "raise ValueError('broken')",
    ],
)
def test_the_users_own_sitecustomize_still_runs(folder: Path, custom: str) -> None:
    mine = folder / "mine"
    mine.mkdir()
    (mine / "sitecustomize.py").write_text(f"print('mine', flush=True)\n{custom}\n")
    look = (
        "import sys; print(getattr(sys.modules.get('sitecustomize'), '__file__', None));"
        "import multiprocessing; print(multiprocessing.__name__)"
    )
    source = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    (folder / "starter.py").write_text(source)
    path = os.pathsep.join([str(mine), str(PACKAGE.parent)])
    plain = run("starter.py", look, cwd=folder, PYTHONPATH=path)
    ours = run("-m", "procession", "run", "starter.py", look, cwd=folder, PYTHONPATH=path)
    assert ours.stdout.endswith("procession\n"), ours.stderr
    assert ours.stdout == plain.stdout.replace("\nmultiprocessing\n", "\nprocession\n")
    assert ours.stderr == plain.stderr


def test_paths_are_not_changed_for_the_worse(folder: Path) -> None:
    """The current folder does not get on the path, and what is there stays in its order."""
    look = "import sys; print(sys.path[1:])"
    source = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    (folder / "starter.py").write_text(source)
    for path in ("", str(folder)):
        plain = run("starter.py", look, cwd=folder, PYTHONPATH=path)
        command = f"import sys; sys.path.append({str(PACKAGE.parent)!r})\n"
        command += "import sys, procession.__main__; procession.__main__.main(sys.argv[1:])"
        ours = run("-c", command, "run", "starter.py", look, cwd=folder, PYTHONPATH=path)
        assert eval(ours.stdout) == [str(PACKAGE / "_fresh"), *eval(plain.stdout)], ours.stderr


def test_a_package_that_is_not_on_the_path_is_found(tmp_path: Path) -> None:
    """The interpreter may be that of another environment."""
    look = "import multiprocessing as m; print(m.__name__, m.Pool.__module__ and len(m.__path__))"
    environment = {key: v for key, v in os.environ.items() if key != "PYTHONPATH"}
    environment["PYTHONPATH"] = str(PACKAGE / "_fresh")
    bare = tmp_path / "bin"
    done: Any = subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(bare)], timeout=60, check=True
    )
    done = subprocess.run(
        [bare / "bin" / "python", "-c", look],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("procession 1\n", "")


def test_the_hook_is_read_by_interpreters_of_long_ago() -> None:
    """It says nothing that an old Python would not understand."""
    import ast

    source = (PACKAGE / "_fresh" / "sitecustomize.py").read_text()
    ast.parse(source, feature_version=(3, 4))

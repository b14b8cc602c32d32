"""The examples run, with every start method, and print what the tutorial says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

# What each tutorial program prints; the order of the first one's lines is up to the scheduler.
EXPECTED = {
    "hello_processes": {f"Worker {number}" for number in range(5)},
    "pool_map": ["[0, 1, 4, 9, 16, 25, 36, 49, 64, 81]"],
    "producer_consumer": [f"Consumed {item}" for item in range(5)],
}

# Chooses a start method, then runs the program as `python PROGRAM` would.
WITH_METHOD = """
import runpy, sys
if __name__ == "__main__":
    import {package}
    method = sys.argv.pop(1)
    {package}.set_start_method(method)
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(*arguments: str) -> str:
    """Run Python with the arguments; its output, once it ended well."""
    command = [sys.executable, "-W", "error::DeprecationWarning", *arguments]
    # Unbuffered output may split the lines of processes that print at the same time.
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        command, env=buffered, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_output(name: str, output: str) -> None:
    """Compare with what the tutorial says."""
    lines = output.splitlines()
    expected = EXPECTED[name]
    assert len(lines) == len(expected)
    assert type(expected)(lines) == expected


@pytest.mark.parametrize("name", EXPECTED)
def test_tutorial_program_as_it_stands(name: str) -> None:
    output = run(str(EXAMPLES / f"{name}.py"))
    check_output(name, output)


@pytest.mark.parametrize("name", EXPECTED)
def test_tutorial_program_with_each_start_method(name: str, start_method: str) -> None:
    program = WITH_METHOD.format(package="procession")
    output = run("-c", program, start_method, str(EXAMPLES / f"{name}.py"))
    check_output(name, output)


@pytest.mark.parametrize("name", EXPECTED)
def test_only_the_import_differs_from_the_standard_library(name: str, tmp_path: Path) -> None:
    source = (EXAMPLES / f"{name}.py").read_text()
    changed, count = re.subn(r"\bprocession\b", "multiprocessing", source)
    assert count == 1
    copy = tmp_path / f"{name}.py"
    copy.write_text(changed)
    check_output(name, run(str(copy)))


def test_the_real_job_gives_equal_tables(start_method: str) -> None:
    job = str(EXAMPLES / "stdlib_index.py")
    output = run(job, "--limit", "60", "--processes", "2", "--start-method", start_method)
    assert output.startswith("60 files, ")
    assert "The two tables are equal. Speed-up: " in output
    digests = re.findall(r"table (\w+)", output)
    assert len(digests) == 2
    assert len(set(digests)) == 1


def test_the_real_job_counts_files_that_are_not_python() -> None:
    probe = (
        "import sys, pathlib, tempfile\n"
        f"sys.path.insert(0, {str(EXAMPLES)!r})\n"
        "from stdlib_index import Index, index_file\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    pathlib.Path(folder, 'good.py').write_text('import os\\ndef f(a): return a.b\\n')\n"
        "    pathlib.Path(folder, 'bad.py').write_text('def f(:\\n')\n"
        "    index = Index()\n"
        "    index.add(index_file(folder, 'good.py'))\n"
        "    index.add(index_file(folder, 'bad.py'))\n"
        "print(index.files, index.unparsed, index.functions, index.imports)\n"
        "print(sorted(index.identifiers.items()))\n"
    )
    assert run("-c", probe).splitlines() == [
        "2 ['bad.py'] {'f': [('good.py', 2)]} {'os': ['good.py']}",
        "[('a', 2), ('b', 1)]",
    ]

"""Programs that many people use, as they come from the package index, under ``procession run``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Compare = Callable[..., Any]

#: A module with something to say for pylint and something to do for black.
SOURCE = """\
import os, sys

class thing{number}( object ):
    def Method(self, value = {{}} ):
        unused = 'single'
        if value == None: return [i for i in range( {number} )]
        return 2


def duplicate(first,second):
    total = first+second
    for name in [  'a' , 'b' ]:
        print( name,total )
    return total
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree of sources."""
    root = tmp_path / "source"
    package = root / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    for number in range(6):
        (package / f"module{number}.py").write_text(SOURCE.format(number=number))
    (package / "broken.py").write_text("def f(:\n")
    return root


def lines(run: Any) -> tuple[list[str], list[str]]:
    """What was printed, in whatever order."""
    return sorted(run.stdout.splitlines()), sorted(run.stderr.splitlines())


def test_pylint(compare: Compare, tree: Path) -> None:
    # One by one: in a folder it takes them as the file system has them.
    names = [f"package/{path.name}" for path in sorted((tree / "package").iterdir())]
    # And which duplicates it names depends on which worker had which files.
    done = compare(
        tree, "-m", "pylint", "-j", "2", "--disable=duplicate-code", *names,
        modules={"context.py"}, status=30,
    )  # fmt: skip
    assert done.stdout.count("C0103: Class name") == 6
    assert "Your code has been rated at" in done.stdout


def test_black_checks(compare: Compare, tree: Path) -> None:
    done = compare(
        tree, "-m", "black", "--workers", "2", "--check", ".",
        modules={"context.py", "queues.py"}, status=123, result=lines,
    )  # fmt: skip
    assert "6 files would be reformatted" in done.stderr
    assert "1 file would fail to reformat" in done.stderr


def test_black_writes(compare: Compare, tree: Path) -> None:
    (tree / "package" / "broken.py").unlink()
    done = compare(
        tree, "-m", "black", "--workers", "2", ".",
        modules={"context.py", "queues.py"},
        result=lambda run: (lines(run), run.files("*.py")),
    )  # fmt: skip
    assert done.files("*5.py")["package/module5.py"].startswith(b"import os, sys\n\n\nclass thing5")


def test_sphinx(compare: Compare, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    pages = [f"page{number}" for number in range(8)]
    (source / "conf.py").write_text("project = 'Little'\nhtml_theme = 'basic'\n")
    listed = "".join(f"   {page}\n" for page in pages)
    (source / "index.rst").write_text(f"Little\n======\n\n.. toctree::\n\n{listed}")
    for page in pages:
        text = f".. _{page}:\n\n{page}\n=====\n\nSee :doc:`page0`, :ref:`page3`, :doc:`missing`.\n"
        (source / f"{page}.rst").write_text(text)
    done = compare(
        source, "-m", "sphinx.cmd.build", "-j", "2", ".", "built",
        modules={"context.py", "connection.py"},
        result=lambda run: (run.files("built/*.html"), lines(run)[1]),
    )  # fmt: skip
    assert done.stderr.count("unknown document: 'missing'") == 8
    assert "built/page7.html" in done.files("built/*.html")


def test_joblib(compare: Compare, tmp_path: Path) -> None:
    script(
        tmp_path,
        """
        import os
        import numpy
        from joblib import Parallel, delayed

        def work(array, power):
            return os.getpid(), float((array ** power).sum())

        def fail(number):
            raise LookupError(f"no {number}")

        if __name__ == "__main__":
            large = numpy.arange(300_000.0)      # more than joblib keeps out of files
            with Parallel(n_jobs=2, backend="multiprocessing") as parallel:
                found = parallel(delayed(work)(large, power) for power in range(6))
                print([total for _, total in found], os.getpid() in [pid for pid, _ in found])
            many = Parallel(n_jobs=2, backend="multiprocessing", batch_size="auto")
            print(many(delayed(pow)(number, 3) for number in range(40)))
            try:
                Parallel(n_jobs=2, backend="multiprocessing")(delayed(fail)(n) for n in [7])
            except LookupError as error:
                print(error, "RemoteTraceback" in type(error.__cause__).__name__)
        """,
    )
    done = compare(tmp_path / "source", "program.py", modules={"pool.py"})
    assert "no 7 True" in done.stdout


def test_joblib_with_its_own_processes(compare: Compare, tmp_path: Path) -> None:
    """Joblib's default backend starts processes itself, and its queues and locks are its own."""
    script(
        tmp_path,
        """
        import os
        import numpy
        from joblib import Parallel, delayed

        def work(array, power):
            return os.getpid(), float((array ** power).sum())

        def fail(number):
            raise LookupError(f"no {number}")

        if __name__ == "__main__":
            large = numpy.arange(300_000.0)
            found = Parallel(n_jobs=2)(delayed(work)(large, power) for power in range(6))
            print([total for _, total in found], os.getpid() in [pid for pid, _ in found])
            stream = Parallel(n_jobs=2, return_as="generator")
            print(list(stream(delayed(lambda n: n ** 2)(number) for number in range(40))))
            try:
                Parallel(n_jobs=2)(delayed(fail)(n) for n in [7])
            except LookupError as error:
                print(error)
        """,
    )
    done = compare(tmp_path / "source", "program.py", modules={"queues.py"}, in_workers=True)
    assert "no 7" in done.stdout


def test_scikit_learn(compare: Compare, tmp_path: Path) -> None:
    script(
        tmp_path,
        """
        import joblib
        from sklearn.datasets import make_classification
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV

        if __name__ == "__main__":
            data, labels = make_classification(n_samples=200, n_features=8, random_state=0)
            grid = {"C": [0.01, 0.1, 1.0, 10.0]}
            with joblib.parallel_backend("multiprocessing", n_jobs=2):
                search = GridSearchCV(LogisticRegression(), grid, cv=3).fit(data, labels)
            print(search.best_params_, search.best_score_)
            print(search.cv_results_["mean_test_score"].tolist())
        """,
    )
    compare(tmp_path / "source", "program.py", modules={"pool.py"})


def test_tqdm(compare: Compare, tmp_path: Path) -> None:
    script(
        tmp_path,
        """
        import os
        from tqdm.contrib.concurrent import process_map

        def work(number):
            return os.getpid(), number ** 2

        if __name__ == "__main__":
            found = process_map(work, range(50), max_workers=2, chunksize=3)
            print([square for _, square in found], os.getpid() in [pid for pid, _ in found])
        """,
    )
    done = compare(
        tmp_path / "source", "program.py",
        modules={"context.py", "queues.py"}, result=lambda run: run.stdout,
    )  # fmt: skip
    assert "/50 [00:" in done.stderr


def test_compileall(compare: Compare, tree: Path) -> None:
    done = compare(
        tree, "-m", "compileall", "-j", "2", "--invalidation-mode", "checked-hash", ".",
        modules={"context.py", "queues.py"}, status=1,
        result=lambda run: (lines(run), run.files("*.pyc")),
    )  # fmt: skip
    assert len(done.files("*.pyc")) == 7


def test_pytest_xdist(compare: Compare, tmp_path: Path) -> None:
    script(
        tmp_path,
        """
        import multiprocessing
        import os
        from concurrent.futures import ProcessPoolExecutor

        import pytest

        def square(number):
            return number * number

        @pytest.mark.parametrize("method", ["fork", "spawn"])
        @pytest.mark.parametrize("size", [1, 2])
        def test_pool(method, size):
            with multiprocessing.get_context(method).Pool(size) as pool:
                assert pool.map(square, range(5)) == [0, 1, 4, 9, 16]

        def test_executor():
            with ProcessPoolExecutor(2) as executor:
                assert list(executor.map(square, range(3))) == [0, 1, 4]

        def test_that_fails():
            assert multiprocessing.Pool is None

        def test_in_a_worker_of_xdist():
            assert os.environ["PYTEST_XDIST_WORKER"] in ("gw0", "gw1")
        """,
        name="test_pools.py",
    )
    done = compare(
        tmp_path / "source", "-m", "pytest", "-n", "2", "-p", "no:cacheprovider", "-rA", "-q",
        modules={"pool.py"}, status=1, in_workers=True,
        result=lambda run: sorted(re.findall(r"^(?:PASSED|FAILED) \S+", run.stdout, re.MULTILINE)),
    )  # fmt: skip
    assert "1 failed, 6 passed" in done.stdout


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_coverage(compare: Compare, tmp_path: Path, method: str) -> None:
    """It has a hook of its own for the children of multiprocessing."""
    script(
        tmp_path,
        """
        import multiprocessing
        import sys

        def only_in_a_child(number):
            if number > 3:
                return "large"
            return "small"

        def never():
            return 1

        if __name__ == "__main__":
            with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
                print(pool.map(only_in_a_child, range(6)))
                pool.close()
                pool.join()
        """,
    )

    settings = "[run]\nconcurrency = multiprocessing\nparallel = true\n"
    (tmp_path / "source" / ".coveragerc").write_text(settings)

    def executed(run: Any) -> object:
        for command in (["combine"], ["json", "-o", "report.json"]):
            done = subprocess.run(
                [sys.executable, "-m", "coverage", *command],
                cwd=run.folder,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
        report = json.loads((run.folder / "report.json").read_text())
        lines: list[int] = report["files"]["program.py"]["missing_lines"]
        # All but what was never called: so the children's are there.
        assert lines == [11]
        return run.stdout

    compare(
        tmp_path / "source", "-m", "coverage", "run", "program.py", method,
        modules={"pool.py"}, result=executed, forks=method == "fork",
    )  # fmt: skip


def script(folder: Path, source: str, name: str = "program.py") -> None:
    """Write the program's source to where ``compare`` takes it from."""
    (folder / "source").mkdir()
    (folder / "source" / name).write_text(textwrap.dedent(source))

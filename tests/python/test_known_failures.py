"""What the run of CPython's tests makes of the list of known failures."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "conformance.py"

LIST = """\
# A comment.

3.13 */A.test_wrong  # cannot be
sometimes 3.12,3.13 fork/A.test_slow  # takes its time
3.12 fork/A.test_old  # another version
"""


@pytest.fixture
def conformance(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("conformance", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "conformance", module)
    spec.loader.exec_module(module)
    return module


def problems(conformance: Any, fixtures: dict[str, Any] | None = None, **tests: str) -> list[str]:
    """The verdict on tests that pass with the standard library and end so here."""
    return conformance.judge(  # type: ignore[no-any-return]
        {
            "tests": {"fork": {"A": tests}},
            "worse": [f"fork/A.{name}" for name, status in tests.items() if status != "passed"],
            "fixtures": fixtures or {},
        },
        conformance.read_known(LIST, "3.13"),
        {"fixtures": ["fork/Old"]},
    )


def test_known_failures_are_no_problem(conformance: Any) -> None:
    assert problems(conformance, test_wrong="failed", test_slow="error", test_good="passed") == []
    assert problems(conformance, test_wrong="timeout", test_slow="passed") == []


def test_a_new_failure_and_a_line_too_many_are(conformance: Any) -> None:
    assert problems(conformance, test_good="error") == ["fails: fork/A.test_good"]
    assert problems(conformance, test_old="failed") == ["fails: fork/A.test_old"]
    (problem,) = problems(conformance, test_wrong="passed")
    assert problem == "passes, but is in known.txt:3: fork/A.test_wrong"


def test_fixtures_count(conformance: Any) -> None:
    bad, good = [{"status": "error"}], [{"status": "passed"}]
    assert problems(conformance, fixtures={"fork/A": good, "fork/Old": bad}) == []
    assert len(problems(conformance, fixtures={"fork/A": bad})) == 1


def test_each_line_has_a_reason(conformance: Any) -> None:
    for line in ("3.13 fork/A.test_wrong", "fork/A.test_wrong  # why", "3.13 a b  # why"):
        with pytest.raises(SystemExit, match=r"known\.txt:1"):
            conformance.read_known(line, "3.13")
    for version in ("3.11", "3.12", "3.13"):
        conformance.read_known(conformance.KNOWN.read_text(), version)

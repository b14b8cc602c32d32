"""What the documents refer to is there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path) if path else document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


def test_each_public_module_has_its_page() -> None:
    pages = (ROOT / "docs" / "reference" / "README.md").read_text()
    listed = set(re.findall(r"`(procession\.\w+)`", pages))
    for name in listed:
        importlib.import_module(name)
    wanted = "context process pool queues connection synchronize managers shared_memory"
    wanted += " sharedctypes heap dummy util reduction"
    assert {f"procession.{name}" for name in wanted.split()} <= listed

"""Results as tables."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rows import MP, OURS, Goal, Row, Unit

BEGIN, END = "<!-- begin: the table of run.py -->", "<!-- end: the table of run.py -->"

# Of one row: for each library, for each round, what was measured; `None` where it failed.
Found = Mapping[str, Sequence[float | None]]


def known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def middle(values: Sequence[float | None]) -> float | None:
    return statistics.median(known(values)) if known(values) else None


def ratios(found: Found, base: str, library: str) -> list[float]:
    """How many times less than the base a library takes, round by round."""
    pairs = zip(found.get(base, ()), found.get(library, ()), strict=False)
    return [theirs / ours for theirs, ours in pairs if theirs is not None and ours]


def quantity(value: float, unit: Unit) -> str:
    """A figure as people read it."""
    if unit == "B":
        return f"{value / 1e6:.3g} MB"
    if unit == "%":
        return f"{value:.2g} %"
    if unit == "x":
        return f"{value:.3g}"
    for name, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= scale:
            return f"{value / scale:.3g} {name}"
    return f"{value / 1e-9:.3g} ns"


def times(factor: float) -> str:
    return f"{factor:.0f}x" if factor >= 20 else f"{factor:.3g}x"


def wanted(goal: Goal | None, unit: Unit) -> str:
    """The goal in words."""
    if goal is None:
        return ""
    if goal.kind == "ratio":
        return f">= {goal.value:g}x"
    sign = "<=" if goal.kind == "at most" else ">="
    return f"{sign} {quantity(goal.value, unit)}"


def verdict(row: Row, found: Found) -> bool | None:
    """Is the goal reached? `None` where there is no goal or no figure."""
    value = middle(found.get(OURS, ()))
    if row.goal is None or value is None:
        return None
    return row.goal.met(value, middle(ratios(found, row.base, OURS)))


def cell(row: Row, found: Found, library: str) -> str:
    """A library's median, and for peers how it stands to the base."""
    if library not in found:
        return ""
    value = middle(found[library])
    if value is None:
        return "failed"
    text = quantity(value, row.unit)
    if library not in (OURS, row.base) and row.unit != "x":
        factor = middle(ratios(found, row.base, library))
        text += f" ({times(factor)})" if factor is not None else ""
    return text


def line(row: Row, found: Found, libraries: Sequence[str]) -> str:
    """One row of a table."""
    compared = ratios(found, row.base, OURS) if row.unit != "x" else []
    ratio = spread = ""
    if compared:
        ratio = times(statistics.median(compared))
        spread = f"{times(min(compared))} to {times(max(compared))}"
    elif ours := known(found.get(OURS, ())):
        spread = f"{quantity(min(ours), row.unit)} to {quantity(max(ours), row.unit)}"
    mark = {True: "", False: " **missed**", None: ""}[verdict(row, found)]
    cells = [cell(row, found, library) for library in libraries]
    words = [row.title, *cells, ratio, spread, wanted(row.goal, row.unit) + mark]
    return f"| {' | '.join(words)} |"


def tables(rows: Sequence[Row], results: Mapping[str, Found]) -> str:
    """All tables, one for each section, in the order of the rows."""
    parts = []
    for section in dict.fromkeys(row.section for row in rows):
        mine = [row for row in rows if row.section == section and row.name in results]
        if not mine:
            continue
        found = {library for row in mine for library in results[row.name]}
        order = [OURS, *dict.fromkeys(row.base for row in mine), MP]
        order += [library for row in mine for library in row.libraries]
        libraries = [library for library in dict.fromkeys(order) if library in found]
        head = ["", *libraries, "ratio", "lowest to highest", "goal"]
        text = [f"### {section}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        text += [line(row, results[row.name], libraries) for row in mine]
        parts.append("\n".join(text))
    return "\n\n".join(parts)


def missed(rows: Sequence[Row], results: Mapping[str, Found]) -> str:
    """The rows that do not reach their goal, and how far they are from it."""
    lines = []
    for row in rows:
        found = results.get(row.name, {})
        if row.goal is None or verdict(row, found) is not False:
            continue
        value = middle(found[OURS])
        factor = middle(ratios(found, row.base, OURS))
        if row.goal.kind == "ratio":
            reached = times(factor) if factor is not None else "nothing to compare with"
        else:
            reached = quantity(value, row.unit) if value is not None else "nothing"
        lines.append(f"- {row.section}; {row.title}: {reached}, goal {wanted(row.goal, row.unit)}")
    return "\n".join(lines) if lines else "None."


def details(results: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """What the figures of the flat rows were made from."""
    lines = []
    for row in rows:
        for library, found in results.get(row.name, {}).items():
            parts = {
                key: middle([one[key] for one in found]) for key in (found[0] if found else ())
            }
            shown = [f"{_part(key, value)}" for key, value in parts.items() if value is not None]
            if shown:
                lines.append(f"- {row.title}, {library}: {', '.join(shown)}")
    return "\n".join(lines)


def _part(key: str, value: float) -> str:
    """`2 workers, s` with its value."""
    name, _, unit = key.rpartition(", ")
    return f"{name} {quantity(value, '%' if unit == '%' else 's')}"


def write_into(page: Path, text: str) -> None:
    """Put the text between the marks of a page."""
    old = page.read_text()
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{page} has no {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")

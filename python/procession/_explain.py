"""Which part of an object it is that cannot be pickled."""

from __future__ import annotations

import io
import pickle
from typing import Any

from .reduction import ForkingPickler

_LONGEST = 60
_DEEPEST = 12


class _Nowhere(io.RawIOBase):
    def write(self, data: Any) -> int:
        return len(data)


def _can_pickle(obj: Any) -> bool:
    try:
        ForkingPickler(_Nowhere(), pickle.HIGHEST_PROTOCOL).dump(obj)
    except Exception:
        return False
    return True


def _parts(obj: Any) -> list[tuple[str, Any]]:
    if isinstance(obj, dict):
        keys = [(f" key {key!r:.{_LONGEST}}", key) for key in obj]
        return keys + [(f"[{key!r:.{_LONGEST}}]", value) for key, value in obj.items()]
    if isinstance(obj, (list, tuple)):
        return [(f"[{i}]", value) for i, value in enumerate(obj)]
    if isinstance(obj, (set, frozenset)):
        return [(f" member {value!r:.{_LONGEST}}", value) for value in obj]
    parts = [(f".{name}", value) for name, value in getattr(obj, "__dict__", {}).items()]
    for name in ("func", "args", "keywords", "__self__"):
        if hasattr(type(obj), name) and not isinstance(obj, type):
            parts.append((f".{name}", getattr(obj, name)))
    return parts


def find_unpicklable(obj: Any) -> tuple[str, Any]:
    """The path to the innermost part that cannot be pickled, and that part."""
    path = ""
    for _ in range(_DEEPEST):
        for step, part in _parts(obj):
            if not _can_pickle(part):
                path += step
                obj = part
                break
        else:
            break
    return path, obj


def explain_unpicklable(obj: Any, error: BaseException) -> None:
    """Add a note to an exception that says where the trouble is."""
    path, leaf = find_unpicklable(obj)
    where = f"the object{path}" if path else "the object itself"
    kind = f"{type(leaf).__module__}.{type(leaf).__qualname__}"
    error.add_note(f"procession: {where} cannot be pickled: it is {leaf!r:.{_LONGEST}} ({kind})")

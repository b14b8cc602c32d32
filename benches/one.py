"""One measurement: `python one.py LIBRARY ROW` prints what was measured as a line of JSON.

It is the main module of every measurement, and what children started afresh import again.  So it
imports NumPy, as the rows about starting say, and nothing else until it knows that it is the first.
"""

from __future__ import annotations

import json
import mmap
import sys

import numpy  # noqa: F401  see above


def touch(megabytes: int) -> None:
    """Write to so much memory and free it.

    On a virtual machine free pages go back to the host after some seconds, and cost many times as
    much when they are next touched.  A measurement is to find them warm, whichever library it is.
    """
    size = megabytes << 20
    with mmap.mmap(-1, size) as memory:
        for at in range(0, size, mmap.PAGESIZE):
            memory[at] = 1


def main() -> None:
    """Measure."""
    from rows import Measured, load

    library, row = sys.argv[1], load()[sys.argv[2]]
    if row.touch:
        touch(row.touch)
    found = row.run(library)
    if not isinstance(found, Measured):
        found = Measured(found)
    print(json.dumps({"value": found.value, "detail": dict(found.detail)}))


if __name__ == "__main__":
    main()

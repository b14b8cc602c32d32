"""One measurement: `python one.py LIBRARY WORKLOAD` prints seconds for each operation."""

from __future__ import annotations

import importlib
import sys

from workloads import WORKLOADS

if __name__ == "__main__":
    library = importlib.import_module(sys.argv[1])
    if "forkserver" not in sys.argv[2] and "spawn" not in sys.argv[2]:
        library.set_start_method("fork")
    print(WORKLOADS[sys.argv[2]](library))

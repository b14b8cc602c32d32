"""Index the whole standard library of the running interpreter, serially and with a pool.

Every ``.py`` file is parsed with ``ast``; its functions, classes, imports and identifiers are
collected and merged into one table. The serial run and the pool's run must give the same table,
whatever the order in which the workers finish. The program ends with status 1 if they differ.
"""

from __future__ import annotations

import argparse
import ast
import functools
import hashlib
import os
import sys
import sysconfig
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

import procession as multiprocessing

# tqdm's refresh thread has no use here, and CPython 3.12 and later warn about a fork in a program
# that has a second thread.
tqdm.monitor_interval = 0


@dataclass(frozen=True)
class FileIndex:
    """What one source file defines, imports and mentions."""

    path: str
    functions: tuple[tuple[str, int], ...] = ()
    classes: tuple[tuple[str, int], ...] = ()
    imports: tuple[str, ...] = ()
    identifiers: dict[str, int] = field(default_factory=dict)
    unparsed: bool = False


@dataclass
class Index:
    """The merged table: where each name is defined, who imports what, how often a name occurs."""

    files: int = 0
    unparsed: list[str] = field(default_factory=list)
    functions: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    classes: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    imports: dict[str, list[str]] = field(default_factory=dict)
    identifiers: Counter[str] = field(default_factory=Counter)

    def add(self, found: FileIndex) -> None:
        """Merge one file. The order of the calls does not matter once `seal` has run."""
        self.files += 1
        if found.unparsed:
            self.unparsed.append(found.path)
            return
        for name, line in found.functions:
            self.functions.setdefault(name, []).append((found.path, line))
        for name, line in found.classes:
            self.classes.setdefault(name, []).append((found.path, line))
        for module in found.imports:
            self.imports.setdefault(module, []).append(found.path)
        self.identifiers.update(found.identifiers)

    def seal(self) -> Index:
        """Put every list into its one right order."""
        self.unparsed.sort()
        for places in (*self.functions.values(), *self.classes.values()):
            places.sort()
        for importers in self.imports.values():
            importers.sort()
        return self

    def digest(self) -> str:
        """Return a fingerprint of the whole table, to be compared by eye in a log."""
        hasher = hashlib.sha256(repr(self.unparsed).encode())
        hasher.update(repr(sorted(self.functions.items())).encode())
        hasher.update(repr(sorted(self.classes.items())).encode())
        hasher.update(repr(sorted(self.imports.items())).encode())
        hasher.update(repr(sorted(self.identifiers.items())).encode())
        return hasher.hexdigest()[:16]


def index_file(root: str, path: str) -> FileIndex:
    """Parse the file ``root/path``. A file that is no valid Python is counted, not an error."""
    source = Path(root, path).read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return FileIndex(path, unparsed=True)

    functions: list[tuple[str, int]] = []
    classes: list[tuple[str, int]] = []
    imports: set[str] = set()
    identifiers: Counter[str] = Counter()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                functions.append((node.name, node.lineno))
            case ast.ClassDef():
                classes.append((node.name, node.lineno))
            case ast.Import():
                imports.update(alias.name for alias in node.names)
            case ast.ImportFrom():
                imports.add("." * node.level + (node.module or ""))
            case ast.Name():
                identifiers[node.id] += 1
            case ast.Attribute():
                identifiers[node.attr] += 1
            case ast.arg():
                identifiers[node.arg] += 1
            case _:
                pass
    return FileIndex(path, tuple(functions), tuple(classes), tuple(sorted(imports)), identifiers)


def source_files(root: Path) -> list[str]:
    """Return all ``.py`` files below ``root`` but for installed packages, in a fixed order."""
    found = (path.relative_to(root) for path in root.rglob("*.py"))
    return sorted(str(path) for path in found if "site-packages" not in path.parts)


def merge(results: Iterable[FileIndex], total: int, label: str) -> Index:
    """Merge the results as they come, under a progress bar."""
    index = Index()
    for found in tqdm(results, total=total, desc=label, unit="file", mininterval=0.5):
        index.add(found)
    return index.seal()


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--chunksize", type=int, default=8, help="files per task (default: 8)")
    parser.add_argument("--start-method", choices=multiprocessing.get_all_start_methods())
    parser.add_argument("--limit", type=int, help="index only the first LIMIT files")
    return parser.parse_args()


def main() -> int:
    """Build the index twice and compare."""
    options = parse_arguments()
    context = multiprocessing.get_context(options.start_method)
    root = Path(sysconfig.get_path("stdlib"))
    files = source_files(root)[: options.limit]
    job = functools.partial(index_file, str(root))

    # One reading beforehand, so that both runs find the files in the page cache.
    size = sum(len((root / path).read_bytes()) for path in files)
    print(f"{len(files)} files, {size / 1e6:.1f} MB of source of Python {sys.version.split()[0]}")

    start = time.perf_counter()
    serial = merge(map(job, files), len(files), "serial")
    serial_time = time.perf_counter() - start

    start = time.perf_counter()
    with context.Pool(options.processes) as pool:
        results = pool.imap_unordered(job, files, chunksize=options.chunksize)
        parallel = merge(results, len(files), "pool  ")
    parallel_time = time.perf_counter() - start

    def count(table: dict[str, list[tuple[str, int]]]) -> int:
        return sum(map(len, table.values()))

    print(f"functions    {count(serial.functions):>9,}  ({len(serial.functions):,} names)")
    print(f"classes      {count(serial.classes):>9,}  ({len(serial.classes):,} names)")
    print(f"imports      {len(serial.imports):>9,}  modules")
    print(f"identifiers  {serial.identifiers.total():>9,}  ({len(serial.identifiers):,} names)")
    print(f"not Python   {len(serial.unparsed):>9,}  files")
    print(f"serial       {serial_time:>9.2f}  s, table {serial.digest()}")
    print(f"pool         {parallel_time:>9.2f}  s, table {parallel.digest()}")
    if parallel != serial:
        print("The two tables differ.")
        return 1
    speedup = serial_time / parallel_time
    print(f"The two tables are equal. Speed-up: {speedup:.2f}x on {options.processes} processes.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

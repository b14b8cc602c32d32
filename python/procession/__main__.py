"""``python -m procession``, and ``procession run``.

``run`` is a matter of Python and done here. Every other verb looks into running programs and is
done by the native command line, which needs nothing of this process.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

_USAGE = """\
Usage: procession run [-m MODULE | SCRIPT] [ARGUMENTS]...

Run a Python program that was written for multiprocessing, unmodified, with procession in its place:
`import multiprocessing` means procession in the program and in all its children, also in the Python
programs that it starts.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for and return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["run"]:
        return _run_program(given[1:])

    from . import _native

    code: int = _native.cli(given)
    return code


def _run_program(given: list[str]) -> int:
    """Run the program that ``given`` names. Its own ``sys.exit`` goes through."""
    if given[:1] in (["-h"], ["--help"]):
        print(_USAGE, end="")
        return 0
    is_module = given[:1] == ["-m"]
    program = given[1:] if is_module else given
    if not program or (not is_module and program[0].startswith("-")):
        print(_USAGE, end="", file=sys.stderr)
        return 2

    from . import _run, install

    install()
    if is_module:
        _run.run_module(program[0], program[1:])
    else:
        _run.run_script(program[0], program[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main())

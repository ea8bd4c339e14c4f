"""What the fork server imports, guessed from an input that nobody has read yet.

Rules of this file
------------------
1. A wrong guess costs slots an import each, and changes nothing else.
2. Standard library only: the fork server starts before anything slow is imported.
"""

from __future__ import annotations

import argparse
import re

from qcmb_mpi.execution.forkserver import PRELOAD, PRELOAD_LAST, PRELOAD_NATIVE
from qcmb_mpi.programs.configured import has_settings
from qcmb_mpi.programs.names import OURS, preload_modules

_PEEK_BYTES = 1 << 20
_PROGRAM = re.compile(rb"""["']?program["']?\s*:\s*["']?([\w.+-]+)""")
# Whole results, and extras that are not empty.
_FOR_QCENGINE = re.compile(
    rb"""cluster_results["']?\s*:\s*["']?all|extras["']?\s*:\s*\{?\s*[^\s{}]"""
)


def modules_for(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the modules that slots of a run will need, in the order of importing them."""
    text = _peek(args.input)
    names = {name.decode().lower() for name in _PROGRAM.findall(text)}
    if args.program:
        names.add(args.program.lower())
    takes_qcengine = (
        args.imports
        or args.remedies
        or not names
        or not names <= set(OURS)
        or _FOR_QCENGINE.search(text)
        or has_settings()
    )
    first = PRELOAD if takes_qcengine else PRELOAD_NATIVE
    return (*first, *preload_modules(sorted(names)), *PRELOAD_LAST)


def _peek(source: str) -> bytes:
    try:
        with open(source, "rb") as lines:
            return lines.read(_PEEK_BYTES)
    except OSError:
        return b""

"""How commands are written, and what may have been meant where they are not.

Rules of this file
------------------
1. As for options: nothing is imported that is slow.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NoReturn

from qcmb_mpi.errors import InputError

_CHARGES = re.compile(r"-\d[\d,+-]*")

# What follows the name of a command, and examples of it.
USAGE = {
    "run": (
        "INPUT [-o RESULT] [options]",
        "input.yaml -o out.result.json",
        "cluster.xyz --method mp2 --basis cc-pvdz --bsse cp --max-nbody 3",
    ),
    "plan": (
        "INPUT [options, also those of run]",
        "input.yaml",
        "cluster.xyz --method hf --basis 6-31g --ranks 8 --nodes 2",
    ),
    "report": ("RESULT|STORE [-o report.html]", "out.result.json -o out.html"),
    "status": ("STORE|RESULT [--json]", "out.result.json"),
    "verify": ("RESULT [--store STORE]", "out.result.json"),
    "repair": ("STORE", "out.store.sqlite"),
    "doctor": ("[INPUT] [options]", "--json", "input.yaml"),
    "jobscript": (
        "SYSTEM INPUT [options, also those of run]",
        "slurm input.yaml --nodes 4 --walltime 12:00:00 > job.sh",
    ),
    "simulate": (
        "[INPUT] --ranks N [options]",
        "input.yaml --ranks 64 --slots 8",
        "--tasks 10000 --task-seconds 1-60 --ranks 64",
    ),
}


def joined(words: Sequence[str]) -> list[str]:
    """Join an option and a value that begins with a minus, which argparse takes for an option."""
    found: list[str] = []
    for word in words:
        if found and found[-1] == "--charge" and _CHARGES.fullmatch(word):
            found[-1] += f"={word}"
        else:
            found.append(word)
    return found


def refuse_mistyped(word: str, known: Collection[str]) -> None:
    """Raise if `word` looks more like a command than like a file.

    Raises
    ------
    InputError
        It names what may have been meant.
    """
    near = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    if near and not Path(word).suffix and not Path(word).exists():
        raise InputError("command line", f"no command {word!r}, did you mean {near[0]}?")


def refuse_unknown_options(words: Sequence[str], known: Collection[str], prog: str) -> None:
    """Raise if a word is a long option that there is not, before anything else is said.

    Raises
    ------
    InputError
        It names what may have been meant.
    """
    for word in words:
        name = word.partition("=")[0]
        if word == "--":
            return
        if name.startswith("--") and name not in known:
            _refuse_option(name, known, prog)


def refuse_unplaced(word: str, known: Collection[str], prog: str) -> NoReturn:
    """Raise because of a word that is nothing to this command.

    Raises
    ------
    InputError
        It names what may have been meant.
    """
    if word.startswith("-"):
        _refuse_option(word.partition("=")[0], known, prog)
    joined = "--bsse" in known
    hint = " (several values of an option are joined by commas: --bsse cp,nocp)" if joined else ""
    raise InputError("command line", f"{word!r} has no place{hint} (see {prog} --help)")


def _refuse_option(name: str, known: Collection[str], prog: str) -> NoReturn:
    near = difflib.get_close_matches(f"--{name.lower().lstrip('-')}", known, n=1, cutoff=0.6)
    meant = f", did you mean {near[0]}?" if near else ""
    raise InputError(name, f"there is no such option{meant} (see {prog} --help)")

"""Names people mistype: find the nearest ones, and say so in one sentence.

Rules of this file
------------------
1. Standard library only, so that the preflight and every harness can use it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MODULES = {
    "pyscf": (
        *("pyscf.gto", "pyscf.scf", "pyscf.dft", "pyscf.grad"),
        "qcmb_mpi.programs.pyscf_calculation",
    ),
    "tblite": ("tblite.interface", "qcmb_mpi.programs.tblite_run"),
}
OURS = tuple(_MODULES)
"""The programs that come with the package and run in its own processes."""


class RequestError(ValueError):
    """A method, basis set, keyword or molecule that a program cannot take.

    The harnesses turn it into QCEngine's ``InputError``, the preflight into ours.

    Parameters
    ----------
    message : str
        What is wrong and what to write instead.
    part : str
        The part of the specification at fault: ``model.method``, ``model.basis``, ``keywords``,
        ``driver`` or ``molecule``.
    """

    def __init__(self, message: str, *, part: str) -> None:
        self.part = part
        super().__init__(message)


def nearest(
    name: str, known: Iterable[str], *, n_names: int = 4, cutoff: float = 0.5
) -> tuple[str, ...]:
    """Return up to `n_names` of the `known` names that look like `name`, best first."""
    by_key = {candidate.lower(): candidate for candidate in sorted(known)}
    keys = difflib.get_close_matches(name.lower(), list(by_key), n=n_names, cutoff=cutoff)
    return tuple(by_key[key] for key in keys)


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """Return ``"; did you mean a, b?"``, or nothing if no known name is near."""
    known = tuple(known)
    method, slash, basis = name.partition("/")
    if slash and method.lower() in known:
        return f"; did you mean method {method} and basis {basis}?"
    names = nearest(name, known, cutoff=cutoff)
    return f"; did you mean {', '.join(names)}?" if names else ""


def preload_modules(programs: Iterable[str]) -> tuple[str, ...]:
    """Return the Python modules that `programs` are, to be imported before slots are forked."""
    return tuple(module for name in programs for module in _MODULES.get(name.lower(), ()))

"""Atoms as geometry files give them: a symbol, perhaps a charge, three coordinates.

Rules of this file
------------------
1. What cannot be read without doubt is an :class:`InputError` with the number of its line.
2. No import of QCElemental: who knows the elements comes in as a function.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.errors import InputError

Element = Callable[[str], "str | None"]
"""The symbol of an element given by symbol (in any case) or atomic number, None for others."""

FARTHEST = 1e6  # a coordinate beyond this is a mistake
_ATOM = re.compile(
    r"(?P<letters>[A-Za-z]+)"
    r"(?:(?P<label>_?\d+)|(?P<signs>\++|-+)|(?P<before>\d+)(?P<sign>[+-])|(?P<after>[+-]\d+))?"
)
_ACCEPTED = "an element's symbol or atomic number; no dummy or ghost atoms"


@dataclass(frozen=True, slots=True)
class ChargeLine:
    """Charge and multiplicity that a file gives for some atoms.

    Parameters
    ----------
    charge, multiplicity : int
    """

    charge: int
    multiplicity: int


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """Atoms of a geometry file.

    Parameters
    ----------
    symbols : tuple of str
        In QCElemental's spelling.
    positions : float[n_atoms, 3]
        In `units`.
    charges : tuple of (int or None)
        Of single atoms, as ``Na+`` has one; None where nothing is said.
    groups : tuple of tuple of int, optional
        Atoms (from 0) between the ``--`` lines of the file, if it has such lines.
    states : tuple of (ChargeLine or None)
        One for each group, if there are groups.
    total : ChargeLine, optional
        Of all atoms.
    units : {"angstrom", "bohr"}
    warnings : tuple of str
        What was left out.
    """

    symbols: tuple[str, ...]
    positions: NDArray[np.float64]
    charges: tuple[int | None, ...]
    groups: tuple[tuple[int, ...], ...] | None = None
    states: tuple[ChargeLine | None, ...] = ()
    total: ChargeLine | None = None
    units: str = "angstrom"
    warnings: tuple[str, ...] = ()

    @property
    def has_states(self) -> bool:
        """Whether the file gives charges of its own groups."""
        return self.total is not None or any(state is not None for state in self.states)


def read_atom(text: str, element: Element, where: str) -> tuple[str, int | None]:
    """Read ``O``, ``cl``, ``8``, ``H2`` (a label), ``Na+``, ``Ca2+`` or ``Ca+2``.

    Parameters
    ----------
    text : str
    element : callable
        Knows the elements.
    where : str
        File and line, for errors.

    Returns
    -------
    tuple of (str, int or None)
        Symbol, and charge if there is one.

    Raises
    ------
    InputError
        It is none of these.
    """
    found = _ATOM.fullmatch(text)
    symbol = element(text if text.isdecimal() else found["letters"] if found else "")
    if symbol is None:
        raise InputError(where, "is not a chemical element", value=text, accepted=_ACCEPTED)
    if found is None:
        return symbol, None
    letters = found["letters"]
    if found["label"] and letters != symbol and len(letters) > 1 and element(letters[0]):
        message = f"{letters} may be {symbol}, or {letters[0].upper()} with a label"
        raise InputError(where, message, value=text, accepted="the symbol alone")
    return symbol, _charge(found)


def _charge(found: re.Match[str]) -> int | None:
    if found["signs"]:
        return len(found["signs"]) * (1 if found["signs"][0] == "+" else -1)
    if found["sign"]:
        return int(found["sign"] + found["before"])
    return int(found["after"]) if found["after"] else None


def read_coordinates(words: Sequence[str], where: str) -> list[float]:
    """Read three coordinates, also with Fortran's exponents (``1.0D-01``).

    Raises
    ------
    InputError
        There are not three, or one is no number or beyond `FARTHEST`.
    """
    try:
        x, y, z = (float(word.replace("D", "E").replace("d", "e")) for word in words)
        if not all(abs(each) < FARTHEST for each in (x, y, z)):
            raise ValueError
    except ValueError:
        accepted = f"an element and three coordinates, each below {FARTHEST:.0e}"
        value = " ".join(words)
        raise InputError(where, "cannot be read", value=value, accepted=accepted) from None
    return [x, y, z]

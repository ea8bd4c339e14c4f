"""Atoms from the lines of a .pdb file.

Rules of this file
------------------
1. Columns are the format's: names and coordinates are never split at spaces.
2. One geometry: the first MODEL, and in each residue the first alternate location. What is left
   out is said in a warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from qcmb_mpi.errors import InputError
from qcmb_mpi.inputs.atoms import Element, Geometry, read_atom, read_coordinates

_RECORDS = ("ATOM", "HETATM")
_ACCEPTED = "ATOM and HETATM lines in the columns of the PDB format: x, y, z in 31 to 54"


def parse(lines: Sequence[str], source: str, element: Element, units: str | None) -> Geometry:
    """Read the lines of a file; for the parameters see :func:`qcmb_mpi.inputs.xyz_text.parse`.

    Raises
    ------
    InputError
        A line cannot be read, or there are no atoms.
    """
    warnings: dict[str, None] = {}
    symbols: list[str] = []
    positions: list[list[float]] = []
    charges: list[int | None] = []
    for number, line in _chosen(_first_model(lines, warnings), warnings):
        where = f"{source} line {number}"
        positions.append(_coordinates(line, where))
        symbols.append(_element(line, element, where, warnings))
        charges.append(_charge(line))
    if not symbols:
        raise InputError(source, "has no atoms", accepted=_ACCEPTED)
    return Geometry(
        tuple(symbols),
        np.array(positions),
        tuple(charges),
        units=units or "angstrom",
        warnings=tuple(warnings),
    )


def _first_model(lines: Sequence[str], warnings: dict[str, None]) -> Iterator[tuple[int, str]]:
    """Yield the atoms' lines, each with its number, up to the end of the first model."""
    for number, line in enumerate(lines, start=1):
        if line.startswith("ENDMDL"):
            if any(rest.startswith("MODEL") for rest in lines[number:]):
                warnings["only MODEL 1 of the file is used"] = None
            return
        if line[:6].strip() in _RECORDS or line.startswith(tuple(f"{r} " for r in _RECORDS)):
            yield number, line


def _chosen(
    lines: Iterator[tuple[int, str]], warnings: dict[str, None]
) -> Iterator[tuple[int, str]]:
    """Leave out all alternate locations of a residue but the one that comes first."""
    first: dict[str, str] = {}
    taken: set[str] = set()
    for number, line in lines:
        residue, atom, location = line[21:27], line[12:16] + line[21:27], line[16:17].strip()
        if location and (atom in taken or first.setdefault(residue, location) != location):
            warnings["alternate locations other than the first are left out"] = None
        else:
            taken.add(atom)
            yield number, line


def _element(line: str, element: Element, where: str, warnings: dict[str, None]) -> str:
    """Element of columns 77-78; without them of the atom name, whose columns 13-14 it fills."""
    written = line[76:78].strip()
    if written.isalpha():  # old files have their own name there
        return read_atom(written, element, where)[0]
    name = line[12:16]
    letters = re.sub(r"[^A-Za-z]", "", name[:2])
    if not letters:
        raise InputError(where, "has no element in columns 77-78", value=name)
    is_hydrogen = len(name.strip()) == 4 and letters[:1].upper() == "H"  # HG21 is no mercury
    symbol = None if is_hydrogen else element(letters)
    if symbol is None or len(symbol) < 2:
        return symbol or read_atom(letters[:1], element, where)[0]
    warnings[f"columns 77-78 are empty: {name.strip()} was taken as {symbol}"] = None
    return symbol


def _charge(line: str) -> int | None:
    """Formal charge of columns 79-80, as ``1+``; what else stands there is none."""
    found = re.fullmatch(r"(?:([1-9])([+-])|([+-])([1-9]))", line[78:80].strip())
    return None if found is None else int((found[2] or found[3]) + (found[1] or found[4]))


def _coordinates(line: str, where: str) -> list[float]:
    words = [line[start : start + 8].strip() for start in (30, 38, 46)]
    try:
        return read_coordinates(words, where)
    except InputError:
        value = line.rstrip()
        raise InputError(where, "cannot be read", value=value, accepted=_ACCEPTED) from None

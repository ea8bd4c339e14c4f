"""Atoms from .xyz and .pdb files.

Rules of this file
------------------
1. One file, one geometry, in angstrom; what is left out is said in a warning.
2. A line that cannot be read is an :class:`InputError` with its number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.errors import InputError
from qcmb_mpi.inputs.documents import YAML_SUFFIXES, read_text

SUFFIXES = (".xyz", ".pdb", ".ent")


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """Atoms of a geometry file.

    Parameters
    ----------
    symbols : tuple of str
        As written, case corrected.
    positions_angstrom : float[n_atoms, 3]
    groups : tuple of tuple of int, optional
        Atoms (from 0) between the ``--`` lines of the file, if it has such lines.
    warnings : tuple of str
        What was left out.
    """

    symbols: tuple[str, ...]
    positions_angstrom: NDArray[np.float64]
    groups: tuple[tuple[int, ...], ...] | None = None
    warnings: tuple[str, ...] = ()


def is_geometry_file(source: str) -> bool:
    """Whether the name is one of a geometry file."""
    return Path(source).suffix.lower() in SUFFIXES


def refuse_ending(source: str) -> None:
    """Raise if the name is neither one of a geometry file nor one of a document."""
    known = (".json", *YAML_SUFFIXES, *SUFFIXES[:2])
    if source != "-" and Path(source).suffix.lower() not in known:
        raise InputError(source, "ending not known", accepted=" ".join(known))


def read_geometry(source: str) -> Geometry:
    """Read an .xyz or .pdb file.

    Raises
    ------
    InputError
        The file cannot be read as one geometry.
    """
    lines = read_text(source).splitlines()
    parse = _parse_xyz if Path(source).suffix.lower() == ".xyz" else _parse_pdb
    return parse(lines, source)


def _parse_xyz(lines: Sequence[str], source: str) -> Geometry:
    try:
        n_atoms = int(lines[0])
    except ValueError:
        where = f"{source} line 1"
        raise InputError(where, "must be the number of atoms", value=lines[0]) from None
    symbols: list[str] = []
    positions: list[list[float]] = []
    groups: list[list[int]] = [[]]
    for number, line in enumerate(lines[2:], start=3):
        words = line.split()
        if words and set(words[0]) == {"-"} and len(words[0]) > 1:
            groups.append([])
        elif words:
            groups[-1].append(len(symbols))
            symbols.append(words[0].capitalize())
            positions.append(_coordinates(words[1:4], f"{source} line {number}"))
        if len(symbols) > n_atoms:
            message = "more atoms follow; give one geometry, with its own number of atoms"
            raise InputError(f"{source} line {number}", message)
    if len(symbols) != n_atoms or not symbols:
        message = f"line 1 announces {n_atoms} atoms, {len(symbols)} follow"
        raise InputError(source, message)
    filled = tuple(tuple(group) for group in groups if group)
    return Geometry(tuple(symbols), np.array(positions), filled if len(groups) > 1 else None)


def _parse_pdb(lines: Sequence[str], source: str) -> Geometry:
    symbols: list[str] = []
    positions: list[list[float]] = []
    warnings: dict[str, None] = {}
    for number, line in enumerate(lines, start=1):
        if line.startswith("ENDMDL"):
            if any(rest.startswith("MODEL") for rest in lines[number:]):
                warnings["only MODEL 1 of the file is used"] = None
            break
        if not line.startswith(("ATOM  ", "HETATM")):
            continue
        if line[16:17] not in (" ", "A", "1", ""):
            warnings["alternate locations other than the first are left out"] = None
            continue
        where = f"{source} line {number}"
        symbols.append(_pdb_element(line, where))
        words = [line[start : start + 8].strip() for start in (30, 38, 46)]
        positions.append(_coordinates(words, where))
    if not symbols:
        raise InputError(source, "has no ATOM or HETATM lines")
    return Geometry(tuple(symbols), np.array(positions), None, tuple(warnings))


def _pdb_element(line: str, where: str) -> str:
    """Element of columns 77-78; without them of the atom name, whose columns 13-14 it fills."""
    element = line[76:78].strip() or line[12:14].strip().lstrip("0123456789")
    if not element.isalpha():
        raise InputError(where, "has no element in columns 77-78", value=line[12:16])
    return element.capitalize()


def _coordinates(words: Sequence[str], where: str) -> list[float]:
    try:
        x, y, z = (float(word) for word in words)
        if not math.isfinite(x + y + z):
            raise ValueError
    except ValueError:
        accepted = "an element and three coordinates in angstrom"
        raise InputError(
            where, "cannot be read", value=" ".join(words), accepted=accepted
        ) from None
    return [x, y, z]

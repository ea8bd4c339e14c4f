"""Atoms from the text of an .xyz file, or of a molecule as Psi4 writes it.

Rules of this file
------------------
1. A file that begins with a number of atoms is an XYZ file: one geometry, and nothing of it is
   left out but what follows the last atom, which a warning tells.
2. A file that begins with anything else is a list of atoms: what Psi4 accepts between braces.
3. In both, ``--`` stands between fragments, and a line of two whole numbers gives the charge and
   the multiplicity of what follows; in the comment of an XYZ file they are only warned of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from qcmb_mpi.errors import InputError
from qcmb_mpi.inputs.atoms import (
    ChargeLine,
    Element,
    Geometry,
    read_atom,
    read_coordinates,
)

UNITS = {"angstrom": "angstrom", "ang": "angstrom", "bohr": "bohr", "au": "bohr", "a.u.": "bohr"}
_CHARGE = re.compile(r"([+-]?\d{1,4})[\s,]+(\d{1,4})")
_UNITS_LINE = re.compile(r"units?[\s=:]+(\S+)", re.IGNORECASE)
_NO_ATOMS = re.compile(r"(no_?com|no_?reorient|symmetry\b.*)", re.IGNORECASE)
_PROPERTIES = re.compile(r"""\bproperties\s*=\s*["']?([^\s"']+)""", re.IGNORECASE)
_BOHR = re.compile(
    r"\bunits?[\s=:]+(bohr|au)\b|(\bin|\[|\()\s*bohrs?\b(?![-^/])|^\s*bohrs?\s*$", re.IGNORECASE
)
_CHARGE_WORD = re.compile(r"\bcharge\s*[=:]\s*[+-]?0*[1-9]\d*", re.IGNORECASE)
_CELL = re.compile(r"\blattice\s*=", re.IGNORECASE)

Columns = tuple[int, int]


def parse(lines: Sequence[str], source: str, element: Element, units: str | None) -> Geometry:
    """Read the lines of a file.

    Parameters
    ----------
    lines : sequence of str
        At least one of them is not empty.
    source : str
        The file, for errors.
    element : callable
        Knows the elements.
    units : {"angstrom", "bohr"}, optional
        As the user says; by default what the file says, or else angstrom.

    Returns
    -------
    Geometry

    Raises
    ------
    InputError
        A line cannot be read, or there is more than one geometry.
    """
    first = next(place for place, line in enumerate(lines) if line.strip())
    count = lines[first].strip()
    reader = _Reader(source, element, units)
    if re.fullmatch(r"[+-]?\d{1,9}", count):
        _read_counted(reader, lines, first)
    else:
        _read_listed(reader, lines, first)
    return reader.geometry()


class _Reader:
    """Takes lines, and gives what they say."""

    def __init__(self, source: str, element: Element, units: str | None) -> None:
        self.symbols: list[str] = []
        self.warnings: list[str] = []
        self.units = units
        self.is_told_units = units is not None
        self._source = source
        self._element = element
        self._positions: list[list[float]] = []
        self._charges: list[int | None] = []
        self._groups: list[list[int]] = [[]]
        self._states: list[ChargeLine | None] = [None]
        self._total: ChargeLine | None = None
        self._n_separators = 0

    def where(self, number: int) -> str:
        """Name a line."""
        return f"{self._source} line {number}"

    def mark(self, text: str, number: int) -> bool:
        """Take a line that is no atom: a separator, a charge, a unit, a remark, nothing."""
        separator = len(text) > 1 and set(text) == {"-"}
        if separator:
            self._separate()
        elif found := _CHARGE.fullmatch(text):
            self._state(int(found[1]), int(found[2]), number)
        elif found := _UNITS_LINE.fullmatch(text):
            self._unit(found[1], number)
        return bool(separator or found or not text or text[0] == "#" or _NO_ATOMS.fullmatch(text))

    def atom(self, text: str, number: int, columns: Columns = (0, 1)) -> None:
        """Take a line that is an atom."""
        words, (name, place) = text.split("#")[0].split(), columns
        coordinates = read_coordinates(words[place : place + 3], self.where(number))
        if len(words) <= name:
            raise InputError(self.where(number), "has no element", value=text)
        symbol, charge = read_atom(words[name], self._element, self.where(number))
        self._groups[-1].append(len(self.symbols))
        self.symbols.append(symbol)
        self._charges.append(charge)
        self._positions.append(coordinates)

    def geometry(self) -> Geometry:
        """Return all that was taken."""
        if not self.symbols:
            raise InputError(self._source, "has no atoms")
        filled = [place for place, group in enumerate(self._groups) if group]
        has_groups = self._n_separators > 0 and len(filled) > 1
        states = tuple(self._states[place] for place in filled)
        return Geometry(
            tuple(self.symbols),
            np.array(self._positions),
            tuple(self._charges),
            groups=tuple(tuple(self._groups[place]) for place in filled) if has_groups else None,
            states=states if has_groups else (),
            total=self._total if has_groups else self._total or states[0],
            units=self.units or "angstrom",
            warnings=tuple(self.warnings),
        )

    def _separate(self) -> None:
        self._n_separators += 1
        if self._n_separators == 1 and not self.symbols:
            self._total, self._states[0] = self._states[0], None
        self._groups.append([])
        self._states.append(None)

    def _state(self, charge: int, multiplicity: int, number: int) -> None:
        if self._groups[-1] or self._states[-1] is not None:
            message = "a charge and a multiplicity stand before the atoms that they belong to"
            raise InputError(self.where(number), message, value=f"{charge} {multiplicity}")
        self._states[-1] = ChargeLine(charge, multiplicity)

    def _unit(self, name: str, number: int) -> None:
        if name.lower() not in UNITS:
            accepted = "angstrom, bohr"
            raise InputError(
                self.where(number), "is no unit of length", value=name, accepted=accepted
            )
        if not self.is_told_units:
            self.units = UNITS[name.lower()]


def _read_counted(reader: _Reader, lines: Sequence[str], first: int) -> None:
    n_atoms = int(lines[first])
    if n_atoms < 1:
        raise InputError(reader.where(first + 1), "must be the number of atoms", value=lines[first])
    comment = lines[first + 1] if len(lines) > first + 1 else ""
    columns = _heed_comment(reader, comment, first + 2)
    for number, line in enumerate(lines[first + 2 :], start=first + 3):
        text = line.strip()
        if len(reader.symbols) == n_atoms and text and not _is_mark(reader, text, number):
            _heed_rest(reader, text, number, n_atoms)
            return
        if len(reader.symbols) < n_atoms and not reader.mark(text, number):
            reader.atom(text, number, columns)
    if len(reader.symbols) < n_atoms:
        message = f"announces {n_atoms} atoms, {len(reader.symbols)} follow"
        raise InputError(reader.where(first + 1), message)


def _is_mark(reader: _Reader, text: str, number: int) -> bool:
    """Whether a line after the last atom is one that may stand there."""
    return not _CHARGE.fullmatch(text) and reader.mark(text, number)


def _heed_comment(reader: _Reader, comment: str, number: int) -> Columns:
    """Return where the symbol and the first coordinate stand; note what else the comment says."""
    if _CELL.search(comment):
        reader.warnings.append("the cell of the file (Lattice) is not used: one cluster, no images")
    if _BOHR.search(comment) and not reader.is_told_units:
        message = "the comment speaks of bohr, but an .xyz file is in angstrom"
        accepted = "--units bohr or --units angstrom, whichever is meant"
        raise InputError(reader.where(number), message, value=comment, accepted=accepted)
    if found := _CHARGE_WORD.search(comment) or _CHARGE.fullmatch(comment.strip()):
        reader.warnings.append(f"not read, but in the comment: {found[0]}; --charge says it")
    found = _PROPERTIES.search(comment)
    return _columns(found[1], reader.where(number)) if found else (0, 1)


def _columns(properties: str, where: str) -> Columns:
    """Read ``species:S:1:pos:R:3:forces:R:3`` of an extended XYZ file."""
    parts, starts, column = properties.split(":"), {}, 0
    try:
        for name, width in zip(parts[::3], parts[2::3], strict=False):
            starts[name.lower()] = column
            if not width.isdecimal() or int(width) < 1:
                break  # what stands behind it is not found, nor needed
            column += int(width)
        name = next(key for key in ("species", "element", "z") if key in starts)
        return starts[name], starts["pos"]
    except (ValueError, KeyError, StopIteration):
        accepted = "name:type:columns of each, species and pos among them"
        raise InputError(
            where, "Properties cannot be read", value=properties, accepted=accepted
        ) from None


def _heed_rest(reader: _Reader, text: str, number: int, n_atoms: int) -> None:
    """Refuse a second geometry or further atoms after the last atom; note anything else."""
    if text.isdecimal():
        message = f"a second geometry begins here; keep one: head -n {number - 1} has the first"
        raise InputError(reader.where(number), message)
    words = text.split()
    try:
        read_coordinates(words[1:4], "")
    except InputError:
        reader.warnings.append(f"line {number} and those below it are no atoms and were left out")
        return
    message = f"more atoms follow than the {n_atoms} announced; correct that number"
    raise InputError(reader.where(number), message, value=text)


def _read_listed(reader: _Reader, lines: Sequence[str], first: int) -> None:
    for number, line in enumerate(lines[first:], start=first + 1):
        text = line.strip()
        if not reader.mark(text, number):
            _first_or_fail(reader, text, number, reader.atom)


def _first_or_fail(
    reader: _Reader, text: str, number: int, take: Callable[[str, int], None]
) -> None:
    """Take an atom; if the first line is none, say what else it could be."""
    try:
        take(text, number)
    except InputError:
        if reader.symbols:
            raise
        message = "must be the number of atoms, or the first atom of a file without that number"
        raise InputError(reader.where(number), message, value=text) from None

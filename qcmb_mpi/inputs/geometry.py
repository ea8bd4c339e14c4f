"""Geometry files (.xyz, .pdb) completed by options to a ManyBodyInput.

Rules of this file
------------------
1. Files are in angstrom, what leaves is in bohr; the conversion and the covalent radii come in.
2. A geometry says nothing about electrons: fragments are neutral unless ``--charge`` says where a
   charge sits. It is never guessed.
3. Fragments are ordered by their first atom in the file; the permutation is kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.errors import InputError
from qcmb_mpi.inputs.geometry_files import (
    Geometry,
    is_geometry_file,
    read_geometry,
    refuse_ending,
)

__all__ = [
    "Geometry",
    "InputOptions",
    "connected_groups",
    "document",
    "is_geometry_file",
    "notes",
    "option_error",
    "parse_fragments",
    "parse_keyword",
    "read_geometry",
    "refuse_ending",
    "refuse_placed_charge",
]

BOND_FACTOR = 1.25  # bonded below 1.25 times the sum of the covalent radii
# By their covalent radii an alkali ion would be bonded to every molecule around it.
ALKALI_METALS = frozenset({"Li", "Na", "K", "Rb", "Cs"})
_PAIR_BLOCK = 4_000_000

# Fields of the ManyBodyInput that an option sets, most specific first.
_OPTION_OF_FIELD = {
    "specification.specification.program": "--program",
    "specification.specification.model.method": "--method",
    "specification.specification.model.basis": "--basis",
    "specification.specification.keywords": "--keyword",
    "specification.driver": "--driver",
    "specification.specification.driver": "--driver",
    "specification.keywords.bsse_type": "--bsse",
    "specification.keywords.max_nbody": "--max-nbody",
    "molecule.molecular_charge": "--charge",
    "molecule.fragment_charges": "--charge",
    "molecule.molecular_multiplicity": "--multiplicity",
    "molecule.fragment_multiplicities": "--multiplicity",
    "molecule.fragments": "--fragment",
}


@dataclass(frozen=True, slots=True)
class InputOptions:
    """What completes a geometry file; None where nothing was said.

    Parameters
    ----------
    program, method, basis, driver : str, optional
        Program (``pyscf`` if not said), method (needed), basis set, driver (``energy``).
    bsse : str, optional
        BSSE treatments separated by commas, the first is returned.
    max_nbody : int, optional
        Highest n-body level.
    total : bool, optional
        Return total instead of interaction data.
    fragment : str, optional
        ``auto`` (by covalent bonds, alkali metals as ions) or ranges of atoms counted from 1,
        ``1-3,4-6``; atoms of one fragment that do not stand together are joined by ``+``,
        ``1-3+7,4-6``. If not said: the ``--`` lines of the file, without them ``auto``.
    charge, multiplicity : str, optional
        One value for each fragment, separated by commas, or one for the whole if that leaves no
        choice (charge 0; the lowest multiplicity).
    keywords : tuple of str or mapping
        Keywords of the program, as ``NAME=VALUE`` or by name.
    """

    program: str | None = None
    method: str | None = None
    basis: str | None = None
    driver: str | None = None
    bsse: str | None = None
    max_nbody: int | None = None
    total: bool | None = None
    fragment: str | None = None
    charge: str | None = None
    multiplicity: str | None = None
    keywords: Sequence[str] | Mapping[str, Any] = ()

    def given(self) -> tuple[str, ...]:
        """Return the command line names of the options that were set."""
        names = [name for name in self.__slots__ if getattr(self, name) not in (None, (), {}, [])]
        return tuple(f"--{name.replace('_', '-').replace('keywords', 'keyword')}" for name in names)


def parse_keyword(text: str) -> tuple[str, Any]:
    """Split ``NAME=VALUE``; the value is JSON if it can be read so, else text."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise InputError("--keyword", "must be NAME=VALUE", value=text)
    try:
        return name.strip(), json.loads(value)
    except ValueError:
        return name.strip(), value


def connected_groups(
    positions: NDArray[np.float64], radii: NDArray[np.float64]
) -> tuple[tuple[int, ...], ...]:
    """Group atoms that covalent bonds connect.

    Parameters
    ----------
    positions : float[n_atoms, 3]
        In any unit of length.
    radii : float[n_atoms]
        Covalent radii in the same unit.

    Returns
    -------
    tuple of tuple of int
        Atoms of each group, ascending; groups by their first atom.
    """
    first = list(range(len(radii)))

    def root(atom: int) -> int:
        while first[atom] != atom:
            first[atom] = first[first[atom]]
            atom = first[atom]
        return atom

    for i, j in _bonds(positions, radii):
        low, high = sorted((root(i), root(j)))
        first[high] = low
    groups: dict[int, list[int]] = {}
    for atom in range(len(radii)):
        groups.setdefault(root(atom), []).append(atom)
    return tuple(map(tuple, groups.values()))


def parse_fragments(text: str, n_atoms: int) -> tuple[tuple[int, ...], ...]:
    """Read ``1-3,4-6`` (atoms from 1) as groups of atoms from 0.

    Raises
    ------
    InputError
        A range cannot be read, or atoms are not each in exactly one fragment.
    """
    groups = tuple(
        tuple(atom for part in item.split("+") for atom in _range(part, n_atoms))
        for item in text.split(",")
    )
    atoms = [atom for group in groups for atom in group]
    for atom in range(n_atoms):
        if atoms.count(atom) != 1:
            times = "no fragment" if atom not in atoms else "more than one fragment"
            raise InputError("--fragment", f"atom {atom + 1} is in {times}", value=text)
    return groups


def option_error(error: InputError) -> InputError:
    """Name the option where an error names the field that the option set."""
    for place, option in _OPTION_OF_FIELD.items():
        if error.field == place or error.field.startswith((f"{place}.", f"{place}[")):
            return InputError(option, str(error).removeprefix(f"{error.field}: "))
    return error


def refuse_placed_charge(notes: Sequence[str], options: InputOptions) -> None:
    """Raise if a total was given for which QCElemental had to choose a fragment."""
    for name in ("charge", "multiplicity"):
        if getattr(options, name) is not None and any("as QCElemental does" in n for n in notes):
            message = "does not say on which fragment it is"
            accepted = "one value for each fragment, in their order: 0,0,-1"
            raise InputError(f"--{name}", message, value=getattr(options, name), accepted=accepted)


def notes(geometry: Geometry, order: Sequence[int], options: InputOptions) -> list[str]:
    """Tell what was decided about the atoms of a file, each a line."""
    found = list(geometry.warnings)
    ions = sorted(ALKALI_METALS & set(geometry.symbols))
    if ions and _is_automatic(geometry, options):
        found.append(f"each {' and '.join(ions)} was taken as a fragment of its own, an ion")
    if list(order) != sorted(order):
        found.append(
            "atoms were reordered so that each fragment's stand together: results per atom are in "
            "the order of the result's own molecule, not of the file"
        )
    return found


def document(
    geometry: Geometry,
    options: InputOptions,
    *,
    radius_angstrom: Callable[[str], float],
    bohr_per_angstrom: float,
) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Make a ManyBodyInput (QCSchema version 2) of a geometry and options.

    Parameters
    ----------
    geometry : Geometry
        From :func:`read_geometry`.
    options : InputOptions
        What the file does not say.
    radius_angstrom : callable
        Covalent radius of an element.
    bohr_per_angstrom : float
        Unit of length.

    Returns
    -------
    tuple of (dict, tuple of int)
        Plain data, and the place in the file (from 0) of each atom of the input.

    Raises
    ------
    InputError
        An option is missing or cannot be read.
    """
    if options.method is None:
        raise InputError("--method", "is missing: what to compute", accepted="e.g. --method hf")
    groups = _groups(geometry, options, radius_angstrom)
    order = tuple(atom for group in groups for atom in group)
    ends = np.cumsum([len(group) for group in groups]).tolist()
    molecule = {
        "symbols": [geometry.symbols[atom] for atom in order],
        "geometry": (geometry.positions_angstrom[list(order)] * bohr_per_angstrom).ravel().tolist(),
        "fragments": [list(range(e - len(g), e)) for e, g in zip(ends, groups, strict=True)],
        "fix_com": True,
        "fix_orientation": True,
        **_per_fragment("charge", options.charge, len(groups)),
        **_per_fragment("multiplicity", options.multiplicity, len(groups)),
    }
    return {"molecule": molecule, "specification": _specification(options)}, order


def _specification(options: InputOptions) -> dict[str, Any]:
    driver = "energy" if options.driver is None else options.driver
    keywords: dict[str, Any] = {}
    if options.bsse is not None:
        keywords["bsse_type"] = [name.strip() for name in options.bsse.split(",")]
    if options.max_nbody is not None:
        keywords["max_nbody"] = options.max_nbody
    if options.total is not None:
        keywords["return_total_data"] = options.total
    atomic = {
        "program": "pyscf" if options.program is None else options.program,
        "driver": driver,
        "model": {"method": options.method, "basis": options.basis},
        "keywords": _keywords(options.keywords),
    }
    return {"driver": driver, "keywords": keywords, "specification": atomic}


def _keywords(given: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(given, Mapping):
        return dict(given)
    found: dict[str, Any] = {}
    for text in given:
        name, value = parse_keyword(text)
        if name in found:
            raise InputError("--keyword", f"{name} is given twice", value=text)
        found[name] = value
    return found


def _per_fragment(name: str, text: str | None, n_fragments: int) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        values = [int(item) for item in str(text).split(",")]
    except ValueError:
        accepted = "a whole number, or one for each fragment: 0,0,-1"
        raise InputError(f"--{name}", "cannot be read", value=text, accepted=accepted) from None
    if len(values) == 1 != n_fragments:
        return {f"molecular_{name}": values[0]}
    if len(values) != n_fragments:
        message = f"has {len(values)} values for {n_fragments} fragments"
        raise InputError(f"--{name}", message, value=text)
    plural = {"charge": "charges", "multiplicity": "multiplicities"}[name]
    return {f"fragment_{plural}": values}


def _groups(
    geometry: Geometry, options: InputOptions, radius_angstrom: Callable[[str], float]
) -> tuple[tuple[int, ...], ...]:
    n_atoms = len(geometry.symbols)
    if options.fragment not in (None, "auto"):
        return parse_fragments(options.fragment, n_atoms)
    if not _is_automatic(geometry, options):
        return geometry.groups or ()
    radii = np.array([0.0 if s in ALKALI_METALS else radius_angstrom(s) for s in geometry.symbols])
    groups = connected_groups(geometry.positions_angstrom, radii)
    if len(groups) == 1:
        message = f"all {n_atoms} atoms are connected: one molecule, nothing to expand"
        raise InputError("--fragment", message, accepted="ranges of atoms, e.g. 1-3,4-6")
    return groups


def _is_automatic(geometry: Geometry, options: InputOptions) -> bool:
    return options.fragment == "auto" or (options.fragment is None and geometry.groups is None)


def _bonds(positions: NDArray[np.float64], radii: NDArray[np.float64]) -> Iterator[tuple[int, int]]:
    n_atoms = len(radii)
    n_rows = max(1, _PAIR_BLOCK // n_atoms)
    for start in range(0, n_atoms, n_rows):
        rows = slice(start, start + n_rows)
        squared = sum((positions[rows, None, k] - positions[None, :, k]) ** 2 for k in range(3))
        limit = BOND_FACTOR * (radii[rows, None] + radii[None, :])
        for i, j in np.argwhere(squared < limit**2).tolist():
            if i + start < j:
                yield i + start, j


def _range(text: str, n_atoms: int) -> range:
    low, _, high = text.strip().partition("-")
    try:
        start, stop = int(low), int(high or low)
    except ValueError:
        accepted = "auto, or ranges of atoms: 1-3,4-6"
        raise InputError("--fragment", "cannot be read", value=text, accepted=accepted) from None
    if not 1 <= start <= stop <= n_atoms:
        accepted = f"1 to {n_atoms}"
        raise InputError("--fragment", "there are no such atoms", value=text, accepted=accepted)
    return range(start - 1, stop)

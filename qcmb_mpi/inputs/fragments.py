"""Atoms to fragments: by covalent bonds, or as the user says.

Rules of this file
------------------
1. Covalent radii come in. Metals that are ions wherever they stand among molecules have none: by
   their radii they would be bonded to every molecule around them.
2. Groups are ordered by their first atom.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.errors import InputError
from qcmb_mpi.inputs.atoms import Geometry

BOND_FACTOR = 1.25  # bonded below 1.25 times the sum of the covalent radii
# Charge of an atom that is a fragment of its own, as it most often is.
LONE_CHARGES = {
    **dict.fromkeys(("Li", "Na", "K", "Rb", "Cs"), 1),
    **dict.fromkeys(("Be", "Mg", "Ca", "Sr", "Ba", "Zn", "Cd", "Hg"), 2),
    **dict.fromkeys(("Al", "Ga", "Sc", "Y", "La"), 3),
    **dict.fromkeys(("F", "Cl", "Br", "I"), -1),
}
IONIC_METALS = frozenset({"Li", "Na", "K", "Rb", "Cs", "Mg", "Ca", "Sr", "Ba"})
METALS = frozenset(
    {
        *("Be", "Al", "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Y", "Zr"),
        *("Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn", "La", "Ce", "Hf", "Ta", "W"),
        *("Re", "Os", "Ir", "Pt", "Au", "Hg", "Tl", "Pb", "Bi"),
    }
)
_PAIR_BLOCK = 4_000_000


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


def automatic(geometry: Geometry, radius: Callable[[str], float]) -> tuple[tuple[int, ...], ...]:
    """Group the atoms of a geometry by covalent bonds, ions apart.

    Parameters
    ----------
    geometry : Geometry
    radius : callable
        Covalent radius of an element, in the geometry's own unit.

    Raises
    ------
    InputError
        They are all one molecule.
    """
    radii = [0.0 if is_ion(geometry, a) else radius(s) for a, s in enumerate(geometry.symbols)]
    groups = connected_groups(geometry.positions, np.array(radii))
    if len(groups) > 1:
        return groups
    n_atoms = len(geometry.symbols)
    message = f"all {n_atoms} atoms are connected: one molecule, nothing to expand"
    if n_atoms == 1:
        message = "there is one atom only: an expansion needs at least two fragments"
        raise InputError("--fragment", message)
    raise InputError("--fragment", message, accepted="ranges of atoms, e.g. 1-3,4-6")


def is_ion(geometry: Geometry, atom: int) -> bool:
    """Whether an atom is taken as an ion, which no bond connects to anything."""
    symbol = geometry.symbols[atom]
    return symbol in IONIC_METALS or (symbol in METALS and bool(geometry.charges[atom]))


def remarks(
    geometry: Geometry, groups: Sequence[Sequence[int]], charges: Sequence[int | None]
) -> list[str]:
    """Tell what is doubtful about fragments found by bonds, each a line."""
    found = _lone_metals(geometry, groups, charges)
    for group in groups:
        names = [geometry.symbols[atom] for atom in group]
        bonded = [place for place, name in enumerate(names) if name in METALS]
        if bonded and len(group) > 1 and not is_ion(geometry, group[bonded[0]]):
            atom = group[bonded[0]]
            found.append(
                f"the metal {geometry.symbols[atom]} (atom {atom + 1}) is in one fragment with the "
                f"atoms near it; if it is an ion, write its charge in the file "
                f"({geometry.symbols[atom]}2+), or give --fragment"
            )
        if names == ["H"]:
            hint = (
                "" if geometry.units == "bohr" else ": is the file in bohr? Then say --units bohr"
            )
            found.append(f"atom {group[0] + 1} (H) is bonded to nothing{hint}")
            break
    return found


def _lone_metals(
    geometry: Geometry, groups: Sequence[Sequence[int]], charges: Sequence[int | None]
) -> list[str]:
    alone = [
        (geometry.symbols[g[0]], c)
        for g, c in zip(groups, charges, strict=True)
        if is_ion(geometry, g[0])
    ]
    neutral = {symbol for symbol, charge in alone if not charge}
    ions = {symbol for symbol, _ in alone} - neutral
    return [
        f"each {' and '.join(sorted(each))} was taken as a fragment of its own{what}"
        for each, what in ((ions, ", an ion"), (neutral, ""))
        if each
    ]


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

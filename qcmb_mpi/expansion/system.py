"""The molecule and the model chemistries as plain data, and the name of both for the store.

Rules of this file
------------------
1. Fragments are 0-based, contiguous and in order (QCManyBody's own rule); 1-based only in labels.
2. A fingerprint covers all that the numbers depend on and nothing else: never a user's label.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcmb_mpi.errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class System:
    """The whole cluster of fragments.

    Parameters
    ----------
    symbols : tuple of str
        Element symbols, one an atom.
    atomic_numbers, mass_numbers : int[n_atoms]
        Atomic and mass numbers (-1 where no isotope is meant).
    masses : float[n_atoms]
        Atomic masses, unified atomic mass units.
    geometry_bohr : float[n_atoms, 3]
        Positions in a0.
    fragment_sizes : tuple of int
        Atoms in each fragment, in the order of the atoms.
    fragment_charges : tuple of float
        Charges in units of e.
    fragment_multiplicities : tuple of int or float
        Spin multiplicities, 2S + 1.
    name : str
        For people; not part of any fingerprint.
    fix_symmetry : str, optional
        Highest point group a program may use.
    embedding_charges : tuple of tuple of float, optional
        Point charges (e) that stand for a fragment's atoms where the fragment is absent.

    Raises
    ------
    InputError
        If the lengths contradict each other.
    """

    symbols: tuple[str, ...]
    atomic_numbers: NDArray[np.integer[Any]]
    masses: NDArray[np.float64]
    mass_numbers: NDArray[np.integer[Any]]
    geometry_bohr: NDArray[np.float64]
    fragment_sizes: tuple[int, ...]
    fragment_charges: tuple[float, ...]
    fragment_multiplicities: tuple[int | float, ...]
    name: str = ""
    fix_symmetry: str | None = None
    embedding_charges: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        """Check that the lengths agree."""
        if sum(self.fragment_sizes) != self.n_atoms or min(self.fragment_sizes, default=0) < 1:
            raise InputError(
                "molecule.fragments", f"do not cover the {self.n_atoms} atoms exactly once"
            )
        for name in ("atomic_numbers", "masses", "mass_numbers", "geometry_bohr"):
            expected = (self.n_atoms, 3) if name == "geometry_bohr" else (self.n_atoms,)
            if np.shape(getattr(self, name)) != expected:
                raise InputError(f"molecule.{name}", f"must have the shape {expected}")
        for name in ("fragment_charges", "fragment_multiplicities"):
            if len(getattr(self, name)) != self.n_fragments:
                raise InputError(f"molecule.{name}", f"must have {self.n_fragments} values")
        charges = self.embedding_charges
        if charges is not None and tuple(map(len, charges)) != self.fragment_sizes:
            raise InputError("embedding_charges", "must have one charge for each atom")

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.symbols)

    @property
    def n_fragments(self) -> int:
        """Number of fragments."""
        return len(self.fragment_sizes)

    @property
    def fragment_slices(self) -> tuple[slice, ...]:
        """The atoms of each fragment."""
        ends = np.cumsum(self.fragment_sizes).tolist()
        return tuple(
            slice(end - size, end) for end, size in zip(ends, self.fragment_sizes, strict=True)
        )

    @property
    def fragment_kinds(self) -> NDArray[np.int64]:
        """Kinds, by first occurrence; alike in ordered symbols, charge and multiplicity."""
        numbers: dict[tuple[Any, ...], int] = {}
        kinds = [
            numbers.setdefault((self.symbols[atoms], charge, multiplicity), len(numbers))
            for atoms, charge, multiplicity in zip(
                self.fragment_slices,
                self.fragment_charges,
                self.fragment_multiplicities,
                strict=True,
            )
        ]
        return np.array(kinds, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class ModelChemistry:
    """What runs at some n-body levels.

    Parameters
    ----------
    label : str
        The user's name for it.
    program : str
        QCEngine's name of the program.
    driver : str
        ``energy``, ``gradient`` or ``hessian``.
    specification : mapping
        Dump of the QCSchema ``AtomicSpecification`` without the program: driver, model, keywords,
        protocols, extras.
    fingerprint : str
        What :func:`fingerprint` gives for it.
    """

    label: str
    program: str
    driver: str
    specification: Mapping[str, Any]
    fingerprint: str


def fingerprint(system: System, program: str, driver: str, specification: Mapping[str, Any]) -> str:
    """Name everything that the result of a task depends on, except its fragments.

    Parameters
    ----------
    system : System
        The parent molecule; its ``name`` does not count.
    program : str
        Program; case does not count.
    driver : str
        Driver.
    specification : mapping
        Of it count ``model``, ``keywords`` and ``extras``; protocols only choose what is kept.

    Returns
    -------
    str
        SHA-256 in hexadecimal of canonical JSON: keys sorted, floats bit by bit.

    Raises
    ------
    InputError
        If a keyword is of a type that has no canonical form.
    """
    content = {
        "molecule": _molecule(system),
        "program": program.lower(),
        "driver": driver,
        "model": specification.get("model") or {},
        "keywords": specification.get("keywords") or {},
        "extras": specification.get("extras") or {},
    }
    text = json.dumps(_canonical(content), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _molecule(system: System) -> dict[str, Any]:
    """Collect what counts of a molecule, numbers as floats whatever type they came in."""
    return {
        "symbols": system.symbols,
        "masses": _floats(system.masses),
        "mass_numbers": _floats(system.mass_numbers),
        "geometry_bohr": _floats(system.geometry_bohr),
        "fragment_sizes": system.fragment_sizes,
        "fragment_charges": _floats(system.fragment_charges),
        "fragment_multiplicities": _floats(system.fragment_multiplicities),
        "fix_symmetry": system.fix_symmetry,
        "embedding_charges": system.embedding_charges
        and [_floats(charges) for charges in system.embedding_charges],
    }


def _floats(numbers: ArrayLike) -> list[float]:
    flat: list[float] = np.asarray(numbers, dtype=np.float64).ravel().tolist()
    return flat


def _canonical(value: object) -> object:
    """Reduce a value to JSON that is equal if and only if the value is."""
    if isinstance(value, Enum):
        return _canonical(value.value)
    if isinstance(value, np.ndarray | np.generic):
        return _canonical(value.tolist())
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(_canonical(key)): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_canonical(item) for item in value), key=json.dumps)
    raise InputError(
        "specification",
        f"a value of type {type(value).__name__} cannot be stored",
        value=value,
        accepted="what JSON can hold",
    )


def formula(symbols: Sequence[str]) -> str:
    """Return a formula in Hill's order: C, H, then by name; without C all by name."""
    counts = Counter(symbols)
    first = [symbol for symbol in ("C", "H") if "C" in counts and symbol in counts]
    ordered = [*first, *sorted(counts.keys() - set(first))]
    return "".join(f"{each}{counts[each] if counts[each] > 1 else ''}" for each in ordered)


def ion_name(symbols: Sequence[str], charge: float) -> str:
    """Return a formula with its charge, if there is one: ``H2O``, ``Na+``, ``Ca2+``, ``O4S 2-``."""
    size = "" if abs(charge) in (0, 1) else f"{' ' if len(symbols) > 1 else ''}{abs(charge):g}"
    return f"{formula(symbols)}{size}{'+' if charge > 0 else '-' if charge < 0 else ''}"

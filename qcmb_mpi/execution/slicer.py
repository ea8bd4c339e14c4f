"""Clusters cut out of the parent molecule, as QCSchema.

Rules of this file
------------------
1. The molecule is sliced from plain arrays with validation off; it must equal what
   ``ManyBodyCore.iterate_molecules`` builds, field by field (a test compares them).
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.errors import InputError
from qcmb_mpi.expansion.system import ModelChemistry, System
from qcmb_mpi.programs.native import Atoms

if TYPE_CHECKING:
    from qcelemental.models.v2 import AtomicInput, AtomicSpecification, Molecule


Cluster = tuple[tuple[int, ...], tuple[int, ...]]
"""Real fragments, and real and ghost fragments, 1-based and ascending."""


@lru_cache(maxsize=1)
def _provenance() -> dict[str, str]:
    """Return what QCElemental writes into a molecule that it validates."""
    import qcelemental

    return {
        "creator": "QCElemental",
        "version": qcelemental.__version__,
        "routine": "qcelemental.molparse.from_schema",
    }


class Slicer:
    """Cut clusters out of the parent molecule.

    Parameters
    ----------
    system : System
        The parent.

    Notes
    -----
    Gives what ``Molecule.get_fragment(..., orient=False, group_fragments=False)`` gives in
    QCElemental, without its validation (700 us a cluster, and combinatorial in the fragments).
    """

    def __init__(self, system: System) -> None:
        self._system = system
        self._symbols = np.array(system.symbols)
        self._mass_numbers = np.asarray(system.mass_numbers)
        self._slices = tuple(system.fragment_slices)
        self._starts = np.array([each.start for each in self._slices])
        self._sizes = tuple(system.fragment_sizes)
        self._charges = tuple(map(float, system.fragment_charges))
        self._are_plain = not any(self._charges) and set(system.fragment_multiplicities) == {1}

    @cached_property
    def _is_unusual(self) -> NDArray[np.bool_]:
        """Return which atoms are not of their element's usual isotope."""
        from qcelemental import periodictable

        usual = np.array([periodictable.to_A(symbol) for symbol in self._system.symbols])
        unusual: NDArray[np.bool_] = self._mass_numbers != usual
        return unusual

    @cached_property
    def _has_isotopes(self) -> bool:
        return bool(self._is_unusual.any())

    def atoms(self, clusters: Sequence[Cluster]) -> list[Atoms]:
        """Return clusters, each that of :meth:`molecule`, as plain arrays.

        Parameters
        ----------
        clusters : sequence of (real, basis)
            As for :meth:`molecule`; those with basis fragments of the same sizes are cut at once.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for place, (_, basis) in enumerate(clusters):
            sizes = tuple([self._sizes[fragment - 1] for fragment in basis])
            groups.setdefault(sizes, []).append(place)
        found: dict[int, Atoms] = {}
        for sizes, places in groups.items():
            chosen = [clusters[place] for place in places]
            found.update(zip(places, self._alike(sizes, chosen), strict=True))
        return [found[place] for place in range(len(clusters))]

    def _alike(self, sizes: tuple[int, ...], clusters: list[Cluster]) -> Iterator[Atoms]:
        """Yield clusters whose basis fragments have the same sizes."""
        system = self._system
        fragments = np.array([basis for _, basis in clusters]) - 1
        where = np.repeat(self._starts[fragments], sizes, axis=1)
        where += np.concatenate([np.arange(size) for size in sizes])
        here = [[fragment in real for fragment in basis] for real, basis in clusters]
        is_real = np.repeat(np.array(here), sizes, axis=1)
        rows = zip(
            system.atomic_numbers[where],
            self._symbols[where],
            system.geometry_bohr[where],
            is_real,
            clusters,
            strict=True,
        )
        for numbers, symbols, positions, mask, (real, basis) in rows:
            charge, multiplicity = self._state(real)
            name = partial(self._name, real, basis)
            yield Atoms(numbers, symbols, positions, mask, charge, multiplicity, name)

    def _state(self, real: tuple[int, ...]) -> tuple[float, float]:
        """Return charge and multiplicity, added up as :meth:`molecule` does."""
        if self._are_plain:
            return 0.0, 1.0
        charges, multiplicities = self._charges, self._system.fragment_multiplicities
        charge, unpaired = 0.0, 0.0
        for fragment in real:
            charge += charges[fragment - 1]
            unpaired += multiplicities[fragment - 1] - 1
        return charge, unpaired + 1

    def molecule(self, real: tuple[int, ...], basis: tuple[int, ...]) -> Molecule:
        """Return the cluster with `real` fragments real and the rest of `basis` ghosts.

        Parameters
        ----------
        real, basis : tuple of int
            1-based fragments, ascending, `real` within `basis`.
        """
        from qcelemental.models.v2 import Molecule

        return Molecule(validate=False, **self._fields(real, basis))

    def _fields(self, real: tuple[int, ...], basis: tuple[int, ...]) -> dict[str, Any]:
        system = self._system
        slices = [self._slices[fragment - 1] for fragment in basis]
        sizes = [each.stop - each.start for each in slices]
        atoms = np.concatenate([np.arange(each.start, each.stop) for each in slices])
        ends = [0, *itertools.accumulate(sizes)]
        is_real = [fragment in real for fragment in basis]
        charges = [
            float(system.fragment_charges[f - 1]) if here else 0.0
            for f, here in zip(basis, is_real, strict=True)
        ]
        multiplicities = [
            system.fragment_multiplicities[f - 1] if here else 1
            for f, here in zip(basis, is_real, strict=True)
        ]
        fields: dict[str, Any] = {
            "schema_name": "qcschema_molecule",
            "schema_version": 3,
            "validated": True,
            "name": self._name(real, basis),
            "symbols": self._symbols[atoms],
            "geometry": system.geometry_bohr[atoms],
            "masses": system.masses[atoms],
            "real": np.repeat(is_real, sizes),
            "fragments": [np.arange(*pair) for pair in itertools.pairwise(ends)],
            "fragment_charges": charges,
            "fragment_multiplicities": multiplicities,
            "molecular_charge": sum(charges),
            "molecular_multiplicity": sum(m - 1 for m in multiplicities) + 1,
            "fix_com": True,
            "fix_orientation": True,
            "provenance": _provenance(),
        }
        if self._has_isotopes and self._is_unusual[atoms].any():
            fields["mass_numbers"] = self._mass_numbers[atoms]
        if system.fix_symmetry == "c1":
            fields["fix_symmetry"] = "c1"
        if system.embedding_charges is not None:
            points = self._embedding(system.embedding_charges, basis)
            fields["extras"] = {"embedding_charges": points}
        return fields

    def _name(self, real: tuple[int, ...], basis: tuple[int, ...]) -> str:
        ghosts = [fragment - 1 for fragment in basis if fragment not in real]
        return f"{self._system.name} ({[fragment - 1 for fragment in real]},{ghosts})"

    def _embedding(
        self, charges: Sequence[Sequence[float]], basis: tuple[int, ...]
    ) -> list[list[Any]]:
        """Return [charge, position] of every atom whose fragment is absent."""
        system = self._system
        return [
            [charge, position]
            for fragment in range(1, system.n_fragments + 1)
            if fragment not in basis
            for charge, position in zip(
                charges[fragment - 1],
                system.geometry_bohr[self._slices[fragment - 1]].tolist(),
                strict=True,
            )
        ]


def specification(chemistry: ModelChemistry) -> AtomicSpecification:
    """Return what is asked for at one model chemistry.

    Raises
    ------
    InputError
        It is not valid.
    """
    from qcelemental.models.v2 import AtomicSpecification

    try:
        return AtomicSpecification(**copy.deepcopy(dict(chemistry.specification)))
    except ValueError as error:
        raise InputError("specification", str(error)) from error


def atomic_input(molecule: Molecule, specification: AtomicSpecification) -> AtomicInput:
    """Return the QCSchema input of one cluster, of which a harness may change all."""
    from qcelemental.models.v2 import AtomicInput

    keywords = copy.deepcopy(specification.keywords)
    charges = molecule.extras.get("embedding_charges")
    if charges:
        keywords.setdefault("function_kwargs", {})["external_potentials"] = charges
    own = {"keywords": keywords, "extras": copy.deepcopy(specification.extras)}
    return AtomicInput(molecule=molecule, specification=specification.model_copy(update=own))

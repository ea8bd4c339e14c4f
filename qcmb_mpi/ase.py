"""A calculator for ASE: optimisation, molecular dynamics, vibrations of many-body expansions.

Rules of this file
------------------
1. Imported by who wants it only: the package does not need ASE.
2. ASE's units here, atomic units behind it; by ASE's own constants, so that forces stay
   derivatives of energies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi import schema
from qcmb_mpi.errors import InputError
from qcmb_mpi.potential import ManyBodyPotential

try:
    from ase import units
    from ase.calculators.calculator import Calculator, all_changes
except ImportError as error:
    message = f"ASE cannot be imported ({error}): pip install 'qcmb_mpi[ase]'"
    raise ImportError(message) from error

_WHOLE = 1e-6


class ManyBodyCalculator(Calculator):  # type: ignore[misc]
    """Energies and forces of a many-body expansion for ASE.

    Parameters
    ----------
    input_data : ManyBodyPotential, ManyBodyInput, dict, str or Path
        What to compute; see :class:`ManyBodyPotential`. Its atoms are those of the ``Atoms`` that
        the calculator is given to, in the same order; charges are its own.
    executor : Executor or concurrent.futures.Executor, optional
        See :class:`ManyBodyPotential`.

    Raises
    ------
    InputError
        The input is not acceptable.

    Notes
    -----
    Gives ``energy`` and ``free_energy`` in eV, ``forces`` in eV/Å. An energy alone is computed
    without its gradient.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces"]
    ignored_changes: ClassVar[set[str]] = {"cell", "initial_charges", "initial_magmoms"}

    def __init__(self, input_data: Any, executor: Any = None) -> None:
        super().__init__()
        self.potential = (
            input_data
            if isinstance(input_data, ManyBodyPotential)
            else ManyBodyPotential(input_data, executor)
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> ManyBodyCalculator:
        return type(self)(self.potential)  # one pool, also for copies

    @classmethod
    def of(cls, atoms: Any, executor: Any = None, **options: Any) -> ManyBodyCalculator:
        """Return a calculator for some atoms, as the command line makes an input of an .xyz file.

        Parameters
        ----------
        atoms : ase.Atoms
            In any order; where ``charge`` or ``multiplicity`` is not given, and the atoms have
            initial charges or magnetic moments, theirs are summed up for each fragment.
        executor : Executor or concurrent.futures.Executor, optional
            See :class:`ManyBodyPotential`.
        **options
            Fields of :class:`~qcmb_mpi.schema.InputOptions`: ``method`` (needed), ``basis``,
            ``program``, ``bsse``, ``max_nbody``, ``fragment``, ``charge``, ...

        Raises
        ------
        InputError
            An option is missing or not acceptable, or the charges of a fragment are no whole
            number.
        """
        symbols = tuple(atoms.get_chemical_symbols())
        geometry = schema.Geometry(symbols, atoms.get_positions(), (None,) * len(symbols))
        chosen = _options(options)
        given = _summed_up(atoms, schema.fragments_of_geometry(geometry, chosen), chosen)
        loaded = schema.load_geometry(geometry, replace(chosen, **given), name="atoms")
        calculator = cls(loaded, executor)
        atoms.calc = calculator
        return calculator

    def calculate(
        self,
        atoms: Any = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Compute what ASE asks for.

        Raises
        ------
        InputError
            The atoms are others than those of the input, or periodic.
        TasksFailed, Interrupted
            See :class:`ManyBodyPotential`.
        """
        super().calculate(atoms, properties, system_changes)
        self._check(self.atoms)
        geometry_bohr = self.atoms.get_positions() / units.Bohr
        self.results = {}
        if "forces" in properties:
            energy, gradient = self.potential.gradient(geometry_bohr)
            self.results["forces"] = -gradient * (units.Hartree / units.Bohr)
        else:
            energy = self.potential.energy(geometry_bohr)
        self.results["energy"] = self.results["free_energy"] = energy * units.Hartree

    def _check(self, atoms: Any) -> None:
        if tuple(atoms.get_chemical_symbols()) != self.potential.symbols:
            message = "are not those of the input, in the same order"
            wanted = "".join(self.potential.symbols)
            raise InputError("atoms", message, value=str(atoms.symbols), accepted=wanted)
        if any(atoms.pbc):
            raise InputError("atoms.pbc", "is set: only clusters are expanded", accepted="False")


def _options(given: dict[str, Any]) -> schema.InputOptions:
    try:
        return schema.InputOptions(**given)
    except TypeError:
        known = schema.InputOptions.__slots__
        names = ", ".join(name for name in given if name not in known)
        raise InputError("options", f"unknown: {names}", accepted=", ".join(known)) from None


def _summed_up(
    atoms: Any, fragments: tuple[tuple[int, ...], ...], options: schema.InputOptions
) -> dict[str, Any]:
    """Return the charges and multiplicities that the atoms say fragments have, if they do."""

    def sums(values: NDArray[np.float64], name: str) -> list[int]:
        found = np.array([values[list(each)].sum() for each in fragments])
        if np.abs(found - np.round(found)).max() > _WHOLE:
            raise InputError(f"atoms.{name}", "are no whole number for a fragment", value=found)
        return [round(each) for each in found.tolist()]

    charges, moments = atoms.get_initial_charges(), atoms.get_initial_magnetic_moments()
    given = {}
    if options.charge is None and charges.any():
        given["charge"] = sums(charges, "initial_charges")
    if options.multiplicity is None and moments.any():
        spins = sums(moments, "initial_magmoms")
        given["multiplicity"] = [abs(each) + 1 for each in spins]
    return {name: ",".join(map(str, values)) for name, values in given.items()}

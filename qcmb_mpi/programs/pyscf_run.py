"""Run one calculation with PySCF's own classes.

Same bits, whatever else this process has done
----------------------------------------------
PySCF chooses algorithms and block sizes by ``max_memory`` minus the memory the process holds at
that moment, so a result would depend on what was computed before it, in the last bits. Here
:func:`prepared` lets PySCF read a constant instead. Checkpoint files are off, and tables that
PySCF would parse from disk for every molecule are read once.

PySCF's response equations stop at residuals that leave up to 5e-7 E_h/a0 in MP2 and CC gradients;
many-body terms of gradients are smaller than that, so :func:`prepared` tightens them.

What it was told, and no more
-----------------------------
PySCF takes 2 GB for transformed integrals and for the grids of gradients where it is told of less,
and forgets that it keeps the integrals themselves. Where it is told of more, nothing is changed.

Rules of this file
------------------
1. Coordinates stay in bohr, in the given order and frame; no symmetry is used.
2. PySCF is imported inside functions.
"""

from __future__ import annotations

import copy
import io
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache, partial
from typing import Any

import numpy as np

from qcmb_mpi.programs.names import RequestError
from qcmb_mpi.programs.native import Array, Atoms, Numbers
from qcmb_mpi.programs.pyscf_keywords import Settings
from qcmb_mpi.programs.pyscf_model import (
    Method,
    basis_name,
    basis_shells,
    effective_core_potential,
)

HELD_MEMORY_MB = 200.0
"""What PySCF is told that the process holds already."""

_LEAST_MB = 32.0  # for buffers, whatever it is told
_VERBOSITY = 4
_RESPONSE_TOLERANCE = 1e-10
_DRIFT_LIMIT = 5e-3
# Of squared steps. PySCF's 1e-14 takes the last ones, at gradients below 1e-6, for nothing.
_STEP_TOLERANCE = 1e-20


class NotConverged(RuntimeError):
    """An iteration ended before its threshold; the message says what to change."""


@contextmanager
def prepared(scratch: str | None) -> Iterator[None]:
    """Make PySCF independent of the state of this process, its response equations exact enough.

    Parameters
    ----------
    scratch : str, optional
        Directory for PySCF's scratch files; the system's own by default.
    """
    from pyscf import gto, lib, scf
    from pyscf.cc import ccsd
    from pyscf.dft import numint
    from pyscf.mp import mp2, ump2
    from pyscf.scf import cphf, ucphf

    def held() -> tuple[float, float]:
        return HELD_MEMORY_MB, HELD_MEMORY_MB

    changes: tuple[tuple[Any, dict[str, Any]], ...] = (
        (lib, {"current_memory": held, "krylov": partial(lib.krylov, lindep=1e-20)}),
        (cphf, {"solve": partial(cphf.solve, tol=_RESPONSE_TOLERANCE)}),
        (ucphf, {"solve": partial(ucphf.solve, tol=_RESPONSE_TOLERANCE)}),
        (lib.param, {"TMPDIR": scratch or tempfile.gettempdir()}),
        (scf.hf, {"MUTE_CHKFILE": True}),
        (gto.basis, {"load": _cached_loader()}),
        (mp2, {"_ao2mo_ovov": _within_told(mp2._ao2mo_ovov)}),
        (ump2, {"_ao2mo_ovov": _within_told(ump2._ao2mo_ovov)}),
        (ccsd, {"MEMORYMIN": _LEAST_MB}),
        (numint.NumInt, {"block_loop": _blocks_within_told(numint.NumInt.block_loop)}),
    )
    with ExitStack() as stack:
        for target, values in changes:
            stack.enter_context(lib.temporary_env(target, **values))
        yield


def room_mb(mol: Any) -> float:
    """Return what is left for buffers of what PySCF is told, in MB, if it keeps integrals."""
    integrals_mb = mol.nao**4 / 1e6
    are_kept = integrals_mb + HELD_MEMORY_MB < 0.95 * mol.max_memory  # as it decides itself
    left_mb = mol.max_memory - HELD_MEMORY_MB - (integrals_mb if are_kept else 0.0)
    return float(max(_LEAST_MB, left_mb))


def _within_told(transform: Any) -> Any:
    """Return MP2's transformation of integrals with buffers of what its solver is told."""

    def bounded(solver: Any, *args: Any) -> Any:
        *orbitals, max_memory_mb, log = args
        return transform(solver, *orbitals, min(max_memory_mb, room_mb(solver.mol)), log)

    return bounded


def _blocks_within_told(block_loop: Any) -> Any:
    """Return the loop over blocks of a grid with blocks of what the molecule is told."""

    def bounded(
        integrator: Any,
        mol: Any,
        grids: Any,
        nao: int | None = None,
        deriv: int = 0,
        max_memory: float = 2000,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        limit_mb = min(max_memory, room_mb(mol))
        return block_loop(integrator, mol, grids, nao, deriv, limit_mb, *args, **kwargs)

    return bounded


@lru_cache(maxsize=1)
def _cached_loader() -> Any:
    """PySCF's basis-set loader, reading each file once: the initial guess costs 4 ms an element."""
    from pyscf import gto

    load = lru_cache(maxsize=1024)(gto.basis.load)

    def load_copy(*args: Any, **kwargs: Any) -> Any:
        return copy.deepcopy(load(*args, **kwargs))

    return load_copy


def build_molecule(
    atoms: Atoms, basis: Any, settings: Settings, *, memory_mb: float, output: io.StringIO
) -> Any:
    """Return a PySCF ``Mole``; ghost atoms carry functions only.

    Raises
    ------
    RequestError
        No electrons, a fractional charge, or an impossible multiplicity.
    """
    from pyscf import gto

    charge, spin = _charge_and_spin(atoms)
    symbols = atoms.symbols.tolist()
    labels = [
        symbol if is_real else f"GHOST-{symbol}"
        for symbol, is_real in zip(symbols, atoms.is_real.tolist(), strict=True)
    ]
    elements = dict(zip(labels, symbols, strict=True))
    mol = gto.Mole()
    mol.atom = list(zip(labels, atoms.positions_bohr.tolist(), strict=True))
    mol.unit = "Bohr"
    mol.basis = {label: basis_shells(basis, symbol) for label, symbol in elements.items()}
    mol.ecp = _core_potentials(elements, basis, settings.ecp)
    mol.charge, mol.spin, mol.cart = charge, spin, settings.is_cartesian
    mol.symmetry, mol.max_memory = False, memory_mb
    mol.verbose, mol.stdout = _VERBOSITY, output
    _check_electrons(atoms, charge, spin)
    mol.build(dump_input=False, parse_arg=False)
    if max(mol.nelec) > mol.nao:
        raise RequestError(
            f"basis {basis!r} has {mol.nao} functions here, too few for {mol.nelectron} electrons",
            part="model.basis",
        )
    return mol


def _charge_and_spin(atoms: Atoms) -> tuple[int, int]:
    charge, multiplicity = atoms.charge, atoms.multiplicity
    if charge != int(charge) or multiplicity != int(multiplicity):
        raise RequestError(
            f"pyscf needs an integer charge and multiplicity, not {charge:g} and {multiplicity:g}",
            part="molecule",
        )
    return int(charge), int(multiplicity) - 1


def _check_electrons(atoms: Atoms, charge: int, spin: int) -> None:
    n_electrons = int(atoms.numbers[atoms.is_real].sum()) - charge
    if not atoms.is_real.any():
        raise RequestError("all atoms are ghosts: nothing to compute", part="molecule")
    if n_electrons < 1:
        raise RequestError(
            f"charge {charge} leaves no electrons on the real atoms of {atoms.name()}",
            part="molecule",
        )
    if spin > n_electrons or (n_electrons - spin) % 2:
        raise RequestError(
            f"multiplicity {spin + 1} is impossible with {n_electrons} electrons", part="molecule"
        )


def _core_potentials(elements: dict[str, str], basis: Any, ecp: str) -> dict[str, Any]:
    if ecp.lower() == "none":
        return {}
    name = basis_name(basis) if ecp.lower() == "auto" else ecp
    real = {label: symbol for label, symbol in elements.items() if label == symbol}
    found = {label: effective_core_potential(name, symbol) for label, symbol in real.items()}
    if ecp.lower() != "auto" and not any(found.values()):
        raise RequestError(f"pyscf has no core potential {ecp!r} for these atoms", part="keywords")
    return {label: potential for label, potential in found.items() if potential is not None}


def mean_field(mol: Any, method: Method, settings: Settings) -> Any:
    """Converge the SCF and return PySCF's object."""
    from pyscf import dft, scf

    reference = _reference(mol, method, settings)
    wave = {"rhf": scf.hf.RHF, "uhf": scf.uhf.UHF, "rohf": scf.rohf.ROHF}
    density = {"rhf": dft.rks.RKS, "uhf": dft.uks.UKS, "rohf": dft.roks.ROKS}
    if method.functional is None:
        mf = wave[reference](mol)
    else:
        mf = density[reference](mol, xc=method.functional)
        _set_grids(mf, settings)
    if settings.density_fit:
        is_named = isinstance(settings.density_fit, str)
        mf = mf.density_fit(auxbasis=settings.density_fit if is_named else None)
    for name, value in settings.scf.items():
        setattr(mf, name, value)
    if settings.is_newton:
        mf = mf.newton()
        mf.ah_lindep = _STEP_TOLERANCE
    mf.kernel()
    if not mf.converged:
        raise NotConverged(
            f"the SCF did not converge in {mf.max_cycle} cycles (E = {mf.e_tot:.8f}); raise "
            "keyword 'max_cycle', or try 'level_shift': 0.3, 'damp': 0.3 or 'newton': true"
        )
    return mf


def _reference(mol: Any, method: Method, settings: Settings) -> str:
    reference = settings.reference or ("rhf" if mol.spin == 0 else "uhf")
    if reference == "rhf" and mol.spin != 0:
        raise RequestError(
            f"rhf is for singlets, not for multiplicity {mol.spin + 1}; use hf, uhf or rohf",
            part="model.method",
        )
    if reference == "rohf" and mol.spin == 0:
        return "rhf"
    if reference == "rohf" and method.correlation:
        raise RequestError(
            f"{method.name} needs an rhf or uhf reference; take 'reference': 'uhf'", part="keywords"
        )
    return reference


def _set_grids(mf: Any, settings: Settings) -> None:
    from pyscf.dft import gen_grid

    schemes = {
        "nwchem": gen_grid.nwchem_prune,
        "sg1": gen_grid.sg1_prune,
        "treutler": gen_grid.treutler_prune,
        "none": None,
    }
    for name, value in settings.grids.items():
        if name == "prune":
            mf.grids.prune = schemes[value.lower()]
        elif name == "atom_grid":
            mf.grids.atom_grid = tuple(value)
        else:
            mf.grids.level = value


def run(mol: Any, method: Method, settings: Settings, driver: str) -> Numbers:
    """Compute what `driver` (energy, gradient or hessian) asks for.

    Raises
    ------
    RequestError
        PySCF lacks this derivative.
    NotConverged
        SCF, coupled-cluster or response equations.
    """
    from qcmb_mpi.programs import pyscf_correlation

    mf = mean_field(mol, method, settings)
    numbers = Numbers(energy=float(mf.e_tot), properties=_scf_properties(mol, mf))
    if method.correlation:
        pyscf_correlation.run(mf, method, settings, driver, numbers)
    elif driver != "energy":
        _scf_derivatives(mf, settings, driver, numbers)
    return numbers


def _scf_properties(mol: Any, mf: Any) -> dict[str, Any]:
    n_alpha, n_beta = mol.nelec
    return {
        "calcinfo_natom": mol.natm,
        "calcinfo_nbasis": int(mol.nao),
        "calcinfo_nmo": int(np.shape(mf.mo_occ)[-1]),
        "calcinfo_nalpha": int(n_alpha),
        "calcinfo_nbeta": int(n_beta),
        "nuclear_repulsion_energy": float(mol.energy_nuc()),
        "scf_total_energy": float(mf.e_tot),
        **n_cycles(mf, "scf_iterations"),
    }


def n_cycles(solver: Any, name: str) -> dict[str, int]:
    """Return the iterations a solver took as property `name`; older PySCF does not count them."""
    return {name: int(solver.cycles)} if hasattr(solver, "cycles") else {}


def _scf_derivatives(mf: Any, settings: Settings, driver: str, numbers: Numbers) -> None:
    numbers.gradient = scf_gradient(mf, settings)
    numbers.properties["scf_total_gradient"] = numbers.gradient
    if driver == "hessian":
        numbers.hessian = scf_hessian(mf)
        numbers.properties["scf_total_hessian"] = numbers.hessian


def scf_gradient(mf: Any, settings: Settings) -> Array:
    """Return the SCF gradient, shape ``(nat, 3)``."""
    gradients = mf.nuc_grad_method()
    if settings.has_grid_response:
        gradients.grid_response = True
        gradients.grids = _grids_of_elements(mf)
    return np.asarray(gradients.kernel(), dtype=np.float64)


def _grids_of_elements(mf: Any) -> Any:
    """Return the grid with, on every atom, the charge that its weights were made with.

    PySCF's weight derivatives take atomic radii by nuclear charge, the weights themselves by
    element: with ghost atoms or core potentials, where the two differ, its gradient is wrong by
    1e-3 E_h/a0. The grid uses its molecule's charges for nothing else.
    """
    from pyscf.data.elements import charge
    from pyscf.dft import radi

    # Up to PySCF 2.13 the weights take a ghost's charge to be 0.
    plain = getattr(radi, "_std_symbol_without_ghost", str)
    mol = mf.mol.copy()
    numbers = np.array([charge(plain(symbol)) for symbol in mol.elements])
    mol.atom_charges = lambda: numbers
    grids = mf.grids.copy()
    grids.mol = mol
    return grids


def scf_hessian(mf: Any) -> Array:
    """Return the analytic SCF Hessian, shape ``(3 nat, 3 nat)``, exactly symmetric.

    Raises
    ------
    RequestError
        PySCF has none for this reference, or the functional's grid is too coarse for it.
    """
    if mf.istype("ROHF"):
        raise RequestError(
            "pyscf has no Hessian for a restricted open-shell reference; use uhf", part="driver"
        )
    if min(mf.mol.nelec) == 0 and not mf.istype("RHF"):
        raise RequestError(
            "pyscf's unrestricted Hessian fails where all electrons have one spin", part="driver"
        )
    blocks = np.asarray(mf.Hessian().kernel(), dtype=np.float64)
    _check_drift(blocks)
    matrix = blocks.transpose(0, 2, 1, 3).reshape(3 * len(blocks), 3 * len(blocks))
    symmetric: Array = 0.5 * (matrix + matrix.T)
    return symmetric


def _check_drift(blocks: Array) -> None:
    """Refuse a Hessian that a shift of all atoms together does not leave at zero.

    What is left is the error of the integration grid, with ghost atoms or without. Some meta-GGA
    functionals (r2SCAN) are off by 0.3 E_h/a0^2 on PySCF's default grid.
    """
    drift = float(np.abs(blocks.sum(axis=0)).max())
    if drift > _DRIFT_LIMIT:
        raise RequestError(
            f"this Hessian is wrong by {drift:.1g} E_h/a0^2, as its sum over all atoms shows: the "
            "functional needs a finer grid (keyword 'grids_level': 5 or more), or another one",
            part="keywords",
        )

"""MP2, CCSD and CCSD(T) on a converged SCF, with gradients.

Rules of this file
------------------
1. Nothing to correlate (no virtual or no active occupied orbitals) is an answer: zero. PySCF
   itself divides by zero there, and helium in a minimal basis is an everyday fragment.
2. PySCF is imported inside functions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qcmb_mpi.programs.names import RequestError
from qcmb_mpi.programs.native import Array, Numbers
from qcmb_mpi.programs.pyscf_keywords import Settings
from qcmb_mpi.programs.pyscf_model import Method
from qcmb_mpi.programs.pyscf_run import HELD_MEMORY_MB, NotConverged, n_cycles, scf_gradient

# What gradients keep for each function of a block, over nao^3; a tenth is left for the rest.
_BLOCK_MB = 2.5 * 8 / 0.9e6


def run(mf: Any, method: Method, settings: Settings, driver: str, numbers: Numbers) -> None:
    """Add the correlated energy, and the gradient if asked for, to `numbers`."""
    if driver == "hessian":
        raise RequestError(f"pyscf has no Hessian for {method.name}", part="driver")
    if settings.density_fit and driver == "gradient":
        raise RequestError(
            f"pyscf has no {method.name} gradient with density fitting", part="keywords"
        )
    if driver == "gradient" and method.correlation == "ccsd(t)" and np.ndim(mf.mo_occ) > 1:
        # 1.2e-3 E_h/a0 off finite differences for NH2 with PySCF 2.14, and 8e-4 for H3.
        raise RequestError(
            "pyscf's ccsd(t) gradient is wrong for unrestricted references; use ccsd", part="driver"
        )
    frozen = _frozen(mf, settings)
    if _is_uncorrelated(mf, frozen):
        numbers.properties.update(_properties(method, numbers.energy, 0.0, 0.0))
        numbers.gradient = scf_gradient(mf, settings) if driver == "gradient" else None
    elif method.correlation == "mp2":
        _run_mp2(mf, frozen, driver, numbers)
    else:
        _run_cc(mf, method, settings, driver, numbers, frozen)


def _frozen(mf: Any, settings: Settings) -> int | list[int] | None:
    from pyscf.data.elements import chemcore

    if settings.frozen == "core":
        return chemcore(mf.mol) or None
    if isinstance(settings.frozen, tuple):
        return list(settings.frozen)
    return settings.frozen if isinstance(settings.frozen, int) else None


def _is_uncorrelated(mf: Any, frozen: int | list[int] | None) -> bool:
    left_out = set(range(frozen)) if isinstance(frozen, int) else set(frozen or ())
    occupations = np.atleast_2d(mf.mo_occ)
    return not any(_has_excitations(spin, left_out) for spin in occupations)


def _has_excitations(occupations: Array, left_out: set[int]) -> bool:
    active = np.array([index not in left_out for index in range(len(occupations))])
    return bool((active & (occupations > 0)).any() and (active & (occupations == 0)).any())


def _properties(method: Method, scf: float, correlation: float, triples: float) -> dict[str, Any]:
    """Return the QCSchema fields of a correlated energy (`correlation` without triples)."""
    if method.correlation == "mp2":
        return {"mp2_correlation_energy": correlation, "mp2_total_energy": scf + correlation}
    fields = {"ccsd_correlation_energy": correlation, "ccsd_total_energy": scf + correlation}
    if method.correlation == "ccsd(t)":
        total = correlation + triples
        fields |= {
            "ccsd_prt_pr_correlation_energy": total,
            "ccsd_prt_pr_total_energy": scf + total,
        }
    return fields


def _run_mp2(mf: Any, frozen: int | list[int] | None, driver: str, numbers: Numbers) -> None:
    from pyscf import mp

    solver = mp.MP2(mf, frozen=frozen)
    _count_integrals(solver)
    correlation = float(solver.kernel()[0])
    numbers.properties.update(
        mp2_correlation_energy=correlation,
        mp2_total_energy=numbers.energy + correlation,
        mp2_singles_energy=0.0,
        mp2_doubles_energy=correlation,
        mp2_same_spin_correlation_energy=float(solver.e_corr_ss),
        mp2_opposite_spin_correlation_energy=float(solver.e_corr_os),
    )
    numbers.energy += correlation
    if driver == "gradient":
        _make_room(solver)
        numbers.gradient = np.asarray(solver.nuc_grad_method().kernel(), dtype=np.float64)


def _run_cc(
    mf: Any,
    method: Method,
    settings: Settings,
    driver: str,
    numbers: Numbers,
    frozen: int | list[int] | None,
) -> None:
    from pyscf import cc

    solver = cc.CCSD(mf, frozen=frozen)
    _count_integrals(solver)
    for name, value in settings.cc.items():
        setattr(solver, name, value)
    integrals = solver.ao2mo()
    solver.kernel(eris=integrals)
    _require(solver.converged, "coupled-cluster", solver.max_cycle)
    correlation = float(solver.e_corr)
    has_triples = method.correlation == "ccsd(t)"
    triples = float(solver.ccsd_t(eris=integrals)) if has_triples else 0.0
    numbers.properties.update(_properties(method, numbers.energy, correlation, triples))
    numbers.properties.update(n_cycles(solver, "ccsd_iterations"))
    numbers.energy += correlation + triples
    if driver == "gradient":
        gradient = _triples_gradient if has_triples else _ccsd_gradient
        numbers.gradient = gradient(solver, integrals)


def _count_integrals(solver: Any) -> None:
    """Let a solver know that the SCF keeps its integrals."""
    integrals = solver._scf._eri
    if integrals is not None:
        solver.max_memory -= integrals.nbytes / 1e6


def _require(is_converged: bool, what: str, n_cycles: int) -> None:
    if not is_converged:
        raise NotConverged(
            f"the {what} equations did not converge in {n_cycles} cycles; raise keyword "
            "'cc_max_cycle', or try 'cc_level_shift': 0.3 or a larger 'cc_diis_space'"
        )


def _make_room(solver: Any) -> None:
    """Let a gradient have memory for its largest shell: told of less, PySCF 2.14 fails at once."""
    molecule = solver.mol
    shell = int(np.diff(molecule.ao_loc_nr()).max())
    least_mb = HELD_MEMORY_MB + 1.0 + shell * molecule.nao**3 * _BLOCK_MB
    solver.max_memory = max(solver.max_memory, least_mb)


def _ccsd_gradient(solver: Any, integrals: Any) -> Array:
    solver.solve_lambda(eris=integrals)
    _require(solver.converged_lambda, "lambda", solver.max_cycle)
    _make_room(solver)
    return np.asarray(solver.nuc_grad_method().kernel(eris=integrals), dtype=np.float64)


def _triples_gradient(solver: Any, integrals: Any) -> Array:
    from pyscf.cc import ccsd_t_lambda
    from pyscf.grad import ccsd_t

    is_converged, l1, l2 = ccsd_t_lambda.kernel(
        solver, integrals, solver.t1, solver.t2, max_cycle=solver.max_cycle, tol=1e-9
    )
    _require(is_converged, "lambda", solver.max_cycle)
    _make_room(solver)
    kernel = ccsd_t.Gradients(solver).kernel
    return np.asarray(kernel(solver.t1, solver.t2, l1, l2, eris=integrals), dtype=np.float64)

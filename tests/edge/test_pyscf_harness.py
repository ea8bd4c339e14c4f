"""The PySCF harness against bare PySCF, against differences, and against nonsense."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyscf import cc, dft, gto, lib, mp, scf
from qcelemental.models.v2 import AtomicResult
from qcengine.config import get_config

from qcmb_mpi.programs.pyscf import PySCFHarness
from tests.edge.harness_cases import (
    AMIDOGEN,
    HELIUM,
    HYDROGEN,
    LITHIUM_HYDRIDE,
    WATER,
    WATER_GHOST,
    atomic_input,
    compute,
    one_thread,
    refusal,
    slope,
    succeed,
)

pytestmark = pytest.mark.qc
_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)

TIGHT = {"conv_tol": 1e-12, "conv_tol_grad": 1e-8}
TIGHT_CC = {**TIGHT, "cc_conv_tol": 1e-11, "cc_conv_tol_normt": 1e-8}


def bare(atoms: Any, basis: str, *, n_ghosts: int = 0, **molecule: Any) -> Any:
    """A PySCF molecule made PySCF's own way."""
    symbols, geometry = atoms
    first = len(symbols) - n_ghosts
    labels = [s if i < first else f"ghost-{s}" for i, s in enumerate(symbols)]
    return gto.M(
        atom=list(zip(labels, geometry, strict=True)), unit="B", basis=basis, verbose=0, **molecule
    )


def converged(mean_field: Any) -> Any:
    mean_field.conv_tol, mean_field.conv_tol_grad = 1e-12, 1e-8
    return mean_field.run()


def energy_of(method: str, basis: str, **options: Any) -> Any:
    return lambda atoms: succeed("pyscf", atoms, method, basis, **options).properties.return_energy


@pytest.mark.parametrize(
    ("method", "multiplicity", "reference"),
    [
        ("hf", 1, lambda mol: converged(scf.RHF(mol)).e_tot),
        ("SCF", 3, lambda mol: converged(scf.UHF(mol)).e_tot),
        ("uhf", 3, lambda mol: converged(scf.UHF(mol)).e_tot),
        ("rohf", 3, lambda mol: converged(scf.ROHF(mol)).e_tot),
        ("rohf", 1, lambda mol: converged(scf.RHF(mol)).e_tot),
        ("b3lyp", 1, lambda mol: converged(dft.RKS(mol, xc="b3lyp")).e_tot),
        ("PBE", 3, lambda mol: converged(dft.UKS(mol, xc="pbe")).e_tot),
        ("mp2", 1, lambda mol: converged(scf.RHF(mol)).apply(mp.MP2).run().e_tot),
        ("mp2", 3, lambda mol: converged(scf.UHF(mol)).apply(mp.MP2).run().e_tot),
    ],
)
def test_energy_is_pyscfs_own(method: str, multiplicity: int, reference: Any) -> None:
    result = succeed("pyscf", WATER, method, "6-31g", keywords=TIGHT, multiplicity=multiplicity)
    expected = reference(bare(WATER, "6-31g", spin=multiplicity - 1))
    assert result.return_result == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("atoms", "multiplicity"), [(WATER, 1), (AMIDOGEN, 2)])
def test_coupled_cluster_energy_is_pyscfs_own(atoms: Any, multiplicity: int) -> None:
    result = succeed(
        "pyscf", atoms, "ccsd(t)", keywords=TIGHT_CC | {"frozen": 1}, multiplicity=multiplicity
    )
    mean_field = converged(scf.HF(bare(atoms, "sto-3g", spin=multiplicity - 1)))
    solver = cc.CCSD(mean_field, frozen=1).set(conv_tol=1e-11, conv_tol_normt=1e-8).run()
    expected = solver.e_tot + solver.ccsd_t()
    assert result.return_result == pytest.approx(expected, abs=1e-10)
    assert result.properties.ccsd_total_energy == pytest.approx(solver.e_tot, abs=1e-10)
    assert result.properties.ccsd_prt_pr_total_energy == result.return_result


def test_ghosts_carry_functions_and_no_charge() -> None:
    result = succeed("pyscf", WATER_GHOST, "hf", "6-31g", keywords=TIGHT, n_ghosts=1)
    expected = converged(scf.RHF(bare(WATER_GHOST, "6-31g", n_ghosts=1)))
    assert result.return_result == pytest.approx(expected.e_tot, abs=1e-10)
    assert result.properties.calcinfo_nbasis == expected.mol.nao == 15
    assert result.properties.nuclear_repulsion_energy == pytest.approx(expected.energy_nuc())
    lone = succeed("pyscf", WATER, "hf", "6-31g", keywords=TIGHT)
    assert result.return_result < lone.return_result - 1e-6


@pytest.mark.parametrize(
    ("method", "keywords"),
    [
        ("hf", {}),
        ("uhf", {}),
        ("b3lyp", {"grid_response": True, "grids_level": 0}),
        ("mp2", {"frozen": "core"}),
        ("ccsd", {}),
        ("ccsd(t)", {"frozen": [0]}),
        ("hf", {"density_fit": True}),
    ],
)
def test_gradient_on_ghost_and_real_atoms(method: str, keywords: dict[str, Any]) -> None:
    keywords = keywords | (TIGHT_CC if method.startswith("cc") else TIGHT)
    options = {"n_ghosts": 1, "keywords": keywords}
    gradient = succeed("pyscf", WATER_GHOST, method, driver="gradient", **options).return_result
    assert gradient.shape == (4, 3)
    still = {k: v for k, v in keywords.items() if k != "grid_response"}
    energy = energy_of(method, "sto-3g", n_ghosts=1, keywords=still)
    step = 0.004 if "grid_response" in keywords else 0.01  # a coarse grid is less smooth
    for atom, axis in ((3, 0), (3, 2), (0, 1)):
        expected = slope(energy, WATER_GHOST, atom, axis, step)
        assert gradient[atom, axis] == pytest.approx(expected, abs=3e-8)
    assert np.abs(gradient[3]).max() > 1e-5
    np.testing.assert_allclose(gradient.sum(axis=0), 0.0, atol=1e-7)


@pytest.mark.parametrize("method", ["uhf", "rohf", "mp2", "ccsd"])
def test_open_shell_gradient(method: str) -> None:
    options = {"keywords": TIGHT_CC if method == "ccsd" else TIGHT, "multiplicity": 2}
    gradient = succeed("pyscf", AMIDOGEN, method, driver="gradient", **options).return_result
    expected = slope(energy_of(method, "sto-3g", **options), AMIDOGEN, 1, 2)
    assert gradient[1, 2] == pytest.approx(expected, abs=3e-8)


@pytest.mark.parametrize(
    ("method", "charge", "multiplicity", "tolerance"),
    [("hf", 0, 1, 1e-6), ("hf", -1, 2, 1e-6), ("pbe", 0, 1, 2e-3)],
)
def test_hessian_on_ghost_atoms(
    method: str, charge: int, multiplicity: int, tolerance: float
) -> None:
    spin = {"charge": charge, "multiplicity": multiplicity}
    options = {"n_ghosts": 1, "keywords": TIGHT, **spin}
    atoms = (("H", "H", "He"), (*HYDROGEN[1], (0.4, 2.5, 1.0)))
    result = succeed("pyscf", atoms, method, "6-31g", driver="hessian", **options)
    hessian = result.return_result
    assert hessian.shape == (9, 9)
    assert np.array_equal(hessian, hessian.T)
    assert result.properties.return_gradient.shape == (3, 3)

    def gradient(moved: Any) -> Any:
        return succeed("pyscf", moved, method, "6-31g", driver="gradient", **options).return_result

    for atom, axis in ((2, 1), (0, 2)):
        expected = slope(gradient, atoms, atom, axis).ravel()
        np.testing.assert_allclose(hessian[3 * atom + axis], expected, atol=tolerance)


def test_core_potential_comes_with_its_basis() -> None:
    atoms = (("I", "H", "I"), ((0.0, 0.0, 0.0), (0.0, 0.0, 3.0), (0.0, 0.0, 9.0)))
    result = succeed("pyscf", atoms, "hf", "def2-svp", keywords=TIGHT, n_ghosts=1)
    assert result.properties.calcinfo_nalpha == 13
    expected = converged(scf.RHF(bare(atoms, "def2-svp", n_ghosts=1, ecp="def2-svp")))
    assert result.return_result == pytest.approx(expected.e_tot, abs=1e-9)
    text = refusal("pyscf", WATER, "hf", keywords={"ecp": "lanl2dzz"})
    assert "no core potential 'lanl2dzz'" in text
    assert succeed("pyscf", WATER, "hf", keywords={"ecp": "none"}).success


def test_properties_of_a_result() -> None:
    result = succeed("pyscf", WATER, "mp2", "6-31g", driver="gradient")
    properties = result.properties
    assert isinstance(result, AtomicResult)
    assert (properties.calcinfo_natom, properties.calcinfo_nmo) == (3, 13)
    assert (properties.calcinfo_nalpha, properties.calcinfo_nbeta) == (5, 5)
    assert properties.mp2_total_energy == properties.return_energy
    spins = (
        properties.mp2_same_spin_correlation_energy
        + properties.mp2_opposite_spin_correlation_energy
    )
    assert spins == pytest.approx(properties.mp2_correlation_energy, abs=1e-12)
    assert properties.scf_iterations > 1
    assert np.array_equal(properties.return_gradient, result.return_result)
    assert result.provenance.creator == "PySCF"
    assert "cycle= 1" in result.stdout


def test_output_protocol_and_silence(capfd: pytest.CaptureFixture[str]) -> None:
    assert succeed("pyscf", WATER, "hf", protocols={"stdout": False}).stdout is None
    result = succeed("pyscf", WATER, "hf", keywords={"density_fit": True})
    assert "Even tempered" in result.stderr
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize("method", ["mp2", "ccsd", "ccsd(t)"])
@pytest.mark.parametrize("frozen", ["none", "core"])
def test_nothing_to_correlate_is_zero(method: str, frozen: str) -> None:
    keywords = {"frozen": frozen}
    result = succeed("pyscf", HELIUM, method, driver="gradient", keywords=keywords)
    assert result.properties.return_energy == result.properties.scf_total_energy
    np.testing.assert_allclose(result.return_result, 0.0, atol=1e-12)
    assert succeed("pyscf", (("H",), ((0.0, 0.0, 0.0),)), method, multiplicity=2).success


def test_an_unknown_keyword_is_answered_by_those_that_are_known() -> None:
    text = refusal("pyscf", WATER, "hf", keywords={"e_convergence": 1e-8})
    assert "did you mean" not in text
    assert "(for hf: conv_tol, " in text
    assert "cc_conv_tol" not in text
    text = refusal("pyscf", WATER, "hf", keywords={"max_cycles": 9})
    assert "did you mean max_cycle, cc_max_cycle?" in text


def test_cartesian_functions_and_grid_keywords() -> None:
    spherical = succeed("pyscf", WATER, "hf", "6-31g*").properties.calcinfo_nbasis
    cartesian = succeed("pyscf", WATER, "hf", "6-31g*", keywords={"cart": True})
    assert (spherical, cartesian.properties.calcinfo_nbasis) == (18, 19)
    keywords = {"grids_atom_grid": [20, 50], "grids_prune": "none", "grids_level": 1}
    coarse = succeed("pyscf", WATER, "pbe", keywords=keywords).return_result
    fine = succeed("pyscf", WATER, "pbe").return_result
    assert 1e-7 < abs(coarse - fine) < 1e-2


@pytest.mark.parametrize(
    "keywords",
    [
        {"newton": True},
        {"soscf": True, "init_guess": "hcore"},
        {"level_shift": 0.2, "damp": 0.1, "DIIS_SPACE": 6},
        {"reference": "UHF"},
        {"direct_scf_tol": 1e-13, "max_memory": 0.1},
    ],
)
def test_other_ways_to_the_same_energy(keywords: dict[str, Any]) -> None:
    expected = succeed("pyscf", WATER, "hf").return_result
    found = succeed("pyscf", WATER, "hf", keywords=keywords).return_result
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("method", "atoms", "multiplicity"),
    [("mp2", WATER, 1), ("ccsd", WATER, 1), ("ccsd(t)", WATER, 1), ("mp2", AMIDOGEN, 2)],
)
def test_a_gradient_does_with_little_memory(method: str, atoms: Any, multiplicity: int) -> None:
    """PySCF itself fails where the largest shell does not fit into what it is told."""
    options = {"driver": "gradient", "multiplicity": multiplicity}
    little = {"keywords": {**TIGHT, "max_memory": 0.1}}
    expected = succeed("pyscf", atoms, method, "cc-pvdz", keywords=TIGHT, **options).return_result
    found = succeed("pyscf", atoms, method, "cc-pvdz", **little, **options).return_result
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("method", ["mp2", "b3lyp", "ccsd"])
def test_what_pyscf_is_told_bounds_its_buffers(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PySCF itself takes 2 GB for these where it is told of less."""
    from pyscf.ao2mo import outcore
    from pyscf.dft import numint
    from pyscf.mp import mp2

    asked_mb: list[float] = []

    def spy(home: Any, name: str, place: int | str) -> None:
        plain = getattr(home, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            asked_mb.append(args[place] if isinstance(place, int) else kwargs[place])
            return plain(*args, **kwargs)

        monkeypatch.setattr(home, name, noted)

    spy(mp2, "_ao2mo_ovov", -2)
    spy(numint.NumInt, "block_loop", 5)
    spy(outcore, "full", "max_memory")
    monkeypatch.setattr("pyscf.ao2mo.full", outcore.full)
    driver = "gradient" if method == "b3lyp" else "energy"
    plenty = succeed("pyscf", WATER, method, "cc-pvdz", driver=driver, keywords=TIGHT).return_result
    asked_mb.clear()
    little = {**TIGHT, "max_memory": 0.2}
    found = succeed("pyscf", WATER, method, "cc-pvdz", driver=driver, keywords=little)
    np.testing.assert_allclose(found.return_result, plenty, atol=1e-7)
    assert asked_mb
    assert max(asked_mb) < 100


def test_unconverged_is_a_convergence_error() -> None:
    failed = compute("pyscf", WATER, "hf", keywords={"max_cycle": 2})
    assert failed.error.error_type == "convergence_error"
    assert "did not converge in 2 cycles" in failed.error.error_message
    assert "max_cycle" in failed.error.error_message
    assert "cycle= 2" in failed.error.extras["stdout"]
    failed = compute("pyscf", WATER, "ccsd", keywords={"cc_max_cycle": 2})
    assert failed.error.error_type == "convergence_error"
    assert "cc_max_cycle" in failed.error.error_message


@pytest.mark.parametrize(
    ("method", "keywords", "text"),
    [
        ("hf", {"conv_toll": 1e-8}, "no keyword 'conv_toll'; did you mean conv_tol"),
        ("hf", {"qqqqq": 1}, "no keyword 'qqqqq'"),
        ("hf", {"conv_tol": "tight"}, "'conv_tol' must be a positive number, not 'tight'"),
        ("hf", {"conv_tol": float("nan")}, "must be a positive number"),
        ("hf", {"max_cycle": True}, "must be a positive integer"),
        ("hf", {"init_guess": "chkfile"}, "must be minao or atom"),
        ("hf", {"damp": 1.0}, "from 0 to below 1"),
        ("hf", {"frozen": 1}, "no effect with method 'hf'"),
        ("hf", {"grids_level": 4}, "only with density functionals"),
        ("mp2", {"cc_conv_tol": 1e-8}, "no effect with method 'mp2'"),
        ("mp2", {"frozen": "kore"}, "core or none"),
        ("mp2", {"frozen": [0, 0]}, "core or none"),
        ("rhf", {"reference": "uhf"}, "'reference' is 'uhf', but the method is 'rhf'"),
        ("pbe", {"grids_atom_grid": [50]}, "n_radial"),
        ("hf", {"density_fit": 3}, "auxiliary basis"),
    ],
)
def test_bad_keywords_are_refused(method: str, keywords: dict[str, Any], text: str) -> None:
    assert text in refusal("pyscf", WATER, method, keywords=keywords)


@pytest.mark.parametrize(
    ("method", "basis", "text"),
    [
        ("hff", "sto-3g", "no method 'hff'; did you mean hf"),
        ("b3lip", "sto-3g", "did you mean b3lyp"),
        ("pbe-pbe", "sto-3g", "no method"),
        ("0*pbe", "sto-3g", "no method"),
        ("tauhcth,", "sto-3g", "several functionals"),
        ("mgga_x_br89,", "sto-3g", "does not implement this: laplacian"),
        ("b3lyp-d3bj", "sto-3g", "dispersion correction"),
        ("wb97x-d", "sto-3g", "'s-dftd3' or 'dftd4'"),
        ("hf", "sto-3gg", "no basis 'sto-3gg'; did you mean sto-3g"),
        ("hf", None, "needs the name of a basis set"),
        ("hf", "/etc/basis", "not a file"),
    ],
)
def test_bad_names_are_refused(method: str, basis: str | None, text: str) -> None:
    assert text in refusal("pyscf", WATER, method, basis)


def test_basis_without_the_element_is_refused() -> None:
    uranium = (("U",), ((0.0, 0.0, 0.0),))
    assert "'6-31g' has no functions for element U" in refusal("pyscf", uranium, "hf", "6-31g")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"driver": "properties"}, "no driver 'properties'"),
        ({"charge": 2}, "no electrons"),
        ({"n_ghosts": 2}, "all atoms are ghosts"),
        ({"charge": 0.5}, "integer charge"),
        ({"multiplicity": 2}, "multiplicity 2 is impossible with 2 electrons"),
        ({"multiplicity": 5}, "multiplicity 5 is impossible with 2 electrons"),
    ],
)
def test_impossible_molecules_and_drivers_are_refused(options: dict[str, Any], text: str) -> None:
    assert text in refusal("pyscf", HYDROGEN, "hf", **options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"method": "mp2", "driver": "hessian"}, "no Hessian for mp2"),
        ({"method": "rohf", "driver": "hessian", "multiplicity": 3}, "restricted open-shell"),
        ({"method": "rhf", "multiplicity": 3}, "rhf is for singlets"),
        ({"method": "mp2", "multiplicity": 3, "keywords": {"reference": "rohf"}}, "needs an rhf"),
        ({"method": "ccsd(t)", "driver": "gradient", "multiplicity": 3}, "unrestricted"),
        (
            {"method": "mp2", "driver": "gradient", "keywords": {"density_fit": True}},
            "density fitting",
        ),
        ({"method": "r2scan", "driver": "hessian"}, "finer grid"),
        ({"method": "hf", "driver": "hessian", "charge": 9, "multiplicity": 2}, "one spin"),
    ],
)
def test_what_pyscf_lacks_or_gets_wrong_is_refused(options: dict[str, Any], text: str) -> None:
    assert text in refusal("pyscf", WATER, options.pop("method"), **options)


def test_refusals_are_input_errors_for_qcengine() -> None:
    failed = compute("pyscf", WATER, "hff")
    assert failed.error.error_type == "input_error"
    assert "did you mean hf" in failed.error.error_message


def test_more_electrons_than_functions_is_refused() -> None:
    text = refusal("pyscf", (("He",), ((0.0, 0.0, 0.0),)), "hf", multiplicity=3)
    assert "too few for 2 electrons" in text


def test_same_bits_whatever_ran_before_and_in_another_process() -> None:
    def numbers() -> bytes:
        result = succeed("pyscf", LITHIUM_HYDRIDE, "b3lyp", "6-31g", driver="gradient")
        return np.append(result.return_result, result.properties.return_energy).tobytes()

    first = numbers()
    succeed("pyscf", WATER, "ccsd", "6-31g")
    succeed("pyscf", WATER, "hf", "cc-pvtz", n_threads=2)
    assert numbers() == first
    code = (
        "from tests.edge.harness_cases import *\n"
        "r = succeed('pyscf', LITHIUM_HYDRIDE, 'b3lyp', '6-31g', driver='gradient')\n"
        "print(np.append(r.return_result, r.properties.return_energy).tobytes().hex())\n"
    )
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "2"}
    other = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert bytes.fromhex(other.stdout.split()[-1]) == first


def test_threads_are_set_for_the_calculation_and_restored() -> None:
    before, seen = lib.num_threads(), []
    build = gto.Mole.build

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append((lib.num_threads(), threading.active_count()))
        return build(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gto.Mole, "build", spy)
        succeed("pyscf", HELIUM, "hf", n_threads=1)
        succeed("pyscf", HELIUM, "hf", n_threads=2)
    assert {n for n, _ in seen} == {1, 2}
    assert lib.num_threads() == before


def test_scratch_is_used_and_left_empty(tmp_path: Path) -> None:
    config = get_config(
        task_config={"ncores": 1, "memory": 1.0, "scratch_directory": str(tmp_path)}
    )
    for method in ("hf", "ccsd"):
        PySCFHarness().compute(atomic_input(WATER, method), config)
    assert list(tmp_path.iterdir()) == []


def test_program_is_described() -> None:
    harness = PySCFHarness()
    assert harness.found()
    assert harness.get_version() == __import__("pyscf").__version__
    assert (harness.thread_parallel, harness.thread_safe) == (True, False)

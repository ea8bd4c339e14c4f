"""What is known of programs, and the preflight that refuses before anything runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from qcengine.programs.base import programs
from qcengine.programs.model import ProgramHarness
from qcengine.programs.mopac import MopacHarness

from qcmb_mpi.errors import InputError, TopologyError
from qcmb_mpi.expansion.system import ModelChemistry, System
from qcmb_mpi.programs import basis_size, register
from qcmb_mpi.programs.basis_size import functions_of_atom, n_basis_functions
from qcmb_mpi.programs.profiles import check_request, method_family, profile
from qcmb_mpi.scheduling.cost import FAMILIES

register()

SYSTEM = System(
    symbols=("O", "H", "H", "He"),
    atomic_numbers=np.array([8, 1, 1, 2]),
    masses=np.array([16.0, 1.0, 1.0, 4.0]),
    mass_numbers=np.array([16, 1, 1, 4]),
    geometry_bohr=np.zeros((4, 3)),
    fragment_sizes=(3, 1),
    fragment_charges=(0.0, 0.0),
    fragment_multiplicities=(1, 1),
)


def chemistry(program: str, *, driver: str = "energy", **specification: Any) -> ModelChemistry:
    model = {
        "method": specification.pop("method", "hf"),
        "basis": specification.pop("basis", "sto-3g"),
    }
    return ModelChemistry(
        label="high",
        program=program,
        driver=driver,
        specification={"driver": driver, "model": model, **specification},
        fingerprint="0" * 64,
    )


class OwnHarness(MopacHarness):
    """A user's harness, found everywhere."""

    @staticmethod
    def found(raise_error: bool = False) -> bool:
        return True


@pytest.fixture
def everything_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that QCEngine's harnesses find their programs."""
    for harness in set(map(type, programs.values())):
        monkeypatch.setattr(harness, "found", staticmethod(lambda raise_error=False: True))


def test_every_program_of_qcengine_has_a_profile() -> None:
    shipped = [
        name
        for name, harness in programs.items()
        if type(harness).__module__.startswith(("qcengine.", "qcmb_mpi."))
    ]
    assert len(shipped) > 20
    for name in shipped:
        facts = profile(name.upper())
        assert facts.program == name
        assert facts.has_ghosts is not None, name
        assert "energy" in facts.drivers
        assert facts.base_memory_bytes > 0
        assert (facts.has_ghosts is False) == bool(facts.ghost_reason)


def test_unknown_programs_are_trusted() -> None:
    facts = profile("somebodys")
    assert (facts.has_ghosts, facts.is_threaded) == (None, True)
    assert facts.drivers == {"energy", "gradient", "hessian"}


@pytest.mark.parametrize(
    ("program", "method", "family"),
    [
        ("pyscf", "ccsd(t)", "ccsd(t)"),
        ("pyscf", "b3lyp", "dft"),
        ("psi4", "mp2", "mp2"),
        ("mopac", "pm7", "semiempirical"),
        ("dftd4", "b3lyp", "dispersion"),
        ("openmm", "openff", "dispersion"),
        ("somebodys", "hf", "scf"),
    ],
)
def test_family_is_one_the_cost_model_knows(program: str, method: str, family: str) -> None:
    assert method_family(program, method) == family
    assert family in FAMILIES


@pytest.mark.usefixtures("everything_installed")
@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("mopac", "silently takes them for real atoms"),
        ("MOPAC", "silently"),
        ("xtb", "silently"),
        ("turbomole", "silently"),
        ("dftd4", "silently"),
        ("dftd3", "no use for them"),
        ("tblite", "no use for them"),
        ("xtb-cli", "no use for them"),
        ("gamess", "its harness refuses them"),
        ("torchani", "silently"),
        ("rdkit", "silently"),
    ],
)
def test_programs_without_ghosts_are_refused_for_cp_and_vmfc(program: str, reason: str) -> None:
    methods = {"mopac": "pm7", "xtb": "gfn2-xtb"}
    request = chemistry(program, method=methods.get(program.lower(), "gfn2"), basis=None)
    with pytest.raises(InputError, match="cp and vmfc need ghost atoms") as caught:
        check_request(request, needs_ghosts=True)
    assert caught.value.field == "specification.specification.high.program"
    assert reason in str(caught.value)
    assert "nocp" in str(caught.value)
    check_request(request, needs_ghosts=False)


@pytest.mark.usefixtures("everything_installed")
@pytest.mark.parametrize("program", ["psi4", "nwchem", "cfour", "pyscf", "molpro"])
def test_programs_with_ghosts_are_let_through(program: str) -> None:
    check_request(chemistry(program), needs_ghosts=True, system=SYSTEM)


def test_a_users_own_harness_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(programs, "mopac", OwnHarness())
    monkeypatch.setitem(programs, "pyscf", OwnHarness(name="pyscf"))
    check_request(chemistry("mopac", driver="hessian"), needs_ghosts=True, system=SYSTEM)
    check_request(chemistry("pyscf", method="dmrg"), needs_ghosts=True, system=SYSTEM)


def test_a_program_that_is_not_known_is_answered_by_those_that_are_here() -> None:
    with pytest.raises(InputError, match=r"installed here: .*pyscf") as caught:
        check_request(chemistry("gaussian"), needs_ghosts=False)
    assert "gamess" not in str(caught.value).partition("(")[0]


def test_unknown_program_names_near_ones() -> None:
    with pytest.raises(InputError, match="no program 'pyscff'; did you mean pyscf") as caught:
        check_request(chemistry("pyscff"), needs_ghosts=False)
    assert caught.value.field == "specification.specification.high.program"
    with pytest.raises(InputError, match="--import"):
        check_request(chemistry("qqqq"), needs_ghosts=False)


def test_missing_program_gives_the_harness_own_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(raise_error: bool = False) -> bool:
        if raise_error:
            raise ModuleNotFoundError("Please install via `conda install mopac`")
        return False

    monkeypatch.setattr(MopacHarness, "found", staticmethod(absent))
    with pytest.raises(TopologyError, match=r"'mopac' is not installed.*conda install mopac"):
        check_request(chemistry("mopac"), needs_ghosts=False)


def test_a_module_that_a_harness_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(raise_error: bool = False) -> bool:
        if raise_error:
            raise ModuleNotFoundError(
                "Python module 'networkx' not found in envvar PYTHONPATH. Please conda install it."
            )
        return False

    monkeypatch.setattr(MopacHarness, "found", staticmethod(lacking))
    with pytest.raises(TopologyError, match=r"lacks .* pip install networkx \(.*mopac") as caught:
        check_request(chemistry("mopac"), needs_ghosts=False)
    assert "PYTHONPATH" not in str(caught.value)


def test_silent_absence_is_an_absence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MopacHarness, "found", staticmethod(lambda raise_error=False: False))
    with pytest.raises(
        TopologyError, match=r"'mopac' is not installed on this node \(apt install mopac,"
    ):
        check_request(chemistry("mopac"), needs_ghosts=False)


@pytest.mark.usefixtures("everything_installed")
def test_driver_a_program_lacks_is_refused() -> None:
    with pytest.raises(InputError, match="mopac has no hessian") as caught:
        check_request(chemistry("mopac", driver="hessian"), needs_ghosts=False)
    assert caught.value.field.endswith("high.driver")
    assert "accepted: energy, gradient" in str(caught.value)


@pytest.mark.parametrize(
    ("request_", "field", "text"),
    [
        (chemistry("pyscf", method="hff"), "model.method", "did you mean hf"),
        (chemistry("pyscf", basis="sto-4gg"), "model.basis", "no basis"),
        (chemistry("pyscf", basis=None), "model.basis", "needs the name"),
        (chemistry("pyscf", keywords={"conv_toll": 1}), "keywords", "conv_tol"),
        (chemistry("pyscf", method="ccsd", driver="hessian"), "driver", "no Hessian"),
        (chemistry("tblite", method="gfn3", basis=None), "model.method", "GFN2-xTB"),
        (chemistry("tblite", method="gfn2"), "model.basis", "no basis set"),
        (chemistry("tblite", method="gfn2", basis="", keywords={"acc": 1}), "keywords", "'acc'"),
    ],
)
def test_our_own_programs_are_checked_to_the_keyword(
    request_: ModelChemistry, field: str, text: str
) -> None:
    with pytest.raises(InputError, match=text) as caught:
        check_request(request_, needs_ghosts=False, system=SYSTEM)
    assert caught.value.field == f"specification.specification.high.{field}"


@pytest.mark.usefixtures("everything_installed")
def test_embedding_charges_are_for_psi4_only() -> None:
    charged = replace(SYSTEM, embedding_charges=((-0.8, 0.4, 0.4), (0.0,)))
    check_request(chemistry("psi4"), needs_ghosts=False, system=charged)
    with pytest.raises(InputError, match="embedding charges can be given to psi4 only"):
        check_request(chemistry("pyscf"), needs_ghosts=False, system=charged)


def test_basis_is_checked_for_the_elements_present() -> None:
    heavy = replace(SYSTEM, symbols=("H", "U", "H", "He"))
    request = chemistry("pyscf", basis="6-31g")
    check_request(request, needs_ghosts=False)
    with pytest.raises(InputError, match="no functions for element U"):
        check_request(request, needs_ghosts=False, system=heavy)


NOT_IN_PYSCF = {"jun-cc-pvdz"}


@pytest.mark.parametrize("basis", sorted(set(basis_size._TABLE) - NOT_IN_PYSCF))
def test_table_of_sizes_equals_pyscf(basis: str) -> None:
    import pyscf.gto  # it belongs to the package: its absence is a failure

    assert pyscf.gto
    for symbol in ("H", "C", "N", "O", "F", "Ne", "P", "S", "Cl"):
        counted = basis_size._from_pyscf(symbol, basis)
        assert counted == functions_of_atom(symbol, basis) > 0, (symbol, counted)


def test_table_of_a_basis_that_pyscf_lacks_follows_its_definition() -> None:
    """jun-cc-pVDZ is aug-cc-pVDZ less the diffuse s, p of H and the diffuse d of the others."""
    for symbol in ("H", "C", "N", "O", "F", "Ne", "P", "S", "Cl"):
        n_left_out = 4 if symbol == "H" else 5
        n_full = functions_of_atom(symbol, "aug-cc-pvdz")
        assert functions_of_atom(symbol, "jun-cc-pvdz") == n_full - n_left_out


def test_ghost_atoms_count_and_methods_without_basis_see_real_ones_only() -> None:
    model = {"method": "hf", "basis": "6-31G(d)"}
    assert n_basis_functions(SYSTEM, (1,), (1,), model) == 18
    assert n_basis_functions(SYSTEM, (1,), (1, 2), model) == 20
    assert n_basis_functions(SYSTEM, (1,), (1, 2), {"method": "gfn2", "basis": None}) == 6


def test_sizes_outside_the_table() -> None:
    assert functions_of_atom("I", "def2-svp") == 26
    assert functions_of_atom("Fe", "") == 9
    assert functions_of_atom("H", "no-such-tz") == 6
    assert functions_of_atom("Xe", "no-such-dz") == 18 + 2 * 12
    assert functions_of_atom("Og", "no-such-dz") > 18 + 2 * 12


def test_sizes_without_pyscf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(basis_size, "find_spec", lambda name: None)
    assert functions_of_atom("Br", "dgdzvp") == 18 + 12


def test_harnesses_share_qcengines_base() -> None:
    assert isinstance(programs["pyscf"], ProgramHarness)
    assert isinstance(programs["tblite"], ProgramHarness)

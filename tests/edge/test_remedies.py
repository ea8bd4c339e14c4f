"""Remedies: fixed, never against the user or the thresholds, and they do help."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import qcengine
from qcelemental.models.v2 import AtomicInput
from qcengine import exceptions
from qcengine.programs.base import programs
from qcengine.programs.model import ProgramHarness

from qcmb_mpi.execution.engine import AtomicRunner, SlotResources
from qcmb_mpi.execution.outcome import Outcome
from qcmb_mpi.programs import remedies as table
from qcmb_mpi.programs.remedies import remedies
from qcmb_mpi.scheduling.policy import ErrorClass
from tests.edge.harness_cases import WATER, atomic_input

BOHR_PER_ANGSTROM = 1.8897261
# Atoms so far apart that the plain iteration gets nowhere.
CARBON = (("C", "C"), ((0.0, 0.0, 0.0), (0.0, 0.0, 3.0 * BOHR_PER_ANGSTROM)))


def run(program: str, inp: AtomicInput, *, is_remedied: bool) -> Outcome:
    return AtomicRunner(SlotResources(), is_remedied=is_remedied).run(0, program, lambda: inp)


def pyscf(atoms: Any, method: str, *, is_remedied: bool = True, **fields: Any) -> Outcome:
    return run("pyscf", atomic_input(atoms, method, **fields), is_remedied=is_remedied)


def offered(
    program: str, method: str = "hf", message: str = "", **keywords: Any
) -> list[dict[str, Any]]:
    inp = atomic_input(WATER, method, keywords=keywords)
    return [dict(each.keywords) for each in remedies(program, inp.specification, message)]


class TestTable:
    @pytest.mark.parametrize("key", table._TABLE, ids=str)
    def test_nothing_touches_a_threshold_or_the_equations(self, key: tuple[str, str]) -> None:
        forbidden = ("conv", "tol", "accuracy", "thresh", "temperature", "grid", "basis", "ref")
        for change, room in table._TABLE[key]:
            for name in (*change, *room):
                assert not any(word in name.lower() for word in forbidden), name

    @pytest.mark.parametrize(("program", "equations"), table._TABLE, ids=str)
    def test_every_harness_is_the_one_it_was_written_for(
        self, program: str, equations: str
    ) -> None:
        assert table.is_harness_known(program)
        assert len(table._TABLE[program, equations]) > 0

    def test_the_order_is_fixed(self) -> None:
        assert offered("pyscf") == offered("PySCF")
        assert offered("pyscf")[0] == {"max_cycle": 300}
        assert offered("pyscf", "ccsd", "the coupled-cluster equations did not converge")[0] == {
            "cc_max_cycle": 400
        }
        assert offered("nwchem", "hf") == [{"scf__maxiter": 400}]
        assert offered("nwchem", "b3lyp") == [{"dft__iterations": 400}]
        assert offered("nwchem", "ccsd(t)") == [{"ccsd__maxiter": 400}]
        assert offered("nwchem", "ccsd", qc_module="tce") == [{"tce__maxiter": 1000}]

    def test_of_unknown_programs_nothing_is_known(self) -> None:
        assert offered("dftd3") == offered("no such program") == []

    def test_what_the_user_set_stays(self) -> None:
        assert all("max_cycle" not in each for each in offered("pyscf", MAX_CYCLE=7))
        assert offered("pyscf", MAX_CYCLE=7)[0] == {"level_shift": 0.3}
        assert all("newton" not in each for each in offered("pyscf", soscf=False))
        assert all("maxiter" not in each for each in offered("psi4", scf__maxiter=7))
        assert offered("nwchem", "b3lyp", dft__maxiter=7) == []
        assert offered("mopac", iter=7, Pulay=True) == []


class Stubborn(ProgramHarness):
    """A harness of the user's own under a name that has remedies; counts its runs."""

    _defaults: ClassVar[dict[str, Any]] = {
        "name": "xtb",
        "scratch": False,
        "thread_safe": True,
        "thread_parallel": False,
        "node_parallel": False,
        "managed_memory": False,
    }
    n_runs: ClassVar[int] = 0

    @staticmethod
    def found(raise_error: bool = False) -> bool:
        return True

    def compute(self, input_data: AtomicInput, config: Any) -> Any:
        type(self).n_runs += 1
        raise exceptions.ConvergenceError("never")


@pytest.fixture
def own_harness(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Stubborn, "n_runs", 0)
    theirs = programs["xtb"]
    qcengine.unregister_program("xtb")
    qcengine.register_program(Stubborn())
    yield
    qcengine.unregister_program("xtb")
    qcengine.register_program(theirs)


@pytest.mark.usefixtures("own_harness")
def test_a_harness_of_the_users_own_is_left_alone() -> None:
    outcome = run("xtb", atomic_input(WATER, "any"), is_remedied=True)
    assert outcome.failure is not None
    assert Stubborn.n_runs == 1
    assert outcome.failure.message.endswith("never")


class TestPySCF:
    def test_without_leave_nothing_is_tried(self) -> None:
        outcome = pyscf(CARBON, "svwn", is_remedied=False)
        assert outcome.failure is not None
        assert outcome.failure.error_class is ErrorClass.CONVERGENCE
        assert outcome.remedy == ""

    def test_what_needs_no_remedy_gets_none(self) -> None:
        plain, remedied = (pyscf(WATER, "hf", is_remedied=each) for each in (False, True))
        assert remedied.remedy == ""
        assert remedied.energy_hartree == plain.energy_hartree

    def test_a_remedy_gives_what_the_user_would_get_with_its_keywords(self) -> None:
        remedied = pyscf(CARBON, "svwn")
        assert remedied.remedy == "level_shift=0.3, max_cycle=300"
        keywords = {"level_shift": 0.3, "max_cycle": 300}
        by_hand = pyscf(CARBON, "svwn", is_remedied=False, keywords=keywords)
        assert remedied.energy_hartree == by_hand.energy_hartree

    def test_more_cycles_end_where_the_plain_iteration_goes(self) -> None:
        slow = {"diis": False, "level_shift": 10.0}
        assert pyscf(WATER, "hf", is_remedied=False, keywords=slow).failure is not None
        remedied = pyscf(WATER, "hf", keywords=slow)
        assert remedied.remedy == "max_cycle=300"
        reference = pyscf(WATER, "hf")
        assert remedied.energy_hartree == pytest.approx(reference.energy_hartree, abs=1e-9)

    @pytest.mark.parametrize("driver", ["energy", "gradient", "hessian"])
    def test_another_way_gives_the_same_solution_within_the_thresholds(self, driver: str) -> None:
        fields: dict[str, Any] = {"basis": "6-31g", "driver": driver}
        reference = pyscf(WATER, "hf", **fields)
        remedied = pyscf(WATER, "hf", keywords={"max_cycle": 6}, **fields)
        assert remedied.remedy == "newton=True"
        assert remedied.energy_hartree == pytest.approx(reference.energy_hartree, abs=1e-9)
        for name in ("gradient", "hessian"):
            if getattr(reference, name) is not None:
                difference = getattr(remedied, name) - getattr(reference, name)
                assert abs(difference).max() < 1e-5

    def test_coupled_cluster_has_its_own(self) -> None:
        failure = pyscf(WATER, "ccsd", keywords={"cc_max_cycle": 4}).failure
        assert failure is not None
        tried = "remedies that did not help: cc_diis_space=12; cc_level_shift=0.3"
        assert failure.message.endswith(tried)

    def test_what_did_not_help_is_told(self) -> None:
        keywords = {"max_cycle": 1, "newton": False}
        failure = pyscf(WATER, "hf", keywords=keywords).failure
        assert failure is not None
        assert failure.error_class is ErrorClass.CONVERGENCE
        assert failure.message.endswith("remedies that did not help: level_shift=0.3")


def test_tblite_is_given_more_iterations_only_where_the_user_has_not_counted_them() -> None:
    inp = atomic_input(WATER, "GFN2-xTB", None, keywords={"max_iterations": 3})
    failure = run("tblite", inp, is_remedied=True).failure
    assert failure is not None
    assert "mixer_damping=0.2; mixer_damping=0.05" in failure.message
    assert "max_iterations=" not in failure.message

"""Tasks without QCSchema: the same bits and the same failures as through QCEngine, no objects."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import qcengine
from qcelemental.models.v2 import AtomicInput, AtomicResult, Molecule
from qcengine.programs.base import programs
from tblite.exceptions import TBLiteRuntimeError, TBLiteValueError
from tblite.interface import Calculator, Result
from threadpoolctl import ThreadpoolController, threadpool_limits

from qcmb_mpi import schema
from qcmb_mpi.execution import engine as engine_module
from qcmb_mpi.execution.engine import AtomicRunner, QCEngine, QCEngineRecipe, SlotResources
from qcmb_mpi.execution.outcome import Outcome
from qcmb_mpi.execution.slicer import Slicer
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.programs import native_harness, tblite_run, threads
from qcmb_mpi.programs.native import Atoms, CalculationFailed, Means
from qcmb_mpi.programs.tblite import TBLiteHarness
from qcmb_mpi.programs.tblite_run import XtbCalculation
from qcmb_mpi.programs.threads import limited_threads, set_threads
from qcmb_mpi.scheduling.policy import ErrorClass
from tests.edge.harness_cases import one_thread

pytestmark = pytest.mark.qc
_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)

RESOURCES = SlotResources(memory_bytes=2**30)
# Water, amidogen, and two ions, well apart and turned.
SYMBOLS = ["O", "H", "H", "N", "H", "H", "Li", "F"]
GEOMETRY = [
    *(0.0, 0.0, 0.0, 0.0, 0.1, 1.8, 1.7, 0.0, -0.5),
    *(5.0, 0.3, 0.2, 5.0, 0.4, 2.1, 6.85, 0.6, -0.3),
    *(0.5, 5.2, 0.4),
    *(4.8, 5.5, 0.7),
]
FRAGMENTS = [[0, 1, 2], [3, 4, 5], [6], [7]]
CHARGES, MULTIPLICITIES = [0.0, 0.0, 1.0, -1.0], [1, 2, 1, 1]


def document(
    program: str,
    method: str,
    basis: str | None = None,
    *,
    driver: str = "energy",
    keywords: dict[str, Any] | None = None,
    bsse: str = "nocp",
    max_nbody: int = 3,
    n: int = 4,
) -> dict[str, Any]:
    """Write an input with charges, an open shell and fragments of different sizes."""
    n_atoms = sum(map(len, FRAGMENTS[:n]))
    model = {"method": method, "basis": basis}
    specification = {"program": program, "driver": driver, "model": model}
    return {
        "schema_name": "qcschema_many_body_input",
        "schema_version": 2,
        "molecule": {
            "symbols": SYMBOLS[:n_atoms],
            "geometry": GEOMETRY[: 3 * n_atoms],
            "fragments": FRAGMENTS[:n],
            "fragment_charges": CHARGES[:n],
            "fragment_multiplicities": MULTIPLICITIES[:n],
        },
        "specification": {
            "driver": driver,
            "keywords": {"bsse_type": [bsse], "max_nbody": max_nbody, "return_total_data": True},
            "specification": {"(auto)": {**specification, "keywords": keywords or {}}},
        },
    }


def outcomes(text: dict[str, Any], *, is_native: bool, **options: Any) -> list[Outcome]:
    """Run all tasks; whole results are what only QCEngine can give."""
    loaded = schema.load_input(text)
    recipe = QCEngineRecipe(loaded.expansion, wants_records=not is_native, **options)
    engine = recipe.build(RESOURCES)
    ids = list(range(TaskSpace(loaded.expansion).n_tasks))
    engine.prepare(ids[::2])
    return [engine.compute(task) for task in ids]


OF_THE_ATTEMPT = ("start_s", "seconds", "cpu_s", "peak_bytes", "record")


def content(outcome: Outcome) -> dict[str, Any]:
    """Return what must not depend on the way: arrays as their bytes, programs' clocks left out."""
    found = {field.name: getattr(outcome, field.name) for field in fields(outcome)}
    kept = {name: value for name, value in found.items() if name not in OF_THE_ATTEMPT}
    for name, value in kept.items():
        if isinstance(value, np.ndarray):
            assert value.dtype == np.float64
            assert value.flags.c_contiguous
            kept[name] = (value.shape, value.tobytes())
    if outcome.failure is not None:
        tail = re.sub(r"[\d.]+ sec", "", outcome.failure.output_tail)
        kept["failure"] = replace(outcome.failure, output_tail=tail)
    return kept


CASES: dict[str, dict[str, Any]] = {
    "hf cp": document("pyscf", "hf", "sto-3g", bsse="cp", max_nbody=2),
    "hf gradient vmfc": document(
        "pyscf", "hf", "sto-3g", driver="gradient", bsse="vmfc", max_nbody=2, n=3
    ),
    "rohf": document("pyscf", "rohf", "sto-3g", max_nbody=2, n=2),
    "mp2": document("PySCF", "mp2", "sto-3g", driver="gradient", max_nbody=2, n=2),
    "dft": document("pyscf", "pbe", "sto-3g", driver="gradient", max_nbody=1),
    "hessian": document("pyscf", "hf", "sto-3g", driver="hessian", bsse="cp", max_nbody=2, n=2),
    "gfn2": document("tblite", "GFN2-xTB"),
    "gfn1 gradient": document("TBLite", "gfn1", driver="gradient"),
    "gfn2 keywords": document(
        "tblite", "gfn2", driver="gradient", keywords={"accuracy": 0.01, "verbosity": 1}
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_through_qcengine_bit_by_bit(name: str) -> None:
    found, expected = (outcomes(CASES[name], is_native=is_native) for is_native in (True, False))
    assert [content(each) for each in found] == [content(each) for each in expected]
    assert all(each.failure is None and each.energy_hartree for each in found)
    assert all(each.record is None for each in found)
    assert all(each.record is not None for each in expected)


FAILURES: dict[str, tuple[dict[str, Any], ErrorClass]] = {
    "scf": (
        document("pyscf", "hf", "sto-3g", keywords={"max_cycle": 1}, max_nbody=1),
        ErrorClass.CONVERGENCE,
    ),
    "cc": (
        document("pyscf", "ccsd", "sto-3g", keywords={"cc_max_cycle": 1}, max_nbody=1, n=2),
        ErrorClass.CONVERGENCE,
    ),
    "scc": (
        document("tblite", "gfn2", keywords={"max_iterations": 2, "verbosity": 1}),
        ErrorClass.CONVERGENCE,
    ),
    "coarse grid": (
        document(
            "pyscf",
            "pbe",
            "sto-3g",
            driver="hessian",
            keywords={"grids_atom_grid": [5, 6]},
            max_nbody=1,
            n=2,
        ),
        ErrorClass.INPUT,
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_are_those_through_qcengine_word_by_word(name: str) -> None:
    text, error_class = FAILURES[name]
    found, expected = (outcomes(text, is_native=is_native) for is_native in (True, False))
    assert [content(each) for each in found] == [content(each) for each in expected]
    classes = {each.failure.error_class for each in found if each.failure is not None}
    assert classes == {error_class}


@pytest.mark.parametrize("error", [ZeroDivisionError("planned"), MemoryError(), SystemExit(3)])
def test_an_unexpected_error_is_the_same_failure(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(XtbCalculation, "run", fail)
    text = document("tblite", "gfn2", n=2, max_nbody=1)
    found, expected = (outcomes(text, is_native=each)[0].failure for each in (True, False))
    assert found is not None
    assert expected is not None
    for name in ("error_class", "error_type", "message"):
        assert getattr(found, name) == getattr(expected, name)


@pytest.mark.parametrize(
    ("program", "method", "basis", "keywords"),
    [
        ("pyscf", "hf", "sto-3g", {"max_cycle": 2}),
        ("tblite", "gfn2", None, {"max_iterations": 3}),
    ],
)
def test_remedies_are_the_same(
    program: str, method: str, basis: str | None, keywords: dict[str, Any]
) -> None:
    text = document(program, method, basis, keywords=keywords, n=2, max_nbody=1)
    found, expected = (outcomes(text, is_native=e, is_remedied=True) for e in (True, False))
    assert [content(each) for each in found] == [content(each) for each in expected]
    assert any(each.remedy or each.failure for each in found)


def test_what_is_no_number_is_garbage_on_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    original = XtbCalculation.run

    def spoilt(self: XtbCalculation, atoms: Atoms) -> Any:
        numbers = original(self, atoms)
        assert numbers.gradient is not None
        numbers.gradient[0, 0] = np.nan
        return numbers

    monkeypatch.setattr(XtbCalculation, "run", spoilt)
    text = document("tblite", "gfn2", driver="gradient", n=2, max_nbody=1)
    found, expected = (outcomes(text, is_native=each)[0] for each in (True, False))
    assert content(found) == content(expected)
    assert found.failure is not None
    assert found.failure.error_class is ErrorClass.GARBAGE


# ---- which way ---------------------------------------------------------------------------------


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the QCSchema objects that are made."""
    names: list[str] = []
    for model in (AtomicInput, AtomicResult, Molecule):
        original = model.__init__

        def init(self: Any, *args: Any, _original: Any = original, **kwargs: Any) -> None:
            names.append(type(self).__name__)
            _original(self, *args, **kwargs)

        monkeypatch.setattr(model, "__init__", init)
    return names


def ways(made: list[str], text: dict[str, Any]) -> set[str]:
    loaded = schema.load_input(text)
    engine = QCEngineRecipe(loaded.expansion).build(RESOURCES)
    made.clear()
    assert engine.compute(0).failure is None
    return set(made)


def test_no_qcschema_object_is_made(made: list[str]) -> None:
    assert ways(made, document("tblite", "gfn2")) == set()
    assert ways(made, document("pyscf", "hf", "sto-3g")) == set()


def test_charges_of_an_environment_are_never_left_out() -> None:
    loaded = schema.load_input(document("tblite", "gfn2"))
    charges = tuple((0.1,) * len(fragment) for fragment in FRAGMENTS)
    system = replace(loaded.expansion.system, embedding_charges=charges)
    space = TaskSpace(replace(loaded.expansion, system=system))
    failure = QCEngine(space, AtomicRunner(RESOURCES)).compute(0).failure
    assert failure is not None
    assert "no keyword 'function_kwargs'" in failure.message


class Theirs(TBLiteHarness):
    """A harness of the user's own, made from ours."""


@pytest.fixture
def _theirs() -> Iterator[None]:
    ours = programs["tblite"]
    qcengine.unregister_program("tblite")
    qcengine.register_program(Theirs())
    yield
    qcengine.unregister_program("tblite")
    qcengine.register_program(ours)


@pytest.mark.usefixtures("_theirs")
def test_a_harness_of_the_users_own_is_called_by_qcengine(made: list[str]) -> None:
    assert native_harness("tblite") is None
    assert ways(made, document("tblite", "gfn2")) >= {"AtomicInput", "AtomicResult"}


def test_a_configuration_in_the_input_is_for_qcengine(made: list[str]) -> None:
    text = document("tblite", "gfn2")
    specification = text["specification"]["specification"]["(auto)"]
    specification["extras"] = {"_qcengine_local_config": {"ncores": 1}}
    assert ways(made, text) >= {"AtomicInput", "AtomicResult"}


# ---- parts -------------------------------------------------------------------------------------


def test_atoms_are_those_of_the_molecule() -> None:
    loaded = schema.load_input(document("pyscf", "hf", "sto-3g", bsse="vmfc"))
    space = TaskSpace(loaded.expansion)
    clusters = space.clusters(np.arange(space.n_tasks))
    slicer = Slicer(loaded.expansion.system)
    pairs = list(zip(clusters.real, clusters.basis, strict=True))
    for found, (real, basis) in zip(slicer.atoms(pairs), pairs, strict=True):
        expected = Atoms.of(slicer.molecule(real, basis))
        for name in ("numbers", "symbols", "is_real"):
            assert np.array_equal(getattr(found, name), getattr(expected, name))
        assert found.positions_bohr.tobytes() == expected.positions_bohr.tobytes()
        assert (found.charge, found.multiplicity) == (expected.charge, expected.multiplicity)
        assert found.name() == expected.name()


def test_tasks_that_were_prepared_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    original = TaskSpace.clusters

    def clusters(self: TaskSpace, ids: Any) -> Any:
        asked.append(np.asarray(ids).tolist())
        return original(self, ids)

    monkeypatch.setattr(TaskSpace, "clusters", clusters)
    monkeypatch.setattr(engine_module, "_PORTION", 3)
    loaded = schema.load_input(document("tblite", "gfn2"))
    engine = QCEngineRecipe(loaded.expansion).build(RESOURCES)
    engine.prepare(np.array([5, 3, 4, 6, 2]))
    order = [5, 3, 4, 0, 4, 6, 2]
    assert [engine.compute(task).task for task in order] == order
    assert asked == [[5, 3, 4], [0], [6, 2]]


def test_what_all_tasks_share_is_found_before_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = TBLiteHarness.calculation

    def calculation(self: Any, *arguments: Any) -> Any:
        made.append(arguments)
        return original(self, *arguments)

    monkeypatch.setattr(TBLiteHarness, "calculation", calculation)
    engine = QCEngineRecipe(schema.load_input(document("tblite", "gfn2")).expansion).build(
        RESOURCES
    )
    assert len(made) == 1
    assert engine.compute(0).failure is None
    assert len(made) == 1


def test_a_rehearsal_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = schema.load_input(document("tblite", "gfn2"))
    plain, rehearsed = (QCEngineRecipe(loaded.expansion).build(RESOURCES) for _ in "ab")
    n_atoms = []
    original = XtbCalculation.run

    def run(self: XtbCalculation, atoms: Atoms) -> Any:
        n_atoms.append(len(atoms.numbers))
        return original(self, atoms)

    with monkeypatch.context() as patch:
        patch.setattr(XtbCalculation, "run", run)
        rehearsed.rehearse()
    assert n_atoms == [2]
    for task in range(8):
        assert rehearsed.compute(task).energy_hartree == plain.compute(task).energy_hartree


@pytest.mark.parametrize(
    ("module", "name", "method", "basis", "library"),
    [
        ("tblite_run", "XtbCalculation", "gfn2", None, "tblite.library"),
        ("pyscf_calculation", "PySCFCalculation", "hf", "sto-3g", "pyscf.lib"),
    ],
)
def test_the_first_calculation_of_a_process_is_limited_as_well(
    module: str, name: str, method: str, basis: str | None, library: str
) -> None:
    code = f"""
import sys
from types import SimpleNamespace
import numpy as np
from qcmb_mpi.programs import {module} as module
from qcmb_mpi.programs.native import Atoms, Means
limited, calls = module.limited_threads, []
def limited_threads(*arguments, **options):
    calls.append({library!r} in sys.modules)
    return limited(*arguments, **options)
module.limited_threads = limited_threads
model = SimpleNamespace(method={method!r}, basis={basis!r})
asked = SimpleNamespace(driver=SimpleNamespace(value="energy"), model=model, keywords={{}})
he = Atoms(np.array([2]), np.array(["He"]), np.zeros((1, 3)), np.array([True]), 0.0, 1, str)
assert {library!r} not in sys.modules
module.{name}(asked, Means()).run(he)
print(calls)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[True]\n", "")


@pytest.mark.parametrize("is_known", [True, False])
def test_threads_of_a_slot_are_set_for_good(is_known: bool) -> None:
    import tblite.library  # noqa: F401  brings OpenMP; BLAS may have been built for one thread

    threads._controller.cache_clear()  # other tests have loaded more since
    with threadpool_limits(1):
        for n_threads in (2, 1):
            set_threads(n_threads, is_known=is_known)
            libraries = ThreadpoolController().select(user_api="openmp").lib_controllers
            assert {each.get_num_threads() for each in libraries} == {n_threads}


def test_threads_that_are_right_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("set although they are right")

    with threadpool_limits(1):
        monkeypatch.setattr(ThreadpoolController, "limit", refuse)
        with limited_threads(1):
            pass
        with pytest.raises(AssertionError):
            limited_threads(2)


class Asked:
    """A specification."""

    def __init__(self, method: str, **keywords: Any) -> None:
        self.driver = type("Driver", (), {"value": "gradient"})
        self.model = type("Model", (), {"method": method, "basis": None})
        self.keywords = keywords


def bits(calculation: XtbCalculation, atoms: Atoms) -> bytes:
    numbers = calculation.run(atoms)
    assert numbers.gradient is not None
    return np.float64(numbers.energy).tobytes() + numbers.gradient.tobytes()


def waters(n: int, rng: np.random.Generator, charge: float, multiplicity: int) -> Atoms:
    water = np.array([[0.0, 0.0, 0.0], [0.0, 0.1, 1.8], [1.7, 0.0, -0.5]])
    positions = np.vstack([water + np.array([6.0 * i, 0.0, 0.0]) for i in range(n)])
    numbers, symbols = np.array([8, 1, 1] * n), np.array(["O", "H", "H"] * n)
    positions += rng.normal(scale=0.1, size=positions.shape)
    is_real = np.ones(3 * n, dtype=bool)
    return Atoms(numbers, symbols, positions, is_real, charge, multiplicity, str)


@pytest.mark.parametrize("method", ["gfn1", "gfn2"])
@pytest.mark.parametrize(("charge", "multiplicity"), [(0.0, 1), (1.0, 2), (-1.0, 2), (0.0, 3)])
def test_an_object_with_other_positions_gives_the_bits_of_a_new_one(
    method: str, charge: float, multiplicity: int
) -> None:
    rng = np.random.default_rng(5)
    kept = XtbCalculation(Asked(method, max_iterations=1000), Means())
    for n in (1, 2, 1, 3, 2, 1):
        atoms = waters(n, rng, charge, multiplicity)
        expected = bits(XtbCalculation(Asked(method, max_iterations=1000), Means()), atoms)
        assert bits(kept, atoms) == expected


def test_energies_are_tblites_own_and_positions_are_of_all_atoms() -> None:
    rng = np.random.default_rng(5)
    kept = XtbCalculation(Asked("gfn2"), Means())
    for _ in range(3):
        atoms = waters(2, rng, 0.0, 1)
        calculator = Calculator("GFN2-xTB", atoms.numbers, atoms.positions_bohr, color=False)
        calculator.set("verbosity", 0)
        # Neither in this order in memory, nor of this kind.
        turned = atoms._replace(positions_bohr=np.asfortranarray(atoms.positions_bohr))
        expected = float(calculator.singlepoint().get("energy"))
        assert kept.run(atoms).energy == kept.run(turned).energy == expected
    with pytest.raises(TBLiteValueError):
        kept.run(atoms._replace(positions_bohr=np.zeros((5, 3))))


def test_an_energy_that_is_not_there_is_an_error() -> None:
    calculator = Calculator("GFN2-xTB", np.array([2]), np.zeros((1, 3)))
    with pytest.raises(TBLiteRuntimeError, match="energy"):
        tblite_run._Kept(calculator).energy(Result())


def schedules() -> list[tuple[int, int]]:
    """Return kind and chunk of the loops whose schedule is chosen when they run."""
    found = []
    for library in ThreadpoolController().select(user_api="openmp").lib_controllers:
        kind, chunk = ctypes.c_int(), ctypes.c_int()
        library.dynlib.omp_get_schedule(ctypes.byref(kind), ctypes.byref(chunk))
        found.append((kind.value & 0x7FFFFFFF, chunk.value))  # without omp_sched_monotonic
    return found


def test_one_thread_takes_loops_whole_and_the_bits_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_SCHEDULE", raising=False)
    atoms = waters(3, np.random.default_rng(5), 0.0, 1)
    kept = XtbCalculation(Asked("gfn2"), Means())
    with threadpool_limits(1):
        set_threads(2)
        before = schedules()
        assert before
    with threadpool_limits(1):
        expected = bits(kept, atoms)
        set_threads(1)
        assert {kind for kind, _ in schedules()} == {1}
        assert bits(kept, atoms) == expected
        set_threads(2)
        assert schedules() == before
        monkeypatch.setenv("OMP_SCHEDULE", "guided")
        set_threads(1)
        assert schedules() == before


def test_an_object_is_for_one_charge_and_spin_and_no_ghosts() -> None:
    rng = np.random.default_rng(5)
    kept = XtbCalculation(Asked("gfn2", max_iterations=1000), Means())
    for charge, multiplicity in ((0.0, 1), (0.0, 3), (1.0, 2), (-1.0, 2), (0.0, 1)):
        atoms = waters(1, rng, charge, multiplicity)
        expected = bits(XtbCalculation(Asked("gfn2", max_iterations=1000), Means()), atoms)
        assert bits(kept, atoms) == expected
    with pytest.raises(CalculationFailed, match="no ghost atoms"):
        kept.run(atoms._replace(is_real=np.array([True, True, False])))


def test_after_an_error_an_object_is_not_used_again() -> None:
    rng = np.random.default_rng(5)
    good, other = waters(2, rng, 0.0, 1), waters(2, rng, 0.0, 1)
    bad = good._replace(positions_bohr=np.zeros((6, 3)))
    kept = XtbCalculation(Asked("gfn2"), Means())
    expected = bits(XtbCalculation(Asked("gfn2"), Means()), other)
    assert bits(kept, good)
    with pytest.raises(Exception, match="tblite"):
        kept.run(bad)
    assert bits(kept, other) == expected


def test_threads_of_one_process_do_not_share_an_object() -> None:
    rng = np.random.default_rng(5)
    kept = XtbCalculation(Asked("gfn2"), Means())
    clusters = [waters(2, rng, 0.0, 1) for _ in range(40)]
    expected = [bits(kept, atoms) for atoms in clusters]
    barrier = threading.Barrier(4)
    with ThreadPoolExecutor(4, initializer=lambda: barrier.wait(60) and None) as pool:
        assert list(pool.map(lambda atoms: bits(kept, atoms), clusters)) == expected

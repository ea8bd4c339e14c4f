"""Slots that never import QCEngine: the same numbers, the same words, or the other way."""

from __future__ import annotations

import argparse
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from qcengine.config import get_config
from qcengine.programs.base import programs

from qcmb_mpi import schema
from qcmb_mpi.errors import QcmbError
from qcmb_mpi.execution.engine import QCEngineRecipe, SlotResources
from qcmb_mpi.execution.forkserver import PRELOAD, PRELOAD_LAST, PRELOAD_NATIVE
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.programs import bare, native_harness
from qcmb_mpi.programs.harness import means_of, qcengine_error
from qcmb_mpi.programs.native import CalculationFailed
from qcmb_mpi.programs.remedies import is_harness_known
from qcmb_mpi.warming import modules_for
from tests.edge.test_native import CASES, FAILURES, RESOURCES, content, document, outcomes

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ASKED = {"driver": "energy", "model": {"method": "hf", "basis": "sto-3g"}, "keywords": {}}
TASK_CONFIG = RESOURCES.task_config

COMPUTED = {
    **{name: CASES[name] for name in ("hf cp", "mp2", "gfn1 gradient", "gfn2 keywords")},
    **{name: FAILURES[name][0] for name in ("scf", "scc", "coarse grid")},
}
REFUSED = {
    "method": document("pyscf", "hff", "sto-3g"),
    "basis": document("pyscf", "hf", "sto-3gg"),
    "keyword": document("tblite", "gfn2", keywords={"acuracy": 1.0}),
    "driver": document("tblite", "gfn2", driver="hessian"),
    "ghosts": document("tblite", "gfn2", bsse="cp"),
}

# What a slot does, in a process that is our own.
_SLOT = """
import pickle, sys
from qcmb_mpi.errors import QcmbError
from qcmb_mpi.execution.engine import SlotResources
def computed(recipe, n_tasks):
    try:
        engine = recipe.build(SlotResources(memory_bytes=2**30))
    except QcmbError as error:
        return str(error)
    engine.prepare(range(0, n_tasks, 2))
    return [engine.compute(task) for task in range(n_tasks)]
found = [computed(*each) for each in pickle.load(sys.stdin.buffer)]
strangers = {"qcengine", "qcelemental", "pydantic"} & set(sys.modules)
with open(sys.argv[1], "wb") as file:
    pickle.dump((found, strangers), file)
# as by qcmb-mpi"""


def in_a_bare_slot(texts: list[dict[str, Any]], file: Path) -> tuple[list[Any], set[str]]:
    """Compute in a process that has imported nothing; return what it has imported as well."""
    recipes = []
    for text in texts:
        expansion = schema.load_input(text).expansion
        recipes.append((QCEngineRecipe(expansion), TaskSpace(expansion).n_tasks))
    subprocess.run([sys.executable, "-c", _SLOT, file], input=pickle.dumps(recipes), check=True)
    found: tuple[list[Any], set[str]] = pickle.loads(file.read_bytes())
    return found


def refusal(text: dict[str, Any]) -> str:
    """Return what the way through QCEngine says."""
    with pytest.raises(QcmbError) as caught:
        outcomes(text, is_native=False)
    return str(caught.value)


@pytest.mark.qc
def test_numbers_and_words_are_those_through_qcengine(tmp_path: Path) -> None:
    texts = [*COMPUTED.values(), *REFUSED.values()]
    found, strangers = in_a_bare_slot(texts, tmp_path / "found")
    assert strangers == set()
    for name, mine in zip(COMPUTED, found, strict=False):
        expected = outcomes(COMPUTED[name], is_native=False)
        assert [content(each) for each in mine] == [content(each) for each in expected], name
    assert found[len(COMPUTED) :] == [refusal(text) for text in REFUSED.values()]


@pytest.fixture
def _not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "qcengine")


@pytest.mark.usefixtures("_not_imported")
@pytest.mark.parametrize("program", ["PySCF", "tblite"])
def test_our_programs_need_no_qcengine(program: str) -> None:
    found = bare.bare_request(program, ASKED, TASK_CONFIG)
    assert found is not None
    assert found.specification.model.method == "hf"


def test_once_qcengine_is_there_its_registry_is_asked() -> None:
    assert native_harness("pyscf") is not None
    assert bare.bare_request("pyscf", ASKED, TASK_CONFIG) is None


@pytest.mark.usefixtures("_not_imported")
@pytest.mark.parametrize(
    "change",
    [
        {"extras": {"a": 1}},
        {"driver": "properties"},
        {"keywords": None},
        {"model": {"method": "hf", "basis": {"name": "theirs"}}},
        {"model": {"method": "hf", "other": 1}},
        {"something": 1},
    ],
)
def test_what_qcschema_may_change_is_for_qcschema(change: dict[str, Any]) -> None:
    assert bare.bare_request("pyscf", {**ASKED, **change}, TASK_CONFIG) is None


@pytest.mark.usefixtures("_not_imported")
@pytest.mark.parametrize("name", ["psi4", "nowhere"])
def test_other_programs_are_qcengines(name: str) -> None:
    assert bare.bare_request(name, ASKED, TASK_CONFIG) is None


@pytest.mark.usefixtures("_not_imported")
def test_a_qcengine_that_is_not_known_may_have_programs_of_these_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bare, "installed_version", lambda _package: "0.99.0")
    assert bare.bare_request("pyscf", ASKED, TASK_CONFIG) is None


@pytest.mark.usefixtures("_not_imported")
def test_a_program_that_is_missing_is_told_of_by_its_harness(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bare, "find_spec", lambda _name: None)
    assert bare.bare_request("pyscf", ASKED, TASK_CONFIG) is None


@pytest.mark.usefixtures("_not_imported")
def test_what_only_qcengine_can_give_is_asked_of_it() -> None:
    expansion = schema.load_input(CASES["gfn2"]).expansion
    assert QCEngineRecipe(expansion)._is_bare(RESOURCES)
    assert not QCEngineRecipe(expansion)._is_bare(SlotResources())  # memory is its to find
    for option in ({"imports": ("a",)}, {"wants_records": True}, {"is_remedied": True}):
        assert not QCEngineRecipe(expansion, **option)._is_bare(RESOURCES)


@pytest.mark.parametrize(
    "resources",
    [
        SlotResources(memory_bytes=2**30),
        SlotResources(n_threads=3, memory_bytes=123_456_789, scratch="/tmp"),
    ],
)
def test_means_are_those_of_qcengines_configuration(resources: SlotResources) -> None:
    config = resources.task_config
    assert bare._means(config) == means_of(get_config(task_config=config))


def test_means_that_a_user_may_have_set_are_qcengines_to_find(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for scratch in ("$SCRATCH/x", "~/x"):
        assert bare._means({**TASK_CONFIG, "scratch_directory": scratch}) is None
    with monkeypatch.context() as changed:
        changed.setenv("qcengine_scratch_messy", "1")
        assert bare._means(TASK_CONFIG) is None
    (tmp_path / ".qcarchive").mkdir()
    for home, file in (("HOME", ".qcarchive/qcengine.yaml"), ("DQM_CONFIG_PATH", "qcengine.yaml")):
        with monkeypatch.context() as changed:
            changed.setenv(home, str(tmp_path))
            assert bare._means(TASK_CONFIG) is not None
            (tmp_path / file).touch()
            assert bare._means(TASK_CONFIG) is None
    monkeypatch.chdir(tmp_path)
    assert bare._means(TASK_CONFIG) is None


def test_ours_are_known_before_they_are_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tblite", "mopac"):
        monkeypatch.delitem(programs, name)
    assert is_harness_known("tblite")
    assert not is_harness_known("mopac")


@pytest.mark.parametrize("kind", ["input_error", "convergence_error", "unknown_error"])
def test_errors_are_told_as_qcengine_tells_them(kind: str) -> None:
    error = CalculationFailed(kind, "no such thing")
    assert error.told == qcengine_error(error).error_message


def arguments(source: Path, **options: Any) -> argparse.Namespace:
    """Return what the command line says, as far as it matters."""
    plain = {"program": None, "imports": [], "remedies": False}
    return argparse.Namespace(input=str(source), **{**plain, **options})


def test_a_server_of_native_slots_is_not_told_of_qcengine(tmp_path: Path) -> None:
    hexamer = EXAMPLES / "water-hexamer.yaml"
    modules = modules_for(arguments(hexamer))
    assert modules[:1] == PRELOAD_NATIVE
    assert modules[-1:] == PRELOAD_LAST
    assert "pyscf.scf" in modules
    for option in ({"imports": ["a"]}, {"remedies": True}, {"program": "psi4"}):
        assert modules_for(arguments(hexamer, **option))[:1] == PRELOAD
    text = hexamer.read_text()
    for ending, expected in (
        ('extras: {}\n"extras": { },', PRELOAD_NATIVE),
        ("extras: {a: 1}", PRELOAD),
        ("extras:\n  a: 1", PRELOAD),
        ("protocols: {cluster_results: none}", PRELOAD_NATIVE),
        ('"cluster_results": "all"', PRELOAD),
    ):
        (tmp_path / "in").write_text(text + ending)
        assert modules_for(arguments(tmp_path / "in"))[:1] == expected
    assert modules_for(arguments(tmp_path / "none"))[:1] == PRELOAD
    assert modules_for(arguments(tmp_path / "none", program="tblite"))[:1] == PRELOAD_NATIVE

"""The drop-in Python interface: same call, same result as QCManyBody's, from any pool."""

from __future__ import annotations

import concurrent.futures
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qcengine
from qcmanybody import ManyBodyCore
from qcmanybody.models.v1 import ManyBodyInput as ManyBodyInputV1
from qcmanybody.models.v1 import ManyBodyResult as ManyBodyResultV1
from qcmanybody.models.v2 import ManyBodyInput, ManyBodyResult
from qcmanybody.v2 import ManyBodyComputer

from qcmb_mpi import (
    ExecutorConfig,
    FuturesExecutor,
    InputError,
    Interrupted,
    MultiprocessingExecutor,
    ParallelManyBodyComputer,
    ParallelMode,
    SequentialExecutor,
    TasksFailed,
    ThreadExecutor,
    iterate_molecules_by_level,
    prepare_parallel_tasks,
)
from qcmb_mpi.driver import RunEnd
from qcmb_mpi.expansion.graph import parse_label
from qcmb_mpi.store import Store
from qcmb_mpi.warm import cool
from tests.edge.agent_cases import slots_of
from tests.edge.task_cases import IMPORTS, energies, many_body_input
from tests.flaky import FlakyHarness

compute = ParallelManyBodyComputer.from_manybodyinput
N_TASKS = 28


@pytest.fixture
def own_pool() -> Iterator[None]:
    """End the pool that QCEngine's procedure keeps warm."""
    yield
    assert _slot_pids()
    cool()
    assert not _slot_pids()


def stock(inp: dict[str, Any]) -> Any:
    """Return what sequential QCManyBody gives; importing the flaky program registers it."""
    assert FlakyHarness().found()
    return ManyBodyComputer.from_manybodyinput(ManyBodyInput(**inp))


def assert_equal(result: Any, expected: Any) -> None:
    """Assert that two results have the same numbers."""
    found, wanted = result.properties.model_dump(), expected.properties.model_dump()
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if isinstance(value, str) or value is None:
            continue
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(result.return_result, expected.return_result, rtol=0, atol=1e-12)


@pytest.mark.parametrize("driver", ["energy", "gradient"])
@pytest.mark.parametrize("n_workers", [None, 1, 2])
def test_parallel_is_what_qcmanybody_gives(driver: str, n_workers: int | None) -> None:
    inp = many_body_input(driver=driver)
    result = compute(inp, parallel=n_workers is not None, n_workers=n_workers, imports=IMPORTS)
    assert isinstance(result, ManyBodyResult)
    assert result.success
    assert_equal(result, stock(inp))


@pytest.mark.parametrize("version", [1, 2])
def test_a_script_of_qcmanybody_changes_one_import(version: int) -> None:
    document = many_body_input(3)
    if version == 1:
        document |= {"schema_name": "qcschema_manybodyinput", "schema_version": 1}
    script = f"""
from qcmanybody.models.v{version} import ManyBodyInput
inp = ManyBodyInput(**document)
result = ManyBodyComputer.from_manybodyinput(inp)
tasks = ManyBodyComputer.from_manybodyinput(inp, build_tasks=False).qcmb_core.compute_map
"""
    assert FlakyHarness().found()
    package = "qcmanybody.v2" if version == 2 else "qcmanybody"
    theirs: dict[str, Any] = {"document": document}
    ours = dict(theirs)
    exec(f"from {package} import ManyBodyComputer\n{script}", theirs)
    with MultiprocessingExecutor(ExecutorConfig(n_workers=2, imports=IMPORTS)) as pool:
        exec(f"from qcmb_mpi import ManyBodyComputer\n{script}", ours)
        assert pool.learnt  # it was used
    assert type(ours["result"]) is type(theirs["result"])
    assert ours["tasks"] == theirs["tasks"]
    numbers = [each["result"].return_result for each in (ours, theirs)]
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-10)


def test_a_model_is_as_good_as_plain_data() -> None:
    inp = many_body_input()
    result = compute(ManyBodyInput(**inp), parallel=False, imports=IMPORTS)
    assert_equal(result, stock(inp))


@pytest.mark.parametrize(
    "mode", ["serial", "multiprocessing", "thread", ParallelMode.SERIAL, ParallelMode.THREAD]
)
def test_constructor_form(mode: ParallelMode | str) -> None:
    inp = many_body_input(3)
    computer = ParallelManyBodyComputer(
        input_data=inp,
        parallel_mode=mode,
        max_workers=2,
        parallel_config={"timeout_per_task": 60.0, "max_retries": 0, "imports": list(IMPORTS)},
    )
    assert_equal(computer.compute(), stock(inp))


@pytest.mark.parametrize("kind", [SequentialExecutor, ThreadExecutor, MultiprocessingExecutor])
def test_an_executor_of_ones_own_stays_warm(kind: type[Any]) -> None:
    inp = many_body_input(3)
    with kind(ExecutorConfig(n_workers=2, imports=IMPORTS)) as executor:
        transport = executor.transport
        for _ in range(2):
            assert_equal(compute(inp, executor=executor), stock(inp))
            assert executor.transport is transport


def test_any_futures_pool_will_do_and_is_left_alone() -> None:
    inp = many_body_input(3)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert_equal(compute(inp, executor=pool), stock(inp))
        over = FuturesExecutor(pool, ExecutorConfig(imports=IMPORTS))
        assert_equal(compute(inp, executor=over), stock(inp))
        assert pool.submit(abs, -1).result() == 1


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"parallel_mode": "gpu"}, "parallel_mode"),
        ({"parallel_mode": "MPI4"}, "parallel_mode"),
        ({"parallel_config": {"n_wrokers": 2}}, "parallel_config"),
        ({"max_workers": 0}, "n_workers"),
        ({"parallel_config": {"max_retries": -1}}, "max_retries"),
        ({"executor": 4}, "executor"),
        ({"executor": SequentialExecutor(), "max_workers": 2}, "executor"),
        ({"executor": SequentialExecutor(), "parallel_mode": "thread"}, "executor"),
    ],
)
def test_nonsense_is_refused_before_anything_starts(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=f"^{field}: "):
        ParallelManyBodyComputer(many_body_input(), **arguments)


@pytest.mark.parametrize("inp", [None, 3, "in.json", {}, {"molecule": {}}])
def test_no_input_is_refused(inp: Any) -> None:
    with pytest.raises(InputError):
        compute(inp, parallel=False)


def test_unknown_options_are_named() -> None:
    with pytest.raises(InputError, match=r"unknown field 'timeout'.*timeout_per_task"):
        compute(many_body_input(), timeout=3)


def test_tasks_that_failed_are_carried_by_the_error() -> None:
    with pytest.raises(TasksFailed, match="4 tasks failed for good") as caught:
        compute(
            many_body_input(bsse_type="nocp", faults={"3": "input"}), n_workers=2, imports=IMPORTS
        )
    failed = caught.value.failed
    assert [len(parse_label(row["label"])[1]) for row in failed] == [3] * 4
    assert {row["error_type"] for row in failed} == {"input_error"}
    assert {row["attempts"] for row in failed} == {1}
    assert all("does not like" in row["message"] for row in failed)
    assert str(failed[0]["label"]) in str(caught.value)


def test_a_run_that_was_stopped_is_interrupted() -> None:
    summary = {"n_tasks": 9, "n_computed": 3, "n_reused": 2, "failed": []}
    with pytest.raises(Interrupted, match="4 tasks left; run again"):
        RunEnd("incomplete", None, summary).raise_if_unfinished()
    with pytest.raises(Interrupted, match="nothing was kept: with checkpoint_file"):
        RunEnd("incomplete", None, summary, is_kept=False).raise_if_unfinished()
    RunEnd("complete", "the result", summary).raise_if_unfinished()


@pytest.mark.parametrize("field", ["checkpoint_file", "cache_dir"])
def test_a_store_is_kept_and_reused(tmp_path: Path, field: str) -> None:
    path = tmp_path / "mine.sqlite" if field == "checkpoint_file" else tmp_path
    keeping: dict[str, Any] = {field: path, "imports": IMPORTS, "parallel": False}
    first = compute(many_body_input(), **keeping)
    assert reused_and_kept(tmp_path) == (0, N_TASKS)
    assert_equal(compute(many_body_input(), **keeping), first)
    assert reused_and_kept(tmp_path) == (N_TASKS, N_TASKS)
    compute(many_body_input(shift_bohr=0.1), **keeping)
    assert reused_and_kept(tmp_path) == (0, 2 * N_TASKS)


def reused_and_kept(folder: Path) -> tuple[int, int]:
    """Return what the last run reused and how many results are in the only store there."""
    [path] = folder.glob("*.sqlite")
    with Store.open(path, is_read_only=True) as store:
        return store.meta("n_reused"), sum(count.n_done for count in store.counts())


def test_a_run_with_failures_keeps_the_others_for_the_next(tmp_path: Path) -> None:
    inp = many_body_input(faults={"3": "random"}, once=str(tmp_path / "mark"))
    keeping: dict[str, Any] = {"cache_dir": tmp_path, "imports": IMPORTS, "parallel": False}
    with pytest.raises(TasksFailed, match="failed for good"):
        compute(inp, max_retries=0, **keeping)
    assert reused_and_kept(tmp_path) == (0, N_TASKS - 1)
    assert_equal(compute(inp, max_retries=0, **keeping), stock(inp))
    assert reused_and_kept(tmp_path) == (N_TASKS - 1, N_TASKS)


def test_one_warm_pool_serves_many_geometries() -> None:
    """As an optimisation does; systems of other sizes between do not harm."""
    pids = []
    with MultiprocessingExecutor(ExecutorConfig(n_workers=2, imports=IMPORTS)) as executor:
        for n, shift_bohr in ((4, 0.0), (4, 0.1), (2, 0.0), (5, 0.0), (4, 0.2)):
            inp = many_body_input(n, shift_bohr=shift_bohr) if n > 2 else _dimer()
            assert_equal(compute(inp, executor=executor), stock(inp))
            pids.append(_slot_pids())
    assert len(pids[0]) == 2
    assert pids == pids[:1] * 5
    assert _slot_pids() & pids[0] == set()


def _dimer() -> dict[str, Any]:
    inp = many_body_input(2)
    inp["specification"]["keywords"]["max_nbody"] = 2
    return inp


def _slot_pids() -> set[int]:
    return {slot.pid for slot in slots_of(os.getpid())}


@pytest.mark.usefixtures("own_pool")
def test_qcengine_runs_it_as_a_procedure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCENGINE_NCORES", "1")  # of all of ours, and of each of stock's tasks
    inp = ManyBodyInput(**many_body_input(3, program="pyscf"))
    result = qcengine.compute(inp, "qcmb_mpi", raise_error=True)
    slots = _slot_pids()
    assert len(slots) == 1
    assert isinstance(result, ManyBodyResult)
    assert_equal(result, stock(json.loads(inp.model_dump_json())))
    assert_equal(qcengine.compute(inp, "qcmb_mpi"), result)
    assert _slot_pids() == slots


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"program": "nosuch"}, "input_error", "QCEngine has no program 'nosuch'"),
        ({"program": "pyscf", "max_cycle": 1, "conv_tol": 1e-14}, "unknown_error", "for good"),
    ],
)
def test_qcengine_is_told_what_went_wrong(changes: dict[str, Any], kind: str, words: str) -> None:
    with SequentialExecutor():
        result = qcengine.compute(ManyBodyInput(**many_body_input(3, **changes)), "qcmb_mpi")
    assert not result.success
    assert result.error.error_type == kind
    assert words in result.error.error_message


def test_version_1_in_gives_version_1_out() -> None:
    document = many_body_input(3)
    document |= {"schema_name": "qcschema_manybodyinput", "schema_version": 1}
    for inp in (document, ManyBodyInputV1(**document)):
        result = compute(inp, parallel=False, imports=IMPORTS)
        assert isinstance(result, ManyBodyResultV1)
        assert_equal(result.convert_v(2), stock(many_body_input(3)))


def core() -> ManyBodyCore:
    """Return stock's core of an input."""
    inp = many_body_input(bsse_type=["cp", "nocp"])
    return ManyBodyComputer.from_manybodyinput(ManyBodyInput(**inp), build_tasks=False).qcmb_core


def test_molecules_come_lowest_level_first_and_all() -> None:
    rows = list(iterate_molecules_by_level(core()))
    levels = [level for level, *_ in rows]
    assert levels == sorted(levels)
    expected = {(chemistry, label) for chemistry, label, _ in core().iterate_molecules()}
    assert {(chemistry, label) for _, chemistry, label, _ in rows} == expected
    for level, _, label, molecule in rows:
        assert level == len(parse_label(label)[1]) == int(np.sum(molecule.real))


def test_explicit_tasks_of_a_core_are_the_expansion() -> None:
    made = core()
    specification = {"program": "flaky", "driver": "energy", "model": {"method": "any"}}
    specifications = {"(auto)": {"program": "flaky", "specification": specification}}
    tasks = prepare_parallel_tasks(made, specifications)
    with ThreadExecutor(ExecutorConfig(n_workers=2, imports=IMPORTS)) as executor:
        results = executor.execute(tasks)
    values = zip(tasks, energies(results), strict=True)
    analysis = made.analyze({task.task_id: {"energy": energy} for task, energy in values})
    expected = stock(many_body_input(bsse_type=["cp", "nocp"]))
    assert analysis["ret_energy"] == expected.return_result

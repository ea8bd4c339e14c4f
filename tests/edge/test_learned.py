"""What is learnt is kept in the store; what can never fit is refused; peaks are of one task."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qcmb_mpi import (
    AdaptiveParallelConfig,
    ExecutorConfig,
    InputError,
    MethodAwareConfig,
    SequentialExecutor,
    schema,
)
from qcmb_mpi import forecast as forecast_module
from qcmb_mpi.driver import RunEnd, RunOptions, run_expansion
from qcmb_mpi.execution.stop import Stop
from qcmb_mpi.execution.wire import AgentInfo
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.forecast import Prospect, forecast
from qcmb_mpi.learned import in_words, keep, on_threads
from qcmb_mpi.machine.processor import processor_name
from qcmb_mpi.plan import format_plan, make_plan
from qcmb_mpi.scheduling.cost import CostModel
from qcmb_mpi.scheduling.messages import TaskClass
from qcmb_mpi.sizing import (
    _Sizer,
    check_memory,
    family_name,
    method_of,
    n_among,
    sized_classes,
)
from qcmb_mpi.store import Store
from tests.edge.task_cases import IMPORTS, many_body_input

CONFIG = ExecutorConfig(imports=IMPORTS, n_threads=1)
NOTHING_DONE = np.empty(0, dtype=np.int64)
WATER = [[0.0, 0.0, 0.0], [0.0, 1.5, 1.1], [0.0, -1.5, 1.1]]


def run(folder: Path, **changes: Any) -> RunEnd:
    loaded = schema.load_input(many_body_input(**changes))
    with SequentialExecutor(CONFIG) as executor:
        return run_expansion(loaded, executor, RunOptions(store=folder / "a.sqlite"), stop=Stop())


def waters(
    n: int, method: str, driver: str, basis: str = "6-31g", **keywords: Any
) -> dict[str, Any]:
    rows = [[x + 6.0 * i, y, z] for i in range(n) for x, y, z in WATER]
    model = {"method": method, "basis": basis}
    atomic = {"program": "pyscf", "driver": driver, "model": model, "keywords": keywords}
    return {
        "molecule": {
            "symbols": ["O", "H", "H"] * n,
            "geometry": [x for row in rows for x in row],
            "fragments": [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(n)],
            "fragment_charges": [0.0] * n,
            "fragment_multiplicities": [1] * n,
            "molecular_charge": 0.0,
            "molecular_multiplicity": 1,
        },
        "specification": {
            "driver": driver,
            "keywords": {"bsse_type": ["nocp"], "max_nbody": n},
            "specification": {"(auto)": atomic},
        },
    }


def test_a_run_leaves_what_it_learnt_and_the_next_one_predicts_by_it(tmp_path: Path) -> None:
    first = run(tmp_path, shift_bohr=0.0)
    assert first.status == "complete"
    with Store.open(tmp_path / "a.sqlite", is_read_only=True) as store:
        (name,) = store.meta("calibration")["families"]
    assert method_of(name) == ("flaky", "hf")
    again = run(tmp_path, shift_bohr=0.1)
    assert again.summary["n_computed"] == first.summary["n_computed"]
    before, after = (end.summary["prediction"] for end in (first, again))
    assert after["predicted_s"] != before["predicted_s"]
    assert after["median_relative_error"] is not None
    with Store.open(tmp_path / "a.sqlite", is_read_only=True) as store:
        (known,) = store.meta("calibration")["families"].values()
    assert known["seconds"]["n"] == 2 * first.summary["n_computed"]


def test_a_plan_says_how_far_to_trust_it(tmp_path: Path) -> None:
    loaded = schema.load_input(many_body_input(shift_bohr=0.2))
    plan = make_plan(loaded, CONFIG)
    doubt = {"factor": 3.0, "n_tasks": 0, "n_unknown": 1, "is_same_threads": True}
    assert plan["uncertainty"] == doubt
    assert "within a factor of 3: never measured on such" in format_plan(plan)
    n_tasks = run(tmp_path).summary["n_computed"]
    plan = make_plan(loaded, CONFIG, store_path=tmp_path / "a.sqlite")
    assert plan["uncertainty"]["n_tasks"] == n_tasks
    assert plan["uncertainty"]["factor"] < 3
    assert f"calibrated by {n_tasks} tasks in the store" in format_plan(plan)


def test_a_plan_with_other_threads_leans_on_what_was_measured(tmp_path: Path) -> None:
    loaded = schema.load_input(many_body_input(shift_bohr=0.2))
    n_tasks = run(tmp_path).summary["n_computed"]
    config = ExecutorConfig(imports=IMPORTS, n_threads=2, n_workers=1)
    plans = [make_plan(loaded, each, store_path=tmp_path / "a.sqlite") for each in (CONFIG, config)]
    doubts = [plan["uncertainty"] for plan in plans]
    assert [doubt["n_tasks"] for doubt in doubts] == [n_tasks, n_tasks]
    assert [doubt["is_same_threads"] for doubt in doubts] == [True, False]
    assert doubts[0]["factor"] <= doubts[1]["factor"] <= 3
    assert "in the store, on other numbers of threads" in format_plan(plans[1])
    # Two cores are reserved for the one slot, from its first task to its last.
    assert plans[1]["core_seconds"] == pytest.approx(2 * plans[1]["wall_s"])


def test_seconds_measured_on_several_threads_are_planned_as_they_were(tmp_path: Path) -> None:
    loaded = schema.load_input(many_body_input())
    space, model = TaskSpace(loaded.expansion), CostModel(machine=processor_name())
    for each in on_threads(forecast(space), 2):
        model.observe(each.key, [10.0] * 20, prior_s=each.cost_s, family=each.family)
    with Store.open(tmp_path / "a.sqlite") as store:
        keep(store, model)
    config = ExecutorConfig(imports=IMPORTS, n_threads=2, n_workers=1)
    plan = make_plan(loaded, config, store_path=tmp_path / "a.sqlite")
    assert plan["wall_s"] == pytest.approx(10.0 * space.n_tasks, rel=0.05)
    assert plan["core_seconds"] == pytest.approx(2 * plan["wall_s"])


def test_a_plan_has_the_layout_that_a_configuration_makes_of_the_work() -> None:
    loaded = schema.load_input(many_body_input())
    by_method = MethodAwareConfig(imports=IMPORTS, methods={"hf": {"n_threads": 3}})
    assert make_plan(loaded, by_method)["layout"]["n_threads"] == 3
    bound = AdaptiveParallelConfig(imports=IMPORTS, max_workers=1, max_threads=1)
    layout = make_plan(loaded, bound)["layout"]
    assert (layout["n_slots"], layout["n_threads"]) == (1, 1)


def test_a_plan_of_what_is_done_already(tmp_path: Path) -> None:
    loaded = schema.load_input(many_body_input())
    run(tmp_path)
    plan = make_plan(loaded, CONFIG, store_path=tmp_path / "a.sqlite")
    assert plan["n_done"] == plan["n_tasks"]
    assert "every task is done" in format_plan(plan)
    fresh = make_plan(loaded, CONFIG, store_path=tmp_path / "a.sqlite", is_fresh=True)
    assert (fresh["n_done"], fresh["store"]) == (0, None)
    assert fresh["uncertainty"]["n_tasks"] == plan["n_tasks"]


@pytest.mark.parametrize(
    ("n_tasks", "n_unknown", "is_same_threads", "words"),
    [
        (0, 2, True, ": never measured on such a processor"),
        (1, 0, True, ", calibrated by 1 task in the store"),
        (9, 0, False, ", calibrated by 9 tasks in the store, on other numbers of threads"),
        (9, 1, True, ", calibrated by 9 tasks in the store; 1 model chemistry was never measured"),
        (9, 2, True, ", calibrated by 9 tasks in the store; 2 model chemistries were never"),
    ],
)
def test_doubt_in_words(n_tasks: int, n_unknown: int, is_same_threads: bool, words: str) -> None:
    doubt = {"factor": 1.4, "n_tasks": n_tasks, "n_unknown": n_unknown}
    text = in_words({**doubt, "is_same_threads": is_same_threads})
    assert text.startswith(f"within a factor of 1.4{words}")


def test_tasks_have_the_seconds_and_the_family_of_their_threads() -> None:
    narrow = TaskClass(0, range(4), 10.0, family="p/hf", parallel_fraction=0.9)
    wide = replace(narrow, ids=range(4, 5), cost_s=7.0, n_threads=4)
    one, two = (on_threads([narrow, wide], n) for n in (1, 2))
    assert one[0] == narrow
    assert (one[1].cost_s, one[1].family) == (7.0, "p/hf x 4")
    assert (two[0].cost_s, two[0].family) == (pytest.approx(5.5, rel=0.05), "p/hf x 2")
    assert two[1] == one[1]


def test_what_was_learnt_changes_neither_slots_nor_threads(tmp_path: Path) -> None:
    run(tmp_path)
    loaded = schema.load_input(many_body_input(shift_bohr=0.2))
    plans = [make_plan(loaded, CONFIG, store_path=store) for store in (None, tmp_path / "a.sqlite")]
    assert plans[0]["layout"] == plans[1]["layout"]


def test_families_are_named_by_what_any_molecule_shares() -> None:
    names = set()
    for n in (2, 3):
        expansion = schema.load_input(waters(n, "MP2", "energy")).expansion
        names.add(family_name(expansion.model_chemistries[0], "energy"))
    assert names == {"pyscf/mp2/6-31g/energy"}
    fitted = schema.load_input(waters(2, "MP2", "energy", density_fit=True)).expansion
    assert family_name(fitted.model_chemistries[0], "energy") not in names


def test_a_size_is_that_of_the_whole_cluster_with_its_ghosts() -> None:
    document = waters(2, "hf", "energy")
    document["molecule"] |= {"fragment_charges": [1.0, 0.0], "molecular_charge": 1.0}
    document["molecule"] |= {"fragment_multiplicities": [2, 1], "molecular_multiplicity": 2}
    document["specification"]["keywords"]["bsse_type"] = ["cp"]
    space = TaskSpace(schema.load_input(document).expansion)
    found = {}
    for each in sized_classes(space, slot_bytes=7):
        size = each.size
        assert (size.method, size.driver, size.given_bytes) == ("hf", "energy", 7)
        assert each.chemistry is space.expansion.model_chemistries[0]
        for label in space.labels(np.asarray(each.tasks.ids, dtype=np.int64)):
            counts = (size.n_basis_functions, size.n_atoms, size.n_ghost_atoms, size.n_electrons)
            found[label] = counts
    assert found == {
        '["(auto)", [1], [1, 2]]': (26, 3, 3, 9),
        '["(auto)", [2], [1, 2]]': (26, 3, 3, 10),
        '["(auto)", [1, 2], [1, 2]]': (26, 6, 0, 19),
    }


def test_sizes_are_found_once_for_costs_and_for_what_cannot_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    space, found = TaskSpace(schema.load_input(waters(4, "hf", "energy")).expansion), []
    size_of = _Sizer.size_of
    monkeypatch.setattr(_Sizer, "size_of", lambda *given: found.append(given) or size_of(*given))
    prospect = Prospect(space, CONFIG, done=NOTHING_DONE)
    prospect.check_memory([AgentInfo(0, "a", 4, 10**10, 10**10)])
    assert len(found) == len(prospect.classes) == 4


@pytest.mark.parametrize(("memory_bytes", "n_slots"), [(10**9, 1), (20 * 10**9, 4)])
def test_where_memory_is_short_fewer_tasks_are_told_of_more(
    monkeypatch: pytest.MonkeyPatch, memory_bytes: int, n_slots: int
) -> None:
    """MP2 with 144 functions: integrals that do not fit are computed anew, five times as long."""
    info = AgentInfo(0, "a", 4, memory_bytes, memory_bytes)
    monkeypatch.setattr(forecast_module, "host_share", lambda **_: SimpleNamespace(info=info))
    document = waters(6, "mp2", "energy", "cc-pvdz")
    document["specification"]["keywords"] = {"bsse_type": ["cp"], "max_nbody": 2}
    space = TaskSpace(schema.load_input(document).expansion)
    config = ExecutorConfig(memory_bytes=memory_bytes)
    prospect = Prospect(space, config, done=NOTHING_DONE)
    layout = prospect.on([info], CostModel()).layout
    assert layout.n_slots == n_slots
    largest_bytes = max(each.memory_bytes for each in prospect.classes)
    assert 0.7e9 < largest_bytes <= memory_bytes // n_slots


def test_ids_that_are_done_are_counted_whatever_their_form() -> None:
    rng = np.random.default_rng(5)
    done = np.sort(rng.choice(1000, 300, replace=False)).astype(np.int64)
    for ids in (
        range(100, 900),
        range(990, 10, -7),
        range(0),
        np.array([999], dtype=np.int32),
        np.sort(rng.choice(2000, 500, replace=False)).astype(np.int32),
    ):
        assert n_among(done, ids) == len(set(ids) & set(done.tolist()))
        assert n_among(done[:0], ids) == 0


def test_a_task_that_cannot_fit_is_named_before_the_run() -> None:
    space = TaskSpace(schema.load_input(waters(6, "ccsd(t)", "gradient", "cc-pvtz")).expansion)
    with pytest.raises(InputError, match="needs at least 200 GB") as caught:
        check_memory(space, 16 * 10**9, done=NOTHING_DONE)
    assert "[1, 2, 3, 4, 5, 6]" in str(caught.value)
    assert "16 GB" in str(caught.value)
    assert caught.value.exit_code == 2
    check_memory(space, 210 * 10**9, done=NOTHING_DONE)
    check_memory(space, 0, done=NOTHING_DONE)
    largest = np.arange(space.n_tasks, dtype=np.int64)[-10:]
    check_memory(space, 45 * 10**9, done=largest)


@pytest.mark.parametrize(
    ("method", "driver", "keywords"),
    [
        ("ccsd(t)", "gradient", {"frozen": "core"}),
        ("ccsd(t)", "energy", {}),
        ("ccsd(t)", "gradient", {}),
        ("hf", "energy", {}),
        ("b3lyp", "gradient", {}),
    ],
)
def test_what_is_not_certain_is_never_refused(
    method: str, driver: str, keywords: dict[str, Any]
) -> None:
    space = TaskSpace(schema.load_input(waters(6, method, driver, **keywords)).expansion)
    check_memory(space, 10**9, done=NOTHING_DONE)


def test_run_refuses_it_and_plan_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(waters(6, "ccsd(t)", "gradient", "cc-pvtz")))

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "qcmb_mpi", *words, "a.json", "--memory", "8GB"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )

    ended = command("run")
    assert ended.returncode == 2
    assert "needs at least 200 GB" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    planned = command("plan")
    assert planned.returncode == 0
    assert "this node would refuse it" in planned.stdout

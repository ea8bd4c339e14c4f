"""What is learnt is kept in the store; what can never fit is refused; peaks are of one task."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcmb_mpi import ExecutorConfig, InputError, SequentialExecutor, forecast, schema
from qcmb_mpi.driver import RunEnd, RunOptions, run_expansion
from qcmb_mpi.execution.stop import Stop
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.machine.peaks import PeakMemory
from qcmb_mpi.sizing import check_memory, family_name, method_of
from qcmb_mpi.store import Store
from tests.edge.task_cases import IMPORTS, many_body_input

CONFIG = ExecutorConfig(imports=IMPORTS, n_threads=1)
NOTHING_DONE = np.empty(0, dtype=np.int64)
WATER = [[0.0, 0.0, 0.0], [0.0, 1.5, 1.1], [0.0, -1.5, 1.1]]


def run(folder: Path, **changes: Any) -> RunEnd:
    loaded = schema.load_input(many_body_input(**changes))
    with SequentialExecutor(CONFIG) as executor:
        return run_expansion(loaded, executor, RunOptions(store=folder / "a.sqlite"), stop=Stop())


def waters(n: int, method: str, driver: str, **keywords: Any) -> dict[str, Any]:
    rows = [[x + 6.0 * i, y, z] for i in range(n) for x, y, z in WATER]
    model = {"method": method, "basis": "6-31g"}
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
    before, after = (end.summary["prediction"]["median_relative_error"] for end in (first, again))
    assert after < before
    with Store.open(tmp_path / "a.sqlite", is_read_only=True) as store:
        (known,) = store.meta("calibration")["families"].values()
    assert known["seconds"]["n"] == 2 * first.summary["n_computed"]


def test_a_plan_says_how_far_to_trust_it(tmp_path: Path) -> None:
    loaded = schema.load_input(many_body_input(shift_bohr=0.2))
    plan = forecast.make_plan(loaded, CONFIG)
    assert plan["uncertainty"] == {"factor": 3.0, "n_tasks": 0}
    assert "within a factor of 3: nothing measured yet" in forecast.format_plan(plan)
    n_tasks = run(tmp_path).summary["n_computed"]
    plan = forecast.make_plan(loaded, CONFIG, store_path=tmp_path / "a.sqlite")
    assert plan["uncertainty"]["n_tasks"] == n_tasks
    assert plan["uncertainty"]["factor"] < 3
    assert f"calibrated by {n_tasks} tasks in the store" in forecast.format_plan(plan)
    # Measured seconds hold for as many threads only.
    other = ExecutorConfig(imports=IMPORTS, n_threads=2)
    plan = forecast.make_plan(loaded, other, store_path=tmp_path / "a.sqlite")
    assert plan["uncertainty"]["n_tasks"] == 0


def test_what_was_learnt_changes_neither_slots_nor_threads(tmp_path: Path) -> None:
    run(tmp_path)
    loaded = schema.load_input(many_body_input(shift_bohr=0.2))
    plans = [
        forecast.make_plan(loaded, CONFIG, store_path=store)
        for store in (None, tmp_path / "a.sqlite")
    ]
    assert plans[0]["layout"] == plans[1]["layout"]


def test_families_are_named_by_what_any_molecule_shares() -> None:
    names = set()
    for n in (2, 3):
        expansion = schema.load_input(waters(n, "MP2", "energy")).expansion
        names.add(family_name(expansion.model_chemistries[0], "energy"))
    assert names == {"pyscf/mp2/6-31g/energy"}
    fitted = schema.load_input(waters(2, "MP2", "energy", density_fit=True)).expansion
    assert family_name(fitted.model_chemistries[0], "energy") not in names


def test_a_task_that_cannot_fit_is_named_before_the_run() -> None:
    space = TaskSpace(schema.load_input(waters(6, "ccsd(t)", "gradient")).expansion)
    with pytest.raises(InputError, match="needs at least 119 GB") as caught:
        check_memory(space, 16 * 10**9, done=NOTHING_DONE)
    assert "[1, 2, 3, 4, 5, 6]" in str(caught.value)
    assert "16 GB" in str(caught.value)
    assert caught.value.exit_code == 2
    check_memory(space, 200 * 10**9, done=NOTHING_DONE)
    check_memory(space, 0, done=NOTHING_DONE)
    largest = np.arange(space.n_tasks, dtype=np.int64)[-10:]
    check_memory(space, 40 * 10**9, done=largest)


@pytest.mark.parametrize(
    ("method", "driver", "keywords"),
    [
        ("ccsd(t)", "gradient", {"frozen": "core"}),
        ("ccsd(t)", "energy", {}),
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
    (tmp_path / "a.json").write_text(json.dumps(waters(6, "ccsd(t)", "gradient")))

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
    assert "needs at least 119 GB" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    planned = command("plan")
    assert planned.returncode == 0
    assert "this node would refuse it" in planned.stdout


# -------------------------------------------------------------------------- peaks


def test_a_peak_is_that_of_one_task() -> None:
    peak = PeakMemory()
    peak.start()
    large = np.ones(10**7)
    most = peak.stop()
    del large
    peak.start()
    after = peak.stop()
    assert most - after > 0.9 * 8e7
    assert after > 10**7


def test_a_program_counts_in_the_task_that_ran_it() -> None:
    code = "x = bytearray(600_000_000)"
    peak = PeakMemory()
    peak.start()
    subprocess.run([sys.executable, "-c", code], check=True)
    assert peak.stop() > 6e8
    peak.start()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    assert peak.stop() < 6e8


def test_where_the_mark_cannot_be_lowered_it_is_of_the_whole_life(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qcmb_mpi.machine.peaks._CLEAR", "/nowhere/at/all")
    peak = PeakMemory()
    peak.start()
    large = np.ones(2 * 10**7)
    first = peak.stop()
    del large
    peak.start()
    assert peak.stop() >= first > 1.6e8

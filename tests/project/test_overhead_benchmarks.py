"""The benchmarks of overhead and order still run, and take times apart correctly."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from qcmb_mpi.scheduling.messages import TaskClass

ROOT = Path(__file__).resolve().parents[2]


def smoke(name: str, output: Path) -> tuple[str, dict[str, object]]:
    done = subprocess.run(
        [sys.executable, f"benchmarks/{name}.py", "--smoke", "-o", str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(output.read_text())["measured"]


@pytest.mark.launch
def test_overhead_smoke_run_tells_where_all_the_time_went(tmp_path: Path) -> None:
    table, measured = smoke("overhead", tmp_path / "out.json")
    for each in measured:
        assert f"| {each['input']} | {each['executor']} | 14 |" in table
        found = each["runs"][0]
        used = found["busy_s"] / (found["n_slots"] * found["wall_s"])
        lost = sum(found[part] for part in ("before", "gaps", "tail", "end"))
        assert used + lost == pytest.approx(1, abs=0.01)
    assert [each["executor"] for each in measured] == ["processes", "mpiexec"]


@pytest.mark.launch
def test_orders_smoke_run_has_every_order_simulated_and_real(tmp_path: Path) -> None:
    table, measured = smoke("orders", tmp_path / "out.json")
    assert "| spin | processes | 7 |" in table
    assert "| spin | mpiexec | 7 |" in table
    for each in measured["simulated"]:
        assert set(each["ratios"]) == {"lpt", "level", "arrival", "random"}
        assert f"| {each['study']} | {each['on']} | {each['predictions']} |" in table
    for each in measured["real"]:
        assert all(many[0]["n_computed"] == 7 for many in each["runs"].values())


# ---- parts -----------------------------------------------------------------------------------


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ModuleType]]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import orders
    import overhead

    yield overhead, orders
    for name in ("farm", "mpiexec", "orders", "overhead"):
        sys.modules.pop(name, None)


def test_idle_time_is_divided_by_what_slots_wait_for(
    benchmarks: tuple[ModuleType, ModuleType],
) -> None:
    rows = SimpleNamespace(
        rank=np.array([0, 0, 0]),
        slot=np.array([0, 0, 1]),
        start_s=np.array([107.0, 102.0, 103.0]),
        seconds=np.array([3.0, 4.0, 5.0]),
    )
    found = benchmarks[0].parts(rows, {"n_slots": 2, "wall_s": 12.5, "setup_s": 2.0})
    lost = {name: 25 * found[name] for name in ("before", "gaps", "tail", "end")}
    assert lost == pytest.approx({"before": 5.0, "gaps": 1.0, "tail": 2.0, "end": 5.0})
    assert (found["span_s"], found["gap_ms"]) == pytest.approx((8.0, 1000.0))


@pytest.mark.parametrize("order", ["arrival", "random"])
def test_blind_orders_have_every_task_once_and_no_cost(
    benchmarks: tuple[ModuleType, ModuleType], order: str
) -> None:
    classes = (TaskClass(0, range(3), 1.0, 5), TaskClass(1, np.array([4, 3]), 6.0, 7))
    (only,) = benchmarks[1].blind(classes, order, np.random.default_rng(3))
    assert sorted(only.ids.tolist()) == [0, 1, 2, 3, 4]
    assert (only.ids.tolist() == [0, 1, 2, 3, 4]) == (order == "arrival")
    assert (only.cost_s, only.memory_bytes) == (3.0, 7)


def test_every_order_of_a_simulation_has_the_same_tasks_and_bound(
    benchmarks: tuple[ModuleType, ModuleType],
) -> None:
    orders = benchmarks[1]
    for study in orders.STUDIES:
        found = orders.simulated(study, orders.MACHINES["4 slots"], "right", 5)
        assert min(found.values()) >= 1
        assert found["lpt"] < orders.LIMIT

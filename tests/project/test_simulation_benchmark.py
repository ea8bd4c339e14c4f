"""The benchmark of the simulated machine still runs, and tells what it is to tell."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.launch
def test_simulation_smoke_run_has_every_study_and_curve(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    done = subprocess.run(
        [sys.executable, "benchmarks/simulation.py", "--smoke", "-o", str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(output.read_text())["measured"]
    assert min(measured["handling"].values()) > 0
    rows = [*measured["studies"], *(row for curve in measured["curves"] for row in curve)]
    assert len({row["options"] for row in rows}) == len(rows) >= 8
    for row in rows:
        assert f"| {row['title']} | {row['n_ranks']} x " in done.stdout
        assert 0 < row["efficiency"] <= 1
        assert row["step_us_per_task"] > 0


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import simulation

    yield simulation
    for name in ("checkpoint", "farm", "mpiexec", "simulation"):
        sys.modules.pop(name, None)


def test_a_curve_closes_in_on_the_largest_machine(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def simulated(_: str, *words: object) -> dict[str, float]:
        n_slots = int(str(words[3])) * int(str(words[5]))
        return {"n_slots": n_slots, "efficiency": 1.0 if n_slots <= 5000 else 0.5}

    monkeypatch.setattr(benchmark, "simulated", simulated)
    rows = benchmark.curve(64, (1024, 4096, 8192, 16384), benchmark.SMOKE, ())
    assert [row["n_slots"] for row in rows] == [1024, 4096, 5120, 6144, 8192, 16384]
    assert benchmark.largest(rows) == 4096


def test_every_limit_counts(benchmark: ModuleType) -> None:
    draws = [{"efficiency": each} for each in (0.90, 0.96, 0.99)]
    study = [*draws, {"master_load": 0.01}]
    small = {"n_slots": 1, "step_us_per_task": 50.0, "tasks_per_s": 100.0}
    large = {"n_slots": 9, "step_us_per_task": 5.0, "tasks_per_s": 95.0}
    assert benchmark.is_met(study, [[small, large]])
    worse_draws = [draws[0], {"efficiency": 0.94}, draws[2]]
    assert not benchmark.is_met([*worse_draws, study[-1]], [[small, large]])
    assert not benchmark.is_met([*draws, {"master_load": 0.03}], [[small, large]])
    for worse in ({"step_us_per_task": 11.0}, {"tasks_per_s": 80.0}):
        assert not benchmark.is_met(study, [[small, {**large, **worse}]])

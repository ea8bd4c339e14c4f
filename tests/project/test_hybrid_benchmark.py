"""The benchmark of layouts: what it tries, what it drops, what it says of the automatic one."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Seconds of each layout of four cores on a run with a tail: the automatic one is best.
TAIL_S = {"automatic": 1.0, "4 x 1": 1.5, "2 x 2": 1.1, "1 x 4": 1.25, "3 x 1": 1.32}


@pytest.fixture
def hybrid(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("hybrid")


class Runner:
    """Takes the seconds of a table; what is not in it is never through in time.

    `layout` is what the automatic one does, by default some tasks first on all cores.
    """

    def __init__(
        self,
        seconds: dict[str, float],
        energies: dict[str, float] | None = None,
        layout: str = "1 task x 4 threads first, then 4 slots x 1 thread",
    ) -> None:
        self.seconds = seconds
        self.energies = energies or {}
        self.layout = layout
        self.order: list[str] = []

    def __call__(self, path: Path, contender: Any, limit_s: float | None) -> dict[str, Any]:
        assert path.exists()
        name = contender.name
        self.order.append(name)
        wall_s = self.seconds.get(name, 1000.0)
        if limit_s is not None and wall_s > limit_s:
            raise subprocess.TimeoutExpired(name, limit_s)
        drift_s = 0.001 * len(self.order)
        slots, threads = (contender.n_workers or 4), (contender.n_threads or 1)
        layout = f"{slots} slots x {threads} threads" if contender.n_workers else self.layout
        return {
            "wall_s": wall_s + drift_s,
            "process_s": wall_s,
            "value": self.energies.get(name, -1.0),
            "n_tasks": 3,
            "layout": layout,
            "agents": [{"slots": slots, "threads": threads}],
            "busy_s": wall_s,
            "slot_s": wall_s,
        }


@pytest.mark.parametrize("n_cores", [1, 2, 4, 7])
def test_every_layout_within_the_cores_is_tried(hybrid: Any, n_cores: int) -> None:
    every = hybrid.fixed_layouts(n_cores, is_complete=True)
    found = {(each.n_workers, each.n_threads) for each in every}
    numbers = range(1, n_cores + 1)
    assert found == {(n, t) for n in numbers for t in numbers if n * t <= n_cores}
    few = hybrid.fixed_layouts(n_cores, is_complete=False)
    assert set(few) <= set(every)
    assert every[0] == few[0] == hybrid.Contender(n_cores, 1)
    assert every[0].options == ["--workers", str(n_cores), "--threads", "1"]
    assert hybrid.Contender().options == []


def test_what_is_hopeless_is_not_repeated_and_the_order_alternates(hybrid: Any) -> None:
    runner = Runner(TAIL_S)
    measured = hybrid.measure("tail", hybrid.fixed_layouts(4, is_complete=True), 3, runner)
    left = ["automatic", "4 x 1", "2 x 2", "1 x 4"]
    assert runner.order[:4] == left
    assert runner.order[9:] == left[::-1] + left
    assert measured["dropped"].keys() == {"3 x 1", "1 x 3", "2 x 1", "1 x 2", "1 x 1"}
    assert {len(measured["wall_s"][name]) for name in left} == {3}
    assert hybrid.best_fixed(measured) == "2 x 2"
    assert all(hybrid.verdicts(measured).values())
    text = hybrid.table([measured])
    assert measured["twin"] is None
    assert "| tail | 3 | 1.01 (1.00 to 1.01, n=3) | 2 x 2 | 1.11 (1.10 to 1.12, n=3)" in text
    assert "holds: one thread > 1.20 x automatic" in text
    assert "best of the first repeat: 3 x 1 (1.32), 1 x 3 (> 1.35)" in text


def test_what_does_not_hold_is_said(hybrid: Any) -> None:
    fixed = hybrid.fixed_layouts(4, is_complete=False)
    slow = hybrid.measure("small", fixed, 2, Runner({"automatic": 1.1, "4 x 1": 1.0}))
    assert list(hybrid.verdicts(slow).values()) == [False, False]
    assert hybrid.table([slow]).count("FAILS") == 2


NARROW = "4 slots x 1 thread because"


def test_noise_between_runs_of_one_layout_is_no_difference(hybrid: Any) -> None:
    """But it is printed, and pointed at where every run was slower."""
    fixed = hybrid.fixed_layouts(4, is_complete=False)
    slow = {"automatic": 1.1, "4 x 1": 1.0}
    same = hybrid.measure("small", fixed, 2, Runner(slow, layout=NARROW))
    assert same["twin"] == "4 x 1"
    assert hybrid.ratio(same, "automatic", "4 x 1") == 1
    assert all(hybrid.verdicts(same).values())
    text = hybrid.table([same])
    assert "alone: 1.10 (1.10 to 1.11, n=2) and 1.00 (1.00 to 1.00, n=2)" in text
    assert "LOOK: every automatic run took longer" in text
    quick = hybrid.measure("small", fixed, 2, Runner({**slow, "automatic": 0.9}, layout=NARROW))
    assert "LOOK" not in hybrid.table([quick])


def test_a_real_difference_to_another_layout_still_counts(hybrid: Any) -> None:
    seconds = {"automatic": 1.1, "4 x 1": 1.12, "2 x 2": 1.0}
    fixed = hybrid.fixed_layouts(4, is_complete=False)
    measured = hybrid.measure("cp", fixed, 2, Runner(seconds, layout=NARROW))
    assert hybrid.times(measured, "automatic") == hybrid.times(measured, "4 x 1")
    assert len(hybrid.times(measured, "automatic")) == 4
    assert list(hybrid.verdicts(measured).values()) == [False, True]


@pytest.mark.parametrize(
    "other",
    [
        {"layout": "1 task x 4 threads first, then 4 slots x 1 thread"},
        {"agents": [{"slots": 2, "threads": 2}]},
        {"slot_s": 2.0},
    ],
)
def test_what_did_something_else_is_not_the_same(hybrid: Any, other: dict[str, Any]) -> None:
    fixed = Runner({"4 x 1": 1.0})(ROOT, hybrid.Contender(4, 1), None)
    assert hybrid.twin_of({"automatic": [fixed, fixed], "4 x 1": [fixed]}) == "4 x 1"
    assert hybrid.twin_of({"automatic": [fixed, {**fixed, **other}], "4 x 1": [fixed]}) is None


def test_one_repeat_is_refused(hybrid: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        hybrid.main(["--repeat", "1"])
    assert "the order to be turned" in capsys.readouterr().err


def test_contenders_that_disagree_are_not_compared(hybrid: Any) -> None:
    runner = Runner(TAIL_S, {"2 x 2": -1.1})
    with pytest.raises(SystemExit, match="do not agree"):
        hybrid.measure("cp", hybrid.fixed_layouts(4, is_complete=False), 1, runner)


@pytest.mark.qc
@pytest.mark.launch
def test_smoke_run_prints_its_table_and_keeps_its_numbers(tmp_path: Path) -> None:
    output = tmp_path / "hybrid.json"
    command = [sys.executable, "benchmarks/hybrid.py", "--smoke", "-o", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [measured] = json.loads(output.read_text())["measured"]
    assert f"| {measured['input']} | {measured['n_tasks']} |" in done.stdout
    assert min(measured["wall_s"]["automatic"]) > 0

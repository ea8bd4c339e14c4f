"""Every benchmark has a smoke that is run, a line in the README, a plot; parts of two of them."""

from __future__ import annotations

import importlib
import json
import os
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.project.test_frame import ROOT, python

FOLDER = ROOT / "benchmarks"
NAMES = sorted(p.stem for p in FOLDER.glob("*.py") if '"--smoke"' in p.read_text())
RECORDS = sorted((FOLDER / "results").glob("kept-*.json"))


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield importlib.import_module
    own = {path.stem for path in FOLDER.glob("*.py")} | {"mpiexec"}
    for name in (set(sys.modules) - before) & own:
        del sys.modules[name]


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_has_a_smoke_that_a_test_runs(name: str) -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "project").glob("test_*.py"))
    assert re.search(rf'benchmarks/{name}\.py", "--smoke"|smoke\("{name}"', tests)


@pytest.mark.parametrize("name", NAMES)
def test_the_readme_says_which_question_a_benchmark_answers(name: str) -> None:
    readme = (FOLDER / "README.md").read_text()
    assert re.search(rf"^\| \[`{name}\.py`\]\(#{name}py\) \| .+\? \|", readme, re.MULTILINE)
    section = readme.partition(f"\n## {name}.py\n")[2].partition("\n## ")[0]
    assert re.search(r"answers: \*\*.+?\?\*\*", section, re.DOTALL)


@pytest.mark.qc
@pytest.mark.launch
def test_checkpoint_smoke_run_measures_a_pair(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    done = python("benchmarks/checkpoint.py", "--smoke", "-o", str(output))
    assert done.returncode == 0, done.stderr
    measured = json.loads(output.read_text())["checkpoint"]
    assert len(measured["ratios"]) == len(measured["cpu_ratios"]) == 1
    for kind in ("store", "no store"):
        assert f"| {kind} |" in done.stdout


@pytest.mark.qc
@pytest.mark.launch
def test_optimization_smoke_run_ends_where_qcmanybody_does(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    done = python("benchmarks/optimization.py", "--smoke", "-o", str(output))
    assert done.returncode == 0, done.stderr
    measured = json.loads(output.read_text())["measured"]
    for optimizer, pools in measured.items():
        assert len({len(one["steps"]) for one in pools.values()}) == 1
        for pool in pools:
            assert f"| {optimizer} | {pool} | " in done.stdout


@pytest.mark.qc
@pytest.mark.launch
def test_scaling_smoke_run_sees_the_cores_that_it_may_use(
    tmp_path: Path, load: Callable[[str], ModuleType]
) -> None:
    output = tmp_path / "out.json"
    done = python("benchmarks/scaling.py", "--smoke", "-o", str(output))
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    sizes = load("scaling").sizes(min(2, load("mpiexec").n_cores()))
    rows = report["measured"]["rows"]
    executors = ("processes", "mpiexec")
    assert [(r["n_cores"], r["executor"]) for r in rows] == [
        (n, name) for n in sizes for name in executors
    ]
    for row in rows:
        assert f"| {row['executor']} | {row['n_cores']} |" in done.stdout
    assert [row["n_cores"] for row in report["sleep"]] == [sizes[-1]] * 2
    assert "ideal" in output.with_suffix(".svg").read_text()


# ---- plots -----------------------------------------------------------------------------------


def test_every_benchmark_has_a_plot(load: Callable[[str], ModuleType]) -> None:
    assert sorted(load("plots").KINDS) == NAMES


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_kept_record_gives_the_same_plot_again(
    path: Path, tmp_path: Path, load: Callable[[str], ModuleType]
) -> None:
    for folder in ("a", "b"):
        assert load("plots").main([str(path), "--folder", str(tmp_path / folder)]) == 0
    report = json.loads(path.read_text())
    assert {"date", "commit", "machine", "versions", "benchmark"} <= set(report)
    name = f"{report['benchmark']}.svg"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (ROOT / "docs" / "plots" / name).exists()


def test_a_plot_has_every_bar_with_its_figure_and_the_limit(
    tmp_path: Path, load: Callable[[str], ModuleType]
) -> None:
    record = {"benchmark": "checkpoint", "checkpoint": {"ratios": [0.5, 1.25, 0.875]}}
    load("plots").draw(record, tmp_path / "plot.svg")
    text = (tmp_path / "plot.svg").read_text()
    for word in ("pair 1", "median", "1.250", "0.875", "limit"):
        assert f">{word}<" in text.replace("> ", ">")


# ---- parts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_cores", "expected"), [(1, [1]), (2, [1, 2]), (4, [1, 2, 4]), (6, [1, 2, 4, 6])]
)
def test_cores_double_up_to_all(
    load: Callable[[str], ModuleType], n_cores: int, expected: list[int]
) -> None:
    assert load("scaling").sizes(n_cores) == expected


def test_what_is_started_on_one_core_sees_one(load: Callable[[str], ModuleType]) -> None:
    scaling = load("scaling")
    allowed = os.sched_getaffinity(0)
    with scaling.on_cores(1):
        assert len(os.sched_getaffinity(0)) == 1
        done = python("-c", "import os; print(len(os.sched_getaffinity(0)))")
    assert done.stdout.strip() == "1"
    assert os.sched_getaffinity(0) == allowed


def test_speed_up_is_over_one_core_of_the_same_repeat_and_executor(
    load: Callable[[str], ModuleType],
) -> None:
    rows = [
        {"executor": "processes", "n_cores": 1, "wall_s": [8.0, 80.0, 8.0]},
        {"executor": "mpiexec", "n_cores": 1, "wall_s": [1.0, 1.0, 1.0]},
        {"executor": "processes", "n_cores": 4, "wall_s": [2.0, 25.0, 4.0]},
    ]
    found = load("scaling").related(rows[2], rows, {1: [1.0], 4: [3.0, 4.0, 3.5]})
    assert (found["speed_up"], found["ceiling"]) == (3.2, 3.5)


def test_unused_slots_are_told(load: Callable[[str], ModuleType]) -> None:
    good, bad = {"used": 3.91, "n_cores": 4}, {"used": 3.89, "n_cores": 4}
    assert load("scaling").is_met([good])
    assert not load("scaling").is_met([good, bad])


def compared(ours: list[float], pool: list[float]) -> dict[str, Any]:
    walls = {"qcmb_mpi, processes": ours, "naive pool": pool}
    contenders = {name: {"wall_s": many} for name, many in walls.items()}
    return {"input": "six.yaml", "contenders": contenders}


def test_farm_says_of_which_program_ours_is_not_ahead(
    load: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    farm = load("farm")
    assert farm.is_ahead(compared([2.0, 20.0, 2.0], [3.0, 30.0, 1.0]))
    assert capsys.readouterr().out == ""
    assert not farm.is_ahead(compared([2.0, 2.0, 9.0], [1.0, 1.5, 90.0]))
    told = capsys.readouterr().out
    assert "BROKEN: six.yaml: naive pool took 0.75 times as long as qcmb_mpi, processes" in told


def test_farm_writes_both_clusters_in_both_bases(
    load: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    farm = load("farm")
    models = [
        yaml.safe_load(path.read_text())["specification"]["specification"]["model"]
        for path in farm.write_inputs(tmp_path)
    ]
    assert [model["basis"] for model in models] == [*farm.BASES] * 2


def test_other_packages_are_run_by_the_python_of_their_environment(
    load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    farm = load("farm")
    assert farm.others(None, None) == ()
    (fork,) = farm.others(None, tmp_path)
    commands = []

    def timed(command: list[str], environ: dict[str, str]) -> tuple[float, str]:
        commands.append((command, environ))
        return 9.0, 'what it prints\n{"value": -1.5, "aside_s": 2.0}\n'

    monkeypatch.setattr(farm, "timed", timed)
    run = fork.run(Path("six.yaml"), 3, tmp_path)
    assert (run.wall_s, run.value) == (7.0, -1.5)
    [(command, environ)] = commands
    assert command[0] == str(tmp_path / "bin" / "python")
    assert command[2:] == ["fork", "six.yaml", "-n", "3"]
    assert environ["QCENGINE_NCORES"] == "1"


def test_fragment_is_given_bohr_and_its_energy_is_read_with_all_digits(
    load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    rivals = load("rivals")
    seen: dict[str, Any] = {}

    def command(folder: str, *words: str) -> None:
        if words[0] == "init":
            seen["xyz"] = (Path(folder) / "cluster.xyz").read_text().splitlines()
            seen["strategy"] = yaml.safe_load((Path(folder) / words[1]).read_text())
            return
        with closing(sqlite3.connect(Path(folder) / "fragment.db")) as database, database:
            database.execute("CREATE TABLE record (id, properties)")
            database.execute("CREATE TABLE calculation_record (record_id)")
            database.execute("INSERT INTO record VALUES (1, '{}'), (2, '{\"total_energy\": -1.5}')")
            database.execute("INSERT INTO calculation_record VALUES (2)")

    monkeypatch.setattr(rivals, "_fragment", command)
    found = rivals.fragment(ROOT / "examples" / "water-hexamer.yaml")
    assert found["value"] == -1.5
    assert 0 <= found["aside_s"] < 60
    assert (seen["xyz"][0], len(seen["xyz"])) == ("18", 20)
    assert seen["xyz"][2] == "O -2.2929432039 -0.0795727669 2.3061802583"
    [driver] = seen["strategy"]["drivers"]
    assert driver["options"]["procedure"] == {"method": "HF", "basis": "6-31g"}
    assert seen["strategy"]["calculations"][0]["steps"] == ["water", "mbe(3)", "program"]


def test_the_fork_is_told_its_program_where_it_looks_for_it(
    load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(given: dict[str, Any], *, parallel: bool, n_workers: int) -> Any:
        specification = given["specification"]["specification"]["(auto)"]
        assert specification["model"]["program"] == specification["program"] == "pyscf"
        assert (parallel, n_workers) == (True, 3)
        return SimpleNamespace(return_result=-1.5)

    computer = SimpleNamespace(from_manybodyinput=run)
    models, parallel = "qcmanybody.models", "qcmanybody.parallel"
    monkeypatch.setitem(sys.modules, models, SimpleNamespace(ManyBodyInput=dict))
    fork = SimpleNamespace(ParallelManyBodyComputer=computer)
    monkeypatch.setitem(sys.modules, parallel, fork)
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = ROOT / "examples" / "water-hexamer.yaml"
    assert load("rivals").fork(path, 3) == {"value": -1.5}

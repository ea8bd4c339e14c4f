"""The benchmark of engines still runs, gives all the same tasks and judges ours rightly."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from tests.project.test_frame import python

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("start", "rate", "efficiency", "brief", "foreign", "memory", "tail", "sleep", "master")


@pytest.mark.launch
def test_smoke_run_measures_every_part_of_ours_and_of_the_pool(tmp_path: Path) -> None:
    output = tmp_path / "engines.json"
    parts = [word for part in (*PARTS, "profile") for word in ("--part", part)]
    done = python("benchmarks/engines.py", "--smoke", *parts, "-o", str(output))
    assert done.returncode == 0, done.stderr
    runs = {run["engine"]: run for run in json.loads(output.read_text())["runs"]}
    assert set(runs) == {"ours-processes", "ours-mpi", "pool-1"}
    for name, run in runs.items():
        assert set(run["figures"]) - {"profile"} == set(PARTS), run["fault"]
        assert f"| {name} |" in done.stdout
        has_profile = f"| {name}, us of the master for a task |" in done.stdout
        assert has_profile == ("profile" in run["figures"]) == name.startswith("ours")


@pytest.mark.launch
def test_it_leaves_nothing_behind_when_it_is_told_to_end(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/engines.py", "--engine", "pool-1", "--part", "master"]
    program = subprocess.Popen([*command, "-o", str(tmp_path / "out.json")], cwd=ROOT)
    started: list[psutil.Process] = []

    def is_at_work() -> bool:
        started[:] = psutil.Process(program.pid).children(recursive=True)
        return any("engines_run.py" in words_of(each) for each in started)

    wait_until(is_at_work)
    program.send_signal(signal.SIGTERM)
    assert program.wait(60) == 128 + signal.SIGTERM
    wait_until(lambda: not any(is_alive(each) for each in started))
    assert not (tmp_path / "out.json").exists()


def words_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended meanwhile
        return ""


def is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_until(is_true: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < give_up_s
        time.sleep(0.02)


# ---- parts -----------------------------------------------------------------------------------


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    before = set(sys.modules)
    yield lambda name: __import__(name)
    for name in set(sys.modules) - before:
        if name.startswith("engines") or name in ("farm", "mpiexec"):
            del sys.modules[name]


def test_arguments_and_results_have_the_sizes_they_are_said_to_have(
    load: Callable[[str], ModuleType],
) -> None:
    work = load("engines_work")
    for task in (3, 700, 40_000):
        given = work.argument(work.Work(), task)
        assert len(pickle.dumps(given)) == pytest.approx(work.ARGUMENT_BYTES, abs=8)
        assert len(pickle.dumps(work.compute(given))) == pytest.approx(work.RESULT_BYTES, abs=8)


def test_our_own_tasks_answer_no_less_than_those_of_others(
    load: Callable[[str], ModuleType],
) -> None:
    from qcmb_mpi.execution.engine import SlotResources

    work, recipe = load("engines_work"), load("engines_recipe")
    engine = recipe.IdleRecipe(work.Work()).build(SlotResources(rank=2, slot=1))
    outcome = engine.compute(7)
    assert (outcome.task, outcome.rank, outcome.slot) == (7, 2, 1)
    assert outcome.gradient.nbytes >= work.RESULT_BYTES
    assert (outcome.gradient != engine.compute(8).gradient).all()


def test_uneven_tasks_have_a_log_normal_mean_and_a_bound(load: Callable[[str], ModuleType]) -> None:
    work = load("engines_work")
    uneven = work.Work("sleep", 0.02, 1.0)
    seconds = [uneven.seconds_of(task) for task in range(2000)]
    assert sum(seconds) / 2000 == pytest.approx(0.02 * 2.718281828**0.5, rel=0.02)
    assert work.bound_s(uneven, 2000, 4) == pytest.approx(sum(seconds) / 4)
    assert work.bound_s(uneven, 2000, 1000) == pytest.approx(max(seconds))


def test_every_planned_task_but_the_surplus_is_to_be_run(load: Callable[[str], ModuleType]) -> None:
    from qcmb_mpi.expansion.plan import TaskSpace

    ours = load("engines_ours")
    for n_tasks, n_planned in ((1, 3), (3, 3), (4, 6), (10_000, 10_011)):
        assert TaskSpace(ours.expansion(n_tasks, "x")).n_tasks == n_planned


def test_limits_are_of_ratios_within_a_repeat(load: Callable[[str], ModuleType]) -> None:
    figures = load("engines_figures")
    rates = {
        "ours-processes": (8000.0, 900.0, 8000.0),
        "pool-1": (1500.0, 100.0, 1000.0),
        "mpi4py-1": (2500.0, 200.0, 1000.0),
        "hand-written": (9e9, 9e9, 9e9),
    }
    runs = [
        {
            "engine": name,
            "repeat": repeat,
            "parts": ["rate"],
            "figures": {"start": {"first_s": 9.0}, "rate": {"per_s": rate, "master_us": 5.0}},
        }
        for name, many in rates.items()
        for repeat, rate in enumerate(many)
    ]
    found = figures.Found(runs)
    assert found.ratio("ours-processes", "one", "rate", "per_s") == pytest.approx(4.5)
    assert [str(limit).split(":")[0] for limit in figures.limits(found, 4)] == [
        "holds",
        "not judged",
        "holds",
    ]
    for run in runs[:3]:
        run["figures"]["rate"] |= {"per_s": 1.0, "master_us": 11.0}
    assert [limit.is_broken for limit in figures.limits(found, 4)] == [True, False, True]
    assert "| 1 |" in figures.table(found)


@pytest.mark.parametrize(
    ("name", "part", "n_ranks"),
    [("ours-mpi", "rate", "4"), ("ours-mpi", "sleep", "3"), ("mpi4py-1", "sleep", "4")],
)
def test_masters_are_extra_ranks_but_ours_where_all_cores_compute(
    load: Callable[[str], ModuleType], name: str, part: str, n_ranks: str
) -> None:
    line = load("engines").command_line(name, [part], 3, [])
    assert line[line.index("-n") + 1] == n_ranks
    assert ("--dedicated" in line) == (n_ranks == "4")


def test_foreign_work_ends_with_who_started_it(load: Callable[[str], ModuleType]) -> None:
    run = load("engines_run")
    with run.spinners(1):
        (child,) = (
            each for each in psutil.Process(os.getpid()).children() if "getppid" in words_of(each)
        )
        assert is_alive(child)
    assert not is_alive(child)

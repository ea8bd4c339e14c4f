"""The tasks and the machine that the ``simulate`` command makes of its options."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qcmb_mpi import options, simulation
from qcmb_mpi.errors import InputError
from qcmb_mpi.scheduling.reporting import report_interval_s


def simulated(*words: str) -> dict[str, Any]:
    return simulation.run(options.parse(["simulate", *words]))


@pytest.mark.parametrize("n_tasks", [1, 7, 5000])
def test_log_normal_tasks_lie_between_the_limits_longest_first(n_tasks: int) -> None:
    rng = np.random.default_rng(0)
    work = simulation.log_normal_work(n_tasks, 1.0, 100.0, rng=rng)
    costs_s = [each.cost_s for each in work.classes]
    assert costs_s == sorted(costs_s, reverse=True)
    assert 1 <= min(costs_s) <= max(costs_s) <= 100
    assert [task for each in work.classes for task in each.ids] == list(range(n_tasks))
    told_s = np.concatenate([np.full(each.n_tasks, each.cost_s) for each in work.classes])
    assert work.times_s == pytest.approx(told_s)
    if n_tasks > 100:
        logs = np.log(work.times_s)
        assert (logs.mean(), logs.std()) == pytest.approx((np.log(10), np.log(10) / 2.5), rel=0.06)


def test_true_times_are_spread_about_what_is_predicted_and_stay_within_the_limits() -> None:
    rng = np.random.default_rng(0)
    work = simulation.log_normal_work(5000, 1.0, 100.0, rng=rng, spread=0.3)
    told_s = np.concatenate([np.full(each.n_tasks, each.cost_s) for each in work.classes])
    assert np.log(work.times_s / told_s).std() == pytest.approx(0.3, rel=0.1)
    assert work.times_s.min() >= 1
    assert work.times_s.max() <= 100


def test_a_blind_scheduler_is_told_the_mean_alone() -> None:
    rng = np.random.default_rng(0)
    work = simulation.log_normal_work(5000, 1.0, 100.0, rng=rng, is_blind=True)
    (only,) = work.classes
    assert only.cost_s == pytest.approx(work.times_s.mean())
    assert abs(np.corrcoef(np.arange(5000), work.times_s)[0, 1]) < 0.1


def test_tasks_of_one_length_are_one_class() -> None:
    work = simulation.log_normal_work(50, 2.0, 2.0, rng=np.random.default_rng(0))
    assert [(each.ids, each.cost_s) for each in work.classes] == [(range(50), pytest.approx(2.0))]
    assert work.times_s == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("text", "ends"), [("2", (2, 2)), ("1-100", (1, 100)), ("1e-3-2e-2", (1e-3, 2e-2))]
)
def test_task_seconds_are_a_number_or_a_range(text: str, ends: tuple[float, float]) -> None:
    words = ["simulate", "--tasks", "5", "--ranks", "2", "--task-seconds", text]
    assert options.parse(words).task_seconds == ends


@pytest.mark.parametrize(
    "words",
    [
        ["--task-seconds", "5-1"],
        ["--task-seconds", "1-"],
        ["--task-seconds", "0-1"],
        ["--failures", "1.5"],
        ["--losses", "2"],
    ],
)
def test_what_cannot_be_simulated_is_refused(words: list[str]) -> None:
    with pytest.raises(InputError, match=words[0]):
        simulated("--tasks", "5", "--ranks", "2", *words)


def test_faults_are_those_asked_for() -> None:
    words = ("--tasks", "4000", "--ranks", "8", "--slots", "4")
    good = simulated(*words)
    bad = simulated(*words, "--failures", "0.02", "--stragglers", "0.05", "--losses", "3")
    assert (good["n_tasks"], bad["n_tasks"]) == (4000, 4000)
    assert bad["n_events"] > good["n_events"] + 40
    assert bad["lower_bound_s"] > 1.3 * good["lower_bound_s"]  # stragglers count in it, too


def test_ranks_report_by_their_number_unless_told() -> None:
    words = ("--tasks", "20000", "--ranks", "200", "--slots", "4", "--spread", "0.3")
    usual = simulated(*words)
    assert usual == simulated(*words, "--report-seconds", str(report_interval_s(200)))
    assert usual["n_events"] < simulated(*words, "--report-seconds", "0")["n_events"]


def test_the_masters_time_is_charged_as_told_or_as_measured() -> None:
    words = ("--tasks", "2000", "--ranks", "16", "--slots", "4", "--result-seconds", "0")
    words += ("--receive-seconds", "0", "--send-seconds", "0")
    free = simulated(*words, "--step-seconds", "0")
    slow = simulated(*words, "--step-seconds", "0.01")
    timed = simulated(*words, "--step-seconds", "0.01", "--timed")
    assert (free["master_s"], slow["master_s"]) == (0, pytest.approx(0.01 * slow["n_events"]))
    assert 0 < timed["master_s"] < slow["master_s"]

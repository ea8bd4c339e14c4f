"""When agents report."""

from __future__ import annotations

import math

import pytest

from qcmb_mpi.scheduling.agents import Agent
from qcmb_mpi.scheduling.messages import AgentJoined
from qcmb_mpi.scheduling.pool import Pool, SchedulerOptions
from qcmb_mpi.scheduling.reporting import Need, ReportTiming, report_interval_s


def test_nothing_is_due_without_a_result() -> None:
    assert ReportTiming(1.0).due_s(Need.NOW) == math.inf


def test_the_oldest_result_says_when_a_report_is_due() -> None:
    timing = ReportTiming(0.5)
    timing.note_results(3.0)
    timing.note_results(3.25)
    assert timing.due_s(Need.NONE) == 3.5
    timing.note_report(3.5, Need.NONE)
    assert timing.due_s(Need.NONE) == math.inf


def test_an_idle_slot_is_told_of_at_once_but_once_only_until_work_comes() -> None:
    timing = ReportTiming(0.5)
    timing.note_results(1.0)
    assert timing.due_s(Need.NOW) == 1.0
    n_reports = timing.note_report(1.0, Need.NOW)
    timing.note_results(1.25)
    assert timing.due_s(Need.NOW) == 1.75
    timing.note_report(1.75, Need.NOW)
    timing.note_results(2.0)
    timing.note_work(2.0, n_reports)
    assert timing.due_s(Need.NOW) == 2.0


def test_a_slot_that_may_soon_be_idle_is_told_of_once_and_again_when_it_is() -> None:
    timing = ReportTiming(0.5)
    for need, due_s in ((Need.SOON, 1.0), (Need.SOON, 1.5), (Need.NOW, 1.0), (Need.NOW, 1.5)):
        timing.note_results(1.0)
        assert timing.due_s(need) == due_s
        timing.note_report(due_s, need)


def test_what_was_needed_only_soon_says_nothing_of_how_late_the_master_is() -> None:
    timing = ReportTiming(0.5)
    timing.note_results(1.0)
    timing.note_work(9.0, timing.note_report(1.0, Need.SOON))
    timing.note_results(10.0)
    assert timing.due_s(Need.NONE) == 10.5
    assert timing.due_s(Need.SOON) == 10.0


def test_a_pause_between_two_runs_says_nothing_of_how_late_the_master_is() -> None:
    timing = ReportTiming()
    timing.open(0.5)
    timing.note_results(1.0)
    timing.note_report(1.0, Need.NOW)
    timing.open(0.5)  # of another master, which has heard no report
    timing.note_work(61.0, 0)
    timing.note_results(62.0)
    assert timing.due_s(Need.NONE) == 62.5
    assert timing.due_s(Need.NOW) == 62.0


@pytest.mark.parametrize(("ahead_s", "need"), [(0, Need.NOW), (0.01, Need.SOON), (1, Need.NONE)])
def test_what_a_slot_has_ahead_says_what_it_needs(ahead_s: float, need: Need) -> None:
    assert Need.of(ahead_s) is need


def test_work_that_was_sent_before_a_report_was_heard_is_no_answer_to_it() -> None:
    timing = ReportTiming(0.5)
    for number in (1, 2, 3):
        timing.note_results(number)
        assert timing.note_report(number, Need.NOW if number == 3 else Need.NONE) == number
    timing.note_results(4.0)
    for n_heard, due_s in ((1, 4.5), (2, 4.5), (3, 4.0)):
        timing.note_work(4.0, n_heard)
        assert timing.due_s(Need.NOW) == due_s


def test_without_an_interval_everything_is_told_at_once() -> None:
    timing = ReportTiming()
    for now in (1.0, 2.0):
        timing.note_results(now)
        assert timing.due_s(Need.NONE) == timing.due_s(Need.NOW) == now
        timing.note_report(now, Need.NOW)
        timing.note_work(now + 3.0, 9)


@pytest.mark.parametrize("interval_s", [0.0, 0.002, 0.5])
def test_results_of_short_tasks_wait_unless_a_slot_does_or_one_has_failed(
    interval_s: float,
) -> None:
    timing = ReportTiming(interval_s, hold_s=0.04)
    timing.note_results(1.0, are_short=True)
    assert timing.due_s(Need.NOW) == 1.0
    assert timing.due_s(Need.NONE) == 1.0 + max(0.04, interval_s)
    assert timing.due_s(Need.NONE, not_before_s=2.0) == 2.0
    timing.note_results(1.01)
    assert timing.due_s(Need.NONE, not_before_s=2.0) == 1.0 + interval_s
    timing.note_results(1.02, has_failed=True)
    assert timing.due_s(Need.NONE, not_before_s=2.0) <= 1.02
    timing.note_report(1.02, Need.NONE)
    timing.note_results(2.0, are_short=True)
    assert timing.due_s(Need.NONE) == 2.0 + max(0.04, interval_s)


def test_results_of_short_tasks_wait_for_each_other_once_work_was_asked_for() -> None:
    timing = ReportTiming(0.001, hold_s=0.04)
    timing.note_results(1.0, are_short=True)
    assert timing.due_s(Need.SOON) == 1.0
    timing.note_report(1.0, Need.SOON)
    timing.note_results(1.01, are_short=True)
    assert timing.due_s(Need.SOON) == pytest.approx(1.05)
    assert timing.due_s(Need.NOW) == 1.01


def test_reports_are_as_far_apart_as_answers_are_late() -> None:
    timing = ReportTiming(0.5)
    for answered_s, interval_s in ((1.1, 0.5), (3.0, 2.0), (99.0, 10.0), (1.6, 0.6)):
        timing.note_results(0.0)
        n_reports = timing.note_report(1.0, Need.NOW)
        timing.note_work(answered_s, n_reports)
        timing.note_work(99.0, n_reports)  # more of it says nothing
        timing.note_results(100.0)
        assert timing.due_s(Need.NONE) == pytest.approx(100.0 + interval_s)
        timing.note_report(101.0, Need.NONE)


def test_few_agents_do_not_wait_long_for_a_master_that_was_late_once() -> None:
    timing = ReportTiming(report_interval_s(4))
    timing.note_results(0.0)
    timing.note_work(60.0, timing.note_report(0.0, Need.NOW))
    timing.note_results(100.0)
    assert timing.due_s(Need.NONE) <= 100.05


def test_the_master_hears_no_more_reports_in_a_second_however_many_agents_there_are() -> None:
    rates = [n / report_interval_s(n) for n in (1, 4, 100, 10_000)]
    assert max(rates) <= min(rates) * (1 + 1e-9) <= 5000
    assert report_interval_s(4) < 0.01


def test_half_of_the_lookahead_outlasts_a_report_and_its_answer() -> None:
    for n_agents in (1, 100, 2000, 20_000):
        pool = Pool(SchedulerOptions())
        for number in range(n_agents):
            pool.agents[number] = Agent(AgentJoined(number, 1))
        assert 0.5 * pool.lookahead_s > report_interval_s(n_agents)
        assert pool.lookahead_s >= pool.options.lookahead_s
        plain = Pool(SchedulerOptions(lookahead_s=0.0), agents=pool.agents)
        assert plain.lookahead_s == 0

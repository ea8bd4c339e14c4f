"""When agents report."""

from __future__ import annotations

import math

import pytest

from qcmb_mpi.scheduling.agents import Agent
from qcmb_mpi.scheduling.messages import AgentJoined
from qcmb_mpi.scheduling.pool import Pool, SchedulerOptions
from qcmb_mpi.scheduling.reporting import ReportTiming, report_interval_s


def test_nothing_is_due_without_a_result() -> None:
    assert ReportTiming(1.0).due_s(is_idle=True) == math.inf


def test_the_oldest_result_says_when_a_report_is_due() -> None:
    timing = ReportTiming(0.5)
    timing.note_result(3.0)
    timing.note_result(3.25)
    assert timing.due_s(is_idle=False) == 3.5
    timing.note_report(3.5, is_idle=False)
    assert timing.due_s(is_idle=False) == math.inf


def test_an_idle_slot_is_told_of_at_once_but_once_only_until_work_comes() -> None:
    timing = ReportTiming(0.5)
    timing.note_result(1.0)
    assert timing.due_s(is_idle=True) == 1.0
    timing.note_report(1.0, is_idle=True)
    timing.note_result(1.25)
    assert timing.due_s(is_idle=True) == 1.75
    timing.note_report(1.75, is_idle=True)
    timing.note_result(2.0)
    timing.note_work(2.0)
    assert timing.due_s(is_idle=True) == 2.0


def test_without_an_interval_everything_is_told_at_once() -> None:
    timing = ReportTiming()
    for now in (1.0, 2.0):
        timing.note_result(now)
        assert timing.due_s(is_idle=False) == timing.due_s(is_idle=True) == now
        timing.note_report(now, is_idle=True)
        timing.note_work(now + 3.0)


def test_reports_are_as_far_apart_as_answers_are_late() -> None:
    timing = ReportTiming(0.5, longest_s=4.0)
    for answered_s, interval_s in ((1.1, 0.5), (3.0, 2.0), (9.0, 4.0), (1.6, 0.6)):
        timing.note_result(0.0)
        timing.note_report(1.0, is_idle=True)
        timing.note_work(answered_s)
        timing.note_work(99.0)  # more of it says nothing
        timing.note_result(100.0)
        assert timing.due_s(is_idle=False) == pytest.approx(100.0 + interval_s)
        timing.note_report(101.0, is_idle=False)


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

"""Peaks of memory: of one task, of the program it ran, and of nothing that cannot be told."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
from qcelemental.models.v2 import AtomicInput

from qcmb_mpi.execution import attempts
from qcmb_mpi.execution.engine import AtomicRunner, SlotResources
from qcmb_mpi.execution.executors.inline import FuturesAgent, InlineAgent
from qcmb_mpi.execution.wire import AgentInfo, Open
from qcmb_mpi.machine import peaks
from qcmb_mpi.machine.peaks import PeakMemory
from qcmb_mpi.scheduling.placement import Layout

MB = 10**6


def run_program(n_bytes: int) -> None:
    subprocess.run([sys.executable, "-c", f"x = bytearray({n_bytes})"], check=True)


def allocate(n_bytes: int) -> None:
    """Have memory resident for a moment."""
    np.ones(n_bytes // 8).sum()


def to_the_mark() -> int:
    """Return the bytes between what is resident now and the most that ever was."""
    return max(0, peaks._own_bytes() - int(psutil.Process().memory_info().rss))


def test_a_peak_is_that_of_one_task() -> None:
    with PeakMemory() as first:
        allocate(80 * MB)
    with PeakMemory() as second:
        pass
    assert first.n_bytes - second.n_bytes > 0.9 * 80 * MB
    assert second.n_bytes > 10 * MB


def test_a_forked_process_lowers_its_own_mark() -> None:
    with PeakMemory():
        pass
    child = os.fork()
    if not child:
        with PeakMemory() as first:
            allocate(80 * MB)
        with PeakMemory() as second:
            pass
        os._exit(0 if first.n_bytes - second.n_bytes > 0.9 * 80 * MB else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_of_programs_only_what_is_larger_than_all_before_is_known() -> None:
    sizes = (peaks._programs()[0] + 400 * MB, 200 * MB, 0)
    told = []
    for size in sizes:
        with PeakMemory() as peak:
            run_program(size)
        told.append(peak.n_bytes)
    with PeakMemory() as without:
        pass
    assert told[0] > sizes[0]
    assert told[1:] == [0, 0]
    assert 10 * MB < without.n_bytes < sizes[0]


def test_a_program_cannot_hide_what_the_task_itself_used(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = iter([(50 * MB, 1.0), (50 * MB, 2.0)])
    monkeypatch.setattr(peaks, "_programs", lambda: next(usage))
    with PeakMemory() as peak:
        allocate(80 * MB)
    assert peak.n_bytes > 80 * MB


def test_where_the_mark_cannot_be_lowered_only_what_raises_it_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peaks, "_CLEAR", "/nowhere/at/all")
    with PeakMemory() as first:
        allocate(to_the_mark() + 160 * MB)
    with PeakMemory() as second:
        allocate(80 * MB)
    assert first.n_bytes > 160 * MB
    assert second.n_bytes == 0


def test_the_mark_of_somebody_elses_process_is_left_alone() -> None:
    allocate(160 * MB)
    before = peaks._high_water_mark()
    with PeakMemory(is_guest=True) as small:
        allocate(8 * MB)
    assert small.n_bytes == 0
    assert peaks._high_water_mark() >= before
    with PeakMemory(is_guest=True) as large:
        allocate(to_the_mark() + 160 * MB)
    assert large.n_bytes > before


def test_of_tasks_that_run_together_in_one_process_nothing_is_told() -> None:
    barrier = threading.Barrier(2)

    def make_input() -> AtomicInput:
        barrier.wait(60)
        allocate(to_the_mark() + 80 * MB)
        raise ValueError("planned")

    def peak_of(make: Callable[[], AtomicInput]) -> int:
        runner = AtomicRunner(SlotResources(is_guest=True))
        return runner.run(0, "any", make).peak_bytes

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(peak_of, [make_input] * 2)) == [0, 0]
    barrier = threading.Barrier(1)
    assert peak_of(make_input) > 80 * MB


def test_an_engine_leaves_the_mark_of_its_host_alone() -> None:
    def make_input() -> AtomicInput:
        raise ValueError("planned")

    allocate(160 * MB)
    before = peaks._high_water_mark()
    told = [
        AtomicRunner(SlotResources(is_guest=is_guest)).run(0, "any", make_input).peak_bytes
        for is_guest in (True, False)
    ]
    assert told[0] == 0
    assert 0 < told[1] < before


@pytest.mark.parametrize(("is_guest", "n_known"), [(True, 3), (False, 1)])
def test_of_short_tasks_of_a_slot_one_in_a_while_is_measured(
    monkeypatch: pytest.MonkeyPatch, is_guest: bool, n_known: int
) -> None:
    """Of a guest each is: only then is it seen whether tasks overlap."""
    entered = []
    original = PeakMemory.__enter__
    monkeypatch.setattr(
        PeakMemory, "__enter__", lambda self: entered.append(self) or original(self)
    )
    monkeypatch.setattr(attempts, "_PEAK_INTERVAL_S", 3600.0)
    runner = AtomicRunner(SlotResources(is_guest=is_guest))

    def make_input() -> AtomicInput:
        raise ValueError("planned")

    told = [runner.run(task, "any", make_input).peak_bytes for task in range(3)]
    assert len(entered) == n_known
    assert is_guest or (told[0] > 0 and told[1:] == [0, 0])


def test_of_long_tasks_each_is_measured() -> None:
    def make_input() -> AtomicInput:
        end_s = time.perf_counter() + 2 * attempts._PEAK_INTERVAL_S
        while time.perf_counter() < end_s:
            pass
        raise ValueError("planned")

    runner = AtomicRunner(SlotResources())
    assert all(runner.run(task, "any", make_input).peak_bytes > 0 for task in range(3))


class Remembers:
    """A recipe that keeps what its engine was to use."""

    def __init__(self) -> None:
        self.resources = SlotResources()

    def build(self, resources: SlotResources) -> AtomicRunner:
        self.resources = resources
        return AtomicRunner(resources)


def test_agents_without_slots_are_guests() -> None:
    info = AgentInfo(0, "here", 1, 0)
    with ThreadPoolExecutor(1) as pool:
        for agent in (InlineAgent(info), FuturesAgent(info, pool)):
            recipe = Remembers()
            agent.handle(Open(0, recipe, Layout(1, 1, 0, "as the test says"), 1.0))  # type: ignore[arg-type]
            assert recipe.resources.is_guest

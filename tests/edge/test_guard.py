"""Memory: when the guard raises its voice, and whom it names."""

from __future__ import annotations

import os

import pytest

from qcmb_mpi.execution.guard import MemoryGuard, Overuse

GIB = 2**30


class Machine:
    """Slots that use what a test says, and a clock that it moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.resident: dict[int, int] = {}
        self.exact: dict[int, int] = {}
        self.n_exact = 0
        self.n_oom_kills = 7
        self.guard = MemoryGuard(
            lambda: self.now,
            resident=lambda pid: self.resident[pid],
            exact=self.measure,
            oom_kills=lambda: self.n_oom_kills,
        )

    def measure(self, pid: int) -> int:
        self.n_exact += 1
        return self.exact.get(pid, self.resident[pid])

    def check(self, limit_gib: float, idle: tuple[int, ...] = ()) -> Overuse | None:
        self.now += 2.0
        busy = [pid for pid in self.resident if pid not in idle]
        return self.guard.check(busy, idle, int(limit_gib * GIB))


@pytest.fixture
def machine() -> Machine:
    """Give a machine with slots 1 and 2 that use 1 and 3 GiB."""
    made = Machine()
    made.resident = {1: GIB, 2: 3 * GIB}
    return made


def test_nobody_has_to_go_below_the_limit(machine: Machine) -> None:
    assert machine.check(4.0) is None
    assert machine.n_exact == 0
    assert machine.guard.last_seen_bytes(2) == 3 * GIB
    assert machine.guard.last_seen_bytes(3) == 0


def test_the_largest_has_to_go_above_it(machine: Machine) -> None:
    assert machine.check(3.9) == Overuse(2, 3 * GIB, 4 * GIB, int(3.9 * GIB))


def test_idle_slots_count_but_are_not_named(machine: Machine) -> None:
    assert machine.check(3.9, idle=(2,)) == Overuse(1, GIB, 4 * GIB, int(3.9 * GIB))


def test_without_limit_or_work_there_is_no_guard(machine: Machine) -> None:
    assert machine.check(0.0) is None
    assert machine.check(1.0, idle=(1, 2)) is None
    assert machine.guard.last_seen_bytes(1) == 0


def test_a_kill_by_the_kernel_is_told_for_seconds_but_not_for_ever(machine: Machine) -> None:
    assert not machine.guard.has_oom_killed()
    machine.n_oom_kills += 1
    for _ in range(2):
        assert machine.guard.has_oom_killed()
        machine.check(0.0)
    assert not machine.guard.has_oom_killed()


def test_it_looks_about_once_a_second(machine: Machine) -> None:
    assert machine.check(10.0) is None
    assert machine.guard.check([1, 2], [], GIB) is None
    assert machine.check(1.0) is not None


def test_shared_pages_harm_nobody_and_are_not_counted_over_and_over(machine: Machine) -> None:
    machine.exact = {1: GIB // 2, 2: GIB // 2}
    for _ in range(4):
        assert machine.check(3.0) is None
    assert machine.n_exact == 2
    machine.resident[1] += 2 * GIB
    assert machine.check(3.0) is None
    assert machine.n_exact == 4
    machine.now += 60.0
    machine.exact[1] = 4 * GIB
    overuse = machine.check(3.0)
    assert overuse is not None
    assert overuse.pid == 1


def test_what_a_slot_needs_to_be_there_at_all_is_no_reason(machine: Machine) -> None:
    machine.resident = {1: 100 * 2**20, 2: 100 * 2**20}
    assert machine.check(0.1) is None


def test_a_real_process_is_measured() -> None:
    guard = MemoryGuard()
    guard.check([os.getpid()], [], 2**60)
    assert guard.last_seen_bytes(os.getpid()) > 10 * 2**20
    overuse = MemoryGuard(exact=lambda _: 2 * GIB).check([os.getpid()], [], 1)
    assert overuse is not None
    assert overuse.total_bytes == 2 * GIB

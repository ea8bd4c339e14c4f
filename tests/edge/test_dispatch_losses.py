"""The dispatcher when agents are lost, refuse, or fail at everything; and when it is to stop."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from qcmb_mpi.errors import Interrupted, QcmbError, StoreError, TopologyError
from qcmb_mpi.execution import agent, dispatch
from qcmb_mpi.execution.dispatch import Dispatcher, Job
from qcmb_mpi.execution.engine import SlotResources
from qcmb_mpi.execution.outcome import Failure, Outcome
from qcmb_mpi.execution.stop import Stop
from qcmb_mpi.execution.wire import Done, FromAgent, Open, Ready, Shut, Work
from qcmb_mpi.report.events import EventLog, read_events
from qcmb_mpi.scheduling import messages as m
from qcmb_mpi.scheduling.messages import TaskClass
from qcmb_mpi.scheduling.policy import ErrorClass
from qcmb_mpi.scheduling.scheduler import Scheduler, SchedulerOptions
from tests.edge.test_dispatch import (
    ALL,
    CLASSES,
    EXPANSION,
    TRUTH,
    Notes,
    choose,
    dispatcher,
    job,
    placing,
    work,
)
from tests.edge.transports import RecordingTransport
from tests.engines import FlakyEngine, ToyRecipe


@dataclass(frozen=True)
class PickyRecipe(ToyRecipe):
    """A toy that is missing on some ranks."""

    missing_on: frozenset[int] = frozenset()

    def build(self, resources: SlotResources) -> FlakyEngine:
        if resources.rank in self.missing_on:
            raise TopologyError(f"no toy on rank {resources.rank}")
        return super().build(resources)


def picky(*ranks: int, space: int = 0) -> Job:
    recipe = PickyRecipe(EXPANSION, missing_on=frozenset(ranks))
    return Job(space, recipe, CLASSES)


def opened(transport: RecordingTransport, notes: Notes, each: Job) -> Dispatcher:
    master = dispatcher(transport, notes)
    master.open(each, choose)
    return master


def die_before_hello(transport: RecordingTransport, rank: int) -> None:
    transport.infos.pop(rank)
    transport.kill(rank)


def die_when_opened(transport: RecordingTransport, rank: int) -> None:
    transport.dies_when_told[rank] = Open


def die_before_open(transport: RecordingTransport, rank: int) -> None:
    transport.kill(rank)


def die_at_first_work(transport: RecordingTransport, rank: int) -> None:
    transport.dies_when_told[rank] = Work


def die_at_work(transport: RecordingTransport, rank: int) -> None:
    transport.dies_after[rank] = 2


DEATHS = (die_before_hello, die_before_open, die_when_opened, die_at_first_work, die_at_work)
Death = Callable[[RecordingTransport, int], None]


def work_with(
    transport: RecordingTransport, notes: Notes, n_agents: int
) -> tuple[bool, Dispatcher]:
    master = Dispatcher(transport, n_agents, notes, observer=notes)
    master.open(job(), choose)
    is_through = master.run()
    master.close(job())
    master.scheduler.check_invariants()
    return is_through, master


def assert_left_in_peace(transport: RecordingTransport) -> None:
    """Assert that nothing was sent to an agent after it was known to be lost."""
    for rank, n_sent in transport.n_sent_at_loss.items():
        assert not [to for to, _ in transport.sent[n_sent:] if to == rank]


@pytest.mark.parametrize("death", DEATHS)
def test_one_agent_may_die_at_any_time(death: Death) -> None:
    transport, notes = RecordingTransport(3), Notes()
    death(transport, 1)
    is_through, _ = work_with(transport, notes, 3)
    assert is_through
    assert notes.done == TRUTH
    assert [rank for rank, _ in notes.lost] == [1]
    assert_left_in_peace(transport)


@pytest.mark.parametrize("death", DEATHS)
@pytest.mark.parametrize("other", DEATHS)
def test_when_all_are_lost_the_run_ends_and_says_so(death: Death, other: Death) -> None:
    transport, notes = RecordingTransport(2), Notes()
    death(transport, 0)
    other(transport, 1)
    is_through, master = work_with(transport, notes, 2)
    assert not is_through
    assert master.ending is not None
    assert master.ending.startswith("all agents are lost: rank 0: its node was switched off")
    assert "rank 1: its node was switched off" in master.ending
    assert sorted(rank for rank, _ in notes.lost) == [0, 1]
    assert notes.flushed_at[-1] == len(notes.kept)
    assert_left_in_peace(transport)


def test_a_master_that_computes_nothing_does_not_go_on_alone() -> None:
    transport, notes = RecordingTransport(2), Notes()
    transport.demote(0)
    transport.kill(1)
    is_through, master = work_with(transport, notes, 2)
    assert not is_through
    assert master.ending == "all agents are lost: rank 1: its node was switched off"
    assert transport.sent_of(Work) == []


def test_a_pool_that_has_lost_an_agent_serves_the_next_job_without_it() -> None:
    transport, first, second = RecordingTransport(3), Notes(), Notes()
    die_at_work(transport, 2)
    assert work_with(transport, first, 3)[0]
    assert work_with(transport, second, 3)[0]
    assert second.done == TRUTH
    assert second.lost == []
    assert_left_in_peace(transport)


def test_tasks_cut_off_with_their_agent_are_counted_and_blamed_on_it() -> None:
    """Every agent dies of its first task, and so the task is given up in the end."""
    transport, notes = RecordingTransport(4), Notes()
    for rank in range(3):
        die_at_first_work(transport, rank)
    options = SchedulerOptions(max_deaths=3, lookahead_tasks=0)
    master = dispatcher(transport, notes, options=options)
    master.open(job(), choose)
    assert master.run()
    assert notes.n_cut_off == 3
    assert notes.done.keys() | {task for task, *_ in notes.failed} == ALL
    for _, failure, n_attempts in notes.failed:
        assert (failure.error_type, n_attempts) == ("crashed", 3)
        assert failure.message.endswith("which ran it, was lost: its node was switched off")


def test_an_agent_that_refuses_is_left_out() -> None:
    transport, notes = RecordingTransport(3), Notes()
    assert work(transport, picky(0, 2), notes)
    assert notes.done == TRUTH
    assert notes.refused == [0, 2]
    assert notes.joined == [1]
    assert {to for to, _ in transport.sent_of(Work)} == {1}
    assert sorted(to for to, _ in transport.sent_of(Shut)) == [0, 1, 2]
    assert work(transport, job(space=1), Notes())


def test_when_all_who_are_left_refuse_the_first_refusal_is_raised() -> None:
    transport, notes = RecordingTransport(3), Notes()
    die_when_opened(transport, 1)
    with pytest.raises(TopologyError, match="no toy on rank 0"):
        opened(transport, notes, picky(0, 2))
    assert transport.sent_of(Work) == []


def test_an_idle_masters_consent_is_none() -> None:
    transport, notes = RecordingTransport(3), Notes()
    transport.demote(0)
    with pytest.raises(TopologyError, match="no toy on rank 1"):
        opened(transport, notes, picky(1, 2))


def test_an_agent_that_refuses_the_second_space_does_no_more_of_the_first() -> None:
    transport, notes = RecordingTransport(2), Notes()
    master = opened(transport, notes, picky())
    master.open(picky(0, space=1), choose)
    assert master.run()
    assert notes.refused == [0]
    kinds = [type(message) for to, message in transport.sent if to == 0]
    assert set(kinds[kinds.index(Shut) :]) == {Shut}
    for space in (0, 1):
        counts = master.scheduler.counts(space)
        assert (counts.done, counts.quarantined) == (len(ALL), 0)


def test_an_agent_that_cannot_go_on_is_left_out_in_mid_run() -> None:
    transport, notes = RecordingTransport(2), Notes()
    master = opened(transport, notes, job())
    transport.to_tell = [(1, Ready(0, TopologyError("its slots die young")))]
    assert master.run()
    assert notes.done == TRUTH
    assert notes.refused == [1]


def test_when_the_last_one_cannot_go_on_the_run_ends_and_says_so() -> None:
    transport, notes = RecordingTransport(1), Notes()
    master = opened(transport, notes, job())
    transport.to_tell = [(0, Ready(0, TopologyError("its slots die young")))]
    assert not master.run()
    assert master.ending == "all agents are lost: rank 0: its slots die young"


def test_one_that_does_not_get_ready_is_told_to_shut_and_done_without() -> None:
    transport, notes = RecordingTransport(3), Notes()
    transport.agents.pop(1)
    clock = itertools.count(step=7)
    master = dispatcher(transport, notes, clock=lambda: float(next(clock)))
    master.open(job(), choose)
    assert (notes.refused, notes.joined) == ([1], [0, 2])
    assert [to for to, _ in transport.sent_of(Shut)] == [1]
    transport.to_tell = [(1, Ready(0))]  # it gets ready after all
    assert master.run()
    assert notes.done == TRUTH
    assert {to for to, _ in transport.sent_of(Work)} == {0, 2}


def test_when_nobody_gets_ready_another_try_may_help() -> None:
    transport, notes = RecordingTransport(2), Notes()
    transport.agents.clear()
    clock = itertools.count(step=7)
    master = dispatcher(transport, notes, clock=lambda: float(next(clock)))
    with pytest.raises(Interrupted, match=r"no agent got ready within 300 s.* of rank 0, 1$"):
        master.open(job(), choose)
    assert notes.refused == []


def test_an_agent_has_given_its_slots_up_before_it_is_given_up_itself() -> None:
    assert agent._OPENING_S < dispatch._HELLO_S


def test_an_agent_that_is_set_aside_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    transport, notes = RecordingTransport(2), Notes()
    master = opened(transport, notes, job())
    monkeypatch.setattr(master.scheduler, "step", lambda event, now: [m.SetAside(1, "bad")])
    master._step(m.Ticked())
    assert notes.aside == [(1, "bad")]


def test_a_stop_with_grace_saves_first_and_cuts_off_then() -> None:
    """SIGTERM: what is finished is safe at once, and the rest gets two seconds."""
    transport, stop = RecordingTransport(1), Stop()
    notes = Notes(stop, stop_after=2, grace_s=2.0)
    master = dispatcher(transport, notes, stop=stop, clock=lambda: 0.9 * len(notes.kept))
    master.open(job(), placing(CLASSES, 5))
    assert not master.run()
    assert master.ending == "SIGTERM"
    n_at_stop = notes.flushed_at[0]
    assert n_at_stop == notes.stopped_at
    assert notes.flushed_at[-1] == len(notes.kept)
    assert len(notes.kept) - n_at_stop <= 3


class Struck(RecordingTransport):
    """Agents whose programs die of the signals that ask the job to end, while they are at work."""

    def __init__(self, n_agents: int, stop: Stop, *graces_s: float | None) -> None:
        super().__init__(n_agents)
        self._stop = stop
        self._graces_s = graces_s
        self.n_died = 0

    def poll(self, timeout_s: float) -> list[tuple[int, FromAgent]]:
        news = super().poll(timeout_s)
        is_at_work = len(self.sent_of(Work)) > 4 and any(isinstance(x, Done) for _, x in news)
        if is_at_work and self._stop.reason is None:
            for grace_s in self._graces_s:
                self._stop.request("SIGTERM", grace_s)
            news = [(rank, self._struck(message)) for rank, message in news]
        return news

    def _struck(self, message: FromAgent) -> FromAgent:
        if not isinstance(message, Done):
            return message
        self.n_died += len(message.outcomes)
        died = Failure(ErrorClass.CRASHED, "crashed", "killed by signal 15")
        return Done(tuple(replace(each, failure=died) for each in message.outcomes))


@pytest.mark.parametrize("graces_s", [(2.0,), (None, 2.0)])
def test_programs_that_die_of_sigterm_leave_their_tasks_open(
    graces_s: tuple[float | None, ...],
) -> None:
    """Also of the one that comes when a job has drained for too long."""
    stop, notes = Stop(), Notes()
    transport = Struck(3, stop, *graces_s)
    master = dispatcher(transport, notes, stop=stop, options=SchedulerOptions(n_retries=0))
    master.open(job(), choose)
    assert not master.run()
    assert master.ending == "SIGTERM"
    assert transport.n_died
    assert notes.failed == []
    assert len(notes.done) == len(notes.kept) < len(ALL)
    assert notes.done.items() < TRUTH.items()
    counts = master.scheduler.counts(0)
    assert (counts.done, counts.quarantined) == (len(notes.done), 0)
    master.scheduler.check_invariants()


def test_a_program_that_dies_while_the_job_only_drains_has_failed() -> None:
    stop, notes = Stop(), Notes()
    transport = Struck(3, stop, None)
    assert not work(transport, job(), notes, stop=stop, options=SchedulerOptions(n_retries=0))
    assert len(notes.failed) == transport.n_died > 0


def test_a_stop_with_grace_ends_as_soon_as_nothing_runs() -> None:
    transport, stop = RecordingTransport(2), Stop()
    notes = Notes(stop, stop_after=3, grace_s=1e9)
    assert not work(transport, job(), notes, stop=stop)
    assert len(notes.kept) < len(ALL)


def test_only_the_first_wish_counts_and_the_second_is_urgent() -> None:
    stop = Stop()
    stop.request("SIGUSR1")
    assert (stop.reason, stop.grace_s, stop.is_urgent) == ("SIGUSR1", None, False)
    stop.request("SIGTERM", 2.0)
    assert (stop.reason, stop.grace_s, stop.is_urgent) == ("SIGUSR1", None, True)


def test_results_do_not_wait_for_a_long_task_in_this_thread() -> None:
    transport, notes = RecordingTransport(1), Notes()
    master = dispatcher(transport, notes, clock=lambda: 5.0 * len(notes.kept))
    master.open(job(), choose)
    assert master.run()
    n_told = [len(each.outcomes) for _, each in transport.heard if isinstance(each, Done)]
    assert notes.flushed_at == np.cumsum(n_told).tolist()


class FullDisk(Notes):
    """A sink that takes five outcomes."""

    def append(self, outcomes: Sequence[Outcome]) -> None:
        super().append(outcomes)
        if len(self.kept) > 5:
            raise StoreError("the disk is full")


def test_a_sink_that_fails_ends_the_run_and_the_agents_work() -> None:
    transport = RecordingTransport(2)
    with pytest.raises(StoreError, match="full"):
        work(transport, job(), FullDisk())
    assert {to for to, _ in transport.sent_of(Shut)} == {0, 1}
    notes = Notes()
    assert work(transport, job(space=1), notes)
    assert notes.done == TRUTH


class Logging(Notes):
    """An observer that logs every step."""

    def __init__(self, log: EventLog, stop: Stop | None, stop_after: int) -> None:
        super().__init__(stop, stop_after=stop_after)
        self.stepped = log.write  # type: ignore[assignment]


@pytest.mark.parametrize("seed", range(12))
def test_a_log_of_losses_and_failures_replays_to_the_same_commands(
    tmp_path: Path, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    kinds = rng.choice(["transient", "convergence"], 6).tolist()
    faults = dict(zip(rng.integers(0, len(ALL), 6).tolist(), kinds, strict=True))
    once = str(tmp_path) if seed % 2 else ""
    transport, stop = RecordingTransport(4), Stop()
    transport.dies_after = {1: int(rng.integers(1, 6)), 2: int(rng.integers(1, 9))}
    sizes = int(rng.integers(1, len(ALL)))
    classes = (TaskClass(0, range(sizes), 3.0), TaskClass(1, range(sizes, len(ALL)), 1.0))
    each = Job(0, ToyRecipe(EXPANSION, faults=faults, once=once), classes)
    options = SchedulerOptions(order="level" if seed % 3 else "lpt")
    path = tmp_path / "log"
    with EventLog(path) as log:
        notes = Logging(log, stop if seed % 4 == 3 else None, 20)
        master = dispatcher(transport, notes, options=options, stop=stop)
        if seed % 4 == 1:
            master.set_deadline(1e9)
        master.open(each, placing(classes))
        master.run()
    steps = list(read_events(path))
    again = Scheduler(options=options)
    assert [tuple(again.step(step.event, step.now)) for step in steps] == [
        step.commands for step in steps
    ]
    kept = [type(step.event).__name__ for step in steps]
    assert kept.count("AgentLost") == len(notes.lost)
    assert kept.count("TaskFailed") == sum(o.failure is not None for o in notes.kept)


def test_a_refusal_is_still_the_error_it_was() -> None:
    with pytest.raises(QcmbError) as caught:
        opened(RecordingTransport(2), Notes(), picky(0, 1))
    assert type(caught.value) is TopologyError
    assert caught.value.exit_code == 2

"""The dispatcher with agents in this process: what is lost is run elsewhere, stale is ignored."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qcmb_mpi.errors import Interrupted, QcmbError, TopologyError
from qcmb_mpi.execution.dispatch import Dispatcher, Job
from qcmb_mpi.execution.layout import Placement
from qcmb_mpi.execution.observer import Observer
from qcmb_mpi.execution.outcome import Failure, Outcome
from qcmb_mpi.execution.stop import Stop
from qcmb_mpi.execution.wire import (
    AgentInfo,
    Closed,
    Done,
    FromAgent,
    Lost,
    Open,
    Ready,
    Returned,
    Shut,
    ToAgent,
    Work,
)
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.scheduling.messages import TaskClass
from qcmb_mpi.scheduling.placement import Layout
from qcmb_mpi.scheduling.policy import ErrorClass
from qcmb_mpi.scheduling.reporting import report_interval_s
from qcmb_mpi.scheduling.scheduler import SchedulerOptions
from tests.edge.transports import RecordingTransport
from tests.engines import ToyRecipe, toy_energy
from tests.toys import toy_expansion

EXPANSION = toy_expansion(6)
SPACE = TaskSpace(EXPANSION)
ALL = set(range(SPACE.n_tasks))
CLASSES = (TaskClass(stage=0, ids=range(SPACE.n_tasks), cost_s=1.0),)
Told = tuple[int, Failure, int]


class Notes(Observer):
    """A sink and an observer that remembers everything."""

    def __init__(
        self,
        stop: Stop | None = None,
        *,
        stop_after: int = 0,
        n_requests: int = 1,
        grace_s: float | None = None,
    ) -> None:
        self.kept: list[Outcome] = []
        self.failed: list[Told] = []
        self.lost: list[tuple[int, str]] = []
        self.refused: list[int] = []
        self.aside: list[tuple[int, str]] = []
        self.n_cut_off = 0
        self.flushed_at: list[int] = []
        self.joined: list[int] = []
        self._stop = stop
        self._stop_after = stop_after
        self._n_requests = n_requests
        self._grace_s = grace_s
        self.stopped_at = 0

    def append(self, outcomes: Sequence[Outcome]) -> None:
        self.kept += outcomes

    def commit_if_due(self) -> None:
        pass

    def flush(self) -> None:
        self.flushed_at.append(len(self.kept))

    def agent_joined(self, agent: int, info: object, layout: Layout) -> None:
        self.joined.append(agent)

    def agent_refused(self, agent: int, info: object, error: QcmbError) -> None:
        self.refused.append(agent)

    def agent_lost(self, agent: int, info: object, reason: str) -> None:
        self.lost.append((agent, reason))

    def agent_set_aside(self, agent: int, reason: str) -> None:
        self.aside.append((agent, reason))

    def cut_off(self, n_tasks: int) -> None:
        self.n_cut_off += n_tasks

    def quarantined(self, space: int, task: int, failure: Failure, n_attempts: int) -> None:
        self.failed.append((task, failure, n_attempts))

    def outcomes(self, agent: int, outcomes: Sequence[Outcome]) -> None:
        if self._stop is not None and len(self.kept) >= self._stop_after:
            while self._n_requests:
                self._n_requests -= 1
                self._stop.request("SIGTERM", self._grace_s)
                self.stopped_at = len(self.kept)

    @property
    def done(self) -> dict[int, float | None]:
        return {o.task: o.energy_hartree for o in self.kept if o.failure is None}


def job(recipe: ToyRecipe | None = None, *, space: int = 0, done: Sequence[int] = ()) -> Job:
    return Job(space, recipe or ToyRecipe(EXPANSION), CLASSES, np.array(done, dtype=np.int64))


def dispatcher(transport: RecordingTransport, notes: Notes, **options: object) -> Dispatcher:
    n_agents = len(transport.infos)
    return Dispatcher(transport, n_agents, notes, observer=notes, **options)  # type: ignore[arg-type]


def placing(
    classes: tuple[TaskClass, ...], n_slots: int = 1
) -> Callable[[Sequence[AgentInfo]], Placement]:
    """Give agents that compute as many slots."""

    def layout_of(info: AgentInfo) -> Layout:
        return Layout(n_slots if info.n_cores else 0, 1, 0, "as the test says")

    return lambda _: Placement(layout_of, classes, "as the test says")


choose = placing(CLASSES)


def work(transport: RecordingTransport, each: Job, notes: Notes, **options: object) -> bool:
    """Run one job to its end, checking the scheduler at the end."""
    master = dispatcher(transport, notes, **options)
    try:
        master.open(each, placing(each.classes))
        is_through = master.run()
        master.scheduler.check_invariants()
        return is_through
    finally:
        master.close(each)


def expected(task: int) -> float:
    clusters = SPACE.clusters(np.array([task]))
    return toy_energy(clusters.real[0], clusters.basis[0], 0)


TRUTH = {task: expected(task) for task in ALL}


@pytest.mark.parametrize("n_agents", [1, 2, 5])
def test_every_task_is_run_once_and_right(n_agents: int) -> None:
    transport, notes = RecordingTransport(n_agents), Notes()
    assert work(transport, job(), notes)
    assert notes.done == TRUTH
    assert len(notes.kept) == len(ALL)
    assert {to for to, _ in transport.sent_of(Work)} == set(notes.joined) == set(range(n_agents))


def test_what_is_done_is_not_run_again() -> None:
    notes = Notes()
    assert work(RecordingTransport(2), job(done=[0, 5, 7]), notes)
    assert notes.done.keys() == ALL - {0, 5, 7}


def test_a_failure_that_passes_is_retried(tmp_path: Path) -> None:
    recipe = ToyRecipe(EXPANSION, faults={3: "transient", 9: "transient"}, once=str(tmp_path))
    notes = Notes()
    assert work(RecordingTransport(2), job(recipe), notes)
    assert notes.done == TRUTH
    assert notes.failed == []
    assert sorted(o.task for o in notes.kept if o.failure) == [3, 9]


@pytest.mark.parametrize(("fault", "n_attempts"), [("transient", 4), ("convergence", 1)])
def test_a_failure_for_good_is_told_and_stops_nothing(fault: str, n_attempts: int) -> None:
    notes = Notes()
    recipe = ToyRecipe(EXPANSION, faults={3: fault})
    options = SchedulerOptions(n_retries=3)
    assert work(RecordingTransport(2), job(recipe), notes, options=options)
    assert notes.done.keys() == ALL - {3}
    [(task, failure, n_told)] = notes.failed
    assert (task, n_told) == (3, n_attempts)
    assert failure.message == f"planned fault {fault}"
    assert failure.output_tail == "tail of the output"


def test_a_failed_task_is_retried_by_another_agent() -> None:
    transport, notes = RecordingTransport(3), Notes()
    recipe = ToyRecipe(EXPANSION, faults={3: "transient"})
    work(transport, job(recipe), notes, options=SchedulerOptions(n_retries=2))
    told = [(rank, message) for rank, message in transport.heard if isinstance(message, Done)]
    tried = [rank for rank, message in told for o in message.outcomes if o.task == 3]
    assert sorted(tried) == [0, 1, 2]


def test_the_tasks_of_a_lost_agent_are_run_by_the_other() -> None:
    transport, notes = RecordingTransport(2), Notes()
    transport.dies_after = {1: 2}
    assert work(transport, job(), notes)
    assert notes.done == TRUTH
    assert notes.lost == [(1, "its node was switched off")]
    assert 1 not in transport.agents


def test_a_result_that_comes_after_the_loss_of_its_agent_is_no_error() -> None:
    transport, notes = RecordingTransport(2), Notes()
    master = dispatcher(transport, notes)
    master.open(job(), choose)
    late = Done((Outcome(0, 4, 0.0, 1.0, energy_hartree=TRUTH[4]),))
    transport.to_tell = [(1, Lost("gone")), (1, late)]
    del transport.agents[1]
    assert master.run()
    assert notes.done == TRUTH
    master.scheduler.check_invariants()


def test_an_agent_that_cannot_work_says_why() -> None:
    transport, notes = RecordingTransport(2), Notes()
    refusing = ToyRecipe(EXPANSION, faults={-1: "refuse"})
    with pytest.raises(TopologyError, match="missing on this node"):
        work(transport, job(refusing), notes)
    assert notes.kept == []
    assert transport.sent_of(Work) == []
    assert {to for to, _ in transport.sent_of(Shut)} == {0, 1}


def test_the_pool_is_as_good_as_before_after_a_refusal() -> None:
    """The second agent's refusal arrives when the first one's has already ended the job."""
    transport, notes = RecordingTransport(2), Notes()
    with pytest.raises(TopologyError):
        work(transport, job(ToyRecipe(EXPANSION, faults={-1: "refuse"})), notes)
    transport.to_tell = [(1, Ready(0, TopologyError("late")))]
    assert work(transport, job(space=1), notes)
    assert notes.done == TRUTH


def test_stop_lets_what_runs_end_and_starts_nothing() -> None:
    transport, stop = RecordingTransport(2), Stop()
    notes = Notes(stop, stop_after=3)
    assert not work(transport, job(), notes, stop=stop)
    n_sent = sum(len(message.ids) for _, message in transport.sent_of(Work))
    returned = [message for _, message in transport.heard if isinstance(message, Returned)]
    n_returned = sum(len(message.ids) for message in returned)
    assert 3 <= len(notes.kept) < len(ALL)
    assert len(notes.done) == n_sent - n_returned


def test_stop_twice_ends_at_once() -> None:
    transport, stop = RecordingTransport(2), Stop()
    notes = Notes(stop, stop_after=1, n_requests=2)
    assert not work(transport, job(), notes, stop=stop)
    n_held = sum(len(message.ids) for _, message in transport.sent_of(Work))
    assert len(notes.kept) < n_held
    assert {to for to, _ in transport.sent_of(Shut)} == {0, 1}


class Hoarding(RecordingTransport):
    """Two agents, one of which tells what it has finished when it is shut, or not even then."""

    def __init__(self, *, is_mute: bool) -> None:
        super().__init__(2)
        self.is_mute = is_mute
        self.hoard: list[tuple[int, FromAgent]] = []

    def poll(self, timeout_s: float) -> list[tuple[int, FromAgent]]:
        news = super().poll(timeout_s)
        held = [each for each in news if each[0] and isinstance(each[1], Done | Closed)]
        self.hoard += held
        news = [each for each in news if each not in held]
        return news + self.hoard if self.sent_of(Shut) and not self.is_mute else news


@pytest.mark.parametrize("is_mute", [False, True])
def test_stop_at_once_takes_in_what_is_finished_from_who_does_not_keep_it_waiting(
    is_mute: bool, caplog: pytest.LogCaptureFixture
) -> None:
    transport, stop = Hoarding(is_mute=is_mute), Stop()
    notes = Notes(stop, stop_after=4, n_requests=2)
    assert not work(transport, job(), notes, stop=stop)
    n_hoarded = sum(len(each.outcomes) for _, each in transport.hoard if isinstance(each, Done))
    assert n_hoarded
    n_done = sum(len(each.outcomes) for _, each in transport.heard if isinstance(each, Done))
    assert len(notes.kept) == n_done - is_mute * n_hoarded
    assert notes.flushed_at[-1] == len(notes.kept)
    assert ("rank 1 did not tell" in caplog.text) == is_mute


def test_stop_while_agents_are_awaited_is_an_interruption() -> None:
    stop = Stop()
    stop.request("SIGINT")
    master = Dispatcher(RecordingTransport(1), 2, Notes(), stop=stop)
    with pytest.raises(Interrupted, match="SIGINT"):
        master.open(job(), choose)


def late(transport: RecordingTransport, notes: Notes, n_agents: int = 2) -> Dispatcher:
    clock = itertools.count(step=100)
    return Dispatcher(transport, n_agents, notes, observer=notes, clock=lambda: float(next(clock)))


def test_agents_that_never_come_are_done_without() -> None:
    transport, notes = RecordingTransport(1), Notes()
    master = late(transport, notes)
    master.open(job(), choose)
    assert notes.refused == [1]
    transport.infos[1] = transport.infos[0]  # it comes after all
    assert master.run()
    assert notes.done == TRUTH
    assert {to for to, _ in transport.sent} == {0}


def test_when_only_an_idle_master_is_there_another_try_may_help() -> None:
    transport = RecordingTransport(1)
    transport.demote(0)
    with pytest.raises(Interrupted, match=r"no agent got ready within 300 s.* of rank 1$"):
        late(transport, Notes()).open(job(), choose)


def test_no_task_is_measured_by_the_memory_of_a_master_that_computes_nothing() -> None:
    transport, notes = RecordingTransport(2), Notes()
    transport.infos = {0: AgentInfo(0, "large", 0, 900), 1: AgentInfo(1, "small", 1, 100)}
    classes = (TaskClass(stage=0, ids=range(SPACE.n_tasks), cost_s=1.0, memory_bytes=500),)
    assert work(transport, Job(0, ToyRecipe(EXPANSION), classes), notes)
    assert notes.done == TRUTH


def test_what_is_thought_too_large_fits_into_all_nodes_that_differ_by_a_page() -> None:
    transport, notes = RecordingTransport(3), Notes()
    sizes = (10**9, 10**9 - 4096, 10**9 - 8192)
    transport.infos = {
        rank: AgentInfo(rank, f"node{rank}", 1, size) for rank, size in enumerate(sizes)
    }
    classes = (TaskClass(stage=0, ids=range(SPACE.n_tasks), cost_s=1.0, memory_bytes=2 * 10**9),)
    assert work(transport, Job(0, ToyRecipe(EXPANSION), classes), notes)
    assert {to for to, _ in transport.sent_of(Work)} == {0, 1, 2}


def test_nothing_to_do_opens_no_agent_and_waits_for_none() -> None:
    transport, notes = RecordingTransport(1), Notes()
    master = Dispatcher(transport, 7, notes)
    each = job(done=sorted(ALL))
    master.open(each, choose)
    assert master.run()
    master.close(each)
    assert transport.sent == []
    assert notes.kept == []


def test_what_comes_before_work_comes_when_agents_are_ready_and_before_any_task() -> None:
    transport, notes = RecordingTransport(2), Notes()
    master = dispatcher(transport, notes)
    seen: list[tuple[bool, int]] = []

    def note() -> None:
        is_any_ready = any(isinstance(message, Ready) for _, message in transport.heard)
        seen.append((is_any_ready, len(transport.sent_of(Work))))

    master.open(job(), choose, note)
    assert seen == [(True, 0)]
    assert transport.sent_of(Work)


def test_what_comes_before_work_does_not_come_where_nobody_can_work() -> None:
    transport = RecordingTransport(1)
    with pytest.raises(QcmbError):
        dispatcher(transport, Notes()).open(
            job(ToyRecipe(EXPANSION, faults={-1: "refuse"})), choose, lambda: pytest.fail("ran")
        )


def test_a_deadline_that_has_passed_starts_nothing() -> None:
    transport, notes = RecordingTransport(1), Notes()
    master = dispatcher(transport, notes, clock=lambda: 100.0)
    master.set_deadline(99.0)
    with pytest.raises(Interrupted, match="deadline"):
        master.open(job(), choose)
    assert transport.sent_of(Work) == []


def test_a_deadline_cuts_off_what_runs() -> None:
    transport, notes = RecordingTransport(1), Notes()
    master = dispatcher(transport, notes, clock=lambda: float(len(notes.kept)))
    master.set_deadline(3.0)
    master.open(job(), choose)
    assert not master.run()
    assert 0 < len(notes.kept) < len(ALL)


def test_a_job_is_closed_at_every_agent() -> None:
    transport = RecordingTransport(3)
    work(transport, job(), Notes())
    assert [to for to, _ in transport.sent_of(Open)] == [0, 1, 2]
    assert transport.sent[-3:] == [(0, Shut(0)), (1, Shut(0)), (2, Shut(0))]


class Numbering(RecordingTransport):
    """Numbers reports, and notes the last one with what work says of it."""

    n_told = 0

    def poll(self, timeout_s: float) -> list[tuple[int, FromAgent]]:
        """Return what one agent has to say."""
        news = super().poll(timeout_s)
        self.n_told += sum(isinstance(message, Done) for _, message in news)
        return [
            (to, replace(message, number=self.n_told) if isinstance(message, Done) else message)
            for to, message in news
        ]

    def send(self, to: int, message: ToAgent) -> None:
        """Compare."""
        if isinstance(message, Work):
            assert message.n_heard == self.n_told
        super().send(to, message)


def test_work_tells_which_report_was_the_last_that_was_heard() -> None:
    transport = Numbering(1)
    one_by_one = SchedulerOptions(lookahead_s=0.0, lookahead_tasks=0)
    assert work(transport, job(), Notes(), options=one_by_one)
    assert len(transport.sent_of(Work)) > 2


def test_agents_are_told_how_long_to_collect_results_for_how_many_they_are() -> None:
    for n_agents in (1, 3):
        transport = RecordingTransport(n_agents)
        work(transport, job(), Notes())
        told = {getattr(message, "report_s", None) for _, message in transport.sent_of(Open)}
        assert told == {report_interval_s(n_agents)}


def test_stale_messages_of_another_job_are_ignored() -> None:
    """What a pool still had to say of a job that was stopped at once."""
    transport, notes = RecordingTransport(2), Notes()
    failure = Failure(ErrorClass.CRASHED, "crashed", "late")
    transport.to_tell = [
        (0, Done((Outcome(7, 1, 0.0, 1.0, energy_hartree=666.0),))),
        (0, Done((Outcome(7, 2, 0.0, 1.0, failure=failure),))),
        (1, Returned(7, np.array([3]))),
        (1, Ready(7)),
    ]
    assert work(transport, job(space=8), notes)
    assert notes.done == TRUTH
    assert notes.failed == []


def test_two_jobs_of_one_pool_do_not_mix() -> None:
    transport, first, second = RecordingTransport(2), Notes(), Notes()
    assert work(transport, job(), first)
    other = toy_expansion(4, bsse=("cp",))
    n_tasks = TaskSpace(other).n_tasks
    classes = (TaskClass(stage=0, ids=range(n_tasks), cost_s=1.0),)
    assert work(transport, Job(1, ToyRecipe(other), classes), second)
    assert len(second.done) == n_tasks
    assert first.done == TRUTH

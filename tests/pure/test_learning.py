"""Measured peaks into the books: who is given what afterwards, and what is left as it is."""

from __future__ import annotations

import numpy as np
import pytest

from qcmb_mpi.errors import IllegalEvent
from qcmb_mpi.scheduling import messages as m
from qcmb_mpi.scheduling.calibration import TimeCurve
from qcmb_mpi.scheduling.cost import CostModel
from qcmb_mpi.scheduling.learning import Lessons, common_bytes, expected_bytes, take_over, teach
from qcmb_mpi.scheduling.ledger import Ledger
from qcmb_mpi.scheduling.policy import ErrorClass
from qcmb_mpi.scheduling.pool import Pool
from qcmb_mpi.scheduling.scheduler import Scheduler
from tests.scheduling_cases import NO_LOOKAHEAD, Checked, one_class

MB = 10**6


class Run:
    """One agent of two slots and 100 MB, two classes of one family predicted at 40 and 50 MB."""

    def __init__(self) -> None:
        self.scheduler = Scheduler()
        self.pool: Pool = self.scheduler._pool
        self.now = 0.0
        self.step(m.AgentJoined(0, 2, 100 * MB))
        classes = (
            m.TaskClass(0, range(10), 1.0, 40 * MB, key="small", family="f"),
            m.TaskClass(0, range(10, 20), 2.0, 50 * MB, key="large", family="f"),
        )
        self.first = self.step(m.SpaceAdded(0, classes))

    def step(self, event: m.Event) -> list[m.Command]:
        self.now += 1.0
        said = self.scheduler.step(event, self.now)
        self.scheduler.check_invariants()
        return said

    def learn(self, task: int, peak_bytes: int) -> None:
        """Show the model a result, and let the books take it over."""
        ids = m.as_ids([task])
        event = m.TasksDone(0, 0, ids, np.array([1.0]), np.array([peak_bytes]))
        book = self.pool.books[0]
        teach(self.scheduler.cost_model, book, ids, np.array([1.0]), event)
        take_over(self.pool, self.scheduler.cost_model)

    @property
    def held(self) -> list[int]:
        return self.scheduler.held(0)[0].tolist()


def test_a_raise_while_tasks_are_held_breaks_nothing_and_holds_from_then_on() -> None:
    run = Run()
    held = run.held
    assert set(held[:2]) <= set(range(10, 20))
    run.learn(11, 80 * MB)
    assert run.pool.books[0].memory_bytes[1] >= 80 * MB
    while len(run.held) > 1:
        run.step(m.TasksDone(0, 0, m.as_ids(run.held[:1]), np.array([1.0])))
    for _ in range(40):
        if run.scheduler.is_finished:
            break
        sizes = run.pool.books[0].memory_bytes[run.pool.books[0].class_of(m.as_ids(run.held))]
        assert sum(sorted(sizes)[-2:]) <= 100 * MB or len(run.held) == 1
        run.step(m.TasksDone(0, 0, m.as_ids(run.held[:1]), np.array([1.0])))
    assert run.scheduler.is_finished


def test_a_family_is_asked_once_however_many_classes_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    n_asked = []
    seconds = TimeCurve.seconds
    monkeypatch.setattr(
        TimeCurve, "seconds", lambda *given: n_asked.append(len(given[1])) or seconds(*given)
    )
    scheduler = Scheduler()
    scheduler.step(m.AgentJoined(0, 2, 0), 0.0)
    classes = [m.TaskClass(0, range(n, n + 1), 1.0 + n, key=n, family="f") for n in range(500)]
    scheduler.step(m.SpaceAdded(0, tuple(classes)), 1.0)
    scheduler.step(m.TasksDone(0, 0, m.as_ids([499]), np.array([1.0])), 2.0)
    assert n_asked == [499]  # of what was measured itself nobody asks
    book = scheduler._pool.books[0]
    assert book.cost_s[499] == pytest.approx(1.0)
    assert book.cost_s[498] < 499.0
    assert (book.bound_s == book.cost_s).all()
    assert book.n_seen.tolist() == [0] * 499 + [1]


def test_no_raise_makes_a_task_impossible() -> None:
    run = Run()
    run.learn(11, 900 * MB)
    assert run.pool.books[0].memory_bytes.max() == 100 * MB
    while not run.scheduler.is_finished:
        said = run.step(m.TasksDone(0, 0, m.as_ids(run.held[:1]), np.array([1.0])))
        assert not any(isinstance(each, m.Quarantine) for each in said)


def test_small_peaks_make_room_but_never_below_what_was_measured() -> None:
    run = Run()
    for task in (10, 11, 12):
        run.learn(task, 20 * MB)
    book = run.pool.books[0]
    assert 20 * MB <= book.memory_bytes[1] < 25 * MB
    assert book.memory_bytes[0] == 40 * MB
    assert (book.least_bytes <= book.memory_bytes).all()


def test_an_event_without_peaks_leaves_memory_alone() -> None:
    run = Run()
    ids = m.as_ids([10])
    event = m.TasksDone(0, 0, ids, np.array([1.0]))
    teach(run.scheduler.cost_model, run.pool.books[0], ids, np.array([1.0]), event)
    take_over(run.pool, run.scheduler.cost_model)
    assert run.pool.books[0].memory_bytes.tolist() == [40 * MB, 50 * MB]


def test_peaks_follow_their_tasks_when_some_results_are_not_new() -> None:
    run = Run()
    event = m.TasksDone(
        0, 0, m.as_ids([10, 0, 11]), np.array([1.0, 1.0, 1.0]), np.array([1, 2, 70]) * MB
    )
    ids = m.as_ids([11])
    teach(run.scheduler.cost_model, run.pool.books[0], ids, np.array([1.0]), event)
    take_over(run.pool, run.scheduler.cost_model)
    assert run.pool.books[0].memory_bytes[1] >= 70 * MB


def test_more_than_fits_at_the_time_is_still_found_out() -> None:
    run = Run()
    book = run.pool.books[0]
    book.memory_bytes[:] = book.least_bytes[:] = 70 * MB
    with pytest.raises(IllegalEvent, match="memory"):
        run.scheduler.check_invariants()


def test_what_turns_out_to_need_more_than_those_left_have_runs_alone() -> None:
    pool = Checked(NO_LOOKAHEAD)
    pool.join(0, 1, 50 * MB, "small")
    pool.join(1, 1, 100 * MB, "large")
    pool.add((m.TaskClass(0, range(8), 1.0, 90 * MB, key="k", family="f"),))

    def done(agent: int, task: int, peak_bytes: int) -> list[m.Command]:
        peaks = np.array([peak_bytes])
        return pool.step(m.TasksDone(agent, 0, m.as_ids([task]), np.array([1.0]), peaks))

    for task in range(3):
        done(1, task, 20 * MB)
    pool.step(m.Ticked())
    assert pool.held == {0: {0: [4]}, 1: {0: [3]}}
    pool.step(m.AgentLost(1))
    said = done(0, 4, 80 * MB)
    assert [each.is_alone for each in said if isinstance(each, m.Assign)] == [True]
    pool.work_off()
    assert pool.scheduler.counts(0).done == 8


# ---------------------------------------------- what is not learnt, and what is not given way to


def test_programs_of_unknown_peaks_do_not_make_one_small_peak_trusted() -> None:
    run = Run()
    run.learn(10, 20 * MB)
    for task in (11, 12, 13):
        run.learn(task, 0)
    book = run.pool.books[0]
    assert book.memory_bytes[1] == 50 * MB
    for task in (14, 15):
        run.learn(task, 21 * MB)
    assert 21 * MB <= book.memory_bytes[1] < 25 * MB


def test_nothing_measured_goes_below_what_the_user_says() -> None:
    pool = Checked()
    pool.join(0, 2, 100 * MB)
    given = m.TaskClass(0, range(10), 1.0, 40 * MB, key="k", family="f", floor_bytes=40 * MB)
    pool.add((given,))
    model = pool.scheduler.cost_model
    for _ in range(5):
        model.observe("k", [1.0], prior_s=1.0, family="f", peak_bytes=[5 * MB], prior_bytes=40 * MB)
    assert model.memory_bytes("k", 40 * MB, family="f") < 6 * MB
    take_over(pool.scheduler._pool, model)
    assert pool.scheduler._pool.books[0].memory_bytes.tolist() == [40 * MB]
    assert expected_bytes(model, [given])[0] == 40 * MB
    model.observe("k", [1.0], prior_s=1.0, family="f", peak_bytes=[60 * MB], prior_bytes=40 * MB)
    assert expected_bytes(model, [given])[0] >= 60 * MB


def test_nodes_of_a_kind_have_in_common_what_the_smallest_of_them_has() -> None:
    assert common_bytes([100 * MB, 100 * MB - 4096, 95 * MB, 50 * MB]) == 95 * MB
    assert common_bytes([100 * MB]) == 100 * MB
    assert common_bytes([0, 100 * MB]) == common_bytes([]) == float("inf")


def test_what_is_thought_to_need_a_node_goes_to_all_that_differ_by_a_page() -> None:
    pool = Checked(NO_LOOKAHEAD)
    for agent in range(4):
        pool.join(agent, 4, 100 * MB - (4096 if agent else 0), f"node{agent}")
    pool.add((m.TaskClass(0, range(12), 1.0, 60 * MB, key="k", family="f"),))
    for task, agent in ((0, 0), (1, 1)):
        peaks = np.array([300 * MB])
        pool.step(m.TasksDone(agent, 0, m.as_ids([task]), np.array([1.0]), peaks))
    assert sorted(len(each[0]) for each in pool.held.values()) == [1, 1, 1, 1]


HALVES = (
    m.TaskClass(0, range(1), 9.0, 40 * MB, key=("k", 2), family="f", n_threads=2),
    m.TaskClass(0, range(1, 9), 1.0, 40 * MB, key="k", family="f"),
    m.TaskClass(0, range(9, 12), 1.0, 30 * MB, key="other", family="f"),
)


def test_what_a_wide_task_used_says_nothing_of_the_others() -> None:
    pool = Checked(NO_LOOKAHEAD)
    pool.join(0, 2, 100 * MB)
    said = pool.add(HALVES)
    assert [each.n_threads for each in said if isinstance(each, m.Assign)] == [2]
    pool.step(m.TasksDone(0, 0, m.as_ids([0]), np.array([9.0]), np.array([90 * MB])))
    books = pool.scheduler._pool.books
    assert books[0].memory_bytes.tolist() == [40 * MB, 40 * MB, 30 * MB]
    assert len(pool.held[0][0]) == 2


@pytest.mark.parametrize("has_run_short", [False, True])
def test_what_a_lone_task_used_says_nothing_of_its_family(has_run_short: bool) -> None:
    pool = Checked(NO_LOOKAHEAD)
    pool.join(0, 2, 100 * MB)
    pool.add(
        (
            m.TaskClass(0, range(8), 1.0, 40 * MB, key="k", family="f"),
            m.TaskClass(0, range(8, 11), 0.5, 30 * MB, key="other", family="f"),
        )
    )
    if has_run_short:
        pool.fail(0, 0, ErrorClass.RESOURCE)
    else:
        pool.scheduler._pool.lone[0, 0] = ""
    pool.done(0, 1)
    pool.step(m.TasksDone(0, 0, m.as_ids([0]), np.array([1.0]), np.array([90 * MB])))
    take_over(pool.scheduler._pool, pool.scheduler.cost_model)
    own, kin = pool.scheduler._pool.books[0].memory_bytes.tolist()
    assert kin == 30 * MB
    assert own >= 90 * MB if has_run_short else own == 40 * MB


# ---- many at a time ------------------------------------------------------------------------


def test_the_model_knows_all_that_was_measured_whenever_it_is_asked_for() -> None:
    pool = Checked()
    pool.join(0, 4)
    pool.add(one_class(400))
    for task in range(60):
        pool.done(0, task, seconds=2.0, peak_bytes=70)
        if task % 7 == 0:
            model = pool.scheduler.cost_model
            assert (model.n_observed, model.n_seen("k")) == (task + 1, task + 1)
    assert pool.scheduler.cost_model.cost_s("k", 1.0) == pytest.approx(2.0)


def test_lessons_are_the_same_one_by_one_and_all_at_once() -> None:
    def taught(is_at_once: bool) -> CostModel:
        pool = Checked()
        pool.join(0, 4)
        classes = tuple(
            m.TaskClass(0, range(i * 20, i * 20 + 20), 1.0 + i, 50, key=i, family="f")
            for i in range(5)
        )
        pool.add(classes)
        for task in range(90):
            pool.done(0, task, seconds=1.0 + 0.01 * task, peak_bytes=60 + task)
            if not is_at_once:
                assert pool.scheduler.cost_model.n_observed == task + 1
        return pool.scheduler.cost_model

    slow, quick = taught(False), taught(True)
    for key in range(5):
        assert quick.n_seen(key) == slow.n_seen(key)
        assert quick.cost_s(key, 1.0 + key) == pytest.approx(slow.cost_s(key, 1.0 + key))
        assert quick.memory_bytes(key, 50) == slow.memory_bytes(key, 50)


def test_lessons_that_wait_are_bounded() -> None:
    model = CostModel()
    lessons = Lessons(model)
    book = Ledger(m.SpaceAdded(0, one_class(20_000)), model)
    for first in range(0, 20_000, 500):
        ids = m.as_ids(range(first, first + 500))
        seconds = np.ones(500)
        lessons.note(book, ids, seconds, m.TasksDone(0, 0, ids, seconds))
        assert lessons.n_measured == first + 500
        assert lessons.n_measured - model.n_observed < 4096


def two_sizes(n_agents: int = 2) -> Checked:
    """Give agents that have done all of 200 large tasks, of which the books know, and no small."""
    pool = Checked()
    for agent in range(n_agents):
        pool.join(agent, 2)
    large = m.TaskClass(0, range(200), 1e-3, key="large", family="f")
    small = m.TaskClass(0, range(200, 400), 5e-4, key="small", family="f")
    pool.add((large, small))
    while any(large := [[x for x in pool.held[a].get(0, []) if x < 200] for a in range(n_agents)]):
        for agent, tasks in enumerate(large):
            if tasks:
                pool.step(m.TasksDone(agent, 0, m.as_ids(tasks), np.full(len(tasks), 1e-3)))
    return pool


def test_small_tasks_are_trusted_a_little_because_large_ones_were_measured() -> None:
    assert two_sizes().scheduler._pool.books[0].n_seen.tolist() == [200, 0]
    n_held = len(two_sizes().held[0][0])
    assert 8 < n_held < 50
    assert len(two_sizes(n_agents=1).held[0][0]) == 200


@pytest.mark.parametrize(
    ("n_agents", "n_blind", "least", "most"), [(1, 514, 1999, 1999), (2, 4, 2, 8)]
)
def test_an_only_agent_has_all_that_is_soon_over_once_one_task_was_measured(
    n_agents: int, n_blind: int, least: int, most: int
) -> None:
    pool = Checked()
    for agent in range(n_agents):
        pool.join(agent, 2)
    pool.add(one_class(2000, cost_s=1e-3))
    assert len(pool.held[0][0]) <= n_blind
    task = pool.held[0][0][0]
    pool.step(m.TasksDone(0, 0, m.as_ids([task]), np.array([1e-3])))
    assert least <= len(pool.held[0][0]) <= most


def test_what_was_measured_of_a_class_counts_at_once() -> None:
    pool = two_sizes()
    done = pool.held[0][0][:20]
    pool.step(m.TasksDone(0, 0, m.as_ids(done), np.full(20, 5e-4)))
    assert pool.scheduler._pool.books[0].n_seen.tolist() == [200, 20]

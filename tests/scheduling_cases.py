"""A scheduler that is checked after every step, and agents that follow its commands."""

from __future__ import annotations

import pickle
from collections.abc import Iterable

import numpy as np

from qcmb_mpi.scheduling import messages as m
from qcmb_mpi.scheduling.policy import ErrorClass
from qcmb_mpi.scheduling.scheduler import Scheduler, SchedulerOptions

RULES = {rule.event: rule for rule in m.EVENT_RULES}
NO_LOOKAHEAD = SchedulerOptions(lookahead_s=0.0, lookahead_tasks=0)


def ids(*numbers: int) -> m.Ids:
    return m.as_ids(numbers)


def one_class(n: int, cost_s: float = 1.0, **more: object) -> tuple[m.TaskClass, ...]:
    return (m.TaskClass(0, range(n), cost_s, key="k", **more),)  # type: ignore[arg-type]


def assigned(commands: list[m.Command]) -> dict[int, list[int]]:
    return {each.agent: each.ids.tolist() for each in commands if isinstance(each, m.Assign)}


class Checked:
    """Steps a scheduler, checks every invariant after it, and mirrors who was sent what."""

    def __init__(self, options: SchedulerOptions | None = None) -> None:
        self.scheduler = Scheduler(options=options)
        self.now = 0.0
        self.log: list[tuple[float, m.Event]] = []
        self.said: list[m.Command] = []
        self.held: dict[int, dict[int, list[int]]] = {}
        self.retracts: list[tuple[int, int]] = []

    def step(self, event: m.Event, *, after_s: float = 0.0) -> list[m.Command]:
        self.now += after_s
        was_draining = self.scheduler.is_draining
        event = pickle.loads(pickle.dumps(event))
        commands = self.scheduler.step(event, self.now)
        self.scheduler.check_invariants()
        self.log.append((self.now, event))
        self.said += commands
        assert {type(each) for each in commands} <= set(RULES[type(event)].commands)
        if was_draining:
            assert not any(isinstance(each, m.Assign) for each in commands)
        self._forget(event)
        for command in commands:
            self._follow(command)
        self._agrees_with_mirror()
        return commands

    def _forget(self, event: m.Event) -> None:
        if isinstance(event, m.AgentJoined):
            self.held[event.agent] = {}
        elif isinstance(event, m.AgentLost):
            self.held.pop(event.agent, None)
        elif isinstance(event, m.TasksDone):
            for spaces in self.held.values():
                self._drop(spaces, event.space, event.ids.tolist())
        elif isinstance(event, m.TaskFailed) and event.agent in self.held:
            self._drop(self.held[event.agent], event.space, [event.task])
        elif isinstance(event, m.TasksReturned) and event.agent in self.held:
            self._drop(self.held[event.agent], event.space, event.ids.tolist())

    @staticmethod
    def _drop(spaces: dict[int, list[int]], space: int, gone: Iterable[int]) -> None:
        left = [task for task in spaces.get(space, []) if task not in set(gone)]
        spaces.pop(space, None)
        if left:
            spaces[space] = left

    def _follow(self, command: m.Command) -> None:
        if isinstance(command, m.Assign):
            for agent in self.held.values():
                assert not set(agent.get(command.space, [])) & set(command.ids.tolist())
            self.held[command.agent].setdefault(command.space, []).extend(command.ids.tolist())
        elif isinstance(command, m.Retract):
            self.retracts.append((command.agent, command.space))
        elif isinstance(command, m.Retire):
            assert not self.held.pop(command.agent)

    def _agrees_with_mirror(self) -> None:
        for agent, spaces in self.held.items():
            held = {space: x.tolist() for space, x in self.scheduler.held(agent).items()}
            assert held == spaces, (agent, held, spaces)

    # ------------------------------------------------------------ shorthands

    def join(
        self, agent: int, n_slots: int = 1, memory_bytes: int = 0, host: str = ""
    ) -> list[m.Command]:
        return self.step(m.AgentJoined(agent, n_slots, memory_bytes, host))

    def add(
        self, classes: tuple[m.TaskClass, ...], space: int = 0, **more: object
    ) -> list[m.Command]:
        return self.step(m.SpaceAdded(space, classes, **more))  # type: ignore[arg-type]

    def done(
        self, agent: int, *tasks: int, space: int = 0, seconds: float = 1.0, peak_bytes: int = 0
    ) -> list[m.Command]:
        n = len(tasks)
        event = m.TasksDone(
            agent,
            space,
            ids(*tasks),
            np.full(n, seconds),
            np.full(n if peak_bytes else 0, peak_bytes),
        )
        return self.step(event, after_s=0.01)

    def fail(
        self,
        agent: int,
        task: int,
        error: ErrorClass = ErrorClass.TRANSIENT,
        space: int = 0,
        peak_bytes: int = 0,
    ) -> list[m.Command]:
        return self.step(m.TaskFailed(agent, space, task, error, peak_bytes), after_s=0.01)

    def answer_retracts(self, n_started: int | None = None) -> list[m.Command]:
        """Give back all but the first ``n_started`` (default: one for each slot)."""
        said: list[m.Command] = []
        asked, self.retracts = self.retracts, []
        for agent, space in asked:
            if agent not in self.held:
                continue
            first = 1 if n_started is None else n_started
            back = self.held[agent].get(space, [])[first:]
            said += self.step(m.TasksReturned(agent, space, ids(*back)))
        return said

    def work_off(self, seconds: float = 1.0, limit: int = 10_000) -> None:
        """Let every agent do what it holds until nothing moves any more."""
        for _ in range(limit):
            self.answer_retracts()
            busy = [(a, s, x) for a, spaces in self.held.items() for s, x in spaces.items()]
            if not busy:
                return
            agent, space, held = busy[0]
            self.done(agent, held[0], space=space, seconds=seconds)
        raise AssertionError("the work does not end")

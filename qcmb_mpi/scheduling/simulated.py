"""What a simulation is told and what it tells: faults, a machine, a result.

Rules of this file
------------------
1. Data only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qcmb_mpi.scheduling import messages as m
from qcmb_mpi.scheduling.policy import ErrorClass


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong.

    Parameters
    ----------
    failure_probability : float
        That an attempt fails.
    errors : sequence of ErrorClass
        What it fails with, each as likely as the others.
    bad_agents : set of int
        Agents on which every attempt fails.
    greedy_tasks : set of int
        Tasks that run out of memory unless they are alone.
    straggler_probability, straggler_factor : float
        That a task takes so many times longer.
    losses : sequence of (seconds, agent)
        Agents that die.
    peak_spread : float
        Standard deviation of the logarithm of measured over predicted memory; with 0 no peaks are
        told.
    """

    failure_probability: float = 0.0
    errors: Sequence[ErrorClass] = (ErrorClass.TRANSIENT,)
    bad_agents: frozenset[int] = frozenset()
    greedy_tasks: frozenset[int] = frozenset()
    straggler_probability: float = 0.0
    straggler_factor: float = 10.0
    losses: Sequence[tuple[float, int]] = ()
    peak_spread: float = 0.0


@dataclass(frozen=True, slots=True)
class Machine:
    """What it runs on.

    Parameters
    ----------
    n_agents, slots_per_agent : int
    memory_bytes : int
        Of each agent; 0 for no limit.
    agents_per_host : int
        Agents that share memory.
    message_s : float
        From agent to master or back.
    report_s : float
        How long an agent collects results before it reports them, unless it has nothing to do.
    step_s, receive_s, result_s, send_s : float
        Master's time for each event, besides that for each message of an agent, for each result
        in it (unpacked and put into the store), and for each message to an agent: it does one
        after the other.
    unlike : sequence of (int, int)
        Slots and bytes of each agent where they differ; ``slots_per_agent`` and ``memory_bytes``
        are not looked at then.
    """

    n_agents: int
    slots_per_agent: int = 1
    memory_bytes: int = 0
    message_s: float = 0.0
    report_s: float = 0.0
    step_s: float = 0.0
    receive_s: float = 0.0
    result_s: float = 0.0
    send_s: float = 0.0
    agents_per_host: int = 1
    unlike: Sequence[tuple[int, int]] = ()

    @property
    def agents(self) -> list[tuple[int, int]]:
        """Slots and bytes of each agent."""
        return list(self.unlike) or [(self.slots_per_agent, self.memory_bytes)] * self.n_agents


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """What came out.

    Parameters
    ----------
    makespan_s : float
        Until the last result is known to the master.
    busy_s : float
        Sum over all attempts; one of a wide task counts for every slot of its agent.
    lower_bound_s : float
        max(longest task, total / slots), all attempts of a task that were told of together: one
        that fails at its end has to begin again, so no scheduler can be faster.
    n_done, n_quarantined, n_computed : int
        Tasks with a result, tasks given up, and attempts that ended in the agents.
    n_events, n_messages, n_retracts : int
        Steps of the scheduler; messages to agents; how many of those asked for work back.
    master_s, steps_s : float
        Master's time, and that for steps alone.
    wait_s, longest_wait_s : float
        What events waited for the master: on average, and at most.
    plain_bound_s : float
        The same without the attempts that failed.
    n_set_aside, n_lone, n_wide, n_crowded : int
        Agents set aside; tasks assigned alone; assigned wide; starts of anything beside a lone or
        wide task (none).
    events : tuple of (float, Event)
        What the scheduler was told and when, if asked for.
    """

    makespan_s: float
    busy_s: float
    lower_bound_s: float
    n_done: int
    n_quarantined: int
    n_computed: int
    n_events: int
    n_messages: int
    n_retracts: int
    master_s: float
    steps_s: float = 0.0
    wait_s: float = 0.0
    longest_wait_s: float = 0.0
    plain_bound_s: float = 0.0
    n_set_aside: int = 0
    n_lone: int = 0
    n_wide: int = 0
    n_crowded: int = 0
    events: tuple[tuple[float, m.Event], ...] = ()

    @property
    def efficiency(self) -> float:
        """Lower bound over makespan; 1 when there was nothing to do."""
        return self.lower_bound_s / self.makespan_s if self.makespan_s > 0 else 1.0

    @property
    def master_load(self) -> float:
        """Share of the makespan in which the master was busy."""
        return self.master_s / self.makespan_s if self.makespan_s > 0 else 0.0

"""The ``simulate`` command: the real scheduler under a fake clock.

Rules of this file
------------------
1. All figures are simulated and say so; the same command gives the same figures, unless
   ``--timed`` charges the processor time that steps of the scheduler really take here.
2. What the master does besides (messages, records) takes what ``docs/performance.md`` tells was
   measured; every such time is an option.
"""

from __future__ import annotations

import argparse
import gc
import time
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi import runner, schema
from qcmb_mpi.errors import InputError
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.forecast import forecast
from qcmb_mpi.report.snapshot import format_duration
from qcmb_mpi.scheduling.messages import TaskClass
from qcmb_mpi.scheduling.reporting import report_interval_s
from qcmb_mpi.scheduling.simulate import simulate
from qcmb_mpi.scheduling.simulated import Faults, Machine, SimulationResult

_N_CLASSES = 100
_N_SIGMA = 2.5  # both ends of a range are that far from its middle


@dataclass(frozen=True, slots=True)
class Work:
    """Tasks to be simulated.

    Parameters
    ----------
    classes : tuple of TaskClass
        What the scheduler is told.
    times_s : ndarray, shape (n_tasks,)
        What is true.
    """

    classes: tuple[TaskClass, ...]
    times_s: NDArray[np.float64]


def log_normal_work(
    n_tasks: int,
    shortest_s: float,
    longest_s: float,
    *,
    rng: np.random.Generator,
    spread: float = 0.0,
    is_blind: bool = False,
) -> Work:
    """Make tasks whose times are log-normal between two limits.

    Parameters
    ----------
    n_tasks : int
    shortest_s, longest_s : float
        Both are 2.5 standard deviations of the logarithm from the middle; with equal limits all
        tasks are predicted alike.
    rng : numpy.random.Generator
    spread : float
        Standard deviation of the logarithm of true over predicted times.
    is_blind : bool
        The scheduler is told the mean of all and nothing else.
    """
    is_alike = shortest_s == longest_s
    n_classes = 1 if is_alike else min(n_tasks, _N_CLASSES)
    normal = NormalDist()
    ends = normal.cdf(-_N_SIGMA), normal.cdf(_N_SIGMA)
    places = np.linspace(*ends, 2 * n_classes + 1)[-2::-2]  # the middle of each, longest first
    sigmas = np.array([normal.inv_cdf(place) for place in places.tolist()]) / _N_SIGMA
    middle_s, half = np.sqrt(shortest_s * longest_s), 0.5 * np.log(longest_s / shortest_s)
    costs_s = middle_s * np.exp(half * sigmas)
    edges = np.linspace(0, n_tasks, n_classes + 1).astype(np.int64)
    times_s = np.repeat(costs_s, np.diff(edges))
    if spread:
        times_s *= rng.lognormal(-0.5 * spread**2, spread, n_tasks)
    if not is_alike:
        np.clip(times_s, shortest_s, longest_s, out=times_s)
    if is_blind:
        rng.shuffle(times_s)
        return Work((TaskClass(0, range(n_tasks), float(times_s.mean())),), times_s)
    spans = [range(*edge) for edge in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]
    told = zip(spans, costs_s.tolist(), strict=True)
    return Work(tuple(TaskClass(0, ids, cost_s, key=cost_s) for ids, cost_s in told), times_s)


def simulate_work(
    work: Work, machine: Machine, faults: Faults, rng: np.random.Generator, *, is_timed: bool
) -> SimulationResult:
    """Simulate with the steps of the scheduler timed, or without; with no garbage collection.

    The agents are millions of small tuples, which the collector would look through in vain.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return simulate(
            work.classes,
            machine,
            rng=rng,
            times_s=work.times_s,
            faults=faults,
            timer=time.process_time if is_timed else None,
        )
    finally:
        if was_enabled:
            gc.enable()


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Simulate the run that `args` describe.

    Parameters
    ----------
    args : argparse.Namespace
        Of the ``simulate`` command.

    Returns
    -------
    dict
        ``n_tasks``, ``n_ranks``, ``n_slots``, ``makespan_s``, ``lower_bound_s``,
        ``plain_bound_s``, ``efficiency``, ``n_messages``, ``n_events``, ``master_load``,
        ``master_s``, ``step_us_per_task``, ``mean_wait_s``, ``longest_wait_s``.

    Raises
    ------
    InputError
        Neither INPUT nor ``--tasks``, or both; a rank to be lost that there is not.
    """
    if (args.input is None) == (args.tasks is None):
        raise InputError("simulate", "give either INPUT or --tasks N")
    if args.losses >= args.ranks:
        raise InputError("--losses", f"must leave one of {args.ranks} ranks (got {args.losses})")
    rng = np.random.default_rng(args.seed)
    work = _work(args, rng)
    faults = _faults(args, work)
    outcome = simulate_work(work, _machine(args), faults, rng, is_timed=args.timed)
    return figures(outcome, args.ranks, args.ranks * args.slots)


def figures(outcome: SimulationResult, n_ranks: int, n_slots: int) -> dict[str, Any]:
    """Return what is told of a simulated run."""
    n_tasks = outcome.n_done + outcome.n_quarantined
    return {
        "n_tasks": n_tasks,
        "n_ranks": n_ranks,
        "n_slots": n_slots,
        "makespan_s": outcome.makespan_s,
        "lower_bound_s": outcome.lower_bound_s,
        "plain_bound_s": outcome.plain_bound_s,
        "efficiency": outcome.efficiency,
        "n_messages": outcome.n_messages,
        "n_events": outcome.n_events,
        "n_quarantined": outcome.n_quarantined,
        "master_load": outcome.master_load,
        "master_s": outcome.master_s,
        "step_us_per_task": 1e6 * outcome.steps_s / max(1, n_tasks),
        "mean_wait_s": outcome.wait_s,
        "longest_wait_s": outcome.longest_wait_s,
    }


def format_figures(figures: dict[str, Any]) -> str:
    """Return the figures as text for people."""
    return (
        f"simulated: {figures['n_tasks']} tasks on {figures['n_ranks']} ranks, "
        f"{figures['n_slots']} slots\n"
        f"makespan {format_duration(figures['makespan_s'])}, "
        f"lower bound {format_duration(figures['lower_bound_s'])}, "
        f"efficiency {figures['efficiency']:.1%}\n"
        f"{figures['n_messages']} messages to agents, {figures['n_events']} scheduler steps\n"
        f"master busy {figures['master_load']:.1%} of the time, "
        f"{figures['step_us_per_task']:.1f} us of scheduler a task; "
        f"messages wait for it {1000 * figures['mean_wait_s']:.1f} ms on average"
    )


def _machine(args: argparse.Namespace) -> Machine:
    report_s = args.report_seconds
    return Machine(
        n_agents=args.ranks,
        slots_per_agent=args.slots,
        message_s=args.message_seconds,
        report_s=report_interval_s(args.ranks) if report_s is None else report_s,
        step_s=0.0 if args.timed else args.step_seconds,
        receive_s=args.receive_seconds,
        result_s=args.result_seconds,
        send_s=args.send_seconds,
    )


def _work(args: argparse.Namespace, rng: np.random.Generator) -> Work:
    if args.input is None:
        return log_normal_work(
            args.tasks, *args.task_seconds, rng=rng, spread=args.spread, is_blind=args.blind
        )
    loaded = schema.read_input(args.input, options=runner.input_options(args))
    classes = forecast(TaskSpace(loaded.expansion))
    times_s = np.empty(sum(each.n_tasks for each in classes))
    for each in classes:
        times_s[np.asarray(each.ids)] = each.cost_s
    times_s *= rng.lognormal(-0.5 * args.spread**2, args.spread, len(times_s))
    return Work(classes, times_s)


def _faults(args: argparse.Namespace, work: Work) -> Faults:
    """Spread losses evenly over the time that the work will take at least."""
    total_s = float(work.times_s.sum()) / (args.ranks * args.slots)
    moments = [total_s * (k + 1) / (args.losses + 1) for k in range(args.losses)]
    return Faults(
        failure_probability=args.failures,
        straggler_probability=args.stragglers,
        losses=[(at_s, args.ranks - 1 - k) for k, at_s in enumerate(moments)],
    )

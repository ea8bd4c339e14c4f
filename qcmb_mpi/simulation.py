"""The ``simulate`` command: the real scheduler under a fake clock.

Rules of this file
------------------
1. Nothing is measured here: every figure is simulated and says so.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from qcmb_mpi import runner, schema
from qcmb_mpi.errors import InputError
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.forecast import forecast
from qcmb_mpi.report.snapshot import format_duration
from qcmb_mpi.scheduling.messages import TaskClass
from qcmb_mpi.scheduling.simulate import Machine, simulate


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Simulate the run that `args` describe.

    Parameters
    ----------
    args : argparse.Namespace
        Of the ``simulate`` command.

    Returns
    -------
    dict
        ``n_tasks``, ``n_ranks``, ``n_slots``, ``makespan_s``, ``lower_bound_s``, ``efficiency``,
        ``n_messages``, ``n_events``.

    Raises
    ------
    InputError
        Neither INPUT nor ``--tasks``, or both.
    """
    if (args.input is None) == (args.tasks is None):
        raise InputError("simulate", "give either INPUT or --tasks N")
    machine = Machine(
        n_agents=args.ranks, slots_per_agent=args.slots, message_s=args.message_seconds
    )
    rng = np.random.default_rng(args.seed)
    outcome = simulate(_classes(args), machine, rng=rng, jitter=args.spread)
    return {
        "n_tasks": outcome.n_done + outcome.n_quarantined,
        "n_ranks": args.ranks,
        "n_slots": args.ranks * args.slots,
        "makespan_s": outcome.makespan_s,
        "lower_bound_s": outcome.lower_bound_s,
        "efficiency": outcome.efficiency,
        "n_messages": outcome.n_messages,
        "n_events": outcome.n_events,
    }


def _classes(args: argparse.Namespace) -> tuple[TaskClass, ...]:
    if args.input is None:
        return (TaskClass(stage=0, ids=range(args.tasks), cost_s=args.task_seconds),)
    loaded = schema.read_input(args.input, options=runner.input_options(args))
    return forecast(TaskSpace(loaded.expansion))


def format_figures(figures: dict[str, Any]) -> str:
    """Return the figures as text for people."""
    return (
        f"simulated: {figures['n_tasks']} tasks on {figures['n_ranks']} ranks, "
        f"{figures['n_slots']} slots\n"
        f"makespan {format_duration(figures['makespan_s'])}, "
        f"lower bound {format_duration(figures['lower_bound_s'])}, "
        f"efficiency {figures['efficiency']:.1%}\n"
        f"{figures['n_messages']} messages to agents, {figures['n_events']} scheduler steps"
    )

#!/usr/bin/env python3
"""Find out how large a machine one master can feed: the real scheduler under a fake clock.

    python benchmarks/simulation.py                 # ten million tasks, a hundred thousand slots
    python benchmarks/simulation.py --smoke         # a minute: does it still run?

Each line of the tables is one ``qcmb-mpi simulate --timed`` with the options told: the scheduler is
the real one, and its clock is charged with the processor time that each of its steps takes here.
What a result costs besides (unpacked, and put into a real store) is measured first; what MPI takes
for a message is the default of ``simulate``, measured with Open MPI. Efficiency is the lower bound,
max(longest task, total / slots) with all attempts of a task taken together, over the makespan.
Tables go to standard output, all figures to ``benchmarks/results/``; those of a curve are in
``measured.curves``, one for each size of a rank: ``n_slots``, ``efficiency``, ``tasks_per_s``.

Rules of this file
------------------
1. A line can be had again by its options; nothing is simulated here that the command cannot.
2. A busy machine makes the master slower and the machines it can feed smaller, never larger.
"""

from __future__ import annotations

import argparse
import json
import pickle
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import checkpoint
import farm

LIMIT = 0.95
ENOUGH = 0.90
MOST_LOAD = 0.02
MOST_US = 10.0
N_PER_SLOT = 60
SPREAD = 0.2  # of a task about what is predicted for its class, as the cost model expects it
SEEDS = (1, 2, 3)  # which of the longest stragglers fails late is chance: one run says little
N_HALVINGS = 2
STEADY = 0.9  # of the most done in a second, on machines that are too large for the master
FAULTS = ("--stragglers", "0.01", "--failures", "0.001")
SIZES = {
    64: (4_096, 16_384, 32_768, 49_152, 65_536, 81_920, 100_032),
    4: (1_024, 4_096, 16_384, 32_768),
}
TINY = {64: (1_024, 2_048)}


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is simulated."""

    n_tasks: int = 10_000_000
    n_others: int = 2_000_000
    n_ranks: int = 1563
    n_results: int = 40_000
    n_losses: int = 5
    n_per_slot: int = N_PER_SLOT


SMOKE = Scale(
    n_tasks=20_000, n_others=5_000, n_ranks=16, n_losses=1, n_results=1_000, n_per_slot=10
)


# ---- what a result costs the master --------------------------------------------------------------


def unpack_s(outcomes: Sequence[Any], n_repeats: int = 200) -> float:
    """Measure the processor time to unpack a result that came in a message with others."""
    from qcmb_mpi.execution.wire import Done

    packed = pickle.dumps(Done(outcomes), pickle.HIGHEST_PROTOCOL)
    began = time.process_time()
    for _ in range(n_repeats):
        pickle.loads(packed)
    return (time.process_time() - began) / n_repeats / len(outcomes)


def store_s(folder: Path, n_results: int, n_at_once: int = 64) -> float:
    """Measure the processor time to put a result into a store, those to the disk included."""
    from qcmb_mpi import schema
    from qcmb_mpi.expansion.plan import TaskSpace
    from qcmb_mpi.store import Store

    path = folder / "helium.json"
    document = checkpoint.helium(400)
    document["specification"]["specification"]["(auto)"]["driver"] = "energy"
    document["specification"]["driver"] = "energy"
    path.write_text(json.dumps(document), encoding="utf-8")
    spent_s = 0.0
    with Store.open(folder / "helium.store.sqlite") as store:
        store.attach(0, TaskSpace(schema.read_input(str(path)).expansion))
        for first in range(0, n_results, n_at_once):
            many = outcomes(first, min(n_at_once, n_results - first))
            began = time.process_time()
            store.append(many)
            spent_s += time.process_time() - began
        began = time.process_time()
        store.flush()
        return (spent_s + time.process_time() - began) / n_results


def outcomes(first: int, n: int) -> Sequence[Any]:
    """Make a report of results such as tasks give that only have an energy."""
    from qcmb_mpi.execution.outcome import Outcome
    from qcmb_mpi.execution.outcomes import Outcomes

    rank = first // n
    told = [
        Outcome(
            space=0,
            task=task,
            start_s=1.7e9 + task,
            seconds=1.0 + 1e-6 * task,
            peak_bytes=100_000_000 + task,
            energy_hartree=-76.0 - 1e-6 * task,
            program="pyscf",
            version="2.10.0",
            host=f"node{rank % 7}",
            rank=rank,
            slot=task % 64,
        )
        for task in range(first, first + n)
    ]
    return Outcomes.of(told)


def handling(n_results: int) -> dict[str, float]:
    """Measure what a result costs besides the scheduler, in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        stored_s = store_s(Path(folder), n_results)
    unpacked_s = unpack_s(outcomes(0, 64))
    farm.note(f"a result: unpacked in {1e6 * unpacked_s:.1f} us, stored in {1e6 * stored_s:.1f} us")
    return {"unpack_s": unpacked_s, "store_s": stored_s}


# ---- simulated runs --------------------------------------------------------------------------


def simulated(title: str, *words: object) -> dict[str, Any]:
    """Run the command once, timed."""
    from qcmb_mpi import options, simulation

    command = ["simulate", "--timed", *map(str, words)]
    began = time.perf_counter()
    figures = simulation.run(options.parse(command))
    wall_s = time.perf_counter() - began
    farm.note(
        f"{title}: {figures['n_slots']} slots, {figures['n_tasks']} tasks, efficiency "
        f"{figures['efficiency']:.3f} ({wall_s:.0f} s)"
    )
    told = {"title": title, "options": " ".join(command[2:]), "wall_s": wall_s}
    return {**told, "tasks_per_s": figures["n_tasks"] / figures["makespan_s"], **figures}


def studies(scale: Scale, result_s: float) -> list[dict[str, Any]]:
    """Simulate tasks of 1 to 100 s on the largest machine, and the smallest machine."""
    machine = ("--ranks", scale.n_ranks, "--slots", 64, "--result-seconds", result_s)
    mixed = ("--task-seconds", "1-100", "--spread", SPREAD, *machine)
    losses = ("--losses", scale.n_losses)
    many, fewer = ("--tasks", scale.n_tasks), ("--tasks", scale.n_others)
    small = ("--tasks", 2000, "--ranks", 1, "--slots", 4, "--result-seconds", result_s)
    with ProcessPoolExecutor(len(SEEDS)) as pool:
        draws = [
            pool.submit(simulated, f"1-100 s, seed {seed}", *many, *mixed, *FAULTS, "--seed", seed)
            for seed in SEEDS
        ]
    return [
        *(each.result() for each in draws),
        simulated("the same, fewer tasks", *fewer, *mixed, *FAULTS),
        simulated("fewer, ranks lost", *fewer, *mixed, *FAULTS, *losses),
        simulated("fewer, no faults", *fewer, *mixed),
        simulated("fewer, times unknown, no stragglers", *fewer, *mixed, "--blind"),
        simulated("fewer, times unknown, stragglers", *fewer, *mixed, *FAULTS, "--blind"),
        simulated("1 s on 4 slots", *small),
    ]


def curve(
    n_slots: int, sizes: Sequence[int], scale: Scale, words: Sequence[object]
) -> list[dict[str, Any]]:
    """Simulate 1 s tasks on growing machines, and close in on the largest that is used enough."""

    def at(size: int) -> dict[str, Any]:
        n_ranks = size // n_slots
        n_tasks = ("--tasks", n_ranks * n_slots * scale.n_per_slot)
        machine = ("--ranks", n_ranks, "--slots", n_slots)
        return simulated(f"1 s, ranks of {n_slots}", *n_tasks, *machine, *words)

    rows = [at(size) for size in sizes]
    for _ in range(N_HALVINGS):
        good = largest(rows)
        bad = min((row["n_slots"] for row in rows if row["n_slots"] > good), default=0)
        if not (good and bad):
            break
        rows.append(at((good + bad) // 2))
    return sorted(rows, key=lambda row: row["n_slots"])


def largest(rows: Sequence[dict[str, Any]]) -> int:
    """Return the slots of the largest machine that was used well enough."""
    return max((row["n_slots"] for row in rows if row["efficiency"] >= ENOUGH), default=0)


# ---- what is told ----------------------------------------------------------------------------


def is_steady(rows: Sequence[dict[str, Any]]) -> bool:
    """Tell whether the master does as much where the machine is too large for it."""
    rates = [row["tasks_per_s"] for row in rows]
    return rates[-1] >= STEADY * max(rates)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Write one line for each simulated run."""
    lines = [
        "| tasks | ranks x slots | number | makespan s | bound s | efficiency | tasks/s "
        "| master busy | scheduler us/task | wait ms | simulated in s |",
        "|---|---:|" + "---:|" * 9,
    ]
    lines += [
        f"| {row['title']} | {row['n_ranks']} x {row['n_slots'] // row['n_ranks']} "
        f"| {row['n_tasks']} | {row['makespan_s']:.1f} | {row['lower_bound_s']:.1f} "
        f"| {row['efficiency']:.3f} | {row['tasks_per_s']:,.0f} "
        f"| {row['master_load']:.1%} | {row['step_us_per_task']:.1f} "
        f"| {1000 * row['mean_wait_s']:.1f} | {row['wall_s']:.0f} |"
        for row in rows
    ]
    return "\n".join(lines)


def is_met(study: Sequence[dict[str, Any]], curves: Sequence[Sequence[dict[str, Any]]]) -> bool:
    """Tell whether large machines are used, the small one is not disturbed, and a task is cheap."""
    used = statistics.median(row["efficiency"] for row in study[: len(SEEDS)])
    in_batches = max(curves[0], key=lambda row: row["n_slots"])
    return bool(
        used >= LIMIT
        and study[-1]["master_load"] < MOST_LOAD
        and in_batches["step_us_per_task"] < MOST_US
        and all(map(is_steady, curves))
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 1 if a limit is broken, of which little work says nothing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--smoke", action="store_true", help="little of everything")
    parser.add_argument("-o", "--output", type=Path, help="default: results/DATE-simulation.json")
    options = parser.parse_args(argv)
    scale, sizes = (SMOKE, TINY) if options.smoke else (Scale(), SIZES)
    report = farm.about()
    costs = handling(scale.n_results)
    result_s = sum(costs.values())
    study = studies(scale, result_s)
    print(table(study), end="\n\n", flush=True)
    curves = []
    for n_slots, each in sizes.items():
        curves.append(curve(n_slots, each, scale, ("--result-seconds", result_s)))
        print(table(curves[-1]))
        print(f"\nthe largest with {ENOUGH:.0%}: {largest(curves[-1])} slots\n", flush=True)
    alone = ("--result-seconds", 0, "--receive-seconds", 0, "--send-seconds", 0)
    curves.append(curve(64, sizes[64][-1:], scale, alone))
    print(f"the scheduler alone\n\n{table(curves[-1])}", flush=True)
    measured = {"handling": costs, "studies": study, "curves": curves}
    farm.keep("simulation", options.output, {**report, "measured": measured})
    return 0 if options.smoke or is_met(study, curves) else 1


if __name__ == "__main__":
    raise SystemExit(main())

#!/usr/bin/env python3
"""Measure what it is worth to run the longest tasks first: beside level, arrival and random order.

    python benchmarks/orders.py                              # simulated and real
    python benchmarks/orders.py --simulated                  # half a minute, no quiet machine
    python benchmarks/orders.py --input waters --repeat 3
    python benchmarks/orders.py --smoke                      # does it still run?

``lpt`` and ``level`` are the values of ``--order``. ``arrival`` (one n-body level after the other,
as a program makes its list of tasks) and ``random`` know nothing of costs: there the scheduler is
told of one class of equal tasks. What counts is the makespan, first start to last end, over
max(longest task, total / slots), below which no order can come.

Rules of this file
------------------
1. Real makespans are compared with the bound of their own run; nothing here knows an absolute
   number.
2. Simulated is the real scheduler under a fake clock; every order gets the same true times.
3. All orders must give the same energy to 1e-8 hartree, else the benchmark fails.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import farm
import numpy as np
import overhead
from numpy.typing import NDArray

from qcmb_mpi.scheduling.messages import TaskClass
from qcmb_mpi.scheduling.order import ORDERS
from qcmb_mpi.scheduling.pool import SchedulerOptions
from qcmb_mpi.scheduling.simulate import Machine, simulate

BLIND = ("arrival", "random")
EVERY = (*ORDERS, *BLIND)
LIMIT = 1.05
Classes = tuple[TaskClass, ...]


def blind(classes: Sequence[TaskClass], order: str, rng: np.random.Generator) -> Classes:
    """Return the same tasks as one class of equal ones, to be run in that order."""
    n_tasks = sum(each.n_tasks for each in classes)
    mean_s = sum(each.n_tasks * each.cost_s for each in classes) / max(n_tasks, 1)
    memory_bytes = max((each.memory_bytes for each in classes), default=0)
    ids = rng.permutation(n_tasks) if order == "random" else np.arange(n_tasks)
    return (
        replace(
            classes[0], ids=ids, cost_s=mean_s, memory_bytes=memory_bytes, key="blind", stage=0
        ),
    )


# ---- simulated -------------------------------------------------------------------------------


def expansion(seconds: dict[int, list[float]]) -> tuple[Classes, NDArray[np.float64]]:
    """Make tasks of so many seconds, by n-body level; equal ones are one class."""
    classes: list[TaskClass] = []
    times_s: list[float] = []
    for stage, (level, many) in enumerate(sorted(seconds.items())):
        ids_of: dict[float, list[int]] = {}
        for each in many:
            ids_of.setdefault(each, []).append(len(times_s))
            times_s.append(each)
        classes += [
            TaskClass(stage, np.array(ids), cost_s, key=(level, cost_s), family="any")
            for cost_s, ids in ids_of.items()
        ]
    return tuple(classes), np.array(times_s)


def equal(rng: np.random.Generator, n_slots: int) -> dict[int, list[float]]:
    """Make equal fragments: three classes, few rounds."""
    del rng
    n = round((12 * n_slots) ** (1 / 3) * 2)
    counts = {1: n, 2: n * (n - 1) // 2, 3: n * (n - 1) * (n - 2) // 6}
    return {level: [0.05 * level**3.0] * many for level, many in counts.items()}


def uneven(rng: np.random.Generator, n_slots: int) -> dict[int, list[float]]:
    """Make fragments of 1 to 4 equal parts, whose clusters cost as their size to the third."""
    n = round((12 * n_slots) ** (1 / 3) * 2)
    sizes = rng.integers(1, 5, n)
    sums = {
        1: sizes,
        2: np.add.outer(sizes, sizes)[np.triu_indices(n, 1)],
        3: np.array([sizes[i] + sizes[j] + sizes[k] for i, j, k in _triples(n)]),
    }
    return {level: (0.01 * many**3.0).tolist() for level, many in sums.items()}


def _triples(n: int) -> Iterator[tuple[int, int, int]]:
    return ((i, j, k) for i in range(n) for j in range(i + 1, n) for k in range(j + 1, n))


def scattered(rng: np.random.Generator, n_slots: int) -> dict[int, list[float]]:
    """Make classes that differ by tens, as methods and fragments of a study may."""
    kinds = rng.lognormal(0.0, 1.2, 40).round(3)
    return {1: rng.choice(kinds, 12 * n_slots).tolist()}


def giants(rng: np.random.Generator, n_slots: int) -> dict[int, list[float]]:
    """Make equal fragments, and at the last level a few tasks of half a slot's work each."""
    small = equal(rng, n_slots)
    share_s = sum(map(sum, small.values())) / n_slots
    return small | {9: [0.5 * share_s] * max(1, n_slots // 4)}


STUDIES: dict[str, Callable[[np.random.Generator, int], dict[int, list[float]]]] = {
    "equal fragments": equal,
    "uneven fragments": uneven,
    "scattered": scattered,
    "giants at the end": giants,
}
MACHINES = {"4 slots": Machine(1, 4, message_s=1e-4), "64 slots": Machine(16, 4, message_s=1e-3)}
# By what factor classes are predicted wrong, which can be learnt, and tasks of a class differ.
PREDICTIONS = {
    "right": (1.0, 1.1),
    "classes off by 1.5": (1.5, 1.1),
    "classes off by 2": (2.0, 1.1),
    "every task off by 2": (1.0, 2.0),
}


def mispredicted(classes: Classes, factor: float, rng: np.random.Generator) -> Classes:
    """Return classes of which each is predicted too long or too short by that factor."""
    signs = rng.choice((-1.0, 1.0), len(classes))
    return tuple(
        replace(each, cost_s=each.cost_s * factor**sign)
        for each, sign in zip(classes, signs, strict=True)
    )


def simulated(study: str, machine: Machine, predictions: str, seed: int) -> dict[str, float]:
    """Return, of every order, the makespan over its bound."""
    rng = np.random.default_rng(seed)
    factor, spread = PREDICTIONS[predictions]
    classes, times_s = expansion(STUDIES[study](rng, machine.n_agents * machine.slots_per_agent))
    times_s = times_s * rng.lognormal(0.0, np.log(spread), len(times_s))
    told = mispredicted(classes, factor, rng)
    ratios = {}
    for order in EVERY:
        work = blind(told, order, rng) if order in BLIND else told
        options = SchedulerOptions(order=order if order in ORDERS else "lpt")
        found = simulate(work, machine, rng=rng, times_s=times_s, options=options)
        ratios[order] = found.makespan_s / found.lower_bound_s
    return ratios


def simulate_all(machines: dict[str, Machine], n_seeds: int) -> list[dict[str, Any]]:
    """Simulate every study on every machine with all kinds of predictions."""
    cases = list(itertools.product(STUDIES, machines, PREDICTIONS))
    rows = []
    with ProcessPoolExecutor() as pool:
        found = [
            [
                pool.submit(simulated, study, machines[name], predictions, seed)
                for seed in range(n_seeds)
            ]
            for study, name, predictions in cases
        ]
        for (study, name, predictions), waiting in zip(cases, found, strict=True):
            ratios = {order: [each.result()[order] for each in waiting] for order in EVERY}
            what = {"study": study, "on": name, "predictions": predictions}
            rows.append(what | {"ratios": ratios})
    return rows


# ---- real ------------------------------------------------------------------------------------

# Fragments of one size after the other, each alone: nothing evens out by itself.
STEPS = (24, 24, 12, 12, 12, 12, *[1] * 24)
INPUTS: dict[str, Callable[[], dict[str, Any]]] = {
    "steps": lambda: overhead.helium(STEPS, 0.25, 1.0, max_nbody=1),
    "spin": lambda: overhead.helium((1, 1, 1, 2, 2, 2, 3, 6), 0.02, 1.6),
    "waters": lambda: overhead.waters((1, 1, 1, 1, 2, 2, 4), "6-31g"),
}
TINY = {"spin": lambda: overhead.helium((1, 1, 2), 0.02, 1.0)}


def run_as(order: str, arguments: list[str]) -> int:
    """Run the command line with an order that it may not know; called in a process of its own."""
    from qcmb_mpi import cli, forecast

    if order in ORDERS:
        return cli.main(["run", *arguments, "--order", order])
    known, rng = forecast.forecast, np.random.default_rng(1)

    def told(*given: Any, **more: Any) -> Classes:
        return blind(known(*given, **more), order, rng)

    with mock.patch.object(forecast, "forecast", told):
        return cli.main(["run", *arguments])


def measure(
    name: str, document: dict[str, Any], executor: str, n_cores: int, n_repeats: int
) -> dict[str, Any]:
    """Run an input in every order, turned round in every other repeat."""
    runs: dict[str, list[dict[str, Any]]] = {order: [] for order in EVERY}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        for repeat in range(n_repeats):
            for order in EVERY[:: -1 if repeat % 2 else 1]:
                program = (str(Path(__file__).resolve()), "--as", order)
                command = overhead.command_line(path, executor, n_cores, program)
                found = overhead.run(path, command)
                runs[order].append(found)
                farm.note(
                    f"{name} {repeat + 1}/{n_repeats}: {executor}, {order} "
                    f"{found['span_s']:.1f} s, {ratio(found):.3f} of the bound"
                )
    values = [each["value"] for many in runs.values() for each in many]
    if max(values) - min(values) > farm.TOLERANCE_HARTREE:
        raise SystemExit(f"{name}: the orders do not agree: {values}")
    return {"input": name, "executor": executor, "n_cores": n_cores, "runs": runs}


def ratio(found: dict[str, Any]) -> float:
    """Return the makespan of a run over its own bound."""
    return float(found["span_s"] / found["lower_bound_s"])


# ---- answers ---------------------------------------------------------------------------------


def simulated_table(rows: Sequence[dict[str, Any]]) -> str:
    """Write, of every order, the median over the seeds, and the largest."""
    n_seeds = len(rows[0]["ratios"]["lpt"])
    lines = [
        f"Simulated makespan over max(longest task, total / slots): median of {n_seeds} seeds "
        "(largest)",
        "",
        "| tasks | on | predictions | " + " | ".join(EVERY) + " |",
        "|---|---|---|" + "---:|" * len(EVERY),
    ]
    for row in rows:
        cells = [
            f"{statistics.median(found):.3f} ({max(found):.3f})" for found in row["ratios"].values()
        ]
        head = f"| {row['study']} | {row['on']} | {row['predictions']} | "
        lines.append(head + " | ".join(cells) + " |")
    return "\n".join(lines)


def real_table(measured: Sequence[dict[str, Any]]) -> str:
    """Write, of every order, the median over the repeats, and the largest."""
    lines = [
        "Real makespan over max(longest task, total / slots): median (largest)",
        "",
        "| input | executor | tasks | lpt s | " + " | ".join(EVERY) + " |",
        "|---|---|---:|---:|" + "---:|" * len(EVERY),
    ]
    for each in measured:
        first = each["runs"]["lpt"]
        span_s = statistics.median(found["span_s"] for found in first)
        cells = []
        for many in each["runs"].values():
            found = [ratio(one) for one in many]
            cells.append(f"{statistics.median(found):.3f} ({max(found):.3f})")
        name = f"| {each['input']} | {each['executor']} "
        head = f"{name}| {first[0]['n_tasks']} | {span_s:.1f} | "
        lines.append(head + " | ".join(cells) + " |")
    return "\n".join(lines)


def is_met(measured: Sequence[dict[str, Any]]) -> bool:
    """Tell whether the longest first comes near enough to the bound on every real input."""
    return all(statistics.median(map(ratio, each["runs"]["lpt"])) <= LIMIT for each in measured)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 1 if the real makespan of ``lpt`` is too far from the bound."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--input", action="append", choices=tuple(INPUTS), help="repeatable")
    parser.add_argument("--executor", action="append", choices=overhead.EXECUTORS)
    parser.add_argument("--simulated", action="store_true", help="nothing real")
    parser.add_argument("--seeds", type=int, default=9, metavar="N")
    parser.add_argument("--repeat", type=int, default=2, metavar="N")
    parser.add_argument("--cores", type=int, default=farm.mpiexec.n_cores(), metavar="N")
    parser.add_argument("--smoke", action="store_true", help="one seed, a tiny input once, 2 cores")
    parser.add_argument("-o", "--output", type=Path, help="default: results/DATE-orders.json")
    options = parser.parse_args(argv)
    inputs, machines = {name: INPUTS[name] for name in options.input or INPUTS}, MACHINES
    if options.smoke:
        inputs, options.seeds, options.repeat, options.cores = TINY, 1, 1, 2
        machines = {"4 slots": MACHINES["4 slots"]}
    report = farm.about()
    rows = simulate_all(machines, options.seeds)
    print(simulated_table(rows), flush=True)
    measured = [
        measure(name, make(), executor, options.cores, options.repeat)
        for name, make in ({} if options.simulated else inputs).items()
        for executor in options.executor or overhead.EXECUTORS
    ]
    if measured:
        print("", real_table(measured), sep="\n", flush=True)
    found = {"simulated": rows, "real": measured}
    farm.keep("orders", options.output, {**report, "measured": found})
    return 0 if options.smoke or is_met(measured) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as"]:
        raise SystemExit(run_as(sys.argv[2], sys.argv[3:]))
    raise SystemExit(main())

#!/usr/bin/env python3
"""Calibrate the cost model on small clusters of this machine, and predict larger ones.

    python benchmarks/prediction.py                           # waters: HF, B3LYP, MP2, CCSD(T)
    python benchmarks/prediction.py --methods hf mp2 --basis cc-pvdz --largest 5
    python benchmarks/prediction.py --smoke                   # a minute: does it still run?

Tasks run one after the other in this process, as in a slot: one thread, processor seconds, peak of
resident memory. Clusters of up to ``--calibrate`` fragments, ghosts included, teach the model; each
larger one is predicted before anything like it was seen. Repeats of a size are apart in time, so
that a slow minute of the machine does not hit one size alone. A table goes to standard output,
everything measured to ``benchmarks/results/``, also in the form of tests/pure/measured_costs.json.

Rules of this file
------------------
1. The forecast, the harness and the model are those of a run; nothing is fitted here.
2. Prediction and measurement are compared within one run only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"

from farm import ROOT, about, keep

from qcmb_mpi import schema
from qcmb_mpi.execution.engine import Engine, QCEngineRecipe, SlotResources
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.forecast import forecast
from qcmb_mpi.scheduling.cost import CostEstimate, CostModel
from qcmb_mpi.scheduling.messages import TaskClass
from qcmb_mpi.scheduling.scaling import TaskSize
from qcmb_mpi.sizing import sized_classes

GIVEN_BYTES = 4 * 2**30


@dataclass(frozen=True, slots=True)
class Row:
    """One size of one method: measured, and predicted where it was held out."""

    method: str
    n_real: int
    n_ghost: int
    seconds: float
    peak_bytes: int
    predicted_s: float | None
    predicted_bytes: int | None
    claimed_error: float | None

    @property
    def error(self) -> float:
        """Share by which the prediction misses."""
        return abs((self.predicted_s or 0.0) / self.seconds - 1)

    @property
    def memory_ratio(self) -> float:
        """Predicted over needed bytes."""
        return (self.predicted_bytes or 0) / self.peak_bytes


def document(geometry: str, method: str, basis: str, driver: str, largest: int) -> dict[str, Any]:
    """Return an input whose tasks are clusters of every size, with and without ghosts."""
    molecule = json.loads((ROOT / "geometries" / f"{geometry}.json").read_text())
    atomic = {"program": "pyscf", "driver": driver, "model": {"method": method, "basis": basis}}
    return {
        "molecule": {k: v for k, v in molecule.items() if k not in ("name", "comment")},
        "specification": {
            "driver": driver,
            "keywords": {"bsse_type": ["nocp", "vmfc"], "max_nbody": largest},
            "specification": {"(auto)": {**atomic, "keywords": {}}},
        },
    }


@dataclass(slots=True)
class Sample:
    """Tasks of one size, and what was measured of them."""

    tasks: TaskClass
    size: TaskSize
    n_real: int
    n_ghost: int
    guess: CostEstimate | None = None
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    @property
    def n_fragments(self) -> int:
        """Ghosts included."""
        return self.n_real + self.n_ghost

    def row(self, method: str) -> Row:
        """Return what is told of it."""
        return Row(
            *(method, self.n_real, self.n_ghost, statistics.median(self.seconds), self.peak_bytes),
            *((self.guess.cost_s, self.guess.memory_bytes) if self.guess else (None, None)),
            self.guess.relative_error if self.guess else None,
        )

    def record(self) -> list[Any]:
        """Return a line of measured_costs.json."""
        size = self.size
        return [
            *(self.n_real, self.n_ghost, size.n_basis_functions, size.n_electrons),
            *(size.n_atoms, size.n_ghost_atoms),
            [float(f"{each:.4g}") for each in self.seconds],
            round(self.peak_bytes / 1e6),
        ]


def samples(space: TaskSpace, largest: int) -> list[Sample]:
    """Return the sizes of tasks, small ones first."""
    sized = sized_classes(space, slot_bytes=GIVEN_BYTES)
    found = []
    for tasks, each in zip(forecast(space, sized=sized), sized, strict=True):
        block = space.blocks[each.tasks.block]
        found.append(Sample(tasks, each.size, block.n_real, block.n_basis - block.n_real))
    kept = [each for each in found if each.n_fragments <= largest]
    return sorted(kept, key=lambda each: (each.n_fragments, each.n_real))


def measure(method: str, options: argparse.Namespace) -> list[Sample]:
    """Run a few tasks of each size; predict the large ones before any of them runs."""
    loaded = schema.load_input(
        document(options.geometry, method, options.basis, options.driver, options.largest)
    )
    space, model = TaskSpace(loaded.expansion), CostModel()
    engine = QCEngineRecipe(loaded.expansion).build(SlotResources(memory_bytes=GIVEN_BYTES))
    engine.compute(0)  # as in a warm slot
    small, large = [], []
    for each in samples(space, options.largest):
        (small if each.n_fragments <= options.calibrate else large).append(each)
    run_in_rounds(engine, small, options.repeat)
    for each in small:
        _teach(model, each)
    for each in large:
        each.guess = model.estimate(
            *(each.tasks.key, each.tasks.cost_s),
            memory_bytes=each.tasks.memory_bytes,
            family=each.tasks.family,
        )
    large = [each for each in large if each.guess and each.guess.cost_s <= options.limit]
    run_in_rounds(engine, large, options.repeat)
    for each in (*small, *large):
        print(_line(each.row(method)), flush=True)
    return small + large


def run_in_rounds(engine: Engine, many: list[Sample], n_repeats: int) -> None:
    """Run a task of every size, and all that again."""
    for repeat in range(n_repeats):
        for each in many:
            ids = each.tasks.ids
            seconds, peak_bytes = _timed(engine, int(ids[repeat % len(ids)]))
            each.seconds.append(seconds)
            each.peak_bytes = max(each.peak_bytes, peak_bytes)


def _timed(engine: Engine, task: int) -> tuple[float, int]:
    """Run a task; return processor seconds and peak bytes."""
    began_s = time.process_time()
    outcome = engine.compute(task)
    if outcome.failure is not None:
        raise SystemExit(f"task {task}: {outcome.failure.message}")
    return time.process_time() - began_s, outcome.peak_bytes


def _teach(model: CostModel, each: Sample) -> None:
    model.observe(
        each.tasks.key,
        each.seconds,
        prior_s=each.tasks.cost_s,
        family=each.tasks.family,
        peak_bytes=[each.peak_bytes],
        prior_bytes=each.tasks.memory_bytes,
    )


def _line(row: Row) -> str:
    measured = (
        f"{row.method:<10} {row.n_real:>4} {row.n_ghost:>6} {row.seconds:>10.3f} "
        f"{row.peak_bytes / 1e6:>8.0f}"
    )
    if row.predicted_s is None or row.predicted_bytes is None or row.claimed_error is None:
        return f"{measured}   calibrates"
    return (
        f"{measured} {row.predicted_s:>10.3f} {row.error:>7.0%} {row.claimed_error:>8.0%} "
        f"{row.predicted_bytes / 1e6:>8.0f} {row.memory_ratio:>7.2f}"
    )


def summarise(rows: list[Row]) -> dict[str, Any]:
    """Return the figures of the claim, by method."""
    figures = {}
    for method in dict.fromkeys(row.method for row in rows):
        held_out = [row for row in rows if row.method == method and row.predicted_s is not None]
        if held_out:
            figures[method] = {
                "n_sizes": len(held_out),
                "median_error": round(statistics.median(row.error for row in held_out), 4),
                "largest_error": round(max(row.error for row in held_out), 4),
                "least_memory_ratio": round(min(row.memory_ratio for row in held_out), 3),
            }
    return figures


def main() -> int:
    """Measure, print and write; 1 if a claim does not hold here."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--methods", nargs="+", default=["hf", "b3lyp", "mp2", "ccsd(t)"])
    parser.add_argument("--basis", default="6-31g")
    parser.add_argument("--driver", default="energy", choices=("energy", "gradient"))
    parser.add_argument("--geometry", default="water-6")
    parser.add_argument("--calibrate", type=int, default=3, help="fragments, ghosts included")
    parser.add_argument("--largest", type=int, default=4, help="fragments, ghosts included")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--limit", type=float, default=60.0, help="longest task, predicted seconds")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("-o", "--output", type=Path, help="JSON of everything measured")
    options = parser.parse_args()
    if options.smoke:
        options.methods, options.calibrate, options.largest = ["hf", "mp2"], 2, 3
    report = about()
    print(
        f"{'method':<10} {'real':>4} {'ghosts':>6} {'seconds':>10} {'MB':>8} {'predicted':>10} "
        f"{'off by':>7} {'claimed':>8} {'MB':>8} {'ratio':>7}"
    )
    measured = {method: measure(method, options) for method in options.methods}
    rows = [each.row(method) for method, many in measured.items() for each in many]
    figures = summarise(rows)
    for method, row in figures.items():
        print(
            f"\n{method}: median error {row['median_error']:.0%} of {row['n_sizes']} larger sizes, "
            f"at most {row['largest_error']:.0%}; memory predicted / needed at least "
            f"{row['least_memory_ratio']:.2f}",
            end="",
        )
    print("\n")
    _write(options, rows, figures, measured, report)
    is_met = all(
        row["median_error"] < 0.2 and row["least_memory_ratio"] > 0.9 for row in figures.values()
    )
    return 0 if is_met else 1


def _write(
    options: argparse.Namespace,
    rows: list[Row],
    figures: dict[str, Any],
    measured: dict[str, list[Sample]],
    report: dict[str, Any],
) -> None:
    found = {
        "options": {**vars(options), "output": str(options.output)},
        "figures": figures,
        "rows": [asdict(row) for row in rows],
        "families": {
            "|".join((method, options.basis, options.driver, options.geometry)): [
                each.record() for each in many
            ]
            for method, many in measured.items()
        },
    }
    keep("prediction", options.output, {**report, **found})


if __name__ == "__main__":
    raise SystemExit(main())

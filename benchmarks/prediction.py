#!/usr/bin/env python3
"""Calibrate the cost model on small clusters of this machine, and predict larger ones.

    python benchmarks/prediction.py                           # waters: HF, B3LYP, MP2, CCSD(T)
    python benchmarks/prediction.py --methods hf mp2 --basis cc-pvdz --largest 5
    python benchmarks/prediction.py --smoke                   # a minute: does it still run?

Tasks run one after the other in this process, as in a slot: one thread, processor seconds, peak of
resident memory. Clusters of up to ``--calibrate`` fragments, ghosts included, teach the model; each
larger one is predicted before anything like it was seen. A table goes to standard output,
everything measured to ``benchmarks/results/``.

Rules of this file
------------------
1. The forecast, the harness and the model are those of a run; nothing is fitted here.
2. Prediction and measurement are compared within one run only.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"

import numpy as np

import qcmb_mpi
from qcmb_mpi import schema
from qcmb_mpi.execution.engine import Engine, QCEngineRecipe, SlotResources
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.forecast import forecast
from qcmb_mpi.machine.processor import processor_name
from qcmb_mpi.scheduling.cost import CostModel
from qcmb_mpi.scheduling.messages import TaskClass

HERE = Path(__file__).resolve().parent
GIVEN_BYTES = 4 * 2**30
PACKAGES = ("qcengine", "qcelemental", "pyscf", "numpy")


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
    molecule = json.loads((HERE.parent / "geometries" / f"{geometry}.json").read_text())
    atomic = {"program": "pyscf", "driver": driver, "model": {"method": method, "basis": basis}}
    return {
        "molecule": {k: v for k, v in molecule.items() if k not in ("name", "comment")},
        "specification": {
            "driver": driver,
            "keywords": {"bsse_type": ["nocp", "vmfc"], "max_nbody": largest},
            "specification": {"(auto)": {**atomic, "keywords": {}}},
        },
    }


def measure(method: str, options: argparse.Namespace) -> list[Row]:
    """Run a few tasks of each size, smallest first; predict the large ones before they run."""
    loaded = schema.load_input(
        document(options.geometry, method, options.basis, options.driver, options.largest)
    )
    space, model = TaskSpace(loaded.expansion), CostModel()
    resources = SlotResources(memory_bytes=GIVEN_BYTES)
    engine = QCEngineRecipe(loaded.expansion).build(resources)
    engine.compute(0)  # as in a warm slot
    classes = forecast(space, slot_bytes=GIVEN_BYTES)
    blocks = [space.blocks[int(space.block_of(np.array([one.ids[0]]))[0])] for one in classes]
    sizes = [(block.n_real, block.n_basis - block.n_real) for block in blocks]
    rows = []
    in_order = sorted(zip(sizes, classes, strict=True), key=lambda pair: (sum(pair[0]), pair[0]))
    for (n_real, n_ghost), each in in_order:
        if n_real + n_ghost > options.largest:
            continue
        is_held_out = n_real + n_ghost > options.calibrate
        guess = model.estimate(
            each.key, each.cost_s, memory_bytes=each.memory_bytes, family=each.family
        )
        if is_held_out and guess.cost_s > options.limit:
            continue
        runs = [_timed(engine, int(task)) for task in list(each.ids)[: options.repeat]]
        seconds, peaks = [seconds for seconds, _ in runs], [peak for _, peak in runs]
        if not is_held_out:
            _teach(model, each, seconds, peaks)
        rows.append(
            Row(
                *(method, n_real, n_ghost, statistics.median(seconds), max(peaks)),
                *(
                    (guess.cost_s, guess.memory_bytes, guess.relative_error)
                    if is_held_out
                    else (None, None, None)
                ),
            )
        )
        print(_line(rows[-1]), flush=True)
    return rows


def _timed(engine: Engine, task: int) -> tuple[float, int]:
    """Run a task; return processor seconds and peak bytes."""
    began_s = time.process_time()
    outcome = engine.compute(task)
    if outcome.failure is not None:
        raise SystemExit(f"task {task}: {outcome.failure.message}")
    return time.process_time() - began_s, outcome.peak_bytes


def _teach(model: CostModel, each: TaskClass, seconds: list[float], peaks: list[int]) -> None:
    model.observe(
        each.key,
        seconds,
        prior_s=each.cost_s,
        family=each.family,
        peak_bytes=peaks,
        prior_bytes=each.memory_bytes,
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
    print(
        f"{'method':<10} {'real':>4} {'ghosts':>6} {'seconds':>10} {'MB':>8} {'predicted':>10} "
        f"{'off by':>7} {'claimed':>8} {'MB':>8} {'ratio':>7}"
    )
    rows = [row for method in options.methods for row in measure(method, options)]
    figures = summarise(rows)
    for method, row in figures.items():
        print(
            f"\n{method}: median error {row['median_error']:.0%} of {row['n_sizes']} larger sizes, "
            f"at most {row['largest_error']:.0%}; memory predicted / needed at least "
            f"{row['least_memory_ratio']:.2f}",
            end="",
        )
    print("\n")
    _write(options, rows, figures)
    is_met = all(
        row["median_error"] < 0.2 and row["least_memory_ratio"] > 0.9 for row in figures.values()
    )
    return 0 if is_met else 1


def _write(options: argparse.Namespace, rows: list[Row], figures: dict[str, Any]) -> None:
    now = datetime.datetime.now(tz=datetime.timezone.utc)
    path = options.output or HERE / "results" / f"prediction-{now:%Y%m%d-%H%M%S}.json"
    path.parent.mkdir(exist_ok=True)
    record = {
        "when": now.isoformat(timespec="seconds"),
        "machine": {"processor": processor_name(), "system": platform.platform()},
        "versions": {
            "qcmb_mpi": qcmb_mpi.__version__,
            **{name: metadata.version(name) for name in PACKAGES},
        },
        "options": {**vars(options), "output": str(path)},
        "figures": figures,
        "rows": [asdict(row) for row in rows],
    }
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written: {path}")


if __name__ == "__main__":
    raise SystemExit(main())

#!/usr/bin/env python3
"""Optimise a water trimer with counterpoise correction and look at every step.

    python benchmarks/optimization.py                # geomeTRIC and ASE, CCSD/6-31G*, an hour
    python benchmarks/optimization.py --method hf --pool warm --pool mpiexec --pool new
    python benchmarks/optimization.py --smoke        # a dimer, few steps: does it still run?

Each optimiser goes from the same geometry over one warm pool, over ranks of mpiexec, if asked to
over a new pool for each step, and over sequential QCManyBody (one thread), which says where the
minimum is. A step is one gradient, timed where the optimiser asks for it; its lower bound is that
of its run summary, max(longest task, busy time / slots). The first step of a pool starts its slots,
too, and is told by itself. Few tasks do not always divide: "best order" is how long the tasks of a
step, as they were measured, take if they are dealt to the slots in the best way there is. What it
is above the lower bound is due to the tasks; what the step is above it is due to order and to us.

Rules of this file
------------------
1. All optimisations must end at the same minimum, else the run fails.
2. A step is compared with its own lower bound; nothing here knows an absolute number.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import farm
import mpiexec
import numpy as np

from qcmb_mpi import ManyBodyPotential, MPIExecutor, MultiprocessingExecutor, schema
from qcmb_mpi.driver import RunOptions, run_expansion
from qcmb_mpi.execution.executors.base import Executor

LIMIT = 1.2
SAME_ENERGY_HARTREE = 1e-6
SAME_PLACE_ANGSTROM = 1e-3
OPTIMIZERS = ("geomeTRIC", "ASE")
POOLS = {"warm": "warm pool", "mpiexec": "mpiexec", "new": "new pool a step"}


def document(n_waters: int, method: str, basis: str) -> dict[str, Any]:
    """Make the input: all levels, counterpoise-corrected, a bit away from the minimum."""
    path = farm.ROOT / "geometries" / f"water-{n_waters}.json"
    cluster = json.loads(path.read_text(encoding="utf-8"))
    geometry = np.array(cluster["geometry"]) + 0.05 * np.sin(np.arange(9.0 * n_waters))
    return {
        "molecule": {
            "symbols": cluster["symbols"],
            "fragments": cluster["fragments"],
            "geometry": np.round(geometry, 8).tolist(),
        },
        "specification": {
            "driver": "gradient",
            "keywords": {"bsse_type": ["cp"], "max_nbody": n_waters},
            "specification": {
                "program": "pyscf",
                "driver": "gradient",
                "model": {"method": method, "basis": basis},
            },
        },
    }


def best_s(rows: Any, summary: dict[str, Any]) -> float:
    """Return how long the tasks of a step take at least; those on all slots one after the other."""
    starts, ends = rows.start_s, rows.start_s + rows.seconds
    is_alone = ((starts[:, None] < ends) & (ends[:, None] > starts)).sum(axis=1) == 1
    is_wide = is_alone & (summary["slot_s"] > summary["busy_s"])
    lengths = sorted(rows.seconds[~is_wide].tolist(), reverse=True)
    best = sum(lengths)

    def deal(ends: tuple[float, ...], left: list[float]) -> None:
        nonlocal best
        if not left:
            best = min(best, ends[-1])
            return
        for number, end in enumerate(ends):
            if (number and end == ends[number - 1]) or end + left[0] >= best:
                continue
            with_it = sorted((*ends[:number], end + left[0], *ends[number + 1 :]))
            deal(tuple(with_it), left[1:])

    deal((0.0,) * summary["n_slots"], lengths)
    return float(best + rows.seconds[is_wide].sum())


class Timed(ManyBodyPotential):
    """A potential that keeps how long each gradient took, and its lower bound."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.steps: list[dict[str, float]] = []

    def _on_master(self, executor: Executor, geometry_bohr: Any, driver: str) -> Any:
        """Do as the potential does, and have it list the tasks."""
        loaded = schema.load_input(self._input_at(geometry_bohr, driver))
        self.end = run_expansion(loaded, executor, RunOptions(wants_timeline=True))
        self.end.raise_if_unfinished()
        return self.end.result.properties.return_energy, self.end.result.return_result

    def gradient(self, geometry_bohr: Any) -> Any:
        """Return energy and gradient."""
        began_s = time.perf_counter()
        found = super().gradient(geometry_bohr)
        step = {"wall_s": time.perf_counter() - began_s}
        if self.end is not None:
            step |= {name: self.end.summary[name] for name in ("lower_bound_s", "busy_s")}
            step["best_s"] = best_s(self.end.material.rows, self.end.summary)
        self.steps.append(step)
        return found


class Cold(Timed):
    """One that starts a pool for every gradient."""

    def _evaluate(self, *given: Any) -> Any:
        with MultiprocessingExecutor():
            return super()._evaluate(*given)


class Sequential(Timed):
    """One that asks sequential QCManyBody."""

    def _evaluate(self, geometry_bohr: Any, driver: str) -> Any:
        from qcmanybody.models.v2 import ManyBodyInput
        from qcmanybody.v2 import ManyBodyComputer

        os.environ["QCENGINE_NCORES"] = "1"
        inp = ManyBodyInput(**self._input_at(geometry_bohr, driver))
        result = ManyBodyComputer.from_manybodyinput(inp)
        return result.properties.return_energy, result.return_result


def by_geometric(potential: ManyBodyPotential, folder: str, is_loose: bool) -> Any:
    """Optimise by geomeTRIC; return the last positions in Angstrom."""
    import geometric.optimize

    from qcmb_mpi.geometric import ManyBodyEngine

    loose = dict.fromkeys(("grms", "gmax", "drms", "dmax", "energy"), 1.0) if is_loose else {}
    path = geometric.optimize.run_optimizer(
        customengine=ManyBodyEngine(potential),
        input=f"{folder}/trimer",
        prefix=f"{folder}/trimer",
        **{f"convergence_{name}": value for name, value in loose.items()},
    )
    return path.xyzs[-1]


def by_ase(potential: ManyBodyPotential, folder: str, is_loose: bool) -> Any:
    """Optimise by ASE's BFGS; return the last positions in Angstrom."""
    from ase import Atoms, units
    from ase.optimize import BFGS

    from qcmb_mpi.ase import ManyBodyCalculator

    del folder
    atoms = Atoms(list(potential.symbols), potential.geometry_bohr * units.Bohr)
    atoms.calc = ManyBodyCalculator(potential)
    BFGS(atoms, logfile=None).run(fmax=0.02, steps=2 if is_loose else 400)
    return atoms.get_positions()


def optimise(optimizer: str, potential: Timed, is_loose: bool) -> dict[str, Any]:
    """Optimise and say how; geomeTRIC's words go nowhere, nor do ours, whose handler it takes."""
    logging.getLogger("qcmb_mpi").setLevel(logging.WARNING)
    drive = by_geometric if optimizer == "geomeTRIC" else by_ase
    with (
        tempfile.TemporaryDirectory() as folder,
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        place = drive(potential, folder, is_loose)
    bohr = np.asarray(place) / 0.529177210903
    energy = potential.gradient(bohr)[0]
    steps = potential.steps[:-1]
    return {"steps": steps, "place": np.asarray(place).tolist(), "energy": energy}


def on_ranks(path: Path, optimizer: str, is_loose: bool) -> None:
    """Be one rank of mpiexec: rank 0 optimises, the others serve it."""
    given = json.loads(path.read_text(encoding="utf-8"))
    with MPIExecutor() as executor:
        found = executor.share(lambda: optimise(optimizer, Timed(given), is_loose))
        if executor.is_master:
            path.write_text(json.dumps(found), encoding="utf-8")


def run(optimizer: str, pool: str, given: dict[str, Any], is_loose: bool) -> dict[str, Any]:
    """Optimise on one kind of pool."""
    if pool == "QCManyBody":
        return optimise(optimizer, Sequential(given), is_loose)
    if pool == "new pool a step":
        return optimise(optimizer, Cold(given), is_loose)
    if pool == "warm pool":
        with MultiprocessingExecutor():
            return optimise(optimizer, Timed(given), is_loose)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "given.json"
        path.write_text(json.dumps(given), encoding="utf-8")
        words = [sys.executable, __file__, "--rank", str(path), "--optimizer", optimizer]
        command = mpiexec.command_line(mpiexec.n_cores(), words + ["--smoke"] * is_loose)
        farm.timed(command)
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found


def ratios(steps: list[dict[str, float]], name: str, to: str) -> list[float]:
    """Return the ratios of two times of every step but the first."""
    return [step[name] / step[to] for step in steps[1:] if "busy_s" in step]


def check(found: dict[str, dict[str, Any]]) -> None:
    """Refuse optimisations that ended elsewhere."""
    expected = found["QCManyBody"]
    for name, one in found.items():
        away = np.abs(np.array(one["place"]) - expected["place"]).max()
        off = abs(one["energy"] - expected["energy"])
        if off > SAME_ENERGY_HARTREE or away > SAME_PLACE_ANGSTROM:
            raise SystemExit(f"{name} ends {away:.1e} Angstrom, {off:.1e} hartree from QCManyBody")


def table(measured: dict[str, dict[str, Any]]) -> str:
    """Write a line for each optimisation."""
    lines = [
        "| optimiser | pool | steps | s a step, median | first step | wall / lower bound, median "
        "| largest | best order / lower bound, median | largest | wall / best order, median "
        "| largest | from QCManyBody's minimum |",
        "|---|---|" + "---:|" * 10,
    ]
    for optimizer, pools in measured.items():
        expected = np.array(pools["QCManyBody"]["place"])
        for pool, one in pools.items():
            walls = [step["wall_s"] for step in one["steps"]]
            told = " | ".join(
                f"{statistics.median(shares):.3f} | {max(shares):.3f}" if shares else " | "
                for shares in (one["ratios"], one["packing"], one["overhead"])
            )
            away = np.abs(np.array(one["place"]) - expected).max()
            lines.append(
                f"| {optimizer} | {pool} | {len(walls)} | {statistics.median(walls[1:]):.2f} "
                f"| {walls[0]:.2f} | {told} | {away:.0e} Å |"
            )
    return "\n".join(lines)


def is_within(measured: dict[str, dict[str, Any]]) -> bool:
    """Tell whether all steps on warm pools are within the limit; say which are not."""
    late = [
        f"BROKEN: {optimizer}, {pool}: step {number} took {ratio:.3f} times its lower bound; "
        f"in the best order its tasks take {pools[pool]['packing'][number - 2]:.3f} times"
        for optimizer, pools in measured.items()
        for pool in ("warm pool", "mpiexec")
        if pool in pools
        for number, ratio in enumerate(pools[pool]["ratios"], start=2)
        if ratio > LIMIT
    ]
    print("\n".join(late), flush=True)
    return not late


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 1 if a step took too long."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--method", default="ccsd")
    parser.add_argument("--basis", default="6-31g*")
    parser.add_argument("--optimizer", action="append", choices=OPTIMIZERS, help="default: both")
    parser.add_argument(
        "--pool", action="append", choices=tuple(POOLS), help="default: warm, mpiexec"
    )
    parser.add_argument("--smoke", action="store_true", help="a dimer, few steps")
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, help="default: results/DATE-optimization.json")
    options = parser.parse_args(argv)
    if options.rank is not None:
        on_ranks(options.rank, options.optimizer[0], options.smoke)
        return 0
    report = farm.about()
    model = ("hf", "sto-3g") if options.smoke else (options.method, options.basis)
    given = document(2 if options.smoke else 3, *model)
    report["model"] = "/".join(model)
    measured = report["measured"] = {}
    pools = options.pool or list(POOLS)[:2]
    for optimizer in options.optimizer or OPTIMIZERS:
        found = measured[optimizer] = {}
        for pool in (*map(POOLS.__getitem__, pools), "QCManyBody"):
            found[pool] = run(optimizer, pool, given, options.smoke)
            steps = found[pool]["steps"]
            found[pool]["ratios"] = ratios(steps, "wall_s", "lower_bound_s")
            found[pool]["packing"] = ratios(steps, "best_s", "lower_bound_s")
            found[pool]["overhead"] = ratios(steps, "wall_s", "best_s")
            farm.note(f"{optimizer}, {pool}: {len(steps)} steps")
        check(found)
    print(table(measured), end="\n\n", flush=True)
    farm.keep("optimization", options.output, report)
    return 0 if options.smoke or is_within(measured) else 1


if __name__ == "__main__":
    raise SystemExit(main())

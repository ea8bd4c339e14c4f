#!/usr/bin/env python3
"""What ``scale.py`` measures inside a process: planning and assembly, ours and stock QCManyBody's.

    python benchmarks/scale_parts.py PART --fragments N [--folder FOLDER]

Each part is one process; the last line of standard output is JSON with processor and wall seconds
of the work itself (imports, reading and the making of numbers are outside), resident memory before
it and the highest meanwhile.

Rules of this file
------------------
1. Numbers are drawn block by block from a fixed seed, so that every part has the same.
2. Stock gets what it wants (validated molecule, dictionary of labels) before the clock starts.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import spin  # noqa: F401  (registers the program)
from scale_inputs import KINDS, document

from qcmb_mpi import schema
from qcmb_mpi.execution.executors.base import ExecutorConfig
from qcmb_mpi.execution.outcome import Outcome
from qcmb_mpi.execution.slicer import Slicer
from qcmb_mpi.expansion.assembly import ManyBodyNumbers, assemble
from qcmb_mpi.expansion.plan import Block, TaskSpace
from qcmb_mpi.forecast import Prospect
from qcmb_mpi.scheduling import messages as m
from qcmb_mpi.scheduling.scheduler import Scheduler
from qcmb_mpi.store import Store

STORE = "scale.store.sqlite"
_PORTION = 4096


class Meter:
    """Processor and wall seconds of a ``with``, resident memory before it and the highest in it."""

    def __enter__(self) -> Meter:
        with Path("/proc/self/clear_refs").open("w") as file:
            file.write("5")  # the highest so far is forgotten
        self.before_bytes = resident("VmRSS")
        self._wall_s, self._cpu_s = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s = time.perf_counter() - self._wall_s
        self.cpu_s = time.process_time() - self._cpu_s
        self.peak_bytes = resident("VmHWM")

    def as_dict(self) -> dict[str, Any]:
        """Return what was measured."""
        names = ("cpu_s", "wall_s", "before_bytes", "peak_bytes")
        return {name: getattr(self, name) for name in names}


def resident(name: str) -> int:
    """Return a figure of this process's memory in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


class Values:
    """Component values in memory, as the store gives them out."""

    def __init__(self, space: TaskSpace, driver: str) -> None:
        names = {"energy": [], "gradient": ["gradient"], "hessian": ["gradient", "hessian"]}[driver]
        self.properties = frozenset({"energy", *names})
        self._numbers = {block: dict(numbers_of(space, block, names)) for block in space.blocks}

    def energies(self, block: Block) -> Any:
        """Give a block's energies."""
        return self._numbers[block]["energy"]

    def arrays(self, block: Block, name: str) -> Iterator[tuple[Any, Any]]:
        """Give a block's arrays portion by portion."""
        for start in range(0, block.n_tasks, _PORTION):
            part = self._numbers[block][name][start : start + _PORTION]
            yield np.arange(start, start + len(part)), part


def numbers_of(space: TaskSpace, block: Block, names: list[str]) -> Iterator[tuple[str, Any]]:
    """Draw the numbers of a block's tasks; its fragments are all of one size."""
    rng = np.random.default_rng([7, space.blocks.index(block)])
    yield "energy", rng.normal(-76.0 * block.n_real, 0.01, block.n_tasks)
    n = block.n_basis * space.expansion.system.fragment_sizes[0]
    for name in names:
        shape = (n, 3) if name == "gradient" else (3 * n, 3 * n)
        yield name, rng.normal(0.0, 0.01, (block.n_tasks, *shape))


def space_of(loaded: Any) -> TaskSpace:
    """Return the tasks of an input."""
    return TaskSpace(loaded.expansion)


def stock_core(loaded: Any) -> Any:
    """Make QCManyBody's own planner of the same input."""
    from qcmanybody.core import ManyBodyCore

    return ManyBodyCore(
        loaded.model.molecule,
        ["nocp"],
        dict.fromkeys((1, 2, 3), "(auto)"),
        return_total_data=True,
        supersystem_ie_only=False,
        embedding_charges={},
    )


def plan_ours(loaded: Any, folder: Path) -> dict[str, Any]:
    """Plan as a run does: tasks, classes, costs, order and states, up to the first assignment."""
    del folder
    with Meter() as meter:
        space = space_of(loaded)
        prospect = Prospect(space, ExecutorConfig(n_workers=4), done=np.empty(0, dtype=np.int64))
        scheduler = Scheduler()
        scheduler.step(m.AgentJoined(0, 4, 2**40, "here"), 0.0)
        commands = scheduler.step(m.SpaceAdded(0, prospect.classes), 0.0)
    assert any(isinstance(each, m.Assign) for each in commands)
    return {"n_tasks": space.n_tasks, **meter.as_dict()}


def plan_stock(loaded: Any, folder: Path) -> dict[str, Any]:
    """Plan as QCManyBody does: the compute map, then every molecule."""
    del folder
    core = stock_core(loaded)
    with Meter() as meter:
        n_tasks = len(core.compute_map) and sum(1 for _ in core.iterate_molecules())
    return {"n_tasks": n_tasks, **meter.as_dict()}


def slices(loaded: Any, folder: Path) -> dict[str, Any]:
    """Make every molecule as the slots do, but all in one process."""
    del folder
    space, slicer = space_of(loaded), Slicer(loaded.expansion.system)
    with Meter() as meter:
        for block in space.blocks:
            for start in range(block.start, block.ids.stop, _PORTION):
                found = space.clusters(np.arange(start, min(start + _PORTION, block.ids.stop)))
                for real, basis in zip(found.real, found.basis, strict=True):
                    slicer.molecule(real, basis)
    return {"n_tasks": space.n_tasks, **meter.as_dict()}


def assembled(loaded: Any, folder: Path, name: str, values: Any) -> dict[str, Any]:
    """Assemble, and leave the numbers for comparison."""
    space = space_of(loaded)
    with Meter() as meter:
        numbers: ManyBodyNumbers = assemble(space, values)
    np.savez(folder / name, **{key: np.asarray(value) for key, value in numbers.ret.items()})
    answer = {"n_tasks": space.n_tasks, "energy": numbers.ret["energy"]}
    return answer | meter.as_dict()


def assemble_ours(loaded: Any, folder: Path) -> dict[str, Any]:
    """Assemble from values in memory."""
    driver = loaded.expansion.driver
    return assembled(loaded, folder, "ours", Values(space_of(loaded), driver))


def assemble_store(loaded: Any, folder: Path) -> dict[str, Any]:
    """Assemble from a store."""
    with Store.open(folder / STORE, is_read_only=True) as store:
        store.attach(0, space_of(loaded))
        return assembled(loaded, folder, "store", store.values(0))


def assemble_stock(loaded: Any, folder: Path) -> dict[str, Any]:
    """Assemble with ``ManyBodyCore.analyze``."""
    space, core = space_of(loaded), stock_core(loaded)
    values = Values(space, loaded.expansion.driver)
    components: dict[str, dict[str, Any]] = {}
    for block in space.blocks:
        columns = [values._numbers[block][name] for name in sorted(values.properties)]
        for label, *row in zip(space.labels(block.ids), *columns, strict=True):
            components[label] = dict(zip(sorted(values.properties), row, strict=True))
            components[label]["energy"] = float(components[label]["energy"])
    with Meter() as meter:
        numbers = core.analyze(components)
    found = {name: numbers[f"ret_{name}"] for name in values.properties}
    np.savez(folder / "stock", **{key: np.asarray(value) for key, value in found.items()})
    return {"n_tasks": space.n_tasks, "energy": found["energy"], **meter.as_dict()}


def fill(loaded: Any, folder: Path, n_missing: int = 0) -> dict[str, Any]:
    """Write the numbers of all tasks but the last `n_missing` into a store."""
    space = space_of(loaded)
    driver = loaded.expansion.driver
    names = {"energy": [], "gradient": ["gradient"], "hessian": ["gradient", "hessian"]}[driver]
    with Meter() as meter, Store.open(folder / STORE) as store:
        store.attach(0, space)
        for block in space.blocks:
            numbers = dict(numbers_of(space, block, names))
            numbers["energy"] = numbers["energy"].tolist()
            n_done = min(block.n_tasks, space.n_tasks - n_missing - block.start)
            for start in range(0, n_done, _PORTION):
                store.append(
                    [
                        outcome(block.start + rank, {key: of[rank] for key, of in numbers.items()})
                        for rank in range(start, min(start + _PORTION, n_done))
                    ]
                )
    size_bytes = (folder / STORE).stat().st_size
    return {"n_tasks": space.n_tasks - n_missing, "size_bytes": size_bytes, **meter.as_dict()}


def outcome(task: int, numbers: dict[str, Any]) -> Outcome:
    """Return what a slot would have sent."""
    return Outcome(
        space=0,
        task=task,
        start_s=1.7e9 + 1e-4 * task,
        seconds=1e-3,
        cpu_s=1e-3,
        peak_bytes=2**27,
        energy_hartree=numbers["energy"],
        gradient=numbers.get("gradient"),
        hessian=numbers.get("hessian"),
        program="spin",
        version="1.0",
        host="here",
    )


PARTS: dict[str, Callable[[Any, Path], dict[str, Any]]] = {
    "plan-ours": plan_ours,
    "plan-stock": plan_stock,
    "slices": slices,
    "assemble-ours": assemble_ours,
    "assemble-store": assemble_store,
    "assemble-stock": assemble_stock,
    "fill": fill,
}


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--fragments", type=int, required=True)
    parser.add_argument("--driver", default="energy")
    parser.add_argument("--kind", choices=KINDS, default="waters")
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--missing", type=int, default=0, help="fill: tasks to leave out")
    options = parser.parse_args()
    loaded = schema.load_input(document(options.fragments, options.driver, options.kind))
    more = {"n_missing": options.missing} if options.part == "fill" else {}
    print(json.dumps(PARTS[options.part](loaded, options.folder, **more)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

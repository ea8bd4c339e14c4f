"""Outcomes, rows and results made up for the tests of what people see."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from qcmb_mpi import schema
from qcmb_mpi.execution.outcome import Failure, Outcome
from qcmb_mpi.expansion.assembly import assemble
from qcmb_mpi.expansion.plan import Block, TaskSpace
from qcmb_mpi.report.files import write_summary
from qcmb_mpi.report.summary import AgentInfo, RunSummary
from qcmb_mpi.report.timeline import TaskRows
from qcmb_mpi.scheduling.messages import TaskClass
from qcmb_mpi.scheduling.policy import ErrorClass
from qcmb_mpi.store import Store


def done(task: int, seconds: float = 1.0, **changes: Any) -> Outcome:
    """Make an attempt that gave a result."""
    fields: dict[str, Any] = {
        "space": 0,
        "start_s": 1000.0,
        "energy_hartree": -1.0,
        "program": "toy",
        "version": "1.0",
        "host": "node1",
    }
    return Outcome(task=task, seconds=seconds, **(fields | changes))


def lost(task: int, seconds: float = 1.0, **changes: Any) -> Outcome:
    """Make an attempt that gave none."""
    failure = Failure(ErrorClass.CONVERGENCE, "convergence_error", "SCF did not converge")
    return done(task, seconds, energy_hartree=None, failure=failure, **changes)


def make_rows(
    n_fragments: int = 16, n_lanes: int = 4, *, slots_per_rank: int = 2
) -> tuple[TaskRows, list[str]]:
    """Schedule all clusters of up to three fragments, the largest first."""
    rng = np.random.default_rng(1)
    labels, levels = [], []
    for size in (3, 2, 1):
        for cluster in itertools.combinations(range(1, n_fragments + 1), size):
            labels.append(json.dumps(["mp2", list(cluster), list(cluster)]))
            levels.append(size)
    level = np.array(levels)
    seconds = 0.3 * 3.0**level * rng.lognormal(0.0, 0.1, len(level))
    free_s = np.zeros(n_lanes)
    start_s, lane = np.empty(len(level)), np.empty(len(level), np.int64)
    for row in range(len(level)):
        lane[row] = free_s.argmin()
        start_s[row] = free_s[lane[row]]
        free_s[lane[row]] += seconds[row] + 0.01
    columns: dict[str, Any] = {
        "task": np.arange(len(level)),
        "start_s": 1.8e9 + start_s,
        "seconds": seconds,
        "rank": lane // slots_per_rank,
        "slot": lane % slots_per_rank,
        "host": [f"node{each // slots_per_rank}" for each in lane.tolist()],
        "level": level,
        "peak_bytes": 2**20 * 40 * level,
        "attempts": np.where(np.arange(len(level)) % 50 == 7, 2, 1),
    }
    return TaskRows.from_columns(columns), labels


def make_result(**changes: Any) -> dict[str, Any]:
    """Make a ManyBodyResult with the names QCManyBody 0.8 uses."""
    properties: dict[str, Any] = {"calcinfo_nfr": 4, "calcinfo_natom": 12}
    energies = {"cp": (-4.0, -4.02, -4.025), "nocp": (-4.0, -4.03, -4.033)}
    for name, through in energies.items():
        for nbody, total in enumerate(through, 1):
            properties[f"{name}_corrected_total_energy_through_{nbody}_body"] = total
            interaction = total - through[0]
            properties[f"{name}_corrected_interaction_energy_through_{nbody}_body"] = interaction
        properties[f"{name}_corrected_2_body_contribution_to_energy"] = through[1] - through[0]
        properties[f"{name}_corrected_3_body_contribution_to_energy"] = through[2] - through[1]
    specification = {
        "keywords": {"bsse_type": ["nocp", "cp"], "max_nbody": 3},
        "specification": {
            "(auto)": {"program": "pyscf", "model": {"method": "mp2", "basis": "cc-pvdz"}}
        },
        "driver": "energy",
    }
    result = {
        "schema_name": "qcschema_many_body_result",
        "success": True,
        "properties": properties,
        "input_data": {"molecule": {"name": "water4"}, "specification": specification},
        "provenance": {"creator": "qcmb_mpi", "version": "0.1.0"},
        "return_result": -4.033,
        "stdout": "\n ==> N-Body <==\n",
    }
    return result | changes


def helium(
    n_fragments: int, *, bsse: list[str] | None = None, max_nbody: int = 3
) -> dict[str, Any]:
    """Make an input of helium atoms on a bent line."""
    geometry = [[0.0, 3.0 * (i % 2), 4.0 * i] for i in range(n_fragments)]
    model = {"program": "toy", "driver": "energy", "model": {"method": "hf", "basis": "sto-3g"}}
    return {
        "schema_name": "qcschema_many_body_input",
        "schema_version": 2,
        "molecule": {
            "symbols": ["He"] * n_fragments,
            "geometry": [x for atom in geometry for x in atom],
            "fragments": [[i] for i in range(n_fragments)],
            "fragment_charges": [0.0] * n_fragments,
            "fragment_multiplicities": [1] * n_fragments,
        },
        "specification": {
            "driver": "energy",
            "keywords": {"bsse_type": bsse or ["nocp"], "max_nbody": max_nbody},
            "specification": {"(auto)": model},
        },
    }


def waters(n_fragments: int) -> dict[str, Any]:
    """Make an input of waters on a grid, three-body, for a program that is never run."""
    document = helium(1)
    water = np.array([[0.0, 0.0, 0.0], [1.8, 0.0, 0.3], [-0.4, 1.7, 0.0]])
    corners = [6.0 * np.array([i % 4, i // 4 % 4, i // 16]) for i in range(n_fragments)]
    document["molecule"] = {
        "symbols": ["O", "H", "H"] * n_fragments,
        "geometry": np.concatenate([water + corner for corner in corners]).ravel().tolist(),
        "fragments": [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(n_fragments)],
        "fragment_charges": [0.0] * n_fragments,
        "fragment_multiplicities": [1] * n_fragments,
    }
    return document


def make_run(folder: Path, n_fragments: int, n_slots: int = 4) -> Path:
    """Write the result and the store of a run that never was; return the result."""
    space = TaskSpace(schema.load_input(waters(n_fragments)).expansion)
    centres = space.expansion.system.geometry_bohr[::3]
    between = np.linalg.norm(centres[:, None] - centres[None], axis=2) + np.eye(n_fragments)
    pairs = -0.3 * np.exp(-0.7 * between) * np.cos(between)
    run = RunSummary(space, "multiprocessing", start_s=0.0)
    run.agent_joined(AgentInfo(0, "node1", n_slots, n_slots, 1, 2**34))
    run.predicted([TaskClass(0, block.ids, 0.05 * block.n_real**2) for block in space.blocks])
    path = folder / "waters.result.json"
    with Store.open(folder / "waters.store.sqlite") as store:
        store.attach(0, space)
        for block in space.blocks:
            outcomes = _outcomes(space, block, pairs, n_slots)
            store.append(outcomes)
            run.observe(outcomes, 0, now=60.0 + block.start)
        numbers = assemble(space, store.values(0))
        loaded = schema.load_input(waters(n_fragments))
        result = schema.build_result(loaded, space, numbers, store.values(0), ())
    schema.write_result(result, path)
    run.failed("[9]", "random_error", "lost node1", attempts=2)
    run.note(layout="4 slots x 1 thread because there are many tasks")
    write_summary(run.finish("complete", 90.0 + space.n_tasks), folder / "waters.run.json")
    return path


def _outcomes(space: TaskSpace, block: Block, pairs: Any, n_slots: int) -> list[Outcome]:
    ranks = np.arange(block.n_tasks)
    real, _ = space.fragments(block, ranks)
    both = itertools.combinations(real.T, 2)
    energies = -76.0 * block.n_real + sum((pairs[i, j] for i, j in both), np.zeros(len(ranks)))
    return [
        done(
            block.start + rank,
            0.1 * block.n_real**2,
            start_s=1e9 + (block.start + rank) // n_slots * 0.91,
            slot=(block.start + rank) % n_slots,
            energy_hartree=energy,
            peak_bytes=2**25 * block.n_real,
        )
        for rank, energy in zip(ranks.tolist(), energies.tolist(), strict=True)
    ]

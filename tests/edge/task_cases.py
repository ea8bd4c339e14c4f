"""Explicit tasks and whole inputs for executors, run by the flaky program."""

from __future__ import annotations

from typing import Any

import numpy as np

from qcmb_mpi.execution.tasks import ParallelTask, TaskResult
from tests.flaky import FlakyHarness

IMPORTS = ("tests.flaky",)


def molecule(n: int, *, shift_bohr: float = 0.0) -> dict[str, Any]:
    """Return a bent row of `n` helium atoms, each a fragment."""
    rows = [[0.3 * i * i + shift_bohr * i, 0.1 * i, 3.0 * i] for i in range(n)]
    return {
        "symbols": ["He"] * n,
        "geometry": rows,
        "fragments": [[i] for i in range(n)],
        "fragment_charges": [0.0] * n,
        "fragment_multiplicities": [1] * n,
        "molecular_charge": 0.0,
        "molecular_multiplicity": 1,
        "fix_com": True,
        "fix_orientation": True,
    }


def task(n: int, *, name: str = "", **keywords: Any) -> ParallelTask:
    """Return the calculation of `n` helium atoms; keywords as the flaky program takes them."""
    specification = {
        "program": "flaky",
        "driver": "energy",
        "model": {"method": "any"},
        "keywords": keywords,
    }
    return ParallelTask(
        task_id=name or f"He{n}",
        program="flaky",
        atomic_input={"molecule": molecule(n), "specification": specification},
        estimated_cost=float(n),
        nbody=n,
    )


def energy(n: int, *, shift_bohr: float = 0.0) -> float:
    """Return what the flaky program gives for :func:`molecule`."""

    class Real:
        real = np.ones(n, dtype=bool)
        symbols = ("He",) * n
        atomic_numbers = np.full(n, 2)
        geometry = np.array(molecule(n, shift_bohr=shift_bohr)["geometry"])

    return float(FlakyHarness._potential(Real)[0])


def energies(results: list[TaskResult]) -> list[float | None]:
    """Return the energy of every result, None where there is none."""
    return [each.atomic_result.return_result if each.success else None for each in results]


def many_body_input(n: int = 4, **changes: Any) -> dict[str, Any]:
    """Return a 3-body ManyBodyInput of `n` helium atoms for the flaky program.

    `changes` are ``shift_bohr``, ``driver``, ``bsse_type``, ``program`` and that one's keywords.
    """
    shift_bohr = changes.pop("shift_bohr", 0.0)
    driver = changes.pop("driver", "energy")
    bsse_type = changes.pop("bsse_type", ["nocp", "cp"])
    program = changes.pop("program", "flaky")
    return {
        "schema_name": "qcschema_many_body_input",
        "schema_version": 2,
        "molecule": molecule(n, shift_bohr=shift_bohr),
        "specification": {
            "driver": driver,
            "keywords": {"bsse_type": bsse_type, "max_nbody": 3, "return_total_data": True},
            "specification": {
                "(auto)": {
                    "program": program,
                    "driver": driver,
                    "model": {"method": "hf", "basis": "sto-3g"},
                    "keywords": changes,
                }
            },
        },
    }

"""QCEngine's procedure ``geometric`` for many-body gradients as well.

QCEngine hands geomeTRIC QCSchema of version 1, which QCManyBody's specification cannot be turned
into: with a ``ManyBodySpecification`` stock's procedure ends in an AssertionError. What it can do
is left to it.

Rules of this file
------------------
1. geomeTRIC is imported when an optimisation starts.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from qcelemental.models.v2 import Molecule, OptimizationResult
from qcengine.config import TaskConfig
from qcengine.exceptions import UnknownError
from qcengine.procedures.geometric import GeometricProcedure

_PROGRAM = "qcmb_mpi"


class ManyBodyGeometricProcedure(GeometricProcedure):  # type: ignore[misc]
    """geomeTRIC, also for a ``ManyBodySpecification`` whose program is ``qcmb_mpi``."""

    def compute(self, input_model: Any, config: TaskConfig) -> Any:
        """Run an ``OptimizationInput`` and return its ``OptimizationResult``.

        Raises
        ------
        qcengine.exceptions.UnknownError
            geomeTRIC or a gradient failed; in its words.
        """
        if input_model.specification.specification.program.lower() != _PROGRAM:
            return super().compute(input_model, config)
        run = import_module("geometric.run_json").geometric_run_json
        answer = run(_question(input_model))
        if not answer["success"]:
            error = answer["error"]
            raise UnknownError(error["error_message"] if isinstance(error, dict) else str(error))
        return _result(input_model, answer, str(self.get_version()))


def _question(input_model: Any) -> dict[str, Any]:
    """Return what geomeTRIC's JSON interface takes: each of its steps is a ``ManyBodyInput``."""
    document = input_model.model_dump()
    molecule, specification = document["initial_molecule"], document["specification"]
    molecule["symbols"] = list(molecule["symbols"])
    inner = specification["specification"]
    inner["driver"] = "gradient"
    inner["keywords"]["return_total_data"] = True
    return {
        "initial_molecule": molecule,
        "keywords": {**specification["keywords"], "program": _PROGRAM},
        "input_specification": {"schema_version": 2, "specification": inner},
    }


def _result(input_model: Any, answer: dict[str, Any], version: str) -> Any:
    path = answer["trajectory"]
    final = Molecule(**answer["final_molecule"])
    last = path[-1]["properties"]
    return OptimizationResult(
        input_data=input_model,
        final_molecule=final,
        properties={
            "nuclear_repulsion_energy": final.nuclear_repulsion_energy(),
            "return_energy": last["return_energy"],
            "return_gradient": path[-1]["return_result"],
            "optimization_iterations": len(path),
        },
        trajectory_results=path,
        trajectory_properties=[each["properties"] for each in path],
        provenance={
            "creator": "geomeTRIC",
            "routine": "geometric.run_json.geometric_run_json",
            "version": version,
        },
        stdout=answer["stdout"],
        success=True,
    )

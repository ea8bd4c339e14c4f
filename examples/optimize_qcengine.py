"""Optimise a water dimer with counterpoise correction through QCEngine, and keep its QCSchema.

    python examples/optimize_qcengine.py

Needs ``pip install 'qcmb_mpi[geometric]'``. Any optimiser that QCEngine drives will do in place
of geomeTRIC, if it is installed.
"""

from __future__ import annotations

from pathlib import Path

import qcengine
import yaml

import qcmb_mpi

EXAMPLE = Path(__file__).with_name("water-dimer.yaml")

document = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
question = {
    "initial_molecule": document["molecule"],
    "specification": {
        "keywords": {"convergence_set": "GAU_LOOSE"},
        "specification": {
            "schema_name": "qcschema_many_body_specification",
            "program": "qcmb_mpi",
            "driver": "gradient",
            "keywords": {"bsse_type": ["cp"], "max_nbody": 2},
            "specification": {
                "program": "pyscf",
                "driver": "gradient",
                "model": {"method": "hf", "basis": "6-31g"},
            },
        },
    },
}
with qcmb_mpi.MultiprocessingExecutor():
    answer = qcengine.compute(question, "geometric", raise_error=True)
print(
    f"{len(answer.trajectory_properties) - 1} steps, {answer.properties.return_energy:.6f} hartree"
)

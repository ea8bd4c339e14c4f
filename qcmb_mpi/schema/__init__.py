"""QCSchema at the door: ManyBodyInput to Expansion, and numbers to ManyBodyResult.

Rules of this room
------------------
1. The only importer of QCManyBody.
"""

from __future__ import annotations

from qcmb_mpi.inputs.atoms import Geometry
from qcmb_mpi.inputs.documents import strip_volatile
from qcmb_mpi.inputs.geometry import InputOptions
from qcmb_mpi.inputs.loading import LoadedInput, system_from_molecule
from qcmb_mpi.results import CLUSTER_PROPERTIES_BYTES, VerifyReport
from qcmb_mpi.schema.partial import partial_table
from qcmb_mpi.schema.reading import (
    covalent_radius_angstrom,
    fragments_of_geometry,
    fragments_of_label,
    load_geometry,
    load_input,
    naming_options,
    read_input,
    stock_computer,
)
from qcmb_mpi.schema.result import build_result, n_body_table, write_result
from qcmb_mpi.schema.verification import verify

__all__ = [
    "CLUSTER_PROPERTIES_BYTES",
    "Geometry",
    "InputOptions",
    "LoadedInput",
    "VerifyReport",
    "build_result",
    "covalent_radius_angstrom",
    "fragments_of_geometry",
    "fragments_of_label",
    "load_geometry",
    "load_input",
    "n_body_table",
    "naming_options",
    "partial_table",
    "read_input",
    "stock_computer",
    "strip_volatile",
    "system_from_molecule",
    "verify",
    "write_result",
]

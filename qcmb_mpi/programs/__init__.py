"""QC programs: harnesses for QCEngine, and what is known of every program.

:func:`register` gives QCEngine the programs ``pyscf``, ``tblite`` and ``xtb-cli`` and the procedure
``qcmb_mpi``. A name that QCEngine (or the user) already holds is left alone: theirs is used. Only
QCEngine's own ``psi4`` and ``geometric`` give way, to what is derived of them: one speaks to old
versions, the other optimises many-body gradients, as well.

Rules of this file
------------------
1. Importing it imports nothing heavy; :func:`register` imports QCEngine, never a QC program.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qcmb_mpi.programs.harness import NativeHarness


def register() -> dict[str, bool]:
    """Register our harnesses with QCEngine; calling it again changes nothing.

    Returns
    -------
    dict
        Program or procedure name -> whether QCEngine now runs ours under that name.
    """
    from qcengine.procedures.base import procedures, register_procedure
    from qcengine.procedures.geometric import GeometricProcedure as StockGeometricProcedure
    from qcengine.programs.base import programs, register_program, unregister_program
    from qcengine.programs.psi4 import Psi4Harness as StockPsi4Harness

    from qcmb_mpi.programs.optimizer import ManyBodyGeometricProcedure
    from qcmb_mpi.programs.procedure import ManyBodyProcedure
    from qcmb_mpi.programs.psi4 import Psi4Harness
    from qcmb_mpi.programs.pyscf import PySCFHarness
    from qcmb_mpi.programs.tblite import TBLiteHarness
    from qcmb_mpi.programs.xtb_cli import XtbExecutableHarness

    is_ours = {}
    for harness in (PySCFHarness(), TBLiteHarness(), Psi4Harness(), XtbExecutableHarness()):
        name = harness.name.lower()
        if type(programs.get(name)) is StockPsi4Harness:
            unregister_program(name)
        if name not in programs:
            register_program(harness)
        is_ours[name] = isinstance(programs[name], type(harness))
    procedure = ManyBodyProcedure()
    if procedure.name not in procedures:
        register_procedure(procedure)
    is_ours[procedure.name] = isinstance(procedures[procedure.name], ManyBodyProcedure)
    if type(procedures.get("geometric")) is StockGeometricProcedure:
        procedures["geometric"] = ManyBodyGeometricProcedure()
    return is_ours


def native_harness(program: str) -> NativeHarness | None:
    """Return our harness of a program, if QCEngine runs ours, itself and no class derived of it."""
    from qcengine.programs.base import programs

    from qcmb_mpi.programs.pyscf import PySCFHarness
    from qcmb_mpi.programs.tblite import TBLiteHarness

    harness = programs.get(program.lower())
    return harness if type(harness) in (PySCFHarness, TBLiteHarness) else None

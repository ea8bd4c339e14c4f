"""Numbers that a program is known to get wrong, told before it runs.

Rules of this file
------------------
1. What is told was seen here with the program, and is nothing that this package could mend: a
   harness of QCEngine's is not ours, and a harness of the user's own is trusted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qcmb_mpi.programs.remedies import is_harness_known

if TYPE_CHECKING:
    from qcmb_mpi.expansion.levels import Expansion
    from qcmb_mpi.programs.native import Array

_SAME_BOHR = 1e-7
_NEAR_BOHR = 15.0
_OF_XTB = ("gfn2", "gfn1", "ipea")


def doubts(expansion: Expansion) -> list[str]:
    """Return a line for each model chemistry whose numbers may be wrong."""
    return [
        f"gradients of QCEngine's xtb ({each.label}) are wrong where two atoms have a coordinate "
        "in common, as here, up to xtb 6.7.1: use the program xtb-cli or tblite, or turn the "
        "molecule"
        for each in expansion.model_chemistries
        if (each.program.lower(), each.driver) == ("xtb", "gradient")
        and str(each.specification["model"]["method"]).lower().startswith(_OF_XTB)
        and is_harness_known("xtb")
        and has_common_coordinate(expansion.system.geometry_bohr)
    ]


def has_common_coordinate(positions_bohr: Array) -> bool:
    """Tell whether two atoms that are near each other have the same x, y or z.

    Parameters
    ----------
    positions_bohr : float[nat, 3]

    Notes
    -----
    Of atoms in one plane only neighbours along another axis are looked at.
    """
    for axis in range(3):
        others = positions_bohr[:, (axis + 1) % 3]
        order = np.lexsort((others, np.round(positions_bohr[:, axis], 7)))
        steps = np.diff(positions_bohr[order], axis=0)
        is_same = np.abs(steps[:, axis]) < _SAME_BOHR
        if (is_same & (np.linalg.norm(steps, axis=1) < _NEAR_BOHR)).any():
            return True
    return False

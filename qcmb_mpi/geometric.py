"""An engine for geomeTRIC: ``run_optimizer(customengine=ManyBodyEngine(input_data), ...)``.

Rules of this file
------------------
1. Imported by who wants it only: the package does not need geomeTRIC.
2. geomeTRIC's log is its own: it has the root logger tell everything, of whomever.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.potential import ManyBodyPotential

try:
    from geometric.engine import Engine
    from geometric.molecule import Molecule
    from geometric.nifty import bohr2ang
except ImportError as error:
    message = f"geomeTRIC cannot be imported ({error}): pip install 'qcmb_mpi[geometric]'"
    raise ImportError(message) from error


class ManyBodyEngine(Engine):  # type: ignore[misc]
    """Energies and gradients of a many-body expansion for geomeTRIC.

    Parameters
    ----------
    input_data : ManyBodyPotential, ManyBodyInput, dict, str or Path
        What to compute, and where geomeTRIC starts; see :class:`ManyBodyPotential`.
    executor : Executor or concurrent.futures.Executor, optional
        See :class:`ManyBodyPotential`.

    Raises
    ------
    InputError
        The input is not acceptable.

    Notes
    -----
    Each fragment is given to geomeTRIC as a molecule of its own, bonded by distance.
    """

    def __init__(self, input_data: Any, executor: Any = None) -> None:
        self.potential = (
            input_data
            if isinstance(input_data, ManyBodyPotential)
            else ManyBodyPotential(input_data, executor)
        )
        molecule = Molecule()
        molecule.elem = list(self.potential.symbols)
        molecule.xyzs = [self.potential.geometry_bohr * bohr2ang]
        super().__init__(molecule)

    def __deepcopy__(self, memo: dict[int, Any]) -> ManyBodyEngine:
        return type(self)(self.potential)  # one pool, also for copies

    def calc_new(self, coords: NDArray[np.float64], dirname: str) -> dict[str, Any]:
        """Return energy (hartree) and gradient (hartree/a0, flat) at coordinates in a0, flat."""
        del dirname
        with _silence():
            energy, gradient = self.potential.gradient(coords)
        return {"energy": energy, "gradient": gradient.ravel()}


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Say warnings and errors only, unless the user has chosen otherwise."""
    ours = logging.getLogger("qcmb_mpi")
    chosen = ours.level
    if chosen == logging.NOTSET:
        ours.setLevel(logging.WARNING)
    try:
        yield
    finally:
        ours.setLevel(chosen)

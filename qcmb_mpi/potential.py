"""Energies and gradients of one many-body expansion at many geometries, on one warm pool.

Rules of this file
------------------
1. Nothing here knows an optimiser: atomic units, and the atoms in the caller's order.
2. Under MPI every rank makes the same calls and gets the same numbers, to the bit.
"""

from __future__ import annotations

import os
from concurrent.futures import Executor as Pool
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcmb_mpi import schema
from qcmb_mpi.computer import store_of
from qcmb_mpi.driver import RunEnd, RunOptions, run_expansion
from qcmb_mpi.errors import InputError
from qcmb_mpi.execution.executors.base import Executor
from qcmb_mpi.inputs.documents import plain
from qcmb_mpi.report.progress import Progress
from qcmb_mpi.warm import warm_executor


class ManyBodyPotential:
    """The total energy of a many-body expansion as a function of the geometry.

    Parameters
    ----------
    input_data : ManyBodyInput, dict, LoadedInput, str or Path
        What to compute: QCSchema, version 1 or 2, or a file that ``qcmb-mpi run`` takes. Its
        geometry is the first one only; its driver, and whether it asks for total data, do not
        matter: surfaces are of total energies.
    executor : Executor or concurrent.futures.Executor, optional
        By default that of the open ``with`` block, else one of the process's own, which stays warm
        until the process exits. A store that its configuration names keeps all geometries, so that
        a script that is started again computes none of them twice.
    options : InputOptions, optional
        Completes an .xyz or .pdb file.
    progress : Progress, optional
        Shows how far each geometry is; one that can be started again, such as
        :class:`~qcmb_mpi.report.notebook.NotebookProgress`.

    Attributes
    ----------
    end : RunEnd, optional
        How the last evaluation ended: its ``ManyBodyResult`` and summary; on rank 0 only.

    Raises
    ------
    InputError
        The input or an option is not acceptable.
    """

    def __init__(
        self,
        input_data: Any,
        executor: Executor | Pool | None = None,
        *,
        options: schema.InputOptions | None = None,
        progress: Progress | None = None,
    ) -> None:
        loaded = _loaded(input_data, options)
        n_atoms = loaded.expansion.system.n_atoms
        self.end: RunEnd | None = None
        self._progress = progress
        self._given = None if executor is None else warm_executor(executor)
        self._order = np.array(loaded.permutation or range(n_atoms))
        self._document = plain(loaded.model)
        self._document["specification"]["keywords"]["return_total_data"] = True

    @property
    def executor(self) -> Executor:
        """The pool that the next evaluation uses."""
        return self._given or warm_executor()

    @property
    def symbols(self) -> tuple[str, ...]:
        """Element symbols of the atoms."""
        symbols = np.array(self._document["molecule"]["symbols"])
        return tuple(self._restored(symbols).tolist())

    @property
    def geometry_bohr(self) -> NDArray[np.float64]:
        """Positions in the input, a0, as (n_atoms, 3)."""
        geometry = np.array(self._document["molecule"]["geometry"], dtype=np.float64)
        return self._restored(geometry.reshape(-1, 3))

    def energy(self, geometry_bohr: ArrayLike) -> float:
        """Return the energy at a geometry.

        Parameters
        ----------
        geometry_bohr : float[n_atoms, 3]
            In a0; any shape with as many numbers. Digits beyond 1e-8 are rounded, as QCSchema
            does.

        Returns
        -------
        float
            Hartree.

        Raises
        ------
        InputError
            A number too many or too few, or not finite; atoms too close to each other.
        TasksFailed
            Some tasks failed for good.
        Interrupted
            A signal stopped the run.
        """
        return self._evaluate(geometry_bohr, "energy")[0]

    def gradient(self, geometry_bohr: ArrayLike) -> tuple[float, NDArray[np.float64]]:
        """Return energy and gradient at a geometry.

        Parameters
        ----------
        geometry_bohr : float[n_atoms, 3]
            As for :meth:`energy`.

        Returns
        -------
        tuple of (float, float[n_atoms, 3])
            Hartree, and hartree/a0.

        Raises
        ------
        InputError, TasksFailed, Interrupted
            As :meth:`energy` does.
        """
        energy, gradient = self._evaluate(geometry_bohr, "gradient")
        return energy, self._restored(np.asarray(gradient, dtype=np.float64).reshape(-1, 3))

    def _evaluate(self, geometry_bohr: ArrayLike, driver: str) -> tuple[float, Any]:
        executor = self.executor
        return executor.share(lambda: self._on_master(executor, geometry_bohr, driver))

    def _on_master(
        self, executor: Executor, geometry_bohr: ArrayLike, driver: str
    ) -> tuple[float, Any]:
        loaded = schema.load_input(self._input_at(geometry_bohr, driver))
        options = RunOptions(store=store_of(executor.config))
        end = self.end = run_expansion(loaded, executor, options, progress=self._progress)
        end.raise_if_unfinished()
        result = end.result
        return float(result.properties.return_energy), result.return_result

    def _input_at(self, geometry_bohr: ArrayLike, driver: str) -> dict[str, Any]:
        geometry = np.asarray(geometry_bohr, dtype=np.float64).reshape(-1)
        if geometry.size != 3 * len(self._order):
            many = f"{3 * len(self._order)} numbers"
            raise InputError("geometry", "is of other atoms", value=geometry.size, accepted=many)
        molecule = dict(self._document["molecule"])
        molecule["geometry"] = geometry.reshape(-1, 3)[self._order].ravel().tolist()
        specification = self._document["specification"] | {"driver": driver}
        return {**self._document, "molecule": molecule, "specification": specification}

    def _restored(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return what there is of each atom in the caller's order."""
        found = np.empty_like(rows)
        found[self._order] = rows
        return found


def _loaded(input_data: Any, options: schema.InputOptions | None) -> schema.LoadedInput:
    if isinstance(input_data, (str, os.PathLike)):
        return schema.read_input(os.fspath(input_data), options=options)
    if options is not None and options.given():
        raise InputError("options", "only complete an .xyz or .pdb file")
    if isinstance(input_data, schema.LoadedInput):
        return input_data
    return schema.load_input(input_data)

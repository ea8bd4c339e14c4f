"""Programs that run in this process: plain arrays in, numbers out, no QCSchema objects.

What is here is common to the programs that come with the package. Their harnesses are shells of
QCSchema around the same calculations, so that both ways give the same bits and the same errors.

Rules of this file
------------------
1. Standard library and numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Atoms(NamedTuple):
    """The atoms of one calculation.

    Parameters
    ----------
    numbers : int[nat]
        Atomic numbers, those of ghosts as well.
    symbols : str[nat]
        Element symbols.
    positions_bohr : float[nat, 3]
        Positions, a0.
    is_real : bool[nat]
        False for ghosts.
    charge : float
        Of all real atoms together, e.
    multiplicity : int or float
        2S + 1.
    name : callable
        Gives a name for messages.
    """

    numbers: NDArray[np.integer[Any]]
    symbols: NDArray[np.str_]
    positions_bohr: Array
    is_real: NDArray[np.bool_]
    charge: float
    multiplicity: float
    name: Callable[[], str]

    @classmethod
    def of(cls, molecule: Any) -> Atoms:
        """Take the atoms of a QCSchema molecule."""
        return cls(
            np.asarray(molecule.atomic_numbers),
            np.asarray(molecule.symbols),
            np.asarray(molecule.geometry, dtype=np.float64),
            np.asarray(molecule.real),
            molecule.molecular_charge,
            molecule.molecular_multiplicity,
            lambda: str(molecule.name),
        )


@dataclass(frozen=True, slots=True)
class Means:
    """What one calculation may use.

    Parameters
    ----------
    n_threads : int
    memory_gib : float
        GiB (2^30 bytes).
    scratch : str, optional
        Directory for files; the system's own by default.
    """

    n_threads: int = 1
    memory_gib: float = 1.0
    scratch: str | None = None


@dataclass(slots=True)
class Numbers:
    """Results of one calculation, atomic units, natural size (real and ghost atoms).

    Parameters
    ----------
    energy : float
    gradient : ndarray, optional
        Shape ``(nat, 3)``.
    hessian : ndarray, optional
        Shape ``(3 nat, 3 nat)``, symmetric.
    properties : dict
        Further QCSchema ``AtomicProperties`` fields.
    stdout, stderr : str
        What the program wrote.
    """

    energy: float
    gradient: Array | None = None
    hessian: Array | None = None
    properties: dict[str, Any] = field(default_factory=dict)
    stdout: str = ""
    stderr: str = ""

    def all_properties(self) -> dict[str, Any]:
        """Return everything as QCSchema ``AtomicProperties`` fields."""
        fields = {**self.properties, "return_energy": self.energy}
        if self.gradient is not None:
            fields["return_gradient"] = self.gradient
        if self.hessian is not None:
            fields["return_hessian"] = self.hessian
        return fields


# What QCEngine writes before the message of its exceptions.
_HEADERS = {
    "input_error": "QCEngine Input Error",
    "convergence_error": "QCEngine Convergence Error",
    "unknown_error": "QCEngine Unknown Error",
}


class CalculationFailed(Exception):
    """A calculation that was refused, did not converge, or failed in the program.

    Parameters
    ----------
    error_type : str
        QCEngine's name: ``input_error``, ``convergence_error`` or ``unknown_error``.
    message : str
        For people, with what to change.
    output : str
        What the program wrote.
    """

    def __init__(self, error_type: str, message: str, output: str = "") -> None:
        self.error_type = error_type
        self.message = message
        self.output = output
        super().__init__(error_type, message, output)

    @property
    def told(self) -> str:
        """The message as QCEngine tells it."""
        return f"{_HEADERS[self.error_type]}: {self.message}"


class Calculation(Protocol):
    """One model chemistry of one program, checked and ready for any number of molecules."""

    def run(self, atoms: Atoms) -> Numbers:
        """Compute; raise :class:`CalculationFailed` if there are no numbers."""

    def rehearse(self) -> None:
        """Do what a process does in its first calculation only, if that is soon done."""


class NativeProgram(Protocol):
    """A program of ours; its harness for QCEngine is one."""

    creator: str

    def get_version(self) -> str:
        """Return the program's version."""

    def calculation(self, specification: Specification, means: Means) -> Calculation:
        """Check a specification and return what computes it."""


class Specification(Protocol):
    """What is asked for; the ``AtomicSpecification`` of QCSchema is one."""

    driver: Any
    model: Any
    keywords: Mapping[str, Any]


@lru_cache(maxsize=16)
def installed_version(package: str) -> str:
    """Return the version of an installed package: it takes 0.2 ms to find."""
    from importlib import metadata

    return metadata.version(package)

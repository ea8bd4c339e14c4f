"""Our calculations without QCEngine: what it would hand to them, known without importing it.

QCEngine and QCElemental take as long to import as a program itself, and a slot that computes with
programs of this package alone needs neither.

Rules of this file
------------------
1. QCEngine and QCElemental are not imported.
2. Where anything might differ from what QCEngine would make of it, be it a word, nothing is given.
"""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, NamedTuple

from qcmb_mpi.programs.configured import has_settings
from qcmb_mpi.programs.names import OURS
from qcmb_mpi.programs.native import Calculation, Means, Specification, installed_version

# Versions of QCEngine that bring no harness of these names themselves: that one would be used.
_WITHOUT_OURS = ("0.50.", "0.51.", "0.52.")
_CREATORS = {"pyscf": "PySCF", "tblite": "tblite"}
_HOMES = {
    "pyscf": ("qcmb_mpi.programs.pyscf_calculation", "PySCFCalculation"),
    "tblite": ("qcmb_mpi.programs.tblite_run", "XtbCalculation"),
}
_DRIVERS = ("energy", "gradient", "hessian")
_PARTS = {"driver", "model", "keywords", "protocols", "extras"}


class BareProgram:
    """A program of ours, as its harness gives it.

    Parameters
    ----------
    name : str
        Of :data:`~qcmb_mpi.programs.names.OURS`.
    """

    def __init__(self, name: str) -> None:
        self.creator = _CREATORS[name]
        self._name = name

    def get_version(self) -> str:
        """Return the program's version."""
        return installed_version(self._name)

    def calculation(self, specification: Specification, means: Means) -> Calculation:
        """Check a specification and return what computes it; raises as the harness does."""
        home, kind = _HOMES[self._name]
        made: Calculation = getattr(importlib.import_module(home), kind)(specification, means)
        return made


class Request(NamedTuple):
    """A program of ours, what is asked of it, and what it may use."""

    program: BareProgram
    specification: Specification
    means: Means


def is_ours(program: str) -> bool:
    """Tell whether a name is ours because nobody can have told QCEngine of another yet."""
    return "qcengine" not in sys.modules and program.lower() in OURS


def bare_program(program: str) -> BareProgram | None:
    """Return a program of ours that is installed; None if only QCEngine can tell whose it is."""
    name = program.lower()
    if not is_ours(name) or not installed_version("qcengine").startswith(_WITHOUT_OURS):
        return None
    found = find_spec(name)
    return None if found is None or found.origin is None else BareProgram(name)


def bare_request(
    program: str, specification: Mapping[str, Any], task_config: Mapping[str, Any]
) -> Request | None:
    """Return what QCEngine would hand to a program of ours; None if it has to be asked.

    Parameters
    ----------
    program : str
        QCEngine's name; case is free.
    specification : mapping
        Of a model chemistry.
    task_config : mapping
        As for ``qcengine.compute``.
    """
    found = bare_program(program)
    if found is None:
        return None
    asked, means = _plain(specification), _means(task_config)
    return None if asked is None or means is None else Request(found, asked, means)


def _plain(specification: Mapping[str, Any]) -> Specification | None:
    """Return what ``AtomicSpecification`` would be, if validation would change nothing."""
    if specification.get("extras") or not specification.keys() <= _PARTS:
        return None
    driver, keywords = specification.get("driver"), specification.get("keywords", {})
    model = specification.get("model")
    if driver not in _DRIVERS or type(keywords) is not dict or not isinstance(model, Mapping):
        return None
    method, basis = model.get("method"), model.get("basis")
    is_plain = type(method) is str and (basis is None or type(basis) is str)
    if not is_plain or not model.keys() <= {"method", "basis"}:
        return None
    return SimpleNamespace(
        driver=SimpleNamespace(value=driver),
        model=SimpleNamespace(method=method, basis=basis),
        keywords=copy.deepcopy(keywords),
    )


def _means(task_config: Mapping[str, Any]) -> Means | None:
    """Return what ``get_config`` would say, if there is nothing that it would have to look up."""
    scratch = task_config.get("scratch_directory")
    is_literal = scratch is None or not ("$" in scratch or scratch.startswith("~"))
    if "memory" not in task_config or not is_literal or has_settings():
        return None
    return Means(task_config["ncores"], task_config["memory"], scratch)

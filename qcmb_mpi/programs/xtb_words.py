"""What the executable ``xtb`` is asked for: methods, keywords and molecules it can be told of.

==========================  ============================================  =============
keyword                     meaning                                       argument
==========================  ============================================  =============
``accuracy``                numerical thresholds, smaller is tighter      ``--acc``
``electronic_temperature``  of the Fermi filling, kelvin                  ``--etemp``
``max_iterations``          SCC iterations                                ``--iterations``
``alpb``, ``gbsa``          implicit solvent, by its name                 the same
==========================  ============================================  =============

Rules of this file
------------------
1. Names only: the preflight uses it on the master, where nothing is started.
2. What xtb would silently change (a spin that cannot be) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from qcmb_mpi.programs.names import RequestError, did_you_mean
from qcmb_mpi.programs.native import Atoms
from qcmb_mpi.programs.tblite_model import check_basis, checked_number

METHODS = {
    "GFN2-xTB": ("--gfn", "2"),
    "GFN1-xTB": ("--gfn", "1"),
    "GFN0-xTB": ("--gfn", "0"),
    "GFN-FF": ("--gfnff",),
}
_NUMBERS = {
    "accuracy": "--acc",
    "electronic_temperature": "--etemp",
    "max_iterations": "--iterations",
}
_SOLVENTS = {"alpb": "--alpb", "gbsa": "--gbsa"}
_LAST_ELEMENT = 86  # beyond radon xtb has no parameters, and dies
_NAME = re.compile(r"[\w-]+")


def parse_method(name: str) -> tuple[str, ...]:
    """Return the arguments of a method (any case, with or without hyphens or ``-xTB``).

    Raises
    ------
    RequestError
        xtb has no such method.
    """
    key = _key(name)
    for known, words in METHODS.items():
        if key == _key(known):
            return words
    raise RequestError(
        f"the executable xtb has no method {name!r}{did_you_mean(name, METHODS)} (it runs "
        f"{', '.join(METHODS)})",
        part="model.method",
    )


def parse_keywords(keywords: Mapping[str, Any]) -> list[str]:
    """Return the arguments of keywords.

    Raises
    ------
    RequestError
        A keyword is unknown, or its value makes no sense.
    """
    words: list[str] = []
    for name, value in keywords.items():
        key = str(name).lower()
        if key in _NUMBERS:
            words += [_NUMBERS[key], str(checked_number(key, value))]
        elif key in _SOLVENTS:
            words += [_SOLVENTS[key], _solvent(key, value)]
        else:
            near = did_you_mean(key, (*_NUMBERS, *_SOLVENTS))
            raise RequestError(
                f"the harness of the executable xtb has no keyword {name!r}{near} (it has "
                f"{', '.join((*_NUMBERS, *_SOLVENTS))})",
                part="keywords",
            )
    return words


def check_elements(symbols: Iterable[str]) -> None:
    """Refuse elements that xtb has no parameters for.

    Raises
    ------
    RequestError
        There is one.
    """
    from qcelemental import periodictable

    for symbol in sorted(set(symbols)):
        if periodictable.to_Z(symbol) > _LAST_ELEMENT:
            raise RequestError(
                f"xtb has no parameters for {symbol}, only up to radon", part="molecule"
            )


def arguments(specification: Any, atoms: Atoms) -> list[str]:
    """Return the arguments of one calculation, those for cores and files aside.

    Parameters
    ----------
    specification : Specification
    atoms : Atoms

    Raises
    ------
    RequestError
        Method, basis set, keyword, driver or molecule that xtb cannot take.
    """
    driver = specification.driver.value
    if driver not in ("energy", "gradient"):
        raise RequestError(
            f"the harness of the executable xtb has no driver {driver!r}, only energy and gradient",
            part="driver",
        )
    check_basis(specification.model.basis)
    check_elements(atoms.symbols)
    charge, n_unpaired = _electrons(atoms)
    return [
        *parse_method(specification.model.method),
        *parse_keywords(specification.keywords),
        *("--chrg", str(charge), "--uhf", str(n_unpaired)),
        *(["--grad"] if driver == "gradient" else []),
    ]


def _key(name: str) -> str:
    return name.strip().lower().replace("-", "").removesuffix("xtb")


def _solvent(key: str, value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise RequestError(
            f"keyword {key!r} must be the name of a solvent, not {value!r}", part="keywords"
        )
    return value


def _electrons(atoms: Atoms) -> tuple[int, int]:
    """Return charge and number of unpaired electrons."""
    wrong = ""
    n_unpaired, n_electrons = atoms.multiplicity - 1, int(atoms.numbers.sum()) - atoms.charge
    if not atoms.is_real.all():
        wrong = (
            "xtb has no ghost atoms: a semi-empirical method has no basis set to add; use "
            "bsse_type nocp, or another program for cp and vmfc"
        )
    elif atoms.charge != int(atoms.charge) or n_unpaired != int(n_unpaired):
        wrong = f"xtb takes whole charges and spins, not {atoms.charge:g} and {n_unpaired / 2:g}"
    elif n_electrons < n_unpaired or (n_electrons - n_unpaired) % 2:
        wrong = f"multiplicity {n_unpaired + 1:g} is impossible with {n_electrons:g} electrons"
    if wrong:
        raise RequestError(wrong, part="molecule")
    return int(atoms.charge), int(n_unpaired)

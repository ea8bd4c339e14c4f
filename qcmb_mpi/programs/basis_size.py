"""How many basis functions a task has, ghost atoms included: what its cost follows from.

Common basis sets of light elements are in a table, so that planning on the master needs no QC
program; others are read from PySCF's tables if PySCF is installed; the rest is an estimate.

Rules of this file
------------------
1. An answer for everything: a wrong guess costs a little balance, never a run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from qcmb_mpi.programs.names import RequestError

if TYPE_CHECKING:
    from qcmb_mpi.expansion.system import System

# Spherical functions of H-He, B-Ne and Al-Ar (the s-block of a row has at most as many).
_TABLE: dict[str, tuple[int, int, int]] = {
    "sto-3g": (1, 5, 9),
    "3-21g": (2, 9, 13),
    "6-31g": (2, 9, 13),
    "6-31g*": (2, 14, 18),
    "6-31g**": (5, 14, 18),
    "6-31+g*": (2, 18, 22),
    "6-31+g**": (5, 18, 22),
    "6-31++g**": (6, 18, 22),
    "6-311g": (3, 13, 21),
    "6-311g*": (3, 18, 26),
    "6-311g**": (6, 18, 26),
    "6-311+g**": (6, 22, 30),
    "6-311++g**": (7, 22, 30),
    "cc-pvdz": (5, 14, 18),
    "cc-pvtz": (14, 30, 34),
    "cc-pvqz": (30, 55, 59),
    "aug-cc-pvdz": (9, 23, 27),
    "aug-cc-pvtz": (23, 46, 50),
    "aug-cc-pvqz": (46, 80, 84),
    "jun-cc-pvdz": (5, 18, 22),
    "def2-svp": (5, 14, 18),
    "def2-tzvp": (6, 31, 37),
    "def2-tzvpp": (14, 31, 42),
    "def2-qzvp": (30, 57, 70),
}
_ZETA = {"d": "6-31g**", "t": "def2-tzvp", "q": "cc-pvqz", "5": "aug-cc-pvqz"}
_ROWS = (2, 10, 18, 36, 54, 86)
_PER_HEAVIER_ROW = 12
_SYMBOLS = (
    *("H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S", "Cl"),
    *("Ar", "K", "Ca", "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As"),
    *(
        "Se",
        "Br",
        "Kr",
        "Rb",
        "Sr",
        "Y",
        "Zr",
        "Nb",
        "Mo",
        "Tc",
        "Ru",
        "Rh",
        "Pd",
        "Ag",
        "Cd",
        "In",
    ),
    *(
        "Sn",
        "Sb",
        "Te",
        "I",
        "Xe",
        "Cs",
        "Ba",
        "La",
        "Ce",
        "Pr",
        "Nd",
        "Pm",
        "Sm",
        "Eu",
        "Gd",
        "Tb",
    ),
    *(
        "Dy",
        "Ho",
        "Er",
        "Tm",
        "Yb",
        "Lu",
        "Hf",
        "Ta",
        "W",
        "Re",
        "Os",
        "Ir",
        "Pt",
        "Au",
        "Hg",
        "Tl",
    ),
    *("Pb", "Bi", "Po", "At", "Rn"),
)
_NUMBER = {symbol: number for number, symbol in enumerate(_SYMBOLS, start=1)}


def n_basis_functions(
    system: System, real: Sequence[int], basis: Sequence[int], model: Mapping[str, Any]
) -> int:
    """Count the basis functions of a cluster, or estimate them.

    Parameters
    ----------
    system : System
    real, basis : sequence of int
        Fragments, 1-based; the real ones are among the basis ones.
    model : mapping
        ``method`` and ``basis`` as in a QCSchema model; without a basis set (semi-empirical
        methods, force fields) the valence orbitals of the real atoms count.
    """
    name = model.get("basis")
    fragments = basis if name else real
    slices = system.fragment_slices
    return sum(
        functions_of_atom(symbol, str(name or ""))
        for fragment in fragments
        for symbol in system.symbols[slices[fragment - 1]]
    )


@lru_cache(maxsize=4096)
def electrons_of_atom(symbol: str) -> int:
    """Return the electrons of a neutral atom that a program treats.

    Those that a core potential stands for in heavy atoms, beyond krypton, are left out whether
    there is one or not: what is concluded from the number is then rather too small.
    """
    number = _NUMBER.get(symbol.capitalize(), len(_SYMBOLS))
    return number - (60 if number > 71 else 46 if number > 54 else 28 if number > 36 else 0)


@lru_cache(maxsize=4096)
def functions_of_atom(symbol: str, basis: str) -> int:
    """Return the number of spherical functions of one atom (valence orbitals without a basis)."""
    number = _NUMBER.get(symbol.capitalize(), len(_SYMBOLS))
    if not basis:
        return _n_valence(number)
    row = sum(number > last for last in _ROWS)
    known = _TABLE.get(_spelling(basis))
    if known is not None and row < len(known):
        return known[row]
    return _from_pyscf(symbol, basis) or _estimate(row, basis)


def _n_valence(number: int) -> int:
    if number <= _ROWS[0]:
        return 1
    is_transition_metal = any(first <= number <= first + 9 for first in (21, 39, 72))
    return 9 if is_transition_metal else 4


def _spelling(basis: str) -> str:
    key = basis.strip().lower().replace("(d,p)", "**").replace("(d)", "*")
    return re.sub(r"^(6-31\+*g)d$", r"\1*", key)


def _from_pyscf(symbol: str, basis: str) -> int:
    if find_spec("pyscf") is None:
        return 0
    from qcmb_mpi.programs.pyscf_model import basis_shells, n_functions

    try:
        return n_functions(basis_shells(basis, symbol))
    except RequestError:
        return 0


def _estimate(row: int, basis: str) -> int:
    """Guess from the zeta in the name, each heavier row a dozen functions more."""
    found = re.search(r"([dtq5])z", basis.lower())
    sizes = _TABLE[_ZETA[found.group(1) if found else "d"]]
    last = len(sizes) - 1
    return sizes[min(row, last)] + _PER_HEAVIER_ROW * max(0, row - last)

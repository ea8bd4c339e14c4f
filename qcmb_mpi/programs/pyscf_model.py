"""What PySCF is asked for: method and basis-set names turned into something it can run.

Method names
------------
``hf``, ``scf``                 RHF for singlets, UHF for all other multiplicities
``rhf``, ``uhf``, ``rohf``      that reference (``rhf`` for singlets only)
``mp2``, ``ccsd``, ``ccsd(t)``  on an RHF or UHF reference
anything else                   a density functional, as PySCF and libxc spell it; RKS or UKS

Rules of this file
------------------
1. Names only, nothing is run: the preflight uses it on the master.
2. PySCF is imported inside functions.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import warnings
from dataclasses import dataclass
from typing import Any

from qcmb_mpi.programs.names import RequestError, did_you_mean

Shells = list[Any]
"""One element's basis set in PySCF's internal format."""

_HARTREE_FOCK = {"hf": None, "scf": None, "rhf": "rhf", "uhf": "uhf", "rohf": "rohf"}
_CORRELATED = ("mp2", "ccsd", "ccsd(t)")
_COMMON_BASIS_SETS = (
    *(
        "sto-3g",
        "3-21g",
        "6-31g",
        "6-31+g*",
        "6-31g*",
        "6-31g**",
        "6-311g",
        "6-311g**",
        "6-311++g**",
    ),
    *("cc-pvdz", "cc-pvtz", "cc-pvqz", "aug-cc-pvdz", "aug-cc-pvtz", "aug-cc-pvqz", "jun-cc-pvdz"),
    *("def2-sv(p)", "def2-svp", "def2-svpd", "def2-tzvp", "def2-tzvpp", "def2-tzvpd", "def2-qzvp"),
)
_DISPERSION_SUFFIX = re.compile(r"[-_](d[234].*|d|3c)$")


@dataclass(frozen=True, slots=True)
class Method:
    """A method that PySCF can run.

    Parameters
    ----------
    name : str
        Lower case.
    correlation : str
        ``""`` (mean field only), ``"mp2"``, ``"ccsd"`` or ``"ccsd(t)"``.
    functional : str, optional
        The density functional; None for wave-function methods.
    reference : str, optional
        ``"rhf"``, ``"uhf"`` or ``"rohf"`` where the name fixes it.
    """

    name: str
    correlation: str = ""
    functional: str | None = None
    reference: str | None = None


@functools.lru_cache(maxsize=256)
def parse_method(name: str) -> Method:
    """Return the method of that name, in any case.

    Raises
    ------
    RequestError
        The name is unknown, ambiguous, or names a dispersion correction.
    """
    key = name.strip().lower()
    if key in _HARTREE_FOCK:
        return Method(key, reference=_HARTREE_FOCK[key])
    if key in _CORRELATED:
        return Method(key, correlation=key)
    _refuse_dispersion(key)
    _check_functional(key)
    return Method(key, functional=key)


def _refuse_dispersion(key: str) -> None:
    if _DISPERSION_SUFFIX.search(key) or key == "cf22d":
        raise RequestError(
            f"method {key!r} includes an empirical dispersion correction, which the pyscf harness "
            "does not add; run the plain functional with pyscf and the correction with program "
            "'s-dftd3' or 'dftd4'",
            part="model.method",
        )


def _check_functional(key: str) -> None:
    from pyscf.dft import libxc

    notes = io.StringIO()
    try:
        with contextlib.redirect_stderr(notes), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            hybrid, terms = libxc.parse_xc(key)
            libxc.xc_type(key)
    except Exception as error:  # the parser raises whatever its string handling meets
        raise _unknown_method(key) from error
    if not any(hybrid) and not any(factor for _, factor in terms):
        raise _unknown_method(key)
    if notes.getvalue():
        raise RequestError(
            f"method {key!r} is the name of several functionals in libxc; write the full one, "
            "such as GGA_X_PBE,GGA_C_PBE",
            part="model.method",
        )


def _unknown_method(key: str) -> RequestError:
    from pyscf.dft import libxc

    short = {k.lower() for k in (*libxc.XC_ALIAS, *libxc.XC_CODES) if "_" not in k}
    known = {*_HARTREE_FOCK, *_CORRELATED, *short}
    return RequestError(
        f"pyscf has no method {key!r}{did_you_mean(key, known)} (it runs hf, rhf, uhf, rohf, mp2, "
        "ccsd, ccsd(t) and the density functionals of libxc)",
        part="model.method",
    )


def basis_shells(basis: Any, symbol: str) -> Shells:
    """Return `symbol`'s shells in the named basis set; the list is shared, do not change it.

    Raises
    ------
    RequestError
        The basis set is not a name, is unknown, or lacks the element.
    """
    return _load_shells(basis_name(basis), symbol)


def basis_name(basis: Any) -> str:
    """Return the basis-set name, checked to be one."""
    if not isinstance(basis, str) or not basis.strip():
        raise RequestError(
            "pyscf needs the name of a basis set, such as '6-31g' or 'cc-pvdz'", part="model.basis"
        )
    if "\n" in basis or os.sep in basis:
        raise RequestError(
            f"basis {basis[:40]!r}: give a name, not a file or the basis set itself",
            part="model.basis",
        )
    return basis.strip()


@functools.lru_cache(maxsize=1024)
def _load_shells(name: str, symbol: str) -> Shells:
    from pyscf import gto

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shells: Shells = gto.mole.format_basis({symbol: name})[symbol]
    except Exception as error:  # KeyError, RuntimeError or OSError, by the kind of name
        raise _no_basis(name, symbol) from error
    return shells


def _no_basis(name: str, symbol: str) -> RequestError:
    from pyscf.gto import basis as library

    spelt = {_plain(common): common for common in _COMMON_BASIS_SETS}
    known = {spelt.get(key, key) for key in (*library.ALIAS, *spelt)}
    if _plain(name) in library.ALIAS or (symbol != "H" and _has_hydrogen(name)):
        text = f"basis {name!r} has no functions for element {symbol}; choose one that has"
    else:
        text = f"pyscf has no basis {name!r}{did_you_mean(name, known)}"
    return RequestError(text, part="model.basis")


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower())


def _has_hydrogen(name: str) -> bool:
    try:
        return bool(_load_shells(name, "H"))
    except RequestError:
        return False


@functools.lru_cache(maxsize=1024)
def effective_core_potential(name: str, symbol: str) -> Any:
    """Return the core potential that belongs to the basis set, or None if it is all-electron.

    PySCF itself adds none unless asked, which silently gives valence-only basis sets to
    all-electron atoms.
    """
    from pyscf.gto import basis as library

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return library.load_ecp(name, symbol) or None
    except Exception:  # not in the file, or not a name of the ECP library
        return None


def n_functions(shells: Shells, *, is_cartesian: bool = False) -> int:
    """Count the contracted functions of one atom."""
    return sum(
        _n_components(shell[0], is_cartesian) * (len(_primitives(shell)[0]) - 1) for shell in shells
    )


def _n_components(momentum: int, is_cartesian: bool) -> int:
    return (momentum + 1) * (momentum + 2) // 2 if is_cartesian else 2 * momentum + 1


def _primitives(shell: list[Any]) -> list[Any]:
    return shell[2:] if isinstance(shell[1], int) else shell[1:]

"""The keywords of the PySCF harness: one table, every one checked, none ignored.

=====================  ======================================================  ================
keyword                meaning (names are PySCF's own attributes)              default
=====================  ======================================================  ================
``conv_tol``           SCF energy change, E_h                                  1e-10
``conv_tol_grad``      SCF orbital gradient                                    1e-5 energy, 1e-6
                                                                               gradient, 1e-7
                                                                               Hessian, MP2, CC
``conv_tol_cpscf``     response equations of a Hessian                         1e-9
``max_cycle``          SCF iterations                                          100
``direct_scf_tol``     integral screening of direct SCF                        1e-14
``init_guess``         minao, atom, huckel, mod_huckel, hcore, 1e, sap          minao
``level_shift``        of virtual orbitals, E_h                                0
``damp``               of the density matrix, 0 to 1                           0
``diis``               false turns it off                                      true
``diis_space``         Fock matrices kept                                      8
``diis_start_cycle``   first cycle of DIIS                                     1
``diis_damp``          damping inside DIIS                                     0
``newton``             second-order SCF (alias ``soscf``)                      false
``reference``          rhf, uhf or rohf                                        by multiplicity
``density_fit``        true, or the name of an auxiliary basis                 false
``cart``               Cartesian d, f functions                                false
``ecp``                "auto" (the basis set's own), "none", or a name         auto
``max_memory``         megabytes (1e6) that algorithms are chosen by           4000
``grids_level``        0 to 9 (density functionals)                            3
``grids_atom_grid``    [n_radial, n_angular]                                   by level
``grids_prune``        "nwchem", "sg1", "treutler" or "none"                   nwchem
``grid_response``      derivative of the grid weights in DFT gradients         false
``frozen``             int, list of orbitals, "core" or "none" (mp2, ccsd)     none
``cc_conv_tol``        CC energy change, E_h                                   1e-9
``cc_conv_tol_normt``  change of the amplitudes                                1e-7
``cc_max_cycle``       CC iterations                                           100
``cc_diis_space``      amplitudes kept                                         6
``cc_level_shift``     of the CC denominators, E_h                             0
``cc_direct``          integral-direct CC                                      false
=====================  ======================================================  ================

Many-body terms are small differences of large energies, hence tighter defaults than PySCF's own.

Rules of this file
------------------
1. A keyword that is unknown, of the wrong type, or without effect for the method is refused.
2. No import of PySCF: this is a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qcmb_mpi.programs.names import RequestError, did_you_mean
from qcmb_mpi.programs.pyscf_model import Method

DEFAULT_MAX_MEMORY_MB = 4000.0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_level(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 9


def _is_fraction(value: Any) -> bool:
    return _is_number(value) and 0 <= value < 1


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_bool_or_name(value: Any) -> bool:
    return _is_bool(value) or _is_name(value)


def _is_grid(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_count, value))


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_frozen(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_index, value)) and len(set(value)) == len(value)
    return value in ("core", "auto", "none") if isinstance(value, str) else _is_index(value)


def _one_of(*names: str) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: isinstance(value, str) and value.lower() in names), " or ".join(names)


_NUMBER = (_is_number, "a number")
_POSITIVE = (_is_positive, "a positive number")
_COUNT = (_is_count, "a positive integer")
_FRACTION = (_is_fraction, "a number from 0 to below 1")
_BOOL = (_is_bool, "true or false")
_GUESSES = ("minao", "atom", "huckel", "mod_huckel", "hcore", "1e", "sap")

_ANY, _DFT, _CORRELATION, _CC = "any method", "density functionals", "mp2, ccsd, ccsd(t)", "ccsd"

_TABLE: dict[str, tuple[tuple[Callable[[Any], bool], str], str]] = {
    "conv_tol": (_POSITIVE, _ANY),
    "conv_tol_grad": (_POSITIVE, _ANY),
    "conv_tol_cpscf": (_POSITIVE, _ANY),
    "max_cycle": (_COUNT, _ANY),
    "direct_scf_tol": (_POSITIVE, _ANY),
    "init_guess": (_one_of(*_GUESSES), _ANY),
    "level_shift": (_NUMBER, _ANY),
    "damp": (_FRACTION, _ANY),
    "diis": (_BOOL, _ANY),
    "diis_space": (_COUNT, _ANY),
    "diis_start_cycle": (_COUNT, _ANY),
    "diis_damp": (_FRACTION, _ANY),
    "newton": (_BOOL, _ANY),
    "reference": (_one_of("rhf", "uhf", "rohf"), _ANY),
    "density_fit": ((_is_bool_or_name, "true, false or the name of an auxiliary basis"), _ANY),
    "cart": (_BOOL, _ANY),
    "ecp": ((_is_name, "auto, none or a name"), _ANY),
    "max_memory": (_POSITIVE, _ANY),
    "grids_level": ((_is_level, "an integer from 0 to 9"), _DFT),
    "grids_atom_grid": ((_is_grid, "[n_radial, n_angular]"), _DFT),
    "grids_prune": (_one_of("nwchem", "sg1", "treutler", "none"), _DFT),
    "grid_response": (_BOOL, _DFT),
    "frozen": ((_is_frozen, "a number, a list of orbitals, core or none"), _CORRELATION),
    "cc_conv_tol": (_POSITIVE, _CC),
    "cc_conv_tol_normt": (_POSITIVE, _CC),
    "cc_max_cycle": (_COUNT, _CC),
    "cc_diis_space": (_COUNT, _CC),
    "cc_level_shift": (_NUMBER, _CC),
    "cc_direct": (_BOOL, _CC),
}
_ALIASES = {"soscf": "newton", "grids.level": "grids_level"}
_SCF_DEFAULTS = {"conv_tol": 1e-10, "conv_tol_cpscf": 1e-9, "max_cycle": 100}
_CC_DEFAULTS = {"conv_tol": 1e-9, "conv_tol_normt": 1e-7, "max_cycle": 100}
_NOT_SCF_ATTRIBUTES = frozenset(
    {"newton", "reference", "density_fit", "cart", "ecp", "max_memory", "grid_response", "frozen"}
)


@dataclass(frozen=True, slots=True)
class Settings:
    """A checked set of keywords.

    Parameters
    ----------
    scf, cc, grids : dict
        Attributes to set on PySCF's mean-field, coupled-cluster and grid objects.
    reference : str, optional
        rhf, uhf or rohf where asked for.
    frozen : int, tuple of int or "core", optional
        Orbitals left out of the correlation.
    density_fit : bool or str
        Off, PySCF's choice, or an auxiliary basis.
    is_newton, is_cartesian, has_grid_response : bool
        Second-order SCF; Cartesian functions; weight derivatives.
    ecp : str
        ``"auto"``, ``"none"`` or a name.
    max_memory_mb : float
        Upper limit of the memory that algorithms are chosen by, 1e6 bytes.
    """

    scf: dict[str, Any]
    cc: dict[str, Any] = field(default_factory=dict)
    grids: dict[str, Any] = field(default_factory=dict)
    reference: str | None = None
    frozen: int | tuple[int, ...] | str | None = None
    density_fit: bool | str = False
    is_newton: bool = False
    is_cartesian: bool = False
    has_grid_response: bool = False
    ecp: str = "auto"
    max_memory_mb: float = DEFAULT_MAX_MEMORY_MB


def parse_keywords(keywords: Mapping[str, Any], method: Method, driver: str) -> Settings:
    """Check the keywords against the table and sort them by what they are set on.

    Raises
    ------
    RequestError
        A keyword is unknown, of the wrong type, or without effect for this method.
    """
    given = _canonical(keywords)
    for name, value in given.items():
        _check(name, value, method)
    reference = str(given["reference"]).lower() if "reference" in given else method.reference
    if method.reference is not None and reference != method.reference:
        raise RequestError(
            f"keyword 'reference' is {reference!r}, but the method is {method.name!r}",
            part="keywords",
        )
    return Settings(
        scf=_scf_settings(given, method, driver),
        cc={**_CC_DEFAULTS, **_with_prefix(given, "cc_")},
        grids=_with_prefix(given, "grids_"),
        reference=reference,
        frozen=_frozen(given.get("frozen")),
        density_fit=given.get("density_fit", False),
        is_newton=given.get("newton", False),
        is_cartesian=given.get("cart", False),
        has_grid_response=given.get("grid_response", False),
        ecp=str(given.get("ecp", "auto")),
        max_memory_mb=float(given.get("max_memory", DEFAULT_MAX_MEMORY_MB)),
    )


def _canonical(keywords: Mapping[str, Any]) -> dict[str, Any]:
    lower = {str(name).lower(): value for name, value in keywords.items()}
    return {_ALIASES.get(name, name): value for name, value in lower.items()}


def _check(name: str, value: Any, method: Method) -> None:
    if name not in _TABLE:
        near = did_you_mean(name, _TABLE, cutoff=0.7)
        raise RequestError(
            f"the pyscf harness has no keyword {name!r}{near} "
            f"(for {method.name}: {', '.join(_accepted(method))})",
            part="keywords",
        )
    (is_valid, expected), methods = _TABLE[name]
    if not is_valid(value):
        raise RequestError(f"keyword {name!r} must be {expected}, not {value!r}", part="keywords")
    if not _applies(methods, method):
        raise RequestError(
            f"keyword {name!r} has no effect with method {method.name!r}, only with {methods}",
            part="keywords",
        )


def _accepted(method: Method) -> list[str]:
    return [name for name, (_, methods) in _TABLE.items() if _applies(methods, method)]


def _applies(methods: str, method: Method) -> bool:
    if methods == _DFT:
        return method.functional is not None
    if methods == _CORRELATION:
        return bool(method.correlation)
    return methods == _ANY or method.correlation.startswith("ccsd")


def _with_prefix(given: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name[len(prefix) :]: v for name, v in given.items() if name.startswith(prefix)}


def _scf_settings(given: Mapping[str, Any], method: Method, driver: str) -> dict[str, Any]:
    chosen = {
        name: value.lower() if isinstance(value, str) else value
        for name, value in given.items()
        if name not in _NOT_SCF_ATTRIBUTES and not name.startswith(("cc_", "grids_"))
    }
    return {
        **_SCF_DEFAULTS,
        "conv_tol_grad": _gradient_tolerance(method, driver),
        "direct_scf_tol": 1e-14,
        **chosen,
    }


def _gradient_tolerance(method: Method, driver: str) -> float:
    """SCF energies are stationary; what follows from the orbitals is linear in their error."""
    if method.correlation or driver == "hessian":
        return 1e-7
    return 1e-6 if driver == "gradient" else 1e-5


def _frozen(value: Any) -> int | tuple[int, ...] | str | None:
    if isinstance(value, str):
        return None if value == "none" else "core"
    if isinstance(value, (list, tuple)):
        return tuple(value) or None
    return value or None

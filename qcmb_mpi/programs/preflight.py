"""What a model chemistry asks of its program, checked before anything runs.

Of the programs that come with the package all is known; of QCEngine's harnesses what they would
refuse, or silently ignore, without asking the program.

Rules of this file
------------------
1. Nothing is started, and only the programs that come with the package are imported.
2. What only the program can know is left to it: its refusal is the failure of a task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qcmb_mpi.programs.names import RequestError, did_you_mean

Check = Callable[[Mapping[str, Any], Mapping[str, Any], str, Sequence[str]], None]

_MOPAC_METHODS = (
    *("MNDO", "AM1", "PM3", "RM1", "MNDOD", "PM6", "PM6-D3", "PM6-DH+", "PM6-DH2", "PM6-DH2X"),
    *("PM6-D3H4", "PM6-3DH4X", "PM7", "PM7-TS"),
)
_MOPAC_KEYWORDS = ("ITER", "PULAY")
_XTB_METHODS = ("GFN2-xTB", "GFN1-xTB", "GFN0-xTB", "IPEA-xTB", "GFN-FF")
_XTB_KEYWORDS = ("accuracy", "electronic_temperature", "max_iterations", "solvent", "verbosity")


def check_specification(
    program: str, specification: Mapping[str, Any], driver: str, symbols: Sequence[str]
) -> None:
    """Check method, basis set and keywords, as far as they are known.

    Parameters
    ----------
    program : str
        QCEngine's name.
    specification : mapping
        ``model`` and ``keywords``.
    driver : str
    symbols : sequence of str
        Elements that the basis set must have.

    Raises
    ------
    RequestError
        The program cannot take it.
    """
    check = _CHECKS.get(program.lower())
    if check is not None:
        model, keywords = specification.get("model") or {}, specification.get("keywords") or {}
        check(model, keywords, driver, symbols)


def _check_pyscf(
    model: Mapping[str, Any], keywords: Mapping[str, Any], driver: str, symbols: Sequence[str]
) -> None:
    from qcmb_mpi.programs.pyscf_keywords import parse_keywords
    from qcmb_mpi.programs.pyscf_model import basis_name, basis_shells, parse_method

    method = parse_method(str(model.get("method", "")))
    parse_keywords(keywords, method, driver)
    if method.correlation and driver == "hessian":
        raise RequestError(f"pyscf has no Hessian for {method.name}", part="driver")
    basis_name(model.get("basis"))
    for symbol in sorted(set(symbols)):
        basis_shells(model.get("basis"), symbol)


def _check_tblite(
    model: Mapping[str, Any], keywords: Mapping[str, Any], driver: str, symbols: Sequence[str]
) -> None:
    from qcmb_mpi.programs.tblite_model import check_basis, parse_keywords, parse_method

    parse_method(str(model.get("method", "")))
    check_basis(model.get("basis"))
    parse_keywords(keywords)


def _check_mopac(
    model: Mapping[str, Any], keywords: Mapping[str, Any], driver: str, symbols: Sequence[str]
) -> None:
    _one_of(model, _MOPAC_METHODS, "MOPAC")
    _no_basis(model, "MOPAC")
    _only(keywords, _MOPAC_KEYWORDS, "MOPAC")


def _check_xtb(
    model: Mapping[str, Any], keywords: Mapping[str, Any], driver: str, symbols: Sequence[str]
) -> None:
    written = {name.lower().replace("-", "") for name in _XTB_METHODS}
    if str(model.get("method", "")).lower().replace("-", "") not in written:
        _one_of(model, _XTB_METHODS, "xtb")
    _no_basis(model, "xtb")
    _only(keywords, _XTB_KEYWORDS, "xtb")


def _check_xtb_cli(
    model: Mapping[str, Any], keywords: Mapping[str, Any], driver: str, symbols: Sequence[str]
) -> None:
    from qcmb_mpi.programs.tblite_model import check_basis
    from qcmb_mpi.programs.xtb_words import check_elements, parse_keywords, parse_method

    parse_method(str(model.get("method", "")))
    check_basis(model.get("basis"))
    parse_keywords(keywords)
    check_elements(symbols)


def _check_nwchem(
    model: Mapping[str, Any], keywords: Mapping[str, Any], driver: str, symbols: Sequence[str]
) -> None:
    from qcengine.exceptions import InputError
    from qcengine.programs.nwchem.germinate import muster_modelchem

    method = str(model.get("method", ""))
    try:
        muster_modelchem(method, driver, bool(keywords.get("qc_module", False)))
    except (InputError, UnboundLocalError):  # the latter: mp3, mp4, ccd without its TCE
        raise RequestError(
            f"QCEngine's harness of NWChem has no method {method!r}: it takes hf, mp2, ccsd, "
            "ccsd(t), NWChem's names of density functionals, and with the keyword qc_module: tce "
            "those of its TCE",
            part="model.method",
        ) from None
    if not model.get("basis") and method.lower() != "nwchem":
        raise RequestError("NWChem needs a basis set, such as cc-pvdz", part="model.basis")


def _one_of(model: Mapping[str, Any], methods: Sequence[str], program: str) -> None:
    method = str(model.get("method", ""))
    if method.lower() not in map(str.lower, methods):
        raise RequestError(
            f"{program} has no method {method!r}{did_you_mean(method, methods)} (it runs "
            f"{', '.join(methods)})",
            part="model.method",
        )


def _no_basis(model: Mapping[str, Any], program: str) -> None:
    basis = model.get("basis")
    if basis:
        raise RequestError(
            f"{program} brings its own basis, and would ignore {basis!r}; leave it out",
            part="model.basis",
        )


def _only(keywords: Mapping[str, Any], known: Sequence[str], program: str) -> None:
    for name in keywords:
        if name.lower() not in map(str.lower, known):
            raise RequestError(
                f"QCEngine's harness of {program} has no keyword {name!r}"
                f"{did_you_mean(name, known)} (it takes {', '.join(known)})",
                part="keywords",
            )


_CHECKS: dict[str, Check] = {
    "pyscf": _check_pyscf,
    "tblite": _check_tblite,
    "mopac": _check_mopac,
    "xtb": _check_xtb,
    "xtb-cli": _check_xtb_cli,
    "nwchem": _check_nwchem,
}

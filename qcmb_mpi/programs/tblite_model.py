"""What tblite is asked for: method names and keywords, checked without running anything.

Rules of this file
------------------
1. Names only: the preflight uses it on the master, where tblite may not be loaded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from qcmb_mpi.programs.names import RequestError, did_you_mean

METHODS = {"gfn1": "GFN1-xTB", "gfn2": "GFN2-xTB"}

_HARTREE_PER_KELVIN = 3.166808578545117e-6  # as tblite's own documentation converts
_KEYWORDS = {
    "accuracy": "accuracy",
    "max_iterations": "max-iter",
    "electronic_temperature": "temperature",
    "mixer_damping": "mixer-damping",
    "verbosity": "verbosity",
}
_INTEGERS = ("max_iterations", "verbosity")


def parse_method(name: str) -> str:
    """Return tblite's own spelling of a method name (any case, with or without ``-xTB``)."""
    key = name.strip().lower().removesuffix("-xtb").removesuffix("xtb")
    if key not in METHODS:
        raise RequestError(
            f"tblite has no method {name!r}{did_you_mean(name, METHODS.values())} (it runs "
            "GFN1-xTB and GFN2-xTB)",
            part="model.method",
        )
    return METHODS[key]


def check_basis(basis: Any) -> None:
    """Refuse a basis set: the Hamiltonian brings its own."""
    if basis not in (None, ""):
        raise RequestError(
            f"xTB methods take no basis set, not {basis!r}; leave it null", part="model.basis"
        )


def parse_keywords(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return tblite's settings; the printout is off unless asked for.

    Raises
    ------
    RequestError
        A keyword is unknown or its value is not a number that makes sense.
    """
    settings: dict[str, Any] = {"verbosity": 0}
    for name, value in keywords.items():
        key = str(name).lower()
        if key not in _KEYWORDS:
            raise RequestError(
                f"the tblite harness has no keyword {name!r}{did_you_mean(key, _KEYWORDS)}",
                part="keywords",
            )
        settings[_KEYWORDS[key]] = checked_number(key, value)
    if "temperature" in settings:
        settings["temperature"] *= _HARTREE_PER_KELVIN
    return settings


def checked_number(key: str, value: Any) -> float | int:
    """Return the value of a keyword that is a positive number.

    Raises
    ------
    RequestError
        It is none.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if (
        not is_number
        or not math.isfinite(value)
        or value < 0
        or (value == 0 and key != "verbosity")
    ):
        raise RequestError(
            f"keyword {key!r} must be a positive number, not {value!r}", part="keywords"
        )
    if key in _INTEGERS and value != int(value):
        raise RequestError(f"keyword {key!r} must be an integer, not {value!r}", part="keywords")
    return int(value) if key in _INTEGERS else float(value)

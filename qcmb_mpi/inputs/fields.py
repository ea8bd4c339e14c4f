"""The fields that a ManyBodyInput may have, and what may stand in each.

QCSchema's own models are forgiving in places (text for numbers, extra fields of a model) and
describe a mistake in several lines, sometimes far from it. These tables come first.

Rules of this file
------------------
1. A check takes plain data and its dotted path, and returns nothing or raises an
   :class:`InputError` that names the path as the user wrote it.
2. One check says only what can be said without looking elsewhere; rules between fields are in
   :mod:`qcmb_mpi.checks`.
3. No import of QCManyBody or QCElemental; a test compares the tables with their models.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from qcmb_mpi.errors import InputError
from qcmb_mpi.inputs.documents import join

Check = Callable[[Any, str], None]

DRIVERS = ("energy", "gradient", "hessian")
BSSE_NAMES = ("nocp", "cp", "vmfc", "ssfc", "mbe", "none")


def suggest(given: object, known: Collection[Any]) -> str:
    """Return ``, did you mean ...?`` if something in `known` is near to `given`."""
    by_lower = {str(name).lower(): str(name) for name in known}
    near = difflib.get_close_matches(str(given).lower(), list(by_lower), n=1, cutoff=0.6)
    return f", did you mean {by_lower[near[0]]}?" if near else ""


def anything(value: Any, path: str) -> None:
    """Accept whatever stands here."""


def string(value: Any, path: str) -> None:
    """Accept text."""
    if not isinstance(value, str):
        raise InputError(path, "must be text", value=value)


def text(value: Any, path: str) -> None:
    """Accept text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise InputError(path, "must be text that is not empty", value=value)


def flag(value: Any, path: str) -> None:
    """Accept true or false."""
    if not isinstance(value, bool):
        raise InputError(path, "must be true or false", value=value)


def number(value: Any, path: str) -> None:
    """Accept a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(path, "must be a number", value=value)


def whole(value: Any, path: str) -> None:
    """Accept a whole number, also written as ``2.0``."""
    number(value, path)
    if value != int(value):
        raise InputError(path, "must be a whole number", value=value)


def positive(value: Any, path: str) -> None:
    """Accept 1, 2, 3 and so on."""
    whole(value, path)
    if value < 1:
        raise InputError(path, "must be positive", value=value, accepted="1, 2, 3, ...")


def mapping(value: Any, path: str) -> None:
    """Accept an object with any fields."""
    if not isinstance(value, dict):
        raise InputError(path, "must be an object with named fields", value=value)


def optional(check: Check) -> Check:
    """Accept null too."""

    def checked(value: Any, path: str) -> None:
        if value is not None:
            check(value, path)

    return checked


def sequence(check: Check) -> Check:
    """Accept a list whose items pass `check`."""

    def checked(value: Any, path: str) -> None:
        if not isinstance(value, list):
            raise InputError(path, "must be a list", value=value)
        for index, item in enumerate(value):
            check(item, f"{path}[{index}]")

    return checked


def mapping_of(check: Check) -> Check:
    """Accept an object with any field names whose values pass `check`."""

    def checked(value: Any, path: str) -> None:
        mapping(value, path)
        for key, item in value.items():
            check(item, join(path, key))

    return checked


def one_of(*names: Any) -> Check:
    """Accept one of `names`, with a suggestion for a near miss."""

    def checked(value: Any, path: str) -> None:
        if isinstance(value, bool) or value not in names:
            accepted = ", ".join(map(str, names))
            message = f"is not known{suggest(value, names)}"
            raise InputError(path, message, value=value, accepted=accepted)

    return checked


def fields(table: Mapping[str, Check], *required: str) -> Check:
    """Accept an object with these fields and no others."""

    def checked(value: Any, path: str) -> None:
        mapping(value, path)
        for key in value:
            if key not in table:
                message = f"there is no such field{suggest(key, table)}"
                raise InputError(join(path, key), message, accepted=", ".join(table))
        for key in required:
            if key not in value:
                accepted = "e.g. program: pyscf" if key == "program" else None
                raise InputError(join(path, key), "is missing", accepted=accepted)
        for key, item in value.items():
            table[key](item, join(path, key))

    return checked


def bsse_type(value: Any, path: str) -> None:
    """Accept a BSSE treatment, or a list of at least one."""
    names = value if isinstance(value, list) else [value]
    if not names:
        raise InputError(path, "No BSSE correction specified", accepted=", ".join(BSSE_NAMES))
    for index, name in enumerate(names):
        where = f"{path}[{index}]" if isinstance(value, list) else path
        one_of(*BSSE_NAMES)(name.lower() if isinstance(name, str) else name, where)


def level(key: int | str, path: str) -> int | str:
    """Return the n-body level, or ``supersystem``, that a key of `levels` means."""
    if key == "supersystem":
        return key
    is_whole = isinstance(key, int) or (key.isascii() and key.strip().isdecimal())
    if is_whole and int(key) >= 1:
        return int(key)
    message = f"is not an n-body level{suggest(key, ['supersystem'])}"
    raise InputError(join(path, key), message, accepted="1, 2, 3, ... or supersystem")


def levels(value: Any, path: str) -> None:
    """Accept a mapping of n-body levels to names of specifications."""
    mapping(value, path)
    if not value:
        raise InputError(path, "is empty", accepted="n-body levels with names of specifications")
    seen: set[int | str] = set()
    for key, label in value.items():
        found = level(key, path)
        text(label, join(path, key))
        if found in seen:
            raise InputError(join(path, key), f"the level {found} appears twice")
        seen.add(found)


def basis(value: Any, path: str) -> None:
    """Accept the name of a basis set, a QCSchema basis set, or null."""
    if not isinstance(value, (str, dict, type(None))):
        raise InputError(path, "must be the name of a basis set, or null", value=value)


def specifications(atomic: Check) -> Check:
    """Accept one atomic specification, or several by name."""

    def checked(value: Any, path: str) -> None:
        mapping(value, path)
        if not value:
            raise InputError(path, "is empty", accepted="specifications by name")
        if is_single(value):
            atomic(value, path)
            return
        for label, item in value.items():
            text(label, join(path, label))
            atomic(item, join(path, label))

    return checked


def is_single(specification: Mapping[str, Any]) -> bool:
    """Whether this is one atomic specification, not several by name."""
    if "model" in specification:
        return True
    is_flat = any(not isinstance(value, dict) for value in specification.values())
    return is_flat and any(name in specification for name in ("program", "driver"))


_ATOMIC_PROTOCOLS: dict[str, Check] = {
    "wavefunction": one_of(
        "all",
        "orbitals_and_eigenvalues",
        "occupations_and_eigenvalues",
        "return_results",
        "none",
    ),
    "stdout": flag,
    "error_correction": fields(
        {"default_policy": flag, "policies": optional(mapping_of(flag))},
    ),
    "native_files": one_of("all", "input", "none"),
}

_ATOMIC: dict[str, Check] = {
    "program": text,
    "driver": one_of(*DRIVERS, "properties"),
    "model": fields({"method": text, "basis": basis}, "method"),
    "keywords": mapping,
    "extras": mapping,
}

_KEYWORDS: dict[str, Check] = {
    "bsse_type": bsse_type,
    "embedding_charges": optional(mapping_of(sequence(number))),
    "return_total_data": optional(flag),
    "levels": optional(levels),
    "max_nbody": optional(whole),
    "supersystem_ie_only": optional(flag),
}

_MOLECULE: dict[str, Check] = {
    "schema_name": one_of("qcschema_molecule"),
    "validated": flag,
    "symbols": sequence(text),
    "geometry": sequence(anything),
    "name": optional(string),
    "identifiers": optional(mapping),
    "comment": optional(string),
    "molecular_charge": optional(whole),
    "molecular_multiplicity": optional(positive),
    "masses": optional(sequence(optional(number))),
    "real": optional(sequence(flag)),
    "atom_labels": optional(sequence(string)),
    "atomic_numbers": optional(sequence(whole)),
    "mass_numbers": optional(sequence(optional(whole))),
    "connectivity": optional(sequence(sequence(number))),
    "fragments": optional(sequence(sequence(whole))),
    "fragment_charges": optional(sequence(optional(whole))),
    "fragment_multiplicities": optional(sequence(optional(positive))),
    "fix_com": optional(flag),
    "fix_orientation": optional(flag),
    "fix_symmetry": optional(string),
    "provenance": optional(mapping),
    "id": anything,
    "extras": optional(mapping),
}


def _named(name: str, table: Mapping[str, Check], version: int | None = None) -> dict[str, Check]:
    """Put QCSchema's own name, and a version where it has one, into a table."""
    head: dict[str, Check] = {"schema_name": one_of(name)}
    if version is not None:
        head["schema_version"] = one_of(version)
    return {**table, **head}


def _input_v1() -> Check:
    atomic = fields(
        _named(
            "qcschema_atomicspecification", {**_ATOMIC, "protocols": fields(_ATOMIC_PROTOCOLS)}, 1
        ),
        "program",
        "driver",
        "model",
    )
    specification: dict[str, Check] = {
        "driver": one_of(*DRIVERS),
        "keywords": fields(_named("qcschema_manybodykeywords", _KEYWORDS, 1)),
        "specification": specifications(atomic),
        "protocols": fields({"component_results": one_of("all", "none")}),
        "extras": mapping,
    }
    whole_input: dict[str, Check] = {
        "molecule": fields(_named("qcschema_molecule", _MOLECULE, 2), "symbols", "geometry"),
        "specification": fields(
            _named("qcschema_manybodyspecification", specification, 1),
            "driver",
            "keywords",
            "specification",
        ),
        "extras": mapping,
    }
    return fields(
        _named("qcschema_manybodyinput", whole_input, 1),
        "molecule",
        "specification",
    )


def _input_v2() -> Check:
    protocols = fields(_named("qcschema_atomic_protocols", _ATOMIC_PROTOCOLS))
    atomic = fields(
        _named("qcschema_atomic_specification", {**_ATOMIC, "protocols": protocols}),
        "program",
        "driver",
        "model",
    )
    results: dict[str, Check] = {"cluster_results": one_of("all", "none")}
    specification: dict[str, Check] = {
        "driver": one_of(*DRIVERS),
        "program": string,
        "keywords": fields(_named("qcschema_many_body_keywords", _KEYWORDS)),
        "specification": specifications(atomic),
        "protocols": fields(_named("qcschema_many_body_protocols", results)),
        "extras": mapping,
    }
    whole_input: dict[str, Check] = {
        "molecule": fields(_named("qcschema_molecule", _MOLECULE, 3), "symbols", "geometry"),
        "specification": fields(
            _named("qcschema_many_body_specification", specification),
            "driver",
            "keywords",
            "specification",
        ),
        "provenance": mapping,
        "id": optional(string),
    }
    return fields(
        _named("qcschema_many_body_input", whole_input, 2),
        "molecule",
        "specification",
    )


MANY_BODY_INPUT: dict[int, Check] = {1: _input_v1(), 2: _input_v2()}

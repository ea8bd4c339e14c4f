"""Geometry files (.xyz, .pdb) completed by options to a ManyBodyInput.

Rules of this file
------------------
1. What leaves is in bohr; the conversion and the covalent radii come in.
2. Fragments are ordered by their first atom in the file; who reads results asks for that order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcmb_mpi.errors import InputError
from qcmb_mpi.inputs import fragments
from qcmb_mpi.inputs.atoms import Geometry
from qcmb_mpi.inputs.checks import refuse_overlap
from qcmb_mpi.inputs.file_charges import (
    charge_fields,
    charge_note,
    one_for_each,
    refuse_unsaid_ions,
)

# Fields of the ManyBodyInput that an option sets, most specific first.
_OPTION_OF_FIELD = {
    "specification.specification.program": "--program",
    "specification.specification.model.method": "--method",
    "specification.specification.model.basis": "--basis",
    "specification.specification.keywords": "--keyword",
    "specification.driver": "--driver",
    "specification.specification.driver": "--driver",
    "specification.keywords.bsse_type": "--bsse",
    "specification.keywords.max_nbody": "--max-nbody",
    "molecule.molecular_charge": "--charge",
    "molecule.fragment_charges": "--charge",
    "molecule.molecular_multiplicity": "--multiplicity",
    "molecule.fragment_multiplicities": "--multiplicity",
    "molecule.fragments": "--fragment",
}


@dataclass(frozen=True, slots=True)
class InputOptions:
    """What completes a geometry file; None where nothing was said.

    Parameters
    ----------
    program, method, basis, driver : str, optional
        Program (``pyscf`` if not said), method (needed), basis set, driver (``energy``).
    bsse : str, optional
        BSSE treatments separated by commas, the first is returned.
    max_nbody : int, optional
        Highest n-body level.
    total : bool, optional
        Return total instead of interaction data.
    fragment : str, optional
        ``auto`` (by covalent bonds, metal ions apart) or ranges of atoms counted from 1,
        ``1-3,4-6``; atoms of one fragment that do not stand together are joined by ``+``,
        ``1-3+7,4-6``. If not said: the ``--`` lines of the file, without them ``auto``.
    charge, multiplicity : str, optional
        One value for each fragment, separated by commas, or one for the whole if that leaves no
        choice. If not said: what the file says, else charge 0 and the lowest multiplicity.
    keywords : tuple of str or mapping
        Keywords of the program, as ``NAME=VALUE`` or by name.
    units : {"angstrom", "bohr"}, optional
        Of the coordinates; if not said: what the file says, else angstrom.
    """

    program: str | None = None
    method: str | None = None
    basis: str | None = None
    driver: str | None = None
    bsse: str | None = None
    max_nbody: int | None = None
    total: bool | None = None
    fragment: str | None = None
    charge: str | None = None
    multiplicity: str | None = None
    keywords: Sequence[str] | Mapping[str, Any] = ()
    units: str | None = None

    def given(self) -> tuple[str, ...]:
        """Return the command line names of the options that were set."""
        names = [name for name in self.__slots__ if getattr(self, name) not in (None, (), {}, [])]
        return tuple(f"--{name.replace('_', '-').replace('keywords', 'keyword')}" for name in names)


def parse_keyword(text: str) -> tuple[str, Any]:
    """Split ``NAME=VALUE``; the value is JSON if it can be read so, else text."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise InputError("--keyword", "must be NAME=VALUE", value=text)
    try:
        return name.strip(), json.loads(value)
    except ValueError:
        return name.strip(), value


def option_error(error: InputError) -> InputError:
    """Name the option where an error names the field that the option set."""
    field = error.field.replace(".(auto)", "")
    for place, option in _OPTION_OF_FIELD.items():
        if field == place or field.startswith((f"{place}.", f"{place}[")):
            return InputError(option, str(error).removeprefix(f"{error.field}: "))
    return error


def refuse_doubt(
    geometry: Geometry,
    groups: Sequence[Sequence[int]],
    options: InputOptions,
    warnings: Sequence[str],
) -> None:
    """Raise if a charge or multiplicity would have to be placed by guessing.

    Parameters
    ----------
    geometry : Geometry
    groups : sequence of sequence of int
        Atoms of each fragment, in the order of the file.
    options : InputOptions
    warnings : sequence of str
        Of the input that was made of these.
    """
    refuse_unsaid_ions(geometry, groups, options)
    if not any("as QCElemental does" in warning for warning in warnings):
        return
    message = "does not say on which fragment it is"
    for name in ("charge", "multiplicity"):
        value = getattr(options, name)
        if value is None and geometry.total is not None:
            value = getattr(geometry.total, name)
        if value is not None:
            accepted = one_for_each(geometry, groups, name, int(value))
            raise InputError(f"--{name}", message, value=value, accepted=accepted)


def notes(geometry: Geometry, groups: Sequence[Sequence[int]], options: InputOptions) -> list[str]:
    """Tell what was decided about the atoms of a file, each a line."""
    found = [*geometry.warnings, *charge_note(geometry, groups, options)]
    if _is_automatic(geometry, options):
        said = charge_fields(geometry, groups, options).get("fragment_charges")
        found += fragments.remarks(geometry, groups, said or [None] * len(groups))
    order = [atom for group in groups for atom in group]
    if order != sorted(order) and options.driver in ("gradient", "hessian"):
        found.append(
            "fragments are computed one after the other, not in the order of the file; gradients "
            "and Hessians are in the order of the file, as is `molecule` in the result"
        )
    return found


def document(
    geometry: Geometry,
    options: InputOptions,
    *,
    radius_angstrom: Callable[[str], float],
    bohr_per_angstrom: float,
    source: str = "geometry",
) -> tuple[dict[str, Any], tuple[tuple[int, ...], ...]]:
    """Make a ManyBodyInput (QCSchema version 2) of a geometry and options.

    Parameters
    ----------
    geometry : Geometry
        Of a file.
    options : InputOptions
        What the file does not say.
    radius_angstrom : callable
        Covalent radius of an element.
    bohr_per_angstrom : float
        Unit of length.
    source : str
        The file, for errors.

    Returns
    -------
    tuple of (dict, tuple of tuple of int)
        Plain data, and the atoms of each fragment as places in the file, from 0.

    Raises
    ------
    InputError
        An option is missing or cannot be read, or atoms overlap.
    """
    if options.method is None:
        raise InputError("--method", "is missing: what to compute", accepted="e.g. --method hf")
    positions_bohr = geometry.positions * (1.0 if geometry.units == "bohr" else bohr_per_angstrom)
    refuse_overlap(positions_bohr, geometry.symbols, source)
    groups = fragments_of(
        geometry, options, radius_angstrom=radius_angstrom, bohr_per_angstrom=bohr_per_angstrom
    )
    order = [atom for group in groups for atom in group]
    ends = np.cumsum([len(group) for group in groups]).tolist()
    molecule = {
        "symbols": [geometry.symbols[atom] for atom in order],
        "geometry": positions_bohr[order].ravel().tolist(),
        "fragments": [list(range(e - len(g), e)) for e, g in zip(ends, groups, strict=True)],
        "fix_com": True,
        "fix_orientation": True,
        **charge_fields(geometry, groups, options),
    }
    return {"molecule": molecule, "specification": _specification(options)}, groups


def _specification(options: InputOptions) -> dict[str, Any]:
    driver = "energy" if options.driver is None else options.driver
    keywords: dict[str, Any] = {}
    if options.bsse is not None:
        keywords["bsse_type"] = [name.strip() for name in options.bsse.split(",")]
    if options.max_nbody is not None:
        keywords["max_nbody"] = options.max_nbody
    if options.total is not None:
        keywords["return_total_data"] = options.total
    atomic = {
        "program": "pyscf" if options.program is None else options.program,
        "driver": driver,
        "model": {"method": options.method, "basis": options.basis},
        "keywords": _keywords(options.keywords),
    }
    return {"driver": driver, "keywords": keywords, "specification": atomic}


def _keywords(given: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(given, Mapping):
        return dict(given)
    found: dict[str, Any] = {}
    for text in given:
        name, value = parse_keyword(text)
        if name in found:
            raise InputError("--keyword", f"{name} is given twice", value=text)
        found[name] = value
    return found


def fragments_of(
    geometry: Geometry,
    options: InputOptions,
    *,
    radius_angstrom: Callable[[str], float],
    bohr_per_angstrom: float,
) -> tuple[tuple[int, ...], ...]:
    """Return the atoms of each fragment, as places in the file; parameters as of `document`."""
    unit = bohr_per_angstrom if geometry.units == "bohr" else 1.0
    if _is_automatic(geometry, options):
        return fragments.automatic(geometry, lambda symbol: radius_angstrom(symbol) * unit)
    if options.fragment is None:
        return geometry.groups or ()
    return fragments.parse_fragments(options.fragment, len(geometry.symbols))


def _is_automatic(geometry: Geometry, options: InputOptions) -> bool:
    return options.fragment == "auto" or (options.fragment is None and geometry.groups is None)

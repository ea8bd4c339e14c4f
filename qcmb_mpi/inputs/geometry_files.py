"""Atoms from .xyz and .pdb files.

Rules of this file
------------------
1. Text in any encoding is read: only comments have anything but ASCII in them.
"""

from __future__ import annotations

import re
from pathlib import Path

from qcmb_mpi.errors import InputError
from qcmb_mpi.inputs import pdb_text, xyz_text
from qcmb_mpi.inputs.atoms import Element, Geometry
from qcmb_mpi.inputs.documents import YAML_SUFFIXES, read_text

SUFFIXES = (".xyz", ".pdb", ".ent")
UNITS = ("angstrom", "bohr")


def is_geometry_file(source: str) -> bool:
    """Whether the name is one of a geometry file."""
    return Path(source).suffix.lower() in SUFFIXES


def refuse_ending(source: str) -> None:
    """Raise if the name is neither one of a geometry file nor one of a document."""
    known = (".json", *YAML_SUFFIXES, *SUFFIXES[:2])
    if source != "-" and Path(source).suffix.lower() not in known:
        raise InputError(source, "ending not known", accepted=" ".join(known))


def read_geometry(source: str, element: Element, units: str | None = None) -> Geometry:
    """Read an .xyz or .pdb file.

    Parameters
    ----------
    source : str
        Its path.
    element : callable
        Gives the symbol of an element by symbol or atomic number, None if there is no such one.
    units : {"angstrom", "bohr"}, optional
        Of the coordinates; by default what the file says, or else angstrom.

    Returns
    -------
    Geometry

    Raises
    ------
    InputError
        The file cannot be read as one geometry.
    """
    if units not in (None, *UNITS):
        raise InputError("--units", "is not known", value=units, accepted=", ".join(UNITS))
    lines = re.split(r"\r\n|\r|\n", read_text(source, is_any_encoding=True))
    parse = xyz_text.parse if Path(source).suffix.lower() == ".xyz" else pdb_text.parse
    return parse(lines, source, element, units)

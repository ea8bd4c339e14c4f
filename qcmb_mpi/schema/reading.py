"""ManyBodyInput to Expansion: what is asked for, checked by stock QCManyBody itself.

Rules of this file
------------------
1. Rules on keywords are stock's by construction: its own ``ManyBodyComputer`` is built (without
   tasks) and asked.
2. Whatever is wrong with an input is one :class:`InputError`, never a traceback.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import qcelemental
import qcmanybody.models.v1 as schema_v1
import qcmanybody.models.v2 as schema_v2
from qcmanybody.utils import delabeler
from qcmanybody.v2 import ManyBodyComputer

from qcmb_mpi.errors import InputError
from qcmb_mpi.inputs import checks, geometry, geometry_files, loading
from qcmb_mpi.inputs.atoms import Geometry
from qcmb_mpi.inputs.documents import plain, read_document
from qcmb_mpi.inputs.fields import MANY_BODY_INPUT
from qcmb_mpi.inputs.geometry import InputOptions
from qcmb_mpi.inputs.loading import LoadedInput
from qcmb_mpi.programs.doubts import doubts

_MODELS = {1: schema_v1, 2: schema_v2}
_MISSING_RADIUS_ANGSTROM = 1.6


def read_input(source: str, *, options: InputOptions | None = None) -> LoadedInput:
    """Read a ManyBodyInput from a file.

    Parameters
    ----------
    source : str
        Path of a JSON or YAML file, of an .xyz or .pdb geometry, or ``-`` for standard input.
    options : InputOptions, optional
        Completes a geometry file; with any other file they are refused.

    Returns
    -------
    LoadedInput

    Raises
    ------
    InputError
        One line that names the field, the value and what is accepted.
    """
    options = options or InputOptions()
    if geometry_files.is_geometry_file(source):
        found = geometry_files.read_geometry(source, _element, options.units)
        return load_geometry(found, options, name=source)
    if options.given():
        geometry_files.refuse_ending(source)
        message = "only completes an .xyz or .pdb file; write it into the input"
        raise InputError(options.given()[0], message, value=source)
    return load_input(read_document(source))


def load_input(data: Any) -> LoadedInput:
    """Check a ManyBodyInput and make an expansion of it.

    Parameters
    ----------
    data : mapping or ManyBodyInput
        QCSchema version 1 or 2, as plain data or as QCManyBody's model.

    Returns
    -------
    LoadedInput

    Raises
    ------
    InputError
        One line that names the field, the value and what is accepted.
    """
    is_model = isinstance(data, (schema_v1.ManyBodyInput, schema_v2.ManyBodyInput))
    if not is_model and not isinstance(data, Mapping):
        message = f"must be a ManyBodyInput, not a {type(data).__name__}"
        raise InputError("input", message, accepted="a mapping or QCManyBody's model")
    document = plain(data)
    version = data.schema_version if is_model else loading.version_of(document)
    MANY_BODY_INPUT[version](document, "")
    molecule, note = checks.molecule(document["molecule"], _atomic_number)
    loading.check_keywords(document["specification"], molecule["fragments"])
    is_complete = is_model and molecule == document["molecule"]
    molecule.pop("validated", None)  # so that QCElemental looks too
    document["molecule"] = molecule
    kind = _MODELS[version].ManyBodyInput
    original = data if is_complete else _guarded(lambda: kind(**document), document)
    model = original if version == 2 else _guarded(lambda: _version_2(original), document)
    return LoadedInput(
        expansion=(expansion := loading.expansion(model, stock_core(model))),
        model=model,
        schema_version=version,
        wants_records=model.specification.protocols.cluster_results.value == "all",
        original=original,
        warnings=(
            *loading.warnings(document, note),
            *loading.no_tasks(expansion),
            *doubts(expansion),
        ),
    )


def fragments_of_label(label: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the real and the basis fragments (from 1) of one of QCManyBody's labels."""
    _, real, basis = delabeler(label)
    return tuple(real), tuple(basis)


@contextlib.contextmanager
def naming_options(loaded: LoadedInput) -> Iterator[None]:
    """Name the option where an error names a field, if the input was made of options."""
    try:
        yield
    except InputError as error:
        if loaded.permutation is None:
            raise
        raise geometry.option_error(error) from None


def load_geometry(found: Geometry, options: InputOptions, *, name: str = "geometry") -> LoadedInput:
    """Complete a geometry by options, as those of an .xyz file are.

    Parameters
    ----------
    found : Geometry
    options : InputOptions
    name : str
        What errors call the geometry.

    Returns
    -------
    LoadedInput
        With its permutation.

    Raises
    ------
    InputError
        One line that names the option or the atom, and what is accepted.
    """
    for symbol in found.symbols:
        if not _atomic_number(symbol):
            raise InputError(name, "is not a chemical element", value=symbol)
    document, groups = geometry.document(
        found,
        options,
        radius_angstrom=covalent_radius_angstrom,
        bohr_per_angstrom=1.0 / qcelemental.constants.bohr2angstroms,
        source=name,
    )
    try:
        loaded = load_input(document)
    except InputError as error:
        raise geometry.option_error(error) from None
    geometry.refuse_doubt(found, groups, options, loaded.warnings)
    notes = (*geometry.notes(found, groups, options), *loaded.warnings)
    order = tuple(atom for group in groups for atom in group)
    return replace(loaded, warnings=notes, permutation=order)


def fragments_of_geometry(found: Geometry, options: InputOptions) -> tuple[tuple[int, ...], ...]:
    """Return the atoms of each fragment, as places in the geometry, from 0."""
    return geometry.fragments_of(
        found,
        options,
        radius_angstrom=covalent_radius_angstrom,
        bohr_per_angstrom=1.0 / qcelemental.constants.bohr2angstroms,
    )


def _element(name: str) -> str | None:
    """Return the symbol of an element given by symbol, in any case, or by atomic number."""
    if not name or not _atomic_number(name):
        return None
    return str(qcelemental.periodictable.to_E(name, strict=True))


def _atomic_number(symbol: str) -> int | None:
    try:
        return int(qcelemental.periodictable.to_Z(symbol, strict=True))
    except qcelemental.NotAnElementError:
        return None


def covalent_radius_angstrom(symbol: str) -> float:
    """Return an element's covalent radius, a large one where none is known."""
    radii = qcelemental.covalentradii
    return float(radii.get(symbol, units="angstrom", missing=_MISSING_RADIUS_ANGSTROM))


def _guarded(make: Callable[[], Any], document: dict[str, Any]) -> Any:
    try:
        return make()
    except Exception as error:  # QCElemental raises anything from KeyError to types of its own
        raise loading.as_input_error(error, document) from None


def _version_2(original: Any) -> Any:
    """Convert a version 1 input; the free fields that version 2 has not are left behind."""
    return original.copy(update={"extras": {}}).convert_v(2)


def stock_computer(data: Any) -> Any:
    """Return stock QCManyBody's computer of an input, with its ``qcmb_core``, nothing being run.

    Raises
    ------
    InputError
        As :func:`load_input` does.
    """
    loaded = load_input(data)
    if loaded.schema_version == 2:
        return ManyBodyComputer.from_manybodyinput(loaded.model, build_tasks=False)
    from qcmanybody.computer import ManyBodyComputer as ComputerV1

    return ComputerV1.from_manybodyinput(loaded.original, build_tasks=False)


def stock_core(model: Any) -> Any:
    """Stock's own reading of the keywords; its refusals with the path of the keyword."""
    try:
        labelled = loading.labelled(model)
        return ManyBodyComputer.from_manybodyinput(labelled, build_tasks=False).qcmb_core
    except ValueError as error:
        path = "specification.keywords"
        if not hasattr(error, "errors"):
            field = f"{path}.embedding_charges" if "mbedding" in str(error) else path
            raise InputError(field, str(error)) from None
        first = error.errors()[0]
        message = str(first["msg"]).removeprefix("Value error, ")
        raise InputError(".".join([path, *map(str, first["loc"][:1])]), message) from None

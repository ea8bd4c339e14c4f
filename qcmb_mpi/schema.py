"""QCSchema at the door: ManyBodyInput to Expansion, and numbers to ManyBodyResult.

Rules of this file
------------------
1. The only importer of QCManyBody. Rules on keywords are stock's by construction: its own
   ``ManyBodyComputer`` is built (without tasks) and asked.
2. ``compute_map`` of a stock object is never touched, except in :func:`verify`: it lists every
   cluster.
3. Whatever is wrong with an input is one :class:`InputError`, never a traceback.
4. Results are in canonical order: equal runs give equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import qcelemental
import qcmanybody.models.v1 as schema_v1
import qcmanybody.models.v2 as schema_v2
from qcelemental.models.v2 import AtomicProperties, AtomicResult
from qcmanybody.utils import collect_vars, delabeler, modelchem_labels, print_nbody_energy
from qcmanybody.v2 import ManyBodyComputer

from qcmb_mpi import __version__, results
from qcmb_mpi.errors import InputError, StoreError
from qcmb_mpi.expansion.assembly import ComponentValues, ManyBodyNumbers
from qcmb_mpi.expansion.levels import Bsse, Expansion
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.inputs import checks, geometry, loading
from qcmb_mpi.inputs.documents import (
    plain,
    read_document,
    strip_volatile,
    to_json,
    write_atomic,
)
from qcmb_mpi.inputs.fields import MANY_BODY_INPUT
from qcmb_mpi.inputs.geometry import InputOptions
from qcmb_mpi.inputs.loading import LoadedInput, system_from_molecule
from qcmb_mpi.results import CLUSTER_PROPERTIES_BYTES, ComponentStore, VerifyReport

__all__ = [
    "CLUSTER_PROPERTIES_BYTES",
    "InputOptions",
    "LoadedInput",
    "VerifyReport",
    "build_result",
    "fragments_of_label",
    "load_input",
    "n_body_table",
    "read_input",
    "strip_volatile",
    "system_from_molecule",
    "verify",
    "write_result",
]

_MODELS = {1: schema_v1, 2: schema_v2}
_MISSING_RADIUS_ANGSTROM = 1.6


# ---- input ---------------------------------------------------------------------------------


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
    if geometry.is_geometry_file(source):
        return _load_geometry(source, options)
    if options.given():
        geometry.refuse_ending(source)
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
        expansion=(expansion := loading.expansion(model, _stock_core(model))),
        model=model,
        schema_version=version,
        wants_records=model.specification.protocols.cluster_results.value == "all",
        original=original,
        warnings=(*loading.warnings(document, note), *loading.no_tasks(expansion)),
    )


def fragments_of_label(label: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the real and the basis fragments (from 1) of one of QCManyBody's labels."""
    _, real, basis = delabeler(label)
    return tuple(real), tuple(basis)


def _load_geometry(source: str, options: InputOptions) -> LoadedInput:
    found = geometry.read_geometry(source)
    for symbol in found.symbols:
        if not _atomic_number(symbol):
            raise InputError(source, "is not a chemical element", value=symbol)
    document, order = geometry.document(
        found,
        options,
        radius_angstrom=_covalent_radius_angstrom,
        bohr_per_angstrom=1.0 / qcelemental.constants.bohr2angstroms,
    )
    try:
        loaded = load_input(document)
    except InputError as error:
        raise geometry.option_error(error) from None
    geometry.refuse_placed_charge(loaded.warnings, options)
    notes = (*geometry.notes(found, order, options), *loaded.warnings)
    return replace(loaded, warnings=notes, permutation=order)


def _atomic_number(symbol: str) -> int | None:
    try:
        return int(qcelemental.periodictable.to_Z(symbol, strict=True))
    except qcelemental.NotAnElementError:
        return None


def _covalent_radius_angstrom(symbol: str) -> float:
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


def _stock_core(model: Any) -> Any:
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


# ---- result --------------------------------------------------------------------------------


def build_result(
    loaded: LoadedInput,
    space: TaskSpace,
    numbers: ManyBodyNumbers,
    values: ComponentValues,
    records: Iterable[tuple[int, bytes]],
    *,
    cluster_properties: str = "auto",
) -> Any:
    """Make the ManyBodyResult that stock QCManyBody makes of the same numbers.

    Parameters
    ----------
    loaded : LoadedInput
        The input.
    space : TaskSpace
        Its tasks.
    numbers : ManyBodyNumbers
        What :func:`qcmb_mpi.expansion.assembly.assemble` gave.
    values : ComponentValues
        Results of the tasks, for ``cluster_properties``.
    records : iterable of (int, bytes)
        Task ids and whole ``AtomicResult`` as JSON; read only if the protocols ask for them.
    cluster_properties : {"auto", "all", "none"}
        ``auto``: all while they take at most `CLUSTER_PROPERTIES_BYTES`, else none.

    Returns
    -------
    ManyBodyResult
        Of the version of the input.
    """
    is_kept = results.keeps_cluster_properties(cluster_properties, space, values)
    entries = dict(_cluster_properties(space, values)) if is_kept else {}
    whole = dict(_cluster_results(space, records)) if loaded.wants_records else {}
    content = {
        "input_data": loaded.original,
        "properties": _properties(loaded, space, numbers),
        "provenance": {
            "creator": "qcmb_mpi",
            "version": __version__,
            "routine": f"{__name__}.build_result",
        },
        "return_result": numbers.ret[space.expansion.driver],
        "stdout": _tables(space.expansion, numbers),
        "success": True,
    }
    if loaded.schema_version == 2:
        content |= {"cluster_properties": entries, "cluster_results": whole}
        return schema_v2.ManyBodyResult(molecule=loaded.model.molecule, **content)
    content["component_properties"] = {k: item.convert_v(1) for k, item in entries.items()}
    content["component_results"] = {k: item.convert_v(1) for k, item in whole.items()}
    return schema_v1.ManyBodyResult(**content)


def write_result(result: Any, path: Path | str) -> None:
    """Write a ManyBodyResult as JSON, whole or not at all; equal results give equal bytes.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    write_atomic(path, to_json(result.model_dump()))


def n_body_table(result: Any) -> str:
    """Return the n-body tables for people, one for each BSSE treatment."""
    return str(result.stdout or "")


def _properties(loaded: LoadedInput, space: TaskSpace, numbers: ManyBodyNumbers) -> dict[str, Any]:
    expansion, ret = space.expansion, numbers.ret
    properties: dict[str, Any] = {}
    for name, by_bsse in numbers.body_dict.items():
        for bsse in expansion.bsse:
            properties |= _collected(expansion, bsse, name, by_bsse[bsse.value])
    properties |= {
        "calcinfo_nmc": len(expansion.levels.model_chemistries),
        "calcinfo_nfr": expansion.system.n_fragments,
        "calcinfo_natom": expansion.system.n_atoms,
        "calcinfo_nmbe": space.n_tasks,
        "nuclear_repulsion_energy": loaded.model.molecule.nuclear_repulsion_energy(),
        "return_energy": ret["energy"],
    }
    if expansion.driver in ("gradient", "hessian"):
        properties["return_gradient"] = ret.get("gradient")
    if expansion.driver == "hessian":
        properties["return_hessian"] = ret["hessian"]
    return properties


def _collected(
    expansion: Expansion, bsse: Bsse, name: str, by_level: Mapping[int, Any]
) -> dict[str, Any]:
    collected: dict[str, Any] = collect_vars(
        bsse.value,
        name,
        by_level,
        expansion.levels.max_nbody,
        expansion.system.embedding_charges is not None,
        expansion.supersystem_ie_only,
        expansion.levels.supersystem is not None,
    )
    return collected


def _tables(expansion: Expansion, numbers: ManyBodyNumbers) -> str:
    has_supersystem = expansion.levels.supersystem is not None
    legend = modelchem_labels(results.levels_by_label(expansion.levels), presorted=True)
    tables = []
    for bsse in expansion.bsse:
        stock_bsse = schema_v2.BsseEnum(bsse.value)
        table = print_nbody_energy(
            numbers.body_dict["energy"][bsse.value],
            f"{stock_bsse.formal()} ({stock_bsse.abbr()})",
            expansion.system.n_fragments,
            legend,
            expansion.system.embedding_charges is not None,
            expansion.supersystem_ie_only,
            expansion.levels.max_nbody if has_supersystem else None,
        )
        tables.append(str(table))
    return "".join(tables)


def _cluster_properties(
    space: TaskSpace, values: ComponentValues
) -> Iterator[tuple[str, AtomicProperties]]:
    n_atoms = space.expansion.system.n_atoms
    for ids, content in results.components(space, values):
        for label, entry in zip(space.labels(ids), content, strict=True):
            named = {f"return_{name}": value for name, value in entry.items()}
            yield label, AtomicProperties(calcinfo_natom=n_atoms, **named)


def _cluster_results(
    space: TaskSpace, records: Iterable[tuple[int, bytes]]
) -> Iterator[tuple[str, AtomicResult]]:
    for task, record in sorted(records, key=lambda item: item[0]):
        label = space.labels(np.array([task], dtype=np.int64))[0]
        yield label, AtomicResult.model_validate_json(record)


# ---- verification --------------------------------------------------------------------------


def verify(
    result_path: Path | str, store: ComponentStore, *, tolerance: float = 1e-10
) -> VerifyReport:
    """Assemble a result again with stock ``ManyBodyCore.analyze`` from the stored components.

    Parameters
    ----------
    result_path : path
        A RESULT file.
    store : Store
        Holds the components; any input may have put them there.
    tolerance : float
        Largest difference that passes, atomic units; stock adds arrays in arbitrary order.

    Returns
    -------
    VerifyReport

    Raises
    ------
    InputError
        The file is not a ManyBodyResult.
    StoreError
        Components are missing.
    """
    document = results.read_result(result_path)
    loaded = load_input(document["input_data"])
    space = TaskSpace(loaded.expansion)
    store.attach(0, space)
    n_done = len(store.done(0))
    if n_done != space.n_tasks:
        raise StoreError(f"the store has {n_done} of the {space.n_tasks} components of this result")
    expected = _stock_properties(loaded, space, store.values(0))
    return results.compared(document, expected, space.n_tasks, tolerance)


def _stock_properties(
    loaded: LoadedInput, space: TaskSpace, values: ComponentValues
) -> dict[str, Any]:
    components: dict[str, dict[str, Any]] = {}
    for ids, content in results.components(space, values, is_full_size=False):
        components |= zip(space.labels(ids), content, strict=True)
    analysis = _stock_core(loaded.model).analyze(components)
    driver = loaded.expansion.driver
    returned = {key: value for key, value in analysis.items() if key.startswith("ret_")}
    named = {key.replace("ret_", "return_"): value for key, value in returned.items()}
    return {**analysis["results"], **named, "return_result": returned[f"ret_{driver}"]}

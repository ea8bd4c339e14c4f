"""Numbers to ManyBodyResult, and the n-body tables for people.

Rules of this file
------------------
1. Results are in canonical order: equal runs give equal bytes.
2. Tables are printed by QCManyBody itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import qcmanybody.models.v1 as schema_v1
import qcmanybody.models.v2 as schema_v2
from qcelemental.models.v2 import AtomicProperties, AtomicResult, Molecule
from qcmanybody.utils import collect_vars, modelchem_labels, print_nbody_energy

from qcmb_mpi import __version__, results
from qcmb_mpi.expansion.assembly import ComponentValues, ManyBodyNumbers
from qcmb_mpi.expansion.levels import Bsse, Expansion
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.inputs.documents import to_json, write_atomic
from qcmb_mpi.inputs.loading import LoadedInput

_KEPT = (
    *("molecular_charge", "molecular_multiplicity", "fragment_charges", "fragment_multiplicities"),
    *("fix_com", "fix_orientation"),
)


def build_result(
    loaded: LoadedInput,
    space: TaskSpace,
    numbers: ManyBodyNumbers,
    values: ComponentValues,
    records: Iterable[tuple[int, bytes]],
    *,
    cluster_properties: str = "auto",
    remedies: Mapping[str, int] | None = None,
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
    remedies : mapping of str to int, optional
        How many tasks converged only with which other keywords; said in ``provenance``.

    Returns
    -------
    ManyBodyResult
        Of the version of the input.
    """
    is_kept = results.keeps_cluster_properties(cluster_properties, space, values)
    order = loaded.order
    entries = dict(_cluster_properties(space, values, order)) if is_kept else {}
    numbers = _in_file_order(numbers, order)
    whole = dict(_cluster_results(space, records)) if loaded.wants_records else {}
    content = {
        "input_data": loaded.original,
        "properties": _properties(loaded, space, numbers),
        "provenance": {
            "creator": "qcmb_mpi",
            "version": __version__,
            "routine": "qcmb_mpi.schema.build_result",
            **({"remedies": dict(sorted(remedies.items()))} if remedies else {}),
        },
        "return_result": numbers.ret[space.expansion.driver],
        "stdout": n_body_tables(space.expansion, numbers),
        "success": True,
    }
    if loaded.schema_version == 2:
        content |= {"cluster_properties": entries, "cluster_results": whole}
        molecule = _molecule_of_file(loaded.model.molecule, order)
        return schema_v2.ManyBodyResult(molecule=molecule, **content)
    content["component_properties"] = {k: item.convert_v(1) for k, item in entries.items()}
    content["component_results"] = {k: item.convert_v(1) for k, item in whole.items()}
    return schema_v1.ManyBodyResult(**content)


def _in_file_order(numbers: ManyBodyNumbers, order: Sequence[int] | None) -> ManyBodyNumbers:
    if order is None:
        return numbers
    return ManyBodyNumbers(
        {name: results.in_file_order(value, order) for name, value in numbers.ret.items()},
        {
            name: {
                bsse: {nbody: results.in_file_order(v, order) for nbody, v in by_level.items()}
                for bsse, by_level in by_bsse.items()
            }
            for name, by_bsse in numbers.body_dict.items()
        },
    )


def _molecule_of_file(computed: Any, order: Sequence[int] | None) -> Molecule:
    """Return the molecule that was computed with its atoms in the order of the file.

    Its fragments may be interleaved, which QCElemental takes unchecked only.
    """
    if order is None:
        return computed
    places = np.argsort(np.asarray(order))
    ends = np.cumsum([len(atoms) for atoms in computed.fragments])[:-1]
    return Molecule(
        validate=False,
        validated=True,
        symbols=computed.symbols[places],
        geometry=computed.geometry[places],
        fragments=np.split(np.asarray(order, dtype=np.int32), ends),
        **{name: getattr(computed, name) for name in _KEPT},
    )


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
        "nuclear_repulsion_energy": nuclear_repulsion(loaded.model.molecule),
        "return_energy": ret["energy"],
    }
    if expansion.driver in ("gradient", "hessian"):
        properties["return_gradient"] = ret.get("gradient")
    if expansion.driver == "hessian":
        properties["return_hessian"] = ret["hessian"]
    return properties


def nuclear_repulsion(molecule: Any) -> float:
    """Return the same bits as ``Molecule.nuclear_repulsion_energy``, not in 7 us a pair of atoms.

    Parameters
    ----------
    molecule : Molecule
        Ghosts have no charge.

    Returns
    -------
    float
        E_h.
    """
    geometry = np.asarray(molecule.geometry, dtype=np.float64)
    charges = np.asarray(molecule.atomic_numbers, dtype=np.float64) * molecule.real
    total = 0.0
    for atom, charge in enumerate(charges.tolist()):
        away = geometry[atom] - geometry[:atom]
        # One product a pair and one sum after the other: anything else rounds otherwise.
        squares = np.fromiter((each.dot(each) for each in away), np.float64, atom)
        for term in (charge * charges[:atom] / np.sqrt(squares)).tolist():
            total += term
    return total


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


def n_body_tables(expansion: Expansion, numbers: ManyBodyNumbers) -> str:
    """Print the table of each treatment, one after the other, as QCManyBody prints it."""
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
    space: TaskSpace, values: ComponentValues, order: Sequence[int] | None
) -> Iterator[tuple[str, AtomicProperties]]:
    n_atoms = space.expansion.system.n_atoms
    for ids, content in results.components(space, values):
        for label, entry in zip(space.labels(ids), content, strict=True):
            named = {f"return_{k}": results.in_file_order(v, order) for k, v in entry.items()}
            yield label, AtomicProperties(calcinfo_natom=n_atoms, **named)


def _cluster_results(
    space: TaskSpace, records: Iterable[tuple[int, bytes]]
) -> Iterator[tuple[str, AtomicResult]]:
    for task, record in sorted(records, key=lambda item: item[0]):
        label = space.labels(np.array([task], dtype=np.int64))[0]
        yield label, AtomicResult.model_validate_json(record)

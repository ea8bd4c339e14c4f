"""A result assembled once more, by stock QCManyBody from the stored components.

Rules of this file
------------------
1. Here, and only here, ``compute_map`` of a stock object is asked for: it lists every cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qcmb_mpi import results
from qcmb_mpi.errors import StoreError
from qcmb_mpi.expansion.assembly import ComponentValues
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.inputs.loading import LoadedInput
from qcmb_mpi.results import ComponentStore, VerifyReport
from qcmb_mpi.schema.reading import load_input, stock_core


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
    order = _order(document)
    expected = {
        name: results.in_file_order(value, order)
        for name, value in _stock_properties(loaded, space, store.values(0)).items()
    }
    return results.compared(document, expected, space.n_tasks, tolerance)


def _order(document: Mapping[str, Any]) -> list[int] | None:
    """Tell in which order the atoms of a result stand, by the fragments of its own molecule."""
    fragments = (document.get("molecule") or {}).get("fragments") or []
    order = [int(atom) for atoms in fragments for atom in atoms]
    return order if order != sorted(order) else None


def _stock_properties(
    loaded: LoadedInput, space: TaskSpace, values: ComponentValues
) -> dict[str, Any]:
    components: dict[str, dict[str, Any]] = {}
    for ids, content in results.components(space, values, is_full_size=False):
        components |= zip(space.labels(ids), content, strict=True)
    analysis = stock_core(loaded.model).analyze(components)
    driver = loaded.expansion.driver
    returned = {key: value for key, value in analysis.items() if key.startswith("ret_")}
    named = {key.replace("ret_", "return_"): value for key, value in returned.items()}
    return {**analysis["results"], **named, "return_result": returned[f"ret_{driver}"]}

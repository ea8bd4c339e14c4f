"""The answer of a result file: energies by treatment and n-body order, ready to be shown.

Rules of this file
------------------
1. Reads a ``ManyBodyResult`` of either schema version as plain JSON; what is not there is left out.
2. Numbers are taken, never recomputed, but for units.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# CODATA 2014, as QCElemental and so QCManyBody's own table
KCAL_PER_HARTREE = 627.5094737775374
TREATMENTS = {
    "nocp": "Not counterpoise corrected (nocp)",
    "cp": "Counterpoise corrected (cp)",
    "vmfc": "Valiron-Mayer function counterpoise (vmfc)",
}
_ORDER = re.compile(r"_corrected_(?:total|interaction)_energy_through_(\d+)_body$")


@dataclass(frozen=True, slots=True)
class OrderRow:
    """Energies through one n-body order, in hartree; None where the result has none.

    Parameters
    ----------
    nbody : int
    model_chemistry : str
        What ran at this order.
    total, interaction, contribution : float, optional
    """

    nbody: int
    model_chemistry: str
    total: float | None
    interaction: float | None
    contribution: float | None

    @property
    def interaction_kcal(self) -> float | None:
        """Interaction energy in kcal/mol."""
        return kcal(self.interaction)

    @property
    def contribution_kcal(self) -> float | None:
        """What this order adds, in kcal/mol."""
        return kcal(self.contribution)


@dataclass(frozen=True, slots=True)
class Treatment:
    """One BSSE treatment of the expansion.

    Parameters
    ----------
    name, title : str
    is_returned : bool
        Whether it is what the result returns.
    rows : tuple of OrderRow
    """

    name: str
    title: str
    is_returned: bool
    rows: tuple[OrderRow, ...]


def kcal(hartree: float | None) -> float | None:
    """Convert an energy to kcal/mol."""
    return None if hartree is None else hartree * KCAL_PER_HARTREE


def treatments(result: Mapping[str, Any]) -> list[Treatment]:
    """Collect the n-body tables of a result.

    Parameters
    ----------
    result : mapping
        A ``ManyBodyResult`` as JSON.

    Returns
    -------
    list of Treatment
        In the order of the input; the first is what the result returns.
    """
    wanted = [str(name) for name in _keywords(result).get("bsse_type") or ()]
    properties = result.get("properties") or {}
    chemistry = _chemistry_of(result)
    found = []
    for name in [*wanted, *(each for each in TREATMENTS if each not in wanted)]:
        rows = tuple(_rows(properties, name, chemistry))
        if rows:
            is_returned = name == (wanted[0] if wanted else name)
            found.append(Treatment(name, TREATMENTS.get(name, name), is_returned, rows))
    return found


def _rows(
    properties: Mapping[str, Any], name: str, chemistry: Mapping[int, str]
) -> Iterator[OrderRow]:
    matches = (_ORDER.search(key) for key in properties if key.startswith(f"{name}_corrected_"))
    orders = {int(match.group(1)) for match in matches if match}
    for nbody in sorted(orders):
        total = properties.get(f"{name}_corrected_total_energy_through_{nbody}_body")
        inter = properties.get(f"{name}_corrected_interaction_energy_through_{nbody}_body")
        added = properties.get(f"{name}_corrected_{nbody}_body_contribution_to_energy")
        if total is not None or inter is not None:
            yield OrderRow(nbody, chemistry.get(nbody, ""), total, inter, added)


def _keywords(result: Mapping[str, Any]) -> Mapping[str, Any]:
    specification = (result.get("input_data") or {}).get("specification") or {}
    return specification.get("keywords") or {}


def model_chemistries(result: Mapping[str, Any]) -> dict[str, str]:
    """Describe each model chemistry as ``method/basis, program`` under its label."""
    specification = (result.get("input_data") or {}).get("specification") or {}
    each = (specification.get("specification") or {}).items()
    return {label: describe(one) for label, one in each}


def describe(specification: Mapping[str, Any]) -> str:
    """Write a model chemistry as ``method/basis, program``."""
    model = specification.get("model") or {}
    parts = [str(model[key]) for key in ("method", "basis") if model.get(key)]
    return ", ".join(filter(None, ["/".join(parts), str(specification.get("program") or "")]))


def _chemistry_of(result: Mapping[str, Any]) -> dict[int, str]:
    """Tell which model chemistry ran at each n-body order."""
    described = model_chemistries(result)
    n_fragments = int((result.get("properties") or {}).get("calcinfo_nfr") or 0)
    levels = _keywords(result).get("levels")
    if not levels:
        only = next(iter(described.values())) if len(described) == 1 else ""
        return dict.fromkeys(range(1, n_fragments + 1), only)
    supersystem = levels.get("supersystem")
    found = {n_fragments: described.get(supersystem, str(supersystem))} if supersystem else {}
    tops = sorted((int(key), label) for key, label in levels.items() if key != "supersystem")
    for top, label in reversed(tops):
        found |= dict.fromkeys(range(1, top + 1), described.get(label, str(label)))
    return found


@dataclass(frozen=True, slots=True)
class Headline:
    """What the result returns, in words.

    Parameters
    ----------
    quantity, value : str
    note : str
    """

    quantity: str
    value: str
    note: str = ""


def headlines(result: Mapping[str, Any]) -> list[Headline]:
    """Put the answer in a few words: energies, and the size of a gradient or Hessian.

    Parameters
    ----------
    result : mapping

    Returns
    -------
    list of Headline
    """
    found = []
    first = next(iter(treatments(result)), None)
    if first is not None:
        last = first.rows[-1]
        through = f"{first.name}, through {last.nbody}-body"
        if last.total is not None:
            found.append(Headline("total energy", f"{last.total:.8f} Eh", through))
        if last.interaction_kcal is not None:
            note = f"{last.interaction:.8f} Eh, {through}"
            found.append(Headline("interaction", f"{last.interaction_kcal:.3f} kcal/mol", note))
    numbers = list(_flat(result.get("return_result")))
    if len(numbers) > 1:
        largest, rms = max(map(abs, numbers)), math.hypot(*numbers) / math.sqrt(len(numbers))
        what = str((result.get("input_data") or {}).get("specification", {}).get("driver", "array"))
        size = f"{len(numbers)} numbers, rms {rms:.3e}"
        found.append(Headline(f"{what}, largest component", f"{largest:.3e} au", size))
    return found


def _flat(value: Any) -> Iterator[float]:
    if isinstance(value, list):
        for each in value:
            yield from _flat(each)
    elif isinstance(value, int | float):
        yield float(value)


def system_line(result: Mapping[str, Any]) -> str:
    """Describe what was computed: name, atoms, fragments, charge, methods."""
    molecule = (result.get("input_data") or {}).get("molecule") or result.get("molecule") or {}
    properties = result.get("properties") or {}
    parts = [str(molecule.get("name") or "")]
    for key, word in (("calcinfo_natom", "atoms"), ("calcinfo_nfr", "fragments")):
        parts.append(f"{properties[key]} {word}" if properties.get(key) else "")
    charge = float(molecule.get("molecular_charge") or 0.0)
    parts.append(f"charge {charge:+g}" if charge else "")
    return " · ".join(filter(None, [*parts, *dict.fromkeys(model_chemistries(result).values())]))

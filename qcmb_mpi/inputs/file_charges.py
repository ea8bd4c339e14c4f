"""Charges and multiplicities of the fragments of a geometry file: from options, else from the file.

Rules of this file
------------------
1. A charge is never guessed. Where a fragment is one atom that is mostly an ion, it must be said.
2. What the options say goes before what the file says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from qcmb_mpi.errors import InputError
from qcmb_mpi.expansion.system import formula, ion_name
from qcmb_mpi.inputs.atoms import ChargeLine, Geometry
from qcmb_mpi.inputs.fragments import LONE_CHARGES

_N_SHOWN = 8
Groups = Sequence[Sequence[int]]


class ChargeOptions(Protocol):
    """What options say of fragments."""

    @property
    def fragment(self) -> str | None:
        """Which atoms; None for what the file says."""

    @property
    def charge(self) -> str | None:
        """One value, or one for each fragment."""

    @property
    def multiplicity(self) -> str | None:
        """One value, or one for each fragment."""


def charge_fields(geometry: Geometry, groups: Groups, options: ChargeOptions) -> dict[str, Any]:
    """Return the fields of a QCSchema molecule that speak of charges and multiplicities.

    Raises
    ------
    InputError
        An option cannot be read, or the file's charges are of other fragments.
    """
    fields = _from_option("charge", options.charge, geometry, groups)
    fields |= _from_option("multiplicity", options.multiplicity, geometry, groups)
    if options.charge is not None:
        return fields
    if geometry.groups is not None and geometry.has_states and options.fragment is not None:
        message = "is missing: the file's charges are those of its own fragments, not of --fragment"
        raise InputError("--charge", message)
    return _from_file(geometry, groups) | fields


def _from_option(name: str, text: str | None, geometry: Geometry, groups: Groups) -> dict[str, Any]:
    if text is None:
        return {}
    n_fragments = len(groups)
    try:
        values = [int(item) for item in str(text).split(",")]
    except ValueError:
        accepted = f"a whole number, or {one_for_each(geometry, groups, name)}"
        raise InputError(f"--{name}", "cannot be read", value=text, accepted=accepted) from None
    if len(values) == 1 != n_fragments:
        return {f"molecular_{name}": values[0]}
    if len(values) != n_fragments:
        listed = _listed(geometry, groups)
        message = f"has {len(values)} values for {n_fragments} fragments: {listed}"
        raise InputError(f"--{name}", message, value=text)
    plural = {"charge": "charges", "multiplicity": "multiplicities"}[name]
    return {f"fragment_{plural}": values}


def _from_file(geometry: Geometry, groups: Groups) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if geometry.total is not None:
        fields["molecular_charge"] = geometry.total.charge
        fields["molecular_multiplicity"] = geometry.total.multiplicity
    if any(geometry.states):
        each = list(zip(groups, _states(geometry, groups), strict=True))
        fields["fragment_charges"] = [_charge(geometry, group, state) for group, state in each]
        fields["fragment_multiplicities"] = [state and state.multiplicity for _, state in each]
    elif any(charge is not None for charge in geometry.charges):
        fields["fragment_charges"] = [_sum(geometry, group) for group in groups]
    return fields


def _states(geometry: Geometry, groups: Groups) -> Sequence[ChargeLine | None]:
    return geometry.states if any(geometry.states) else [None] * len(groups)


def _charge(geometry: Geometry, group: Sequence[int], state: ChargeLine | None) -> int | None:
    """Return the charge that is said of a fragment, by its own line or its atoms."""
    is_said = any(geometry.charges[atom] is not None for atom in group)
    of_atoms = _sum(geometry, group) if is_said else None
    if state is None:
        return of_atoms
    if of_atoms not in (None, state.charge):
        message = f"is {state.charge} in the line of a fragment and {of_atoms} by its atoms"
        raise InputError("--charge", message, accepted="the same in both, or one of them")
    return state.charge


def _sum(geometry: Geometry, group: Sequence[int]) -> int:
    return sum(geometry.charges[atom] or 0 for atom in group)


def charge_note(geometry: Geometry, groups: Groups, options: ChargeOptions) -> list[str]:
    """Tell the charges that were taken from the file's atoms."""
    if options.charge is not None:
        return []
    each = enumerate(zip(groups, _states(geometry, groups), strict=True), start=1)
    charges = [(n, _sum(geometry, group)) for n, (group, state) in each if state is None]
    told = [f"{charge:+d} on fragment {n}" for n, charge in charges if charge]
    shown = ", ".join(told[:_N_SHOWN]) + (", ..." if len(told) > _N_SHOWN else "")
    return [f"charges as written in the file: {shown}"] if told else []


def refuse_unsaid_ions(geometry: Geometry, groups: Groups, options: ChargeOptions) -> None:
    """Raise if a fragment is one atom that is mostly an ion, and nothing says its charge.

    Raises
    ------
    InputError
        It names the fragment, and the option that would say it.
    """
    if options.charge is not None or options.multiplicity is not None or geometry.has_states:
        return  # who gives some, as Psi4 does, means that the others are neutral
    for number, group in enumerate(groups, start=1):
        symbol, is_said = geometry.symbols[group[0]], geometry.charges[group[0]] is not None
        if len(group) == 1 and symbol in LONE_CHARGES and not is_said:
            ion = ion_name([symbol], LONE_CHARGES[symbol])
            message = f"fragment {number} is one {symbol} atom, and nothing says its charge"
            neutral = "--charge 0 for a neutral atom"
            accepted = f"{_example(geometry, groups)}, or {ion} in the file, or {neutral}"
            raise InputError("--charge", message, accepted=accepted)


def one_for_each(geometry: Geometry, groups: Groups, name: str, total: int | None = None) -> str:
    """Tell, with an example, that a value for each fragment is wanted.

    Parameters
    ----------
    geometry : Geometry
    groups : sequence of sequence of int
        Atoms of each fragment.
    name : {"charge", "multiplicity"}
    total : int, optional
        What was said of the whole; in the example one fragment has it.

    Returns
    -------
    str
    """
    if len(groups) > _N_SHOWN:
        return f"one value for each of the {len(groups)} fragments"
    values = [0 if name == "charge" else 1] * len(groups)
    ions = [i for i, usual in enumerate(_usual(geometry, groups)) if usual]
    if total is not None:
        values[ions[0] if len(ions) == 1 else -1] = total
    example = f"--{name} {','.join(map(str, values))}"
    return f"one value for each fragment ({_listed(geometry, groups)}), e.g. {example}"


def _listed(geometry: Geometry, groups: Groups) -> str:
    """Write ``1 H2O, 2 Na``."""
    each = enumerate(groups[:_N_SHOWN], start=1)
    names = [f"{n} {formula([geometry.symbols[atom] for atom in group])}" for n, group in each]
    return ", ".join(names) + (", ..." if len(groups) > _N_SHOWN else "")


def _usual(geometry: Geometry, groups: Groups) -> list[int]:
    return [LONE_CHARGES.get(geometry.symbols[g[0]], 0) if len(g) == 1 else 0 for g in groups]


def _example(geometry: Geometry, groups: Groups) -> str:
    if len(groups) > _N_SHOWN:
        return "--charge with one value for each fragment"
    return f"--charge {','.join(map(str, _usual(geometry, groups)))}"

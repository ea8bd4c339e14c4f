"""Rules between the fields of a ManyBodyInput: molecules, fragments, n-body levels.

What QCManyBody's and QCElemental's validators check late, unclearly or not at all, told to the
user in one line. What a single field may hold is in :mod:`qcmb_mpi.fields`.

Rules of this file
------------------
1. Data is plain (:func:`qcmb_mpi.documents.plain`) before it comes here.
2. Every refusal is an :class:`InputError` whose field is the dotted path that the user wrote.
3. No import of QCManyBody or QCElemental.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.errors import InputError
from qcmb_mpi.expansion.system import formula
from qcmb_mpi.inputs.charges import ChargeState, Known, complete
from qcmb_mpi.inputs.fields import level, number, sequence, suggest

TOO_CLOSE_BOHR = 0.1  # QCElemental's own threshold
_PAIR_BLOCK = 4_000_000


def expansion_levels(keywords: Mapping[str, Any], n_fragments: int, path: str) -> None:
    """Check `levels` and `max_nbody` together, where stock QCManyBody is silent or crashes."""
    max_nbody = keywords.get("max_nbody")
    allowed = f"should be between 1 and {n_fragments}"
    if max_nbody is not None and not 1 <= max_nbody <= n_fragments:
        raise InputError(f"{path}.max_nbody", f"max_nbody={max_nbody} {allowed}.")
    if keywords.get("levels") is None:
        return
    by_level = {level(key, path): label for key, label in keywords["levels"].items()}
    where = f"{path}.levels"
    numbered = sorted(level for level in by_level if isinstance(level, int))
    if not numbered:
        raise InputError(where, "needs at least one n-body level beside supersystem")
    if numbered[-1] > n_fragments:
        raise InputError(f"{where}.{numbered[-1]}", f"there is no such level: it {allowed}")
    _refuse_repeated_labels(by_level, where)
    if max_nbody is not None and max_nbody != numbered[-1]:
        message = f"contradicts levels, which go up to {numbered[-1]}; leave one of them out"
        raise InputError(f"{path}.max_nbody", message, value=max_nbody)


def embedding_charges(
    charges: Mapping[int | str, list[float]] | None, fragments: Sequence[Sequence[int]], path: str
) -> None:
    """Check that embedding charges are given for every atom of every fragment."""
    if not charges:
        return
    given = {str(key): len(values) for key, values in charges.items()}
    expected = {str(index + 1): len(atoms) for index, atoms in enumerate(fragments)}
    for key in given:
        if key not in expected:
            accepted = f"1 to {len(fragments)}"
            raise InputError(f"{path}.{key}", "there is no such fragment", accepted=accepted)
    for key, n_atoms in expected.items():
        if given.get(key) != n_atoms:
            message = f"must be a list of {n_atoms} charges, one for each atom of fragment {key}"
            raise InputError(f"{path}.{key}", message)


def _refuse_repeated_labels(by_level: Mapping[int | str, str], path: str) -> None:
    for label in dict.fromkeys(by_level.values()):
        places = [level for level, name in by_level.items() if name == label]
        if len(places) == 1:
            continue
        numbered = sorted(level for level in places if isinstance(level, int))
        inside = [n for n in by_level if isinstance(n, int) and numbered[0] <= n <= numbered[-1]]
        if len(numbered) == len(places) and len(inside) == len(places):
            advice = f"write {{{numbered[-1]}: '{label}'}}: a name covers the levels below it"
        else:
            advice = "give the specification a second name for the other level"
        message = f"Cannot have duplicate model chemistries in levels ('{label}'); {advice}"
        raise InputError(path, message)


def labels(specification: Mapping[str, Any], keywords: Mapping[str, Any], path: str) -> None:
    """Check that every level names a specification.

    Parameters
    ----------
    specification : mapping
        Specifications by name.
    keywords : mapping
        Many-body keywords.
    path : str
        Of the many-body specification.

    Raises
    ------
    InputError
        A name is unknown, or it is not said which specification runs.
    """
    known = ", ".join(specification)
    given = keywords.get("levels")
    if given is None:
        if "(auto)" not in specification and len(specification) > 1:
            where = f"{path}.keywords.levels"
            raise InputError(where, f"is missing: it says at which level each of {known} runs")
        return
    for key, label in given.items():
        if label not in specification:
            where = f"{path}.keywords.levels.{key}"
            message = f"there is no such specification{suggest(label, specification)}"
            raise InputError(where, message, value=label, accepted=known)


def molecule(
    data: Mapping[str, Any], atomic_number: Callable[[str], int | None], path: str = "molecule"
) -> tuple[dict[str, Any], str | None]:
    """Check a molecule and write out the charges and multiplicities of its fragments.

    Parameters
    ----------
    data : mapping
        Plain QCSchema molecule whose fields have passed their table.
    atomic_number : callable
        Gives the atomic number of a symbol, None if there is no such element.
    path : str
        Where the molecule stands.

    Returns
    -------
    tuple of (dict, str or None)
        The molecule with complete charges, and a note if QCElemental's rules placed one.

    Raises
    ------
    InputError
        Geometry, fragments, charges or multiplicities cannot be used.
    """
    numbers = _atomic_numbers(data, atomic_number, path)
    geometry = _geometry(data, len(numbers), path)
    for name in ("masses", "mass_numbers", "atomic_numbers", "atom_labels", "real"):
        _same_length(data, name, len(numbers), path)
    _refuse_ghosts_and_renumbering(data, numbers, path)
    refuse_overlap(geometry, data["symbols"], f"{path}.geometry")
    fragments = _fragments(data, len(numbers), path)
    nuclear_charges = [int(numbers[atoms].sum()) for atoms in fragments]
    formulas = [formula([data["symbols"][atom] for atom in atoms]) for atoms in fragments]
    state = complete(_known(data, nuclear_charges, formulas, path), path)
    return {**data, "fragments": fragments, **_charge_fields(state)}, state.note


def refuse_overlap(geometry: NDArray[np.float64], symbols: Sequence[str], path: str) -> None:
    """Raise if two atoms are nearer than `TOO_CLOSE_BOHR`; `geometry` in bohr, ``(nat, 3)``."""
    n_atoms = len(geometry)
    n_rows = max(1, _PAIR_BLOCK // n_atoms)
    for start in range(0, n_atoms, n_rows):
        rows = geometry[start : start + n_rows]
        with np.errstate(over="ignore"):
            squared = sum((rows[:, None, k] - geometry[None, :, k]) ** 2 for k in range(3))
        near = np.argwhere(squared < TOO_CLOSE_BOHR**2)
        pairs = near[near[:, 0] + start < near[:, 1]]
        if len(pairs):
            i, j = int(pairs[0, 0]) + start, int(pairs[0, 1])
            names = f"atoms {i + 1} ({symbols[i]}) and {j + 1} ({symbols[j]})"
            distance = float(np.linalg.norm(geometry[i] - geometry[j]))
            raise InputError(path, f"{names} are {distance:.3g} bohr apart: they overlap")


def _atomic_numbers(
    data: Mapping[str, Any], atomic_number: Callable[[str], int | None], path: str
) -> NDArray[np.int64]:
    if not data["symbols"]:
        raise InputError(f"{path}.symbols", "there are no atoms")
    found: dict[str, int] = {}
    for index, symbol in enumerate(data["symbols"]):
        if symbol not in found:
            number_of = atomic_number(symbol)
            if not number_of:
                where = f"{path}.symbols[{index}]"
                raise InputError(where, "is not a chemical element", value=symbol)
            found[symbol] = number_of
    return np.array([found[symbol] for symbol in data["symbols"]], dtype=np.int64)


def _geometry(data: Mapping[str, Any], n_atoms: int, path: str) -> NDArray[np.float64]:
    rows = data["geometry"]
    for index, row in enumerate(rows):
        if isinstance(row, list) and len(row) != 3:
            where = f"{path}.geometry[{index}]"
            raise InputError(where, "must be three numbers, x, y and z", value=row)
    is_nested = bool(rows) and all(isinstance(row, list) for row in rows)
    flat = [x for row in rows for x in row] if is_nested else rows
    sequence(number)(flat, f"{path}.geometry")
    if len(flat) != 3 * n_atoms:
        message = f"has {len(flat)} numbers, not the {3 * n_atoms} of {n_atoms} symbols"
        raise InputError(f"{path}.geometry", message)
    return np.array(flat, dtype=np.float64).reshape(n_atoms, 3)


def _same_length(data: Mapping[str, Any], name: str, n_atoms: int, path: str) -> None:
    values = data.get(name)
    if values is not None and len(values) != n_atoms:
        message = f"has {len(values)} entries for {n_atoms} atoms"
        raise InputError(f"{path}.{name}", message)


def _refuse_ghosts_and_renumbering(
    data: Mapping[str, Any], numbers: NDArray[np.int64], path: str
) -> None:
    for index, is_real in enumerate(data.get("real") or ()):
        if not is_real:
            message = (
                "ghost atoms in the whole molecule are not possible: an expansion sets its own"
            )
            raise InputError(f"{path}.real[{index}]", message)
    for index, given in enumerate(data.get("atomic_numbers") or ()):
        if given != numbers[index]:
            symbol = data["symbols"][index]
            message = f"is not the atomic number of {symbol}, {numbers[index]}"
            raise InputError(f"{path}.atomic_numbers[{index}]", message, value=given)


def _fragments(data: Mapping[str, Any], n_atoms: int, path: str) -> list[list[int]]:
    where = f"{path}.fragments"
    fragments = data.get("fragments")
    if not fragments or len(fragments) == 1:
        message = (
            "QCManyBody: Molecule fragmentation has not been specified through `fragments` field."
        )
        accepted = "a list of at least two lists of atom indices, counted from 0"
        raise InputError(where, message, accepted=accepted)
    owner: dict[int, int] = {}
    for index, atoms in enumerate(fragments):
        if not atoms:
            raise InputError(f"{where}[{index}]", "is empty")
        for place, atom in enumerate(atoms):
            here = f"{where}[{index}][{place}]"
            if not 0 <= atom < n_atoms:
                accepted = f"0 to {n_atoms - 1}"
                raise InputError(here, "there is no such atom", value=atom, accepted=accepted)
            if atom in owner:
                message = f"atom {int(atom)} is already in fragment {owner[atom] + 1}"
                raise InputError(here, message)
            owner[int(atom)] = index
    absent = next((atom for atom in range(n_atoms) if atom not in owner), None)
    if absent is not None:
        raise InputError(where, f"atom {absent} is in no fragment")
    if list(owner) != list(range(n_atoms)):
        message = "non-contiguous fragments could be implemented but aren't at present; reorder the"
        advice = (
            "atoms so that each fragment's stand together, fragments in the order of their atoms"
        )
        raise InputError(where, f"{message} {advice}")
    return [[int(atom) for atom in atoms] for atoms in fragments]


def _known(
    data: Mapping[str, Any], nuclear_charges: list[int], formulas: list[str], path: str
) -> Known:
    n_fragments = len(nuclear_charges)
    lists = {}
    for name in ("fragment_charges", "fragment_multiplicities"):
        values = data.get(name)
        if values is not None and len(values) != n_fragments:
            message = f"has {len(values)} entries for {n_fragments} fragments"
            raise InputError(f"{path}.{name}", message)
        lists[name] = [_int(value) for value in values or [None] * n_fragments]
    return Known(
        nuclear_charges,
        _int(data.get("molecular_charge")),
        lists["fragment_charges"],
        _int(data.get("molecular_multiplicity")),
        lists["fragment_multiplicities"],
        formulas,
    )


def _int(value: float | None) -> int | None:
    return None if value is None else int(value)


def _charge_fields(state: ChargeState) -> dict[str, Any]:
    return {
        "molecular_charge": float(state.charge),
        "fragment_charges": [float(charge) for charge in state.fragment_charges],
        "molecular_multiplicity": state.multiplicity,
        "fragment_multiplicities": list(state.fragment_multiplicities),
    }

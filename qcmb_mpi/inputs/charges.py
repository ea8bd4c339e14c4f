"""Charges and multiplicities of fragments, completed by QCElemental's rules in linear time.

QCElemental (``molparse/chgmult.py``, ``validate_and_fill_chgmult``) tries every combination of
candidates and takes the first that is physical: exponential in the number of fragments. The first
match itself has a simple form, found here directly:

* charges: what is unaccounted for lands, undivided, on the first fragment of unknown charge that
  can bear it; every other unknown charge is 0.
* multiplicities: the lowest that the number of electrons allows (1 or 2); if a total multiplicity
  asks for more, the highest possible value goes to the earliest fragment of unknown multiplicity.

Rules of this file
------------------
1. Same answer as QCElemental wherever it answers, for whole charges and multiplicities; an
   :class:`InputError` wherever it refuses.
2. No import of QCElemental: electrons come in as numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qcmb_mpi.errors import InputError

_N_SHOWN = 5


@dataclass(frozen=True, slots=True)
class ChargeState:
    """Total and per-fragment charges and multiplicities, complete.

    Parameters
    ----------
    charge, multiplicity : int
        Of the whole molecule.
    fragment_charges, fragment_multiplicities : tuple of int
        One per fragment.
    note : str, optional
        Set if a choice was made that the input leaves open.
    """

    charge: int
    multiplicity: int
    fragment_charges: tuple[int, ...]
    fragment_multiplicities: tuple[int, ...]
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What the input says; None where it says nothing.

    Parameters
    ----------
    nuclear_charges : sequence of int
        Sum of atomic numbers of each fragment.
    charge, multiplicity : int, optional
        Of the whole molecule.
    fragment_charges, fragment_multiplicities : sequence of (int or None)
        One entry per fragment.
    formulas : sequence of str
        Of each fragment.
    """

    nuclear_charges: Sequence[int]
    charge: int | None
    fragment_charges: Sequence[int | None]
    multiplicity: int | None
    fragment_multiplicities: Sequence[int | None]
    formulas: Sequence[str]


def complete(known: Known, path: str = "molecule") -> ChargeState:
    """Fill in missing charges and multiplicities.

    Parameters
    ----------
    known : Known
        What the input says.
    path : str
        Prefix of the fields named in errors.

    Returns
    -------
    ChargeState

    Raises
    ------
    InputError
        What is given is contradictory or impossible.
    """
    _check_fragments(known, path)
    _check_total(known, path)
    for fragment, charges in _charge_candidates(known):
        multiplicities = _multiplicities(known, charges)
        if multiplicities is not None:
            total = known.multiplicity
            if total is None:
                total = 1 + sum(m - 1 for m in multiplicities)
            note = _note(known, fragment, charges, multiplicities)
            return ChargeState(sum(charges), total, charges, multiplicities, note)
    raise InputError(
        f"{path}.fragment_charges",
        f"no charges and multiplicities of the fragments fit molecular_charge={known.charge}, "
        f"molecular_multiplicity={known.multiplicity} and the numbers of electrons",
        accepted="fragment_charges and fragment_multiplicities written out for every fragment",
    )


def is_possible(n_electrons: int, multiplicity: int) -> bool:
    """Whether `n_electrons` can have this multiplicity."""
    return multiplicity - 1 <= n_electrons and multiplicity % 2 != n_electrons % 2


def possible_multiplicities(n_electrons: int) -> str:
    """Describe for people what :func:`is_possible` accepts."""
    lowest = 1 if n_electrons % 2 == 0 else 2
    allowed = [m for m in (lowest, lowest + 2, lowest + 4) if is_possible(n_electrons, m)]
    return ", ".join(map(str, allowed)) + (", ..." if is_possible(n_electrons, lowest + 6) else "")


def _check_fragments(known: Known, path: str) -> None:
    candidates = _charge_candidates(known)
    is_settled = bool(candidates) and candidates[0][0] is None
    charges = candidates[0][1] if is_settled else known.fragment_charges
    rows = zip(known.nuclear_charges, charges, known.fragment_multiplicities, strict=True)
    for index, (protons, charge, multiplicity) in enumerate(rows):
        if charge is not None and charge > protons:
            message = f"fragment {index + 1} has only {protons} electrons to lose"
            raise InputError(f"{path}.fragment_charges[{index}]", message, value=charge)
        if charge is None or multiplicity is None or is_possible(protons - charge, multiplicity):
            continue
        n_electrons = protons - charge
        raise InputError(
            f"{path}.fragment_multiplicities[{index}]",
            f"does not fit fragment {index + 1} with {n_electrons} electrons (charge {charge})",
            value=multiplicity,
            accepted=possible_multiplicities(n_electrons),
        )


def _check_total(known: Known, path: str) -> None:
    given = [charge for charge in known.fragment_charges if charge is not None]
    is_complete = len(given) == len(known.fragment_charges)
    if known.charge is not None and is_complete and sum(given) != known.charge:
        message = f"is not the sum of fragment_charges, which is {sum(given)}"
        raise InputError(f"{path}.molecular_charge", message, value=known.charge)
    charge = sum(given) if known.charge is None else known.charge
    n_electrons = sum(known.nuclear_charges) - charge
    if n_electrons < 0:
        message = f"the molecule has only {sum(known.nuclear_charges)} electrons to lose"
        raise InputError(f"{path}.molecular_charge", message, value=charge)
    if known.multiplicity is not None and not is_possible(n_electrons, known.multiplicity):
        raise InputError(
            f"{path}.molecular_multiplicity",
            f"does not fit {n_electrons} electrons (charge {charge})",
            value=known.multiplicity,
            accepted=possible_multiplicities(n_electrons),
        )


def _charge_candidates(known: Known) -> list[tuple[int | None, tuple[int, ...]]]:
    """List the possible sets of charges in QCElemental's order, with the fragment chosen."""
    filled = tuple(charge or 0 for charge in known.fragment_charges)
    missing = 0 if known.charge is None else known.charge - sum(filled)
    if missing == 0:
        return [(None, filled)]
    unknown = [i for i, charge in enumerate(known.fragment_charges) if charge is None]
    return [(i, (*filled[:i], missing, *filled[i + 1 :])) for i in unknown]


def _multiplicities(known: Known, charges: tuple[int, ...]) -> tuple[int, ...] | None:
    electrons = [z - c for z, c in zip(known.nuclear_charges, charges, strict=True)]
    if min(electrons) < 0:
        return None
    given = known.fragment_multiplicities
    if any(m is not None and not is_possible(n, m) for n, m in zip(electrons, given, strict=True)):
        return None
    lowest = tuple(1 + n % 2 if m is None else m for n, m in zip(electrons, given, strict=True))
    if known.multiplicity is None or None not in given:
        return lowest
    return _high_spin(electrons, given, known.multiplicity)


def _high_spin(
    electrons: Sequence[int], given: Sequence[int | None], total: int
) -> tuple[int, ...] | None:
    """First choice, in QCElemental's order, whose unpaired electrons sum to ``total - 1``."""
    choices = _choices(electrons, given, total)
    n_unpaired = total - 1
    within = (1 << (n_unpaired + 1)) - 1
    reachable = [1]  # bit k of the last entry: the fragments from here on can have k unpaired
    for values in reversed(choices):
        sums = 0
        for value in values:
            sums |= reachable[-1] << (value - 1)
        reachable.append(sums & within)
    reachable.reverse()
    if not reachable[0] >> n_unpaired & 1:
        return None
    chosen: list[int] = []
    for values, rest in zip(choices, reachable[1:], strict=True):
        value = next(v for v in values if v - 1 <= n_unpaired and rest >> (n_unpaired - v + 1) & 1)
        chosen.append(value)
        n_unpaired -= value - 1
    return tuple(chosen)


def _choices(electrons: Sequence[int], given: Sequence[int | None], total: int) -> list[list[int]]:
    """Candidate multiplicities of each fragment, in the order in which QCElemental tries them."""
    n_unknown = sum(m is None for m in given)
    highest = total - sum(m - 1 for m in given if m is not None)
    lowest = highest - (n_unknown - 1)
    ordered = list(dict.fromkeys([*range(highest, max(lowest, 1) - 1, -1), 1, 2]))
    return [
        [v for v in ordered if is_possible(n, v)] if m is None else [m]
        for n, m in zip(electrons, given, strict=True)
    ]


def _note(
    known: Known,
    fragment: int | None,
    charges: tuple[int, ...],
    multiplicities: tuple[int, ...],
) -> str | None:
    notes = []
    if fragment is not None and sum(c is None for c in known.fragment_charges) > 1:
        notes.append(f"the charge {charges[fragment]:+d} was placed on fragment {fragment + 1}")
    open_shell = [
        index + 1
        for index, (z, c, m) in enumerate(
            zip(known.nuclear_charges, charges, multiplicities, strict=True)
        )
        if known.fragment_multiplicities[index] is None and m > 1 + (z - c) % 2
    ]
    if open_shell and sum(m is None for m in known.fragment_multiplicities) > 1:
        notes.append(f"the unpaired electrons were placed on fragment {open_shell[0]}")
    found = []
    if notes:
        fields = "fragment_charges and fragment_multiplicities"
        found.append(f"{' and '.join(notes)}, as QCElemental does; write {fields} to choose")
    if known.multiplicity is None:
        found += _doublets(known, charges, multiplicities)
    return "; ".join(found) or None


def _doublets(known: Known, charges: tuple[int, ...], multiplicities: tuple[int, ...]) -> list[str]:
    """Tell which fragments have an odd number of electrons that the input does not speak of."""
    rows = zip(known.fragment_multiplicities, multiplicities, known.formulas, charges, strict=True)
    odd = [
        f"fragment {number} ({formula}, charge {charge})"
        for number, (told, taken, formula, charge) in enumerate(rows, start=1)
        if told is None and taken == 2
    ]
    if not odd:
        return []
    shown = ", ".join(odd[:_N_SHOWN]) + (", ..." if len(odd) > _N_SHOWN else "")
    return [
        f"{shown} {'has' if len(odd) == 1 else 'have'} an odd number of electrons and got "
        "multiplicity 2; write fragment_multiplicities (or --multiplicity) if that is meant, else "
        "check the charges"
    ]

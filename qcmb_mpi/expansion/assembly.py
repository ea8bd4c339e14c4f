"""From the results of tasks to many-body numbers: class sums, then a tiny formula.

Every answer is a linear combination of task results whose coefficients depend only on the model
chemistry and the numbers of real and basis fragments. With S_k the sum over all k-fragment
clusters of N fragments, the expansion truncated after n-body terms is::

    E_n = sum_{k=1..n} (-1)^(n-k) C(N-k-1, n-k) S_k        (n < N;  E_N = S_N)

(Richard, Lao and Herbert, J. Chem. Phys. 141, 014108 (2014)). It is inclusion and exclusion of
sub-clusters, with the same cluster's terms collected. For cp the S_k are in the basis of all
fragments, and the 1-body difference of the two bases is taken off every level, so that the 1-body
level is fragments in their own basis (Boys and Bernardi, Mol. Phys. 19, 553 (1970)). For vmfc the
n-body contribution is itself one alternating sum in the bases of n fragments (Valiron and Mayer,
Chem. Phys. Lett. 275, 46 (1997)).

Rules of this file
------------------
1. Energies: exactly rounded sums over the very sets that ``ManyBodyCore.analyze`` (QCManyBody 0.8)
   sums, then the same operations in the same order: the same bits. So the order of operations
   below must not be "simplified".
2. Nothing is changed in place: the sums are shared between treatments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from qcmb_mpi.expansion.levels import Bsse, Expansion
from qcmb_mpi.expansion.plan import Block, TaskSpace
from qcmb_mpi.expansion.sums import (
    PROPERTIES,
    Adder,
    Array,
    ArrayAdder,
    ComponentValues,
    EnergyAdder,
    Value,
    scatter,
    zeros,
)

__all__ = ["ComponentValues", "ManyBodyNumbers", "assemble", "expand"]


@dataclass(slots=True)
class ManyBodyNumbers:
    """Many-body results, as ``ManyBodyCore`` names them.

    Parameters
    ----------
    ret : dict
        Property to the value returned (``ret_energy``, ...), atomic units.
    body_dict : dict
        Property, treatment, n-body level to the cumulative value (``energy_body_dict``, ...):
        total data, or data relative to level 1 = 0 where fragments in their own basis were not run.
    """

    ret: dict[str, Value] = field(default_factory=dict)
    body_dict: dict[str, dict[str, dict[int, Value]]] = field(default_factory=dict)


def assemble(space: TaskSpace, values: ComponentValues) -> ManyBodyNumbers:
    """Combine the results of all tasks.

    Parameters
    ----------
    space : TaskSpace
        The tasks.
    values : ComponentValues
        Their results.

    Returns
    -------
    ManyBodyNumbers
        Energies always; other properties if every task has them. Of a space without tasks: zeros,
        for the energy and for the driver's property.

    Raises
    ------
    ValueError
        If results are missing, out of order or of the wrong shape.
    """
    numbers = ManyBodyNumbers()
    for name in _properties(space, values):
        is_energy = name == "energy"
        adder: Adder = EnergyAdder(space, values) if is_energy else ArrayAdder(space, values, name)
        result, bodies = _assemble_property(space.expansion, adder)
        numbers.ret[name] = result
        numbers.body_dict[name] = bodies
    return numbers


def expand(space: TaskSpace, block: Block | int, rank: int, array: Array) -> Array:
    """Pad one task's gradient or Hessian with zeros to the size of the whole system.

    Parameters
    ----------
    space : TaskSpace
        The tasks.
    block : Block or int
        The task's block.
    rank : int
        The task's place in it.
    array : ndarray
        Natural size, ``(nat, 3)`` or ``(3 nat, 3 nat)``.

    Returns
    -------
    ndarray
        ``(n_atoms, 3)`` or ``(3 n_atoms, 3 n_atoms)``.

    Raises
    ------
    ValueError
        If the shape is neither.
    """
    system = space.expansion.system
    _, basis = space.fragments(block, [rank])
    n_atoms = int(np.array(system.fragment_sizes)[basis].sum())
    name = "gradient" if array.shape == (n_atoms, 3) else "hessian"
    total = zeros(system, name)
    scatter(name, total, system, basis, [array])
    return total


def _properties(space: TaskSpace, values: ComponentValues) -> list[str]:
    if space.n_tasks == 0:
        return list(dict.fromkeys(["energy", space.expansion.driver]))
    found = values.properties  # asked once: it may be a look at every task
    if "energy" not in found:
        raise ValueError("every task must have an energy")
    return [name for name in PROPERTIES if name in found]


def _assemble_property(
    expansion: Expansion, adder: Adder
) -> tuple[Value, dict[str, dict[int, Value]]]:
    """Give the returned value and the cumulative values by treatment and level."""
    returned = expansion.bsse[0].value
    contributions: dict[str, dict[int, Value]] = {bsse.value: {} for bsse in expansion.bsse}
    result = adder.zero
    # Highest levels first, as QCManyBody adds them.
    for index, nbodies in reversed(list(enumerate(expansion.levels.nbodies))):
        if not nbodies:
            continue
        bodies = _cumulative(expansion, index, adder)
        for nbody in reversed(nbodies):
            for bsse, through in bodies.items():
                lower = through[nbody - 1] if nbody > 1 else adder.zero
                contributions[bsse][nbody] = through[nbody] - lower
            result = result + contributions[returned][nbody]
    if expansion.levels.supersystem is not None:
        correction = _supersystem_correction(expansion, adder)
        result = result + correction
        for several in contributions.values():
            several[expansion.system.n_fragments] = correction
    bodies = {bsse: _accumulate(several) for bsse, several in contributions.items()}
    if not expansion.return_total_data:
        result = result - bodies[returned][1]
    return result, bodies


def _cumulative(expansion: Expansion, index: int, adder: Adder) -> dict[str, dict[int, Value]]:
    """Give one model chemistry's values through each level, by treatment."""
    sums, n_fragments = expansion.sums(index), expansion.system.n_fragments
    nbodies = expansion.levels.nbodies[index]
    bodies = {}
    for bsse in expansion.bsse:
        if bsse is Bsse.nocp:
            own = {k: adder.block_sum(index, k, k) for k in sums.nocp}
            through = _truncations(own, nbodies[-1], n_fragments, adder.zero)
        elif bsse is Bsse.cp:
            full = {k: adder.block_sum(index, k, n_fragments) for k in sums.cp}
            monomers = adder.block_sum(index, 1, 1) if sums.has_monomers else adder.zero
            through = _truncations(full, nbodies[-1], n_fragments, adder.zero)
            through = _corrected(through, monomers)
        else:
            signed = {b: adder.signed_sum(index, b) for b in sums.vmfc}
            through = _running_sums(signed, nbodies, adder.zero)
        bodies[bsse.value] = through
    return bodies


def _truncations(
    sums: Mapping[int, Value], highest: int, n_fragments: int, zero: Value
) -> dict[int, Value]:
    """Give the expansions truncated after 1..highest bodies, from sums over k-clusters."""
    through = {}
    for nbody in range(1, highest + 1):
        if nbody == n_fragments:
            through[nbody] = sums[nbody]
            continue
        total = zero
        for k in range(1, nbody + 1):
            weight = math.comb(n_fragments - k - 1, nbody - k) * (-1) ** (nbody - k)
            total = total + float(weight) * sums.get(k, zero)
        through[nbody] = total
    return through


def _corrected(through: Mapping[int, Value], monomers: Value) -> dict[int, Value]:
    """Shift every level by the 1-body basis set error, so that level 1 is the monomers."""
    error = through[1] - monomers
    return {nbody: value - error if nbody > 1 else monomers for nbody, value in through.items()}


def _running_sums(
    signed: Mapping[int, Value], nbodies: tuple[int, ...], zero: Value
) -> dict[int, Value]:
    """Add up n-body contributions; levels of other model chemistries count as zero."""
    through = dict.fromkeys(range(1, nbodies[-1] + 1), zero)
    for nbody in nbodies:
        for k in range(1, nbody + 1):
            through[nbody] = through[nbody] + signed.get(k, zero)
    return through


def _supersystem_correction(expansion: Expansion, adder: Adder) -> Value:
    """Give what lies beyond ``max_nbody``, at the supersystem's model chemistry, without cp."""
    index, n_fragments = cast(int, expansion.levels.supersystem), expansion.system.n_fragments
    own = {k: adder.block_sum(index, k, k) for k in expansion.sums(index).nocp}
    highest = expansion.levels.max_nbody
    through = _truncations(own, highest, n_fragments, adder.zero)
    return adder.block_sum(index, n_fragments, n_fragments) - through[highest]


def _accumulate(contributions: Mapping[int, Value]) -> dict[int, Value]:
    """Add contributions up to each level; with the builtin sum, whose rounding is Python's own."""
    ascending = sorted(contributions)
    return {
        nbody: cast(Value, sum([contributions[k] for k in ascending if k <= nbody]))
        for nbody in contributions
    }

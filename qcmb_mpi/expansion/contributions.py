"""What each pair, trimer ... of fragments adds to the interaction energy.

The contribution of a cluster of n fragments is the alternating sum over its sub-clusters, by
inclusion and exclusion; all in the basis that the treatment says (see
:mod:`qcmb_mpi.expansion.assembly`). The contributions of all clusters of n fragments add up to the
n-body contribution of the expansion, but for rounding.

Rules of this file
------------------
1. For people, not for results: plain sums, whole arrays at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.expansion import subsets
from qcmb_mpi.expansion.levels import Bsse
from qcmb_mpi.expansion.plan import Block, TaskSpace

Floats = NDArray[np.float64]


def contributions(
    space: TaskSpace, nbody: int, bsse: Bsse, energies: Callable[[Block], Floats]
) -> Floats | None:
    """Compute what each cluster of so many fragments adds.

    Parameters
    ----------
    space : TaskSpace
    nbody : int
        Fragments in a cluster.
    bsse : Bsse
        The treatment.
    energies : callable
        Gives the energies of a block by rank, E_h; NaN where there is none.

    Returns
    -------
    float64[C(n_fragments, nbody)]
        E_h, by place of the cluster in the lexicographic order; NaN where an energy is missing.
        None if the expansion has not all the tasks for it.
    """
    n, levels = space.expansion.system.n_fragments, space.expansion.levels.nbodies
    index = next((i for i, nbodies in enumerate(levels) if nbody in nbodies), None)
    basis = {Bsse.nocp: None, Bsse.cp: n, Bsse.vmfc: nbody}[bsse]
    sizes = {(b.model_chemistry, b.n_real, b.n_basis): b for b in space.blocks}
    wanted = [sizes.get((-1 if index is None else index, k, basis or k)) for k in _orders(nbody)]
    blocks = [block for block in wanted if block is not None]
    if len(blocks) < nbody:
        return None
    by_size = [energies(block) for block in blocks]
    if bsse is Bsse.vmfc:
        n_clusters = subsets.n_subsets(n, nbody)
        parts = [each.reshape(n_clusters, -1).sum(axis=1) for each in by_size]
        return np.asarray(sum(_sign(nbody, k) * part for k, part in enumerate(parts, 1)))
    return _from_subclusters(n, nbody, by_size)


def _from_subclusters(n: int, nbody: int, by_size: list[Floats]) -> Floats:
    """Combine energies that belong to a cluster whatever larger one it is looked at in."""
    total = np.zeros(subsets.n_subsets(n, nbody))
    for rows in subsets.portions(len(total), 4 * nbody):
        members = subsets.unrank(n, nbody, np.arange(rows.start, rows.stop))
        for k, found in enumerate(by_size, 1):
            for columns in itertools.combinations(range(nbody), k):
                ranks = subsets.rank(n, members[:, columns])
                total[rows] += _sign(nbody, k) * found[ranks]
    return total


def fragment_shares(n: int, nbody: int, values: Floats) -> Floats:
    """Divide contributions equally among the fragments of each cluster.

    Parameters
    ----------
    n, nbody : int
        Fragments in all, and in a cluster.
    values : float64[C(n, nbody)]
        Of :func:`contributions`; NaN counts as nothing.

    Returns
    -------
    float64[n]
        In the unit of `values`; they add up to the sum of all.
    """
    shares = np.zeros(n)
    for rows in subsets.portions(len(values), 2 * nbody):
        members = subsets.unrank(n, nbody, np.arange(rows.start, rows.stop))
        parts = np.nan_to_num(values[rows]) / nbody
        for column in members.T:
            shares += np.bincount(column, parts, minlength=n)
    return shares


def _orders(nbody: int) -> range:
    return range(1, nbody + 1)


def _sign(nbody: int, k: int) -> float:
    return -1.0 if (nbody - k) % 2 else 1.0

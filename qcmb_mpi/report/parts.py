"""Where the interaction comes from: what pairs, trimers and fragments contribute.

Rules of this file
------------------
1. Numbers and positions only; how they are drawn is in :mod:`qcmb_mpi.report.scene`.
2. What was not computed is left out; an order with too many clusters for a look is left out too.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.expansion import subsets
from qcmb_mpi.expansion.contributions import contributions, fragment_shares
from qcmb_mpi.expansion.system import ion_name
from qcmb_mpi.report.answer import KCAL_PER_HARTREE

if TYPE_CHECKING:
    from qcmb_mpi.expansion.plan import Block, TaskSpace
    from qcmb_mpi.expansion.system import System

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_CLUSTERS = 1_000_000  # of one order: seconds, and what one look can take in
NOISE_KCAL = 1e-9  # what rounding leaves of nothing
ANGSTROM_PER_BOHR = 0.52917721067
NAMES = {2: "pairs", 3: "trimers", 4: "tetramers", 5: "pentamers"}


class Energies(Protocol):
    """What is asked of a :class:`~qcmb_mpi.store.values.SpaceView`."""

    def energies(self, block: Block, *, allow_missing: bool = False) -> Floats:
        """Read the energies of a block, by rank."""


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """The contributions of all clusters of so many fragments.

    Parameters
    ----------
    nbody : int
    values_kcal : dict of str to float64[m]
        By treatment, the returned one first; kcal/mol, NaN where unknown.
    distances_angstrom : float64[m]
        Between the two centres of mass that are farthest apart.
    n_fragments : int
        In all.
    """

    nbody: int
    values_kcal: dict[str, Floats]
    distances_angstrom: Floats
    n_fragments: int

    @property
    def name(self) -> str:
        """``pairs``, ``trimers``, ..."""
        return NAMES.get(self.nbody, f"{self.nbody}-fragment clusters")

    @property
    def main(self) -> Floats:
        """Contributions in the treatment that is returned, kcal/mol."""
        return next(iter(self.values_kcal.values()))

    @property
    def n_known(self) -> int:
        """Clusters whose contribution is known."""
        return int(np.isfinite(self.main).sum())

    def members(self, ranks: Ints) -> Ints:
        """Find the fragments, counted from 0, of clusters: int64[m, nbody]."""
        return subsets.unrank(self.n_fragments, self.nbody, ranks)

    def largest(self, n_wanted: int) -> Ints:
        """Find the clusters that contribute most, of either sign: their ranks."""
        sizes = np.abs(np.nan_to_num(self.main))
        few = np.argpartition(-sizes, min(n_wanted, len(sizes)) - 1)[:n_wanted]
        few = few[np.lexsort((few, -sizes[few]))]
        return np.asarray(few[sizes[few] > NOISE_KCAL], np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The interaction energy in parts.

    Parameters
    ----------
    orders : tuple of Order
        Ascending, at least one.
    shares_kcal : float64[n_fragments]
        Of each fragment: half of its pairs, a third of its trimers, ... in these orders.
    symbols : tuple of str
        Of the atoms.
    positions_angstrom : float64[n_atoms, 3]
    centres_angstrom : float64[n_fragments, 3]
        Centres of mass.
    fragment_of : int64[n_atoms]
    names : tuple of str
        Formula of each fragment, with its charge: ``Na+``.
    """

    orders: tuple[Order, ...]
    shares_kcal: Floats
    symbols: tuple[str, ...]
    positions_angstrom: Floats
    centres_angstrom: Floats
    fragment_of: Ints
    names: tuple[str, ...]


def parts_of(space: TaskSpace, view: Energies, *, max_clusters: int = MAX_CLUSTERS) -> Parts | None:
    """Take an interaction energy apart.

    Parameters
    ----------
    space : TaskSpace
    view : SpaceView
        Its results.
    max_clusters : int, optional
        Leave out orders with more.

    Returns
    -------
    Parts or None
        None if there is no order of which anything is known.

    Raises
    ------
    StoreError
        If a result is damaged.
    """
    system = space.expansion.system
    n = system.n_fragments
    energies = cache(lambda block: view.energies(block, allow_missing=True))
    fragment_of = np.repeat(np.arange(n), system.fragment_sizes)
    centres = _centres(system, fragment_of)
    orders, shares = [], np.zeros(n)
    for nbody in range(2, space.expansion.levels.max_nbody + 1):
        if subsets.n_subsets(n, nbody) > max_clusters:
            break
        found = {
            bsse.value: KCAL_PER_HARTREE * values
            for bsse in space.expansion.bsse
            if (values := contributions(space, nbody, bsse, energies)) is not None
        }
        if space.expansion.bsse[0].value not in found:
            break
        order = Order(nbody, found, _distances(n, nbody, centres), n)
        if order.n_known:
            orders.append(order)
            shares += fragment_shares(n, nbody, order.main)
    if not orders:
        return None
    return Parts(
        orders=tuple(orders),
        shares_kcal=shares,
        symbols=system.symbols,
        positions_angstrom=ANGSTROM_PER_BOHR * system.geometry_bohr,
        centres_angstrom=centres,
        fragment_of=fragment_of,
        names=_names(system),
    )


def _centres(system: System, fragment_of: Ints) -> Floats:
    masses = np.bincount(fragment_of, system.masses)
    weighted = system.masses[:, None] * system.geometry_bohr
    sums = [np.bincount(fragment_of, column) for column in weighted.T]
    return np.asarray(ANGSTROM_PER_BOHR * np.stack(sums, axis=1) / masses[:, None])


def _distances(n: int, nbody: int, centres: Floats) -> Floats:
    """Find how far apart the two fragments of each cluster are that are farthest apart."""
    between = np.linalg.norm(centres[:, None] - centres[None], axis=2)
    found = np.zeros(subsets.n_subsets(n, nbody))
    for rows in subsets.portions(len(found), 4 * nbody):
        members = subsets.unrank(n, nbody, np.arange(rows.start, rows.stop))
        for one, other in itertools.combinations(members.T, 2):
            found[rows] = np.maximum(found[rows], between[one, other])
    return found


def _names(system: System) -> tuple[str, ...]:
    each = zip(system.fragment_slices, system.fragment_charges, strict=True)
    return tuple(ion_name(system.symbols[atoms], charge) for atoms, charge in each)

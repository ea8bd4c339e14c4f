"""k-subsets of ``range(n)`` in lexicographic order, ranked and unranked by whole arrays.

Rules of this file
------------------
1. Indices are 0-based and rows ascend.
2. Exact: an order is an integer below ``2**62``; nothing goes through a float.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]

MAX_RANKS = 2**62

# Numbers (8 bytes each) that one step over rows may hold: 8 MiB.
_PORTION = 1 << 20


def n_subsets(n: int, k: int) -> int:
    """Count the k-subsets of n things, exactly.

    Parameters
    ----------
    n, k : int
        Sizes, not negative.

    Returns
    -------
    int
        The binomial coefficient; 0 for ``k > n``.
    """
    return math.comb(n, k)


def unrank(n: int, k: int, ranks: ArrayLike) -> Ints:
    """Find the subsets at given places of the lexicographic order.

    Parameters
    ----------
    n, k : int
        Sizes, ``0 <= k <= n``, with fewer than ``2**62`` subsets.
    ranks : int64[m]
        Places, each in ``range(n_subsets(n, k))``.

    Returns
    -------
    int64[m, k]
        The subsets, 0-based, rows ascending.

    Raises
    ------
    IndexError
        If a rank is out of range.

    Notes
    -----
    The complement of a rank is a number in the combinatorial number system (Knuth, *The Art of
    Computer Programming*, vol. 4A, section 7.2.1.3): each digit is the largest binomial that fits.
    """
    ranks = np.asarray(ranks, dtype=np.int64)
    n_ranks = n_subsets(n, k)
    if ranks.size and not 0 <= ranks.min() <= ranks.max() < n_ranks:
        raise IndexError(f"ranks of {k}-subsets of {n} are in range({n_ranks})")
    rows = np.empty((len(ranks), k), dtype=np.int64)
    if k == n:
        rows[:] = np.arange(n)
        return rows
    rest = (n_ranks - 1) - ranks
    for place, column in enumerate(_binomials(n, k)[:0:-1]):
        digit = np.searchsorted(column, rest, side="right") - 1
        rows[:, place] = n - 1 - digit
        rest -= column[digit]
    return rows


def rank(n: int, subsets: ArrayLike) -> Ints:
    """Find the places of subsets in the lexicographic order.

    Parameters
    ----------
    n : int
        Size of the whole.
    subsets : int64[m, k]
        Subsets of ``range(n)``, rows strictly ascending (see :func:`is_subset_rows`).

    Returns
    -------
    int64[m]
        Their ranks; the inverse of :func:`unrank`.
    """
    subsets = np.asarray(subsets, dtype=np.int64)
    m, k = subsets.shape
    if k == n:
        return np.zeros(m, dtype=np.int64)
    ranks = np.full(m, n_subsets(n, k) - 1, dtype=np.int64)
    for place, column in enumerate(_binomials(n, k)[:0:-1]):
        ranks -= column[n - 1 - subsets[:, place]]
    return ranks


def is_subset_rows(n: int, rows: Ints) -> NDArray[np.bool_]:
    """Tell which rows are subsets of ``range(n)`` in strictly ascending order.

    Parameters
    ----------
    n : int
        Size of the whole.
    rows : int64[m, k]
        Candidates, ``k >= 1``.

    Returns
    -------
    bool[m]
        One answer a row.
    """
    is_ascending = (rows[:, 1:] > rows[:, :-1]).all(axis=1)
    verdict: NDArray[np.bool_] = is_ascending & (rows[:, 0] >= 0) & (rows[:, -1] < n)
    return verdict


def portions(n_rows: int, width: int) -> Iterator[slice]:
    """Cut rows into portions of bounded memory.

    Parameters
    ----------
    n_rows, width : int
        Rows, and numbers in each.

    Yields
    ------
    slice
        Consecutive, together all rows.
    """
    step = max(1, _PORTION // width)
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


@lru_cache(maxsize=64)
def _binomials(n: int, k: int) -> Ints:
    """Tabulate C(c, j) for j = 0..k (rows) and c = 0..n-1, capped at ``MAX_RANKS``."""
    table = [[1] * n]
    for _ in range(k):
        table.append(list(accumulate(table[-1][:-1], _capped_sum, initial=0)))
    binomials = np.array(table, dtype=np.int64)
    binomials.setflags(write=False)
    return binomials


def _capped_sum(left: int, right: int) -> int:
    return min(left + right, MAX_RANKS)

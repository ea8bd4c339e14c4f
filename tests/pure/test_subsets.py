from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcmb_mpi.expansion.subsets import (
    MAX_RANKS,
    is_subset_rows,
    n_subsets,
    portions,
    rank,
    unrank,
)


@pytest.mark.parametrize(("n", "k"), [(n, k) for n in range(1, 9) for k in range(1, n + 1)])
def test_order_is_that_of_itertools(n: int, k: int) -> None:
    expected = list(itertools.combinations(range(n), k))
    rows = unrank(n, k, np.arange(n_subsets(n, k)))
    assert [tuple(row) for row in rows.tolist()] == expected
    assert rank(n, rows).tolist() == list(range(len(expected)))


@given(st.data())
def test_rank_and_unrank_are_inverse_in_large_orders(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 3000))
    k = data.draw(st.integers(1, min(n, 5)))
    n_ranks = math.comb(n, k)
    ranks = data.draw(st.lists(st.integers(0, n_ranks - 1), min_size=1, max_size=20))
    rows = unrank(n, k, ranks)
    assert is_subset_rows(n, rows).all()
    assert rank(n, rows).tolist() == ranks


def test_large_halves_and_complements_stay_exact() -> None:
    n, k = 64, 31
    ranks = np.array([0, 1, 2**60, math.comb(n, k) - 1])
    assert math.comb(n, k) < MAX_RANKS
    assert rank(n, unrank(n, k, ranks)).tolist() == ranks.tolist()
    ranks = np.arange(400)
    assert rank(400, unrank(400, 399, ranks)).tolist() == ranks.tolist()


def test_the_whole_is_one_subset() -> None:
    assert n_subsets(500, 500) == 1
    assert unrank(500, 500, [0]).tolist() == [list(range(500))]
    assert rank(500, np.arange(500)[None, :]).tolist() == [0]


def test_counts_are_exact() -> None:
    assert n_subsets(400, 3) + n_subsets(400, 2) + 400 == 10_667_000
    assert n_subsets(3, 4) == 0


@pytest.mark.parametrize("wrong", [-1, 10, 2**40])
def test_ranks_out_of_range_are_refused(wrong: int) -> None:
    with pytest.raises(IndexError, match=r"range\(10\)"):
        unrank(5, 2, [0, wrong])


def test_no_ranks_give_no_rows() -> None:
    assert unrank(5, 2, []).shape == (0, 2)
    assert rank(5, np.empty((0, 2), dtype=np.int64)).shape == (0,)


def test_only_strictly_ascending_rows_in_range_are_subsets() -> None:
    rows = np.array([[0, 4], [0, 5], [-1, 2], [2, 2], [3, 1]])
    assert is_subset_rows(5, rows).tolist() == [True, False, False, False, False]


@given(st.integers(0, 5_000_000), st.integers(1, 5000))
def test_portions_cover_all_rows_once_in_bounded_steps(n_rows: int, width: int) -> None:
    ends = 0
    for part in portions(n_rows, width):
        assert part.start == ends
        assert 0 < (part.stop - part.start) * width <= max(1 << 20, width)
        ends = part.stop
    assert ends == n_rows

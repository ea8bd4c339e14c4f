"""Contributions of pairs and trimers: what was put in, and what the whole expansion says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcmb_mpi.expansion.assembly import assemble
from qcmb_mpi.expansion.contributions import contributions, fragment_shares
from qcmb_mpi.expansion.levels import Bsse
from tests.expansion_cases import BSSE_CHOICES, cluster_energies, make_space, random_components

seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(2, 6), st.data(), st.sampled_from(BSSE_CHOICES))
def test_contributions_add_up_to_what_the_order_adds(
    seed: int, n_fragments: int, data: st.DataObject, bsse: tuple[str, ...]
) -> None:
    max_nbody = data.draw(st.integers(2, n_fragments))
    change = data.draw(st.integers(1, max_nbody))  # of the model chemistry
    levels = {k: "low" if k > change else "high" for k in range(1, max_nbody + 1)}
    space = make_space((1,) * n_fragments, levels, bsse)
    components = random_components(space, np.random.default_rng(seed))
    numbers = assemble(space, components)
    for name, through in numbers.body_dict["energy"].items():
        for nbody in range(2, max_nbody + 1):
            found = contributions(space, nbody, Bsse(name), components.energies)
            if found is None:
                assert levels[nbody] != levels[1]
                continue
            assert found.sum() == pytest.approx(through[nbody] - through[nbody - 1], abs=1e-10)
            shares = fragment_shares(n_fragments, nbody, found)
            assert shares.sum() == pytest.approx(found.sum(), abs=1e-10)


@pytest.mark.parametrize("bsse", ["nocp", "cp", "vmfc"])
def test_the_terms_of_a_potential_come_back(bsse: str) -> None:
    rng = np.random.default_rng(5)
    groups = [g for k in (1, 2, 3) for g in itertools.combinations(range(1, 6), k)]
    terms = {group: float(rng.normal()) for group in groups}
    space = make_space((1,) * 5, dict.fromkeys((1, 2, 3), "toy"), [bsse])
    energies = cluster_energies(
        space, lambda real: sum(v for group, v in terms.items() if set(group) <= set(real))
    )
    for nbody in (2, 3):
        expected = [v for group, v in terms.items() if len(group) == nbody]
        found = contributions(space, nbody, Bsse(bsse), energies.energies)
        np.testing.assert_allclose(found, expected, atol=1e-12)
        shares = fragment_shares(5, nbody, np.array(expected))
        mine = sum(v / nbody for g, v in terms.items() if len(g) == nbody and 2 in g)
        assert shares[1] == pytest.approx(mine)


def test_a_missing_energy_leaves_its_clusters_unknown_and_a_missing_block_all() -> None:
    space = make_space((1,) * 4, dict.fromkeys((1, 2, 3), "toy"), ["nocp"])
    values = np.zeros(space.n_tasks)
    values[4] = np.nan  # the pair of the first two fragments
    energies = lambda block: values[block.start : block.ids.stop]  # noqa: E731
    pairs = contributions(space, 2, Bsse.nocp, energies)
    trimers = contributions(space, 3, Bsse.nocp, energies)
    assert pairs is not None
    assert trimers is not None
    assert np.isnan(pairs).tolist() == [True] + 5 * [False]
    assert np.isnan(trimers).tolist() == [True, True, False, False]
    assert np.isfinite(fragment_shares(4, 3, trimers)).all()
    assert contributions(space, 4, Bsse.nocp, energies) is None
    assert contributions(space, 2, Bsse.cp, energies) is None
    ends = make_space((1,) * 4, dict.fromkeys((1, 2, 3, 4), "toy"), ["nocp"], is_ends_only=True)
    assert contributions(ends, 2, Bsse.nocp, lambda block: np.zeros(block.n_tasks)) is None

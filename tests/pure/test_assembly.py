from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcmb_mpi.expansion.assembly import assemble, expand
from qcmb_mpi.expansion.plan import TaskSpace
from tests.expansion_cases import (
    ALL,
    BSSE_CHOICES,
    Components,
    cluster_energies,
    make_space,
    random_case,
    random_components,
)

seeds = st.integers(0, 2**32 - 1)


def single_level(n_fragments: int, max_nbody: int, bsse, **options) -> TaskSpace:
    levels = dict.fromkeys(range(1, max_nbody + 1), "toy")
    return make_space((1,) * n_fragments, levels, bsse, **options)


def potential(rng: np.random.Generator, n_fragments: int, n_bodies: int, *, is_integer=False):
    """Draw a potential with terms of up to n bodies; integers make all arithmetic exact."""
    terms = {
        group: float(rng.integers(-1000, 1000)) if is_integer else float(rng.normal())
        for size in range(1, n_bodies + 1)
        for group in itertools.combinations(range(1, n_fragments + 1), size)
    }
    return lambda real: math.fsum(
        terms[group]
        for size in range(1, n_bodies + 1)
        for group in itertools.combinations(real, size)
    )


class TestLaws:
    @settings(max_examples=40, deadline=None)
    @given(seeds, st.integers(3, 7), st.sampled_from(BSSE_CHOICES))
    def test_three_bodies_are_enough_for_a_three_body_potential(
        self, seed: int, n_fragments: int, bsse: tuple[str, ...]
    ) -> None:
        energy = potential(np.random.default_rng(seed), n_fragments, 3)
        space = single_level(n_fragments, 3, bsse)
        numbers = assemble(space, cluster_energies(space, energy))
        exact = energy(tuple(range(1, n_fragments + 1)))
        for through in numbers.body_dict["energy"].values():
            assert through[3] == pytest.approx(exact, abs=1e-11)

    @settings(max_examples=40, deadline=None)
    @given(seeds, st.data(), st.sampled_from(BSSE_CHOICES))
    def test_additive_energies_do_not_interact(
        self, seed: int, data: st.DataObject, bsse: tuple[str, ...]
    ) -> None:
        n_fragments = data.draw(st.integers(2, 7))
        max_nbody = data.draw(st.integers(1, n_fragments))
        energy = potential(np.random.default_rng(seed), n_fragments, 1)
        space = single_level(n_fragments, max_nbody, bsse, is_total=False)
        assert abs(assemble(space, cluster_energies(space, energy)).ret["energy"]) < 1e-11

    @settings(max_examples=40, deadline=None)
    @given(seeds, st.integers(2, 6), st.booleans())
    def test_the_full_expansion_is_the_supersystem(
        self, seed: int, n_fragments: int, is_ends_only: bool
    ) -> None:
        energy = potential(np.random.default_rng(seed), n_fragments, n_fragments, is_integer=True)
        space = single_level(n_fragments, n_fragments, ["nocp"], is_ends_only=is_ends_only)
        numbers = assemble(space, cluster_energies(space, energy))
        assert numbers.ret["energy"] == energy(tuple(range(1, n_fragments + 1)))

    @settings(max_examples=40, deadline=None)
    @given(seeds, st.integers(2, 6), st.data())
    def test_truncation_is_the_sum_of_the_many_body_terms(
        self, seed: int, n_fragments: int, data: st.DataObject
    ) -> None:
        max_nbody = data.draw(st.integers(1, n_fragments))
        rng = np.random.default_rng(seed)
        terms = {
            group: float(rng.integers(-1000, 1000))
            for size in range(1, n_fragments + 1)
            for group in itertools.combinations(range(1, n_fragments + 1), size)
        }

        def energy(real: tuple[int, ...]) -> float:
            return sum(value for group, value in terms.items() if set(group) <= set(real))

        space = single_level(n_fragments, max_nbody, ["nocp"])
        body = assemble(space, cluster_energies(space, energy)).body_dict["energy"]["nocp"]
        for nbody in range(1, max_nbody + 1):
            expected = sum(value for group, value in terms.items() if len(group) <= nbody)
            assert body[nbody] == expected

    @settings(max_examples=40, deadline=None)
    @given(seeds, st.integers(2, 6), st.data())
    def test_without_basis_effects_all_treatments_agree(
        self, seed: int, n_fragments: int, data: st.DataObject
    ) -> None:
        max_nbody = data.draw(st.integers(1, n_fragments))
        energy = potential(np.random.default_rng(seed), n_fragments, n_fragments, is_integer=True)
        space = single_level(n_fragments, max_nbody, ["nocp", "cp", "vmfc"])
        body = assemble(space, cluster_energies(space, energy)).body_dict["energy"]
        assert body["nocp"] == body["cp"] == body["vmfc"]

    @settings(max_examples=40, deadline=None)
    @given(seeds, st.integers(2, 6), st.data())
    def test_a_shift_of_a_monomer_shifts_totals_and_no_interaction(
        self, seed: int, n_fragments: int, data: st.DataObject
    ) -> None:
        max_nbody = data.draw(st.integers(2, max(2, n_fragments)))
        bsse = data.draw(st.sampled_from(BSSE_CHOICES))
        energy = potential(np.random.default_rng(seed), n_fragments, 3, is_integer=True)
        results = []
        for is_total in (True, False):
            space = single_level(n_fragments, max_nbody, bsse, is_total=is_total)
            shifted = cluster_energies(space, lambda real: energy(real) + 64.0 * (1 in real))
            before = assemble(space, cluster_energies(space, energy)).ret["energy"]
            results.append(assemble(space, shifted).ret["energy"] - before)
        assert results == [64.0, 0.0]

    def test_supersystem_adds_what_lies_beyond(self) -> None:
        energy = potential(np.random.default_rng(3), 5, 5, is_integer=True)
        levels = {1: "hi", 2: "hi", "supersystem": "lo"}
        space = make_space((1,) * 5, levels)
        numbers = assemble(space, cluster_energies(space, energy))
        assert numbers.ret["energy"] == energy((1, 2, 3, 4, 5))
        assert sorted(numbers.body_dict["energy"]["nocp"]) == [1, 2, 5]


class TestArrays:
    @settings(max_examples=25, deadline=None)
    @given(seeds, st.integers(1, 50))
    def test_portions_do_not_show_in_the_bits(self, seed: int, portion: int) -> None:
        rng = np.random.default_rng(seed)
        case = random_case(rng)
        space = make_space(**case)  # type: ignore[arg-type]
        components = random_components(space, rng, ["energy", "gradient"])
        reference = assemble(space, Components(space, components.values, portion=10**6))
        other = assemble(space, Components(space, components.values, portion=portion))
        assert _bytes(reference) == _bytes(other)

    def test_hessians_are_the_same_bits_in_any_portions(self) -> None:
        space = make_space((1, 2, 1), {1: "a", 2: "b"}, ["vmfc", "cp"])
        components = random_components(space, np.random.default_rng(1), sorted(ALL))
        reference = assemble(space, Components(space, components.values, portion=10**6))
        for portion in (1, 2, 3):
            other = assemble(space, Components(space, components.values, portion=portion))
            assert _bytes(reference) == _bytes(other)

    @pytest.mark.parametrize("name", ["gradient", "hessian"])
    @pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 2, 1)])
    def test_stacks_give_the_same_bits_as_single_arrays(
        self, name: str, sizes: tuple[int, ...]
    ) -> None:
        space = make_space(sizes, {1: "a", 2: "b"}, ["vmfc", "cp"])
        components = random_components(space, np.random.default_rng(4), ["energy", name])
        reference = assemble(space, components)
        single = components.arrays

        def stacked(block, name):
            for ranks, arrays in single(block, name):
                is_alike = len({array.shape for array in arrays}) == 1
                yield ranks, np.array(arrays) if is_alike else arrays

        components.arrays = stacked  # type: ignore[method-assign]
        assert _bytes(assemble(space, components)) == _bytes(reference)

    def test_properties_are_asked_for_once(self) -> None:
        class Counting(Components):
            n_asked = 0

            @property
            def properties(self):
                self.n_asked += 1
                return frozenset({"energy", "gradient"})

            @properties.setter
            def properties(self, _):
                pass

        space = make_space((1, 2, 1), {1: "a", 2: "a"})
        values = random_components(space, np.random.default_rng(2), ["energy", "gradient"]).values
        components = Counting(space, values)
        assemble(space, components)
        assert components.n_asked == 1

    def test_results_share_no_memory_with_each_other(self) -> None:
        space = make_space((1, 2, 1), {1: "a", 2: "a"}, ["nocp", "cp"])
        components = random_components(space, np.random.default_rng(2), ["energy", "gradient"])
        numbers = assemble(space, components)
        arrays = [numbers.ret["gradient"]]
        arrays += [v for body in numbers.body_dict["gradient"].values() for v in body.values()]
        for one, other in itertools.combinations(arrays, 2):
            assert not np.shares_memory(one, other)

    @pytest.mark.parametrize("driver", ["energy", "gradient", "hessian"])
    def test_a_space_without_tasks_gives_zeros_for_the_driver(self, driver: str) -> None:
        space = make_space((1, 2), {1: "a"}, ["cp"], is_total=False, driver=driver)
        assert space.n_tasks == 0
        numbers = assemble(space, Components(space, {}))
        assert set(numbers.ret) == {"energy", driver}
        assert numbers.ret["energy"] == 0.0
        assert numbers.body_dict["energy"] == {"cp": {1: 0.0}}
        shape = {"energy": (), "gradient": (3, 3), "hessian": (9, 9)}[driver]
        assert np.shape(numbers.ret[driver]) == shape
        assert not np.any(numbers.ret[driver])
        assert np.shape(numbers.body_dict[driver]["cp"][1]) == shape

    def test_only_what_every_task_has_is_assembled(self) -> None:
        space = make_space((1, 1), {1: "a", 2: "a"}, driver="gradient")
        components = random_components(space, np.random.default_rng(0), sorted(ALL))
        components.properties = frozenset({"energy", "hessian", "dipole"})
        assert list(assemble(space, components).ret) == ["energy", "hessian"]


class TestExpand:
    space = make_space((3, 1, 2), {1: "a", 2: "a"}, ["cp", "nocp"])

    @pytest.mark.parametrize("task", range(12))
    def test_padding_puts_each_fragment_in_its_place(self, task: int) -> None:
        space = self.space
        block = int(space.block_of([task])[0])
        basis = space.clusters([task]).basis[0]
        slices = space.expansion.system.fragment_slices
        atoms = [atom for f in basis for atom in range(*slices[f - 1].indices(6))]
        gradient = np.random.default_rng(task).normal(size=(len(atoms), 3))
        hessian = np.random.default_rng(task).normal(size=(3 * len(atoms),) * 2)
        rank = task - space.blocks[block].start
        padded = expand(space, block, rank, gradient)
        expected = np.zeros((6, 3))
        expected[atoms] = gradient
        np.testing.assert_array_equal(padded, expected)
        coordinates = [3 * atom + axis for atom in atoms for axis in range(3)]
        expected = np.zeros((18, 18))
        expected[np.ix_(coordinates, coordinates)] = hessian
        padded = expand(space, space.blocks[block], rank, hessian)
        np.testing.assert_array_equal(padded, expected)

    @pytest.mark.parametrize("shape", [(), (3,), (2, 3), (3, 3, 3), (6, 6)])
    def test_other_shapes_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="has the shape"):
            expand(self.space, 0, 0, np.zeros(shape))


class TestBadValues:
    space = make_space((1, 2, 1), {1: "a", 2: "a"})

    def components(self) -> Components:
        rng = np.random.default_rng(0)
        return random_components(self.space, rng, ["energy", "gradient"])

    def test_missing_energies_are_noticed(self) -> None:
        components = self.components()
        components.values["energy"].pop()
        with pytest.raises(ValueError, match=r"\(2,\) energies for the 3 tasks"):
            assemble(self.space, components)

    def test_energy_is_not_optional(self) -> None:
        components = self.components()
        components.properties = frozenset({"gradient"})
        with pytest.raises(ValueError, match="must have an energy"):
            assemble(self.space, components)

    def test_arrays_of_another_task_are_noticed(self) -> None:
        components = self.components()
        components.values["gradient"][0], components.values["gradient"][1] = (
            components.values["gradient"][1],
            components.values["gradient"][0],
        )
        with pytest.raises(ValueError, match=r"shape \(2, 3\) instead of \(1, 3\)"):
            assemble(self.space, components)

    @pytest.mark.parametrize("shape", [(3, 2, 3), (3, 1, 1), (2, 1, 3)])
    def test_stacks_of_other_shapes_or_numbers_are_noticed(self, shape: tuple[int, ...]) -> None:
        space = make_space((1, 1, 1), {1: "a"})
        components = random_components(space, np.random.default_rng(0), ["energy", "gradient"])
        ranks = np.arange(3)
        components.arrays = (
            lambda *_: iter(  # type: ignore[method-assign]
                [(ranks[: shape[0]], np.zeros(shape))]
            )
        )
        with pytest.raises(ValueError, match=r"instead of \(1, 3\)|2 gradients for the 3 tasks"):
            assemble(space, components)

    @pytest.mark.parametrize(
        ("ranks", "message"),
        [
            ([1, 0, 2], "not in canonical order"),
            ([0, 1, 2, 3], "not in canonical order"),
            ([0, 2], "not in canonical order"),
            ([0, 1], "2 gradients for the 3 tasks"),
            ([], "0 gradients for the 3 tasks"),
        ],
    )
    def test_arrays_out_of_order_or_number_are_noticed(
        self, ranks: list[int], message: str
    ) -> None:
        components = self.components()
        components.arrays = lambda block, name: iter(  # type: ignore[method-assign]
            [(np.array(ranks), [np.zeros((1 + rank % 2, 3)) for rank in ranks])]
        )
        with pytest.raises(ValueError, match=message):
            assemble(self.space, components)


def _bytes(numbers) -> list[bytes]:
    values = [numbers.ret[name] for name in sorted(numbers.ret)]
    for name in sorted(numbers.body_dict):
        for bsse, body in sorted(numbers.body_dict[name].items()):
            values += [np.float64(len(bsse)), *(body[nbody] for nbody in sorted(body))]
    return [np.asarray(value).tobytes() for value in values]

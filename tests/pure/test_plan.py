from __future__ import annotations

import itertools
import math
import pickle
import subprocess
import sys
from enum import Enum

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcmb_mpi.errors import InputError
from qcmb_mpi.expansion import classes, subsets
from qcmb_mpi.expansion.plan import Clusters, TaskSpace
from qcmb_mpi.expansion.system import System, fingerprint
from tests.expansion_cases import make_space, make_system, random_case

spaces = st.integers(0, 2**32 - 1).map(
    lambda seed: make_space(**random_case(np.random.default_rng(seed)))  # type: ignore[arg-type]
)


def test_a_look_up_does_not_have_numpy_import_its_masked_arrays() -> None:
    # It takes each slot 10 ms before its first task.
    code = """
import sys
from tests.expansion_cases import make_space
make_space((3, 3, 3), {1: "hf", 2: "hf"}).clusters([0, 3, 5])
assert "numpy.ma" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def large_space() -> TaskSpace:
    return make_space((3,) * 400, {1: "hf", 2: "hf", 3: "hf"})


class TestTaskSpace:
    @settings(max_examples=60, deadline=None)
    @given(spaces)
    def test_ids_and_clusters_are_a_bijection_in_canonical_order(self, space: TaskSpace) -> None:
        ids = np.arange(space.n_tasks)
        clusters = space.clusters(ids)
        keys = [
            (index, len(basis), len(real), basis, real)
            for index, real, basis in zip(
                clusters.model_chemistry.tolist(), clusters.real, clusters.basis, strict=True
            )
        ]
        assert keys == sorted(set(keys))
        assert all(set(real) <= set(basis) for real, basis in zip(*_rows(clusters), strict=True))
        assert space.ids(clusters).tolist() == ids.tolist()
        assert space.ids_of_labels(space.labels(ids)).tolist() == ids.tolist()

    @settings(max_examples=30, deadline=None)
    @given(spaces, st.randoms(use_true_random=False))
    def test_answers_follow_the_order_asked(self, space: TaskSpace, random) -> None:
        ids = list(range(space.n_tasks)) * 2
        random.shuffle(ids)
        labels, clusters = space.labels(range(space.n_tasks)), space.clusters(ids)
        assert space.labels(ids) == [labels[task] for task in ids]
        assert space.ids(clusters).tolist() == ids
        blocks = [space.blocks[index] for index in space.block_of(ids)]
        assert all(task in block.ids for task, block in zip(ids, blocks, strict=True))

    @settings(max_examples=60, deadline=None)
    @given(spaces)
    def test_blocks_follow_each_other_without_gap(self, space: TaskSpace) -> None:
        assert [task for block in space.blocks for task in block.ids] == list(range(space.n_tasks))

    def test_ten_million_tasks_are_a_few_blocks(self) -> None:
        space = large_space()
        assert space.n_tasks == 10_667_000
        assert len(space.blocks) == 3
        assert space.labels([0, 400, space.n_tasks - 1]) == [
            '["hf", [1], [1]]',
            '["hf", [1, 2], [1, 2]]',
            '["hf", [398, 399, 400], [398, 399, 400]]',
        ]
        clusters = space.clusters([10_000_000])
        assert space.ids(clusters).tolist() == [10_000_000]
        assert [len(each.ids) for each in space.classes()] == [400, 79_800, 10_586_800]

    def test_clusters_in_the_full_basis_hold_one_row_of_it(self) -> None:
        space = make_space((1,) * 400, {1: "hf", 2: "hf"}, ["cp"], is_total=False)
        real, basis = space.fragments(1, np.arange(space.blocks[1].n_tasks))
        assert basis.shape == (79_800, 400)
        assert basis.strides[0] == 0
        assert space.ranks(1, real[5:9], basis[5:9]).tolist() == [5, 6, 7, 8]

    def test_numbers_stay_exact_just_below_the_limit_and_are_refused_above(self) -> None:
        space = make_space((1,) * 64, dict.fromkeys(range(1, 29), "hf"))
        assert 2**60 < space.n_tasks < subsets.MAX_RANKS
        last = space.n_tasks - 1
        assert space.clusters([last]).real == [tuple(range(37, 65))]
        assert space.ids(space.clusters([last, last // 2])).tolist() == [last, last // 2]

    @pytest.mark.parametrize(("n", "max_nbody"), [(64, 29), (64, 64), (2000, 2000)])
    def test_too_many_to_number_are_refused(self, n: int, max_nbody: int) -> None:
        levels = dict.fromkeys(range(1, max_nbody + 1), "hf")
        with pytest.raises(InputError, match=r"max_nbody: gives more than 4\.6e\+18 calculations"):
            make_space((1,) * n, levels, ["nocp", "cp"])

    def test_nothing_to_do_is_a_legal_space(self) -> None:
        space = make_space((1, 1, 1), {1: "hf"}, ["cp"], is_total=False)
        assert space.n_tasks == 0
        assert space.classes() == ()
        assert space.labels([]) == []
        assert space.clusters([]).real == []
        assert space.block_of([]).tolist() == []

    @pytest.mark.parametrize("wrong", [-1, 7])
    def test_ids_out_of_range_are_refused(self, wrong: int) -> None:
        space = make_space((1, 1, 1), {1: "hf", 2: "hf", 3: "hf"})
        with pytest.raises(IndexError, match=r"range\(7\)"):
            space.labels([0, wrong])

    @pytest.mark.parametrize(
        ("real", "basis", "message"),
        [
            ((1,), (2, 3), "must ascend"),
            ((1, 4), (1, 4), "not part"),
            ((4,), (1, 4), "must ascend"),
            ((1,), (3, 1), "must ascend"),
            ((0,), (0, 1), "must ascend"),
            ((), (), "not part"),
            ((1, 2, 3), (1, 2, 3), "not part"),
        ],
    )
    def test_clusters_outside_the_space_are_refused(
        self, real: tuple[int, ...], basis: tuple[int, ...], message: str
    ) -> None:
        space = make_space((1, 1, 1), {1: "a", 2: "b"}, ["vmfc"])
        with pytest.raises(InputError, match=message):
            space.ids(Clusters(np.array([0 if message == "not part" else 1]), [real], [basis]))

    def test_labels_of_other_model_chemistries_are_refused(self) -> None:
        space = make_space((1, 1, 1), {1: "a", 2: "b"})
        for label in ('["c", [1], [1]]', "(1)@(1)"):
            with pytest.raises(InputError, match="accepted: a, b"):
                space.ids_of_labels([label])

    def test_fingerprint_names_the_tasks_and_nothing_else(self) -> None:
        levels = {1: "a", 2: "b"}
        space = make_space((1, 1, 1), levels, ["cp", "nocp"])
        same = make_space((1, 1, 1), levels, ["nocp", "cp"], is_total=False)
        assert space.fingerprint == same.fingerprint
        others = [
            make_space((1, 1, 1), levels, ["nocp"]),
            make_space((1, 1, 1), {1: "a", 2: "c"}, ["cp", "nocp"]),
            make_space((1, 1, 1), {1: "a", 2: "a"}, ["cp", "nocp"]),
        ]
        assert len({space.fingerprint, *(other.fingerprint for other in others)}) == 4

    def test_a_space_travels_between_processes(self) -> None:
        space = make_space((1, 2, 1), {1: "a", 2: "b"}, ["vmfc"])
        copy = pickle.loads(pickle.dumps(space))
        ids = np.arange(space.n_tasks)
        assert copy.labels(ids) == space.labels(ids)
        assert copy.fingerprint == space.fingerprint


class TestClasses:
    # Kinds 0 1 0 2 1 0: helium, a hydride, helium, a charged helium, ...
    system = make_system(
        (1, 2, 1, 1, 2, 1),
        symbols=["He", "H", "Li", "He", "He", "H", "Li", "He"],
        fragment_charges=(0.0, 0.0, 0.0, 1.0, 0.0, 0.0),
        fragment_multiplicities=(1, 1, 1, 2, 1, 1),
    )

    def test_kinds_follow_symbols_charge_and_multiplicity(self) -> None:
        assert self.system.fragment_kinds.tolist() == [0, 1, 0, 2, 1, 0]
        reordered = make_system((2, 2), symbols=["H", "Li", "Li", "H"])
        assert reordered.fragment_kinds.tolist() == [0, 1]

    def test_one_kind_gives_ranges(self) -> None:
        space = make_space((1, 1, 1, 1), {1: "a", 2: "a", 3: "a"}, ["vmfc", "cp"])
        found = space.classes()
        assert [each.ids for each in found] == [block.ids for block in space.blocks]
        for each, block in zip(found, space.blocks, strict=True):
            assert each.real_kinds == (0,) * block.n_real
            assert each.ghost_kinds == (0,) * (block.n_basis - block.n_real)

    @pytest.mark.parametrize("bsse", [["nocp"], ["cp"], ["vmfc", "cp"]])
    def test_several_kinds_are_told_apart_by_real_and_ghost_fragments(
        self, bsse: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(subsets, "_PORTION", 16)
        levels = {1: "a", 2: "b", 3: "b", "supersystem": "s"}
        space = make_space((), levels, bsse, system=self.system)
        kinds = self.system.fragment_kinds
        clusters = space.clusters(np.arange(space.n_tasks))
        expected: dict[tuple, list[int]] = {}
        for task, (real, basis) in enumerate(zip(*_rows(clusters), strict=True)):
            ghosts = set(basis) - set(real)
            key = (
                int(space.block_of([task])[0]),
                tuple(sorted(kinds[fragment - 1] for fragment in real)),
                tuple(sorted(kinds[fragment - 1] for fragment in ghosts)),
            )
            expected.setdefault(key, []).append(task)
        found = {(c.block, c.real_kinds, c.ghost_kinds): list(c.ids) for c in space.classes()}
        assert found == expected
        assert [each.ids[0] for each in space.classes()] == [ids[0] for ids in expected.values()]

    @pytest.mark.parametrize("few", [1, 4, 1 << 16])
    def test_more_combinations_of_kinds_than_a_short_number_holds_are_told_apart(
        self, few: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = make_space((), {1: "a", 2: "a", 3: "a"}, ["vmfc", "cp"], system=self.system)
        expected = [
            (each.block, list(each.ids), each.real_kinds, each.ghost_kinds)
            for each in before.classes()
        ]
        monkeypatch.setattr(classes, "_FEW_CODES", few)
        found = [
            (each.block, list(each.ids), each.real_kinds, each.ghost_kinds)
            for each in before.classes()
        ]
        assert found == expected

    @settings(max_examples=50, deadline=None)
    @given(st.integers(1, 300), st.integers(1, 9), st.integers(1, 200), st.integers(0, 2**32 - 1))
    def test_codes_are_equal_where_rows_are(
        self, n_kinds: int, width: int, n_rows: int, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        rows = rng.integers(0, n_kinds, (n_rows, width)) // rng.integers(1, n_kinds + 1)
        codes = classes._codes(rows, n_kinds).tolist()
        pairs = set(zip(codes, map(tuple, rows.tolist()), strict=True))
        assert len(pairs) == len(set(codes)) == len(np.unique(rows, axis=0))

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.integers(0, 3), min_size=2, max_size=9), st.integers(1, 4))
    def test_compositions_are_ranks_of_multisets_in_the_order_of_subsets(
        self, of_fragments: list[int], k: int
    ) -> None:
        multisets = list(itertools.combinations_with_replacement(range(4), k))
        subsets_of_kinds = itertools.combinations(of_fragments, k)
        expected = [multisets.index(tuple(sorted(each))) for each in subsets_of_kinds]
        assert classes._compositions(np.array(of_fragments), 4, k).tolist() == expected

    @pytest.mark.parametrize("bsse", ["nocp", "cp"])
    def test_few_compositions_of_many_tasks_are_found_without_the_tasks_themselves(
        self, bsse: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        system = make_system((1,) * 99, symbols=["Ne", "He", "Ar"] * 33)
        space = make_space((), {1: "a", 2: "a", 3: "a"}, [bsse], system=system)
        looked_up: list[int] = []
        fragments = space.fragments
        monkeypatch.setattr(
            space,
            "fragments",
            lambda block, ranks: looked_up.append(len(ranks)) or fragments(block, ranks),
        )
        found = space.classes()
        assert space.n_tasks > 150_000
        assert sum(looked_up) == len(found) < 50
        assert sum(len(each.ids) for each in found) == space.n_tasks

    def test_ids_without_gap_are_a_range_and_others_small_integers(self) -> None:
        space = make_space((), {1: "a", 2: "a", "supersystem": "s"}, system=self.system)
        by_kinds = {(c.block, c.real_kinds): c.ids for c in space.classes()}
        assert by_kinds[0, (2,)] == range(3, 4)
        assert by_kinds[len(space.blocks) - 1, (0, 0, 0, 1, 1, 2)] == space.blocks[-1].ids
        monomers = by_kinds[0, (0,)]
        assert isinstance(monomers, np.ndarray)
        assert monomers.dtype == np.int32
        assert monomers.tolist() == [0, 2, 5]

    def test_ids_that_need_it_have_eight_bytes(self) -> None:
        n = 3000
        system = make_system((1,) * n, symbols=["Ne", *["He"] * (n - 2), "Ne"])
        space = make_space((), {1: "a", 2: "a", 3: "a", 4: "b"}, system=system)
        # Only the monomers of "b" are looked at: the billions before them would take minutes.
        space.blocks = space.blocks[3:4]
        neon, helium = space.classes()
        start = n + math.comb(n, 2) + math.comb(n, 3)
        assert isinstance(neon.ids, np.ndarray)
        assert neon.ids.dtype == np.int64
        assert neon.ids.tolist() == [start, start + n - 1]
        assert helium.ids == range(start + 1, start + n - 1)


class TestSystem:
    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"fragment_sizes": (1, 1)}, "molecule.fragments"),
            ({"fragment_sizes": (3, 0)}, "molecule.fragments"),
            ({"masses": np.ones(2)}, "molecule.masses"),
            ({"geometry_bohr": np.ones(9)}, "molecule.geometry_bohr"),
            ({"fragment_charges": (0.0,)}, "molecule.fragment_charges"),
            ({"fragment_multiplicities": (1, 1, 1)}, "molecule.fragment_multiplicities"),
            ({"embedding_charges": ((0.1, 0.2), (0.3, 0.4))}, "embedding_charges"),
        ],
    )
    def test_contradictions_are_refused(self, changes: dict[str, object], field: str) -> None:
        with pytest.raises(InputError, match=f"^{field}: "):
            make_system((1, 2), **changes)

    def test_fragments_are_slices_of_the_atoms(self) -> None:
        system = make_system((1, 2, 3))
        assert system.fragment_slices == (slice(0, 1), slice(1, 3), slice(3, 6))
        assert (system.n_atoms, system.n_fragments) == (6, 3)


class Colour(str, Enum):
    red = "red"


SPECIFICATION = {
    "driver": "energy",
    "model": {"method": "hf", "basis": "6-31g"},
    "keywords": {
        "conv": 1e-8,
        "options": [1, True, None, {"deep": 0.1}],
        "vector": np.arange(3.0),
        "scalar": np.float64(0.5),
        "colour": Colour.red,
        "bag": {"b", "a"},
    },
    "protocols": {"stdout": True},
}


def _fingerprint(
    system: System | None = None,
    program: str = "pyscf",
    driver: str = "energy",
    **changes: object,
) -> str:
    return fingerprint(system or make_system((1, 2)), program, driver, {**SPECIFICATION, **changes})


def _moved_geometry(shift: float) -> np.ndarray:
    geometry = make_system((1, 2)).geometry_bohr.copy()
    geometry[1, 2] += shift
    return geometry


class TestFingerprint:
    def test_is_sha256(self) -> None:
        assert len(_fingerprint()) == 64
        assert int(_fingerprint(), 16) >= 0

    @pytest.mark.parametrize(
        "change",
        [
            lambda: _fingerprint(make_system((1, 2), geometry_bohr=_moved_geometry(1e-10))),
            lambda: _fingerprint(make_system((1, 2), fragment_charges=(1.0, 0.0))),
            lambda: _fingerprint(make_system((1, 2), fragment_multiplicities=(1, 3))),
            lambda: _fingerprint(make_system((2, 1))),
            lambda: _fingerprint(make_system((1, 2), symbols=["He", "He", "Ne"])),
            lambda: _fingerprint(make_system((1, 2), mass_numbers=np.array([4, 4, 3]))),
            lambda: _fingerprint(make_system((1, 2), fix_symmetry="c1")),
            lambda: _fingerprint(make_system((1, 2), embedding_charges=((0.1,), (0.2, 0.3)))),
            lambda: _fingerprint(make_system((1, 2), embedding_charges=((0.1,), (0.2, 0.4)))),
            lambda: _fingerprint(program="nwchem"),
            lambda: _fingerprint(driver="gradient"),
            lambda: _fingerprint(model={"method": "mp2", "basis": "6-31g"}),
            lambda: _fingerprint(model={"method": "hf", "basis": "sto-3g"}),
            lambda: _fingerprint(keywords={**SPECIFICATION["keywords"], "conv": 1e-9}),
            lambda: _fingerprint(keywords={**SPECIFICATION["keywords"], "colour": "blue"}),
            lambda: _fingerprint(
                keywords={**SPECIFICATION["keywords"], "options": [1, True, None, {"deep": 0.2}]}
            ),
            lambda: _fingerprint(keywords={**SPECIFICATION["keywords"], "new": None}),
            lambda: _fingerprint(keywords={}),
            lambda: _fingerprint(extras={"tag": 1}),
        ],
    )
    def test_changes_with_all_that_the_numbers_depend_on(self, change) -> None:
        assert change() != _fingerprint()

    def test_all_those_changes_differ_from_each_other(self) -> None:
        shifted = {
            _fingerprint(make_system((1, 2), geometry_bohr=_moved_geometry(shift)))
            for shift in (0.0, 1e-10, -1e-10, 1e-3)
        }
        assert len(shifted) == 4

    @pytest.mark.parametrize(
        "same",
        [
            lambda: _fingerprint(make_system((1, 2), name="another name")),
            lambda: _fingerprint(make_system((1, 2), fragment_charges=(0, 0))),
            lambda: _fingerprint(make_system((1, 2), fragment_multiplicities=(1.0, 1))),
            lambda: _fingerprint(program="PySCF"),
            lambda: _fingerprint(protocols={"stdout": False}),
            lambda: _fingerprint(keywords=dict(reversed(list(SPECIFICATION["keywords"].items())))),
            lambda: _fingerprint(
                keywords={**SPECIFICATION["keywords"], "vector": [0.0, 1.0, 2.0], "scalar": 0.5}
            ),
            lambda: _fingerprint(
                keywords={**SPECIFICATION["keywords"], "colour": "red", "bag": {"a", "b"}}
            ),
            lambda: _fingerprint(extras={}),
            lambda: _fingerprint(model={"basis": "6-31g", "method": "hf"}),
        ],
    )
    def test_does_not_change_with_names_orders_and_types(self, same) -> None:
        assert same() == _fingerprint()

    def test_what_has_no_canonical_form_is_refused(self) -> None:
        with pytest.raises(InputError, match="type object cannot be stored"):
            _fingerprint(keywords={"strange": object()})


def _rows(clusters: Clusters) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    return clusters.real, clusters.basis


def test_subsets_of_a_large_space_are_in_the_order_of_itertools() -> None:
    space = large_space()
    start = space.blocks[2].start
    expected = itertools.islice(itertools.combinations(range(1, 401), 3), 1000)
    assert space.clusters(np.arange(start, start + 1000)).real == list(expected)

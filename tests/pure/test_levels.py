from __future__ import annotations

import numpy as np
import pytest

from qcmb_mpi.errors import InputError
from qcmb_mpi.expansion.graph import parse_label
from qcmb_mpi.expansion.levels import (
    Bsse,
    Expansion,
    LevelGraph,
    Levels,
    NBodyDependencyGraph,
    Stage,
    complete_bsse,
    released,
)
from tests.expansion_cases import make_space, make_system


class TestLevels:
    def test_model_chemistries_are_ordered_by_their_lowest_level(self) -> None:
        levels = Levels.from_mapping({3: "lo", "supersystem": "ss", "2": "hi", 1: "hi"})
        assert levels == Levels(("hi", "lo", "ss"), ((1, 2), (3,), ()), 2)
        assert levels.max_nbody == 3

    def test_one_model_chemistry_needs_no_supersystem(self) -> None:
        levels = Levels.from_mapping({2: "a", 1: "a"})
        assert levels == Levels(("a",), ((1, 2),), None)

    @pytest.mark.parametrize(
        ("levels", "message"),
        [
            ({}, "contiguous from 1"),
            ({"supersystem": "a"}, "contiguous from 1"),
            ({2: "a"}, "contiguous from 1 to 2"),
            ({1: "a", 3: "a"}, "contiguous from 1 to 3"),
            ({0: "a", 1: "a"}, "contiguous from 1 to 1"),
            ({1: "a", "1": "b"}, "contiguous from 1 to 1"),
            ({1: "a", 2: "b", 3: "a"}, r"within a model chemistry spec \(a: \[1, 3\]\)"),
            ({1: "a", 2: "b", "supersystem": "b"}, "label of its own"),
            ({"one": "a"}, "unknown level.*'one'"),
        ],
    )
    def test_impossible_levels_are_refused(self, levels: dict, message: str) -> None:
        with pytest.raises(InputError, match=f"specification.keywords.levels: .*{message}"):
            Levels.from_mapping(levels)


class TestBsse:
    one = Levels.from_mapping({1: "a", 2: "a"})
    two = Levels.from_mapping({1: "a", 2: "b"})

    @pytest.mark.parametrize(
        ("asked", "n_fragments", "expected"),
        [
            (["vmfc"], 3, "vmfc nocp"),
            (["vmfc"], 2, "vmfc nocp cp"),
            (["cp", "vmfc", "cp"], 2, "cp vmfc nocp"),
            (["cp"], 2, "cp"),
        ],
    )
    def test_vmfc_brings_what_it_has_computed(
        self, asked: list[str], n_fragments: int, expected: str
    ) -> None:
        completed = complete_bsse(asked, self.one, n_fragments)
        assert completed == tuple(Bsse(name) for name in expected.split())

    def test_nothing_is_free_with_several_model_chemistries(self) -> None:
        assert complete_bsse(["vmfc"], self.two, 2) == (Bsse.vmfc,)

    @pytest.mark.parametrize("asked", [[], ["mine"]])
    def test_unknown_or_missing_treatments_are_refused(self, asked: list[str]) -> None:
        with pytest.raises(InputError, match=r"bsse_type.*accepted: nocp, cp, vmfc"):
            complete_bsse(asked, self.one, 2)


class TestExpansion:
    @pytest.mark.parametrize(
        ("sizes", "levels", "is_ends_only", "message"),
        [
            ((1,), {1: "a"}, False, "fragmentation has not been specified"),
            ((1, 1), {1: "a", 2: "a", 3: "a"}, False, "max_nbody=3 should be between 1 and 2"),
            ((1, 1, 1), {1: "a", 2: "a"}, True, "max_nbody=2 != nfragments=3"),
            ((1, 1), {1: "a", 2: "b"}, True, "only one model chemistry"),
            ((1, 1), {1: "a", 2: "a", "supersystem": "b"}, True, "only one model chemistry"),
        ],
    )
    def test_parts_that_do_not_fit_are_refused(
        self, sizes: tuple[int, ...], levels: dict, is_ends_only: bool, message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            make_space(sizes, levels, is_ends_only=is_ends_only)

    def test_model_chemistries_must_be_those_of_the_levels(self) -> None:
        levels = Levels.from_mapping({1: "a"})
        with pytest.raises(ValueError, match="must name the same"):
            Expansion(make_system((1, 1)), levels, (Bsse.nocp,), True, False, "energy", ())


class TestLevelGraph:
    def test_plain_stages_are_ungated_and_hold_every_block_once(self) -> None:
        space = make_space(
            (1, 1, 1, 1), {1: "a", 2: "b", 3: "b", "supersystem": "s"}, ["cp", "vmfc"]
        )
        graph = space.level_graph()
        held = [index for stage in graph.stages for index in stage.blocks]
        assert sorted(held) == list(range(len(space.blocks)))
        for stage in graph.stages:
            for index in stage.blocks:
                block = space.blocks[index]
                assert (block.model_chemistry, block.n_real) == (
                    stage.model_chemistry,
                    stage.n_real,
                )
        keys = [(stage.model_chemistry, stage.n_real) for stage in graph.stages]
        assert keys == sorted(set(keys))
        assert released(graph, ()) == tuple(range(len(graph.stages)))

    def test_gated_stages_wait_for_all_their_gates(self) -> None:
        graph = LevelGraph(
            (
                Stage(0, 0, 1, (0,)),
                Stage(1, 0, 2, (1,)),
                Stage(2, 0, 3, (2,), released_by=(0, 1)),
                Stage(3, 0, 4, (3,), released_by=(2,)),
            )
        )
        assert released(graph, ()) == (0, 1)
        assert released(graph, {0}) == (0, 1)
        assert released(graph, {0, 1}) == (0, 1, 2)
        assert released(graph, [0, 1, 2]) == (0, 1, 2, 3)

    @pytest.mark.parametrize(
        "stages",
        [
            (Stage(1, 0, 1, ()),),
            (Stage(0, 0, 1, (), (0,)),),
            (Stage(0, 0, 1, (), (1,)), Stage(1, 0, 2, ())),
            (Stage(0, 0, 1, (), (-1,)),),
        ],
    )
    def test_cycles_and_wrong_places_are_refused(self, stages: tuple[Stage, ...]) -> None:
        with pytest.raises(ValueError, match="out of order or waits"):
            LevelGraph(stages)


class TestLabels:
    @pytest.mark.parametrize(
        ("label", "parts"),
        [
            ('["mp2", [1], [1, 2]]', ("mp2", (1,), (1, 2))),
            ("§mp2_(1)@(1, 2)", ("mp2", (1,), (1, 2))),
            ("§a_b_(1, 2)@(1, 2)", ("a_b", (1, 2), (1, 2))),
            ("(3,)@(1,3)", (None, (3,), (1, 3))),
        ],
    )
    def test_both_forms_are_read(self, label: str, parts: tuple) -> None:
        assert parse_label(label) == parts

    @pytest.mark.parametrize(
        "label",
        [
            *("", "mp2", "7", '["mp2", [1]]', '["mp2", [], [1]]', '["mp2", [1.5], [1]]', "{}"),
            *('["a", 1, 2]', '["mp2", ["x"], [1]]', "(1)", "()@(1)", "(1,,2)@(1, 2)"),
        ],
    )
    def test_anything_else_is_refused(self, label: str) -> None:
        with pytest.raises(InputError, match="is not of a task"):
            parse_label(label)


class TestNBodyDependencyGraph:
    space = make_space((1, 1, 1), {1: "a", 2: "a", 3: "a"}, ["nocp", "cp"])

    def test_level_is_the_number_of_real_fragments(self) -> None:
        graph = NBodyDependencyGraph()
        assert graph.extract_nbody_level('["mp2", [1, 4], [1, 2, 4]]') == 2
        assert graph.extract_nbody_level("§mp2_(1)@(1, 2)") == 1

    def test_labels_are_grouped_in_their_order(self) -> None:
        labels = ["(1, 2)@(1, 2)", "(2)@(2)", "(1)@(1, 2)", "(1, 3)@(1, 3)"]
        groups = NBodyDependencyGraph().group_by_level(labels)
        assert list(groups.items()) == [
            (1, ["(2)@(2)", "(1)@(1, 2)"]),
            (2, ["(1, 2)@(1, 2)", "(1, 3)@(1, 3)"]),
        ]

    def test_a_space_is_grouped_as_its_labels_are(self) -> None:
        graph, space = NBodyDependencyGraph(), self.space
        by_label = graph.group_by_level(space.labels(np.arange(space.n_tasks)))
        by_id = graph.group_by_level(space)
        assert list(by_id) == [1, 2, 3]
        assert {level: space.labels(ids) for level, ids in by_id.items()} == by_label
        assert isinstance(by_id[3], range)

    def test_everything_or_nothing_is_closed(self) -> None:
        graph = NBodyDependencyGraph(self.space)
        assert graph.validate_dependencies(range(self.space.n_tasks))
        assert graph.validate_dependencies([])

    def test_a_dimer_needs_its_monomers_in_the_same_treatment(self) -> None:
        graph = NBodyDependencyGraph(self.space)
        completed = {'["a", [1, 3], [1, 3]]': None, '["a", [3], [3]]': None}
        assert graph.missing_dependencies(completed) == ('["a", [1], [1]]',)
        assert not graph.validate_dependencies(completed)
        assert graph.missing_dependencies(["(1, 3)@(1, 2, 3)", "(1)@(1, 2, 3)"]) == (
            '["a", [3], [1, 2, 3]]',
        )
        monomers = self.space.ids_of_labels(["(1)@(1)", "(2)@(1, 2, 3)"])
        assert graph.validate_dependencies(monomers)

    def test_the_whole_system_needs_every_smaller_cluster(self) -> None:
        graph, last = NBodyDependencyGraph(self.space), self.space.n_tasks - 1
        assert len(graph.missing_dependencies(range(last, last + 1))) == last

    def test_vmfc_clusters_are_compared_in_their_basis(self) -> None:
        space = make_space((1, 1, 1, 1), {1: "a", 2: "b", 3: "b"}, ["vmfc"])
        graph = NBodyDependencyGraph(space)
        assert graph.missing_dependencies(["§b_(1, 2)@(1, 2, 4)"]) == (
            '["b", [1], [1, 2, 4]]',
            '["b", [2], [1, 2, 4]]',
        )
        missing = graph.missing_dependencies(["§b_(1, 2, 4)@(1, 2, 4)"])
        assert [label for label in missing if "[1, 2, 4]]" not in label] == [
            '["b", [1, 2], [1, 2]]',
            '["b", [1, 4], [1, 4]]',
            '["b", [2, 4], [2, 4]]',
        ]
        assert len(missing) == 9

    def test_dependencies_need_a_space_and_its_labels(self) -> None:
        with pytest.raises(InputError, match=r"NBodyDependencyGraph\(space\)"):
            NBodyDependencyGraph().validate_dependencies([])
        with pytest.raises(InputError, match="is not part of this expansion"):
            NBodyDependencyGraph(self.space).validate_dependencies(["(1)@(1, 2)"])

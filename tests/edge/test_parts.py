"""Where the interaction comes from: numbers, and their pictures in the page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from qcmb_mpi.expansion.plan import Block, TaskSpace
from qcmb_mpi.expansion.system import ion_name
from qcmb_mpi.report import scene
from qcmb_mpi.report.answer import KCAL_PER_HARTREE
from qcmb_mpi.report.html import render_report
from qcmb_mpi.report.parts import Parts, parts_of
from qcmb_mpi.report.sources import Material
from tests.edge.report_cases import make_result, make_rows
from tests.expansion_cases import make_space, make_system

N = 5
PAIR_KCAL = {(0, 1): -6.0, (1, 2): -4.0, (3, 4): 2.0}
TRIMER_KCAL = {(0, 1, 2): -1.5}


class Energies:
    """Fragments of -1 E_h each that interact as said above."""

    def __init__(self, space: TaskSpace, missing: int | None = None) -> None:
        self.space, self.missing = space, missing

    def energies(self, block: Block, *, allow_missing: bool = False) -> np.ndarray:
        assert allow_missing
        real, _ = self.space.fragments(block, np.arange(block.n_tasks))
        terms = PAIR_KCAL | TRIMER_KCAL
        sums = [sum(v for k, v in terms.items() if {*k} <= {*row}) for row in real.tolist()]
        found = -float(block.n_real) + np.array(sums) / KCAL_PER_HARTREE
        if self.missing is not None and self.missing in block.ids:
            found[self.missing - block.start] = np.nan
        return found


def space_of(bsse: tuple[str, ...] = ("nocp",), n: int = N, **options: object) -> TaskSpace:
    return make_space((1,) * n, {1: "toy", 2: "toy", 3: "toy"}, bsse, **options)


def made(bsse: tuple[str, ...] = ("nocp",), **options: object) -> Parts:
    space = space_of(bsse)
    parts = parts_of(space, Energies(space), **options)
    assert parts is not None
    return parts


@pytest.mark.parametrize("bsse", [("nocp",), ("cp", "nocp"), ("vmfc", "cp")])
def test_the_largest_come_first_of_either_sign(bsse: tuple[str, ...]) -> None:
    parts = made(bsse)
    pairs, trimers = parts.orders
    ranks = pairs.largest(10)
    assert [tuple(row) for row in pairs.members(ranks).tolist()] == list(PAIR_KCAL)
    assert pairs.main[ranks] == pytest.approx(list(PAIR_KCAL.values()))
    assert list(pairs.values_kcal)[: len(bsse)] == list(bsse)
    assert trimers.members(trimers.largest(1)).tolist() == [[0, 1, 2]]
    assert len(trimers.largest(10)) == 1  # those that add nothing are not large
    assert (pairs.name, trimers.name, pairs.n_known) == ("pairs", "trimers", 10)


def test_shares_add_up_to_the_interaction() -> None:
    parts = made()
    total = sum(PAIR_KCAL.values()) + sum(TRIMER_KCAL.values())
    assert parts.shares_kcal.sum() == pytest.approx(total)
    assert parts.shares_kcal[0] == pytest.approx(-6.0 / 2 - 1.5 / 3)
    assert parts.names == ("He",) * N


def test_distances_are_of_the_farthest_centres() -> None:
    pairs, trimers = made().orders
    step = 4.0 * 0.52917721067
    assert pairs.distances_angstrom[:4] == pytest.approx(step * np.arange(1, 5))
    assert trimers.distances_angstrom[0] == pytest.approx(2 * step)


def test_what_is_not_known_is_left_out() -> None:
    space = space_of()
    parts = parts_of(space, Energies(space, missing=N))  # the first pair
    assert parts is not None
    pairs = parts.orders[0]
    assert pairs.n_known == 9
    assert pairs.members(pairs.largest(1)).tolist() == [[1, 2]]
    only_pairs = parts_of(space, Energies(space), max_clusters=9)
    assert only_pairs is None
    single = make_space((1,) * N, {1: "toy"}, ["nocp"])
    assert parts_of(single, Energies(single)) is None


def test_formulas_are_in_hills_order() -> None:
    symbols = ["O", "H", "H", "H", "C", "H", "H", "N", "H", "H"]
    system = make_system((3, 7), symbols=symbols)
    space = make_space((3, 7), {1: "toy", 2: "toy"}, system=system)
    parts = parts_of(space, Energies(space))
    assert parts is not None
    assert parts.names == ("H2O", "CH5N")
    assert ion_name(["Na"], 1.0) == "Na+"
    assert ion_name(["Ca"], 2.0) == "Ca2+"
    assert ion_name(["O", "H"], -1.0) == "HO-"
    rows, labels = make_rows(2)
    assert "1 H2O · 2 CH5N" in render_report(None, None, Material(rows, labels, parts))


def test_the_page_shows_the_cluster_and_has_no_script_but_ours() -> None:
    rows, labels = make_rows(N)
    html = render_report(make_result(), None, Material(rows, labels, made(("cp", "nocp"))))
    assert re.findall(r"<script>(.*?)</script>", html, re.DOTALL) == [scene.script()]
    assert html.count("<script") == 1
    assert "http" not in scene.script()
    for text in ("Largest pairs", "Largest trimers", "of 10", "1 · 2", "-6.000", "1 · 2 · 3"):
        assert text in html, text
    pictures = [ElementTree.fromstring(p) for p in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]
    (cluster,) = [each for each in pictures if each.get("class") == "scene"]
    assert len(cluster.findall(".//circle")) == N
    assert len(cluster.findall(".//line")) == len(PAIR_KCAL)
    assert [each.text for each in cluster.findall("text")] == ["1", "2", "3", "4", "5"]
    assert "nan" not in html


def test_a_large_cluster_has_one_ball_a_fragment(monkeypatch: pytest.MonkeyPatch) -> None:
    system = make_system((3,) * N)
    space = make_space((3,) * N, {1: "toy", 2: "toy"}, system=system)
    parts = parts_of(space, Energies(space))
    assert parts is not None
    scale = scene.Scale.of(parts.shares_kcal)
    whole = scene.scene_svg(parts, scale, lambda _: 1.2)
    monkeypatch.setattr(scene, "MAX_ATOMS", 10)
    monkeypatch.setattr(scene, "MAX_NUMBERS", 4)
    small = scene.scene_svg(parts, scale, lambda _: 1.2)
    assert (whole.count("<circle"), small.count("<circle")) == (3 * N, N)
    assert (whole.count('class="bond"'), small.count('class="bond"')) == (2 * N, 0)
    assert (whole.count("<text"), small.count("<text")) == (N, 0)


@pytest.mark.parametrize(
    ("values", "low", "high", "colours"),
    [
        ([-8.0, 2.0], -8.0, 8.0, ("#1f5fb0", "#c7cdd3", "#c6303a")),
        ([-8.0, -2.0], -8.0, 0.0, ("#1f5fb0", "#c7cdd3", "#c7cdd3")),
        ([2.0, 8.0], 0.0, 8.0, ("#c7cdd3", "#c7cdd3", "#c6303a")),
        ([3.0, 3.0], 0.0, 3.0, ("#c7cdd3", "#c7cdd3", "#c6303a")),
    ],
)
def test_colours_say_what_attracts(
    values: list[float], low: float, high: float, colours: tuple[str, ...]
) -> None:
    scale = scene.Scale.of(np.array(values))
    assert (scale.low, scale.high) == (low, high)
    assert (scale.colour(low), scale.colour(high)) == (colours[0], colours[2])
    assert scale.colour(0.0) == colours[1]


def test_nothing_over_distance_without_two_to_compare() -> None:
    space = make_space((1, 1), {1: "toy", 2: "toy"}, ["nocp"])
    parts = parts_of(space, Energies(space))
    assert parts is not None
    assert scene.distance_svg(parts.orders) == ""
    assert "<path" in scene.distance_svg(made().orders)

"""Predictions of unseen sizes against times and peaks that were measured (measured_costs.json)."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from qcmb_mpi.programs.memory import scaling_of
from qcmb_mpi.scheduling.cost import CostModel
from qcmb_mpi.scheduling.scaling import TaskSize, bytes_of, certain_bytes, family_of, seconds_of

DATA = json.loads(Path(__file__).with_name("measured_costs.json").read_text())
GIVEN = 4 * 2**30
BASE = 220 * 10**6
METHODS = ("hf", "b3lyp", "mp2", "ccsd(t)")


@dataclass(frozen=True)
class Measured:
    """A class of tasks."""

    n_fragments: int
    size: TaskSize
    seconds: tuple[float, ...]
    peak_bytes: int

    @property
    def typical_s(self) -> float:
        return statistics.median(self.seconds)


def measured(name: str) -> list[Measured]:
    method, _, driver, _ = name.split("|")
    scaling = scaling_of("pyscf", family_of(method), driver, BASE, {})
    rows = []
    for n_real, n_ghost, n, electrons, atoms, ghosts, seconds, peak in DATA["families"][name]:
        size = TaskSize(n, method, driver, atoms, scaling, electrons, ghosts, GIVEN)
        rows.append(Measured(n_real + n_ghost, size, tuple(seconds), peak * 10**6))
    return rows


def learnt(rows: list[Measured], *, speed: float = 1.0) -> CostModel:
    """Return a model that has seen these on a machine `speed` times as slow as predicted."""
    model = CostModel()
    for number, row in enumerate(rows):
        prior = model.predict(row.size)
        model.observe(
            number,
            row.seconds,
            prior_s=prior.cost_s / speed,
            family="family",
            peak_bytes=[row.peak_bytes],
            prior_bytes=prior.memory_bytes,
        )
    return model


def errors(name: str, most: int, *, speed: float = 1.0) -> list[float]:
    """Calibrate on tasks of at most so many fragments, ghosts included; miss the larger ones by."""
    rows = measured(name)
    model = learnt([row for row in rows if row.n_fragments <= most], speed=speed)
    return [
        abs(
            model.cost_s("new", model.predict(row.size).cost_s / speed, family="family")
            / row.typical_s
            - 1
        )
        for row in rows
        if row.n_fragments > most
    ]


def families(method: str) -> Iterator[str]:
    return (name for name in DATA["families"] if name.split("|")[0] == method)


def test_the_table_says_what_it_is_and_stays_small() -> None:
    assert DATA["machine"]
    assert {"pyscf", "numpy"} <= DATA["versions"].keys()
    assert Path(__file__).with_name("measured_costs.json").stat().st_size < 50_000


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("speed", [1.0, 0.1, 30.0])
def test_larger_clusters_are_predicted_from_monomers_and_dimers(method: str, speed: float) -> None:
    missed = [error for name in families(method) for error in errors(name, 2, speed=speed)]
    assert len(missed) > 15
    assert statistics.median(missed) < 0.2


@pytest.mark.parametrize("method", METHODS)
def test_with_trimers_too_they_are_predicted_better(method: str) -> None:
    missed = [error for name in families(method) for error in errors(name, 3)]
    assert len(missed) >= 4
    assert statistics.median(missed) < 0.12


@pytest.mark.parametrize("name", sorted(DATA["families"]))
def test_no_family_is_off_by_much(name: str) -> None:
    missed = errors(name, 2)
    assert not missed or statistics.median(missed) < 0.2


@pytest.mark.parametrize("method", ["b3lyp", "mp2", "ccsd(t)"])
def test_a_basis_set_that_the_formulas_were_not_made_with(method: str) -> None:
    missed = errors(f"{method}|6-311g|energy|water-6", 2)
    assert len(missed) == 3
    assert max(missed) < 0.2


@pytest.mark.parametrize("method", METHODS)
def test_a_slow_first_dimer_does_not_spoil_what_is_larger(method: str) -> None:
    rows = measured(f"{method}|6-31g|energy|water-6")
    small = [row for row in rows if row.n_fragments <= 2]
    pair = small[-1]
    small[-1] = replace(pair, seconds=(3 * pair.typical_s, *pair.seconds[1:]))
    model = learnt(small)
    for row in rows:
        if row.n_fragments > 2:
            expected = model.cost_s("new", model.predict(row.size).cost_s, family="family")
            assert abs(expected / row.typical_s - 1) < 0.3


@pytest.mark.parametrize("name", sorted(DATA["families"]))
def test_the_error_that_is_claimed_is_the_error_that_is_made(name: str) -> None:
    rows = measured(name)
    model = learnt([row for row in rows if row.n_fragments <= 2])
    ratios = []
    for row in rows:
        if row.n_fragments > 2:
            estimate = model.estimate("new", model.predict(row.size).cost_s, family="family")
            assert estimate.relative_error < 0.5
            ratios.append(abs(estimate.cost_s / row.typical_s - 1) / estimate.relative_error)
    assert not ratios or statistics.median(ratios) < 1.6


@pytest.mark.parametrize("name", sorted(DATA["families"]))
def test_memory_of_larger_clusters_is_not_under_predicted(name: str) -> None:
    rows = measured(name)
    model = learnt([row for row in rows if row.n_fragments <= 2])
    for row in rows:
        prior = model.predict(row.size).memory_bytes
        expected = model.memory_bytes("new", prior, family="family")
        assert expected > 0.9 * row.peak_bytes
        assert expected < 2.0 * row.peak_bytes


@pytest.mark.parametrize("name", sorted(DATA["families"]))
def test_what_is_certain_was_needed(name: str) -> None:
    for row in measured(name):
        assert certain_bytes(row.size) < row.peak_bytes


# Functions, electrons, GiB that it was told, peak of the slot in MB: CCSD(T) gradients of PySCF.
TRIPLES_GRADIENTS = [
    *((72, 10, 0.25, 673), (72, 10, 4.0, 1786), (58, 10, 0.25, 449), (58, 10, 0.7, 449)),
    *((58, 10, 4.0, 981), (39, 30, 0.25, 228)),
    *((48, 20, 0.25, 257), (48, 20, 0.6, 473), (48, 20, 4.0, 2392)),
]


@pytest.mark.parametrize(("n", "electrons", "given_gib", "peak_mb"), TRIPLES_GRADIENTS)
def test_a_triples_gradient_does_with_less_if_it_is_told_so(
    n: int, electrons: int, given_gib: float, peak_mb: int
) -> None:
    scaling = scaling_of("pyscf", "ccsd(t)", "gradient", BASE, {})
    given = int(given_gib * 2**30)
    size = TaskSize(n, "ccsd(t)", "gradient", 3, scaling, electrons, 0, given)
    assert 0 < certain_bytes(size) < (peak_mb - 150) * 10**6
    assert 0.9 * peak_mb < CostModel().predict(size).memory_bytes / 1e6 < 1.7 * peak_mb


def test_a_triples_gradient_cannot_do_without_its_densities() -> None:
    scaling = scaling_of("pyscf", "ccsd(t)", "gradient", BASE, {})
    size = TaskSize(348, "ccsd(t)", "gradient", 18, scaling, 60, 0, GIVEN)
    assert certain_bytes(size) == pytest.approx(18 * 318**4 + 16 * 30 * 318**3, rel=0.001)
    assert CostModel().predict(size).memory_bytes > certain_bytes(size)
    frozen = scaling_of("pyscf", "ccsd(t)", "gradient", BASE, {"frozen": "core"})
    assert certain_bytes(TaskSize(348, "ccsd(t)", "gradient", 18, frozen, 60, 0, GIVEN)) == 0


# Method, driver, functions, electrons, GB that PySCF was told, peak of a process of its own in MB.
TOLD_LITTLE = [
    *(("mp2", "energy", 144, 20, 0.25, 200), ("mp2", "energy", 144, 20, 1.0, 717)),
    *(("mp2", "energy", 96, 20, 0.5, 278), ("mp2", "energy", 48, 20, 0.25, 162)),
    *(("mp2", "gradient", 96, 20, 0.25, 329), ("mp2", "gradient", 96, 20, 0.5, 499)),
    *(("hf", "energy", 96, 20, 0.25, 144), ("b3lyp", "gradient", 96, 20, 0.25, 231)),
    *(("ccsd", "energy", 48, 20, 0.25, 218), ("ccsd", "energy", 72, 20, 0.25, 289)),
    *(("ccsd", "energy", 96, 20, 0.25, 453), ("ccsd", "gradient", 48, 20, 0.25, 255)),
]


@pytest.mark.parametrize(("method", "driver", "n", "electrons", "given_gb", "mb"), TOLD_LITTLE)
def test_what_is_told_little_is_not_under_predicted(
    method: str, driver: str, n: int, electrons: int, given_gb: float, mb: int
) -> None:
    scaling = scaling_of("pyscf", family_of(method), driver, BASE, {})
    size = TaskSize(n, method, driver, 6, scaling, electrons, n // 8 - 6, int(given_gb * 1e9))
    assert 0.98 * mb < bytes_of(size) / 1e6 < 2 * mb
    assert certain_bytes(size) < mb * 1e6


def test_an_scf_that_is_told_too_little_for_its_integrals_takes_longer() -> None:
    scaling = scaling_of("pyscf", "mp2", "energy", BASE, {})
    sizes = [
        TaskSize(144, "mp2", "energy", 6, scaling, 20, 12, int(given * 1e9)) for given in (1, 0.25)
    ]
    kept_s, anew_s = map(seconds_of, sizes)
    assert 3 < anew_s / kept_s < 6
    fitted = scaling_of("pyscf", "mp2", "energy", BASE, {"density_fit": True})
    assert seconds_of(replace(sizes[1], scaling=fitted)) == kept_s


def test_a_program_that_manages_memory_keeps_to_what_it_is_told() -> None:
    scaling = scaling_of("pyscf", "scf", "energy", BASE, {})
    sizes = [TaskSize(400, "hf", scaling=scaling, given_bytes=given) for given in (0, GIVEN)]
    assert [CostModel().predict(size).memory_bytes for size in sizes] == [
        pytest.approx(BASE + 400**4),
        GIVEN,
    ]
    unknown = scaling_of("somebodys", "scf", "energy", BASE, {})
    told = TaskSize(10_000, "hf", scaling=unknown, given_bytes=10**9)
    assert CostModel().predict(told).memory_bytes > 10**11
    assert certain_bytes(told) == 0


def test_heavier_methods_keep_their_own_powers() -> None:
    scaling = scaling_of("pyscf", "ccsd(t)", "energy", BASE, {})
    sizes = [TaskSize(n, "ccsd(t)", scaling=scaling, n_electrons=n // 2) for n in (2000, 4000)]
    small, large = (CostModel().predict(size).cost_s for size in sizes)
    assert large / small == pytest.approx(2**7, rel=0.1)

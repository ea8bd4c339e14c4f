"""Predictions, what is learnt from measured times, and dealing tasks out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from qcmb_mpi.scheduling.balancer import LoadBalancer
from qcmb_mpi.scheduling.cost import (
    CostEstimate,
    CostModel,
    Scaling,
    TaskSize,
    Term,
    driver_factor,
    family_of,
)


@pytest.mark.parametrize(
    ("method", "family"),
    [
        ("HF", "scf"),
        ("B3LYP", "dft"),
        ("b3lyp-d3bj", "dft"),
        ("pbe0", "dft"),
        ("MP2", "mp2"),
        ("df-mp2", "mp2"),
        ("B2PLYP", "mp2"),
        ("CCSD", "ccsd"),
        ("cisd", "ccsd"),
        ("ccsd(t)", "ccsd(t)"),
        ("df-ccsd(t)", "ccsd(t)"),
        ("GFN2-xTB", "semiempirical"),
        ("PM7", "semiempirical"),
        ("d3bj", "dispersion"),
        ("a method of tomorrow", "dft"),
        ("UHF", "scf"),
    ],
)
def test_family_of_method(method: str, family: str) -> None:
    assert family_of(method) == family


@pytest.mark.parametrize(
    ("method", "exponent"),
    [("hf", 3.5), ("b3lyp", 3.5), ("mp2", 5), ("ccsd", 6), ("ccsd(t)", 7), ("pm6", 2.5)],
)
def test_seconds_grow_with_the_methods_exponent(method: str, exponent: float) -> None:
    model = CostModel()
    costs = [model.predict(TaskSize(n, method)).cost_s for n in (50_000, 100_000)]
    assert costs[1] / costs[0] == pytest.approx(2**exponent, rel=0.01)


def test_drivers_methods_and_sizes_are_ordered() -> None:
    balancer = LoadBalancer()
    drivers = ("energy", "gradient", "hessian")
    for method in ("hf", "pm6", "ccsd(t)"):
        by_driver = [balancer.estimate_cost(60, method, d, n_atoms=30).cost_s for d in drivers]
        assert by_driver == sorted(by_driver)
    assert driver_factor("hessian", 30) == 10 * driver_factor("hessian", 3)
    assert driver_factor("hessian") > driver_factor("gradient") > driver_factor("energy") == 1
    by_method = [balancer.estimate_cost(200, x).cost_s for x in ("pm6", "hf", "mp2", "ccsd(t)")]
    assert by_method == sorted(by_method)
    sizes = [balancer.estimate_cost(n, "mp2") for n in (0, 10, 100, 1000)]
    assert all(a.cost_s < b.cost_s for a, b in itertools.pairwise(sizes[1:]))
    assert all(a.memory_bytes < b.memory_bytes for a, b in itertools.pairwise(sizes[1:]))


def test_a_programs_own_scaling_is_used() -> None:
    scaling = Scaling(0.5, (Term(2.0, n=1),), (Term(10.0, n=1),), base_bytes=5.0)
    estimate = CostModel().predict(TaskSize(300, "hf", scaling=scaling))
    assert (estimate.cost_s, estimate.memory_bytes) == (6.5, 35)


def test_measured_times_replace_a_prediction_that_is_wrong_by_a_hundred() -> None:
    model = CostModel()
    assert model.cost_s("k", 1.0) == 1.0
    assert model.estimate("k", 1.0).relative_error >= 1
    for _ in range(20):
        model.observe("k", [100.0], prior_s=1.0)
    assert model.cost_s("k", 1.0) == pytest.approx(100)
    assert model.n_seen("k") == 20
    assert model.n_seen("other") == 0
    assert model.estimate("k", 1.0, memory_bytes=7).memory_bytes == 7
    assert model.estimate("k", 1.0).relative_error < 0.05


def test_mean_of_scattered_times_is_found_whatever_the_batches() -> None:
    times = np.random.default_rng(3).lognormal(-0.125, 0.5, 2000)
    by_one, by_batch = CostModel(), CostModel()
    for time in times:
        by_one.observe("k", time, prior_s=3.0)
    for batch in np.split(times, [10, 500]):
        by_batch.observe("k", batch, prior_s=3.0)
    assert by_one.cost_s("k", 3.0) == pytest.approx(by_batch.cost_s("k", 3.0), rel=1e-9)
    assert by_one.cost_s("k", 3.0) == pytest.approx(1.0, rel=0.05)
    assert by_one.estimate("k", 3.0).relative_error == pytest.approx(math.expm1(0.5), rel=0.1)


def test_one_slow_first_task_does_not_spoil_a_class() -> None:
    model = CostModel()
    model.observe("k", [1.3, *[0.01] * 200], prior_s=0.01)
    assert model.cost_s("k", 0.01) == pytest.approx(0.01, rel=0.2)


def test_a_class_that_never_ran_learns_from_its_family_only() -> None:
    model = CostModel()
    model.observe("small", [10.0] * 5, prior_s=1.0, family="hf")
    assert model.n_kin("hf")
    assert not model.n_kin("mp2")
    assert model.cost_s("large", 7.0, family="hf") == pytest.approx(70, rel=0.02)
    assert model.cost_s("large", 7.0, family="mp2") == 7.0
    unknown = model.estimate("large", 7.0, family="mp2").relative_error
    assert model.estimate("large", 7.0, family="hf").relative_error < unknown


def test_median_relative_error_is_of_predictions_made_before() -> None:
    model = CostModel()
    assert math.isnan(model.median_relative_error)
    model.observe("k", [], prior_s=1.0)
    assert math.isnan(model.median_relative_error)
    model.observe("k", [2.0], prior_s=1.0)
    assert model.median_relative_error == pytest.approx(0.5, rel=0.05)
    for _ in range(40):
        model.observe("k", [2.0], prior_s=1.0)
    assert model.median_relative_error < 0.01
    model.observe("k", np.full(1000, 0.02), prior_s=1.0)
    assert model.median_relative_error == pytest.approx(99, rel=0.05)


def test_zero_seconds_are_survived() -> None:
    model = CostModel()
    model.observe("k", [0.0, 0.0], prior_s=0.0)
    assert 0 < model.cost_s("k", 0.0) < 1e-5


def test_work_is_dealt_longest_first() -> None:
    dealt = LoadBalancer().distribute_work([1, 5, 2, 4, 3], 2)
    assert dealt.assignments == ((1, 2, 0), (3, 4))
    assert dealt.loads_s == (8.0, 7.0)
    assert dealt.makespan_s == 8
    assert dealt.efficiency == 15 / 16


def test_estimates_can_be_dealt_and_nothing_is_a_deal_too() -> None:
    estimates = [CostEstimate(cost_s, 0, 0.1) for cost_s in (1.0, 2.0)]
    assert LoadBalancer(CostModel()).distribute_work(estimates, 1).loads_s == (3.0,)
    nothing = LoadBalancer().distribute_work([], 3)
    assert nothing.assignments == ((), (), ())
    assert nothing.efficiency == 1
    with pytest.raises(ValueError, match="n_workers"):
        LoadBalancer().distribute_work([1.0], 0)


@pytest.mark.parametrize("seed", range(30))
def test_dealt_work_keeps_grahams_bound_for_lpt(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_workers = int(rng.integers(2, 4))
    costs = rng.integers(1, 30, int(rng.integers(1, 8))).tolist()
    loads = (
        max(sum(c for c, w in zip(costs, owners, strict=True) if w == k) for k in range(n_workers))
        for owners in itertools.product(range(n_workers), repeat=len(costs))
    )
    bound = (4 / 3 - 1 / (3 * n_workers)) * min(loads)
    assert LoadBalancer().distribute_work(costs, n_workers).makespan_s <= bound + 1e-9

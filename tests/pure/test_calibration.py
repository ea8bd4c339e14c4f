"""What is learnt of a family, kept for another run, and taken up there."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import numpy as np
import pytest

from qcmb_mpi.scheduling import calibration
from qcmb_mpi.scheduling.balancer import DynamicLoadBalancer, LoadBalancer
from qcmb_mpi.scheduling.calibration import PeakEnvelope
from qcmb_mpi.scheduling.cost import CostEstimate, CostModel, with_threads
from qcmb_mpi.scheduling.messages import TaskClass

OFFSET_S, SPEED, POWER = 0.05, 7.0, 1.04


def true_s(prior_s: float) -> float:
    return OFFSET_S + SPEED * prior_s**POWER


def taught(**settings: Any) -> CostModel:
    model = CostModel(**settings)
    for number, prior_s in enumerate(np.geomspace(0.001, 1.0, 8)):
        model.observe(
            number,
            [true_s(prior_s)] * 5,
            prior_s=prior_s,
            family="pyscf/hf",
            peak_bytes=[int(3e8 + 2e8 * prior_s)],
            prior_bytes=int(2e8 + 2e8 * prior_s),
        )
    return model


def test_offset_speed_and_power_are_found() -> None:
    model = taught()
    for prior_s in (0.0005, 0.02, 10.0, 100.0):
        expected = model.cost_s("new", prior_s, family="pyscf/hf")
        assert expected == pytest.approx(true_s(prior_s), rel=0.1)
        assert model.estimate("new", prior_s, family="pyscf/hf").relative_error < 0.3


@pytest.mark.parametrize("n", [1, 10, 1000])
def test_one_class_that_was_measured_is_met_whatever_it_was_predicted(n: int) -> None:
    """Steps went to and fro here that were not checked to lead down."""
    for prior_s in np.geomspace(1e-4, 1e4, 17):
        for factor in np.geomspace(1e-3, 1e3, 25):
            measured_s = factor * prior_s
            if not 1e-4 <= measured_s <= 1e6:
                continue
            model = CostModel()
            model.observe("one", [measured_s] * n, prior_s=prior_s, family="xtb")
            expected_s = model.cost_s("like it", prior_s, family="xtb")
            assert expected_s == pytest.approx(measured_s, rel=0.2)


def test_doubt_grows_with_the_distance_from_what_was_measured() -> None:
    model = taught()
    doubts = [
        model.estimate("new", prior_s, family="pyscf/hf").relative_error
        for prior_s in (0.5, 50.0, 5000.0)
    ]
    assert doubts == sorted(doubts)
    assert doubts[0] < doubts[-1]
    assert doubts[-1] < model.estimate("new", 1.0, family="unknown").relative_error


def test_one_outlier_among_classes_counts_little() -> None:
    model = taught()
    model.observe("slow", [50 * true_s(0.03)], prior_s=0.03, family="pyscf/hf")
    for prior_s in (0.1, 10.0):
        expected = model.cost_s("new", prior_s, family="pyscf/hf")
        assert expected == pytest.approx(true_s(prior_s), rel=0.25)


def test_a_slow_first_task_in_a_slot_is_not_taken_for_a_slow_class() -> None:
    model = CostModel()
    model.observe("small", [1.0, 0.013, 0.0131], prior_s=0.013, family="f")
    assert model.cost_s("large", 1.3, family="f") == pytest.approx(1.3, rel=0.4)


def test_what_was_learnt_serves_another_run_on_the_same_machine() -> None:
    kept = json.loads(json.dumps(taught(machine="EPYC x 1").as_dict()))
    model = CostModel(calibration=kept, machine="EPYC x 1")
    assert model.n_observed == 0
    assert model.n_kin("pyscf/hf")
    assert model.n_known("pyscf/hf") == 40
    estimate = model.estimate("new", 20.0, memory_bytes=10**9, family="pyscf/hf")
    assert estimate.cost_s == pytest.approx(true_s(20.0), rel=0.1)
    assert estimate.relative_error < 1
    assert estimate.memory_bytes > 10**9
    again = CostModel(calibration=json.loads(json.dumps(model.as_dict())), machine="EPYC x 1")
    assert again.n_known("pyscf/hf") == 40


def test_another_machine_is_doubted_and_soon_believed_over_the_past() -> None:
    kept = taught(machine="EPYC x 1").as_dict()
    model = CostModel(calibration=kept, machine="Xeon x 4")
    assert not model.n_kin("pyscf/hf")
    assert model.n_known("pyscf/hf") == 0
    assert model.estimate("new", 1.0, family="pyscf/hf").relative_error >= 1
    assert model.as_dict() == kept
    for number, prior_s in enumerate((0.1, 1.0)):
        model.observe(number, [3 * true_s(prior_s)], prior_s=prior_s, family="pyscf/hf")
    expected = model.cost_s("new", 30.0, family="pyscf/hf")
    assert expected == pytest.approx(3 * true_s(30.0), rel=0.2)
    assert model.as_dict()["families"]["pyscf/hf"]["machine"] == "Xeon x 4"


def test_families_that_did_not_run_are_kept_as_they_are() -> None:
    kept = taught(machine="A").as_dict()
    model = CostModel(calibration=kept, machine="B")
    model.observe("k", [1.0], prior_s=1.0, family="pyscf/mp2")
    model.observe("k", [1.0], prior_s=1.0, family=("no", "name"))
    after = model.as_dict()["families"]
    assert after["pyscf/hf"] == kept["families"]["pyscf/hf"]
    assert set(after) == {"pyscf/hf", "pyscf/mp2"}


@pytest.mark.parametrize(
    "damage",
    [
        None,
        [],
        {"version": 99, "families": {"f": {}}},
        {"version": 1, "families": "none"},
        {"version": 1, "families": {"f": None}},
        {"version": 1, "families": {"f": {"machine": "", "seconds": {}, "bytes": {}}}},
        {
            "version": 1,
            "families": {
                "f": {
                    "machine": "",
                    "bytes": {},
                    "seconds": {
                        "mean": [0, math.nan, 1],
                        "covariance": np.eye(3).tolist(),
                        "n": 3,
                        "residual": 0.1,
                    },
                }
            },
        },
        {
            "version": 1,
            "families": {
                "f": {
                    "machine": "",
                    "bytes": {},
                    "seconds": {
                        "mean": [0, 0, 1],
                        "covariance": (-np.eye(3)).tolist(),
                        "n": 3,
                        "residual": 0.1,
                    },
                }
            },
        },
    ],
)
def test_what_does_not_read_as_a_calibration_is_ignored(damage: Any) -> None:
    model = CostModel(calibration=damage)
    assert model.cost_s("k", 2.0, family="f") == 2.0
    assert not model.n_kin("f")


@pytest.mark.parametrize(
    ("part", "damage"),
    [
        ("bytes", [1]),
        ("bytes", {"low": []}),
        ("bytes", {"high": [1.0, math.inf]}),
        ("bytes", {"ratio": math.nan}),
        ("bytes", {"ratio": 0.0}),
        ("bytes", {"excess": math.nan}),
        ("bytes", {"excess": "much"}),
        ("seconds", {"n": math.inf}),
        ("seconds", {"n": -1}),
        ("seconds", {"mean": [800.0, 800.0, 1.0]}),
        ("seconds", {"mean": [0.0, 0.0, 99.0]}),
        ("seconds", {"residual": math.nan}),
        ("seconds", {"residual": None}),
    ],
)
def test_a_damaged_family_is_left_out_and_the_others_are_not(part: str, damage: Any) -> None:
    good = CostModel()
    good.observe("k", [5.0], prior_s=1.0, family="f", peak_bytes=[10**9], prior_bytes=10**8)
    kept = good.as_dict()
    damaged = copy.deepcopy(kept["families"]["f"])
    damaged[part] = {**damaged[part], **damage} if isinstance(damage, dict) else damage
    kept["families"]["damaged"] = damaged
    model = CostModel(calibration=kept)
    assert model.estimate("z", 2.0, memory_bytes=10**8, family="damaged") == CostEstimate(
        2.0, 10**8, 2.0
    )
    assert model.n_known("f") == 1


def test_many_classes_at_once_are_expected_as_one_by_one() -> None:
    model = CostModel()
    classes = [
        TaskClass(0, range(1), 0.1 * 1.5**n, (n % 5) * 10**8, key=n, family="fgh"[n % 3])
        for n in range(30)
    ]
    for each in classes[::4]:
        taken = {"prior_s": each.cost_s, "prior_bytes": each.memory_bytes, "family": each.family}
        if each.family != "h":
            model.observe(each.key, [3 * each.cost_s] * 4, peak_bytes=[3 * 10**8] * 4, **taken)
    costs_s = [model.cost_s(each.key, each.cost_s, family=each.family) for each in classes]
    needs = [
        model.memory_bytes(each.key, each.memory_bytes, family=each.family) for each in classes
    ]
    assert model.costs_s(classes).tolist() == pytest.approx(costs_s, rel=1e-12)
    assert model.peaks_bytes(classes).tolist() == needs
    assert len(model.costs_s([])) == len(model.peaks_bytes([])) == 0


def test_learning_does_not_depend_on_batches_or_on_when_it_is_asked() -> None:
    one, two = CostModel(), CostModel()
    for number in range(30):
        prior_s = 0.01 * 1.2**number
        one.observe(number, [true_s(prior_s)] * 2, prior_s=prior_s, family="f")
        for _ in range(2):
            two.observe(number, [true_s(prior_s)], prior_s=prior_s, family="f")
    for model in (one, two):
        model.observe("last", [true_s(5.0)] * 40, prior_s=5.0, family="f")
    assert one.cost_s("x", 9.0, family="f") == pytest.approx(two.cost_s("x", 9.0, family="f"))


# ----------------------------------------------------------------------- threads

WIDE = with_threads("pyscf/hf", 4)


def test_families_are_named_by_their_threads() -> None:
    assert [with_threads("f", n) for n in (0, 1, 4)] == ["f", "f", "f x 4"]


def test_wide_tasks_lean_on_narrow_ones_until_they_were_measured() -> None:
    model = taught()
    assert model.source_of(WIDE) == "pyscf/hf"
    assert model.n_kin(WIDE)
    assert model.n_known(WIDE) == 0
    narrow, wide = (model.estimate("new", 3.0, family=each) for each in ("pyscf/hf", WIDE))
    assert wide.cost_s == narrow.cost_s
    assert narrow.relative_error < wide.relative_error < 1
    assert model.memory_bytes("new", 10**9, family=WIDE) > 10**9
    assert not model.n_kin("pyscf/mp2 x 4")


@pytest.mark.parametrize("gain", [0.3, 1.0, 4.0])
def test_threads_that_gain_less_say_nothing_of_narrow_tasks(gain: float) -> None:
    model = taught()
    before = model.cost_s("new", 3.0, family="pyscf/hf")
    for number, prior_s in enumerate((5.0, 8.0)):
        model.observe(("wide", number), [gain * true_s(prior_s)], prior_s=prior_s, family=WIDE)
    assert model.cost_s("new", 3.0, family="pyscf/hf") == before
    expected = model.cost_s("new", 12.0, family=WIDE)
    assert expected == pytest.approx(gain * true_s(12.0), rel=0.2)
    assert model.source_of(WIDE) == WIDE


def test_narrow_tasks_after_wide_ones_soon_go_their_own_way() -> None:
    model = CostModel()
    model.observe("giant", [3 * true_s(30.0)], prior_s=30.0, family=WIDE)
    first = model.cost_s("small", 0.5, family="pyscf/hf")
    assert first > 2 * true_s(0.5)
    for number, prior_s in enumerate((0.5, 0.25, 0.1)):
        model.observe(number, [true_s(prior_s)] * 3, prior_s=prior_s, family="pyscf/hf")
    assert model.cost_s("new", 0.8, family="pyscf/hf") == pytest.approx(true_s(0.8), rel=0.2)


def test_both_are_kept_for_another_run() -> None:
    model = taught(machine="A")
    model.observe("giant", [9.0], prior_s=9.0, family=WIDE)
    kept = json.loads(json.dumps(model.as_dict()))
    assert set(kept["families"]) == {"pyscf/hf", WIDE}
    heir = CostModel(calibration=kept, machine="A")
    assert heir.n_known("pyscf/hf") == 40
    assert heir.n_known(WIDE) == 1
    stranger = CostModel(calibration=kept, machine="B")
    assert stranger.source_of(WIDE) == WIDE
    stranger.observe("new", [2.0], prior_s=1.0, family="pyscf/hf")
    assert stranger.source_of(WIDE) == "pyscf/hf"


# ------------------------------------------------------------------------ memory


def test_an_envelope_is_nowhere_below_a_peak_and_goes_on_as_steeply() -> None:
    rng = np.random.default_rng(4)
    priors = rng.uniform(2e8, 2e9, 40)
    peaks = priors * rng.uniform(0.6, 1.5, 40) + 5e7
    envelope = PeakEnvelope()
    assert envelope.bytes_of(123) == 123
    for prior, peak in zip(priors, peaks, strict=True):
        envelope.note(prior, peak)
    assert all(envelope.bytes_of(x) >= y - 1 for x, y in zip(priors, peaks, strict=True))
    beyond = [envelope.bytes_of(x) for x in (2e9, 4e9, 8e9)]
    assert beyond == sorted(beyond)
    assert beyond[-1] >= 8e9
    again = PeakEnvelope(json.loads(json.dumps(envelope.as_dict())))
    assert [again.bytes_of(x) for x in (2e9, 4e9, 8e9)] == pytest.approx(beyond, rel=1e-4)


def test_peaks_that_grow_faster_than_predicted_are_followed() -> None:
    envelope = PeakEnvelope()
    envelope.note(2e8, 2e8)
    envelope.note(4e8, 6e8)
    assert envelope.bytes_of(10e8) == pytest.approx(6e8 + 2 * 6e8)


def test_a_class_counts_on_its_own_peaks_once_there_are_a_few() -> None:
    model = CostModel()
    for peak in (1e8, 3e8):
        model.observe("k", [1.0], prior_s=1.0, family="f", peak_bytes=peak, prior_bytes=10**9)
        assert model.memory_bytes("k", 10**9, family="f") == 10**9
    model.observe("k", [1.0], prior_s=1.0, family="f", peak_bytes=2e8, prior_bytes=10**9)
    assert model.memory_bytes("k", 10**9, family="f") == pytest.approx(1.05 * 3e8)
    assert model.memory_bytes("other", 10**9, family="f") == 10**9
    model.observe("k", [1.0], prior_s=1.0, family="f", peak_bytes=4e9, prior_bytes=10**9)
    assert model.memory_bytes("k", 10**9, family="f") == pytest.approx(4.2e9)
    assert model.memory_bytes("other", 10**9, family="f") == pytest.approx(4e9)
    assert model.memory_bytes("k", 0, family="f") == 0
    model.observe("unmeasured", [1.0], prior_s=1.0, family="f", peak_bytes=0, prior_bytes=100)
    assert model.memory_bytes("unmeasured", 10**9, family="g") == 10**9


# ---------------------------------------------------------------------- balancers


def test_a_dynamic_balancer_learns_and_a_plain_one_does_not() -> None:
    dynamic, plain = DynamicLoadBalancer(), LoadBalancer()
    before = dynamic.estimate_cost(60, "mp2", n_electrons=30)
    assert before == plain.estimate_cost(60, "mp2", n_electrons=30)
    for n, electrons in ((13, 10), (26, 20), (39, 30)):
        formula_s = plain.estimate_cost(n, "mp2", n_electrons=electrons).cost_s
        dynamic.observe(20 * formula_s, n, "mp2", n_electrons=electrons, peak_bytes=10**9)
    after = dynamic.estimate_cost(60, "MP2", n_electrons=30)
    assert after.cost_s == pytest.approx(20 * before.cost_s, rel=0.1)
    assert after.relative_error < before.relative_error
    assert after.memory_bytes > before.memory_bytes
    assert dynamic.estimate_cost(60, "hf").cost_s == plain.estimate_cost(60, "hf").cost_s
    heir = DynamicLoadBalancer(calibration=dynamic.calibration)
    assert heir.estimate_cost(60, "mp2", n_electrons=30).cost_s == pytest.approx(after.cost_s)
    with pytest.raises(ValueError, match="seconds"):
        dynamic.observe(0.0, 13)


def test_balancers_share_what_their_model_has_learnt_and_leave_its_machine_alone() -> None:
    model = CostModel(machine="this one")
    dynamic = DynamicLoadBalancer(model)
    dynamic.observe(50.0, 26, "mp2", n_electrons=20)
    told = LoadBalancer(model).estimate_cost(26, "mp2", n_electrons=20)
    assert told == dynamic.estimate_cost(26, "mp2", n_electrons=20)
    assert told.cost_s == pytest.approx(50.0)
    assert [each["machine"] for each in dynamic.calibration["families"].values()] == ["this one"]


def test_work_is_dealt_on_top_of_what_workers_still_have() -> None:
    dealt = LoadBalancer().distribute_work([4.0, 1.0, 1.0], 2, busy_s=[5.0, 0.0])
    assert dealt.assignments == ((2,), (0, 1))
    assert dealt.loads_s == (6.0, 5.0)
    with pytest.raises(ValueError, match="busy_s"):
        LoadBalancer().distribute_work([1.0], 2, busy_s=[1.0])


@pytest.mark.parametrize("n", range(1, 12))
def test_the_median_is_numpys_to_the_bit(n: int) -> None:
    values = np.random.default_rng(n).normal(size=n)
    assert calibration._median(values) == np.median(values)

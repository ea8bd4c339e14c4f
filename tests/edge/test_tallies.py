"""The running totals that a run summary is made of."""

from __future__ import annotations

import numpy as np
import pytest

from qcmb_mpi.report.tallies import MedianSketch, Prediction, costs
from qcmb_mpi.scheduling.messages import TaskClass


def test_predictions_are_looked_up_whatever_the_classes() -> None:
    prediction = Prediction(
        [
            TaskClass(0, range(2, 4), 1.0),
            TaskClass(0, np.array([9, 5]), 2.0),
            TaskClass(0, range(8, 4, -2), 3.0),
            TaskClass(0, range(0), 4.0),
        ]
    )
    found = prediction.note(np.array([9, 0, 3, 8, 5, 6, 99]), np.full(7, 0.5))
    assert np.array_equal(found, [2.0, np.nan, 1.0, 3.0, 2.0, 3.0, np.nan], equal_nan=True)
    assert np.isnan(Prediction([]).note(np.array([0]), np.ones(1))).all()


@pytest.mark.parametrize("scale", [1e-3, 0.2, 30.0])
def test_median_sketch_is_within_two_per_cent(scale: float) -> None:
    values = scale * np.random.default_rng(2).lognormal(0.0, 1.0, 2001)
    sketch = MedianSketch()
    for part in np.array_split(values, 7):
        sketch.add(part)
    assert sketch.value() == pytest.approx(float(np.median(values)), rel=0.025)


def test_median_sketch_of_little() -> None:
    sketch = MedianSketch()
    assert sketch.value() is None
    sketch.add(np.array([0.0, 0.0, 5.0]))
    assert sketch.value() == 0.0


def test_costs_without_slots() -> None:
    assert costs(3.0, 1.0, 0, 2.0)["lower_bound_s"] == 1.0

"""What measured tasks of one family tell of those that have not run yet.

Seconds: ``t = a + c w^p`` of the seconds ``w`` that were predicted by formula. That formula has
the right powers of orbitals and electrons; ``c`` is how fast program, basis set and machine are,
``a`` what a task costs however small it is, and ``p``, near 1, what the formula misses. The three
are the most probable ones given all classes measured and what was expected before (Gaussian in
``log a, log c, p``), found by Gauss-Newton steps; outliers count little (Student's t).

Bytes: an envelope above all peaks measured, continued beyond the largest.

Rules of this file
------------------
1. Pure and deterministic; constant memory per class.
2. What is kept for another run is small plain data; whatever is wrong with it is ignored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

_TINY_S = 1e-7
# Expected before anything was measured, and by how much that may be wrong: log a, log c, p.
_MEAN = np.array([math.log(0.002), 0.0, 1.0])
_DEVIATION = np.array([1.5, 2.5, 0.07])
_FORMULA_ERROR = 0.06
_TASK_ERROR = 0.2
_FREEDOM = 4.0
_N_STEPS = 12
# What an earlier run learnt may have changed by; on another processor, by far more.
_AGEING = np.array([0.3, 0.1, 0.02])
_STRANGER = np.array([1.0, 1.0, 0.02])
_REFIT_GROWTH = 1.05
_STEEPEST = 3.0
_MARGIN = 1.05
_N_TRUSTED = 3
_N_MANY = 10


class LogStatistics:
    """Running mean and variance of logarithms: one slow first task does not spoil them.

    Parameters
    ----------
    prior_s : float
        What the measured times are divided by first.
    """

    __slots__ = ("_lowest", "_m2", "mean", "n", "peak_bytes", "prior_s")

    def __init__(self, prior_s: float) -> None:
        self.prior_s = prior_s
        self.peak_bytes = 0
        self.n = 0
        self.mean = 0.0
        self._lowest = math.inf
        self._m2 = 0.0

    def add(self, logs: Vector) -> None:
        """Merge a batch (Chan et al. 1979)."""
        m = len(logs)
        mean = float(logs.sum()) / m
        delta = mean - self.mean
        total = self.n + m
        own = float(((logs - mean) ** 2).sum()) if m > 1 else 0.0
        self._m2 += own + delta**2 * self.n * m / total
        self.mean += delta * m / total
        self.n = total
        self._lowest = min(self._lowest, float(logs.min()))

    @property
    def typical(self) -> float:
        """The mean; of a few tasks near the shortest, for the first in a slot may be slow."""
        return self.mean if self.n >= _N_MANY else min(self.mean, self._lowest + _TASK_ERROR)

    @property
    def variance(self) -> float:
        """Of one task about the mean."""
        return self._m2 / self.n

    @property
    def spread(self) -> float:
        """Typical relative deviation of one task from the class."""
        return math.expm1(math.sqrt(self.variance))


@dataclass(frozen=True, slots=True)
class _Fit:
    """The most probable ``log a, log c, p``, with covariance and what is left unexplained."""

    mean: Vector
    covariance: Vector
    residual: float


class TimeCurve:
    """Seconds of a family's tasks as a function of their predicted seconds.

    Parameters
    ----------
    known : mapping, optional
        :meth:`as_dict` of an earlier run.
    is_same_machine : bool
        Whether that was on a processor of this kind.
    """

    def __init__(
        self, known: Mapping[str, Any] | None = None, *, is_same_machine: bool = True
    ) -> None:
        self._members: list[LogStatistics] = []
        self.n = 0
        self.n_before = 0
        self._before = _Fit(_MEAN, np.diag(_DEVIATION**2), _FORMULA_ERROR)
        if known is not None:
            mean, covariance = _vector(known["mean"], (3,)), _vector(known["covariance"], (3, 3))
            np.linalg.cholesky(covariance)
            doubt = _AGEING if is_same_machine else _STRANGER
            self._before = _Fit(mean, covariance + np.diag(doubt**2), float(known["residual"]))
            self.n_before = int(known["n"]) if is_same_machine else 0
        self._fit = self._before
        self._fitted_at = 0

    def join(self, member: LogStatistics) -> None:
        """Take up a class that is measured for the first time."""
        self._members.append(member)

    def note(self, n: int) -> None:
        """Note that ``n`` more tasks were measured."""
        self.n += n

    @property
    def is_calibrated(self) -> bool:
        """Whether anything was measured on such a machine."""
        return self.n + self.n_before > 0

    @property
    def has_opinion(self) -> bool:
        """Whether it tells more than the formula."""
        return self.n > 0 or self._before.mean is not _MEAN

    def seconds(self, prior_s: float) -> float:
        """Return the seconds to be expected of a task predicted to take ``prior_s``.

        In steps of 1 %: the order of tasks is not to turn on less.
        """
        x = _log(prior_s)
        return prior_s * math.exp(round(float(_curve(self._current().mean, x)[0][0] - x[0]), 2))

    def relative_error(self, prior_s: float) -> float:
        """Return by what share such a task's time is typically missed."""
        fit = self._current()
        slope = _curve(fit.mean, _log(prior_s))[1][0]
        variance = float(slope @ fit.covariance @ slope) + fit.residual**2
        return math.expm1(min(math.sqrt(variance), 3.0))

    def as_dict(self) -> dict[str, Any]:
        """Give what another run can start from, in plain data."""
        fit = self._current()
        return {
            "mean": [round(x, 6) for x in fit.mean.tolist()],
            "covariance": [[float(f"{x:.6g}") for x in row] for row in fit.covariance.tolist()],
            "residual": round(fit.residual, 6),
            "n": self.n + self.n_before,
        }

    def _current(self) -> _Fit:
        if self._members and self.n >= max(self._fitted_at + 1, self._fitted_at * _REFIT_GROWTH):
            self._fit = _fitted(self._members, self._before)
            self._fitted_at = self.n
        return self._fit


def _log(prior_s: float) -> Vector:
    return np.array([math.log(max(prior_s, _TINY_S))])


def _vector(values: Any, shape: tuple[int, ...]) -> Vector:
    array = np.array(values, dtype=np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{values} is not of shape {shape}")
    return array


def _curve(parameters: Vector, x: Vector) -> tuple[Vector, Vector]:
    """Return ``log(a + c w^p)`` at ``x = log w``, and its derivatives, shape (m, 3)."""
    offset, power = parameters[0], parameters[1] + parameters[2] * x
    value = np.logaddexp(offset, power)
    share = np.exp(power - value)
    return value, np.column_stack([1 - share, share, share * x])


def _fitted(members: Iterable[LogStatistics], before: _Fit) -> _Fit:
    rows = np.array([(_log(each.prior_s)[0], each.typical, each.n) for each in members])
    x, y = rows[:, 0], rows[:, 0] + rows[:, 1]
    variance = _FORMULA_ERROR**2 + _TASK_ERROR**2 / rows[:, 2]
    stiffness = np.linalg.inv(before.covariance)
    mean = _start(before.mean, x, y)
    precision = stiffness
    for _ in range(_N_STEPS):
        value, slope = _curve(mean, x)
        rest = y - value
        # An outlier is what is far off while most are not.
        spread = variance + float(np.median(rest**2))
        weight = (_FREEDOM + 1) / (_FREEDOM + rest**2 / spread) / spread
        precision = stiffness + (slope * weight[:, None]).T @ slope
        pull = slope.T @ (weight * rest) - stiffness @ (mean - before.mean)
        mean = mean + np.clip(np.linalg.solve(precision, pull), -1.0, 1.0)
    rest = y - _curve(mean, x)[0]
    # Half a dozen classes' worth of belief in the formula's own error.
    residual = math.sqrt((6 * before.residual**2 + float(rest @ rest)) / (6 + len(rest)))
    return _Fit(mean, np.linalg.inv(precision), residual)


def _start(mean: Vector, x: Vector, y: Vector) -> Vector:
    """Scale both terms so that half of the classes lie above: steps are few and short then."""
    shift = float(np.median(y - _curve(mean, x)[0]))
    started: Vector = mean + np.array([shift, shift, 0.0])
    return started


class PeakEnvelope:
    """Bytes of a family's tasks: nowhere below a peak that was measured.

    Parameters
    ----------
    known : mapping, optional
        :meth:`as_dict` of an earlier run.
    """

    def __init__(self, known: Mapping[str, Any] | None = None) -> None:
        known = known or {}
        low, high = known.get("low", (0.0, 0.0)), known.get("high", (0.0, 0.0))
        # (predicted, measured) of the smallest and the largest that were measured.
        self._low = (float(low[0]), float(low[1]))
        self._high = (float(high[0]), float(high[1]))
        self._excess = float(known.get("excess", 0.0))
        self._ratio = float(known.get("ratio", 1.0))

    def note(self, prior_bytes: float, peak_bytes: float) -> None:
        """Learn from the peak of a task that was predicted to need ``prior_bytes``."""
        point = (float(prior_bytes), float(peak_bytes))
        self._excess = max(self._excess, point[1] - point[0])
        self._ratio = max(self._ratio, point[1] / point[0])
        # Of equal predictions the larger peak counts.
        if not self._low[0] or (point[0], -point[1]) < (self._low[0], -self._low[1]):
            self._low = point
        self._high = max(self._high, point)

    def bytes_of(self, prior_bytes: float) -> int:
        """Return what a task predicted to need ``prior_bytes`` may need by all that is known."""
        known = min(prior_bytes + self._excess, prior_bytes * self._ratio)
        beyond = prior_bytes - self._high[0]
        if self._high[0] and beyond > 0:
            known = max(known, self._high[1] + self._slope() * beyond)
        return math.ceil(known)

    def as_dict(self) -> dict[str, Any]:
        """Give what another run can start from, in plain data."""
        ratio = round(self._ratio, 6)
        low, high = list(self._low), list(self._high)
        return {"low": low, "high": high, "excess": self._excess, "ratio": ratio}

    def _slope(self) -> float:
        """Return how peaks grow with what is predicted; never less than that does."""
        span = self._high[0] - self._low[0]
        if span < 0.1 * self._low[0]:
            return 1.0
        return min(max(1.0, (self._high[1] - self._low[1]) / span), _STEEPEST)


def peak_of(member: LogStatistics | None, envelope: PeakEnvelope | None, prior_bytes: int) -> int:
    """Return the bytes to count on for a class: its own peaks once there are a few of them."""
    expected = prior_bytes if envelope is None else envelope.bytes_of(prior_bytes)
    if member is None or not member.peak_bytes:
        return expected
    own = math.ceil(member.peak_bytes * _MARGIN)
    return own if member.n >= _N_TRUSTED else max(own, expected)

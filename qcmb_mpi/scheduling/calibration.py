"""What measured tasks of one family tell of those that have not run yet.

Seconds: ``t = a + c w^p`` of the seconds ``w`` that were predicted by formula. That formula has
the right powers of orbitals and electrons; ``c`` is how fast program, basis set and machine are,
``a`` what a task costs however small it is, and ``p``, near 1, what the formula misses. The three
are the most probable ones given all classes measured and what was expected before (Gaussian in
``log a, log c, p``), found by Gauss-Newton steps, halved until they lead down; outliers count
little (Student's t).

Bytes: an envelope above all peaks measured, continued beyond the largest.

Rules of this file
------------------
1. Pure and deterministic; constant memory per class.
2. What is kept for another run is small plain data; whatever is wrong with it is ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vector = NDArray[np.float64]

_TINY_S = 1e-7
# Expected before anything was measured, and by how much that may be wrong: log a, log c, p.
_MEAN = np.array([math.log(0.002), 0.0, 1.0])
_DEVIATION = np.array([1.5, 2.5, 0.07])
_FORMULA_ERROR = 0.06
_TASK_ERROR = 0.2
_FREEDOM = 4.0
_N_STEPS = 12
_N_HALVINGS = 8
_LAST_STEP = 5e-3  # of log a, log c, p
# By how much log a, log c, p may have changed since an earlier run, from one number of threads to
# another (how much they gain is known roughly), and from one processor to another.
SINCE_THEN = np.array([0.3, 0.1, 0.02])
OTHER_THREADS = np.array([1.0, 0.8, 0.02])
OTHER_MACHINE = np.array([1.0, 1.0, 0.02])
_REFIT_GROWTH = 1.05
_STEEPEST = 3.0
_MARGIN = 1.05
_LARGEST_LOG = 50.0  # of seconds; no power is larger than the second number
_LARGEST_POWER = 10.0
_LARGEST_BYTES = 1e18
_N_TRUSTED = 3
_N_MANY = 10


class LogStatistics:
    """Running mean and variance of logarithms: one slow first task does not spoil them.

    Parameters
    ----------
    prior_s : float
        What the measured times are divided by first.
    """

    __slots__ = ("_lowest", "_m2", "mean", "n", "n_peaks", "peak_bytes", "prior_s")

    def __init__(self, prior_s: float) -> None:
        self.prior_s = prior_s
        self.peak_bytes = 0
        self.n_peaks = 0
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
    def factor(self) -> float:
        """By what one of the tasks takes longer than ``prior_s``, on average."""
        return math.exp(self.mean + 0.5 * min(self.variance, 1.0))

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
        :meth:`as_dict` of another curve.
    doubt : ndarray, shape (3,)
        How far that may be off here: :data:`SINCE_THEN`, :data:`OTHER_THREADS` or
        :data:`OTHER_MACHINE`. Only with the first its measured tasks count as ours.
    """

    def __init__(
        self, known: Mapping[str, Any] | None = None, *, doubt: Vector = SINCE_THEN
    ) -> None:
        self._members: list[LogStatistics] = []
        self.n = 0
        self.n_before = 0
        self._is_told = known is not None
        self._before = _Fit(_MEAN, np.diag(_DEVIATION**2), _FORMULA_ERROR)
        if known is not None:
            mean, covariance = _vector(known["mean"], (3,)), _vector(known["covariance"], (3, 3))
            np.linalg.cholesky(covariance)
            _number(np.abs(mean[:2]).max(), 0.0, _LARGEST_LOG)
            _number(mean[2], 0.0, _LARGEST_POWER)
            residual = _number(known["residual"], 0.0, _LARGEST_LOG)
            self._before = _Fit(mean, covariance + np.diag(doubt**2), residual)
            n = int(_number(known["n"], 0.0, _LARGEST_BYTES))
            self.n_before = n if doubt is SINCE_THEN else 0
        self._fit = self._before
        self._fitted_at = 0

    def join(self, member: LogStatistics) -> None:
        """Take up a class that is measured for the first time."""
        self._members.append(member)

    def note(self, n: int) -> None:
        """Note that ``n`` more tasks were measured."""
        self.n += n

    @property
    def n_known(self) -> int:
        """Tasks that were measured on such a machine, now and before."""
        return self.n + self.n_before

    @property
    def has_opinion(self) -> bool:
        """Whether it tells more than the formula."""
        return self.n > 0 or self._is_told

    def seconds(self, prior_s: Vector) -> Vector:
        """Return the seconds to be expected of tasks predicted to take ``prior_s``, shape (m,).

        In steps of 1 %: the order of tasks is not to turn on less.
        """
        x = np.log(np.maximum(prior_s, _TINY_S))
        expected: Vector = prior_s * np.exp(np.round(_value(self._current().mean, x) - x, 2))
        return expected

    def relative_error(self, prior_s: float) -> float:
        """Return by what share such a task's time is typically missed."""
        fit = self._current()
        slope = _curve(fit.mean, np.array([_log(prior_s)]))[1][0]
        variance = float(slope @ fit.covariance @ slope) + fit.residual**2
        return math.expm1(min(math.sqrt(variance), 3.0))

    def as_dict(self) -> dict[str, Any]:
        """Give what another run can start from, in plain data."""
        fit = self._current()
        return {
            "mean": [round(x, 6) for x in fit.mean.tolist()],
            "covariance": [[float(f"{x:.6g}") for x in row] for row in fit.covariance.tolist()],
            "residual": round(fit.residual, 6),
            "n": self.n_known,
        }

    def _current(self) -> _Fit:
        if self._members and self.n >= max(self._fitted_at + 1, self._fitted_at * _REFIT_GROWTH):
            self._fit = _fitted(self._members, self._before)
            self._fitted_at = self.n
        return self._fit


def _log(prior_s: float) -> float:
    return math.log(max(prior_s, _TINY_S))


def _vector(values: Any, shape: tuple[int, ...]) -> Vector:
    array = np.array(values, dtype=np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{values} is not of shape {shape}")
    return array


def _number(value: Any, least: float, most: float) -> float:
    number = float(value)
    if not least <= number <= most:
        raise ValueError(f"{value} is not within {least} and {most}")
    return number


def _value(parameters: Vector, x: Vector) -> Vector:
    """Return ``log(a + c w^p)`` at ``x = log w``."""
    value: Vector = np.logaddexp(parameters[0], parameters[1] + parameters[2] * x)
    return value


def _curve(parameters: Vector, x: Vector) -> tuple[Vector, Vector]:
    """Return ``log(a + c w^p)`` at ``x = log w``, and its derivatives, shape (m, 3)."""
    value = _value(parameters, x)
    share = np.exp(parameters[1] + parameters[2] * x - value)
    return value, np.column_stack([1 - share, share, share * x])


def _fitted(members: Iterable[LogStatistics], before: _Fit) -> _Fit:
    rows = np.array([(_log(each.prior_s), each.typical, each.n) for each in members])
    x, y = rows[:, 0], rows[:, 0] + rows[:, 1]
    variance = _FORMULA_ERROR**2 + _TASK_ERROR**2 / rows[:, 2]
    stiffness = np.linalg.inv(before.covariance)
    mean = _start(before.mean, x, y)
    precision, common = stiffness, math.inf
    for _ in range(_N_STEPS):
        value, slope = _curve(mean, x)
        rest = y - value
        # An outlier is what is far off while most are not; most are not to become so on the way.
        common = min(common, _median(rest**2))
        spread = variance + common
        weight = (_FREEDOM + 1) / (_FREEDOM + rest**2 / spread) / spread
        # Without BLAS, whose threads wait for cores that tasks are busy on.
        precision = stiffness + np.einsum("mi,mj->ij", slope * weight[:, None], slope)
        pull = (slope * (weight * rest)[:, None]).sum(axis=0) - stiffness @ (mean - before.mean)

        def improbability(mean: Vector, spread: Vector = spread) -> float:
            off, rest = mean - before.mean, y - _value(mean, x)
            of_rest = (_FREEDOM + 1) * np.log1p(rest**2 / (_FREEDOM * spread))
            return 0.5 * float(off @ stiffness @ off + of_rest.sum())

        step = np.linalg.solve(precision, pull)
        step = _downwards(improbability, mean, step / max(1.0, np.abs(step).max()))
        mean = mean + step
        if np.abs(step).max() < _LAST_STEP:
            break
    rest = y - _value(mean, x)
    # Half a dozen classes' worth of belief in the formula's own error.
    residual = math.sqrt((6 * before.residual**2 + float((rest**2).sum())) / (6 + len(rest)))
    return _Fit(mean, np.linalg.inv(precision), residual)


def _downwards(height: Callable[[Vector], float], start: Vector, step: Vector) -> Vector:
    """Return so much of a step that it leads down; nothing if none of it does."""
    here = height(start)
    for n_halvings in range(_N_HALVINGS):
        part: Vector = step * 0.5**n_halvings
        if height(start + part) < here:
            return part
    return np.zeros_like(step)


def _median(values: Vector) -> float:
    """Return what ``np.median`` does, which takes longer than all the rest here."""
    ordered = np.sort(values)
    n = len(ordered)
    return float(ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def _start(mean: Vector, x: Vector, y: Vector) -> Vector:
    """Scale both terms so that half of the classes lie above: steps are few and short then."""
    shift = _median(y - _value(mean, x))
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
        self.n = 0  # notes of this run
        # (predicted, measured) of the smallest and the largest that were measured.
        self._low, self._high = _point(known.get("low")), _point(known.get("high"))
        self._excess = _number(known.get("excess", 0.0), 0.0, _LARGEST_BYTES)
        self._ratio = _number(known.get("ratio", 1.0), 1.0, _LARGEST_BYTES)

    def note(self, prior_bytes: float, peak_bytes: float) -> None:
        """Learn from the peak of a task that was predicted to need ``prior_bytes``."""
        point = (float(prior_bytes), float(peak_bytes))
        self.n += 1
        self._excess = max(self._excess, point[1] - point[0])
        self._ratio = max(self._ratio, point[1] / point[0])
        # Of equal predictions the larger peak counts.
        if not self._low[0] or (point[0], -point[1]) < (self._low[0], -self._low[1]):
            self._low = point
        self._high = max(self._high, point)

    def bytes_of(self, prior_bytes: ArrayLike) -> NDArray[np.int64]:
        """Return what tasks predicted to need ``prior_bytes`` may need by all that is known."""
        prior = np.asarray(prior_bytes, dtype=np.float64)
        known = np.minimum(prior + self._excess, prior * self._ratio)
        beyond = prior - self._high[0]
        if self._high[0]:
            further = self._high[1] + self._slope() * beyond
            known = np.where(beyond > 0, np.maximum(known, further), known)
        return np.ceil(known).astype(np.int64)

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


def _point(values: Any) -> tuple[float, float]:
    first, second = (0.0, 0.0) if values is None else values
    return _number(first, 0.0, _LARGEST_BYTES), _number(second, 0.0, _LARGEST_BYTES)


def with_margin(peak_bytes: int) -> int:
    """Return what to count on where a task used so much."""
    return math.ceil(peak_bytes * _MARGIN)


def peak_of(member: LogStatistics, expected: int) -> int:
    """Return the bytes to count on for a measured class: its own peaks once there are a few."""
    if not member.peak_bytes:
        return expected
    own = with_margin(member.peak_bytes)
    return own if member.n_peaks >= _N_TRUSTED else max(own, expected)

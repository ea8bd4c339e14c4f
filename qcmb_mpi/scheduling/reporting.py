"""When an agent tells the master of results: at once in a small machine, in batches in a large one.

Rules of this file
------------------
1. Pure, and the same for real and simulated agents; the lookahead of a run follows it.
2. That a slot has nothing to do, or may have soon, is told at once, but of each of the two once
   only, whichever slot it is, until that very report is answered; and when the answer is long in
   coming, reports are as far apart: a master that is behind is not to be sent more and smaller
   messages.
3. A failure never waits. Successes of short tasks wait for each other a moment longer than others,
   so that what the master does for a message it does for many.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

# A message of an agent and the answer take about 0.1 ms of the master: a fifth of its time, if all
# agents report that much apart for each of them.
_S_PER_AGENT = 5e-4
_HOLD_S = 0.04
_SHORT_S = 0.1
_LOW_S = 0.05
_MOST_INTERVALS = 20.0


def report_interval_s(n_agents: int) -> float:
    """Return how long an agent may collect results, so that the master can hear them all.

    Parameters
    ----------
    n_agents : int
        That report to the one master.

    Returns
    -------
    float
        Seconds: half a second for a thousand.
    """
    return n_agents * _S_PER_AGENT


def is_short(seconds: float) -> bool:
    """Tell whether a task is so short that many should share what is done for one."""
    return seconds < _SHORT_S


class Need(enum.IntEnum):
    """Whether any slot of an agent needs work: now, soon, or neither."""

    NONE = 0
    SOON = 1
    NOW = 2

    @classmethod
    def of(cls, ahead_s: float) -> Need:
        """Judge by how long the slot with the least to do will be busy."""
        if not ahead_s:
            return cls.NOW
        return cls.SOON if ahead_s < _LOW_S else cls.NONE


@dataclass(slots=True)
class ReportTiming:
    """When one agent's next report is due.

    Parameters
    ----------
    interval_s : float
        How long results may be collected, if no slot needs work; longer, up to twenty times that,
        while the master takes longer than that to answer.
    hold_s : float
        How long those of short tasks alone may be, however few agents there are.
    n_reports : int
        Reports so far: the number of the last one, which its answer repeats.
    """

    interval_s: float = 0.0
    hold_s: float = _HOLD_S
    n_reports: int = 0
    _answer_s: float = 0.0
    _since_s: float = math.inf
    _is_patient: bool = True  # whether all results are of short tasks
    _is_urgent: bool = False
    _asked: Need = Need.NONE
    _asked_s: float = 0.0
    _asked_in: int = 0

    def open(self, interval_s: float) -> None:
        """Begin with new work: how long it was in coming says nothing of how late the master is."""
        self.interval_s, self._answer_s, self._asked = interval_s, 0.0, Need.NONE

    def note_results(
        self, now: float, *, are_short: bool = False, has_failed: bool = False
    ) -> None:
        """Note that there are results to tell of."""
        self._since_s = min(self._since_s, now)
        self._is_patient &= are_short
        self._is_urgent |= has_failed

    def note_work(self, now: float, n_heard: int) -> None:
        """Note that work has come, sent when that many reports had been heard."""
        if self._asked and n_heard >= self._asked_in:
            if self._asked is Need.NOW:  # others need no answer
                self._answer_s = now - self._asked_s
            self._asked = Need.NONE

    def due_s(self, need: Need, *, not_before_s: float = -math.inf) -> float:
        """Return when to report: infinite without results.

        Parameters
        ----------
        need : Need
        not_before_s : float
            Until when results of short tasks may wait for more of them.
        """
        if self._is_urgent or need > self._asked:
            return self._since_s
        late_s = min(self._answer_s, _MOST_INTERVALS * self.interval_s)
        due_s = self._since_s + max(self.interval_s, late_s)
        if self._is_patient and need is not Need.NOW:  # what is needed soon was asked for
            return max(due_s, self._since_s + self.hold_s, not_before_s)
        return due_s

    def note_report(self, now: float, need: Need) -> int:
        """Note that all results were told of; return the number of the report."""
        self.n_reports += 1
        self._since_s, self._is_patient, self._is_urgent = math.inf, True, False
        if need > self._asked:
            self._asked, self._asked_s, self._asked_in = need, now, self.n_reports
        return self.n_reports

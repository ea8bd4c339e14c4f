"""When an agent tells the master of results: at once in a small machine, in batches in a large one.

Rules of this file
------------------
1. Pure. The lookahead of a run follows it, and simulated agents; real ones hold what is short for a
   fixed time, which is enough for a few dozen of them.
2. A slot that has nothing to do is told of at once, but once only until there is an answer; and
   when that is long in coming, reports are as far apart: a master that is behind is not to be sent
   more and smaller messages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# A message of an agent and the answer take about 0.1 ms of the master: a fifth of its time, if all
# agents report that much apart for each of them.
_S_PER_AGENT = 5e-4


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


@dataclass(slots=True)
class ReportTiming:
    """When one agent's next report is due.

    Parameters
    ----------
    interval_s : float
        How long results may be collected; 0 to tell of each at once. Longer, up to
        ``longest_s``, while the master takes longer than that to answer.
    longest_s : float
    """

    interval_s: float = 0.0
    longest_s: float = 10.0
    _answer_s: float = 0.0
    _since_s: float = math.inf
    _asked_s: float = math.inf

    def note_result(self, now: float) -> None:
        """Note that there is a result to tell of."""
        if now < self._since_s:
            self._since_s = now

    def note_work(self, now: float) -> None:
        """Note that work has come."""
        if self._asked_s < math.inf:
            self._answer_s = min(now - self._asked_s, self.longest_s)
            self._asked_s = math.inf

    def due_s(self, *, is_idle: bool) -> float:
        """Return when to report: infinite without results.

        Parameters
        ----------
        is_idle : bool
            Whether a slot has nothing to do.
        """
        if is_idle and self._asked_s == math.inf:
            return self._since_s
        if not self.interval_s:
            return self._since_s
        return self._since_s + max(self.interval_s, self._answer_s)

    def note_report(self, now: float, *, is_idle: bool) -> None:
        """Note that all results were told of."""
        self._since_s = math.inf
        if is_idle:
            self._asked_s = min(self._asked_s, now)

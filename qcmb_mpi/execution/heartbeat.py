"""Who is to hear from us, and who has been silent for too long.

Rules of this file
------------------
1. Times are passed in; nothing here looks at a clock or sends anything.
2. Cheap to ask: peers are gone through eight times in an interval, however often one asks.
3. Who did not look cannot accuse: after a pause of our own everybody starts afresh.
"""

from __future__ import annotations

from collections.abc import Iterable

_CHECKS = 8


class Heartbeat:
    """Signs of life from and to a set of peers.

    Parameters
    ----------
    peers : iterable of int
    interval_s : float
        Seconds of silence after which a peer counts as lost, unless it is allowed more; a peer is
        to hear from us at least four times as often.
    now : float
        Seconds on any clock that does not go back.
    """

    def __init__(self, peers: Iterable[int], interval_s: float, now: float) -> None:
        self._interval_s = interval_s
        self._step_s = interval_s / _CHECKS
        self._heard_s = dict.fromkeys(peers, now)
        self._sent_s = dict.fromkeys(self._heard_s, now)
        self._limit_s = dict.fromkeys(self._heard_s, interval_s)
        self._checked_s = now

    def heard(self, peer: int, now: float) -> None:
        """Note that `peer` has said something."""
        if peer in self._heard_s:
            self._heard_s[peer] = now

    def sent(self, peer: int, now: float) -> None:
        """Note that something was sent to `peer`."""
        if peer in self._sent_s:
            self._sent_s[peer] = now

    def allow(self, peer: int, n_intervals: float, now: float) -> None:
        """Let `peer` be silent for `n_intervals`, counted from `now`."""
        if peer in self._limit_s:
            self._limit_s[peer] = n_intervals * self._interval_s
            self._heard_s[peer] = now

    def limit_s(self, peer: int) -> float:
        """Return how long `peer` may be silent."""
        return self._limit_s[peer]

    def drop(self, peer: int) -> None:
        """Expect nothing of `peer` any more."""
        for table in (self._heard_s, self._sent_s, self._limit_s):
            table.pop(peer, None)

    def check(self, now: float) -> tuple[list[int], list[int]]:
        """Tell what is to be done now.

        Parameters
        ----------
        now : float
            After all that has arrived was noted.

        Returns
        -------
        tuple of list of int
            The peers that should be sent something, and those that have been silent for too long.
        """
        since_s = now - self._checked_s
        if since_s < self._step_s:
            return [], []
        self._checked_s = now
        if since_s > self._interval_s / 2:
            self._heard_s = dict.fromkeys(self._heard_s, now)
        due = [peer for peer, at_s in self._sent_s.items() if now - at_s >= self._step_s]
        silent = [p for p, at_s in self._heard_s.items() if now - at_s >= self._limit_s[p]]
        return due, silent

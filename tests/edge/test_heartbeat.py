"""Signs of life: who is to hear from us, and who has been silent for too long."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qcmb_mpi.execution.heartbeat import Heartbeat

INTERVAL_S = 8.0


def follow(beats: Heartbeat, until_s: float, talkers: dict[int, float]) -> dict[int, float]:
    """Look every tenth of a second; `talkers` speak until a time. Return who fell silent when."""
    silent_s: dict[int, float] = {}
    for now in np.arange(0.0, until_s, 0.1).tolist():
        for peer, last_s in talkers.items():
            if now <= last_s:
                beats.heard(peer, now)
        for peer in beats.check(now)[1]:
            silent_s[peer] = now
            beats.drop(peer)
    return silent_s


def test_who_falls_silent_is_told_once_and_in_time() -> None:
    beats = Heartbeat([1, 2, 3], INTERVAL_S, 0.0)
    silent_s = follow(beats, 60.0, {1: math.inf, 2: 20.0})
    assert set(silent_s) == {2, 3}
    assert INTERVAL_S <= silent_s[3] <= 1.2 * INTERVAL_S
    assert 20.0 + INTERVAL_S <= silent_s[2] <= 20.0 + 1.2 * INTERVAL_S


@pytest.mark.parametrize("step_s", [0.01, 0.3, 0.9])
def test_a_peer_hears_from_us_four_times_in_an_interval_and_not_more_often_than_needed(
    step_s: float,
) -> None:
    beats = Heartbeat([1], INTERVAL_S, 0.0)
    sent_s = [0.0]
    for now in np.arange(0.0, 100.0, step_s).tolist():
        if beats.check(now)[0]:
            beats.sent(1, now)
            sent_s.append(now)
    gaps = np.diff(sent_s)
    assert gaps.max() <= INTERVAL_S / 4 + step_s
    assert gaps.min() >= INTERVAL_S / 8 - 1e-9


def test_other_messages_are_beats_too() -> None:
    beats = Heartbeat([1, 2], INTERVAL_S, 0.0)
    for now in np.arange(0.0, 50.0, 0.5).tolist():
        beats.sent(1, now)
        assert 1 not in beats.check(now)[0]


def test_peers_are_gone_through_eight_times_in_an_interval() -> None:
    beats = Heartbeat(range(1, 1000), INTERVAL_S, 0.0)
    looks = [bool(beats.check(now)[0]) for now in np.arange(0.0, INTERVAL_S, 0.001).tolist()]
    assert sum(looks) <= 8


def test_after_a_pause_of_our_own_nobody_is_accused() -> None:
    beats = Heartbeat([1, 2], INTERVAL_S, 0.0)
    assert beats.check(1000.0)[1] == []
    assert beats.check(1000.0 + INTERVAL_S / 4)[1] == []
    beats.heard(1, 1004.0)
    for now in (1003.0, 1006.0, 1008.0):
        silent = beats.check(now)[1]
    assert silent == [2]


def test_patience_can_be_lent_and_taken_back() -> None:
    beats = Heartbeat([1, 2, 3], INTERVAL_S, 0.0)
    beats.allow(1, 5.0, 0.0)
    beats.allow(2, math.inf, 0.0)
    assert beats.limit_s(1) == 5 * INTERVAL_S
    silent_s = follow(beats, 200.0, {})
    assert set(silent_s) == {1, 3}
    assert silent_s[1] == pytest.approx(5 * INTERVAL_S, abs=1.1)
    beats.allow(2, 1.0, 200.0)
    for now in np.arange(200.0, 210.0, 0.1).tolist():
        silent = beats.check(now)[1]
    assert silent == [2]


def test_who_was_dropped_is_not_expected() -> None:
    beats = Heartbeat([1], INTERVAL_S, 0.0)
    beats.drop(1)
    beats.drop(1)
    beats.heard(1, 5.0)
    beats.sent(1, 5.0)
    beats.allow(1, 2.0, 5.0)
    assert beats.check(6.0) == ([], [])
    assert beats.check(9.0) == ([], [])

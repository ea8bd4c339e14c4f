"""Retry or not: every error class at every number of attempts."""

from __future__ import annotations

import pytest

from qcmb_mpi.scheduling.policy import Decision, ErrorClass, decide, error_class_of, max_attempts

NEVER = {ErrorClass.INPUT, ErrorClass.CONVERGENCE, ErrorClass.TIMEOUT}
ONCE = {ErrorClass.RESOURCE, ErrorClass.GARBAGE, ErrorClass.UNKNOWN}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("input_error", ErrorClass.INPUT),
        ("resource_error", ErrorClass.RESOURCE),
        ("convergence_error", ErrorClass.CONVERGENCE),
        ("random_error", ErrorClass.TRANSIENT),
        ("unknown_error", ErrorClass.UNKNOWN),
        ("nobody_knows_this", ErrorClass.UNKNOWN),
        (" Timeout ", ErrorClass.TIMEOUT),
        *[(each.value, each) for each in ErrorClass],
    ],
)
def test_names_of_qcengine_and_our_own_are_classified(name: str, expected: ErrorClass) -> None:
    assert error_class_of(name) is expected


@pytest.mark.parametrize("error", ErrorClass)
@pytest.mark.parametrize("n_retries", [0, 1, 2, 5])
def test_number_of_attempts(error: ErrorClass, n_retries: int) -> None:
    n_attempts = 1
    while decide(error, n_attempts, n_retries) is not Decision.QUARANTINE:
        assert decide(error, n_attempts, n_retries) is Decision.RETRY_ELSEWHERE
        n_attempts += 1
    expected = 1 if error in NEVER else 1 + min(1, n_retries) if error in ONCE else 1 + n_retries
    assert n_attempts == expected == max_attempts(error, n_retries)

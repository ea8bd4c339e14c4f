"""Retry or not: every error class at every number of attempts."""

from __future__ import annotations

import pytest

from qcmb_mpi.scheduling.policy import (
    Decision,
    ErrorClass,
    decide,
    error_class_of,
    is_place_suspected,
    max_attempts,
)

NEVER = {ErrorClass.INPUT, ErrorClass.CONVERGENCE, ErrorClass.TIMEOUT}
MISSING = ErrorClass.MISSING_PROGRAM
ONCE = {ErrorClass.HUNG, ErrorClass.GARBAGE, ErrorClass.UNKNOWN}


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
    is_alone = error is ErrorClass.RESOURCE
    retry = Decision.RETRY_ALONE if is_alone else Decision.RETRY_ELSEWHERE
    while decide(error, n_attempts, n_attempts, n_retries) is not Decision.QUARANTINE:
        assert decide(error, n_attempts, n_attempts, n_retries) is retry
        n_attempts += 1
    expected = (
        1
        if error in {*NEVER, MISSING}
        else 1 + min(1, n_retries)
        if error in ONCE
        else 1 + n_retries
    )
    assert n_attempts == expected == max_attempts(error, n_retries)


@pytest.mark.parametrize("error", ErrorClass)
def test_only_a_missing_program_costs_nothing_while_there_is_another_place(
    error: ErrorClass,
) -> None:
    assert decide(error, 99, 99, 2) is Decision.QUARANTINE
    expected = Decision.RETRY_FREE if error is MISSING else Decision.QUARANTINE
    assert decide(error, 99, 99, 2, has_elsewhere=True) is expected


@pytest.mark.parametrize("error", ErrorClass)
def test_where_everything_fails_only_the_tasks_own_errors_count(error: ErrorClass) -> None:
    is_free = decide(error, 99, 99, 2, is_place_bad=True) is Decision.RETRY_FREE
    assert is_free is is_place_suspected(error)


@pytest.mark.parametrize("error", ErrorClass)
def test_errors_of_the_task_itself_speak_against_no_place(error: ErrorClass) -> None:
    assert is_place_suspected(error) is (error not in {*NEVER, ErrorClass.RESOURCE})


def test_what_is_repeated_once_is_so_also_after_other_errors() -> None:
    assert decide(ErrorClass.GARBAGE, 2, 1, 6) is Decision.RETRY_ELSEWHERE
    assert decide(ErrorClass.GARBAGE, 3, 2, 6) is Decision.QUARANTINE


def test_no_mixture_of_errors_gets_more_than_the_retries() -> None:
    assert decide(ErrorClass.CRASHED, 3, 1, 2) is Decision.QUARANTINE

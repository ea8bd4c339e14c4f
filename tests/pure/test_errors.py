"""Errors cross process boundaries whole, and are one line that a user can act on."""

from __future__ import annotations

import pickle

import pytest

from qcmb_mpi import errors

FAILED = ({"label": '["hi", [1], [1]]', "error_type": "crashed", "message": "m", "attempts": 3},)
EXAMPLES = (
    errors.QcmbError("something is wrong; do this"),
    errors.InputError("--workers", "must be positive", value=-1, accepted="1 or more"),
    errors.TopologyError("2 ranks were started and MPI sees 1"),
    errors.StoreError("the store is somebody else's"),
    errors.TransportError("the fork server has gone"),
    errors.IllegalEvent("agent 3 never joined", story=(1.5, "AgentJoined")),
    errors.TasksFailed("1 task failed for good", failed=FAILED),
    errors.Interrupted("stopped early with 3 tasks left; run again to go on"),
)
EXIT_CODES = {
    "QcmbError": 70,
    "InputError": 2,
    "TopologyError": 2,
    "StoreError": 2,
    "TransportError": 70,
    "IllegalEvent": 70,
    "TasksFailed": 1,
    "Interrupted": 75,
}


def test_every_exception_has_an_example_here() -> None:
    family = {each for each in vars(errors).values() if isinstance(each, type)} - {errors.Any}
    assert {type(each) for each in EXAMPLES} == family
    assert {each.__name__ for each in family} == EXIT_CODES.keys()


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_an_exception_crosses_a_process_boundary_whole(
    error: errors.QcmbError, protocol: int
) -> None:
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
    assert copy.exit_code == error.exit_code == EXIT_CODES[type(error).__name__]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_exception_is_one_line(error: errors.QcmbError) -> None:
    assert str(error).splitlines() == [str(error)]


def test_what_an_exception_carries_is_carried() -> None:
    shown = {type(each): each for each in (pickle.loads(pickle.dumps(e)) for e in EXAMPLES)}
    assert shown[errors.InputError].field == "--workers"
    assert shown[errors.IllegalEvent].story == (1.5, "AgentJoined")
    assert shown[errors.TasksFailed].failed == FAILED


def test_an_input_error_names_field_value_and_what_is_accepted() -> None:
    error = errors.InputError("--order", "is not\n known", value="x" * 500, accepted="lpt, level")
    text = str(error)
    assert text.startswith("--order: is not known (got 'xxx")
    assert text.endswith("...); accepted: lpt, level")
    assert len(text) < 120
    assert str(errors.InputError("f", "m", value=0)) == "f: m (got 0)"


@pytest.mark.parametrize("value", ["two\nlines", "line separator\u2028here", "\r\x0b\x0c\x85"])
def test_whatever_the_value_an_input_error_stays_one_line(value: str) -> None:
    text = str(errors.InputError(value, value, value=value, accepted=value))
    assert len(text.splitlines()) == 1

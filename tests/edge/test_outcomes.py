"""Batches of outcomes: nothing is changed by being put into columns, joined, chosen or sent."""

from __future__ import annotations

import dataclasses
import pickle
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcmb_mpi.execution.outcome import Failure, Outcome
from qcmb_mpi.execution.outcomes import Batch, Outcomes, Parcel, pieced, unpacked
from qcmb_mpi.scheduling.policy import ErrorClass

FAILURE = Failure(ErrorClass.CONVERGENCE, "convergence_error", "no luck", "tail")
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
ENERGIES = st.none() | st.floats()


@st.composite
def outcomes(draw: st.DrawFn) -> Outcome:
    """Draw an outcome, plain or not."""
    n_atoms = draw(st.integers(0, 3))
    is_odd = draw(st.integers(0, 5)) == 0
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    has = draw(st.sampled_from(["", "g", "h", "gh"]))
    size = n_atoms + (draw(st.integers(0, 1)) if is_odd else 0)
    return Outcome(
        space=draw(st.integers(0, 2)),
        task=draw(st.integers(0, 2**40)),
        start_s=draw(NUMBERS),
        seconds=draw(NUMBERS),
        cpu_s=draw(NUMBERS),
        peak_bytes=draw(st.integers(0, 2**50)),
        energy_hartree=draw(ENERGIES) if is_odd else draw(NUMBERS),
        gradient=rng.normal(size=(size, 3)) if "g" in has else None,
        hessian=rng.normal(size=(3 * n_atoms, 3 * n_atoms)) if "h" in has else None,
        record=b"{}" if is_odd and draw(st.booleans()) else None,
        failure=FAILURE if is_odd and draw(st.booleans()) else None,
        program=draw(st.sampled_from(["", "toy"])),
        version="1",
        host=draw(st.sampled_from(["here", "there"])),
        rank=draw(st.integers(0, 2)),
        slot=draw(st.integers(0, 2)),
        n_threads=draw(st.integers(1, 2)),
        remedy="damped" if is_odd and draw(st.booleans()) else "",
    )


def bits(outcome: Outcome) -> tuple[object, ...]:
    """Return all of an outcome, numbers as their bytes."""
    found: list[object] = []
    for each in dataclasses.fields(outcome):
        value = getattr(outcome, each.name)
        if isinstance(value, np.ndarray):
            value = (value.dtype.str, value.shape, value.tobytes())
        elif isinstance(value, float):
            value = struct.pack("<d", value)
        found.append(value)
    return tuple(found)


def sorted_bits(many: Outcomes | list[Outcome]) -> list[str]:
    """Return all of some outcomes, whatever their order."""
    return sorted(repr(bits(each)) for each in many)


@settings(deadline=None)
@given(st.lists(outcomes(), max_size=12), st.integers(1, 4))
def test_what_goes_in_comes_out(many: list[Outcome], n_parts: int) -> None:
    """Also when it was sent, and when several were joined, and in the order of each kind."""
    parts = [Outcomes.of(many[i::n_parts]) for i in range(n_parts)]
    joined = Outcomes.joined(pickle.loads(pickle.dumps(parts)))
    assert sorted_bits(joined) == sorted_bits(many)
    assert len(joined) == len(many)
    one = Outcomes.of(many)
    assert sorted_bits(one) == sorted_bits(many)
    for batch in one.batches:
        tasks = [o.task for o in many if (o.space, o.rank) == (batch.space, batch.origin.rank)]
        left = iter(tasks)
        assert all(task in left for task in batch.column("task").tolist())
    assert one.n_good == sum(each.failure is None for each in many)
    assert one.spaces == {each.space for each in many}
    kinds = [(b.space, b.origin, b.has_gradient, b.has_hessian) for b in joined.batches]
    assert len(set(kinds)) == len(kinds)


@settings(deadline=None)
@given(st.lists(outcomes(), max_size=12), st.randoms(use_true_random=False))
def test_some_of_a_batch(many: list[Outcome], random: object) -> None:
    for batch in Outcomes.of(many).batches:
        mask = np.array([random.random() < 0.5 for _ in range(len(batch))])  # type: ignore[attr-defined]
        kept = [each for each, is_kept in zip(batch, mask.tolist(), strict=True) if is_kept]
        assert [bits(each) for each in batch.chosen(mask)] == [bits(each) for each in kept]
        back = np.arange(len(batch))[::-1]
        assert [bits(o) for o in batch.chosen(back)] == [bits(o) for o in [*batch][::-1]]


@settings(deadline=None)
@given(st.lists(outcomes(), max_size=12))
def test_spaces_and_ends_are_told_apart(many: list[Outcome]) -> None:
    one = Outcomes.of(many)
    assert sorted_bits(one.where(lambda space: space == 1)) == sorted_bits(
        [each for each in many if each.space == 1]
    )
    assert sorted_bits(one.successes()) == sorted_bits([o for o in many if o.failure is None])
    times = [each for batch in one.times() for each in batch]
    good = [each for each in many if each.failure is None]
    assert sorted((o.space, o.task, o.seconds, o.slot, o.host) for o in times) == sorted(
        (o.space, o.task, o.seconds, o.slot, o.host) for o in good
    )


def test_a_slot_says_of_what_space_its_outcomes_are() -> None:
    plain, failed = Outcome(0, 1, 0.0, 1.0, energy_hartree=1.0), Outcome(0, 2, 0.0, 1.0)
    failed = dataclasses.replace(failed, failure=FAILURE)
    assert [each.space for each in Outcomes.of([plain, failed], space=7)] == [7, 7]


@pytest.mark.parametrize(
    "changes",
    [
        {"energy_hartree": None},
        {"energy_hartree": float("nan")},
        {"gradient": np.full((2, 3), np.inf)},
        {"gradient": np.zeros((0, 3))},
        {"gradient": np.zeros(6)},
        {"gradient": np.zeros((2, 3), dtype=np.float32)},
        {"hessian": np.zeros((6, 5))},
        {"gradient": np.zeros((2, 3)), "hessian": np.zeros((3, 3))},
        {"record": b"{}"},
        {"remedy": "damped"},
        {"failure": FAILURE},
    ],
)
def test_what_columns_cannot_hold_stays_an_object(changes: dict[str, object]) -> None:
    plain = Outcome(0, 1, 0.0, 1.0, energy_hartree=1.0)
    odd = dataclasses.replace(plain, **changes)  # type: ignore[arg-type]
    found = Outcomes.of([plain, odd])
    assert found.others == (odd,)
    assert [len(batch) for batch in found.batches] == [1]
    assert found[-1] is odd
    assert isinstance(found.batches[0], Batch)


def parcel(space: int, many: list[Outcome]) -> Parcel:
    """Return a parcel of outcomes."""
    made = Parcel(space)
    for each in many:
        made.add(each)
    return made


@given(st.lists(outcomes(), max_size=5))
def test_what_a_slot_sends_is_what_it_found(many: list[Outcome]) -> None:
    sent = parcel(7, many)
    assert len(sent) == len(many)
    found = unpacked(pickle.loads(pickle.dumps(sent.message(), protocol=5)))
    assert sorted_bits(found) == sorted_bits([dataclasses.replace(o, space=7) for o in many])


@given(st.lists(outcomes(), max_size=5))
def test_what_a_slot_leaves_in_pieces_is_what_it_found_in_that_order(many: list[Outcome]) -> None:
    made = Parcel(7)
    found = pieced([piece for each in many for piece in made.add(each)])
    assert list(map(bits, found)) == [bits(dataclasses.replace(o, space=7)) for o in many]


@pytest.mark.parametrize(
    "odd",
    [np.ones((2, 3), np.float32), np.arange(6.0).reshape(3, 2).T, np.ones((2, 3), ">f8"), [[1.0]]],
    ids=["single", "Fortran", "big-endian", "list"],
)
def test_arrays_that_are_not_as_a_program_gives_them_arrive_as_they_are(odd: Any) -> None:
    many = [Outcome(0, 1, 0.0, 0.0, energy_hartree=1.0, gradient=odd, record=b"")]
    [found] = unpacked(pickle.loads(pickle.dumps(parcel(0, many).message(), protocol=5)))
    assert type(found.gradient) is type(odd)
    assert bits(found) == bits(many[0])


def test_a_slot_leaves_it_to_its_agent_to_look_for_what_is_not_finite() -> None:
    gradients = np.ones((2, 3)), np.full((2, 3), np.nan)
    many = [
        Outcome(0, i, 0.0, 1.0, energy_hartree=1.0, gradient=g) for i, g in enumerate(gradients)
    ]
    found = unpacked(parcel(3, many).message())
    assert [len(batch) for batch in found.batches] == [1]
    assert [(each.space, each.task) for each in found.others] == [(3, 1)]


def test_a_batch_is_a_few_objects_on_its_way() -> None:
    many = [Outcome(0, i, 0.0, 1.0, energy_hartree=1.0, program="toy") for i in range(1000)]
    assert len(pickle.dumps(Outcomes.of(many), protocol=5)) < 60 * 1000
    assert len(Outcomes.joined([Outcomes.of(many[i::4]) for i in range(4)]).batches) == 1

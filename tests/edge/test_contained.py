"""Around an engine: scratch that has gone, memory that is not there, verdicts on dead slots."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from qcmb_mpi.errors import TopologyError
from qcmb_mpi.execution import slot_failures
from qcmb_mpi.execution.contained import Contained, Refusal, restored
from qcmb_mpi.execution.engine import SlotResources
from qcmb_mpi.execution.guard import Overuse
from qcmb_mpi.execution.outcome import Failure, Outcome
from qcmb_mpi.scheduling.policy import ErrorClass
from tests.edge.agent_cases import failure_of

GIB = 2**30


class Engine:
    """An engine that raises or fails as told."""

    def __init__(self, failure: Failure | None = None, error: Exception | None = None) -> None:
        self.failure = failure
        self.error = error

    def compute(self, task: int) -> Outcome:
        if self.error is not None:
            raise self.error
        return Outcome(0, task, 0.0, 0.0, failure=self.failure)


def test_scratch_is_made_again_if_its_parent_is_there(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    engine = Contained(Engine(), SlotResources(scratch=str(scratch)))
    for _ in range(2):
        assert engine.compute(3).failure is None
        assert scratch.is_dir()
        scratch.rmdir()


def test_a_scratch_disk_that_has_gone_is_told(tmp_path: Path) -> None:
    scratch = tmp_path / "gone" / "scratch"
    resources = SlotResources(rank=2, slot=1, host="here", n_threads=3, scratch=str(scratch))
    outcome = Contained(Engine(), resources).compute(3)
    where = (outcome.task, outcome.rank, outcome.slot, outcome.host, outcome.n_threads)
    assert where == (3, 2, 1, "here", 3)
    failure = failure_of(outcome)
    assert (failure.error_class, failure.error_type) == (
        ErrorClass.MISSING_PROGRAM,
        "scratch_missing",
    )
    assert str(scratch) in failure.message
    assert not scratch.parent.exists()


def test_scratch_that_is_no_directory_or_read_only_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    assert "cannot be made again" in restored(str(tmp_path / "file"))
    monkeypatch.setattr("os.access", lambda *_: False)
    assert "cannot be written to" in restored(str(tmp_path))


@pytest.mark.parametrize(
    ("message", "error_class"),
    [
        ("MemoryError", ErrorClass.RESOURCE),
        ("MemoryError: Unable to allocate 8 GiB", ErrorClass.RESOURCE),
        ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate", ErrorClass.RESOURCE),
        ("numpy.core._exceptions._ArrayMemoryError: Unable to allocate", ErrorClass.RESOURCE),
        ("ValueError: not a MemoryError", ErrorClass.UNKNOWN),
        ("MemoryErrors", ErrorClass.UNKNOWN),
    ],
)
def test_lack_of_memory_is_told_apart(message: str, error_class: ErrorClass) -> None:
    engine = Engine(Failure(ErrorClass.UNKNOWN, "unknown_error", message))
    failure = failure_of(Contained(engine, SlotResources()).compute(0))
    assert failure.error_class is error_class
    assert failure.message == message


def test_lack_of_memory_that_is_raised_is_a_failure_too() -> None:
    failure = failure_of(Contained(Engine(error=MemoryError()), SlotResources()).compute(0))
    assert (failure.error_class, failure.message) == (ErrorClass.RESOURCE, "MemoryError")
    assert "Traceback" in failure.output_tail


def test_a_program_that_the_kernel_killed_lacked_memory() -> None:
    """The kernel usually takes the program, not the slot."""
    n_kills = 3
    engine = Engine(Failure(ErrorClass.UNKNOWN, "unknown_error", "the program ended with -9"))
    contained = Contained(engine, SlotResources(), oom_kills=lambda: n_kills)
    assert failure_of(contained.compute(0)).error_class is ErrorClass.UNKNOWN
    n_kills += 1
    failure = failure_of(contained.compute(1))
    assert (failure.error_class, failure.error_type) == (ErrorClass.RESOURCE, "out_of_memory")
    assert failure.message.startswith("out of memory")
    assert "ended with -9" in failure.message
    assert failure_of(contained.compute(2)).error_class is ErrorClass.UNKNOWN


def test_kills_are_not_counted_for_tasks_that_go_well() -> None:
    counts = iter(range(50))
    contained = Contained(Engine(), SlotResources(), oom_kills=counts.__next__)
    for task in range(100):
        assert contained.compute(task).failure is None


def test_a_slot_that_does_not_get_ready_is_not_said_to_overrun_a_timeout() -> None:
    failure = slot_failures.unready(600.0, 1.5)
    assert "not ready after 600 s" in failure.message
    assert "--timeout" not in failure.message


def test_the_tasks_that_come_next_are_told_to_engines_that_look_ahead() -> None:
    told: list[int] = []
    engine = Engine()
    contained = Contained(engine, SlotResources())
    contained.prepare([1, 2])  # it does not
    engine.prepare = told.extend  # type: ignore[attr-defined]
    contained.prepare([3, 4])
    Refusal(SlotResources(), TopologyError("gone")).prepare([5])
    assert told == [3, 4]


def test_an_engine_that_could_not_be_built_says_so_for_each_task() -> None:
    refusal = Refusal(SlotResources(rank=4), TopologyError("the program has gone"))
    outcome = refusal.compute(7)
    assert (outcome.task, outcome.rank) == (7, 4)
    assert failure_of(outcome).error_class is ErrorClass.MISSING_PROGRAM
    assert failure_of(outcome).message == "the program has gone"


@pytest.mark.parametrize(
    ("limit_s", "cpu_s", "error_class", "words"),
    [
        (5.0, 0.02, ErrorClass.HUNG, "hung: 0.02 s of CPU in 5 s"),
        (5.0, 0.3, ErrorClass.TIMEOUT, "killed after 5 s (--timeout), 0.3 s of CPU"),
        (3600.0, 30.0, ErrorClass.HUNG, "hung: 30.00 s of CPU in 3600 s"),
        (3600.0, 40.0, ErrorClass.TIMEOUT, "40 s of CPU"),
    ],
)
def test_hung_is_not_slow(
    limit_s: float, cpu_s: float, error_class: ErrorClass, words: str
) -> None:
    failure = slot_failures.overdue(limit_s, cpu_s)
    assert failure.error_class is error_class
    assert words in failure.message


@pytest.mark.parametrize(
    ("status", "is_oom", "error_class", "words"),
    [
        (-signal.SIGKILL, True, ErrorClass.RESOURCE, "killed by the system; it used 3 GiB"),
        (-signal.SIGKILL, False, ErrorClass.CRASHED, "was killed by SIGKILL (out of memory?)"),
        (-signal.SIGSEGV, True, ErrorClass.CRASHED, "was killed by SIGSEGV"),
        (-40, False, ErrorClass.CRASHED, "was killed by signal 40"),
        (3, False, ErrorClass.CRASHED, "ended with exit code 3"),
        (None, False, ErrorClass.CRASHED, "ended for an unknown reason"),
    ],
)
def test_how_a_slot_died(
    status: int | None, is_oom: bool, error_class: ErrorClass, words: str
) -> None:
    failure = slot_failures.died(status, seen_bytes=3 * GIB, is_oom=is_oom)
    assert failure.error_class is error_class
    assert words in failure.message


@pytest.mark.parametrize(
    ("is_alone", "words"),
    [(False, "all tasks here together 9 GiB"), (True, "although alone on its node")],
)
def test_use_and_limit_are_told(is_alone: bool, words: str) -> None:
    failure = slot_failures.overused(Overuse(1, 7 * GIB, 9 * GIB, 8 * GIB), is_alone=is_alone)
    assert (failure.error_class, failure.error_type) == (ErrorClass.RESOURCE, "out_of_memory")
    assert "used 7 GiB" in failure.message
    assert "limit 8 GiB" in failure.message
    assert words in failure.message

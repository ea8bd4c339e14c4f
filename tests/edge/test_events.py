"""The event log: what is read equals what was written, and a torn end is no harm."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcmb_mpi.errors import InputError
from qcmb_mpi.report.events import EventLog, decode, encode, message_types, read_events
from qcmb_mpi.scheduling import messages as m
from qcmb_mpi.scheduling.policy import ErrorClass

IDS = np.array([3, 4, 5, 6, 9, 10, 11], np.int64)
STEPS: list[tuple[Any, tuple[Any, ...], float]] = [
    (m.AgentJoined(0, 4, 2**30, "node1"), (m.Assign(0, 0, IDS),), 0.5),
    (
        m.SpaceAdded(
            0,
            (m.TaskClass(0, range(3), 0.1, 5, ("a", (1, 2))), m.TaskClass(1, IDS, 2.0)),
            np.array([], np.int64),
            frozenset({0, 1}),
        ),
        (),
        0.75,
    ),
    (
        m.TasksDone(0, 0, IDS, np.linspace(0.1, 0.7, 7), np.full(7, 10, np.int64)),
        (m.FinishStage(0, 1), m.FinishSpace(0)),
        1.25,
    ),
    (
        m.TaskFailed(0, 0, 9, ErrorClass.CRASHED),
        (m.Quarantine(0, 9, ErrorClass.CRASHED, 3),),
        2.0,
    ),
]


def write(path: Path) -> None:
    with EventLog(path) as log:
        for event, commands, now in STEPS:
            log.write(event, commands, now)


def test_a_log_reads_back_as_it_was_written(tmp_path: Path) -> None:
    write(tmp_path / "log")
    found = [(step.event, step.commands, step.now) for step in read_events(tmp_path / "log")]
    assert found == STEPS
    classes = found[1][0].classes
    assert classes[0].ids == range(3)
    assert classes[0].key == ("a", (1, 2))
    assert classes[1].ids.dtype == np.int64


def test_one_line_per_step(tmp_path: Path) -> None:
    write(tmp_path / "log")
    lines = (tmp_path / "log").read_text().splitlines()
    assert [json.loads(line)["event"]["$type"] for line in lines] == [
        type(event).__name__ for event, _, _ in STEPS
    ]


def test_idle_ticks_are_left_out(tmp_path: Path) -> None:
    with EventLog(tmp_path / "log") as log:
        log.write(m.Ticked(), (), 1.0)
        log.write(m.Ticked(), (m.Retire(0),), 2.0)
    assert [step.now for step in read_events(tmp_path / "log")] == [2.0]


def test_a_log_cut_anywhere_is_a_prefix(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path)
    whole = path.read_bytes()
    n_lines = 0
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        n_lines = whole[:length].count(b"\n")
        assert len(list(read_events(path))) == n_lines
    assert n_lines == len(STEPS) - 1


@pytest.mark.parametrize(
    "line", ["{}", "nonsense", "[1]", '{"now":0,"event":{"$type":"Nobody"},"commands":[]}']
)
def test_a_file_that_is_no_log_is_refused_by_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "log"
    write(path)
    with path.open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(InputError, match="line 5"):
        list(read_events(path))


def test_other_types_can_be_read(tmp_path: Path) -> None:
    write(tmp_path / "log")
    known = [m.AgentJoined, m.Assign]
    steps = read_events(tmp_path / "log", known)
    assert next(steps).event == STEPS[0][0]
    with pytest.raises(InputError, match="TaskClass"):
        next(steps)


@pytest.mark.parametrize(
    "value",
    [
        None, True, 1.5, "text", [1, [2]], (1, (2.5, "a")), range(0, 9, 2), frozenset({1, 2}),
        {"a": (1,)}, {"$type": "x"}, ErrorClass.GARBAGE,
    ],
)  # fmt: skip
def test_values_survive(value: object) -> None:
    assert decode(json.loads(json.dumps(encode(value))), message_types()) == value


@pytest.mark.parametrize(
    "array",
    [
        np.arange(1000), np.array([1, 3, 5, 7, 9]), np.arange(6, dtype=np.int32)[::-1],
        np.zeros((2, 3)), np.array([], np.int64), np.array([True, False]), np.array([0.1, np.pi]),
    ],
)  # fmt: skip
def test_arrays_survive_with_type_and_shape(array: np.ndarray[Any, Any]) -> None:
    found = decode(json.loads(json.dumps(encode(array))), {})
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


def test_ranges_of_ids_are_short() -> None:
    assert len(json.dumps(encode(np.arange(100_000)))) < 60


def test_numpy_scalars_and_mappings_become_plain() -> None:
    assert encode(np.int64(3)) == 3
    assert encode(OrderedDict(a=np.float64(0.5))) == {"$map": {"a": 0.5}}


def test_what_cannot_come_back_is_refused() -> None:
    with pytest.raises(TypeError, match="object"):
        encode(object())


class FullDisk:
    def write(self, _text: str) -> int:
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        raise OSError(28, "No space left on device")


def test_a_full_disk_ends_the_log_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = EventLog(tmp_path / "log")
    assert log._stream is not None
    log._stream.close()
    log._stream = FullDisk()  # type: ignore[assignment]
    for event, commands, now in STEPS:
        log.write(event, commands, now)
    log.close()
    assert [record.message.split()[0] for record in caplog.records] == ["the", "the"]
    assert "No space left" in caplog.text

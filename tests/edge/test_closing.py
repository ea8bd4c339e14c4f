"""The last lines of runs that did not get through: what is alike, what was left, what to do."""

from __future__ import annotations

from typing import Any

import pytest

from qcmb_mpi.errors import Interrupted
from qcmb_mpi.expansion.assembly import assemble
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.report.closing import (
    format_execution_summary,
    group_failures,
    shortened_table,
)
from qcmb_mpi.report.deadline import clock, needed_walltime, no_progress
from qcmb_mpi.report.html import render_report
from qcmb_mpi.report.tallies import NO_LAYOUT
from qcmb_mpi.runs import RunEnd
from qcmb_mpi.schema.result import n_body_tables
from tests.edge.report_cases import done
from tests.edge.test_summary import make_summary
from tests.expansion_cases import cluster_energies
from tests.toys import toy_expansion

SCF = "SCF not converged after {n} cycles (dE = {e}) in /scratch/{d}/tmp{d}"


def failure(message: str, **changes: str) -> dict[str, Any]:
    row = {"label": "[1]", "error_type": "unknown_error", "message": message, "program": "pyscf"}
    return row | changes


def test_failures_that_differ_by_numbers_times_and_paths_are_of_one_kind() -> None:
    alike = [
        failure(SCF.format(n=50, e="1.2e-03", d="a1")),
        failure(SCF.format(n=51, e="-0.5", d="xy")),
        failure(SCF.format(n=7, e="nan", d="b")),
    ]
    others = [
        failure("SCF diverged after 50 cycles"),
        failure(alike[0]["message"], program="psi4"),
        failure(alike[0]["message"], error_type="input_error"),
        failure(""),
        failure("killed by signal 9"),
        failure("killed by signal 11"),
        failure("[Errno 28] disk"),
        failure("[Errno 5] disk"),
    ]
    groups = group_failures([alike[0], *others, *alike[1:]])
    assert groups == [alike, *([each] for each in others)]


def test_each_kind_of_failure_takes_one_line() -> None:
    run = make_summary()
    for task in range(9):
        message = f"task {task} at 12:00:0{task}: no convergence in {task}.{task} s"
        run.failed(f"[{task}]", "convergence_error", message, attempts=1, program="pyscf")
    for task in range(2):
        run.failed(f"[1, {task}]", "convergence_error", "gave up", attempts=1)
    lines = format_execution_summary(run.finish("failed", 101.0)).splitlines()
    start = lines.index("failed for good:")
    first = "pyscf: convergence_error: task 0 at 12:00:00: no convergence in 0.0 s"
    assert lines[start + 1 : -1] == [
        f"  9 tasks: {first} and alike ([0], [1], [2], ...)",
        "  2 tasks: convergence_error: gave up ([1, 0], [1, 1])",
    ]


@pytest.mark.parametrize(
    ("n_done", "expected"),
    [
        (1, "12 tasks were not tried (again) because of --on-failure stop"),
        (12, "1 task was not tried (again) because of --on-failure stop"),
    ],
)
def test_what_a_stop_after_a_failure_left_is_counted(n_done: int, expected: str) -> None:
    run = make_summary()
    run.observe([done(task) for task in range(n_done)], 0, now=102.0)
    run.failed("[1]", "input_error", "no", attempts=1)
    run.note(stopped="a task failed for good")
    found = run.finish("failed", 103.0)
    text = format_execution_summary(found)
    assert f"stopped early: {expected}; leave it out to have them computed" in text
    assert f"{13 - n_done} others are not done" in render_report(None, found)


def test_without_anything_left_a_stop_is_told_as_it_is() -> None:
    run = make_summary()
    run.observe([done(task) for task in range(13)], 0, now=102.0)
    run.failed("[1]", "input_error", "no", attempts=1)
    run.note(stopped="a task failed for good")
    assert "--on-failure" not in format_execution_summary(run.finish("failed", 103.0))


# ---- too little time -----------------------------------------------------------------------


def ended(stopped: str = "deadline", n_done: int = 0, wall_s: float = 3.0) -> dict[str, Any]:
    run = make_summary()
    run.observe([done(task) for task in range(n_done)], 0, now=101.0)
    run.note(stopped=stopped)
    return run.finish("incomplete", 100.0 + wall_s)


@pytest.mark.parametrize(
    ("given_s", "wall_s", "longest_s", "needed_s"),
    [
        (60.0, 3.0, 1000.0, 1560.0),  # nothing was started
        (60.0, 3.0, 20000.0, 30600.0),
        (3600.0, 3550.0, 100.0, 7200.0),  # started, and not ended
        (50.0, 45.0, 0.0, 70.0),
    ],
)
def test_a_run_without_progress_says_which_time_it_needs(
    given_s: float, wall_s: float, longest_s: float, needed_s: float
) -> None:
    found = ended(wall_s=wall_s)
    found |= needed_walltime(found, given_s, longest_s)
    assert found["needed_walltime_s"] == needed_s > given_s
    last = format_execution_summary(found).splitlines()[-1]
    assert last.startswith("no progress: no task ended before the deadline")
    assert f"give it at least {clock(needed_s)} (--walltime" in last
    assert ("predicted to take" in last) == (longest_s > 0)
    assert "run the same command" not in format_execution_summary(found)
    with pytest.raises(Interrupted, match="no progress"):
        RunEnd("incomplete", None, found).raise_if_unfinished()


def test_a_run_with_progress_or_another_end_goes_on_as_it_is() -> None:
    starting = ended("stopped while starting: deadline")
    assert needed_walltime(starting, 10.0, 0.0) == {"needed_walltime_s": 30, "longest_left_s": 0.0}
    for found in (ended(n_done=1), ended("SIGTERM"), ended("SIGUSR1", n_done=2)):
        assert needed_walltime(found, 10.0, 100.0) == {}
        assert no_progress(found) == ""
    assert needed_walltime(ended(), None, 100.0) == {}


def test_clock() -> None:
    assert [clock(seconds) for seconds in (0, 59.6, 3661)] == ["0:00:01", "0:01:00", "1:01:01"]


def test_the_layout_is_told_with_its_reason() -> None:
    run = make_summary()
    run.observe([done(0)], 0, now=102.0)
    assert run.finish("incomplete", 103.0)["layout"] == NO_LAYOUT
    assert NO_LAYOUT not in format_execution_summary(run.finish("incomplete", 103.0))
    run.note(layout="2 slots x 1 thread because 14 tasks are many")
    lines = format_execution_summary(run.finish("incomplete", 103.0)).splitlines()
    assert lines[1] == "layout: 2 slots x 1 thread because 14 tasks are many"
    lines = format_execution_summary(run.finish("incomplete", 103.0) | {"n_ranks": 3}).splitlines()
    assert lines[1] == "layout: in each rank 2 slots x 1 thread because 14 tasks are many"


@pytest.mark.parametrize(("n", "text"), [(0, ""), (1, "1 attempt was"), (3, "3 attempts were")])
def test_what_was_ended_for_memory_is_counted(n: int, text: str) -> None:
    run = make_summary()
    run.note(n_memory_kills=n)
    lines = format_execution_summary(run.finish("incomplete", 103.0)).splitlines()
    found = [line for line in lines if "ended for memory" in line]
    assert len(found) == (n > 0)
    assert all(f"memory: {text} ended for memory" in line for line in found)


def test_a_label_of_many_fragments_is_shortened() -> None:
    run = make_summary()
    label = f'["mp2", {[*range(1, 65)]}, [1, 2]]'
    run.failed(label, "crashed", "gone", attempts=3)
    text = format_execution_summary(run.finish("failed", 103.0))
    assert '["mp2", [1, 2, 3, ..., 64: 64 fragments], [1, 2]]' in text


def table_of(n_fragments: int) -> str:
    """Print the n-body table of three orders."""
    space = TaskSpace(toy_expansion(n_fragments))
    numbers = assemble(space, cluster_energies(space, lambda real: -1.0 * len(real) ** 2))
    return n_body_tables(space.expansion, numbers)


def test_on_a_screen_orders_without_a_number_are_one_row() -> None:
    table = table_of(9)
    assert table.count("N/A") > 20
    short = shortened_table(table).split("\n")
    assert f"{'4-9':>19}        N/A" in [line.rstrip() for line in short]
    assert sum("N/A" in line for line in short) == 1
    told = [line for line in table.split("\n") if "N/A" not in line]
    assert [line for line in short if "N/A" not in line] == told


def test_a_table_of_few_orders_stays_as_it_is() -> None:
    table = table_of(5)
    assert "N/A" in table
    assert shortened_table(table) == table

"""The run summary: its fields, its arithmetic, its file, and its last lines."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcmb_mpi.execution.outcomes import Outcomes
from qcmb_mpi.execution.tasks import TaskResult, TaskStatus
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.report.closing import advice_for, compute_execution_stats, format_execution_summary
from qcmb_mpi.report.files import write_summary
from qcmb_mpi.report.summary import AgentInfo, RunSummary, versions
from qcmb_mpi.scheduling.messages import TaskClass
from tests.edge.report_cases import done, lost
from tests.toys import toy_expansion

FIELDS = {
    "status", "n_tasks", "n_computed", "n_reused", "n_failed", "n_retries", "wall_s", "setup_s",
    "assembly_s", "busy_s", "n_slots", "lower_bound_s", "efficiency", "executor", "n_ranks",
    "agents", "failed", "levels", "prediction", "versions",
}  # fmt: skip


def make_summary(**options: Any) -> RunSummary:
    space = TaskSpace(toy_expansion(4))
    run = RunSummary(space, "serial", start_s=100.0, **options)
    run.agent_joined(AgentInfo(0, "node1", 4, 2, 2, 2**30))
    return run


def test_a_batch_adds_up_as_its_tasks_do() -> None:
    found = []
    many = [
        done(
            task, 0.5 + (task % 5), slot=task % 2, rank=task % 3, n_threads=1 + task % 2,
            peak_bytes=task, remedy="damped" if task == 5 else "", version=str(task % 2),
        )
        for task in range(14)
    ]  # fmt: skip
    for outcomes in (Outcomes(others=[*many, lost(3)]), Outcomes.of([*many, lost(3)])):
        run = make_summary(started_at_s=0.0)
        run.predicted([TaskClass(stage=0, ids=range(14), cost_s=1.0)])
        run.observe(outcomes, 0, now=150.0)
        found.append(run.finish("complete", 160.0))
    assert found[0] == found[1]
    assert found[0]["n_computed"] == 14
    assert found[0]["n_remedied"] == 1
    assert [row["seconds"] for row in found[0]["slowest"]] == [4.5] * 2 + [3.5] * 3 + [2.5] * 3 + [
        1.5
    ] * 2


def test_a_whole_run_adds_up() -> None:
    run = make_summary(started_at_s=0.0)  # 4 monomers, 6 dimers, 4 trimers
    run.reused(np.arange(4))
    run.first_start(101.5)
    run.first_start(105.0)
    run.observe([done(task, 0.5, peak_bytes=10 + task) for task in range(4, 10)], 0, now=103.0)
    run.observe([lost(10, 0.25), done(10, 3.0), done(11)], 0, now=106.0)
    run.observe([done(12), done(13, program="toy", version="1.1")], 0, now=107.0)
    run.assembly(0.125)
    found = run.finish("complete", 108.0)

    assert set(found) >= FIELDS
    assert (found["n_tasks"], found["n_computed"], found["n_reused"]) == (14, 10, 4)
    assert (found["n_failed"], found["n_retries"], found["failed"]) == (0, 1, [])
    assert found["wall_s"] == 8.0
    assert found["setup_s"] == 1.5
    assert found["assembly_s"] == 0.125
    assert found["busy_s"] == pytest.approx(9.0)
    assert found["wasted_s"] == pytest.approx(0.25)
    assert found["lower_bound_s"] == pytest.approx(4.5)  # 9 s on 2 slots, longest 3 s
    assert found["efficiency"] == pytest.approx(4.5 / 8.0)
    assert [level["nbody"] for level in found["levels"]] == [1, 2, 3]
    assert [level["n_tasks"] for level in found["levels"]] == [4, 6, 4]
    assert [level["finished_s"] for level in found["levels"]] == [0.0, 3.0, 7.0]
    assert found["levels"][1]["busy_s"] == pytest.approx(3.0)
    agent = found["agents"][0]
    assert agent == {
        "rank": 0, "host": "node1", "cores": 4, "slots": 2, "threads": 2,
        "memory_limit_bytes": 2**30, "n_tasks": 10, "busy_s": 9.0, "lost": False, "set_aside": None,
        "trouble": None, "peak_bytes": 19,
    }  # fmt: skip
    assert found["slowest"][0]["label"] == '["toy", [1, 2, 3], [1, 2, 3]]'
    assert len(found["slowest"]) == 10
    assert found["versions"]["toy"] == "1.0, 1.1"
    assert found["prediction"]["median_relative_error"] is None
    assert found["started"] == "1970-01-01T00:00:00.000+00:00"
    json.dumps(found, allow_nan=False)


def test_the_longest_task_bounds_from_below() -> None:
    run = make_summary()
    run.observe([done(0, 5.0), done(1, 1.0)], 0, now=106.0)
    found = run.finish("incomplete", 110.0)
    assert found["lower_bound_s"] == 5.0
    assert found["efficiency"] == 0.5
    assert found["setup_s"] == 1.0  # nobody said when the first began: 5 s before its end
    assert found["levels"][0]["finished_s"] is None


def test_wide_tasks_count_once_in_what_is_busy_and_on_all_slots_in_what_is_kept() -> None:
    run = make_summary(started_at_s=0.0)
    wide = {"n_threads": 4}
    run.observe([done(0, 3.0, **wide), lost(1, 2.0, **wide), done(4)], 0, now=107.0)
    found = run.finish("incomplete", 110.0)
    busy_s = (found["busy_s"], found["agents"][0]["busy_s"], found["levels"][0]["busy_s"])
    assert busy_s == (4.0, 4.0, 3.0)
    assert (found["slot_s"], found["wasted_s"]) == (7.0, 2.0)
    assert found["lower_bound_s"] == 3.0  # 4 s on 2 slots, longest 3 s
    assert found["efficiency"] == pytest.approx(0.3)
    assert "had the cores of several slots, 35 % of" in format_execution_summary(found)


def test_a_run_without_work_has_no_efficiency() -> None:
    space = TaskSpace(toy_expansion(4, levels={1: "toy"}, bsse=["cp"]))
    run = RunSummary({0: space}, "serial", start_s=0.0)
    run.reused(np.arange(space.n_tasks))
    found = run.finish("complete", 0.0)
    assert found["efficiency"] is None
    assert found["setup_s"] is None
    assert found["lower_bound_s"] == 0.0
    assert "efficiency" not in format_execution_summary(found)
    assert run.snapshot(1.0).fraction == 1.0


def test_failures_are_listed_and_lower_nothing_else() -> None:
    run = make_summary()
    run.observe([lost(0), lost(0), lost(0)], 0, now=104.0)
    run.failed("[1]", "random_error", "no luck", attempts=3, program="toy", output_tail="a\nb")
    run.failed("[2]", "resource_error", "never fits", attempts=0)
    found = run.finish("failed", 110.0)
    assert (found["n_failed"], found["n_computed"], found["n_retries"]) == (2, 0, 2)
    assert found["failed"][0] == {
        "label": "[1]", "error_type": "random_error", "message": "no luck", "attempts": 3,
        "program": "toy", "output_tail": "a\nb",
    }  # fmt: skip
    assert found["efficiency"] is None


def test_agents_come_and_go() -> None:
    run = make_summary(n_ranks=3)
    run.agent_joined(AgentInfo(1, "node2", 4, 4, 1))
    run.agent_lost(AgentInfo(1, "node2", 4, 0, 0), "killed")
    run.retried(2)
    run.observe([], 0, now=101.0)
    run.observe([done(0)], 5, now=101.0)
    found = run.finish("incomplete", 102.0)
    assert [agent["lost"] for agent in found["agents"]] == [False, True, False]
    assert found["agents"][2] | {"rank": 5, "host": "node1", "slots": 0} == found["agents"][2]
    assert (found["n_slots"], found["n_retries"], found["n_ranks"]) == (6, 2, 3)
    assert run.snapshot(102.0).n_slots == 2


def test_agents_that_do_not_stay_are_listed_with_what_is_wrong() -> None:
    run = make_summary(n_ranks=6)
    run.agent_joined(AgentInfo(1, "node2", 4, 4, 1))
    run.agent_joined(AgentInfo(2, "node3", 4, 4, 1))
    run.agent_lost(AgentInfo(1, "node2", 4, 0, 0), "killed by signal 9")
    run.agent_set_aside(2, "5 tasks in a row failed")
    run.agent_set_aside(9, "nobody")
    run.agent_refused(AgentInfo(3, "node4", 4, 0, 0), "pyscf is missing")
    for rank in (4, 5):
        run.agent_lost(AgentInfo(rank, "", 0, 0, 0), "never came")
    assert run.snapshot(101.0).n_slots == 2
    run.note(stopped="SIGTERM")
    found = run.finish("incomplete", 102.0)
    assert [agent["slots"] for agent in found["agents"]] == [2, 4, 4, 0, 0, 0]
    assert [agent["lost"] for agent in found["agents"]] == [False, True, False, False, True, True]
    lines = format_execution_summary(found).splitlines()
    start = lines.index("rank 1 on node2: lost: killed by signal 9")
    assert lines[start:] == [
        "rank 1 on node2: lost: killed by signal 9",
        "rank 2 on node3: set aside: 5 tasks in a row failed",
        "rank 3 on node4: unfit: pyscf is missing",
        "and 2 more ranks",
        "stopped early: SIGTERM",
        "next: run the same command again: finished tasks are not repeated",
    ]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing_program", "qcmb-mpi doctor"),
        ("resource", "--memory"),
        ("convergence_error", "--remedies"),
        ("timeout", "--timeout"),
        ("hung", "waited for"),
        ("garbage", "its result was none"),
        ("input_error", "correct INPUT"),
        ("crashed", "output above"),
    ],
)
def test_every_class_of_failure_says_what_to_do(kind: str, words: str) -> None:
    run = make_summary()
    run.failed("[1]", kind, "something went wrong", attempts=1)
    last = format_execution_summary(run.finish("failed", 101.0)).splitlines()[-1]
    assert last.startswith("next: ")
    assert words in last


def test_several_spaces_share_their_levels() -> None:
    space = TaskSpace(toy_expansion(3, levels={1: "toy"}))
    run = RunSummary({0: space, 1: space}, "mpi", start_s=0.0)
    run.observe([done(task) for task in range(3)], 0, now=5.0)
    assert run.finish("incomplete", 6.0)["levels"][0]["finished_s"] is None
    run.observe([done(task, space=1) for task in range(3)], 0, now=7.0)
    level = run.finish("complete", 8.0)["levels"][0]
    assert (level["n_tasks"], level["finished_s"]) == (6, 7.0)
    run.add_space(5, space)
    assert run.finish("incomplete", 8.0)["levels"][0]["finished_s"] is None


def test_the_supersystem_is_a_level_of_its_own() -> None:
    expansion = toy_expansion(4, levels={1: "a", 2: "a", "supersystem": "b"})
    run = RunSummary(TaskSpace(expansion), "serial", start_s=0.0)
    names = [(row["model_chemistry"], row["nbody"]) for row in run.finish("failed", 1.0)["levels"]]
    assert ("b", "supersystem") in names
    assert [nbody for label, nbody in names if label == "a"] == [1, 2]


def test_snapshot_counts_what_progress_shows() -> None:
    run = make_summary()
    run.reused(np.arange(2), now=100.0)
    run.observe([done(2), lost(3)], 0, now=102.0)
    run.failed("[4]", "x", "y", attempts=1)
    found = run.snapshot(103.0, n_busy=1, remaining_s=9.0)
    assert (found.n_tasks, found.n_done, found.n_reused, found.n_failed) == (14, 3, 2, 1)
    assert (found.n_busy, found.n_slots, found.elapsed_s, found.remaining_s) == (1, 2, 3.0, 9.0)
    assert [(level.n_done, level.n_tasks) for level in found.levels] == [(3, 4), (0, 6), (0, 4)]


def test_predictions_are_compared_per_task() -> None:
    run = make_summary()
    classes = [
        TaskClass(0, range(4), 2.0),
        TaskClass(1, np.array([9, 4, 5, 6]), 1.0),
        TaskClass(2, range(0), 7.0),
    ]
    run.predicted(classes)
    run.observe([done(0, 1.0), done(1, 1.0), done(4, 1.0), done(9, 0.5), done(7)], 0, now=104.0)
    found = run.finish("incomplete", 105.0)["prediction"]
    assert found["predicted_s"] == pytest.approx(6.0)
    assert found["measured_s"] == pytest.approx(3.5)
    assert found["median_relative_error"] == pytest.approx(1.0, rel=0.02)
    names = ("nbody", "n_basis", "n_tasks", "predicted_s", "measured_s")
    assert [tuple(row[name] for name in names) for row in found["classes"]] == [
        (1, 1, 2, 2.0, 1.0),
        (2, 2, 2, 1.0, 0.75),
    ]
    assert {row["model_chemistry"] for row in found["classes"]} == {"toy"}


def test_an_unknown_status_is_refused() -> None:
    with pytest.raises(ValueError, match="'done'"):
        make_summary().finish("done", 101.0)


def test_notes_become_fields() -> None:
    run = make_summary()
    run.note(layout="one thread each")
    assert run.finish("incomplete", 101.0)["layout"] == "one thread each"


def test_versions_leave_out_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcmb_mpi.report.versions.PACKAGES", ("numpy", "no-such-package"))
    found = versions([("toy", "")])
    assert set(found) == {"python", "numpy", "toy"}
    assert found["toy"] == "unknown"


def test_what_is_installed_is_read_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    before = versions()
    monkeypatch.setattr("qcmb_mpi.report.versions.metadata.version", lambda name: "another")
    assert versions() == before


def test_summary_file_is_json_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.run.json"
    path.write_text("old")
    odd = {"a": math.inf, "b": [np.float64(1.5), np.arange(2)], "c": Path("x"), "d": (math.nan,)}
    write_summary(odd, path)
    assert json.loads(path.read_text()) == {"a": None, "b": [1.5, [0, 1]], "c": "x", "d": [None]}
    assert [each.name for each in tmp_path.iterdir()] == ["a.run.json"]


def test_a_summary_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "a.run.json").mkdir()
    with pytest.raises(OSError, match=r"a\.run\.json"):
        write_summary({}, tmp_path / "a.run.json")
    assert [each.name for each in tmp_path.iterdir()] == ["a.run.json"]


def test_last_lines_of_a_complete_run() -> None:
    run = make_summary()
    run.predicted([TaskClass(0, range(14), 1.25)])
    run.first_start(101.0)
    run.observe([done(task) for task in range(14)], 0, now=108.0)
    run.note(files={"result": "a.result.json", "report": None})
    text = format_execution_summary(run.finish("complete", 110.0))
    assert text.splitlines() == [
        "complete: 14 tasks: 14 computed, 0 reused, 0 failed",
        "time: wall 10 s (set-up 1.0 s, assembly 0.0 s); sum over tasks 14 s on 2 slots",
        "efficiency: 70 % (at best 7.0 s on these slots)",
        "prediction: 18 s, measured 14 s; a task is off by 25 % (median)",
        "files: result a.result.json",
    ]


def test_last_lines_of_a_failed_run_say_what_next() -> None:
    run = make_summary()
    run.observe([done(0), lost(1)], 0, now=102.0)
    for task in range(7):
        tail = "one\ntwo\nthree\nfour\n"
        label = f"[{task}]"
        long = "it was   killed\nbecause " + "x" * 300
        run.failed(label, "timeout", long, attempts=1, program="pyscf", output_tail=tail)
    text = format_execution_summary(run.finish("failed", 110.0))
    lines = text.splitlines()
    assert lines[0] == "failed: 14 tasks: 1 computed, 0 reused, 7 failed, 6 not done"
    assert "failed attempts 1.0 s" in lines[1]
    assert "failed for good:" in lines
    assert lines.count("    | four") == 1
    assert "    | one" not in lines
    shown = next(line for line in lines if line.startswith("  7 tasks: "))
    assert shown.startswith("  7 tasks: pyscf: timeout: it was killed because xx")
    assert shown.endswith("... ([0], [1], [2], ...)")
    assert lines[-1].startswith("next: give it more time with --timeout")
    assert "run the same command again" in lines[-1]


def test_last_line_of_an_interrupted_run() -> None:
    text = format_execution_summary(make_summary().finish("incomplete", 101.0))
    assert text.endswith("next: run the same command again: finished tasks are not repeated")


def test_advice_is_given_once_and_only_where_known() -> None:
    rows = [
        {"error_type": "random_error", "message": "out of memory"},
        {"error_type": "resource_error", "message": ""},
        {"error_type": "odd", "message": "odd"},
    ]
    assert advice_for(rows).count("--memory") == 1
    assert advice_for(rows[2:]) == ""


def test_failures_of_many_kinds_are_shown_one_by_one_up_to_a_limit() -> None:
    run = make_summary()
    for task in range(7):
        run.failed(f"[{task}]", "crashed", f"exit code {task}", attempts=2)
    lines = format_execution_summary(run.finish("failed", 110.0)).splitlines()
    assert "failed for good, the first 5 kinds:" in lines
    assert "  [4]  crashed: exit code 4 (2 attempts)" in lines
    assert not any("exit code 5" in line for line in lines)


@pytest.mark.parametrize(
    ("kinds", "message", "is_again"),
    [
        (["odd"], "", True),
        (["unknown_error", "input_error"], "no such basis", True),
        (["convergence", "garbage"], "did not converge", True),
        (["unknown_error"], "MemoryError: out of memory", False),
        (["input_error", "timeout"], "", False),
        (["crashed"], "", False),
    ],
)
def test_only_what_may_be_gone_the_next_time_is_to_be_run_again(
    kinds: list[str], message: str, is_again: bool
) -> None:
    tasks = [
        TaskResult(str(place), TaskStatus.FAILED, None, kind, message)
        for place, kind in enumerate(kinds)
    ]
    last = format_execution_summary(compute_execution_stats(tasks)).splitlines()[-1]
    assert ("will come again: check basis, geometry, charges and keywords" in last) == is_again
    assert ("run the same command again" in last) != is_again


def test_stats_of_task_results() -> None:
    results = {
        "a": TaskResult("a", TaskStatus.COMPLETED, execution_time=2.0, attempts=2),
        "b": TaskResult("b", TaskStatus.COMPLETED, execution_time=4.0),
        "c": TaskResult("c", TaskStatus.TIMEOUT, None, "timeout", "too slow", 9.0, 1),
    }
    stats = compute_execution_stats(results)
    assert stats == {
        "status": "failed", "n_tasks": 3, "n_computed": 2, "n_reused": 0, "n_failed": 1,
        "n_retries": 1, "busy_s": 6.0, "longest_s": 4.0, "mean_s": 3.0,
        "failed": [
            {"label": "c", "error_type": "timeout", "message": "too slow", "attempts": 1}
        ],
    }  # fmt: skip
    assert "sum over tasks 6.0 s" in format_execution_summary(stats)


def test_stats_of_outcomes_know_when_and_where() -> None:
    outcomes = [
        lost(1, 1.0, start_s=0.0),
        done(1, 2.0, start_s=1.0),
        done(2, 3.0, start_s=0.0, slot=1),
        lost(3, 1.0, start_s=3.0),
    ]
    stats = compute_execution_stats(outcomes)
    assert (stats["n_tasks"], stats["n_computed"], stats["n_retries"]) == (3, 2, 1)
    assert (stats["wall_s"], stats["n_slots"], stats["lower_bound_s"]) == (4.0, 2, 3.0)
    assert stats["efficiency"] == 0.75
    assert stats["failed"][0]["label"] == "0:3"
    assert stats["failed"][0]["message"] == "SCF did not converge"


def test_stats_of_nothing() -> None:
    stats = compute_execution_stats([])
    assert (stats["n_tasks"], stats["status"], stats["mean_s"]) == (0, "complete", 0.0)
    assert format_execution_summary(stats).startswith("complete: 0 tasks")

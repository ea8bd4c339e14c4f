from __future__ import annotations

from typing import Any

import pytest

from qcmb_mpi.jobscript_fit import fit, fit_all
from qcmb_mpi.plan import beyond


def plan(wall_s: float, *, factor: float = 1.0, n_done: int = 0, **more: Any) -> dict[str, Any]:
    """Return what a plan tells of 50 tasks on one node of 4 cores, of which the last is long."""
    return {
        "n_tasks": 50,
        "n_done": n_done,
        "walltime_s": None,
        "wall_s": wall_s,
        "core_seconds": 4 * wall_s,
        "levels": [
            {"longest_s": wall_s / 2, "n_left": 1},
            {"longest_s": 9e9, "n_left": 0},
        ],
        "uncertainty": {"factor": factor},
        "ranks": {"n_nodes": 1},
        "node": {"n_cores": 4},
        "problems": [],
        "warnings": [],
    } | more


def test_a_limit_that_is_too_short_is_told_by_what_is_predicted_for_the_job() -> None:
    found = plan(100.0) | {"walltime_s": 10.0}
    found["warnings"] = [beyond(10.0, 100.0)]
    assert fit(found).notes == (beyond(10.0, 100.0),)
    (told,) = fit(found, cores=1).notes
    assert told != beyond(10.0, 100.0)
    assert told.endswith("continued by the same command")
    assert fit(found | {"walltime_s": 1e9, "warnings": []}, cores=1).notes == ()


def test_nothing_left_to_do_is_said() -> None:
    found = plan(0.0)
    found["n_done"] = found["n_tasks"]
    assert "in the store" in fit(found).about


@pytest.mark.parametrize(
    ("wall_s", "factor", "walltime_s"),
    [
        (0.0, 1.0, 600.0),
        (900.0, 1.0, 1200.0),  # 1020 s / 0.9, to ten minutes
        (900.0, 2.0, 2400.0),
        (9000.0, 1.0, 10800.0),  # to hours
        (1e6, 1.0, 86400.0),
    ],
)
def test_the_limit_is_generous_and_round(wall_s: float, factor: float, walltime_s: float) -> None:
    assert fit(plan(wall_s, factor=factor)).walltime_s == walltime_s


def test_other_nodes_are_counted_by_their_cores() -> None:
    """All work shared, and the longest of what is left after it."""
    found = fit(plan(1000.0, n_done=49), cores=8)
    assert found.about == "plan: 1 task, 16 min 40 s on 1 node of 8 cores"
    slower = fit(plan(1000.0), cores=2)
    assert slower.about == "plan: 50 tasks, 41 min 40 s on 1 node of 2 cores"
    assert slower.walltime_s == 3000.0


def test_what_the_plan_warns_of_is_noted() -> None:
    found = fit(plan(1.0, problems=["no program"], warnings=["little memory"]))
    assert found.notes == ("no program", "little memory")


def test_more_than_a_day_goes_on_in_the_next_job() -> None:
    (note,) = fit(plan(1e6)).notes
    assert "--requeue goes on until it is complete" in note
    assert fit(plan(1e6), is_requeued=True).notes == ()
    (note,) = fit(plan(1e6), how_on="submit it again").notes
    assert note.endswith(": submit it again")


def test_an_array_has_the_time_of_its_longest_input() -> None:
    fits = {
        name: fit(plan(wall_s, warnings=[name])) for name, wall_s in (("a", 9.0), ("b\nc", 900.0))
    }
    found = fit_all(fits)
    assert found.walltime_s == fits["b\nc"].walltime_s > fits["a"].walltime_s
    assert (
        found.about == "2 inputs, the longest b c: plan: 50 tasks, 15 min 00 s on 1 node of 4 cores"
    )
    assert found.notes == ("a: a", "b\nc: b\nc")

"""What people ask of a run that has ended, and what it says of itself, when not all is well."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from qcmb_mpi import schema
from tests.edge.task_cases import many_body_input
from tests.launch.calls import FLAKY, assert_refused, call, finished, write
from tests.launch.jobs import command, read, run, started, wait_until

pytestmark = pytest.mark.usefixtures("here")

SERIAL = ("--executor", "serial", *FLAKY)


# ---- repair --------------------------------------------------------------------------------


def test_a_sound_store_is_not_repaired(capfd: pytest.CaptureFixture[str], here: Path) -> None:
    assert finished(capfd, faults={"3": "input"}) == 1
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    code, out, err = call(capfd, "repair", "in.store.sqlite")
    assert (code, err) == (0, "")
    assert out == "in.store.sqlite: sound, 12 results, nothing to repair\n"
    assert {path.name: path.read_bytes() for path in here.iterdir()} == before


def test_a_store_of_which_nothing_is_left_is_no_success(
    capfd: pytest.CaptureFixture[str], here: Path
) -> None:
    assert finished(capfd) == 0
    os.truncate("in.store.sqlite", 5000)
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    assert_refused(call(capfd, "repair", "in.store.sqlite"), "no result in it is whole")
    assert {path.name: path.read_bytes() for path in here.iterdir()} == before


# ---- status and report ---------------------------------------------------------------------


def test_a_complete_run_with_a_damaged_store_is_complete(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert finished(capfd) == 0
    os.truncate("in.store.sqlite", 5000)
    for path in ("in.store.sqlite", "in.result.json", "in.run.json"):
        code, out, err = call(capfd, "status", path)
        assert (code, err) == (0, "")
        assert out.startswith("in: complete (serial)\n  13 of 13 tasks done (100 %)\n")
        assert "the result does not need it any more, but its store cannot be read: " in out
        assert "the store is damaged" in out
        assert "python -m qcmb_mpi repair" in out
    assert call(capfd, "report", "in.result.json")[0] == 0


# ---- verify --------------------------------------------------------------------------------


def test_verify_says_which_file_it_takes(capfd: pytest.CaptureFixture[str]) -> None:
    assert finished(capfd) == 0
    hint = "give in.result.json"
    assert_refused(call(capfd, "verify", "in.store.sqlite"), "in.store.sqlite is a store", hint)
    assert_refused(call(capfd, "verify", "in.run.json"), "in.run.json is a summary", hint)
    Path("in.store.sqlite").rename("moved.sqlite")
    answer = call(capfd, "verify", "moved.sqlite")
    assert_refused(answer, "moved.sqlite is a store; give the RESULT that its run wrote")


def test_verify_of_a_run_that_is_not_complete(capfd: pytest.CaptureFixture[str]) -> None:
    assert finished(capfd, faults={"3": "input"}) == 1
    hint = "its run is not complete (failed); in.result.json is written when it is"
    for name, kind in (
        ("in.result.json", "is not there"),
        ("in.store.sqlite", "is a store"),
        ("in.run.json", "is a summary"),
    ):
        assert_refused(call(capfd, "verify", name), f"{name} {kind}; {hint}")


# ---- --on-failure stop, failures alike -----------------------------------------------------


def test_what_a_stop_after_a_failure_left_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    source = write(many_body_input(4, faults={"3": "input"}))
    code, _, err = call(capfd, "run", source, "--on-failure", "stop", *SERIAL)
    summary = read(Path("in.run.json"))
    n_left = summary["n_tasks"] - summary["n_computed"] - summary["n_failed"]
    assert code == 1
    assert n_left > 1
    assert f"{n_left} tasks were not tried (again) because of --on-failure stop" in err
    code, _, err = call(capfd, "run", source, *SERIAL)
    assert code == 1
    assert "--on-failure" not in err
    assert "8 tasks: flaky: input_error: QCEngine Input Error: flaky does not like" in err


# ---- too little time -----------------------------------------------------------------------


def test_too_little_time_for_any_task_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    atoms = "".join(f"Ne 0 0 {3 * n}\n" for n in range(8))  # each in the basis of all of them
    Path("ne.xyz").write_text(f"8\n\n{atoms}")
    model = ("--program", "pyscf", "--method", "ccsd(t)", "--basis", "aug-cc-pvqz")
    words = (*model, "--max-nbody", "2", "--walltime", "30", "--executor", "serial")
    code, _, err = call(capfd, "run", "ne.xyz", *words)
    assert code == 75
    last = err.splitlines()[-1]
    assert last.startswith("no progress: no task ended before the deadline, the longest is ")
    summary = read(Path("ne.run.json"))
    assert (summary["status"], summary["n_computed"]) == ("incomplete", 0)
    assert summary["needed_walltime_s"] > summary["longest_left_s"] > 1.0
    out = call(capfd, "status", "ne.store.sqlite")[1]
    assert last in out
    assert "the same command goes on" not in out


@pytest.mark.parametrize("n_ranks", [0, 2])
def test_tasks_that_take_longer_than_all_the_time_are_told(here: Path, n_ranks: int) -> None:
    document = many_body_input(3, faults={str(n): "hang" for n in (1, 2, 3)})
    words = ("--walltime", "8", "--workers", "2", *FLAKY)
    job = run(command("run", write(document), *words, n_ranks=n_ranks), cwd=here)
    assert job.returncode == 75, job.stderr
    assert "no progress: no task ended before the deadline" in job.stderr
    assert read(here / "in.run.json")["needed_walltime_s"] >= 16.0


# ---- one RESULT, several runs --------------------------------------------------------------


def numbers(path: str) -> bytes:
    return schema.strip_volatile(Path(path).read_bytes())


def test_results_that_went_to_the_same_file_are_all_kept(
    capfd: pytest.CaptureFixture[str],
) -> None:
    found: list[bytes] = []
    for turn in range(3):
        source = write(many_body_input(3, shift_bohr=0.1 * turn), f"{turn}.json")
        words = ("run", source, "-o", "r.result.json", "--store", f"{turn}.sqlite", *SERIAL)
        err = call(capfd, *words)[2]
        assert ("r.result.json held another result; it is kept as " in err) == (turn > 0)
        found.append(numbers("r.result.json"))
    names = ("r.result.json.previous", "r.result.json.previous-2", "r.result.json")
    assert [numbers(name) for name in names] == found
    assert "previous result r.result.json.previous-2" in err
    assert "previous" not in call(capfd, *words)[2]
    assert not Path("r.result.json.previous-3").exists()


def test_a_result_that_appeared_meanwhile_is_not_overwritten(
    here: Path,
) -> None:
    """Two runs at the same time, with one RESULT and different stores."""
    mark = here / "mark"
    faults: dict[str, Any] = {"faults": {"3": "hang"}, "once": str(mark)}
    slow = write(many_body_input(3, **faults), "slow.json")
    quick = write(many_body_input(3, shift_bohr=0.1), "quick.json")
    more = ("-o", "r.result.json", "--workers", "1", *FLAKY)
    words = command("run", slow, "--store", "slow.sqlite", "--timeout", "5", *more)
    with started(words, cwd=here) as job:
        wait_until(mark.exists)
        first = run(command("run", quick, "--store", "quick.sqlite", *more), cwd=here)
        assert first.returncode == 0, first.stderr
        before = numbers("r.result.json")
        _, told = job.communicate(timeout=100)
    assert job.returncode in (0, 1), told
    assert "r.result.json.previous" in told
    assert numbers("r.result.json.previous") == before
    assert Path("r.result.json").exists() == (job.returncode == 0)


# ---- memory --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "told"),
    [
        ("65MiB", "--memory: 68.2 MB is less than a single task may need ("),
        ("900TB", "--memory: 900000 GB is more than the "),
        ("2GB", ""),
    ],
)
def test_an_odd_memory_limit_is_doubted(
    capfd: pytest.CaptureFixture[str], size: str, told: str
) -> None:
    source = write(many_body_input(3, program="pyscf"))
    document = json.loads(Path(source).read_text())
    document["specification"]["specification"]["(auto)"]["model"] = {
        "method": "hf",
        "basis": "sto-3g",
    }
    write(document)
    code, _, err = call(capfd, "run", source, "--memory", size, "--executor", "serial")
    assert code == 0, err
    assert err.count("WARNING") == bool(told)
    assert told in err

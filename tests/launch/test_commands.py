"""Every command of the command line: what it prints, writes and returns."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qcmb_mpi import cli
from qcmb_mpi.inputs.documents import read_document
from tests.edge.task_cases import many_body_input
from tests.launch.calls import FLAKY, assert_refused, call, finished, write
from tests.launch.jobs import command, read, run, started, wait_until
from tests.malformed import sound

pytestmark = pytest.mark.usefixtures("here")

HELIUM_XYZ = "4\n\nHe 0 0 0\nHe 0 0 2.6\nHe 0 2.8 0\nHe 2.9 0 0.5\n"
PYSCF = ("--program", "pyscf", "--method", "hf", "--basis", "sto-3g")


# ---- help ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [["--help"], ["-h"], *([name, "--help"] for name in cli._COMMANDS)]
)
def test_help(capfd: pytest.CaptureFixture[str], words: list[str]) -> None:
    code, out, err = call(capfd, *words)
    assert (code, err) == (0, "")
    assert out.startswith("usage: qcmb-mpi")


def test_help_of_a_command_is_grouped_and_has_examples(capfd: pytest.CaptureFixture[str]) -> None:
    for name in cli._COMMANDS:
        shown = call(capfd, name, "--help")[1]
        assert re.search(rf"^examples:\n  qcmb-mpi {name} ", shown, re.MULTILINE), name
        assert len(shown.splitlines()[0]) <= 80, name
    shown = call(capfd, "run", "--help")[1]
    groups = re.findall(r"\n\n(.+):\n", shown)
    assert groups[3:] == [
        *("where tasks run, and how wide", "tasks, and what goes wrong", "files"),
        *("what is shown", "examples"),
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "in.json", "--worker", "2"], "--worker: there is no such option, did you mean"),
        (["--metod", "hf", "in.xyz"], "--metod: there is no such option, did you mean --method?"),
        (["status", "--jsn=yes", "in.json"], "--jsn: there is no such option, did you mean --json"),
        (["--verison"], "no command '--verison', did you mean --version?"),
    ],
)
def test_an_unknown_option_is_named_before_anything_else(
    capfd: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert_refused(call(capfd, *words), told)


def test_what_the_program_does_not_know_is_named_by_its_option(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "he.xyz").write_text(HELIUM_XYZ)
    words = ("run", "he.xyz", "--executor", "serial", "--basis", "sto-3g", "--method")
    assert_refused(call(capfd, *words, "hff"), "--method: pyscf has no method 'hff'")


def test_version_and_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capfd, "--version")
    assert (code, err) == (0, "")
    assert out.startswith("qcmb_mpi ")
    assert_refused(call(capfd), "COMMAND")


def test_a_real_process_says_the_same(here: Path) -> None:
    for words in (["--version"], ["--help"], ["run", "--help"]):
        job = run(command(*words), cwd=here)
        assert (job.returncode, job.stderr) == (0, "")
    script = Path(sys.executable).with_name("qcmb-mpi")
    if script.exists():  # installed, not only a source tree
        assert run([str(script), "--version"], cwd=here).stdout.startswith("qcmb_mpi ")


# ---- run -----------------------------------------------------------------------------------


def test_an_xyz_file_is_run_from_end_to_end(here: Path) -> None:
    Path("he.xyz").write_text(HELIUM_XYZ)
    more = ("--bsse", "cp", "--max-nbody", "2", "--workers", "2")
    extra = ("--report", "page.html", "--trace", "trace.json", "--events", "events.jsonl")
    job = run(command("he.xyz", *PYSCF, *more, *extra), cwd=here)
    assert job.returncode == 0, job.stderr
    assert "Counterpoise Corrected" in job.stdout
    assert "10 tasks" in job.stderr
    written = {path.name for path in here.iterdir()}
    standard = {"he.result.json", "he.run.json", "he.store.sqlite"}
    assert written == {"he.xyz", *standard, "page.html", "trace.json", "events.jsonl"}
    assert Path("page.html").read_text().startswith("<!DOCTYPE html>")
    assert len([e for e in read_any("trace.json") if e.get("ph") == "X"]) == 10
    assert '"TasksDone"' in Path("events.jsonl").read_text()
    assert set(read(Path("he.run.json"))["files"]) == {
        *("result", "summary", "store", "report", "trace", "events")
    }


def read_any(name: str) -> list[dict[str, Any]]:
    """Return the events of a trace, with or without an envelope."""
    found = json.loads(Path(name).read_text())
    return found["traceEvents"] if isinstance(found, dict) else found


def test_a_first_word_that_is_no_command_means_run(capfd: pytest.CaptureFixture[str]) -> None:
    source = write(many_body_input(3))
    code, out, _ = call(capfd, source, "--executor", "serial", *FLAKY)
    assert code == 0
    assert "n-Body" in out
    code, again, _ = call(capfd, "run", source, "--executor", "thread", "--fresh", *FLAKY)
    assert (code, again) == (0, out)


def test_verbose_logging_goes_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    source = write(many_body_input(3))
    words = ("--executor", "serial", "--log-level", "debug", "--progress", *FLAKY)
    code, out, err = call(capfd, "run", source, *words)
    assert code == 0
    assert "n-Body" in out
    assert "complete: 13 tasks" in err


def test_cluster_properties_are_kept_as_asked(capfd: pytest.CaptureFixture[str]) -> None:
    for policy, n_kept in (("none", 0), ("all", 13), ("auto", 13)):
        assert finished(capfd, "--cluster-properties", policy) == 0
        assert len(read_document("in.result.json")["cluster_properties"]) == n_kept


def test_an_old_result_does_not_look_like_that_of_a_run_that_failed(
    capfd: pytest.CaptureFixture[str], here: Path
) -> None:
    assert finished(capfd) == 0
    before = read(here / "in.result.json")
    assert finished(capfd, faults={"3": "input"}) == 1
    assert not (here / "in.result.json").exists()
    assert read(here / "in.result.json.previous") == before
    assert finished(capfd) == 0
    assert read(here / "in.result.json")["success"]


# ---- plan ----------------------------------------------------------------------------------


def test_plan_runs_no_chemistry(capfd: pytest.CaptureFixture[str], here: Path) -> None:
    source = write(sound())
    code, out, err = call(capfd, "plan", source, "--workers", "2")
    assert (code, err) == (0, "")
    assert "3 fragments, 9 atoms, 15 tasks" in out
    assert "core time" in out
    assert [path.name for path in here.iterdir()] == [source]


def test_plan_lists_equal_fragments_together(capfd: pytest.CaptureFixture[str]) -> None:
    Path("he.xyz").write_text("5\n\n" + HELIUM_XYZ.partition("\n\n")[2] + "Ne 9 9 9\n")
    words = ("plan", "he.xyz", *PYSCF, "--max-nbody", "2", "--charge", "0,0,1,0,0")
    lines = call(capfd, *words)[1].splitlines()
    assert lines[1:4] == [
        "fragments 1-2, 4: He, charge 0, multiplicity 1",
        "fragment 3: He, charge 1, multiplicity 2",
        "fragment 5: Ne, charge 0, multiplicity 1",
    ]
    assert "note        fragment 3 (He, charge 1) has an odd number of electrons" in "\n".join(
        lines
    )
    rows = json.loads(call(capfd, *words, "--json")[1])["fragments"]
    assert rows[0] == {"fragments": [1, 2, 4], "formula": "He", "charge": 0, "multiplicity": 1}


def test_plan_counts_what_the_store_has(capfd: pytest.CaptureFixture[str]) -> None:
    assert finished(capfd, faults={"3": "input"}) == 1
    whole = json.loads(call(capfd, "plan", "in.json", "--json", "--fresh")[1])
    rest = json.loads(call(capfd, "plan", "in.json", "--json")[1])
    assert (whole["n_done"], whole["store"]) == (0, None)
    assert 0 < rest["n_done"] < rest["n_tasks"] == whole["n_tasks"] == 13
    assert sum(level["n_left"] for level in rest["levels"]) == 13 - rest["n_done"]
    assert 0 < rest["core_seconds"] < whole["core_seconds"]
    out = call(capfd, "plan", "in.json", "--store", "in.store.sqlite")[1]
    assert f"13 tasks, {rest['n_done']} of them done in in.store.sqlite" in out


def test_nothing_to_compute_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    Path("he.xyz").write_text(HELIUM_XYZ)
    words = ("he.xyz", *PYSCF, "--max-nbody", "1")
    text = "an interaction energy through 1-body is zero by definition; use --total"
    assert text in call(capfd, "plan", *words)[1]
    assert text not in call(capfd, "plan", *words, "--total")[1]
    assert text in call(capfd, "run", *words, "--executor", "serial")[2]


def test_plan_as_json_has_counts_cost_memory_and_layout(
    capfd: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = call(capfd, "plan", write(sound()), "--json", "--workers", "2")
    plan = json.loads(out)
    assert code == 0
    assert plan["n_tasks"] == sum(level["n_tasks"] for level in plan["levels"]) == 15
    assert plan["layout"]["n_slots"] == 2
    assert 0 < plan["wall_s"] <= plan["core_seconds"]
    assert plan["memory_bytes"] > 0


def test_plan_prints_the_run_that_was_planned(capfd: pytest.CaptureFixture[str]) -> None:
    words = (write(sound()), "--retries", "1", "--nodes=1", "-n", "1", "--memory", "9GB", "-n1")
    out = call(capfd, "plan", *words)[1]
    assert "python -m qcmb_mpi run in.json --retries 1 --memory 9GB\n" in out
    assert "core-seconds" in out


def test_plan_takes_a_geometry(capfd: pytest.CaptureFixture[str]) -> None:
    Path("he.xyz").write_text(HELIUM_XYZ)
    code, out, _ = call(capfd, "plan", "he.xyz", *PYSCF, "--max-nbody", "2")
    assert code == 0
    assert "4 fragments" in out
    assert_refused(call(capfd, "plan", "he.xyz", "--basis", "sto-3g"), "--method")


# ---- status --------------------------------------------------------------------------------


def status(path: str = "in.store.sqlite") -> dict[str, Any]:
    """Ask for a status as another shell does."""
    job = subprocess.run(command("status", path, "--json"), capture_output=True, check=False)
    return dict(json.loads(job.stdout)) if job.returncode == 0 else {"state": job.returncode}


def test_status_of_a_run_that_is_complete(capfd: pytest.CaptureFixture[str]) -> None:
    assert finished(capfd) == 0
    for path in ("in.store.sqlite", "in.result.json", "in.run.json"):
        code, out, err = call(capfd, "status", path)
        assert (code, err) == (0, "")
        assert out.startswith("in: complete")
        assert "13 of 13 tasks done" in out
        code, out, _ = call(capfd, "status", path, "--json")
        found = json.loads(out)
        assert (found["state"], found["n_done"], found["n_tasks"]) == ("complete", 13, 13)


def test_status_of_a_run_with_failures(capfd: pytest.CaptureFixture[str]) -> None:
    assert finished(capfd, faults={"3": "input"}) == 1
    code, out, _ = call(capfd, "status", "in.store.sqlite", "--json")
    found = json.loads(out)
    assert (code, found["state"], found["n_failed"], found["n_done"]) == (0, "failed", 1, 12)
    assert "failed for good" in call(capfd, "status", "in.store.sqlite")[1]


@pytest.mark.parametrize(
    ("signum", "state"), [(signal.SIGTERM, "incomplete"), (signal.SIGKILL, "stopped")]
)
def test_status_of_a_run_under_way_and_stopped(here: Path, signum: int, state: str) -> None:
    source = write(many_body_input(6, sleep=0.3))
    seen: list[dict[str, Any]] = []

    def has_begun() -> bool:
        seen.append(status())
        return (seen[-1].get("n_done") or 0) >= 2

    with started(command("run", source, "--workers", "1", *FLAKY), cwd=here) as job:
        wait_until(has_begun)
        job.send_signal(signum)
        job.wait(60)
    assert seen[-1]["state"] == "running"
    assert seen[-1]["n_tasks"] == 82
    ended = status()
    assert ended["state"] == state
    assert 2 <= ended["n_done"] < 82


def test_status_of_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    assert_refused(call(capfd, "status", "nothing.here"), "nothing.here", "no such run")
    Path("notes.sqlite").write_bytes(b"SQLite format 3\x00" + b"?" * 500)
    assert_refused(call(capfd, "status", "notes.sqlite"))


# ---- report --------------------------------------------------------------------------------


def test_report_is_written_beside_the_result(capfd: pytest.CaptureFixture[str]) -> None:
    assert finished(capfd) == 0
    code, out, err = call(capfd, "report", "in.result.json")
    assert (code, out, err) == (0, "", "written: in.report.html\n")
    page = Path("in.report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "<svg" in page
    assert call(capfd, "report", "in.store.sqlite", "-o", "other.html")[0] == 0
    assert Path("other.html").stat().st_size > 1000


def test_report_of_a_run_that_failed(capfd: pytest.CaptureFixture[str]) -> None:
    assert finished(capfd, faults={"3": "input"}) == 1
    assert call(capfd, "report", "in.store.sqlite", "-o", "page.html")[0] == 0
    assert "does not like this input" in Path("page.html").read_text()


def test_report_of_nothing_or_to_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    assert_refused(call(capfd, "report", "nothing.json"), "no such run")
    assert finished(capfd) == 0
    answer = call(capfd, "report", "in.result.json", "-o", "no/where.html")
    assert_refused(answer, "-o", "does not exist")


# ---- verify --------------------------------------------------------------------------------


def test_verify(capfd: pytest.CaptureFixture[str]) -> None:
    assert finished(capfd, driver="gradient") == 0
    code, out, err = call(capfd, "verify", "in.result.json")
    assert (code, err) == (0, "")
    assert "agree with stock QCManyBody's from the same 13 components" in out
    Path("in.store.sqlite").rename("moved.sqlite")
    assert call(capfd, "verify", "in.result.json", "--store", "moved.sqlite")[0] == 0
    assert_refused(call(capfd, "verify", "in.result.json"), "--store", "in.store.sqlite")


@pytest.mark.parametrize("where", ["return_result", "cp_corrected_total_energy"])
def test_verify_finds_a_result_that_was_altered(
    capfd: pytest.CaptureFixture[str], where: str
) -> None:
    assert finished(capfd) == 0
    path = Path("in.result.json")
    document = read(path)
    place = document if where in document else document["properties"]
    place[where] += 1e-8
    path.write_text(json.dumps(document))
    code, out, err = call(capfd, "verify", "in.result.json")
    assert (code, err) == (1, "")
    assert "DIFFER" in out
    assert where in out


def test_verify_needs_a_result_and_its_components(capfd: pytest.CaptureFixture[str]) -> None:
    assert finished(capfd) == 0
    assert_refused(call(capfd, "verify", "in.json", "--store", "in.store.sqlite"), "in.json")
    assert_refused(call(capfd, "verify", "none.result.json"), "RESULT: no such file")
    other = write(many_body_input(4), "other.json")
    assert_refused(call(capfd, "verify", "other.json"), "it is an input")
    assert_refused(call(capfd, "report", "other.json"), "is an input, not a result")
    Path("mine.yaml").write_text("molecule: {}\n")
    assert_refused(call(capfd, "report", "mine.yaml"), "is an input, not a result")
    assert call(capfd, "run", other, "--executor", "serial", *FLAKY)[0] == 0
    answer = call(capfd, "verify", "other.result.json", "--store", "in.store.sqlite")
    assert_refused(answer, "of the 28 components")


# ---- doctor --------------------------------------------------------------------------------


def test_doctor(capfd: pytest.CaptureFixture[str], here: Path) -> None:
    code, out, err = call(capfd, "doctor", "--json")
    found = json.loads(out)
    assert code == int(found["status"] == "problem")
    assert err == ""
    names = [finding["name"] for finding in found["findings"]]
    assert {"Python", "packages", "cores", "programs", "scratch"} <= set(names)
    code, out, _ = call(capfd, "doctor")
    assert code == int("problem " in out)
    assert list(here.iterdir()) == []


# ---- jobscript -----------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["slurm", "pbs", "lsf", "sge", "flux"])
@pytest.mark.parametrize("n_nodes", ["1", "4"])
def test_jobscript(capfd: pytest.CaptureFixture[str], scheduler: str, n_nodes: str) -> None:
    words = ("--nodes", n_nodes, "--cores=16", "--walltime", "2:00:00", "--retries", "5")
    more = ("--import", "my mod", "-o", "out.json", "--order=level", "--quiet")
    code, script, err = call(capfd, "jobscript", scheduler, "my input.json", *words, *more)
    assert (code, err) == (0, "")
    assert script.startswith("#!/bin/bash\n")
    assert "options=(--retries 5 --import 'my mod' --order=level --quiet)" in script
    assert "input='my input.json'" in script
    assert "result=out.json" in script
    assert ("mpiexec" in script or "run -" in script or "srun" in script) or n_nodes == "1"
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_jobscript_is_fitted_to_the_input(capfd: pytest.CaptureFixture[str]) -> None:
    source = write(many_body_input(3))
    words = ("jobscript", "slurm", source, "--nodes", "2", "--cores", "8", *FLAKY)
    code, script, err = call(capfd, *words, "--launcher", "srun")
    assert (code, err) == (0, "")
    assert re.search(
        r"^# ---- settings \(plan: \d+ tasks, .* on 2 nodes of 8 cores\)$", script, re.M
    )
    assert "#SBATCH --time=0:10:00\n" in script
    assert "exec srun " in script
    assert "options=(--import tests.flaky)" in script
    code, script, err = call(capfd, *words, "--walltime", "0:00:01")
    assert code == 0
    assert "#SBATCH --time=0:00:01\n" in script
    assert_refused(call(capfd, "jobscript", "slurm", write({}, "empty.json"), *FLAKY), "molecule")


def test_an_array_is_fitted_to_the_longest_of_its_inputs(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "inputs").mkdir()
    for name, n_fragments in (("a", 3), ("b", 4)):
        write(many_body_input(n_fragments), f"inputs/{name}.json")
    words = ("jobscript", "slurm", "inputs", "--cores", "8", *FLAKY)
    code, script, err = call(capfd, *words)
    assert (code, err) == (0, "")
    told = r"\(2 inputs, the longest .\.json: plan: \d+ tasks, .* on 1 node of 8 cores\)$"
    assert re.search(rf"^# ---- settings {told}", script, re.M)
    assert "#SBATCH --array=0-1%10\n" in script
    assert "#SBATCH --time=0:10:00\n" in script
    write({}, "inputs/c.json")
    assert_refused(call(capfd, *words), "inputs/c.json", "molecule")


def test_jobscript_that_goes_back_into_the_queue(capfd: pytest.CaptureFixture[str]) -> None:
    words = ("jobscript", "slurm", "in.json", "--requeue", "--remedies")
    code, script, _ = call(capfd, *words)
    assert code == 0
    assert "options=(--remedies)" in script
    assert "requeue" in script


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["condor", "in.json"], "slurm"),
        (["slurm"], "INPUT"),
        (["slurm", "-"], "standard input"),
        (["slurm", "in.json", "--nodes", "0"], "--nodes"),
        (["slurm", "in.json", "--walltime", "soon"], "walltime"),
        (["slurm", "in.json", "--no-such-option"], "--no-such-option"),
    ],
)
def test_jobscript_refuses(capfd: pytest.CaptureFixture[str], words: list[str], told: str) -> None:
    assert_refused(call(capfd, "jobscript", *words), told)


# ---- simulate ------------------------------------------------------------------------------


def test_simulate_tasks(capfd: pytest.CaptureFixture[str]) -> None:
    words = ("simulate", "--tasks", "500", "--ranks", "4", "--slots", "2", "--seed", "3")
    code, out, err = call(capfd, *words)
    assert (code, err) == (0, "")
    assert out.startswith("simulated: 500 tasks on 4 ranks, 8 slots")
    first, second = (json.loads(call(capfd, *words, "--json")[1]) for _ in range(2))
    assert first == second
    assert first["lower_bound_s"] <= first["makespan_s"]
    assert first["efficiency"] == pytest.approx(first["lower_bound_s"] / first["makespan_s"])


def test_simulate_an_input(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capfd, "simulate", write(sound()), "--ranks", "2", "--json")
    assert (code, json.loads(out)["n_tasks"]) == (0, 15)
    Path("he.xyz").write_text(HELIUM_XYZ)
    words = ("--ranks", "2", *PYSCF, "--max-nbody", "2", "--json")
    code, out, _ = call(capfd, "simulate", "he.xyz", *words)
    assert (code, json.loads(out)["n_tasks"]) == (0, 10)


@pytest.mark.parametrize(
    "words",
    [
        ["--ranks", "2"],
        ["in.json", "--tasks", "5", "--ranks", "2"],
        ["--tasks", "5"],
        ["--tasks", "0", "--ranks", "2"],
        ["--tasks", "5", "--ranks", "2", "--task-seconds", "nan"],
        ["missing.json", "--ranks", "2"],
    ],
)
def test_simulate_refuses(capfd: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert_refused(call(capfd, "simulate", *words))

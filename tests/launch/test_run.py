"""``python -m qcmb_mpi run`` as people start it: files, exit codes, same bytes everywhere."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from qcmb_mpi import schema
from tests.launch.jobs import (
    ROOT,
    command,
    environment,
    mpiexec,
    read,
    run,
    started,
    unmeasured,
    wait_until,
)


def helium(
    n: int = 4, *, program: str = "flaky", driver: str = "energy", **keywords: Any
) -> dict[str, Any]:
    """Return an input of `n` helium atoms, 3-body, nocp and cp."""
    faults = {"keywords": keywords} if keywords else {}
    method = {"method": "hf", "basis": "sto-3g"} if program == "pyscf" else {"method": "any"}
    return {
        "schema_name": "qcschema_many_body_input",
        "schema_version": 2,
        "molecule": {
            "symbols": ["He"] * n,
            "geometry": [[0.3 * i * i, 0.1 * i, 3.0 * i] for i in range(n)],
            "fragments": [[i] for i in range(n)],
        },
        "specification": {
            "driver": driver,
            "keywords": {"bsse_type": ["nocp", "cp"], "max_nbody": 3, "return_total_data": True},
            "specification": {
                "(auto)": {"program": program, "driver": driver, "model": method, **faults}
            },
        },
    }


def write(folder: Path, document: dict[str, Any]) -> Path:
    """Write an input file."""
    path = folder / "in.json"
    path.write_text(json.dumps(document))
    return path


FLAKY = ("--import", "tests.flaky")
N_TASKS = 4 + 6 + 4 + 4 + 6 + 4  # nocp and cp, 1 to 3 of 4 bodies
POOLS: dict[str, tuple[list[str], int]] = {
    "serial": (["--executor", "serial"], 0),
    "thread": (["--executor", "thread", "--workers", "2"], 0),
    "one": (["--workers", "1"], 0),
    "two": (["--workers", "2"], 0),
    "four": (["--workers", "4"], 0),
    "mpi1": (["--executor", "mpi"], 1),
    "mpi2": ([], 2),
    "mpi4": ([], 4),
    "dedicated": (["--dedicated-master"], 3),
    "level": (["--order", "level", "--workers", "2"], 0),
}


@pytest.mark.parametrize("program", ["pyscf", "flaky"])
def test_the_result_has_the_same_bytes_however_it_was_run(tmp_path: Path, program: str) -> None:
    source = write(tmp_path, helium(program=program, driver="gradient"))
    results = {}
    for name, (words, n_ranks) in POOLS.items():
        out = tmp_path / f"{name}.json"
        words = [*words, "--threads", "1", "-o", str(out), *FLAKY]
        line = command("run", source, *words, n_ranks=n_ranks)
        job = run(line, cwd=tmp_path, env=unmeasured(environment()))
        assert job.returncode == 0, (name, job.stderr)
        assert "Counterpoise Corrected" in job.stdout
        results[name] = schema.strip_volatile(out.read_bytes())
        summary = read(tmp_path / f"{name}.run.json")
        assert (summary["status"], summary["n_computed"]) == ("complete", N_TASKS)
        assert summary["n_ranks"] == max(1, n_ranks)
    assert len(set(results.values())) == 1


def test_a_rank_whose_output_seems_a_terminal_prints_the_whole_table(tmp_path: Path) -> None:
    source = write(tmp_path, helium(9))
    tables = []
    for n_ranks in (0, 2):
        job = run(command("run", source, *FLAKY, n_ranks=n_ranks), cwd=tmp_path)
        assert job.returncode == 0, job.stderr
        tables.append([line.split() for line in job.stdout.split("\n") if "N/A" in line])
    assert len(tables[0]) == 2 * 6  # 4 to 9 of 9 bodies, nocp and cp
    assert tables[1] == tables[0]


def test_every_rank_computes_and_a_dedicated_master_does_not(tmp_path: Path) -> None:
    source = write(tmp_path, helium(5, sleep=0.05))
    for words, idle in (([], set()), (["--dedicated-master"], {0})):
        job = run(command("run", source, "--no-store", *words, *FLAKY, n_ranks=3), cwd=tmp_path)
        assert job.returncode == 0, job.stderr
        agents = read(tmp_path / "in.run.json")["agents"]
        assert {a["rank"] for a in agents if a["n_tasks"]} == {0, 1, 2} - idle


def test_a_second_run_reuses_everything(tmp_path: Path) -> None:
    source = write(tmp_path, helium())
    first = run(command("run", source, *FLAKY), cwd=tmp_path)
    before = schema.strip_volatile((tmp_path / "in.result.json").read_bytes())
    second = run(command("run", source, *FLAKY, n_ranks=2), cwd=tmp_path)
    assert (first.returncode, second.returncode) == (0, 0), second.stderr
    summary = read(tmp_path / "in.run.json")
    assert (summary["n_computed"], summary["n_reused"]) == (0, N_TASKS)
    assert schema.strip_volatile((tmp_path / "in.result.json").read_bytes()) == before
    fresh = run(command("run", source, "--fresh", *FLAKY), cwd=tmp_path)
    assert fresh.returncode == 0
    assert read(tmp_path / "in.run.json")["n_computed"] == N_TASKS


@pytest.mark.parametrize("n_ranks", [0, 2])
@pytest.mark.parametrize(
    ("fault", "attempts", "words"),
    [
        ("raise", 2, "flaky raised as ordered"),
        ("random", 3, "at random"),
        ("input", 1, "does not like"),
        ("crash", 3, "SIGSEGV"),
        ("nan", 2, "the energy is nan"),
    ],
)
def test_failed_tasks_are_told_and_stop_nothing(
    tmp_path: Path, fault: str, attempts: int, words: str, n_ranks: int
) -> None:
    source = write(tmp_path, helium(faults={"3": fault}))
    old = tmp_path / "in.result.json"
    old.write_text("{}")
    job = run(command("run", source, *FLAKY, n_ranks=n_ranks), cwd=tmp_path)
    assert job.returncode == 1, job.stderr
    assert not old.exists()
    summary = read(tmp_path / "in.run.json")
    assert (summary["status"], summary["n_failed"]) == ("failed", 8)
    assert summary["n_computed"] == N_TASKS - 8
    for row in summary["failed"]:
        assert len(json.loads(row["label"])[1]) == 3
        assert row["attempts"] == attempts
        assert words in row["message"]
    assert words in job.stderr
    if fault == "crash":
        assert "about to crash" in summary["failed"][0]["output_tail"]


def test_success_without_the_gradient_is_no_result(tmp_path: Path) -> None:
    source = write(tmp_path, helium(driver="gradient", faults={"1": "none"}))
    job = run(command("run", source, "--retries", "0", *FLAKY), cwd=tmp_path)
    assert job.returncode == 1
    failed = read(tmp_path / "in.run.json")["failed"]
    assert {row["message"] for row in failed} == {"the program reported success but no gradient"}


@pytest.mark.parametrize(
    ("fault", "kind", "n_attempts"), [("hang", "hung", 2), ("spin", "timeout", 1)]
)
def test_a_task_over_time_is_killed(tmp_path: Path, fault: str, kind: str, n_attempts: int) -> None:
    source = write(tmp_path, helium(faults={"2": fault}))
    job = run(command("run", source, "--timeout", "1", "--workers", "4", *FLAKY), cwd=tmp_path)
    assert job.returncode == 1
    failed = read(tmp_path / "in.run.json")["failed"]
    assert len(failed) == 12
    assert {(row["error_type"], row["attempts"]) for row in failed} == {(kind, n_attempts)}


def test_on_failure_stop_ends_early(tmp_path: Path) -> None:
    source = write(tmp_path, helium(5, faults={"3": "input"}, sleep=0.05))
    words = ("--on-failure", "stop", "--workers", "1", *FLAKY)
    job = run(command("run", source, *words), cwd=tmp_path)
    assert job.returncode == 1
    assert read(tmp_path / "in.run.json")["n_computed"] < 10


@pytest.mark.parametrize("n_ranks", [0, 3])
def test_a_signal_drains_and_the_same_command_resumes(tmp_path: Path, n_ranks: int) -> None:
    source = write(tmp_path, helium(5, sleep=0.15))
    words = command("run", source, "--workers", "1", *FLAKY, n_ranks=n_ranks)
    store = tmp_path / "in.store.sqlite"
    with started(words, cwd=tmp_path) as job:
        wait_until(lambda: _n_done(store) >= 3)
        job.send_signal(signal.SIGUSR1)
        _, told = job.communicate(timeout=60)
        assert job.returncode == 75, told
        assert "running tasks will be finished and kept" in told
    summary = read(tmp_path / "in.run.json")
    n_done = summary["n_computed"]
    assert summary["status"] == "incomplete"
    assert 3 <= n_done < summary["n_tasks"]
    again = run(words, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert read(tmp_path / "in.run.json")["n_reused"] == n_done


def _n_done(store: Path) -> int:
    import sqlite3

    if not store.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as connection:
            return int(connection.execute("SELECT count(*) FROM component").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def test_another_calculation_does_not_replace_a_result_without_a_word(tmp_path: Path) -> None:
    kept = tmp_path / "in.result.json.previous"
    first = run(command("run", write(tmp_path, helium(3)), *FLAKY), cwd=tmp_path)
    old = (tmp_path / "in.result.json").read_bytes()
    again = run(command("run", "in.json", *FLAKY), cwd=tmp_path)
    assert (first.returncode, again.returncode) == (0, 0)
    assert not kept.exists()
    other = run(command("run", write(tmp_path, helium(4)), *FLAKY), cwd=tmp_path)
    assert other.returncode == 0
    assert "held another result; it is kept as in.result.json.previous" in other.stderr
    assert schema.strip_volatile(kept.read_bytes()) == schema.strip_volatile(old)


def test_walltime_ends_in_time_to_resume(tmp_path: Path) -> None:
    source = write(tmp_path, helium(6, sleep=0.3))
    job = run(command("run", source, "--walltime", "5", "--workers", "1", *FLAKY), cwd=tmp_path)
    assert job.returncode == 75, job.stderr
    assert read(tmp_path / "in.run.json")["status"] == "incomplete"


def test_standard_input_and_quiet(tmp_path: Path) -> None:
    words = command("run", "-", "-o", "out.json", "--quiet", *FLAKY)
    job = run(words, cwd=tmp_path, stdin=json.dumps(helium()))
    assert (job.returncode, job.stdout, job.stderr) == (0, "", "")
    assert read(tmp_path / "out.json")["success"]
    missing = run(command("run", "-"), cwd=tmp_path, stdin=json.dumps(helium()))
    assert missing.returncode == 2
    assert "-o" in missing.stderr


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["--output", "no/such/folder/out.json"], "-o"),
        (["--store", "no/such/folder/x.sqlite"], "--store"),
        (["--scratch", "no/such/folder"], "--scratch"),
        (["--memory", "much"], "--memory"),
        (["--walltime", "soon"], "--walltime"),
        (["--workers", "0"], "--workers"),
        (["--import", "no.such.module"], "--import"),
        (["--no-such-option"], "--no-such-option"),
    ],
)
@pytest.mark.parametrize("n_ranks", [0, 2])
def test_wrong_options_are_one_line_and_exit_code_2(
    tmp_path: Path, words: list[str], field: str, n_ranks: int
) -> None:
    source = write(tmp_path, helium())
    line = command("run", source, *FLAKY, *words, n_ranks=n_ranks)
    job = run(line, cwd=tmp_path, env=unmeasured(environment()))
    assert job.returncode == 2, job.stderr
    lines = [line for line in job.stderr.splitlines() if line.startswith("qcmb-mpi: error:")]
    assert len(lines) == 1
    assert field in lines[0]
    assert "Traceback" not in job.stderr
    assert job.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.json"]


def test_unknown_program_and_ghosts_are_refused_before_anything_runs(tmp_path: Path) -> None:
    for program, words in (("nosuch", "nosuch"), ("mopac", "ghost")):
        job = run(command("run", write(tmp_path, helium(program=program))), cwd=tmp_path)
        assert job.returncode == 2, job.stderr
        assert words in job.stderr
        assert len(job.stderr.splitlines()) == 1


def test_ranks_that_each_believe_they_are_alone_are_refused(tmp_path: Path) -> None:
    """The launcher says two ranks, MPI finds one: what a mismatched MPI library looks like."""
    source = write(tmp_path, helium())
    hide = 'unset ${!PMIX_*} ${!PMI_*} ${!PRTE_*}; exec "$@"'
    words = [*mpiexec(2), "bash", "-c", hide, "-", *command("run", source, *FLAKY)]
    job = run(words, cwd=tmp_path)
    assert job.returncode != 0
    assert "error:" in job.stderr
    assert "2" in job.stderr
    assert "mpi4py" in job.stderr
    assert not (tmp_path / "in.run.json").exists()


def test_a_launcher_of_another_mpi_is_refused(tmp_path: Path) -> None:
    launcher = Path(sys.prefix, "other-mpi", "bin", "mpiexec")
    assert launcher.exists(), "`make test` installs it"
    source = write(tmp_path, helium())
    words = [str(launcher), "-n", "2", *command("run", source, *FLAKY)]
    job = run(words, cwd=tmp_path)
    assert job.returncode == 2
    lines = [line for line in job.stderr.splitlines() if line.startswith("qcmb-mpi: error:")]
    assert len(lines) == 1
    assert "started 2 ranks but each rank believes it is alone" in lines[0]
    assert "mpi4py loaded" in lines[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.json"]


def test_an_mpi_library_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path, helium())
    words = [*command("run", source, *FLAKY), "--executor", "mpi"]
    job = run(words, cwd=tmp_path, env=environment(MPI4PY_LIBMPI=str(tmp_path / "libmpi.so")))
    assert job.returncode == 2
    (line,) = job.stderr.splitlines()
    assert line.startswith("qcmb-mpi: error: MPI cannot be started: ")
    assert "libmpi.so" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.json"]


def test_a_slurm_step_without_mpi_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path, helium())
    step = {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "3",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
    }
    job = run(command("run", source, *FLAKY), cwd=tmp_path, env=environment(**step))
    assert job.returncode == 2
    assert "srun --mpi=pmix" in job.stderr


def test_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    write(tmp_path, helium())
    shell = " ".join(command("plan", "in.json")) + " | head -n 1"
    job = run(["bash", "-c", shell], cwd=tmp_path)
    assert "Traceback" not in job.stderr
    assert os.linesep in job.stdout


def test_two_signals_end_a_job_at_once_and_it_resumes(tmp_path: Path) -> None:
    source = write(tmp_path, helium(5, sleep=0.1, faults={"2": "hang"}))
    words = command("run", source, "--workers", "1", *FLAKY, n_ranks=3)
    store = tmp_path / "in.store.sqlite"
    with started(words, cwd=tmp_path) as job:
        wait_until(lambda: _n_done(store) >= 3)
        job.send_signal(signal.SIGUSR1)
        job.send_signal(signal.SIGUSR2)
        assert job.wait(60) == 75, job.stderr.read() if job.stderr else ""
    summary = read(tmp_path / "in.run.json")
    assert summary["status"] == "incomplete"
    assert summary["n_computed"] >= 3


def test_running_tasks_are_cut_off_at_the_deadline(tmp_path: Path) -> None:
    source = write(tmp_path, helium(faults={"1": "hang"}))
    words = ("--walltime", "6", "--workers", "2", *FLAKY)
    job = run(command("run", source, *words), cwd=tmp_path)
    assert job.returncode == 75, job.stderr
    assert read(tmp_path / "in.run.json")["n_computed"] >= 1


def test_a_signal_before_the_first_task_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\npathlib.Path('slow').touch()\ntime.sleep(4)\n"
    )
    source = write(tmp_path, helium())
    words = command("run", source, "--import", "slow", *FLAKY)
    env = environment(PYTHONPATH=f"{ROOT}:{tmp_path}")
    with started(words, cwd=tmp_path, env=env) as job:
        wait_until((tmp_path / "slow").exists)
        job.send_signal(signal.SIGTERM)
        assert job.wait(60) == 75, job.stderr.read() if job.stderr else ""
    assert read(tmp_path / "in.run.json")["n_computed"] == 0
    assert _n_done(tmp_path / "in.store.sqlite") == 0


def test_a_program_that_prints_does_not_touch_the_table(tmp_path: Path) -> None:
    source = write(tmp_path, helium(faults={"3": "print"}))
    outputs = {}
    for executor in ("serial", "thread", "multiprocessing"):
        words = ("--executor", executor, "--no-store", *FLAKY)
        job = run(command("run", source, *words), cwd=tmp_path)
        assert job.returncode == 0, job.stderr
        outputs[executor] = job.stdout
    assert "flaky is about to print" not in outputs["serial"]
    assert len(set(outputs.values())) == 1


def test_files_must_be_files_and_different_ones(tmp_path: Path) -> None:
    source = write(tmp_path, helium())
    for words, field in (
        (["-o", "in.json"], "-o: is the same file as INPUT"),
        (["--summary", "in.result.json"], "--summary: is the same file as -o"),
        (["--store", "/dev/null"], "--store: is a directory or a device"),
        (["-o", "/dev/null"], "-o: is a directory or a device"),
        (["--report", "-"], "--report: is no file: this is not written to standard output"),
    ):
        job = run(command("run", source, *words, *FLAKY), cwd=tmp_path)
        assert job.returncode == 2
        assert field in job.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.json"]


def test_slots_that_can_no_longer_start_leave_the_results(tmp_path: Path) -> None:
    """Every slot crashes once, and then the user's module has gone."""
    module = tmp_path / "mine.py"
    module.write_text("import tests.flaky\n")
    source = write(tmp_path, helium(5, sleep=0.05, faults={"1": "crash"}))
    words = command("run", source, "--import", "mine", "--workers", "2")
    env = environment(PYTHONPATH=f"{ROOT}:{tmp_path}")
    store = tmp_path / "in.store.sqlite"
    with started(words, cwd=tmp_path, env=env) as job:
        wait_until(lambda: _n_done(store) >= 1)
        module.unlink()
        assert job.wait(60) == 75, job.stderr.read() if job.stderr else ""
    n_done = _n_done(store)
    assert n_done >= 1
    summary = read(tmp_path / "in.run.json")
    assert summary["status"] == "incomplete"
    assert "mine" in summary["stopped"]

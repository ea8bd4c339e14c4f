"""What is wrong is exit code 2 and one line, whoever asks; what is our fault is 70."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from qcmb_mpi import runner
from tests.launch.calls import assert_refused, call, write
from tests.launch.jobs import command, mpiexec, run
from tests.malformed import Case, cases, sound

pytestmark = pytest.mark.usefixtures("here")


def words_for(case: Case) -> list[str]:
    """Write a malformed input and return the words that run it."""
    path = Path(f"input{case.suffix}")
    path.write_bytes(case.as_bytes())
    return ["run", str(path), *(["--method", "hf"] if case.kind == "geometry" else [])]


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_malformed_input_is_exit_code_2_and_one_line(
    capfd: pytest.CaptureFixture[str], here: Path, case: Case
) -> None:
    assert_refused(call(capfd, *words_for(case), "--executor", "serial"), case.field)
    assert len(list(here.iterdir())) == 1


@pytest.mark.parametrize("case", cases()[5::70], ids=lambda case: case.name)
def test_malformed_input_of_a_real_process(here: Path, case: Case) -> None:
    job = run(command(*words_for(case)), cwd=here)
    assert_refused((job.returncode, job.stdout, job.stderr), case.field)


def test_malformed_input_under_mpiexec_is_told_once(here: Path) -> None:
    source = write({"schema_name": "qcschema_many_body_input", "schema_version": 2})
    job = run([*mpiexec(3), sys.executable, "-m", "qcmb_mpi", source], cwd=here)
    assert job.returncode == 2
    assert job.stderr.count("qcmb-mpi: error:") == 1
    assert "Traceback" not in job.stderr


@pytest.mark.parametrize(("name", "wait_s"), [("OMPI_COMM_WORLD", 10.0), ("PMI", 2.0)])
def test_other_ranks_leave_the_first_the_time_to_tell(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, wait_s: float
) -> None:
    """Under Open MPI nobody hears it if another rank ends before it."""
    waited: list[float] = []
    monkeypatch.setattr(runner, "time", SimpleNamespace(sleep=waited.append))
    for rank in ("0", "1"):
        monkeypatch.setenv(f"{name}_SIZE", "2")
        monkeypatch.setenv(f"{name}_RANK", rank)
        code, _, err = call(capfd, "run", "in.json", "--no-such-option")
        assert (code, err.count("--no-such-option")) == (2, 1 - int(rank))
    assert waited == [wait_s]


@pytest.mark.parametrize("command_name", ["run", "plan"])
def test_a_missing_or_unreadable_input(
    capfd: pytest.CaptureFixture[str], command_name: str
) -> None:
    assert_refused(call(capfd, command_name, "missing.json"), "missing.json")
    os.mkdir("folder.json")
    assert_refused(call(capfd, command_name, "folder.json"), "folder.json")


@pytest.mark.parametrize(
    "words",
    [
        ["--workers", "two"],
        ["--threads", "0"],
        ["--timeout", "0"],
        ["--timeout", "soon"],
        ["--retries", "-1"],
        ["--order", "random"],
        ["--executor", "gpu"],
        ["--store", "a.sqlite", "--no-store"],
        ["--memory", "plenty"],
        ["--work", "2"],
        ["--charge", "1"],
    ],
)
def test_wrong_options_are_named(capfd: pytest.CaptureFixture[str], words: list[str]) -> None:
    source = write(sound())
    assert_refused(call(capfd, "run", source, "--executor", "serial", *words), words[0])


@pytest.mark.parametrize("word", ["--fresh", "--no-store"])
def test_a_job_that_starts_from_nothing_for_ever_is_refused(
    capfd: pytest.CaptureFixture[str], word: str
) -> None:
    words = ("jobscript", "lsf", "in.json", word, "--requeue")
    assert_refused(call(capfd, *words), "--requeue", f"leave {word} out")


def test_a_bug_of_ours_is_exit_code_70_with_what_to_do(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("our bug")

    monkeypatch.setattr("qcmb_mpi.schema.reading.load_input", broken)
    code, out, err = call(capfd, "run", write(sound()), "--executor", "serial")
    assert (code, out) == (70, "")
    assert "ZeroDivisionError: our bug" in err
    assert "please report" in err.splitlines()[-1]


def test_a_mistyped_command_and_an_unknown_ending(capfd: pytest.CaptureFixture[str]) -> None:
    assert_refused(call(capfd, "rum", "in.json"), "no command 'rum', did you mean run?")
    assert_refused(call(capfd, "water"), "water: no such file")
    assert "without a COMMAND means run" in call(capfd, "--help")[1]
    answer = call(capfd, "run", "w3.mol", "--method", "hf")
    assert_refused(answer, "w3.mol: ending not known; accepted: .json .yaml .yml .xyz .pdb")

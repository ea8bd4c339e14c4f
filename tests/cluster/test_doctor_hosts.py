"""The doctor in a job: real faults of one host, seen by comparison with another."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.cluster.jobs import hosts
from tests.launch.jobs import environment, run

_FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
# What is wrong with n2: no `terachem` on PATH, a clock of another time, scratch that is read-only.
_FAULTS = """
if [ "$(hostname)" = n2 ]; then
    export LD_PRELOAD={faketime} FAKETIME=+300
    export DQM_CONFIG_PATH={folder}
    mount -t tmpfs -o ro none {folder}/scratch
else
    export PATH={folder}/bin:$PATH
fi
exec "$@"
"""


def test_faults_of_one_host_are_named(tmp_path: Path) -> None:
    assert _FAKETIME is not None, "apt-get install faketime"
    for name in ("bin", "scratch"):
        (tmp_path / name).mkdir()
    program = tmp_path / "bin" / "terachem"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    config = {"all": {"hostname_pattern": "*", "scratch_directory": str(tmp_path / "scratch")}}
    (tmp_path / "qcengine.yaml").write_text(json.dumps(config))
    faults = _FAULTS.format(faketime=_FAKETIME, folder=tmp_path)
    words = ["bash", "-c", faults, "-", sys.executable, "-m", "qcmb_mpi", "doctor"]
    with hosts(2) as cluster, cluster.job(tmp_path, words, ranks={"n1": 2, "n2": 2}) as process:
        said, errors = process.communicate(timeout=100)
    lines = said.splitlines()
    assert "all hosts" in lines, said + errors
    (of_hosts,) = [line for line in lines if " hosts  " in line]
    assert of_hosts.startswith("warning")
    assert "n2 lacks terachem" in of_hosts
    (of_clocks,) = [line for line in lines if " clocks  " in line]
    assert "n2 is 300 s ahead of n1" in of_clocks
    of_n2 = lines[lines.index("n2, from rank 2") :]
    scratch = next(line for line in of_n2 if " scratch  " in line)
    assert scratch.startswith("problem")
    assert "cannot be written to: Read-only file system" in scratch
    assert process.returncode != 0


def test_a_launcher_of_another_mpi_is_named(tmp_path: Path) -> None:
    launcher = Path(sys.prefix, "other-mpi", "bin", "mpiexec")
    assert launcher.exists(), "`make test` installs it"
    words = [str(launcher), "-n", "2", sys.executable, "-m", "qcmb_mpi", "doctor"]
    job = run(words, cwd=tmp_path, env=environment(PATH=f"{launcher.parent}:/usr/bin:/bin"))
    (line,) = [line for line in job.stdout.splitlines() if " hosts  " in line]
    assert line.startswith("problem")
    assert "started 2 ranks but each rank believes it is alone" in line
    (line,) = [line for line in job.stdout.splitlines() if " two ranks  " in line]
    assert line.startswith("problem")
    assert "each believes it is alone" in line
    assert job.returncode != 0

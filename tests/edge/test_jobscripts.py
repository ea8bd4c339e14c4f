from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qcmb_mpi import jobscript
from qcmb_mpi.errors import InputError
from qcmb_mpi.jobscript import SCHEDULERS, JobOptions, ready_scripts, render_jobscript

JOBSCRIPTS = Path(__file__).parents[2] / "jobscripts"
READY = ready_scripts()
DIRECTIVES = {"slurm": "#SBATCH", "pbs": "#PBS", "lsf": "#BSUB", "sge": "#$", "flux": "#flux:"}
NASTY = ["--import", "a; touch /tmp/x", "--scratch", "/s p/$(id)", "--threads", "4"]


def is_directive(line: str) -> bool:
    return any(re.match(rf"{re.escape(mark)}\s", line) for mark in DIRECTIVES.values())


def lint(scheduler: str, text: str) -> list[str]:
    """Find what bash and shellcheck cannot: directives that the batch system would not see."""
    lines = text.splitlines()
    faults = [] if lines[0] == "#!/bin/bash" else ["no shebang"]
    body = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    faults += [f"late directive: {line}" for line in lines[body:] if is_directive(line)]
    marks = [line for line in lines if is_directive(line)]
    mark = DIRECTIVES[scheduler]
    faults += [f"another system's: {line}" for line in marks if not line.startswith(mark)]
    if not re.search(r"--time=|walltime=|-W \d|h_rt=|--time-limit=", "\n".join(marks)):
        faults.append("no time limit")
    if not re.search(r"--nodes=|select=|-n \d|-pe ", "\n".join(marks)):
        faults.append("no size")
    if len(lines) > 40:
        faults.append(f"{len(lines)} lines")
    if "@" in re.sub(r"\[@\]|USR1@", "", text):
        faults.append("a placeholder is left")
    return faults


def test_the_lint_finds_faults() -> None:
    text = "#!/bin/bash\n#SBATCH --nodes=1\n\necho\n#SBATCH --time=1\n#PBS -l x\n" + "\n" * 40
    assert lint("slurm", text) == [
        "late directive: #SBATCH --time=1",
        "late directive: #PBS -l x",
        "another system's: #PBS -l x",
        "46 lines",
    ]
    assert lint("pbs", "echo @name\n") == [
        "no shebang",
        "no time limit",
        "no size",
        "a placeholder is left",
    ]


def test_the_ready_scripts_are_what_the_templates_give() -> None:
    on_disk = {
        path.relative_to(JOBSCRIPTS).as_posix(): path.read_text("utf-8")
        for path in JOBSCRIPTS.glob("*/*.sh")
    }
    assert on_disk == READY, "run: python -m qcmb_mpi.jobscript jobscripts"
    readme = (JOBSCRIPTS / "README.md").read_text("utf-8")
    assert [name for name in READY if f"({name})" not in readme] == []


def test_writing_the_ready_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["jobscript", str(tmp_path)])
    runpy.run_path(jobscript.__file__, run_name="__main__")
    script = tmp_path / "slurm/requeue.sh"
    assert script.read_text("utf-8") == READY["slurm/requeue.sh"]
    assert script.stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize("name", READY)
def test_ready_scripts_are_sound(name: str, tmp_path: Path) -> None:
    check_shell(READY[name], tmp_path)
    assert lint(name.partition("/")[0], READY[name]) == []
    assert max(len(line) for line in READY[name].splitlines()) <= 100


@pytest.mark.parametrize("is_requeued", [False, True])
@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_rendered_scripts_are_sound(
    scheduler: str, nodes: int, is_requeued: bool, tmp_path: Path
) -> None:
    launcher = "srun" if scheduler == "slurm" else "mpiexec"
    job = JobOptions(nodes, is_requeued=is_requeued, launcher=launcher, about="4 tasks, 2 h")
    text = render_jobscript(scheduler, "d ir/it's $(me).json", options=NASTY, job=job)
    check_shell(text, tmp_path)
    assert lint(scheduler, text) == []


def check_shell(text: str, tmp_path: Path) -> None:
    script = tmp_path / "script.sh"
    script.write_text(text, encoding="utf-8")
    checks = [["bash", "-n"]] + (
        [["shellcheck", "-s", "bash", "-e", "SC2016"]] if shutil.which("shellcheck") else []
    )
    for check in checks:
        done = subprocess.run([*check, str(script)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


# ------------------------------------------------------------------------------- what is asked for


def test_walltime_sets_the_jobs_limit_and_an_earlier_stop() -> None:
    text = render_jobscript("slurm", "w.json", options=["--walltime", "2:00:00"])
    assert "#SBATCH --time=2:00:00\n" in text
    assert "stop_after=1:55:00 " in text
    assert text.count("--walltime") == 1
    short = render_jobscript("lsf", "w.json", options=["--walltime=90"])
    assert "#BSUB -W 2\n" in short
    assert "stop_after=0:01:21 " in short
    # A warning that is due before the job begins would stop it at once.
    assert "USR1@9\n" in render_jobscript("slurm", "w.json", options=["--walltime=90"])
    assert "#SBATCH --time=36:00:00\n" in render_jobscript(
        "slurm", "w.json", job=JobOptions(walltime="1-12:00:00")
    )


@pytest.mark.parametrize(
    "options",
    [
        ["-o", "out/r.result.json", "--threads", "2"],
        ["-oout/r.result.json", "--threads", "2"],
        ["--output=out/r.result.json", "--threads", "2"],
    ],
)
def test_result_and_summary_are_settings(options: list[str]) -> None:
    text = render_jobscript("pbs", "w.json", options=options)
    assert "result=out/r.result.json\n" in text
    assert "summary=out/r.run.json " in text
    assert "options=(--threads 2) " in text
    assert "summary=s.json " in render_jobscript("pbs", "w.json", options=["--summary", "s.json"])


def test_size() -> None:
    job = JobOptions(nodes=3, cores=8)
    assert "select=3:ncpus=8:mpiprocs=1" in render_jobscript("pbs", "w.json", job=job)
    assert "#BSUB -n 24\n" in render_jobscript("lsf", "w.json", job=job)
    assert "#$ -pe mpi 24\n" in render_jobscript("sge", "w.json", job=job)
    assert "exec mpiexec" in render_jobscript("slurm", "w.json", nodes=2)
    assert "exec mpiexec" not in render_jobscript("slurm", "w.json", nodes=1)
    by_srun = JobOptions(nodes=2, launcher="srun")
    assert 'exec srun --mpi="$pmi" ' in render_jobscript("slurm", "w.json", job=by_srun)


def test_an_array_over_a_directory(tmp_path: Path) -> None:
    inputs = tmp_path / "my inputs"
    inputs.mkdir()
    with pytest.raises(InputError, match="INPUT: this directory has no input"):
        render_jobscript("slurm", inputs)
    for name in ("a.yaml", "b.yaml", "c.yaml", "notes.txt", ".hidden.yaml", ".old.json"):
        (inputs / name).touch()
    text = render_jobscript("slurm", f"{inputs}/")
    assert "#SBATCH --array=0-2%10\n" in text
    assert f"inputs=('{inputs}'/*.yaml) " in text
    assert lint("slurm", text) == []
    check_shell(text, tmp_path)
    (inputs / "d.json").touch()
    with pytest.raises(InputError, match=r"inputs of several kinds: \.json, \.yaml"):
        render_jobscript("slurm", inputs)


@pytest.mark.parametrize("name", ["a.result.json", "a.run.json"])
def test_an_array_over_a_directory_with_results(name: str, tmp_path: Path) -> None:
    for each in ("a.json", name):
        (tmp_path / each).touch()
    with pytest.raises(InputError, match=f"this directory has results beside inputs, as {name}"):
        render_jobscript("slurm", tmp_path)


@pytest.mark.parametrize("scheduler", ["slurm", "pbs"])
def test_an_array_is_slurms_and_of_single_jobs(scheduler: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").touch()
    with pytest.raises(InputError, match="arrays of jobs are for Slurm, and not with --requeue"):
        render_jobscript(scheduler, tmp_path, job=JobOptions(is_requeued=scheduler == "slurm"))


def test_an_array_where_results_would_be_taken_for_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.json").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="results would be taken for inputs"):
        render_jobscript("slurm", ".")


@pytest.mark.parametrize(
    ("scheduler", "launcher", "message"),
    [("slurm", "aprun", "--launcher: is not known"), ("lsf", "srun", "srun is Slurm's")],
)
def test_launchers_that_are_refused(scheduler: str, launcher: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        render_jobscript(scheduler, "w.json", job=JobOptions(launcher=launcher))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("a/w16.json", "w16"),
        ("16 waters.json", "qcmb_16_waters"),
        ("a_very_long_name_of_an_input.json", "a_very_long_nam"),
        ("é.json", "qcmb__"),
    ],
)
def test_job_names(source: str, name: str) -> None:
    assert f"#PBS -N {name}\n" in render_jobscript("pbs", source)


def test_the_environment_comes_first_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/my env/bin/python")
    monkeypatch.setattr(sys, "prefix", "/my env")
    assert "export PATH='/my env/bin':$PATH " in render_jobscript("slurm", "w.json")
    monkeypatch.setattr(sys, "base_prefix", "/my env")
    assert "PATH=" not in render_jobscript("slurm", "w.json")


@pytest.mark.parametrize(
    ("scheduler", "source", "nodes", "options", "message"),
    [
        ("cron", "w.json", 1, [], r"scheduler: is not known .*slurm, pbs, lsf, sge, flux"),
        ("slurm", "-", 1, [], "INPUT: a batch job has no standard input"),
        ("slurm", "w.json", 0, [], "--nodes: must be at least 1"),
        ("slurm", "w.json", 1, ["--walltime", "soon"], "--walltime: not a duration"),
    ],
)
def test_refused(scheduler: str, source: str, nodes: int, options: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        render_jobscript(scheduler, source, nodes=nodes, options=options)


# ------------------------------------------------------------------- run for real, with stand-ins

PYTHON = f"""#!/bin/bash
[ "$1" = -c ] && exec {sys.executable} "$@"
printf '%s\\n' "$@" >words
if [ -n "$WAIT_FOR_USR1" ]; then
  trap 'echo warned >warned' USR1
  touch started
  for _ in $(seq 600); do [ -e warned ] && break; sleep 0.05; done
fi
[ -z "$STATUS" ] || echo "{{\\"status\\": \\"$STATUS\\"$NEEDED}}" >input.run.json
exit "${{CODE:-0}}"
"""
MPIEXEC = """#!/bin/bash
[ "$1" != --version ] || exec echo "mpiexec ($VERSION)"
printf '%s\\n' "$@" >launched
while [[ $1 != */python ]]; do shift; done
exec "$@"
"""
RECORD = '#!/bin/bash\necho "$(basename "$0") $*" >>called\n'


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """A directory with stand-ins for Python, the launchers and the batch system in ``bin``."""
    stand_ins = {"python": PYTHON, "mpiexec": MPIEXEC, "srun": MPIEXEC, "flux": RECORD}
    stand_ins |= dict.fromkeys(("scontrol", "qsub"), RECORD)
    (tmp_path / "bin").mkdir()
    for name, text in stand_ins.items():
        path = tmp_path / "bin" / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "input.json").touch()
    for name in ("nodefile", "pe"):
        (tmp_path / name).write_text("n1 4 q\nn2 4 q\n", encoding="utf-8")
    return tmp_path


def start(stage: Path, text: str, **environ: str) -> subprocess.Popen[bytes]:
    script = stage / "script.sh"
    script.write_text(text, encoding="utf-8")
    batch = {
        "SLURM_JOB_ID": "5",
        "SLURM_NTASKS": "4",
        "SLURM_ARRAY_TASK_ID": "0",
        "PBS_O_WORKDIR": str(stage),
        "PBS_NODEFILE": "nodefile",
        "LSB_JOBID": "5",
        "LSB_DJOB_HOSTFILE": "nodefile",
        "JOB_ID": "5",
        "NHOSTS": "2",
        "PE_HOSTFILE": "pe",
    }
    clean = {"PATH": os.environ["PATH"], "HOME": str(stage)}
    return subprocess.Popen(["bash", str(script)], cwd=stage, env=clean | batch | environ)


def ready(name: str, stage: Path) -> str:
    """Give a ready script with its programs replaced by the stand-ins."""
    return READY[name].replace("$HOME/qcmb/bin", str(stage / "bin"))


def called(stage: Path) -> str:
    path = stage / "called"
    return path.read_text("utf-8").strip() if path.exists() else ""


@pytest.mark.parametrize("name", [name for name in READY if "flux/" not in name])
def test_run_is_called_as_the_settings_say(name: str, stage: Path) -> None:
    start(stage, ready(name, stage), STATUS="complete").wait(timeout=60)
    words = (stage / "words").read_text("utf-8").split("\n")
    source = "inputs/input.json" if "array" in name else "input.json"
    assert words[:-1] == [
        *("-m", "qcmb_mpi", "run", source, "-o", "input.result.json"),
        *("--summary", "input.run.json", "--walltime", "0:55:00"),
    ]


def test_strings_of_the_users_arrive_as_they_are(stage: Path) -> None:
    job = JobOptions(path=str(stage / "bin"))
    text = render_jobscript("slurm", "d ir/it's $(me).json", options=NASTY, job=job)
    assert start(stage, text, STATUS="complete").wait(timeout=60) == 0
    words = (stage / "words").read_text("utf-8").split("\n")
    assert words[3] == "d ir/it's $(me).json"
    assert words[-1 - len(NASTY) : -1] == NASTY


@pytest.mark.parametrize("name", [name for name in READY if "flux/" not in name])
@pytest.mark.parametrize(
    ("version", "is_tolerant"),
    [
        ("Open MPI) 5.0.11", True),
        ("Open MPI) 10.0.0", True),
        ("Open MPI) 4.1.4", False),
        ("", False),
    ],
)
def test_dead_ranks_are_done_without_where_mpiexec_can(
    name: str, version: str, is_tolerant: bool, stage: Path
) -> None:
    start(stage, ready(name, stage), STATUS="complete", VERSION=version).wait(timeout=60)
    launched = stage / "launched"
    assert launched.exists() == ("single" not in name and "array" not in name)
    if launched.exists() and "srun" not in name:
        assert launched.read_text("utf-8").startswith("--with-ft\nulfm\n") == is_tolerant


@pytest.mark.parametrize("name", READY)
def test_a_lost_host_is_noticed_within_15_s(name: str) -> None:
    text = READY[name]
    setting = re.search(r"^export PRTE_MCA_oob_tcp_keepalive_.*", text, re.MULTILINE)
    assert (setting is not None) == ("\nexec mpiexec" in text or "\nmpiexec" in text)
    if setting is not None:
        told = subprocess.run(
            ["bash", "-c", f"{setting[0]}; env"], capture_output=True, text=True, check=True
        ).stdout
        found = dict(re.findall(r"^PRTE_MCA_oob_tcp_keepalive_(\w+)=(\d+)$", told, re.MULTILINE))
        seconds = {name: int(value) for name, value in found.items()}
        assert seconds["time"] + seconds["probes"] * seconds["intvl"] < 15


@pytest.mark.parametrize("name", READY)
def test_no_older_summary_is_left_to_be_believed(name: str, stage: Path) -> None:
    summary = stage / "input.run.json"
    summary.write_text(json.dumps({"status": "complete"}))
    start(stage, ready(name, stage), CODE="1").wait(timeout=60)
    assert not summary.exists()


def test_exec_hands_the_exit_code_on(stage: Path) -> None:
    text = ready("slurm/many_nodes.sh", stage)
    assert start(stage, text, STATUS="incomplete", CODE="75").wait(timeout=60) == 75


AGAIN = {
    "slurm": "scontrol requeue 5",
    "pbs": "qsub -v QCMB_RESTARTS=1 requeue.sh",
    "lsf": 75,
    "sge": 99,
}


@pytest.mark.parametrize("scheduler", AGAIN)
def test_requeue_by_the_summary_not_by_the_exit_code(scheduler: str, stage: Path) -> None:
    text = ready(f"{scheduler}/requeue.sh", stage)
    assert start(stage, text, STATUS="complete", CODE="1").wait(timeout=60) == 0
    assert start(stage, text, STATUS="failed", CODE="0").wait(timeout=60) == 1
    assert called(stage) == ""
    code = start(stage, text, STATUS="incomplete", CODE="75").wait(timeout=60)
    assert AGAIN[scheduler] == (called(stage) or code)


def test_where_slurm_refuses_to_requeue_the_exit_code_says_that_it_is_not_done(stage: Path) -> None:
    (stage / "bin" / "scontrol").write_text("#!/bin/bash\nexit 1\n", encoding="utf-8")
    text = ready("slurm/requeue.sh", stage)
    assert start(stage, text, STATUS="incomplete", CODE="75").wait(timeout=60) == 75


@pytest.mark.parametrize("scheduler", AGAIN)
@pytest.mark.parametrize("code", [2, 70, 126, 127])
def test_what_would_end_in_the_same_way_is_not_tried_again(
    scheduler: str, code: int, stage: Path
) -> None:
    text = ready(f"{scheduler}/requeue.sh", stage)
    ended = start(stage, text, STATUS="incomplete", CODE=str(code)).wait(timeout=60)
    assert ended in (1, code)
    assert called(stage) == ""


def test_what_ends_before_slurms_script_waits_for_it_has_an_exit_code(stage: Path) -> None:
    started = "child=$!\n"
    text = ready("slurm/requeue.sh", stage)
    assert started in text
    gone = started + 'while kill -0 "$child" 2>/dev/null; do sleep 0.01; done\n'
    assert start(stage, text.replace(started, gone), CODE="2").wait(timeout=60) == 2
    assert called(stage) == ""


@pytest.mark.parametrize("scheduler", AGAIN)
def test_a_job_too_short_for_any_task_is_not_tried_again(scheduler: str, stage: Path) -> None:
    text = ready(f"{scheduler}/requeue.sh", stage)
    needed = {"NEEDED": ', "needed_walltime_s": 9000.0'}
    assert start(stage, text, STATUS="incomplete", CODE="75", **needed).wait(timeout=60) == 1
    assert called(stage) == ""


@pytest.mark.parametrize("word", ["--fresh", "--no-store"])
def test_a_job_that_would_start_from_nothing_for_ever_is_refused(word: str) -> None:
    options = ["--threads", "2", word]
    with pytest.raises(InputError, match=f"--requeue: with {word} the job would start from noth"):
        render_jobscript("pbs", "w.json", options=options, job=JobOptions(is_requeued=True))
    assert word in render_jobscript("pbs", "w.json", options=options)


@pytest.mark.parametrize("scheduler", ["slurm", "pbs"])
def test_a_lost_host_is_tried_again_but_not_for_ever(scheduler: str, stage: Path) -> None:
    text = ready(f"{scheduler}/requeue.sh", stage)
    (stage / "input.run.json").write_text(json.dumps({"status": "complete"}))  # of an older run
    counter = {"slurm": "SLURM_RESTART_COUNT", "pbs": "QCMB_RESTARTS"}[scheduler]
    assert start(stage, text, CODE="2").wait(timeout=60) == 2  # the input was refused
    assert start(stage, text, CODE="0", **{counter: "20"}).wait(timeout=60) == 75
    assert called(stage) == ""
    assert start(stage, text, CODE="0", **{counter: "3"}).wait(timeout=60) == 0
    assert called(stage).startswith(AGAIN[scheduler].partition("=")[0])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "name", [f"slurm/{n}.sh" for n in ("single_node", "many_nodes", "srun", "array", "requeue")]
)
def test_the_warning_reaches_the_program(name: str, stage: Path) -> None:
    environ = {"STATUS": "incomplete", "CODE": "75", "WAIT_FOR_USR1": "1"}
    job = start(stage, ready(name, stage), **environ)
    deadline = time.monotonic() + 30
    while not (stage / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    job.send_signal(signal.SIGCONT)  # Slurm sends it along
    job.send_signal(signal.SIGUSR1)
    code = job.wait(timeout=60)
    assert (stage / "warned").exists()
    if name == "slurm/requeue.sh":
        assert (code, called(stage)) == (0, "scontrol requeue 5")
    else:
        assert code == 75

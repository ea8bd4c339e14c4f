"""Batch scripts: one template for each batch system, filled for an input and printed.

Rules of this file
------------------
1. The scripts in ``jobscripts/`` are what :func:`ready_scripts` gives; a test compares them.
2. ``mpiexec``'s exit code proves nothing (it is 0 when a host is lost): the summary tells.
3. Every string of the user's is quoted for the shell, and kept out of the directives.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import string
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePath

from qcmb_mpi.errors import InputError
from qcmb_mpi.machine.topology import read_topology
from qcmb_mpi.machine.walltime import parse_walltime
from qcmb_mpi.report.deadline import clock

SCHEDULERS = ("slurm", "pbs", "lsf", "sge", "flux")

_MPIEXEC = 'mpiexec "${tolerant[@]}" --bind-to none'
# Open MPI 5 can do without ranks that die; other launchers would refuse the option.
_TOLERANCE = (
    '[[ $(mpiexec --version) != *"(Open MPI) "+([5-9]|[1-9][0-9]).* ]]'
    " || tolerant=(--with-ft ulfm)\n"
)
# A host that loses its power or its cable closes no connection; other launchers know no such word.
_KEEPALIVE = (
    "# a lost host is noticed within 15 s, not after 8 minutes\n"
    "export PRTE_MCA_oob_tcp_keepalive_{time=5,intvl=2,probes=3}\n"
)
# How one rank is started on each of many nodes; on one node the program needs no launcher.
_LAUNCH = {
    "slurm": f'{_MPIEXEC} -n "$SLURM_NTASKS"',
    "pbs": f'{_MPIEXEC} -n "$(wc -l <"$PBS_NODEFILE")"',
    "lsf": f'{_MPIEXEC} -n "$(wc -l <"$hosts")" --hostfile "$hosts"',
    "sge": f'{_MPIEXEC} -n "$NHOSTS" --hostfile "$hosts"',
    "flux": 'flux run --nodes="$nodes" --ntasks="$nodes" --exclusive -o pmi=pmix',
}
# Open MPI's wheel reads the hosts of Slurm and PBS by itself, those of LSF and Grid Engine not.
_PREPARE = {
    "lsf": 'hosts=hosts.$LSB_JOBID\nsort -u "$LSB_DJOB_HOSTFILE" >"$hosts"\n',
    "sge": 'hosts=hosts.$JOB_ID\nawk \'{print $1" slots=1"}\' "$PE_HOSTFILE" >"$hosts"\n',
}
_SRUN = 'srun --mpi="$pmi" --cpu-bind=none'
_PMI = "pmi=pmix # as this MPI is started: pmi2 for MPICH"
LAUNCHERS = ("mpiexec", "srun")
_BREAK = " \\\n  "
_RUN = (
    f'"$python" -m qcmb_mpi run "$input" -o "$result" --summary "$summary"{_BREAK}'
    '--walltime "$stop_after" "${options[@]}"'
)
_STATUS = (
    "read_state='import json, sys; s = json.load(open(sys.argv[1]))\n"
    'print("stuck" if "needed_walltime_s" in s else s["status"])\'\n'
    'state=$("$python" -c "$read_state" "$summary" 2>/dev/null)'
)
_MARGIN_S = 300.0
_INPUT_SUFFIXES = (".json", ".yaml", ".yml", ".xyz", ".pdb")


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What the script asks of the batch system.

    Parameters
    ----------
    nodes : int
        Nodes; with one, no MPI is used.
    cores : int or None
        Physical cores of a node, where the batch system wants to be told; this host's by default.
    walltime : str
        ``[[D-]H:]M:S`` or seconds.
    is_requeued : bool
        Put the job back into the queue until the summary says complete.
    path : str or None
        Directory of the programs to put first on ``PATH``, written as it is (``$HOME/env/bin``);
        by default that of this Python, if it is an environment of its own.
    launcher : str
        ``mpiexec``, or ``srun`` under Slurm.
    about : str
        What is known about the run, for whoever reads the settings.
    """

    nodes: int = 1
    cores: int | None = None
    walltime: str = "1:00:00"
    is_requeued: bool = False
    path: str | None = None
    launcher: str = "mpiexec"
    about: str = ""


class _Template(string.Template):
    """``@name`` instead of ``$name``, which is the shell's."""

    delimiter = "@"


def render_jobscript(
    scheduler: str,
    input_path: str | os.PathLike[str],
    *,
    nodes: int = 1,
    options: Sequence[str] = (),
    job: JobOptions | None = None,
) -> str:
    """Write a batch script for one input.

    Parameters
    ----------
    scheduler : str
        ``slurm``, ``pbs``, ``lsf``, ``sge`` or ``flux``.
    input_path : path
        The input, as seen from where the job is submitted; for Slurm also a directory of inputs
        with one suffix, which become an array of jobs.
    nodes : int, optional
        Nodes.
    options : sequence of str, optional
        Words for ``run``. ``--walltime`` becomes the job's limit, and the run is told to stop a
        little earlier; ``-o`` and ``--summary`` go to the script's settings.
    job : JobOptions, optional
        All that is asked of the batch system; its `nodes` wins over `nodes`.

    Returns
    -------
    str
        The script, at most 40 lines.

    Raises
    ------
    InputError
        Unknown scheduler, standard input as input, a walltime that is none, a job that goes back
        into the queue to start from nothing, a directory without inputs, or what only Slurm has.
    """
    source = os.fspath(input_path)
    job = job or JobOptions(nodes=nodes)
    inputs = inputs_in(source) if os.path.isdir(source) else []
    words, walltime = _without(options, "--walltime")
    _check(scheduler, source, job, is_array=bool(inputs))
    _check_can_resume(job, words)
    values = _values(job, parse_walltime(walltime or job.walltime))
    kind = "_requeue" if job.is_requeued else "_array" if inputs else ""
    launch = _LAUNCH[scheduler].replace(_MPIEXEC, _SRUN if job.launcher == "srun" else _MPIEXEC)
    settings = _array_files(source, inputs) if inputs else _files(source, words)
    return _Template(_template(scheduler + kind)).substitute(
        values,
        name=_job_name(source),
        last=len(inputs) - 1,
        settings=_settings(scheduler, settings, words, job, stop_after=values["stop_after"]),
        prepare=_prepare(scheduler, launch) if job.nodes > 1 else "",
        launch=launch + _BREAK if job.nodes > 1 else "",
        run=_RUN,
        status=_STATUS,
    )


def _check(scheduler: str, source: str, job: JobOptions, *, is_array: bool) -> None:
    if scheduler not in SCHEDULERS:
        raise InputError(
            "scheduler", "is not known", value=scheduler, accepted=", ".join(SCHEDULERS)
        )
    if source == "-":
        raise InputError("INPUT", "a batch job has no standard input; name a file", value=source)
    if job.nodes < 1:
        raise InputError("--nodes", "must be at least 1", value=job.nodes)
    if job.launcher not in LAUNCHERS:
        raise InputError("--launcher", "is not known", value=job.launcher)
    if job.launcher == "srun" and scheduler != "slurm":
        raise InputError("--launcher", "srun is Slurm's", value=scheduler)
    if is_array and (scheduler != "slurm" or job.is_requeued):
        why = "is a directory: arrays of jobs are for Slurm, and not with --requeue"
        raise InputError("INPUT", why, value=source)


def inputs_in(directory: str) -> list[Path]:
    """Return the inputs in a directory, sorted as the shell will.

    Raises
    ------
    InputError
        There is none, they are of several kinds, or there are results among them.
    """
    # As the shell's pattern, without hidden files.
    found = sorted(p for p in Path(directory).glob("[!.]*") if p.suffix in _INPUT_SUFFIXES)
    for path in found:
        if path.name.endswith((".result.json", ".run.json")):
            what = f"this directory has results beside inputs, as {path.name}: move them"
            raise InputError("INPUT", what, value=directory)
    kinds = sorted({path.suffix for path in found})
    if len(kinds) != 1:
        what = f"has inputs of several kinds: {', '.join(kinds)}" if kinds else "has no input"
        raise InputError("INPUT", f"this directory {what}", value=directory)
    if Path(directory).samefile(Path.cwd()):
        raise InputError("INPUT", "results would be taken for inputs: name another directory")
    return found


def _array_files(source: str, inputs: Sequence[Path]) -> list[str]:
    pattern = f"{shlex.quote(source.rstrip('/') or source)}/*{inputs[0].suffix}"
    return [f"inputs=({pattern}) # a job for each"]


def _check_can_resume(job: JobOptions, words: Sequence[str]) -> None:
    for word in ("--fresh", "--no-store"):
        if job.is_requeued and word in words:
            message = f"with {word} the job would start from nothing every time, for ever"
            raise InputError("--requeue", f"{message}; leave {word} out")


def ready_scripts() -> dict[str, str]:
    """Give the scripts of ``jobscripts/``: relative path -> text."""
    kinds = {
        "single_node.sh": JobOptions(1, 32, path="$HOME/qcmb/bin"),
        "many_nodes.sh": JobOptions(4, 32, path="$HOME/qcmb/bin"),
        "requeue.sh": JobOptions(4, 32, is_requeued=True, path="$HOME/qcmb/bin"),
    }
    srun = JobOptions(4, 32, launcher="srun", path="$HOME/qcmb/bin")
    return {
        f"{scheduler}/{file}": render_jobscript(scheduler, "input.json", job=job)
        for scheduler in SCHEDULERS
        for file, job in kinds.items()
    } | {
        "slurm/srun.sh": render_jobscript("slurm", "input.json", job=srun),
        "slurm/array.sh": _array_of_ten(kinds["single_node.sh"]),
    }


def _array_of_ten(job: JobOptions) -> str:
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder, "inputs")
        inputs.mkdir()
        for number in range(10):
            (inputs / f"{number}.json").touch()
        return render_jobscript("slurm", inputs, job=job).replace(str(inputs), "inputs")


def _values(job: JobOptions, limit_s: float) -> dict[str, object]:
    cores = job.cores or len(read_topology().cores)
    return {
        "nodes": job.nodes,
        "cores": cores,
        "slots": job.nodes * cores,
        "environment": "smp" if job.nodes == 1 else "mpi",
        "walltime": clock(limit_s),
        "walltime_minutes": max(1, -(-int(limit_s) // 60)),
        "margin_s": math.ceil(_margin_s(limit_s)),
        "stop_after": clock(limit_s - _margin_s(limit_s)),
    }


def _files(source: str, words: Sequence[str]) -> list[str]:
    result = _without(words, "-o", "--output")[1]
    summary = _without(words, "--summary")[1]
    stem = PurePath(source).stem  # as `run` does: in the working directory
    result = result or f"{stem}.result.json"
    summary = summary or f"{result.removesuffix('.json').removesuffix('.result')}.run.json"
    return [
        f"input={shlex.quote(source)}",
        f"result={shlex.quote(result)}",
        f"summary={shlex.quote(summary)} # done when this says complete, whatever exit codes say",
    ]


def _settings(
    scheduler: str, files: Sequence[str], words: list[str], job: JobOptions, *, stop_after: object
) -> str:
    for names in (("-o", "--output"), ("--summary",)):
        words, _ = _without(words, *names)
    path = job.path or _environment_path()
    lines = [
        f"# ---- settings{f' ({job.about})' if job.about else ''}",
        *([f"export PATH={path}:$PATH # where qcmb_mpi is installed"] if path else []),
        "python=$(command -v python) # its full path: other nodes may have another PATH",
        *([f"nodes={job.nodes}"] if scheduler == "flux" and job.nodes > 1 else []),
        *([_PMI] if job.launcher == "srun" and job.nodes > 1 else []),
        *files,
        f"stop_after={stop_after} # the time limit less a margin; stopped, the same job resumes",
        f"options=({shlex.join(words)}) # of `qcmb-mpi run`",
        "# ----",
    ]
    return "\n".join(lines)


def _prepare(scheduler: str, launch: str) -> str:
    tolerance = _TOLERANCE + _KEEPALIVE if _MPIEXEC in launch else ""
    return _PREPARE.get(scheduler, "") + tolerance


def _template(name: str) -> str:
    return resources.files("qcmb_mpi").joinpath("templates", f"{name}.sh").read_text("utf-8")


def _without(options: Sequence[str], *names: str) -> tuple[list[str], str | None]:
    """Take ``--name value``, ``--name=value`` or ``-ovalue`` out of the options of ``run``."""
    kept: list[str] = []
    value: str | None = None
    words = iter(options)
    for word in words:
        name, has_value, text = word.partition("=")
        if word in names:
            value = next(words, None)
        elif has_value and name in names:
            value = text
        elif word[:2] in names and len(word) > 2:
            value = word[2:]
        else:
            kept.append(word)
    return kept, value


def _margin_s(limit_s: float) -> float:
    """Leave 5 minutes, in short jobs a tenth, to finish what runs and to write."""
    return min(_MARGIN_S, limit_s / 10)


def _job_name(source: str) -> str:
    """Make a name that every batch system takes: 15 characters, a letter first."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", PurePath(source).stem)[:15]
    return name if name[:1].isalpha() else f"qcmb_{name}"[:15]


def _environment_path() -> str | None:
    is_own = sys.prefix != sys.base_prefix or (Path(sys.prefix) / "conda-meta").is_dir()
    return shlex.quote(str(Path(sys.executable).parent)) if is_own else None


def _write_ready_scripts(directory: Path) -> None:
    for name, text in ready_scripts().items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)


if __name__ == "__main__":
    _write_ready_scripts(Path(sys.argv[1]))

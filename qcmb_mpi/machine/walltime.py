"""How long the job may still run: as the user writes it, and as the batch system knows it.

Rules of this file
------------------
1. A batch system that cannot be asked, or not within seconds, is no deadline: None, never an error.
2. What a batch system calls the limit counts from the job's start; what is returned, from now.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from qcmb_mpi.errors import InputError

_QUERY_TIMEOUT_S = 5.0
_ACCEPTED = "[[D-]H:]M:S or seconds: 1-12:00:00, 2:30:00, 45:00, 600"
_CLOCK = re.compile(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+(?:\.\d+)?)")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def parse_walltime(text: str) -> float:
    """Read a duration.

    Parameters
    ----------
    text : str
        ``[[D-]H:]M:S`` or plain seconds; only the leading field may exceed its clock's range.

    Returns
    -------
    float
        Seconds, more than 0.

    Raises
    ------
    InputError
        Naming ``--walltime`` if it is none.
    """
    seconds = _clock_s(text.strip())
    if seconds is None:
        raise InputError("--walltime", "not a duration", value=text, accepted=_ACCEPTED)
    if seconds <= 0:
        raise InputError("--walltime", "must be more than 0", value=text, accepted=_ACCEPTED)
    return seconds


def batch_deadline_s(
    environ: Mapping[str, str],
    run: Run = subprocess.run,
    *,
    now: float | None = None,
    job_age_s: Callable[[str, str], float] | None = None,
) -> float | None:
    """Tell how many seconds the batch system leaves this job.

    Parameters
    ----------
    environ : Mapping of str to str
        The rank's environment.
    run : callable, optional
        As :func:`subprocess.run`.
    now : float, optional
        Seconds since 1970.
    job_age_s : callable, optional
        ``(variable, value)`` -> seconds since the oldest process above this one that has the
        variable at this value was started; for systems that tell only the whole limit.

    Returns
    -------
    float or None
        At least 0; None outside a job, without a limit, and where the system does not answer
        within 5 s.
    """
    age_s = job_age_s or _oldest_relative_s
    for ask in (_slurm_s, _pbs_s, _lsf_s, _flux_s, _sge_s):
        left_s = ask(_Asked(environ, run, time.time() if now is None else now, age_s))
        if left_s is not None:
            return max(0.0, left_s)
    return None


class _Asked:
    """What the readers of one batch system each need."""

    def __init__(
        self,
        environ: Mapping[str, str],
        run: Run,
        now: float,
        job_age_s: Callable[[str, str], float],
    ) -> None:
        self.environ, self.run, self.now, self.job_age_s = environ, run, now, job_age_s

    def output(self, command: Sequence[str]) -> str:
        """Give a command's output; empty where it fails in any way."""
        try:
            done = self.run(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                timeout=_QUERY_TIMEOUT_S,
                env=dict(self.environ),  # as it is: squeue needs SLURM_CONF
                check=True,
            )
        except (OSError, subprocess.SubprocessError, ValueError):
            return ""
        return done.stdout or ""

    def left_of(self, limit_s: float | None, variable: str) -> float | None:
        """Subtract the age of the job that ``variable`` names from its limit."""
        if limit_s is None:
            return None
        return limit_s - self.job_age_s(variable, self.environ[variable])


def _slurm_s(asked: _Asked) -> float | None:
    job = asked.environ.get("SLURM_JOB_ID")
    if not job:
        return None
    end = _number(asked.environ.get("SLURM_JOB_END_TIME", ""))
    if end is not None:
        return end - asked.now
    return _clock_s(asked.output(["squeue", "-h", "-j", job, "-o", "%L"]).strip())


def _pbs_s(asked: _Asked) -> float | None:
    job = asked.environ.get("PBS_JOBID")
    if not job:
        return None
    limit_s = _clock_s(asked.environ.get("PBS_WALLTIME", ""))
    if limit_s is None:
        listed = re.search(
            r"Resource_List\.walltime\s*=\s*(\S+)", asked.output(["qstat", "-f", job])
        )
        limit_s = _clock_s(listed[1]) if listed else None
    return asked.left_of(limit_s, "PBS_JOBID")


def _lsf_s(asked: _Asked) -> float | None:
    job = asked.environ.get("LSB_JOBID")
    if not job:
        return None
    index = asked.environ.get("LSB_JOBINDEX", "0")
    name = job if index in ("", "0") else f"{job}[{index}]"
    # "H:M L": what is left of a run limit; E instead of L is an estimate that nobody enforces.
    left = re.match(
        r"\s*(\d+):(\d+)\s+L", asked.output(["bjobs", "-noheader", "-o", "time_left", name])
    )
    return 3600.0 * int(left[1]) + 60.0 * int(left[2]) if left else None


def _flux_s(asked: _Asked) -> float | None:
    if "FLUX_JOB_ID" not in asked.environ and "FLUX_URI" not in asked.environ:
        return None
    left_s = _number(asked.output(["flux", "job", "timeleft"]).strip())
    return None if left_s is None or math.isinf(left_s) else left_s


def _sge_s(asked: _Asked) -> float | None:
    if "SGE_ROOT" not in asked.environ or not asked.environ.get("JOB_ID"):
        return None
    listed = re.search(r"\bh_rt=([\d:]+)", asked.output(["qstat", "-j", asked.environ["JOB_ID"]]))
    return asked.left_of(_clock_s(listed[1]) if listed else None, "JOB_ID")


def _clock_s(text: str) -> float | None:
    """Read ``[[D-]H:]M:S`` or seconds; None for anything else (``UNLIMITED``)."""
    if _number(text) is not None:
        return _number(text)
    match = _CLOCK.fullmatch(text)
    if match is None:
        return None
    days, hours, minutes, seconds = (float(field or 0) for field in match.groups())
    is_within = seconds < 60 and (match[2] is None or minutes < 60)
    if not is_within or (match[1] is not None and hours >= 24):
        return None
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None


def _oldest_relative_s(variable: str, value: str) -> float:
    """Age of the oldest process above this one that belongs to the job; 0 where unknown."""
    import psutil

    oldest: float = time.time()
    try:
        for process in (psutil.Process(), *psutil.Process().parents()):
            if process.environ().get(variable) != value:
                break
            oldest = min(oldest, process.create_time())
    except psutil.Error:
        pass  # above the job: another user's process
    return time.time() - oldest


def process_start_s(now: float) -> float:
    """Tell when this process began, on the clock of `now`.

    Parameters
    ----------
    now : float
        ``time.monotonic()`` of this moment.

    Returns
    -------
    float
        Never later than `now`.
    """
    return now - max(_age_s(), 0.0)


def _age_s() -> float:
    """Return the age of this process; the kernel's own figure is good to 10 ms."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started_s
    except (OSError, AttributeError):  # no Linux
        import psutil

        return time.time() - float(psutil.Process().create_time())

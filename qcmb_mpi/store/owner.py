"""Who holds a lock, and whether that process can be known to be gone.

Rules of this file
------------------
1. "Gone" is only said of what is certain: a process of this kernel that lives no more, or an
   earlier start of this same batch job. All else is for the lease to find out.
2. What a lock file says is text from a disk: it is checked before it is used.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

_DEAD_STATES = "ZX"
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a lock.

    Parameters
    ----------
    host : str
        Host name.
    pid : int
        Process number.
    namespace : str
        Of process numbers: boot of the kernel and container; empty where unknown.
    process_start : str
        The kernel's start time of the process, to tell a reused number; empty where unknown.
    since : str
        When the lock was taken, ISO 8601, UTC.
    token : str
        Unique to this taking.
    job : str
        Batch system and job id; empty outside of jobs.
    n_restarts : int
        How often that job had been requeued, where the batch system tells.
    """

    host: str
    pid: int
    namespace: str
    process_start: str
    since: str
    token: str
    job: str = ""
    n_restarts: int = 0

    def __str__(self) -> str:
        job = f" ({self.job})" if self.job else ""
        return f"process {self.pid} on {self.host}{job} since {self.since}"

    def is_near(self) -> bool:
        """Tell whether this process can see the owner's: same host, kernel and container."""
        return (self.host, self.namespace) == (socket.gethostname(), _namespace())

    def is_gone(self) -> bool:
        """Tell whether the owner certainly lives no more."""
        if self.is_superseded():
            return True
        if not self.is_near():
            return False
        if not _is_alive(self.pid):
            return True
        started = process_start(self.pid)
        return bool(started and self.process_start) and started != self.process_start

    def is_superseded(self) -> bool:
        """Tell whether this process is of a later start of the owner's job.

        A batch system restarts a job when it has ended the earlier start or given its node up.
        """
        job, n_restarts = batch_job(os.environ)
        return bool(job) and job == self.job and n_restarts > self.n_restarts

    def to_json(self) -> str:
        """Give the text of a lock file."""
        return json.dumps(asdict(self))


def this_process() -> Owner:
    """Describe this process as the owner of a lock that it takes now."""
    pid = os.getpid()
    job, n_restarts = batch_job(os.environ)
    return Owner(
        host=socket.gethostname(),
        pid=pid,
        namespace=_namespace(),
        process_start=process_start(pid),
        since=datetime.fromtimestamp(time.time(), timezone.utc).isoformat(timespec="seconds"),
        token=uuid.uuid4().hex,
        job=job,
        n_restarts=n_restarts,
    )


def parse_owner(text: str) -> Owner | None:
    """Read the text of a lock file.

    Parameters
    ----------
    text : str
        Whatever it holds.

    Returns
    -------
    Owner or None
        None if it names no owner.
    """
    try:
        owner = Owner(**json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return None
    is_sound = all(
        type(value) is (int if name in ("pid", "n_restarts") else str)
        for name, value in asdict(owner).items()
    )
    return owner if is_sound and 0 < owner.pid < 2**31 else None


def batch_job(environ: Mapping[str, str]) -> tuple[str, int]:
    """Find the batch job that this process belongs to.

    Parameters
    ----------
    environ : mapping
        The environment.

    Returns
    -------
    job : str
        Batch system and job id; empty outside of jobs.
    n_restarts : int
        How often it was requeued: counted by Slurm, yes or no in Grid Engine, else 0.
    """
    get = environ.get
    if get("SLURM_JOB_ID"):
        cluster = get("SLURM_CLUSTER_NAME", "")
        name = f"Slurm job {environ['SLURM_JOB_ID']}" + (f" of {cluster}" if cluster else "")
        return name, _count(get("SLURM_RESTART_COUNT"))
    if get("PBS_JOBID"):
        return f"PBS job {environ['PBS_JOBID']}", 0
    if get("LSB_JOBID"):
        return f"LSF job {environ['LSB_JOBID']}[{get('LSB_JOBINDEX', '0')}]", 0
    if get("JOB_ID") and get("SGE_TASK_ID"):  # JOB_ID alone may be anybody's variable
        name = f"Grid Engine job {environ['JOB_ID']}.{environ['SGE_TASK_ID']}"
        return name, _count(get("RESTARTED"))
    if get("FLUX_JOB_ID"):
        return f"Flux job {environ['FLUX_JOB_ID']}", 0
    return "", 0


def process_start(pid: int) -> str:
    """Read the kernel's start time of a process; empty if it cannot be known."""
    fields = _stat_fields(pid)
    return fields[19] if len(fields) > 19 else ""


def _count(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() else 0


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    fields = _stat_fields(pid)
    return not fields or fields[0] not in _DEAD_STATES


def _stat_fields(pid: int) -> list[str]:
    """Read ``/proc/<pid>/stat`` from the state on (the name before it may hold anything)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (OSError, ValueError):
        return []


def _namespace() -> str:
    """Name the kernel and the container: hosts may share names, and containers a host."""
    try:
        return f"{_BOOT.read_text(encoding='ascii').strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""

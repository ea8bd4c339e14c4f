"""What this process may really use of its host: CPUs and memory, and who says so.

Rules of this file
------------------
1. The smallest of all limits that are written anywhere counts; each leaves a sentence.
2. Read in the rank, before a child's environment loses the batch system's variables.
3. The batch system's counts may be for the whole job: only what it says of this host is used.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qcmb_mpi.errors import InputError
from qcmb_mpi.machine.affinity import allocation_mask
from qcmb_mpi.machine.cgroups import Granted, cpu_quotas, memory_limits
from qcmb_mpi.machine.topology import (
    format_cpu_list,
    memory_here_bytes,
    memory_total_bytes,
    parse_cpu_list,
    read_numa_domains,
    read_text,
)

_UNITS = {
    "": 1,
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", start=1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", start=1)},
    # A bare letter is what batch systems and the kernel mean by it.
    **{letter: 1024**power for power, letter in enumerate("kmgt", start=1)},
}
_DATA = "RLIMIT_DATA (ulimit -d)"
_SIZES = "a number of bytes or with a unit: 8GB, 900MiB, 4G (= 4GiB)"


@dataclass(frozen=True, slots=True)
class Limits:
    """What is granted on this host.

    Parameters
    ----------
    cpus : frozenset of int
        CPUs that the allocation's mask allows.
    n_cpus : int
        How many of them may be busy at once, at least 1.
    memory_bytes : int
        Memory for all ranks of this host together.
    notes : tuple of str
        A sentence for each limit that was found, CPUs before memory, the smallest first.
    """

    cpus: frozenset[int]
    n_cpus: int
    memory_bytes: int
    notes: tuple[str, ...]

    @property
    def is_mask_exact(self) -> bool:
        """Whether all CPUs of the mask are ours, so that pinning to them disturbs no other job."""
        return self.n_cpus == len(self.cpus)


def read_limits(
    root: Path | str = "/",
    environ: Mapping[str, str] | None = None,
    *,
    is_binding_respected: bool = False,
) -> Limits:
    """Read every limit on CPUs and memory.

    Parameters
    ----------
    root : path, optional
        Where ``proc`` and ``sys`` are, and any file that the environment names.
    environ : Mapping of str to str, optional
        The rank's environment; this process's by default.
    is_binding_respected : bool, optional
        Passed to :func:`~qcmb_mpi.machine.affinity.allocation_mask`.

    Returns
    -------
    Limits
    """
    environ = os.environ if environ is None else environ
    root = Path(root)
    mask = allocation_mask(is_binding_respected, root=root) or frozenset({0})
    host = _short(read_text(root / "proc/sys/kernel/hostname") or platform.node())
    by_batch = _batch_cpus(environ, root, host)
    cpus = [Granted(len(mask), f"the affinity mask {format_cpu_list(mask)}")]
    cpus += cpu_quotas(root) + by_batch
    memory = _batch_memory(environ) + memory_limits(root) + _process_limits(root)
    total = memory_total_bytes(root) or memory_here_bytes()
    memory += [*_domains_memory(root, total), Granted(total, "the machine's total")]
    cpus.sort(key=lambda granted: granted.amount)
    memory.sort(key=lambda granted: granted.amount)
    return Limits(
        cpus=mask,
        n_cpus=cpus[0].amount,
        memory_bytes=memory[0].amount,
        notes=tuple(
            [f"{limit.amount} CPUs by {limit.source}" for limit in cpus]
            + [f"{format_memory(limit.amount)} by {limit.source}" for limit in memory]
        ),
    )


def parse_memory(text: str | int) -> int:
    """Read a memory size.

    Parameters
    ----------
    text : str or int
        Bytes, or a number with a unit: ``8GB`` = 8e9, ``900MiB``, ``4G`` = 4 GiB; case is free.

    Returns
    -------
    int
        Bytes, at least 1.

    Raises
    ------
    InputError
        Naming ``--memory`` if it is none.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(text))
    factor = _UNITS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise InputError("--memory", "not a memory size", value=text, accepted=_SIZES)
    number = match[1]
    n_bytes = int(number) * factor if number.isdecimal() else int(float(number) * factor)
    if n_bytes < 1:
        raise InputError("--memory", "must be at least one byte", value=text, accepted=_SIZES)
    return n_bytes


def format_memory(n_bytes: int) -> str:
    """Write bytes for people: ``23.5 GiB``."""
    size = float(n_bytes)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"


def _batch_cpus(environ: Mapping[str, str], root: Path, host: str) -> list[Granted]:
    found: dict[str, int | None] = {}
    if "SLURM_JOB_ID" in environ:
        found["Slurm (SLURM_CPUS_ON_NODE)"] = _slurm_cpus(environ)
    if "PBS_JOBID" in environ or "PBS_NODEFILE" in environ:
        # PBS writes a line per MPI process, Torque one per CPU: NCPUS and the lines are both lower
        # bounds of what was granted.
        lines = _lines(environ, root, "PBS_NODEFILE")
        n_lines = sum(_short(line) == host for line in lines)
        found["PBS (PBS_NODEFILE, NCPUS)"] = max(n_lines, _count(environ, "NCPUS") or 0)
    if "LSB_DJOB_NUMPROC" in environ or "LSB_MCPU_HOSTS" in environ:
        found["LSF (LSB_MCPU_HOSTS, LSB_DJOB_NUMPROC)"] = _lsf_cpus(environ, host)
    if "NSLOTS" in environ and ("PE_HOSTFILE" in environ or "JOB_ID" in environ):
        found["Grid Engine (PE_HOSTFILE, NSLOTS)"] = _sge_cpus(environ, root, host)
    return [Granted(amount, source) for source, amount in found.items() if amount]


def _slurm_cpus(environ: Mapping[str, str]) -> int | None:
    """Count this node's CPUs; a shell of ``salloc`` has only ``4(x2)``, good if all are alike."""
    alike = re.fullmatch(r"(\d+)(?:\(x\d+\))?", environ.get("SLURM_JOB_CPUS_PER_NODE", ""))
    return _count(environ, "SLURM_CPUS_ON_NODE") or (int(alike[1]) if alike else None)


def _lsf_cpus(environ: Mapping[str, str], host: str) -> int | None:
    """Count this host's slots; LSB_MCPU_HOSTS is ``host n host n ...``."""
    words = environ.get("LSB_MCPU_HOSTS", "").split()
    for name, count in zip(words[::2], words[1::2], strict=False):
        if _short(name) == host and count.isdecimal():
            return int(count)
    return _count(environ, "LSB_DJOB_NUMPROC") if len(words) <= 2 else None


def _sge_cpus(environ: Mapping[str, str], root: Path, host: str) -> int | None:
    """Count this host's slots; a PE_HOSTFILE line is ``host slots queue ...``."""
    slots = 0
    for line in _lines(environ, root, "PE_HOSTFILE"):
        words = line.split()
        if len(words) >= 2 and _short(words[0]) == host and words[1].isdecimal():
            slots += int(words[1])
    is_single = _count(environ, "NHOSTS") in (None, 1)
    return slots or (_count(environ, "NSLOTS") if is_single else None)


def _batch_memory(environ: Mapping[str, str]) -> list[Granted]:
    if "SLURM_JOB_ID" not in environ:
        return []
    per_node = _count(environ, "SLURM_MEM_PER_NODE")  # 0 asks for all of the node
    if per_node:
        return [Granted(per_node * 2**20, "Slurm (SLURM_MEM_PER_NODE)")]
    per_cpu, n_cpus = _count(environ, "SLURM_MEM_PER_CPU"), _slurm_cpus(environ)
    if per_cpu and n_cpus:
        return [Granted(per_cpu * n_cpus * 2**20, "Slurm (SLURM_MEM_PER_CPU)")]
    return []


def _process_limits(root: Path) -> list[Granted]:
    """Read the limits that make an allocation fail; resident memory is not limited by any."""
    text = read_text(root / "proc/self/limits")
    found = []
    for name, source in (("address space", "RLIMIT_AS (ulimit -v)"), ("data size", _DATA)):
        soft = re.search(rf"^Max {name}\s+(\d+)\s", text, re.M)
        if soft:
            found.append(Granted(int(soft[1]), source))
    return found


def _domains_memory(root: Path, total_bytes: int) -> list[Granted]:
    """Leave out memory that programs are not to count on.

    That is what the job's ``cpuset.mems`` forbids, and domains without CPUs: on Grace they are the
    memory of GPUs, elsewhere slow memory behind an expander.
    """
    domains = read_numa_domains(root)
    status = read_text(root / "proc/self/status")
    listed = re.search(r"^Mems_allowed_list:\s*(\S+)", status, re.M)
    allowed = set(parse_cpu_list(listed[1])) if listed else {domain.index for domain in domains}
    ours = {domain.index for domain in domains if domain.cpus and domain.index in allowed}
    left_out_bytes = sum(domain.memory_bytes or 0 for domain in domains if domain.index not in ours)
    if not ours or not 0 < left_out_bytes < total_bytes:
        return []
    source = f"the NUMA domains allowed that have CPUs ({format_cpu_list(ours)})"
    return [Granted(total_bytes - left_out_bytes, source)]


def _count(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "").strip()
    return int(text) if text.isdecimal() else None


def _lines(environ: Mapping[str, str], root: Path, name: str) -> list[str]:
    path = environ.get(name, "")
    return read_text(root / path.lstrip("/")).split("\n") if path else []


def _short(host: str) -> str:
    return host.strip().partition(".")[0].lower()

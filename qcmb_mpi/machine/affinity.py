"""Which CPUs the job was given, and how co-located ranks and slots divide them.

Rules of this file
------------------
1. Open MPI's ``mpiexec`` and ``srun`` bind each rank to one core. That is a default, not a
   decision: the allocation's mask is looked up behind it, unless the caller respects the binding.
2. A core is never cut: SMT siblings stay together while there are cores enough.
3. Pinning is a help, never a condition: where it is refused the run goes on without.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qcmb_mpi.machine.cgroups import slurm_cpuset
from qcmb_mpi.machine.topology import Topology, format_cpu_list, parse_cpu_list, read_text

# /proc/PID/comm, which the kernel cuts at 15 characters.
_DAEMONS = frozenset(
    {
        "prterun",
        "prted",
        "prte",
        "orterun",
        "orted",
        "mpirun",
        "mpiexec",
        "mpiexec.hydra",
        "hydra_pmi_proxy",
        "pmi_proxy",
    }
)
_SHELLS = frozenset({"sh", "bash", "dash", "ash", "ksh", "zsh"})
_SLURM = "slurmstepd"


def allocation_mask(
    is_binding_respected: bool = False, *, root: Path | str = "/"
) -> frozenset[int]:
    """Give the CPUs of the allocation, before a launcher bound this rank to some of them.

    Parameters
    ----------
    is_binding_respected : bool, optional
        Take this process's own mask, as the launcher set it.
    root : path, optional
        Where ``proc`` and ``sys`` are.

    Returns
    -------
    frozenset of int
        The mask of the launcher's daemon (this process's parent, or grandparent behind one shell),
        or of the Slurm step's cpuset; this process's own mask where neither is there. Every rank of
        a host gets the same set under ``mpiexec``; a rank of an ``srun`` step without cpuset keeps
        its own. All known CPUs on systems without affinity.
    """
    proc = Path(root) / "proc"
    own = _mask(proc, "self")
    if not own:
        return _own_mask() if Path(root) == Path("/") else frozenset()
    if is_binding_respected:
        return own
    wider = _launchers_mask(proc, own, Path(root))
    return wider if own < wider else own


def divide(cpus: Iterable[int], topology: Topology, n_parts: int) -> list[tuple[int, ...]]:
    """Divide CPUs among ranks or slots by whole cores, NUMA domain by NUMA domain.

    Parameters
    ----------
    cpus : iterable of int
        What there is to divide.
    topology : Topology
        Of this host.
    n_parts : int
        At least 1.

    Returns
    -------
    list of tuple of int
        ``n_parts`` parts. In each, one CPU per core comes first and the siblings follow, so that
        ``part[:n]`` are n different cores as far as they reach. The parts cover ``cpus``, are
        disjoint while there are cores enough, and differ by at most one core; as far as that
        leaves a choice, a part begins where a NUMA domain or else a cache does. With more parts
        than cores, part i shares core ``i mod n_cores``.

    Raises
    ------
    ValueError
        If there is no CPU or ``n_parts`` is below 1.
    """
    cores = topology.cores_of(cpus)
    if not cores or n_parts < 1:
        raise ValueError(f"cannot divide {len(cores)} cores into {n_parts} parts")
    if n_parts > len(cores):
        return [cores[part % len(cores)] for part in range(n_parts)]
    edges = _edges(cores, topology, n_parts)
    return [_cores_first(cores[edges[i] : edges[i + 1]]) for i in range(n_parts)]


def divide_among_ranks(
    masks: Sequence[Iterable[int]], local_rank: int, topology: Topology
) -> tuple[int, ...]:
    """Give one of a host's ranks its CPUs, from the masks of all ranks on the host.

    Parameters
    ----------
    masks : sequence of iterable of int
        ``allocation_mask()`` of every rank on this host, in the order of their local ranks.
    local_rank : int
        Whose share is wanted.
    topology : Topology
        Of this host.

    Returns
    -------
    tuple of int
        The whole own mask where no two masks overlap (each rank was given its own); otherwise an
        equal share of all of them together.
    """
    sets = [frozenset(mask) for mask in masks]
    together = frozenset().union(*sets)
    if sum(len(mask) for mask in sets) == len(together):
        return _cores_first(topology.cores_of(sets[local_rank]))
    return divide(together, topology, len(sets))[local_rank]


@dataclass(frozen=True, slots=True)
class Pinning:
    """What came of an attempt to bind a process.

    Parameters
    ----------
    cpus : tuple of int
        Where it may run now, ascending; empty where nobody can tell.
    note : str
        Why that is not what was asked for; empty if it is.
    """

    cpus: tuple[int, ...]
    note: str = ""

    @property
    def is_exact(self) -> bool:
        """Whether the process is bound as asked."""
        return not self.note


def pin_process(cpus: Iterable[int], pid: int = 0) -> Pinning:
    """Bind a process to ``cpus``, or to those of them that it may use.

    Parameters
    ----------
    cpus : iterable of int
        The wanted mask.
    pid : int, optional
        All threads of that process; 0 binds the calling thread and what it starts.

    Returns
    -------
    Pinning
        Never an error: where binding is refused the process runs on as it was.
    """
    wanted = frozenset(cpus)
    if not can_pin():
        return Pinning((), f"{sys.platform} has no affinity masks: threads are not pinned")
    try:
        for thread in _threads(pid):
            os.sched_setaffinity(thread, wanted)
        now = frozenset(os.sched_getaffinity(pid))
    except (OSError, ValueError, OverflowError) as error:
        return _refused(error, pid)
    if now == wanted:
        return Pinning(tuple(sorted(now)))
    lost = format_cpu_list(wanted - now)
    return Pinning(tuple(sorted(now)), f"CPUs {lost} are not in the job's cpuset")


def can_pin() -> bool:
    """Whether this system has affinity masks at all: Linux has, macOS and Windows have not."""
    return hasattr(os, "sched_setaffinity")


def pin(cpus: Iterable[int]) -> bool:
    """Bind the calling thread, and what it starts from now on, to ``cpus``.

    Parameters
    ----------
    cpus : iterable of int
        The new mask.

    Returns
    -------
    bool
        Whether the mask now is exactly ``cpus``; False where it is refused or unsupported.
    """
    return pin_process(cpus).is_exact


@contextlib.contextmanager
def pinned(cpus: Iterable[int]) -> Iterator[None]:
    """Bind the calling thread meanwhile; what it starts stays bound that way.

    Parameters
    ----------
    cpus : iterable of int
        The mask.
    """
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    pin(cpus)
    try:
        yield
    finally:
        if before is not None:
            pin(before)


def _threads(pid: int) -> list[int]:
    """Give the threads of a process; the first one alone where ``/proc`` does not list them."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")] if pid else [0]
    except OSError:
        return [pid]


def _refused(error: Exception, pid: int) -> Pinning:
    code = getattr(error, "errno", None)
    reasons = {
        errno.EPERM: "the process belongs to another user",
        errno.EINVAL: "none of these CPUs is in the job's cpuset",
        errno.ESRCH: "there is no such process",
    }
    reason = reasons.get(code or 0, str(error) or type(error).__name__)
    try:
        now = tuple(sorted(os.sched_getaffinity(pid)))
    except OSError:
        now = ()
    return Pinning(now, f"pinning was refused: {reason}")


def _edges(cores: Sequence[tuple[int, ...]], topology: Topology, n_parts: int) -> list[int]:
    """Cut a sequence of cores into equal parts, at borders where rounding leaves a choice."""
    shares = [part * len(cores) for part in range(n_parts + 1)]
    plain = [share // n_parts for share in shares]
    kinds = topology.borders(cores)
    edges = []
    for low, high in zip(plain, (-(-share // n_parts) for share in shares), strict=True):
        wanted = [edge for borders in kinds for edge in (low, high) if edge in borders]
        edges.append(wanted[0] if wanted else low)
    sizes = [last - first for first, last in itertools.pairwise(edges)]
    return edges if max(sizes) - min(sizes) <= 1 else plain


def _launchers_mask(proc: Path, own: frozenset[int], root: Path) -> frozenset[int]:
    parent = _parent(proc, "self")
    name = read_text(proc / parent / "comm").strip()
    # One shell may stand between; if the mask changed behind it, somebody bound on purpose.
    if name in _SHELLS and _mask(proc, parent) == own:
        parent = _parent(proc, parent)
        name = read_text(proc / parent / "comm").strip()
    if name in _DAEMONS:
        return _mask(proc, parent)
    if name == _SLURM:
        return slurm_cpuset(root)
    return frozenset()


def _mask(proc: Path, process: str) -> frozenset[int]:
    status = read_text(proc / process / "status")
    found = re.search(r"^Cpus_allowed_list:\s*(\S+)", status, re.M)
    return frozenset(parse_cpu_list(found[1])) if found else frozenset()


def _parent(proc: Path, process: str) -> str:
    found = re.search(r"^PPid:\s*(\d+)", read_text(proc / process / "status"), re.M)
    return found[1] if found else "0"


def _own_mask() -> frozenset[int]:
    return frozenset(range(os.cpu_count() or 1))


def _cores_first(cores: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    depth = max(len(core) for core in cores)
    return tuple(core[i] for i in range(depth) for core in cores if i < len(core))

"""Who started this process, as which of how many ranks, and what its children must not see.

Rules of this file
------------------
1. Everything is a function of an environment mapping; nothing here starts or asks anything.
2. The innermost launcher wins: ``mpiexec`` daemons may themselves be tasks of a Slurm step and hand
   the step's variables down, so Open MPI's and hydra's own variables are looked at before Slurm's.
3. A batch script is not a launcher: a plain process in an allocation is one process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from qcmb_mpi.errors import TopologyError

# Slurm numbers its own steps (batch, extern, interactive, pending) down from 2**32 - 1.
_FIRST_SPECIAL_STEP = 0xFFFFFFF0

_CHILD_PREFIXES = (
    "OMPI_",
    "PMIX_",
    "PRTE_",
    "OPAL_",
    "PMI_",
    "HYDI_",
    "HYDRA_",
    "MPI_LOCAL",
    "MPIR_",
    "SLURM_",
    "MV2_COMM_WORLD_",
    "PALS_",
    "FLUX_",
)
# An MPI program inside one task runs on this host's cores: the batch system's list of hosts would
# send it to the job's first host, or have it refused for want of slots.
_CHILD_NAMES = frozenset(
    {
        "PBS_ENVIRONMENT",
        "PBS_NODEFILE",
        "PE_HOSTFILE",
        "LSB_JOBID",
        "LSB_HOSTS",
        "LSB_MCPU_HOSTS",
        "LSB_DJOB_HOSTFILE",
        "LSB_DJOB_RANKFILE",
        "LSB_AFFINITY_HOSTFILE",
    }
)
_CHILD_KEPT = "OMPI_ALLOW_RUN_AS_ROOT"
_LIBRARY_PATHS = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True)
class Launcher:
    """What a launcher told this process.

    Parameters
    ----------
    name : str
        ``"Open MPI"``, ``"MPICH"`` (any hydra, so Intel MPI too), ``"MVAPICH"``, ``"Flux"``,
        ``"Slurm"`` or ``"PMIx"``.
    size : int or None
        Ranks it started; None where it does not say.
    rank : int or None
        This process's rank.
    local_size, local_rank : int or None
        The same on this host.
    """

    name: str
    size: int | None
    rank: int | None
    local_size: int | None = None
    local_rank: int | None = None


# Name, then the variables of size, rank, local size and local rank; the first size found wins.
_LAUNCHERS = (
    (
        "Open MPI",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
    ),
    (
        "MVAPICH",
        "MV2_COMM_WORLD_SIZE",
        "MV2_COMM_WORLD_RANK",
        "MV2_COMM_WORLD_LOCAL_SIZE",
        "MV2_COMM_WORLD_LOCAL_RANK",
    ),
    ("MPICH", "PMI_SIZE", "PMI_RANK", "MPI_LOCALNRANKS", "MPI_LOCALRANKID"),
)


def launcher(environ: Mapping[str, str]) -> Launcher | None:
    """Tell which launcher started this process.

    Parameters
    ----------
    environ : Mapping of str to str
        The process's environment.

    Returns
    -------
    Launcher or None
        None for a process that was started plainly, also inside a batch script.
    """
    step = _slurm_step(environ)
    for name, *variables in _LAUNCHERS:
        size = _integer(environ, variables[0])
        if size is None:
            continue
        rank, local_size, local_rank = (_integer(environ, variable) for variable in variables[1:])
        if name == "MPICH" and local_size is None:  # hydra always tells the local size
            if step is not None:
                return step
            if "FLUX_JOB_ID" in environ:
                name = "Flux"
        return Launcher(name, size, rank, local_size, local_rank)
    if step is not None:
        return step
    if "PMIX_RANK" in environ:
        return Launcher("PMIx", None, _integer(environ, "PMIX_RANK"))
    return None


def wants_mpi(environ: Mapping[str, str]) -> bool:
    """Tell whether ``--executor auto`` means MPI: more than one rank, or an unknown number.

    Parameters
    ----------
    environ : Mapping of str to str
        The process's environment.

    Returns
    -------
    bool
    """
    found = launcher(environ)
    return found is not None and (found.size is None or found.size > 1)


def leads_node(environ: Mapping[str, str]) -> bool:
    """Tell whether this rank does what needs doing once on each node.

    Parameters
    ----------
    environ : Mapping of str to str
        The process's environment.

    Returns
    -------
    bool
        Also where the launcher does not say which rank of its node this is.
    """
    found = launcher(environ)
    return found is None or not found.local_rank


def check_world(environ: Mapping[str, str], world_size: int, library: str = "") -> None:
    """Refuse an MPI world that is not the one the launcher started.

    An MPI library that does not understand the launcher starts every rank as a world of its own: N
    masters that each do all the work.

    Parameters
    ----------
    environ : Mapping of str to str
        The process's environment.
    world_size : int
        Size of ``MPI.COMM_WORLD``, or 1 where MPI was not started.
    library : str, optional
        What mpi4py loaded (``MPI.Get_library_version()``); its first line is shown.

    Raises
    ------
    TopologyError
        If the launcher started another number of ranks; says what to do.
    """
    found = launcher(environ)
    if found is None or found.size in (None, 1, world_size):
        return
    loaded = " ".join(library.split("\n", 1)[0].replace("\0", " ").split())
    loaded = loaded or "an MPI library that gave no name"
    who = "srun" if found.name == "Slurm" else f"{found.name}'s launcher"
    seen = (
        "each rank believes it is alone (world size 1)"
        if world_size == 1
        else f"the MPI world has {world_size}"
    )
    raise TopologyError(
        f"{who} started {found.size} ranks but {seen}; mpi4py loaded {loaded}; {_cure(found)}"
    )


def _cure(found: Launcher) -> str:
    same = "use the mpiexec of the MPI that mpi4py loads, or reinstall mpi4py for the MPI in use"
    if found.name == "Slurm":
        return f"use `srun --mpi=pmix` (Open MPI) or `srun --mpi=pmi2` (MPICH), or {same}"
    return f"{same}; `python -m qcmb_mpi doctor` shows both"


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Remove all that would make an MPI-linked child believe it is part of this MPI job.

    Parameters
    ----------
    environ : Mapping of str to str
        The rank's environment; it is not changed.

    Returns
    -------
    dict of str to str
        Without the launcher's variables, and without the library directories that ``mpiexec`` put
        at the front of the library path (a child linked to another build of the same MPI would
        load them and crash). ``OMPI_ALLOW_RUN_AS_ROOT*`` stay: they are the user's.
    """
    child = {name: value for name, value in environ.items() if not _is_launchers(name)}
    added = _added_libraries(environ)
    for name in _LIBRARY_PATHS:
        if name in child:
            kept = _without_front(child[name].split(os.pathsep), added)
            if kept:
                child[name] = os.pathsep.join(kept)
            else:
                del child[name]
    return child


def _is_launchers(name: str) -> bool:
    if name.startswith(_CHILD_KEPT):
        return False
    return name in _CHILD_NAMES or name.startswith(_CHILD_PREFIXES)


def _added_libraries(environ: Mapping[str, str]) -> frozenset[str]:
    prefix = environ.get("OPAL_PREFIX", "")
    directories = {f"{prefix}/lib", f"{prefix}/lib64"} if prefix else set()
    if environ.get("OMPI_LIBDIR_LOC"):
        directories.add(environ["OMPI_LIBDIR_LOC"])
    return frozenset(os.path.normpath(directory) for directory in directories)


def _without_front(entries: list[str], added: frozenset[str]) -> list[str]:
    """Drop what mpiexec prepended; the same directory further back is the user's own."""
    n_added = 0
    while n_added < len(entries) and os.path.normpath(entries[n_added]) in added:
        n_added += 1
    return [entry for entry in entries[n_added:] if entry] if n_added else entries


def _slurm_step(environ: Mapping[str, str]) -> Launcher | None:
    """Tell of an ``srun`` step; None in a batch script and in an interactive shell."""
    step = _integer(environ, "SLURM_STEP_ID", "SLURM_STEPID")
    size = _integer(environ, "SLURM_STEP_NUM_TASKS")
    if step is None or size is None or step >= _FIRST_SPECIAL_STEP:
        return None
    speaks_mpi = "PMIX_RANK" in environ or "PMI_RANK" in environ
    if "SLURM_PTY_PORT" in environ and not speaks_mpi:  # a shell under `srun --pty`
        return None
    return Launcher(
        "Slurm",
        size,
        _integer(environ, "SLURM_PROCID"),
        _tasks_here(environ),
        _integer(environ, "SLURM_LOCALID"),
    )


def _tasks_here(environ: Mapping[str, str]) -> int | None:
    """Read this node's entry of ``2(x3),1``: tasks per node, repeated."""
    node = _integer(environ, "SLURM_NODEID") or 0
    for part in environ.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if match is None:
            return None
        node -= int(match[2] or 1)
        if node < 0:
            return int(match[1])
    return None


def _integer(environ: Mapping[str, str], *names: str) -> int | None:
    for name in names:
        text = environ.get(name, "").strip()
        if text.isdecimal():
            return int(text)
    return None

"""What each program is told, so that one calculation uses exactly the cores it was given.

Rules of this file
------------------
1. The table holds how QCEngine's harnesses (0.52) and ours hand cores to a program, read in their
   source. A harness of the user's own is believed what it declares.
2. A program that cannot use more than one core gets one, whatever is asked for; the reason says so.
3. No keyword of any program is touched: none is needed, and keywords are part of the fingerprint.
"""

from __future__ import annotations

import fnmatch
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from qcmb_mpi.machine.linked_mpi import linked_mpiexec
from qcmb_mpi.machine.threads import process_environment, stack_environment, thread_environment
from qcmb_mpi.programs.profiles import profile

Kind = Literal["threads", "processes", "mpi", "serial"]


@dataclass(frozen=True, slots=True)
class _Way:
    """How a program takes cores, in words behind its name; ``{n}`` is their number."""

    kind: Kind
    how: str


_OPENMP = "uses {n} OpenMP threads"
_IN_PROCESS = "uses {n} OpenMP threads in the slot's own process"
_ALONE = "works on one core through QCEngine's harness"
_WAYS: dict[str, _Way] = {
    "psi4": _Way("threads", "is started with --nthread {n}"),
    "pyscf": _Way("threads", _IN_PROCESS),
    "tblite": _Way("threads", _IN_PROCESS),
    "cfour": _Way("threads", "uses {n} OpenMP and BLAS threads"),
    "qchem": _Way("threads", "is started with -nt {n}"),
    "mopac": _Way("threads", "uses {n} OpenMP and MKL threads"),
    "xtb-cli": _Way("threads", "is started with --parallel {n}"),
    "mrchem": _Way("threads", _OPENMP),
    "adcc": _Way("threads", "runs a pool of {n} threads"),
    "openmm": _Way("threads", "runs its CPU platform with {n} threads"),
    "jaguar": _Way("threads", "is started with -PARALLEL {n}"),
    "s-dftd3": _Way("threads", _IN_PROCESS),
    "dftd4": _Way("threads", _IN_PROCESS),
    **dict.fromkeys(("torchani", "aimnet2", "mace", "orb"), _Way("threads", _IN_PROCESS)),
    "gamess": _Way("processes", "is started by rungms with {n} processes"),
    "molpro": _Way("processes", "is started with -n {n}, which are processes"),
    "orca": _Way("processes", "runs {n} processes: its harness has to write them into the input"),
    "nwchem": _Way("mpi", "is started as {n} MPI ranks"),
    "xtb": _Way("serial", _ALONE),
    "turbomole": _Way("serial", _ALONE),
}


@dataclass(frozen=True, slots=True)
class QCThreadConfig:
    """How one calculation of a program is to be run.

    Parameters
    ----------
    program_name : str
        QCEngine's name, lower case.
    threads_per_calculation : int
        Cores that it will use: threads, or processes of one thread each.
    environment_variables : dict of str to str
        To be set before the program is started, or its libraries are loaded.
    qcengine_task_config : dict
        For ``qcengine.compute(..., task_config=...)``; ``memory`` in GiB.
    n_ranks : int
        Processes that share the work; 1 for a program that threads.
    reason : str
        Why so, in one sentence for people.
    """

    program_name: str
    threads_per_calculation: int
    environment_variables: dict[str, str]
    qcengine_task_config: dict[str, Any]
    n_ranks: int
    reason: str


def configure_program(
    program: str,
    n_threads: int = 1,
    memory_bytes: int = 0,
    *,
    mpiexec_command: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> QCThreadConfig:
    """Tell what one calculation of a program is given, if it may have ``n_threads`` cores.

    Parameters
    ----------
    program : str
        QCEngine's name; case is free.
    n_threads : int
        Cores of the calculation.
    memory_bytes : int, optional
        Memory of the calculation, all its processes together; 0 leaves it to the program.
    mpiexec_command : str, optional
        For programs that are parallel by MPI alone: QCEngine's template, such as
        ``mpirun -n {total_ranks}``, of the MPI that the *program* was built with. Default that of
        ``qcengine.yaml``, else the launcher beside the MPI library that the program is linked to;
        without any such a program gets one core.
    environ : Mapping of str to str, optional
        Where the user's own ``OMP_STACKSIZE`` is respected; this process's by default.

    Returns
    -------
    QCThreadConfig

    Raises
    ------
    ValueError
        If ``n_threads`` is below 1 or ``memory_bytes`` below 0.
    """
    if n_threads < 1 or memory_bytes < 0:
        raise ValueError(f"n_threads {n_threads} or memory_bytes {memory_bytes} is too small")
    name = program.lower()
    way, mpiexec = _way(name), None
    if way.kind == "mpi":
        mpiexec = mpiexec_command or _known_mpiexec(name)
    n_cores, reason = _cores(name, way, n_threads, has_mpiexec=mpiexec is not None)
    is_ranks = way.kind in ("processes", "mpi")
    environment = process_environment() if is_ranks else thread_environment(n_cores)
    environ = os.environ if environ is None else environ
    environment |= stack_environment(environ, n_cores, memory_bytes)
    task_config: dict[str, Any] = {"ncores": n_cores, "nnodes": 1}
    if memory_bytes:
        task_config["memory"] = max(round(memory_bytes / 2**30, 3), 0.001)
    task_config |= _ranks(n_cores, mpiexec)
    return QCThreadConfig(
        name, n_cores, environment, task_config, n_cores if is_ranks else 1, reason
    )


def can_use_cores(program: str, *, mpiexec_command: str | None = None) -> bool:
    """Tell whether one calculation of a program can use more than one core.

    Parameters
    ----------
    program : str
    mpiexec_command : str, optional
        As for :func:`configure_program`.
    """
    kind = _way(program.lower()).kind
    if kind == "mpi":
        return (mpiexec_command or _known_mpiexec(program.lower())) is not None
    return kind != "serial"


def calculation_environment(program: str, n_threads: int) -> dict[str, str]:
    """Give what a program needs besides the environment of a slot of ``n_threads`` threads.

    Parameters
    ----------
    program : str
    n_threads : int

    Returns
    -------
    dict of str to str
        To be set while it computes; empty for programs that thread.
    """
    is_ranks = n_threads > 1 and _way(program.lower()).kind in ("processes", "mpi")
    return process_environment() if is_ranks else {}


def calculation_config(program: str, n_threads: int) -> dict[str, Any]:
    """Give what QCEngine is told of a program's ranks in a slot of ``n_threads`` cores.

    Parameters
    ----------
    program : str
    n_threads : int

    Returns
    -------
    dict
        Of ``task_config``; empty for programs that are not parallel by MPI.
    """
    name = program.lower()
    if n_threads == 1 or _way(name).kind != "mpi":
        return {}
    mpiexec = _known_mpiexec(name)
    return _ranks(n_threads, mpiexec) if mpiexec else {"ncores": 1}


def _ranks(n_ranks: int, mpiexec: str | None) -> dict[str, Any]:
    if mpiexec is None or n_ranks == 1:
        return {}
    return {"use_mpiexec": True, "mpiexec_command": mpiexec, "cores_per_rank": 1}


def _cores(name: str, way: _Way, n_asked: int, *, has_mpiexec: bool) -> tuple[int, str]:
    if way.kind == "serial":
        return 1, f"{name} {way.how}"
    if way.kind == "mpi" and n_asked > 1 and not has_mpiexec:
        return 1, (
            f"{name} uses more than one core as MPI ranks alone, and no mpiexec_command is known "
            "(give it, or write it into qcengine.yaml)"
        )
    if n_asked == 1:
        return 1, f"{name} is given one core"
    return n_asked, f"{name} {way.how.format(n=n_asked)}"


def _way(name: str) -> _Way:
    """Look a program up: what a harness of the user's own declares, else what we know of it."""
    harness = _harness(name)
    if harness is None or type(harness).__module__.split(".")[0] in ("qcengine", "qcmb_mpi"):
        known = _WAYS.get(name)
        trusted = _Way("threads", "is trusted to use {n} threads")
        return known or (trusted if profile(name).is_threaded else _Way("serial", _ALONE))
    if harness.thread_parallel:
        return _Way("threads", "declares that it threads: {n} threads")
    if harness.node_parallel:
        return _Way("processes", "declares processes, not threads: {n} processes")
    return _Way("serial", "declares that it uses one core")


def _harness(name: str) -> Any:
    from qcengine.programs.base import programs

    return programs.get(name)


@lru_cache(maxsize=8)
def _known_mpiexec(program: str) -> str | None:
    """Give the template of the user's ``qcengine.yaml`` for this host, else the program's own."""
    from qcengine import config

    # config.get_node_descriptor() surveys the processor where nothing matches: a second.
    host = socket.gethostname()
    for node in config.NODE_DESCRIPTORS.values():
        if fnmatch.fnmatch(host, node.hostname_pattern) and node.mpiexec_command:
            return str(node.mpiexec_command)
    return linked_mpiexec(program, os.environ)

"""What this machine, allocation, MPI and installation are, what is wrong, and what to do.

Rules of this file
------------------
1. A finding is a problem only if a run would fail or give each rank's work to every rank.
2. Every warning and problem says what to do.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from qcmb_mpi import __version__
from qcmb_mpi.doctor_hosts import hosts_findings
from qcmb_mpi.doctor_probes import (
    Ask,
    Finding,
    Status,
    ask_child,
    by,
    mpi_findings,
    programs_finding,
    sessions_finding,
)
from qcmb_mpi.machine import hwloc
from qcmb_mpi.machine.affinity import allocation_mask, can_pin
from qcmb_mpi.machine.launcher import child_environment, launcher, wants_mpi
from qcmb_mpi.machine.limits import Limits, format_memory, read_limits
from qcmb_mpi.machine.threads import slot_environment
from qcmb_mpi.machine.topology import Topology, format_cpu_list, read_topology
from qcmb_mpi.machine.walltime import batch_deadline_s
from qcmb_mpi.scheduling.placement import counted

_PACKAGES = ("numpy", "qcelemental", "qcengine", "qcmanybody", "psutil", "mpi4py")
_LITTLE_MEMORY_BYTES = 2**30
_LITTLE_DISK_BYTES = 2**30
_OF_THE_HOST = (
    *("cores", "CPUs granted", "memory granted", "binding", "pinning", "ranks here"),
    *("old MPI sessions", "programs", "scratch", "working directory"),
)
_THREADING = ("OMP_", "MKL_", "OPENBLAS_", "BLIS_", "VECLIB_", "NUMEXPR_", "KMP_", "GOMP_")


def report(
    is_json: bool,
    environ: Mapping[str, str] | None = None,
    *,
    problems: Callable[[], Sequence[str]] | None = None,
) -> int:
    """Print what is found; return 1 if there is a problem.

    In a job rank 0 tells everything, the first rank of each other host what is of that host; then
    rank 0 where the hosts differ.

    Parameters
    ----------
    is_json : bool
        Only rank 0 prints then.
    environ : Mapping of str to str, optional
        This process's by default.
    problems : callable, optional
        Gives what would keep an input from running here.
    """
    environ = dict(os.environ if environ is None else environ)
    started = launcher(environ)
    rank = (started.rank if started else 0) or 0
    is_leader = not rank or (started is not None and started.local_rank == 0)
    findings = diagnose(environ) if is_leader else []
    if not rank and problems is not None:
        findings.append(_input(problems()))
    told = [each for each in findings if not rank or each.name in _OF_THE_HOST]
    if told and not is_json:
        heading = f"\n{socket.gethostname()}, from rank {rank}\n" if rank else ""
        print(heading + render(told), flush=True)
    has_answered = True
    if wants_mpi(environ):
        host = socket.gethostname()
        of_all, has_answered = hosts_findings(host, findings, environ, is_leader=is_leader)
        if not rank:
            told += of_all
            if of_all and not is_json:
                print(f"\nall hosts\n{render(of_all)}", flush=True)
    if is_json and not rank:
        print(to_json(told), flush=True)
    code = int(any(finding.status == "problem" for finding in told))
    if not has_answered:
        os._exit(1)
    return code


def _input(problems: Sequence[str]) -> Finding:
    advice = "a run would end at once; `qcmb-mpi plan INPUT` tells more"
    found = "; ".join(problems) or "a run of it can start here"
    return Finding("input", *by(not problems, "problem", found, advice))


def diagnose(
    environ: Mapping[str, str] | None = None,
    *,
    root: Path | str = "/",
    scratch: Path | None = None,
    ask: Ask | None = None,
) -> list[Finding]:
    """Look at everything a run needs.

    Parameters
    ----------
    environ : Mapping of str to str, optional
        This process's by default.
    root : path, optional
        Where ``proc`` and ``sys`` are.
    scratch : path, optional
        Scratch directory; QCEngine's own by default.
    ask : callable, optional
        As :func:`~qcmb_mpi.doctor_probes.ask_child`.

    Returns
    -------
    list of Finding
        In a fixed order.
    """
    environ = dict(os.environ if environ is None else environ)
    ask = ask or ask_child
    topology, limits = read_topology(root, environ), read_limits(root, environ)
    programs, scratch_found = programs_finding(environ, ask, limits.notes)
    of_mpi = mpi_findings(environ, ask)
    return [
        _python(),
        _packages(),
        _cores(topology),
        _witness(topology, environ),
        _granted_cpus(limits),
        _granted_memory(limits),
        _binding(root, topology),
        _pinning(limits),
        _threads(environ),
        _started_by(environ, of_mpi[0].found),
        *_ranks_here(environ, topology, limits),
        *of_mpi,
        sessions_finding(environ, root),
        programs,
        _directory("scratch", scratch or scratch_found, "give another with --scratch or TMPDIR"),
        _directory("working directory", Path.cwd(), "results are written here: use another, or -o"),
        _time_limit(environ),
    ]


def render(findings: Iterable[Finding]) -> str:
    """Write findings for people, one to a line, advice below."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:<8} {finding.name:<18} {finding.found}")
        if finding.advice:
            lines.append(f"{'':<8} {'':<18} -> {finding.advice}")
    return "\n".join(lines)


def to_json(findings: Iterable[Finding]) -> str:
    """Write findings as JSON: the worst ``status``, and ``findings``, with versions if known."""
    listed = list(findings)
    order: tuple[Status, ...] = ("ok", "warning", "problem")
    worst = max((finding.status for finding in listed), key=order.index, default="ok")
    told = [{k: v for k, v in asdict(f).items() if v or k != "versions"} for f in listed]
    return json.dumps({"status": worst, "findings": told}, indent=2)


# ----------------------------------------------------------------------------- machine, allocation


def _python() -> Finding:
    version = platform.python_version()
    found = f"{version}, {sys.executable}"
    return Finding("Python", "ok", found, versions={"Python": version})


def _packages() -> Finding:
    versions = {"qcmb_mpi": __version__}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    missing = [name for name in _PACKAGES if name not in versions]
    if not missing:
        return Finding("packages", "ok", found, versions=versions)
    return Finding(
        "packages",
        "warning",
        f"{found}; not installed: {', '.join(missing)}",
        f"pip install {' '.join(missing)}, in the environment of this Python",
        versions,
    )


def _cores(topology: Topology) -> Finding:
    domains = topology.numa_domains
    n_domains = sum(bool(domain.cpus) for domain in domains)
    parts = [
        counted(len(topology.cores), "core"),
        counted(topology.n_cpus, "hardware thread"),
        counted(len(topology.packages), "package"),
        counted(n_domains, "NUMA domain"),
    ]
    if topology.caches:
        parts.append(counted(len(topology.caches), "last-level cache"))
    if topology.slow_cpus:
        n_slow = len(topology.cores_of(topology.slow_cpus))
        parts.append(f"{n_slow} of the cores are efficiency cores")
    if n_domains < len(domains):
        parts.append(
            f"{len(domains) - n_domains} domains of memory alone, which are not counted on"
        )
    found = f"{', '.join(parts)} ({topology.source})"
    if topology.is_detailed:
        return Finding("cores", "ok", found)
    return Finding(
        "cores",
        "warning",
        f"{found}; only counts are known here",
        "on Linux /sys should be readable; elsewhere hwloc's lstopo on PATH tells more",
    )


def _witness(topology: Topology, environ: Mapping[str, str]) -> Finding:
    name, program = "lstopo", hwloc.find_lstopo(environ)
    if program is None:
        return Finding(name, "ok", "not installed; nothing depends on it")
    if topology.source == "lstopo":
        return Finding(name, "ok", f"{program} is used because /sys is incomplete")
    theirs = hwloc.ask_lstopo(child_environment(environ))
    if theirs is None:
        advice = f"`{program} --of xml` should print this machine"
        return Finding(name, "warning", f"{program} gives no answer", advice)
    differences = hwloc.disagreements(topology, theirs)
    found = "; ".join(differences) or f"{program} agrees with {topology.source}"
    advice = f"{topology.source} is used; unset HWLOC_ variables, which can show another machine"
    return Finding(name, *by(not differences, "warning", found, advice))


def _pinning(limits: Limits) -> Finding:
    if not can_pin():
        return Finding(
            "pinning",
            "warning",
            f"{sys.platform} cannot bind processes to cores: slots are not pinned",
            "nothing needs to be done: counts are kept to, the system places the threads",
        )
    if limits.is_mask_exact:
        return Finding("pinning", "ok", "every slot is bound to cores of its own")
    return Finding(
        "pinning",
        "ok",
        f"slots are not bound: {limits.n_cpus} of {len(limits.cpus)} CPUs are granted, and which "
        "of them is not said",
    )


def _threads(environ: Mapping[str, str]) -> Finding:
    """Say which variables of the shell slots do not take over."""
    name, in_slots = "thread variables", slot_environment(environ, 1)
    unused = {
        each: value
        for each, value in sorted(environ.items())
        if each.startswith(_THREADING) and in_slots.get(each) != value
    }
    if not unused:
        return Finding(name, "ok", "none that slots would not take over")
    found = ", ".join(f"{each}={value}" for each, value in unused.items())
    counts = [value for each, value in unused.items() if each.endswith("_NUM_THREADS")]
    return Finding(
        name,
        *by(
            not counts,
            "warning",
            f"{found}: set by every slot for itself",
            f"unset, or `run --threads {counts[0] if counts else 'N'}` if tasks are to have that",
        ),
    )


def _granted_cpus(limits: Limits) -> Finding:
    notes = [note for note in limits.notes if " CPUs by " in note]
    return Finding("CPUs granted", "ok", f"{limits.n_cpus} ({'; '.join(notes)})")


def _granted_memory(limits: Limits) -> Finding:
    notes = [note for note in limits.notes if " CPUs by " not in note]
    found = f"{format_memory(limits.memory_bytes)} ({'; '.join(notes)})"
    if limits.memory_bytes >= _LITTLE_MEMORY_BYTES * limits.n_cpus:
        return Finding("memory granted", "ok", found)
    more = "ask the batch system, or whoever set the control group, for more memory"
    if notes and "RLIMIT" in notes[0]:
        more = "raise it (ulimit -v unlimited, ulimit -d unlimited)"
    return Finding(
        "memory granted",
        "warning",
        f"{found}: less than {format_memory(_LITTLE_MEMORY_BYTES)} for each CPU",
        f"{more}; else fewer tasks run at once, or --workers says how many",
    )


def _binding(root: Path | str, topology: Topology) -> Finding:
    own, all_of_it = allocation_mask(True, root=root), allocation_mask(root=root)
    if own < all_of_it:
        return Finding(
            "binding",
            "warning",
            f"the launcher bound this process to CPUs {format_cpu_list(own)} of "
            f"{format_cpu_list(all_of_it)}; runs undo it",
            "mpiexec --bind-to none says so from the start; --respect-binding keeps it",
        )
    if len(own) == 1 < topology.n_cpus:
        return Finding(
            "binding",
            "warning",
            f"this process may use CPU {format_cpu_list(own)} alone, of {topology.n_cpus}",
            "ask for more cores, or start without taskset or numactl",
        )
    return Finding("binding", "ok", f"not bound: CPUs {format_cpu_list(own)}")


def _started_by(environ: Mapping[str, str], library: str) -> Finding:
    name, found = "started by", launcher(environ)
    if found is None:
        return Finding(name, "ok", "no MPI launcher")
    size = "an unknown number of" if found.size is None else found.size
    text = f"{found.name}, {size} ranks, as rank {found.rank}"
    # srun starts any program; whether it speaks to the MPI library is another matter.
    needed = "PMIX_" if library.startswith("Open MPI") else ("PMIX_", "PMI_")
    is_heard = found.name != "Slurm" or any(each.startswith(needed) for each in environ)
    if is_heard or found.size == 1:
        return Finding(name, "ok", text)
    return Finding(
        name,
        "problem",
        f"{text}; but srun gives {library} no start-up: each rank would be alone",
        "srun --mpi=pmix (Open MPI) or --mpi=pmi2 (MPICH), or mpiexec instead of srun",
    )


def _ranks_here(environ: Mapping[str, str], topology: Topology, limits: Limits) -> list[Finding]:
    """Say, in a job, how many ranks this host's cores are for."""
    found = launcher(environ)
    n_ranks = found.local_size if found else None
    if not n_ranks:
        return []
    n_cores = min(len(topology.cores_of(limits.cpus)), limits.n_cpus)
    here = f"{counted(n_ranks, 'rank')} on {counted(n_cores, 'core')}"
    return [
        Finding(
            "ranks here",
            *by(
                n_ranks <= n_cores,
                "warning",
                here if n_ranks <= n_cores else f"{here}: ranks share cores, and are slower for it",
                f"start no more than {counted(n_cores, 'rank')} here",
            ),
        )
    ]


def _time_limit(environ: Mapping[str, str]) -> Finding:
    left_s = batch_deadline_s(environ)
    if left_s is None:
        return Finding("time limit", "ok", "none known; set one with --walltime")
    return Finding("time limit", "ok", f"the batch system leaves {left_s:.0f} s")


def _directory(name: str, directory: Path, advice: str) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
        free_bytes = shutil.disk_usage(directory).free
    except OSError as error:
        reason = error.strerror or str(error)
        return Finding(name, "problem", f"{directory} cannot be written to: {reason}", advice)
    found = f"{directory}, {format_memory(free_bytes)} free"
    return Finding(name, *by(free_bytes >= _LITTLE_DISK_BYTES, "warning", found, advice))

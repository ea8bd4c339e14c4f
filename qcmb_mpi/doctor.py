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
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from qcmb_mpi import __version__
from qcmb_mpi.doctor_probes import (
    Ask,
    Finding,
    Status,
    ask_child,
    by,
    mpi_findings,
    programs_finding,
)
from qcmb_mpi.machine import hwloc
from qcmb_mpi.machine.affinity import allocation_mask, can_pin
from qcmb_mpi.machine.launcher import child_environment, launcher
from qcmb_mpi.machine.limits import Limits, format_memory, read_limits
from qcmb_mpi.machine.topology import Topology, format_cpu_list, read_topology
from qcmb_mpi.machine.walltime import batch_deadline_s

_PACKAGES = ("numpy", "qcelemental", "qcengine", "qcmanybody", "psutil", "mpi4py")
_LITTLE_MEMORY_BYTES = 2**30
_LITTLE_DISK_BYTES = 2**30


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
    programs, scratch_found = programs_finding(environ, ask)
    return [
        _python(),
        _packages(),
        _cores(topology),
        _witness(topology, environ),
        _granted_cpus(limits),
        _granted_memory(limits),
        _binding(root, topology),
        _pinning(limits),
        _started_by(environ),
        *mpi_findings(environ, ask),
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
    """Write findings as JSON: the worst ``status``, and ``findings``."""
    listed = list(findings)
    order: tuple[Status, ...] = ("ok", "warning", "problem")
    worst = max((finding.status for finding in listed), key=order.index, default="ok")
    return json.dumps({"status": worst, "findings": [asdict(f) for f in listed]}, indent=2)


# ----------------------------------------------------------------------------- machine, allocation


def _python() -> Finding:
    return Finding("Python", "ok", f"{platform.python_version()}, {sys.executable}")


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
        return Finding("packages", "ok", found)
    return Finding(
        "packages",
        "warning",
        f"{found}; not installed: {', '.join(missing)}",
        f"pip install {' '.join(missing)}, in the environment of this Python",
    )


def _cores(topology: Topology) -> Finding:
    domains = topology.numa_domains
    n_domains = sum(bool(domain.cpus) for domain in domains)
    parts = [
        f"{len(topology.cores)} cores",
        f"{topology.n_cpus} hardware threads",
        f"{len(topology.packages)} packages",
        f"{n_domains} NUMA domains",
    ]
    if topology.caches:
        parts.append(f"{len(topology.caches)} last-level caches")
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


def _granted_cpus(limits: Limits) -> Finding:
    notes = [note for note in limits.notes if " CPUs by " in note]
    return Finding("CPUs granted", "ok", f"{limits.n_cpus} ({'; '.join(notes)})")


def _granted_memory(limits: Limits) -> Finding:
    notes = [note for note in limits.notes if " CPUs by " not in note]
    found = f"{format_memory(limits.memory_bytes)} ({'; '.join(notes)})"
    if limits.memory_bytes >= _LITTLE_MEMORY_BYTES * limits.n_cpus:
        return Finding("memory granted", "ok", found)
    return Finding(
        "memory granted",
        "warning",
        f"{found}: less than {format_memory(_LITTLE_MEMORY_BYTES)} for each CPU",
        "ask the batch system for more memory, or give fewer slots with --workers",
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


def _started_by(environ: Mapping[str, str]) -> Finding:
    found = launcher(environ)
    if found is None:
        return Finding("started by", "ok", "no MPI launcher")
    size = "an unknown number of" if found.size is None else found.size
    return Finding("started by", "ok", f"{found.name}, {size} ranks, as rank {found.rank}")


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

"""The topology as hwloc's ``lstopo`` tells it: a second witness, and the only one off Linux.

Rules of this file
------------------
1. ``lstopo`` is asked, never required: whatever goes wrong with it is None.
2. Objects of hwloc 1 and 2 are read; both name what they hold by CPU sets.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Mapping, Sequence

from qcmb_mpi.machine.topology import NumaDomain, Topology, format_cpu_list

_TIMEOUT_S = 5.0
_PROGRAMS = ("lstopo-no-graphics", "lstopo")
_PACKAGES = ("Package", "Socket")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def find_lstopo(environ: Mapping[str, str]) -> str | None:
    """Find ``lstopo`` on the ``PATH`` of an environment; None without it."""
    found = (shutil.which(name, path=environ.get("PATH", "")) for name in _PROGRAMS)
    return next((program for program in found if program is not None), None)


def ask_lstopo(environ: Mapping[str, str], run: Run = subprocess.run) -> Topology | None:
    """Ask ``lstopo`` for this host's topology.

    Parameters
    ----------
    environ : Mapping of str to str
        With ``PATH``; ``HWLOC_`` variables count, as for every program of hwloc.
    run : callable, optional
        As :func:`subprocess.run`.

    Returns
    -------
    Topology or None
        None where ``lstopo`` is missing, fails, or takes longer than 5 s.
    """
    program = find_lstopo(environ)
    if program is None:
        return None
    # /sys tells of CPUs that the job may not use as well; hwloc before 2.1 has no such option.
    for options in (["--disallowed"], []):
        try:
            done = run(
                [program, *options, "--of", "xml", "-"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                timeout=_TIMEOUT_S,
                env=dict(environ),
                check=True,
            )
        except subprocess.CalledProcessError:
            continue
        except (OSError, subprocess.SubprocessError, ValueError):
            return None
        return parse_lstopo(done.stdout or "")
    return None


def parse_lstopo(text: str) -> Topology | None:
    """Read what ``lstopo --of xml`` writes.

    Parameters
    ----------
    text : str
        May have other lines before and after the document.

    Returns
    -------
    Topology or None
        None for anything without a hardware thread. Memory that no domain tells is None.
    """
    found = re.search(r"<topology\b.*</topology>", text, re.S)
    try:
        # No document type, so no entities: nothing in it can grow.
        tree = ElementTree.fromstring(found[0]) if found else None  # noqa: S314
    except ElementTree.ParseError:
        return None
    objects = [] if tree is None else list(tree.iter("object"))
    cpus = tuple(sorted(_index(o) for o in objects if o.get("type") == "PU"))
    if not cpus:
        return None
    online = frozenset(cpus)
    cores = _sets(objects, ("Core",), online)
    return Topology.of_parts(
        cores or tuple((cpu,) for cpu in cpus),
        packages=_sets(objects, _PACKAGES, online) or (cpus,),
        numa_domains=_domains(objects, online) or (NumaDomain(0, cpus, None),),
        caches=_last_level_caches(objects, online),
        slow_cpus=_slow_cpus(tree, online) if tree is not None else (),
        source="lstopo",
    )


def disagreements(ours: Topology, theirs: Topology) -> list[str]:
    """Say where two descriptions of one host differ; caches only where both know them.

    Parameters
    ----------
    ours, theirs : Topology
        From ``/sys`` and from ``lstopo``.

    Returns
    -------
    list of str
        A sentence for each kind of part; empty where they agree.
    """
    kinds: list[tuple[str, Iterable[Sequence[int]], Iterable[Sequence[int]]]] = [
        ("packages", ours.packages, theirs.packages),
        ("NUMA domains", _cpus_of(ours), _cpus_of(theirs)),
        ("cores", ours.cores, theirs.cores),
    ]
    if ours.caches and theirs.caches:
        kinds.append(("last-level caches", ours.caches, theirs.caches))
    found = []
    for name, mine, other in kinds:
        here, there = _shown(mine), _shown(other)
        if here != there:
            odd = sorted((here ^ there), key=lambda part: (len(part), part))[:2]
            parts = " and ".join(odd)
            found.append(
                f"{len(here)} {name} by {ours.source} but {len(there)} by {theirs.source} "
                f"(CPUs {parts} differ)"
            )
    return found


def _cpus_of(topology: Topology) -> list[tuple[int, ...]]:
    return [domain.cpus for domain in topology.numa_domains if domain.cpus]


def _shown(parts: Iterable[Sequence[int]]) -> set[str]:
    return {format_cpu_list(part) for part in parts}


def _index(element: ElementTree.Element) -> int:
    text = element.get("os_index", "")
    return int(text) if text.isdecimal() else -1


def _cpu_set(element: ElementTree.Element) -> tuple[int, ...]:
    """Read ``0x00000003,,0x000000ff``: words of 32 bits, the highest first."""
    bits = 0
    for word in element.get("cpuset", "").split(","):
        try:
            bits = bits << 32 | (int(word, 16) if word else 0)
        except ValueError:  # "0xf...f": all CPUs there could ever be
            return ()
    return tuple(i for i in range(bits.bit_length()) if bits >> i & 1)


def _sets(
    objects: Iterable[ElementTree.Element], types: Sequence[str], online: frozenset[int]
) -> tuple[tuple[int, ...], ...]:
    sets = (_cpu_set(each) for each in objects if each.get("type") in types)
    kept = (tuple(cpu for cpu in cpus if cpu in online) for cpus in sets)
    return tuple(dict.fromkeys(cpus for cpus in kept if cpus))


def _domains(
    objects: Iterable[ElementTree.Element], online: frozenset[int]
) -> tuple[NumaDomain, ...]:
    domains = []
    for each in objects:
        if each.get("type") == "NUMANode":
            cpus = tuple(cpu for cpu in _cpu_set(each) if cpu in online)
            memory = each.get("local_memory", "")
            n_bytes = int(memory) if memory.isdecimal() else None
            domains.append(NumaDomain(_index(each), cpus, n_bytes))
    return tuple(sorted(domains, key=lambda domain: domain.index))


def _last_level_caches(
    objects: Iterable[ElementTree.Element], online: frozenset[int]
) -> tuple[tuple[int, ...], ...]:
    """Give each CPU's cache of the highest level; instruction caches do not count."""
    best: dict[int, tuple[int, tuple[int, ...]]] = {}
    for each in objects:
        kind = each.get("type", "")
        if "Cache" in kind and each.get("cache_type", "0") != "2":
            depth = each.get("depth", "")
            level = int(depth) if depth.isdecimal() else 0
            cpus = tuple(cpu for cpu in _cpu_set(each) if cpu in online)
            for cpu in cpus:
                best[cpu] = max(best.get(cpu, (0, ())), (level, cpus))
    return tuple(dict.fromkeys(best[cpu][1] for cpu in sorted(best)))


def _slow_cpus(tree: ElementTree.Element, online: frozenset[int]) -> tuple[int, ...]:
    """Give the CPUs of every kind but the most powerful one, and Intel's efficiency cores."""
    kinds: list[tuple[int, tuple[int, ...]]] = []
    slow: set[int] = set()
    for each in tree.iter("cpukind"):
        if any(info.get("value") == "IntelAtom" for info in each.iter("info")):
            slow.update(_cpu_set(each))
        efficiency = each.get("forced_efficiency", "")
        if efficiency.isdecimal():
            kinds.append((int(efficiency), _cpu_set(each)))
    most = max((efficiency for efficiency, _ in kinds), default=0)
    slow.update(cpu for efficiency, cpus in kinds if efficiency < most for cpu in cpus)
    return tuple(sorted(slow & online))

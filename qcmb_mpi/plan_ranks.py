"""The agents that a run would have: ranks on nodes like this one.

Rules of this file
------------------
1. Other nodes are taken to be as this one, and empty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate, count, pairwise
from typing import TYPE_CHECKING, Any

from qcmb_mpi.errors import InputError
from qcmb_mpi.execution.host import host_share
from qcmb_mpi.execution.layout import crowding, size_of
from qcmb_mpi.execution.wire import AgentInfo
from qcmb_mpi.machine import limits
from qcmb_mpi.machine.affinity import allocation_mask
from qcmb_mpi.machine.launcher import launcher
from qcmb_mpi.report.snapshot import format_duration
from qcmb_mpi.scheduling.placement import counted
from qcmb_mpi.scheduling.widths import end_s

if TYPE_CHECKING:
    from qcmb_mpi.execution.executors.base import ExecutorConfig
    from qcmb_mpi.forecast import Outlook, Prospect
    from qcmb_mpi.scheduling.cost import CostModel
    from qcmb_mpi.scheduling.placement import Layout

_CLEARLY = 0.05  # by which fewer ranks must be sooner to be advised


@dataclass(frozen=True, slots=True)
class Ranks:
    """How a run would be started.

    Parameters
    ----------
    n_ranks : int
        MPI ranks in all; 0 for a run without MPI, or on several nodes for as many as are advised.
    n_nodes : int
    is_master_dedicated : bool
        Rank 0 computes nothing.
    is_binding_respected : bool
        Keep to this process's binding.

    Raises
    ------
    InputError
        More nodes than ranks.
    """

    n_ranks: int = 0
    n_nodes: int = 1
    is_master_dedicated: bool = False
    is_binding_respected: bool = False

    def __post_init__(self) -> None:
        if 0 < self.n_ranks < self.n_nodes:
            raise InputError(
                "--nodes", f"there must be a rank on each, and --ranks is {self.n_ranks}"
            )


def launched(environ: Mapping[str, str]) -> tuple[int, int, int]:
    """Return ranks, nodes and own rank as a launcher told them; 0, 1, 0 without one."""
    found = launcher(environ)
    if found is None or not found.size:
        return 0, 1, found.rank or 0 if found else 0
    return found.size, math.ceil(found.size / (found.local_size or found.size)), found.rank or 0


@dataclass(frozen=True, slots=True)
class Agents:
    """Ranks and what each has.

    Parameters
    ----------
    infos : tuple of AgentInfo
        By rank.
    node : AgentInfo
        All of one node.
    n_domains : int
        NUMA domains of one node that are granted.
    n_nodes : int
    n_cores_in_all : int
        Cores of one node, granted or not.
    n_by_node : tuple of int
        Those that compute, of each node.
    granted_bytes : int
        Memory of one node, of which tasks get a share; 0 where the user said how much they get.
    """

    infos: tuple[AgentInfo, ...]
    node: AgentInfo
    n_domains: int
    n_nodes: int
    n_cores_in_all: int
    n_by_node: tuple[int, ...]
    granted_bytes: int

    @property
    def computing(self) -> tuple[AgentInfo, ...]:
        """Those that have cores."""
        return tuple(info for info in self.infos if info.n_cores) or self.infos

    def n_threads(self, layout_of: Callable[[AgentInfo], Layout]) -> int:
        """Return the threads of all slots of the node that has most."""
        layouts = (layout_of(info) for info in self.computing)
        each = [layout.n_slots * layout.n_threads for layout in layouts]
        ends = list(accumulate(self.n_by_node, initial=0))
        return max(sum(each[a:b]) for a, b in pairwise(ends))

    def crowding(self, layout_of: Callable[[AgentInfo], Layout], layout: Layout) -> str:
        """Say that the slots of a node share its cores, if they do."""
        n_ranks = max(self.n_by_node)
        of_ranks = f"{counted(n_ranks, 'rank')} of " if n_ranks > 1 else ""
        n_threads = self.n_threads(layout_of)
        return crowding(f"{of_ranks}{size_of(layout)}", n_threads, self.node.n_cores)

    def node_as_dict(self) -> dict[str, Any]:
        """Return the figures of one node for people."""
        return {
            "host": self.node.host,
            "n_cores": self.node.n_cores,
            "n_cores_in_all": self.n_cores_in_all,
            "n_numa_domains": self.n_domains,
            "memory_bytes": self.node.memory_bytes,
            "memory_granted_bytes": self.granted_bytes,
        }

    def as_dict(self, ranks: Ranks) -> dict[str, Any]:
        """Return the figures of the ranks for people."""
        return {
            "n_nodes": self.n_nodes,
            "n_ranks": len(self.infos),
            "n_advised": self.n_nodes * self.n_domains,
            "is_mpi": ranks.n_ranks > 0 or self.n_nodes > 1,
            "n_cores": min(info.n_cores for info in self.computing),
            "memory_bytes": min(info.memory_bytes for info in self.computing),
        }


def agents_of(ranks: Ranks, config: ExecutorConfig, *, can_widen: bool = True) -> Agents:
    """Return the agents of a run that is started so, by an executor that can widen or not."""
    mask = allocation_mask(ranks.is_binding_respected)
    whole = host_share(
        masks=[mask],
        memory_bytes=config.memory_bytes,
        is_binding_respected=ranks.is_binding_respected,
    )
    n_domains = sum(bool(mask.intersection(each.cpus)) for each in whole.topology.numa_domains)
    n_domains = max(1, min(n_domains, whole.info.n_cores))
    n_ranks = ranks.n_ranks or (1 if ranks.n_nodes == 1 else ranks.n_nodes * n_domains)

    def node_of(n: int) -> list[AgentInfo]:
        if n == 1:
            return [whole.info]
        return [
            host_share(
                local_rank=rank,
                masks=[mask] * n,
                memory_bytes=config.memory_bytes,
                is_binding_respected=ranks.is_binding_respected,
            ).info
            for rank in range(n)
        ]

    n_idle = int(ranks.is_master_dedicated and n_ranks > 1)
    sizes = [n_ranks // ranks.n_nodes + (k < n_ranks % ranks.n_nodes) for k in range(ranks.n_nodes)]
    sizes[0] -= n_idle
    nodes = {n: node_of(n) for n in set(sizes)}
    numbers = count(n_idle)
    infos = [replace(whole.info, rank=0, n_cores=0)] * n_idle
    infos += [
        replace(info, rank=next(numbers), can_widen=can_widen) for n in sizes for info in nodes[n]
    ]
    n_cores = len(whole.topology.cores)
    granted = limits.read_limits(is_binding_respected=ranks.is_binding_respected)
    return Agents(
        tuple(infos),
        whole.info,
        n_domains,
        ranks.n_nodes,
        n_cores,
        tuple(sizes),
        0 if config.memory_bytes else granted.memory_bytes,
    )


def wall_s(outlook: Outlook, agents: Agents) -> float:
    """Predict the wall seconds of what is left; slots that share cores are slower."""
    # Seconds are of the slot's threads already.
    alone_s = end_s(outlook.left, replace(outlook.layout, n_threads=1), len(agents.computing))
    n_used = min(
        agents.n_threads(outlook.placement.layout_of),
        sum(outlook.n_left) * outlook.layout.n_threads,
    )
    return alone_s * max(1.0, n_used / agents.node.n_cores)


def fewer_ranks(prospect: Prospect, ranks: Ranks, model: CostModel) -> str:
    """Say that fewer ranks would be sooner, if that is predicted; else nothing.

    Parameters
    ----------
    prospect : Prospect
    ranks : Ranks
        As planned.
    model : CostModel
        What was measured.
    """
    present = agents_of(ranks, prospect.config)
    n_advised = present.n_nodes * present.n_domains
    if ranks.n_ranks <= n_advised:
        return ""
    fewer = replace(ranks, n_ranks=n_advised, is_master_dedicated=False)
    advised = agents_of(fewer, prospect.config)
    try:
        now_s, then_s = (
            wall_s(prospect.on(each.infos, model), each) for each in (present, advised)
        )
    except InputError:  # the user's own bounds do not go with it
        return ""
    if then_s > (1 - _CLEARLY) * now_s:
        return ""
    many = f"{n_advised} ranks" if n_advised > 1 else "1 rank, or no MPI,"
    return (
        f"{many} would be sooner: about {format_duration(then_s)} is predicted instead of "
        f"{format_duration(now_s)}, as a rank with more cores can give a large task several"
    )

"""The agents that a run would have: ranks on nodes like this one.

Rules of this file
------------------
1. Other nodes are taken to be as this one, and empty.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any

from qcmb_mpi.errors import InputError
from qcmb_mpi.execution.host import host_share
from qcmb_mpi.execution.wire import AgentInfo
from qcmb_mpi.machine.affinity import allocation_mask
from qcmb_mpi.machine.launcher import launcher

if TYPE_CHECKING:
    from qcmb_mpi.execution.executors.base import ExecutorConfig


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
    """

    infos: tuple[AgentInfo, ...]
    node: AgentInfo
    n_domains: int
    n_nodes: int
    n_cores_in_all: int

    @property
    def computing(self) -> tuple[AgentInfo, ...]:
        """Those that have cores."""
        return tuple(info for info in self.infos if info.n_cores) or self.infos

    def node_as_dict(self) -> dict[str, Any]:
        """Return the figures of one node for people."""
        return {
            "host": self.node.host,
            "n_cores": self.node.n_cores,
            "n_cores_in_all": self.n_cores_in_all,
            "n_numa_domains": self.n_domains,
            "memory_bytes": self.node.memory_bytes,
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
    return Agents(tuple(infos), whole.info, n_domains, ranks.n_nodes, n_cores)

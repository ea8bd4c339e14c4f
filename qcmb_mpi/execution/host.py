"""The part of this node that is ours: cores, memory, and the processors of each slot.

Rules of this file
------------------
1. Measures through ``machine/`` only; decides nothing about tasks.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass

from qcmb_mpi.execution.wire import AgentInfo
from qcmb_mpi.machine import affinity, limits, topology

_MEMORY_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class HostShare:
    """What one rank may use of its node.

    Parameters
    ----------
    info : AgentInfo
    cpus : tuple of int
        Processors, one physical core after the other.
    topology : Topology
    """

    info: AgentInfo
    cpus: tuple[int, ...]
    topology: topology.Topology

    def slot_cpus(self, n_slots: int, n_threads: int) -> list[tuple[int, ...]]:
        """Give each slot its processors; all of them where there are more threads than cores."""
        if n_slots * n_threads > self.info.n_cores or not self.cpus:
            return [self.cpus] * n_slots
        return affinity.divide(self.cpus, self.topology, n_slots)


def host_share(
    *,
    rank: int = 0,
    local_rank: int = 0,
    masks: Sequence[frozenset[int]] | None = None,
    memory_bytes: int | None = None,
    is_binding_respected: bool = False,
    is_pinned: bool = True,
) -> HostShare:
    """Return the share of one of the ranks on this node.

    Parameters
    ----------
    rank, local_rank : int
    masks : sequence of frozenset of int, optional
        ``allocation_mask()`` of every rank on this node that computes, by local rank; default
        this process alone.
    memory_bytes : int, optional
        Limit of the node; default 80 % of what is granted.
    is_binding_respected : bool
        Keep to the binding the launcher made instead of the whole allocation.
    is_pinned : bool
        Whether slots are to have processors of their own.
    """
    layout = topology.read_topology()
    granted = limits.read_limits(is_binding_respected=is_binding_respected)
    masks = masks or [affinity.allocation_mask(is_binding_respected)]
    cpus = affinity.divide_among_ranks(masks, local_rank, layout)
    # A CPU quota below the mask is shared like the mask itself.
    together = frozenset().union(*masks)
    quota = granted.n_cpus * len(cpus) // max(1, len(together)) if cpus else 1
    n_cores = max(1, min(_n_physical(cpus, layout), quota))
    node_bytes = memory_bytes or int(_MEMORY_SHARE * granted.memory_bytes)
    info = AgentInfo(
        rank, socket.gethostname(), n_cores, node_bytes // len(masks), node_bytes, can_widen=True
    )
    return HostShare(info, cpus if is_pinned and granted.is_mask_exact else (), layout)


def _n_physical(cpus: Sequence[int], layout: topology.Topology) -> int:
    ours = set(cpus)
    return max(1, sum(bool(ours.intersection(core)) for core in layout.cores))

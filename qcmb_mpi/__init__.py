"""Many-body expansions in parallel: QCManyBody's numbers, on all cores of all nodes.

``import qcmb_mpi`` registers the programs ``pyscf`` and ``tblite`` and the procedure
``qcmb_mpi`` with QCEngine; it imports no MPI and no quantum chemistry program.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str

    from qcmb_mpi.computer import (
        ManyBodyComputer,
        ParallelManyBodyComputer,
        ParallelMode,
        iterate_molecules_by_level,
        prepare_parallel_tasks,
    )
    from qcmb_mpi.errors import InputError, Interrupted, QcmbError, TasksFailed
    from qcmb_mpi.execution.executors.base import Executor, ExecutorConfig
    from qcmb_mpi.execution.executors.configs import (
        AdaptiveParallelConfig,
        MethodAwareConfig,
        MethodSettings,
    )
    from qcmb_mpi.execution.executors.local import (
        FuturesExecutor,
        MultiprocessingExecutor,
        SequentialExecutor,
        ThreadExecutor,
    )
    from qcmb_mpi.execution.executors.mpi import MPIExecutor
    from qcmb_mpi.execution.tasks import ParallelTask, TaskResult, TaskStatus
    from qcmb_mpi.expansion.graph import NBodyDependencyGraph
    from qcmb_mpi.machine.usage import ThreadUsageStats
    from qcmb_mpi.potential import ManyBodyPotential
    from qcmb_mpi.programs.thread_config import QCThreadConfig
    from qcmb_mpi.programs.thread_manager import (
        HybridParallelConfig,
        ParallelConfig,
        QCThreadManager,
        ThreadAllocation,
    )
    from qcmb_mpi.report.closing import compute_execution_stats, format_execution_summary
    from qcmb_mpi.report.tables import contributions_frame, tasks_frame
    from qcmb_mpi.scheduling.balancer import DynamicLoadBalancer, LoadBalancer
    from qcmb_mpi.scheduling.cost import CostModel

_HOMES = {
    "computer": (
        "ManyBodyComputer",
        "ParallelManyBodyComputer",
        "ParallelMode",
        "iterate_molecules_by_level",
        "prepare_parallel_tasks",
    ),
    "errors": ("InputError", "Interrupted", "QcmbError", "TasksFailed"),
    "execution.executors.base": ("Executor", "ExecutorConfig"),
    "execution.executors.configs": (
        "AdaptiveParallelConfig",
        "MethodAwareConfig",
        "MethodSettings",
    ),
    "execution.executors.local": (
        "FuturesExecutor",
        "MultiprocessingExecutor",
        "SequentialExecutor",
        "ThreadExecutor",
    ),
    "execution.executors.mpi": ("MPIExecutor",),
    "execution.tasks": ("ParallelTask", "TaskResult", "TaskStatus"),
    "expansion.graph": ("NBodyDependencyGraph",),
    "machine.usage": ("ThreadUsageStats",),
    "potential": ("ManyBodyPotential",),
    "programs.thread_config": ("QCThreadConfig",),
    "programs.thread_manager": (
        "HybridParallelConfig",
        "ParallelConfig",
        "QCThreadManager",
        "ThreadAllocation",
    ),
    "report.closing": ("compute_execution_stats", "format_execution_summary"),
    "report.tables": ("contributions_frame", "tasks_frame"),
    "scheduling.balancer": ("DynamicLoadBalancer", "LoadBalancer"),
    "scheduling.cost": ("CostModel",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AdaptiveParallelConfig",
    "CostModel",
    "DynamicLoadBalancer",
    "Executor",
    "ExecutorConfig",
    "FuturesExecutor",
    "HybridParallelConfig",
    "InputError",
    "Interrupted",
    "LoadBalancer",
    "MPIExecutor",
    "ManyBodyComputer",
    "ManyBodyPotential",
    "MethodAwareConfig",
    "MethodSettings",
    "MultiprocessingExecutor",
    "NBodyDependencyGraph",
    "ParallelConfig",
    "ParallelManyBodyComputer",
    "ParallelMode",
    "ParallelTask",
    "QCThreadConfig",
    "QCThreadManager",
    "QcmbError",
    "SequentialExecutor",
    "TaskResult",
    "TaskStatus",
    "TasksFailed",
    "ThreadAllocation",
    "ThreadExecutor",
    "ThreadUsageStats",
    "compute_execution_stats",
    "contributions_frame",
    "format_execution_summary",
    "iterate_molecules_by_level",
    "prepare_parallel_tasks",
    "tasks_frame",
]


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(__name__)
    except PackageNotFoundError:  # a source tree that is not installed
        return "0+unknown"


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _is_own_process() -> bool:
    """Whether this is our command or fork server, which register when they need to.

    QCEngine takes a second to import; the command starts its fork server before that.
    """
    words = sys.orig_argv
    if "-m" in words and words[words.index("-m") + 1 :][:1] == [__name__]:
        return True
    return any("qcmb_mpi.execution.forkserver" in w or w.endswith("qcmb-mpi") for w in words[:3])


if not _is_own_process():
    from qcmb_mpi.programs import register

    register()

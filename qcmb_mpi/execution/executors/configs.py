"""Configurations that adapt to the work or to the method; any executor takes them.

A run asks :func:`fitted` and :func:`demanded` what they make of its work. Explicit tasks
(``Executor.execute``) have no known method and work: there only the fields of
:class:`ExecutorConfig` hold.

Rules of this file
------------------
1. Decided before anything runs, from predictions alone: the threads of a calculation must not
   depend on what was measured.
2. Nothing here is a hint: every field changes what a run does, or is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from typing import Any

from qcmb_mpi.errors import InputError
from qcmb_mpi.execution.executors.base import ExecutorConfig
from qcmb_mpi.execution.layout import place
from qcmb_mpi.execution.wire import AgentInfo
from qcmb_mpi.programs.names import did_you_mean
from qcmb_mpi.programs.profiles import method_family
from qcmb_mpi.scheduling.cost import FAMILIES
from qcmb_mpi.scheduling.messages import TaskClass
from qcmb_mpi.scheduling.placement import choose_layout
from qcmb_mpi.scheduling.widths import end_s

_LOG = logging.getLogger(__name__)
_BOUNDS = ("min_workers", "max_workers", "min_threads", "max_threads")


@dataclass(frozen=True, slots=True)
class AdaptiveParallelConfig(ExecutorConfig):
    """Workers and threads chosen for the work, within bounds.

    Without bounds it is the automatic choice of every run. Where that leaves the bounds, the best
    layout inside them is taken, by the predicted end of the run, and no task runs wider than it.

    Parameters
    ----------
    min_workers, max_workers : int, optional
        Calculations at once, on this node (of each rank under MPI).
    min_threads, max_threads : int, optional
        Threads of each.

    Raises
    ------
    InputError
        A bound is not a whole number of 1 or more, a lower one exceeds the upper one, or
        ``n_workers`` or ``n_threads`` is given and outside.
    """

    min_workers: int | None = None
    max_workers: int | None = None
    min_threads: int | None = None
    max_threads: int | None = None

    def __post_init__(self) -> None:
        ExecutorConfig.__post_init__(self)
        for name in _BOUNDS:
            _check_number(name, getattr(self, name), Integral)
        for low, high, fixed in (
            ("min_workers", "max_workers", "n_workers"),
            ("min_threads", "max_threads", "n_threads"),
        ):
            least, most = getattr(self, low) or 1, getattr(self, high)
            number = getattr(self, fixed) or least
            if most is not None and least > most:
                raise InputError(low, f"is more than {high}", value=least)
            if number < least or number > (most or number):
                raise InputError(fixed, f"is not within {low} and {high}", value=number)

    def allows(self, n_workers: int, n_threads: int) -> bool:
        """Tell whether a layout is within the bounds."""
        return (self.min_workers or 1) <= n_workers <= (self.max_workers or n_workers) and (
            self.min_threads or 1
        ) <= n_threads <= (self.max_threads or n_threads)


@dataclass(frozen=True, slots=True)
class MethodSettings:
    """What calculations with a method are given, where that is not left to the machine.

    Parameters
    ----------
    n_threads : int, optional
        Threads of each.
    memory_bytes : int, optional
        What one is known to need; used instead of the prediction.
    timeout_s : float, optional
        Wall seconds of one.
    """

    n_threads: int | None = None
    memory_bytes: int | None = None
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        for name, kind in (
            ("n_threads", Integral),
            ("memory_bytes", Integral),
            ("timeout_s", Real),
        ):
            _check_number(f"methods.{name}", getattr(self, name), kind)


@dataclass(frozen=True, slots=True)
class MethodAwareConfig(ExecutorConfig):
    """Threads, memory and time limits by method.

    Parameters
    ----------
    methods : mapping of str to MethodSettings or mapping
        By name of a method (``"b3lyp"``), or of a family that costs alike (``"scf"``, ``"dft"``,
        ``"mp2"``, ``"ccsd"``, ``"ccsd(t)"``, ``"semiempirical"``, ``"dispersion"``); a method goes
        before its family. Where a run has several methods it takes the largest number of threads
        and the longest time limit, as these hold for all its tasks. A run warns of names that are
        neither a method of its own nor a family.

    Raises
    ------
    InputError
        A setting is unknown or not acceptable, or ``n_threads`` is given twice.

    Examples
    --------
    >>> config = MethodAwareConfig(methods={"ccsd(t)": {"n_threads": 4, "timeout_s": 7200}})
    >>> config.settings_of("pyscf", "CCSD(T)").n_threads
    4
    """

    methods: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ExecutorConfig.__post_init__(self)
        if not isinstance(self.methods, Mapping):
            raise InputError("methods", "must be a mapping by method", value=self.methods)
        settings = {str(name).lower(): _settings(value) for name, value in self.methods.items()}
        if self.n_threads is not None and any(each.n_threads for each in settings.values()):
            raise InputError("n_threads", "cannot be given together with those of methods")
        object.__setattr__(self, "methods", settings)

    def settings_of(self, program: str, method: str) -> MethodSettings:
        """Return what holds for a method of a program."""
        ours = self.methods.get(method.lower(), MethodSettings())
        kin = self.methods.get(method_family(program, method), MethodSettings())
        return MethodSettings(
            **{
                each.name: getattr(ours, each.name)
                if getattr(ours, each.name) is not None
                else getattr(kin, each.name)
                for each in fields(MethodSettings)
            }
        )


def fitted(config: ExecutorConfig, methods: Iterable[tuple[str, str]]) -> ExecutorConfig:
    """Return a configuration with what it says of the methods of a run.

    Parameters
    ----------
    config : ExecutorConfig
    methods : iterable of (str, str)
        Program and method of every model chemistry of the run.
    """
    if not isinstance(config, MethodAwareConfig):
        return config
    used = list(methods)
    _warn_of_strangers(config, {method.lower() for _, method in used})
    settings = [config.settings_of(program, method) for program, method in used]
    threads = [each.n_threads for each in settings if each.n_threads is not None]
    times = [config.timeout_per_task if x.timeout_s is None else x.timeout_s for x in settings]
    return replace(
        config,
        methods={},
        n_threads=max(threads) if threads else config.n_threads,
        timeout_per_task=max(times, default=config.timeout_per_task),
    )


def _warn_of_strangers(config: MethodAwareConfig, used: set[str]) -> None:
    """Warn, as programs know any number of methods, and one configuration may serve many runs."""
    known = {*used, *FAMILIES}
    for name in sorted(config.methods.keys() - known):
        _LOG.warning(
            "methods: %r changes nothing: it is no method of this run (%s) and no family (%s)%s",
            *(name, ", ".join(sorted(used)), ", ".join(sorted(FAMILIES))),
            did_you_mean(name, known),
        )


def demanded(
    config: ExecutorConfig,
    classes: tuple[TaskClass, ...],
    method_of: Callable[[TaskClass], tuple[str, str]],
) -> tuple[TaskClass, ...]:
    """Return classes with the memory that the configuration says their methods need.

    Parameters
    ----------
    config : ExecutorConfig
    classes : tuple of TaskClass
    method_of : callable
        Gives program and method of a class.
    """
    if not isinstance(config, MethodAwareConfig):
        return classes
    needs = [config.settings_of(*method_of(each)).memory_bytes for each in classes]
    return tuple(
        each if need is None else replace(each, memory_bytes=need, floor_bytes=need)
        for each, need in zip(classes, needs, strict=True)
    )


def adapted(
    config: ExecutorConfig,
    infos: Sequence[AgentInfo],
    classes: Sequence[TaskClass],
    *,
    thread_limit: int | None = None,
) -> ExecutorConfig:
    """Return a configuration with workers and threads inside its bounds.

    Parameters
    ----------
    config : ExecutorConfig
    infos : sequence of AgentInfo
        All agents.
    classes : sequence of TaskClass
        All tasks, as predicted before anything was measured.
    thread_limit : int, optional
        Threads that the programs can use.

    Raises
    ------
    InputError
        Some agent has too few cores, or too little memory, for the lower bounds.
    """
    if not isinstance(config, AdaptiveParallelConfig) or not classes:
        return config
    computing = [info for info in infos if info.n_cores] or list(infos)
    unlike = list({(info.n_cores, info.memory_bytes): info for info in computing}.values())

    def is_within(choice: AdaptiveParallelConfig) -> bool:
        free = place(infos, classes, choice, thread_limit=thread_limit)
        widest = max(each.n_threads for each in free.classes)
        return all(
            config.allows(layout.n_slots, layout.n_threads)
            and config.allows(layout.n_slots, max(widest, layout.n_threads))
            for layout in map(free.layout_of, unlike)
        )

    if is_within(config):
        return config
    n_workers, n_threads = _best(config, unlike, classes, len(computing), thread_limit)
    roomy = replace(config, n_threads=n_threads)  # larger agents get more workers
    if len(unlike) > 1 and is_within(roomy):
        return roomy
    return replace(roomy, n_workers=n_workers)


def _best(
    config: AdaptiveParallelConfig,
    unlike: Sequence[AgentInfo],
    classes: Sequence[TaskClass],
    n_agents: int,
    thread_limit: int | None,
) -> tuple[int, int]:
    """Return workers and threads, the same for all agents, that are predicted to end first."""
    n_cores = max(1, min(info.n_cores for info in unlike))
    fewest = config.n_threads or config.min_threads or 1
    most = config.n_threads or max(fewest, min(n_cores, thread_limit or n_cores))
    most = min(most, config.max_threads or most, n_cores)
    found: list[tuple[float, int, int]] = []
    for n_threads in range(fewest, most + 1):
        layouts = [
            choose_layout(
                *(classes, max(1, info.n_cores), info.memory_bytes),
                n_threads=n_threads,
                n_agents=n_agents,
            )
            for info in unlike
        ]
        tightest = min(layouts, key=lambda layout: layout.n_slots)
        most_workers = config.n_workers or config.max_workers or tightest.n_slots
        n_workers = min(tightest.n_slots, most_workers)
        if n_workers >= (config.min_workers or 1):
            layout = replace(tightest, n_slots=n_workers)
            found.append((round(end_s(classes, layout, n_agents), 3), n_threads, n_workers))
    if not found:
        info = min(unlike, key=lambda info: (info.n_cores, info.memory_bytes))
        raise InputError(
            "min_workers",
            f"x min_threads do not fit into the {n_cores} cores and the memory of {info.host}",
            value=f"{config.min_workers or 1} x {config.min_threads or 1}",
        )
    _, n_threads, n_workers = min(found)
    return n_workers, n_threads


def _settings(value: Any) -> MethodSettings:
    if isinstance(value, MethodSettings):
        return value
    known = [each.name for each in fields(MethodSettings)]
    if not isinstance(value, Mapping) or not set(value) <= set(known):
        raise InputError("methods", "has a setting unknown", value=value, accepted=", ".join(known))
    return MethodSettings(**value)


def _check_number(name: str, value: Any, kind: type) -> None:
    is_one = isinstance(value, kind) and not isinstance(value, bool)
    if value is not None and not (is_one and value > 0):
        raise InputError(name, "is not acceptable", value=value, accepted="a number more than 0")

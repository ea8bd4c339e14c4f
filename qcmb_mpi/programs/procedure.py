"""The QCEngine procedure ``qcmb_mpi``: ``qcengine.compute(many_body_input, "qcmb_mpi")``.

Rules of this file
------------------
1. The engine itself is imported when a calculation starts, because this module is imported by it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar

from qcengine.config import NodeDescriptor, TaskConfig, get_global
from qcengine.exceptions import InputError, UnknownError
from qcengine.procedures.qcmanybody import QCManyBodyProcedure

from qcmb_mpi import errors

_GIB = 2**30


class ManyBodyProcedure(QCManyBodyProcedure):  # type: ignore[misc]
    """A parallel many-body expansion; takes what QCEngine's ``qcmanybody`` procedure takes.

    It runs on the executor whose ``with`` block is open; else on one of this process's own, which
    stays warm for the next call, as an optimiser makes many. ``ncores`` and ``memory`` of the
    task configuration, if given, are what it uses at most of each node; what QCEngine assumes
    without them is all of a node, of which the executor knows better what is ours.
    """

    _defaults: ClassVar[dict[str, Any]] = {"name": "qcmb_mpi", "procedure": "manybody"}

    def get_version(self) -> str:
        """Return QCManyBody's version: it decides which input models are accepted."""
        return str(super().get_version())

    def build_input_model(self, data: Any, **options: Any) -> Any:
        """Return the model of an input; geomeTRIC says the driver a second time."""
        if isinstance(data, dict) and isinstance(data.get("specification"), dict):
            data = {name: value for name, value in data.items() if name != "driver"}
        return super().build_input_model(data, **options)

    def compute(self, input_model: Any, config: TaskConfig) -> Any:
        """Run a ``ManyBodyInput`` and return its ``ManyBodyResult``.

        Raises
        ------
        qcengine.exceptions.InputError, UnknownError
            So that QCEngine tells it as the caller wants it told.
        """
        computer = import_module("qcmb_mpi.computer").ParallelManyBodyComputer
        try:
            pool = import_module("qcmb_mpi.warm").warm_executor()
            with pool.granting(_told(config)):
                return computer.from_manybodyinput(input_model, executor=pool)
        except errors.QcmbError as error:
            is_callers = error.exit_code == errors.InputError.exit_code
            raise (InputError if is_callers else UnknownError)(str(error)) from error


def _told(config: TaskConfig) -> Any:
    """Return what QCEngine was told that may be used; what it only assumes is no limit."""
    grant = import_module("qcmb_mpi.execution.layout").Grant
    node = NodeDescriptor(name="any", hostname_pattern="*")
    assumed_gib = round(get_global("memory") * (1 - node.memory_safety_factor / 100), 3)
    return grant(
        n_cores=None if config.ncores == get_global("ncores") else config.ncores,
        memory_bytes=None if config.memory == assumed_gib else int(config.memory * _GIB),
    )

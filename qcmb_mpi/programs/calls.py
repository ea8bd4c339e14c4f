"""``qcengine.compute`` with what is the same for all calls done once.

QCEngine makes its configuration anew for every call: 0.6 ms, as much as a small semi-empirical
calculation. Here it is made once; all else is done as QCEngine does it, with its own functions.

Rules of this file
------------------
1. Whatever comes back is what ``qcengine.compute(..., return_version=2)`` gives, field by field (a
   test compares them), except for an answer that is asked for bare.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import qcengine
from qcelemental.models.v2 import AtomicInput, AtomicResult
from qcengine.config import TaskConfig, get_config
from qcengine.procedures.base import get_procedure, procedures
from qcengine.programs.base import get_program
from qcengine.util import compute_wrapper, environ_context, handle_output_metadata

from qcmb_mpi.programs.thread_config import calculation_config

_OF_THE_INPUT = "_qcengine_local_config"


@contextmanager
def changed_environment(variables: dict[str, str]) -> Iterator[None]:
    """Set variables for a while."""
    if not variables:
        yield
        return
    with environ_context(env=variables):
        yield


class Caller:
    """Calls programs with one configuration.

    Parameters
    ----------
    task_config : mapping
        As for ``qcengine.compute``, with ``retries`` 0.
    """

    def __init__(self, task_config: Mapping[str, Any]) -> None:
        self._given = dict(task_config)
        self._configs: dict[str, TaskConfig] = {}

    def config(self, program: str) -> TaskConfig:
        """Return QCEngine's configuration for a program, a copy that a harness may change.

        Raises
        ------
        ValueError
            As ``qcengine.config.get_config`` does if node and request contradict each other.
        """
        found = self._configs.get(program)
        if found is None:
            found = self._configs[program] = get_config(task_config=self._given_to(program))
        return found.model_copy()

    def _given_to(self, program: str) -> dict[str, Any]:
        return self._given | calculation_config(program, int(self._given.get("ncores", 1)))

    def compute(self, inp: AtomicInput, program: str, *, is_bare: bool = False) -> Any:
        """Run one calculation.

        Parameters
        ----------
        inp : AtomicInput
        program : str
            QCEngine's name.
        is_bare : bool
            Whether a result of QCSchema version 2 may come as the harness made it, without what
            QCEngine knows of the machine, and not validated again.

        Returns
        -------
        AtomicResult or FailedOperation
        """
        if inp.specification.extras.get(_OF_THE_INPUT):
            return qcengine.compute(
                inp, program, task_config=self._given_to(program), return_version=2
            )
        output: Any = inp.model_copy()
        with compute_wrapper(capture_output=False, raise_error=False) as metadata:
            harness = _harness(program)
            asked = harness.build_input_model(inp)
            asked.specification.extras.pop(_OF_THE_INPUT, None)
            config = self.config(program)
            with environ_context(config=config):
                output = asked  # what a failure is told with
                output = harness.compute(asked, config)
        if is_bare and metadata["success"] and type(output) is AtomicResult:
            return output
        return handle_output_metadata(
            output, metadata, raise_error=False, return_dict=False, convert_version=2
        )


def _harness(program: str) -> Any:
    # QCEngine asks for the procedure and catches the error, which writes a traceback.
    return (get_procedure if program.lower() in procedures else get_program)(program)

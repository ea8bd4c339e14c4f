"""QCEngine harness for Psi4 (https://psicode.org) of all versions since 1.2.

Before 1.4 Psi4 reads QCSchema version 1 by ``psi4 --json``, which QCEngine's own harness no longer
writes; that way is here. Newer ones take QCEngine's way, in this process where the module can be
imported: to start Psi4 costs a second or two for every task.

Rules of this file
------------------
1. It stands in for QCEngine's own harness of the name, never for anybody else's.
2. Of newer versions nothing is computed here: QCEngine's harness does it.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

from qcelemental.models.v2 import AtomicInput, AtomicProperties, AtomicResult
from qcelemental.util import parse_version, safe_version, which, which_import
from qcengine.config import TaskConfig
from qcengine.exceptions import InputError, RandomError, ResourceError, UnknownError
from qcengine.programs.psi4 import Psi4Harness as StockHarness
from qcengine.util import execute, temporary_directory

from qcmb_mpi.programs.advice import in_a_line

_FIRST_WITH_QCSCHEMA = "1.4a2.dev160"
_FILE = "data.json"
# Psi4's data and buffers outside of what it counts as its memory; as QCEngine has it.
_MEMORY_SHARE = 0.95
_CRASHES = ("SIGSEV", "SIGSEGV", "segmentation fault")  # as QCEngine has it, slip included
_INPUT_FAULTS = (
    "ValidationError",
    "MissingMethodError",
    "ManagedMethodError",
    "BasisSetNotFound",
    "TypeError: set_global_option",
    "RHF reference is only for singlets",
    "does not exist for core",
    "is not a valid option",
)


class Psi4Harness(StockHarness):  # type: ignore[misc]
    """Psi4 as a QCEngine program, whatever its version."""

    @staticmethod
    def found(raise_error: bool = False) -> bool:
        """Say whether there is a Psi4; QCEngine's harness starts it to know, here once."""
        return _is_old(which("psi4")) or bool(StockHarness.found(raise_error))

    def get_version(self) -> str:
        """Return the version."""
        executable = which("psi4")
        if _is_old(executable):
            return _version(executable)
        return str(super().get_version())

    def compute(self, input_model: AtomicInput, config: TaskConfig) -> AtomicResult:
        """Run one calculation.

        Parameters
        ----------
        input_model : qcelemental.models.v2.AtomicInput
        config : qcengine.config.TaskConfig
            Threads (``ncores``), memory and scratch directory are honoured.

        Returns
        -------
        qcelemental.models.v2.AtomicResult

        Raises
        ------
        qcengine.exceptions.InputError
            Method, basis set, keyword or molecule that Psi4 cannot take.
        qcengine.exceptions.RandomError, ResourceError, UnknownError
            Scratch files, and all other failures.
        """
        self.found(raise_error=True)
        if _is_old(which("psi4")):
            return _through_json(input_model, config)
        if not which_import("psi4", return_bool=True):
            return super().compute(input_model, config)
        return self._in_process(input_model, config)

    def _in_process(self, input_model: AtomicInput, config: TaskConfig) -> AtomicResult:
        """Let QCEngine call the module; what it leaves in memory and scratch goes at once.

        QCEngine makes a folder for each calculation and then does not tell the module of it, so the
        files of all slots would be in one.
        """
        import psi4

        asked = input_model.model_copy(deep=True)
        asked.specification.extras.setdefault("psiapi", True)
        files = psi4.core.IOManager.shared_object()
        before = files.get_default_path()
        with _folder(config) as scratch:
            files.set_default_path(str(scratch))
            try:
                result = super().compute(asked, config)
            finally:
                psi4.core.clean()
                files.set_default_path(before)
        return result.model_copy(update={"input_data": input_model})


@lru_cache(maxsize=4)
def _version(executable: str) -> str:
    """Ask an executable, where it may leave files behind: even to ask leaves a ``timer.dat``."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [executable, "--version"], cwd=folder, capture_output=True, text=True, check=False
        )
    said = done.stdout.split()
    return str(safe_version(said[-1])) if done.returncode == 0 and said else ""


def _is_old(executable: str | None) -> bool:
    version = _version(executable) if executable else ""
    return bool(version) and parse_version(version) < parse_version(_FIRST_WITH_QCSCHEMA)


def _folder(config: TaskConfig) -> AbstractContextManager[Any]:
    """Return a folder of a calculation's own, where QCEngine would have it."""
    parent = config.scratch_directory or os.environ.get("PSI_SCRATCH")
    folder: AbstractContextManager[Any] = temporary_directory(
        parent=parent, suffix="_psi_scratch", messy=config.scratch_messy
    )
    return folder


def _through_json(inp: AtomicInput, config: TaskConfig) -> AtomicResult:
    with _folder(config) as scratch:
        has_run, output = execute(
            [which("psi4"), "--scratch", str(scratch), "--json", _FILE],
            {_FILE: json.dumps(old_document(inp, config))},
            [_FILE],
            scratch_directory=str(scratch),
        )
    answer = json.loads(output["outfiles"][_FILE] or "{}") if has_run else {}
    if not answer.get("success"):
        said = (answer.get("error") or {}).get("error_message") or output["stderr"]
        raise _error(str(said), answer.get("raw_output") or output["stdout"] or "")
    return _result(inp, config, answer)


def old_document(inp: AtomicInput, config: TaskConfig) -> dict[str, Any]:
    """Return what ``psi4 --json`` of versions before 1.4 reads.

    Raises
    ------
    qcengine.exceptions.InputError
        Charges around the molecule, which those versions would leave out without a word.
    """
    document: dict[str, Any] = json.loads(inp.convert_v(1).json())
    keywords = document["keywords"]
    if "external_potentials" in (keywords.get("function_kwargs") or {}):
        raise InputError("embedding charges need Psi4 1.4 or newer")
    if inp.molecule.molecular_multiplicity != 1 and "reference" not in map(str.lower, keywords):
        keywords["reference"] = "uhf"
    document["model"]["basis"] = document["model"].get("basis") or ""
    return document | {
        "schema_name": "qcschema_input",
        "schema_version": 1,
        "nthreads": config.ncores,
        "memory": int(config.memory * 2**30 * _MEMORY_SHARE),
        "return_output": True,
    }


def _result(inp: AtomicInput, config: TaskConfig, answer: Mapping[str, Any]) -> AtomicResult:
    driver = inp.specification.driver.value
    known = AtomicProperties.model_fields
    properties = {k: v for k, v in answer["properties"].items() if k in known and v is not None}
    properties[f"return_{driver}"] = answer["return_result"]
    return AtomicResult(
        input_data=inp,
        molecule=inp.molecule.model_copy(
            update={"geometry": _shaped(answer["molecule"]["geometry"], inp)}
        ),
        properties=properties,
        return_result=answer["return_result"],
        extras={"qcvars": answer["extras"]["qcvars"]},
        stdout=answer.get("raw_output"),
        success=True,
        provenance={
            **answer["provenance"],
            "memory": round(config.memory, 3),
            "nthreads": config.ncores,
        },
    )


def _shaped(geometry: Any, inp: AtomicInput) -> Any:
    import numpy as np

    return np.asarray(geometry, dtype=float).reshape(np.shape(inp.molecule.geometry))


def _error(message: str, output: str) -> Exception:
    """Return QCEngine's exception; of a traceback its error, the rest among the output."""
    said = in_a_line("psi4", message, "") or "Psi4 ended without a word"
    extras = {"stdout": f"{output}\n{message}"}
    if "PSIO Error" in message:
        kind = ResourceError if "scratch directory" in message else RandomError
        return kind(message, extras=extras)  # type: ignore[no-any-return]
    if any(word in message for word in _CRASHES):
        return RandomError(said, extras=extras)  # type: ignore[no-any-return]
    is_inputs = any(fault in message for fault in _INPUT_FAULTS)
    return (InputError if is_inputs else UnknownError)(said, extras=extras)  # type: ignore[no-any-return]

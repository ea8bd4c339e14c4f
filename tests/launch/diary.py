"""The flaky program with a diary: what was computed when, also by runs that did not live to tell.

Registered as ``diary`` by ``--import tests.launch.diary``. The keyword ``diary`` names the file.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import qcengine
from qcelemental.models.v2 import AtomicInput, AtomicResult

from tests.flaky import FlakyHarness


@dataclass(frozen=True)
class Entry:
    """One calculation that has ended."""

    ended_s: float
    task: str


class DiaryHarness(FlakyHarness):
    """Closed-form energies, and a line for each."""

    _defaults: ClassVar[dict[str, Any]] = FlakyHarness._defaults | {"name": "diary"}

    def compute(self, input_data: AtomicInput, config: Any) -> AtomicResult:
        """Compute, then write down which atoms were real and which ghosts."""
        result = super().compute(input_data, config)
        molecule = input_data.molecule
        atoms = [
            f"{'' if is_real else '@'}{place[0]:.4f}"
            for is_real, place in zip(molecule.real, np.asarray(molecule.geometry), strict=True)
        ]
        line = f"{time.monotonic()} {','.join(sorted(atoms))}\n"
        diary = os.open(
            input_data.specification.keywords["diary"], os.O_WRONLY | os.O_APPEND | os.O_CREAT
        )
        os.write(diary, line.encode())
        os.close(diary)
        return result


def read_diary(path: Path) -> list[Entry]:
    """Return what is in a diary, in the order of writing."""
    rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [Entry(float(ended_s), task) for ended_s, task in rows]


qcengine.register_program(DiaryHarness())

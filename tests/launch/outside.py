"""The flaky program, one calculation of which is done by a program outside, which takes long.

Registered as ``outside`` by ``--import tests.launch.outside``. The keyword ``mark`` names a file:
the one calculation that takes long makes it, and it is there for all that follow.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, ClassVar

import qcengine
from qcelemental.models.v2 import AtomicInput, AtomicResult

from tests.flaky import FlakyHarness


class OutsideHarness(FlakyHarness):
    """Closed-form energies, and a program that is not Python."""

    _defaults: ClassVar[dict[str, Any]] = FlakyHarness._defaults | {"name": "outside"}

    def compute(self, input_data: AtomicInput, config: Any) -> AtomicResult:
        """Compute; the first one has the program outside work for an hour."""
        mark = Path(input_data.specification.keywords["mark"])
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            return super().compute(input_data, config)
        subprocess.run(["sleep", "3600"], check=True)
        return super().compute(input_data, config)


qcengine.register_program(OutsideHarness())

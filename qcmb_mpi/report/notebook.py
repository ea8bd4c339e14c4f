"""Live progress in a Jupyter notebook: one output that is replaced in place.

Rules of this file
------------------
1. IPython is imported where there is one already; nothing else of Jupyter is needed.
"""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any

from qcmb_mpi.report.progress import LiveProgress

if TYPE_CHECKING:
    from qcmb_mpi.report.snapshot import Snapshot

_WIDTH = 96
_PRE = '<pre style="font-family: monospace; line-height: 1.3; margin: 0">{code}</pre>'


def is_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


class NotebookProgress(LiveProgress):
    """The display of a terminal, as an output of the cell.

    It can be started again: the runs of one cell, as those of an optimisation, share an output.

    Parameters
    ----------
    title : str, optional
    """

    def __init__(self, *, title: str = "") -> None:
        from rich.console import Console

        self._sheet = Console(
            file=io.StringIO(), width=_WIDTH, record=True, highlight=False, force_jupyter=False
        )
        super().__init__(self._sheet, title=title)
        self._output: Any = None

    def start(self, snapshot: Snapshot, now: float) -> None:
        """Open the output, or use the one that is open."""
        self._draw(snapshot, now)

    def finish(self, snapshot: Snapshot, now: float) -> None:
        """Draw the last state."""
        self._draw(snapshot, now)

    def _draw(self, snapshot: Snapshot, now: float) -> None:
        from IPython.display import display

        self._last_s = now
        self._sheet.print(self._render(snapshot))
        page = self._sheet.export_html(inline_styles=True, code_format=_PRE, clear=False)
        drawn = {"text/html": page, "text/plain": self._sheet.export_text()}
        if self._output is None:
            self._output = display(drawn, raw=True, display_id=True)
        else:
            self._output.update(drawn, raw=True)

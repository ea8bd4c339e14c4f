"""Progress in a notebook: one output, replaced in place, run after run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import IPython
import IPython.display
import pytest

from qcmb_mpi import ManyBodyPotential, ParallelManyBodyComputer, SequentialExecutor
from qcmb_mpi.execution.executors.base import ExecutorConfig
from qcmb_mpi.report.notebook import NotebookProgress, is_notebook
from qcmb_mpi.report.progress import PlainProgress, make_progress
from tests.edge.task_cases import IMPORTS, many_body_input, molecule


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """Be the kernel of a notebook; return what every output was, one state after the other."""
    found: list[list[Any]] = []

    def display(data: Any, **given: Any) -> Any:
        assert given == {"raw": True, "display_id": True}
        found.append([data])
        return SimpleNamespace(update=lambda data, raw: found[-1].append(data))

    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=object()))
    return found


def test_a_run_has_one_output_that_ends_at_all(
    outputs: list[list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"imports": IMPORTS}
    computer = ParallelManyBodyComputer(
        many_body_input(3), parallel_mode="serial", parallel_config=config
    )
    computer.compute(progress=True)
    [states] = outputs
    assert "0 %" in states[0]["text/plain"]
    assert "100 %" in states[-1]["text/plain"]
    assert states[-1]["text/html"].startswith("<pre")
    assert capsys.readouterr() == ("", "")


def test_many_geometries_share_an_output(outputs: list[list[Any]]) -> None:
    with SequentialExecutor(ExecutorConfig(imports=IMPORTS)) as pool:
        shown = NotebookProgress(title="this geometry")
        potential = ManyBodyPotential(many_body_input(3), pool, progress=shown)
        for _ in range(2):
            potential.energy(molecule(3)["geometry"])
    [states] = outputs
    assert [state["text/plain"].count("this geometry") for state in states] == [1] * len(states)
    assert sum("all  " in line for line in states[-1]["text/plain"].splitlines()) == 1


def test_elsewhere_there_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_notebook()
    assert isinstance(make_progress(), PlainProgress)
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace())
    assert not is_notebook()

"""What a run does before its first task: no more than it needs, and nothing twice."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

import yaml

from qcmb_mpi import runner
from qcmb_mpi.execution.executors.mpi.bell import Bell
from qcmb_mpi.execution.executors.mpi.leave import Departure
from qcmb_mpi.execution.executors.mpi.master import MasterTransport
from qcmb_mpi.execution.executors.mpi.neighbours import Neighbours
from qcmb_mpi.execution.wire import AgentInfo, Hello

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SLOW = ("importlib.metadata", "numpy.ma", "yaml")  # 5 to 20 ms each

# Its end tells the package that this is its own command, which does not register with QCEngine.
_OURS = "  # as by qcmb-mpi"


def said(code: str) -> list[str]:
    """Run Python in a process of its own; return the words it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code + _OURS], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_a_rank_that_only_computes_imports_no_scheduler_and_no_models() -> None:
    code = (
        "import sys; import qcmb_mpi.cli; import qcmb_mpi.execution.executors.mpi; "
        "import qcmb_mpi.execution.executors.mpi.worker; print(*sys.modules)"
    )
    imported = said(code)
    assert "qcmb_mpi.execution.agent" in imported
    for name in ("qcelemental", "qcengine", "qcmanybody", "pydantic", "psutil", *SLOW):
        assert name not in imported
    for name in ("scheduling.scheduler", "execution.dispatch", "store", "executors.local"):
        assert f"qcmb_mpi.{name}" not in imported


def test_nothing_slow_is_imported_before_the_fork_server_is_started() -> None:
    code = (
        "import sys; import qcmb_mpi.cli; import qcmb_mpi.execution.forkserver; "
        "import qcmb_mpi.warming; print(*sys.modules)"
    )
    imported = said(code)
    assert "qcmb_mpi.execution.forkserver" in imported
    for name in ("numpy", "qcelemental", "pydantic", "psutil", *SLOW):
        assert name not in imported


def test_a_server_of_bare_slots_imports_nothing_that_only_some_need() -> None:
    code = (
        "import sys; import qcmb_mpi.execution.forkserver_main; import qcmb_mpi.execution.slot; "
        "print(*sys.modules)"
    )
    imported = said(code)
    assert "numpy" in imported
    for name in ("qcelemental", "qcengine", "pydantic", "psutil", *SLOW):
        assert name not in imported


def test_a_server_of_native_slots_imports_no_models() -> None:
    imported = said("import sys; import qcmb_mpi.execution.preload_native; print(*sys.modules)")
    assert "qcmb_mpi.execution.native" in imported
    for name in ("qcelemental", "qcengine", "pydantic", "psutil", "numpy.ma", "yaml"):
        assert name not in imported


def test_an_input_of_json_is_planned_without_what_is_slow_to_import(tmp_path: Path) -> None:
    document = yaml.safe_load((EXAMPLES / "helium-dimer.yaml").read_text())
    (tmp_path / "in.json").write_text(json.dumps(document))
    code = (
        "import sys; from qcmb_mpi import schema; import qcmb_mpi.driver as d; import numpy as np; "
        f"space = d.TaskSpace(schema.read_input({str(tmp_path / 'in.json')!r}).expansion); "
        "d.Prospect(space, d.ExecutorConfig(), done=np.empty(0, np.int64)); print(*sys.modules)"
    )
    imported = said(code)
    assert "qcmb_mpi.execution.dispatch" in imported
    for name in ("qcengine", "yaml", "numpy.ma"):
        assert name not in imported


def test_a_process_that_computes_nothing_starts_no_threads_for_numpy() -> None:
    code = (
        "import os, psutil; from qcmb_mpi import cli, runner; "
        "runner._on_master = lambda *_: print(psutil.Process().num_threads(), "
        "os.environ.get('OPENBLAS_NUM_THREADS')) or 0; "
        f"cli.main(['run', {str(EXAMPLES / 'helium-dimer.yaml')!r}, "
        "'--executor', 'multiprocessing'])"
    )
    assert said(code) == ["1", "None"]


def test_no_garbage_is_looked_for_among_what_is_imported() -> None:
    try:
        with runner._starting_up():
            assert not gc.isenabled()
            kept: list[Any] = [[]]
        assert gc.isenabled()
        assert all(each is not kept for each in gc.get_objects())
    finally:
        gc.unfreeze()


class Comm:
    """A communicator of two ranks."""

    size = 2


class Post:
    """Mail that has arrived, a portion at a time."""

    def __init__(self, *portions: list[tuple[int, object]]) -> None:
        self.comm = Comm()
        self.dead: set[int] = set()
        self._portions = deque(portions)

    def receive(self) -> list[tuple[int, object]]:
        """Return the next portion."""
        return self._portions.popleft() if self._portions else []


class Silent:
    """An agent that has nothing to say, and does not want to be asked for ever."""

    info = AgentInfo(0, "here", 1, 0)
    is_calm = has_rung = False

    def __init__(self) -> None:
        self.n_asked = 0

    def poll(self, timeout_s: float) -> list[Any]:
        """Say nothing."""
        self.n_asked += 1
        assert self.n_asked < 10
        return []


def test_the_master_waits_no_longer_when_a_rank_has_said_hello() -> None:
    other = AgentInfo(1, "there", 1, 0)
    post: Any = Post([], [(1, Hello(other))])
    agent: Any = Silent()
    transport = MasterTransport(agent, post, Neighbours((), Bell()), Departure(), 30.0)
    assert transport.poll(timeout_s=60.0) == []
    assert transport.infos[1] == other
    assert agent.n_asked == 1

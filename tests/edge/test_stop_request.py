"""How a signal ends what nobody polls."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys

import numpy as np
import pytest

from qcmb_mpi.errors import Interrupted
from qcmb_mpi.execution.engine import SlotResources
from qcmb_mpi.execution.executors.inline import InlineAgent
from qcmb_mpi.execution.outcome import Outcome
from qcmb_mpi.execution.stop import Cut, cuttable, heed_signals
from qcmb_mpi.execution.wire import AgentInfo, Done, Open, Ready, Recall, Returned, Work
from qcmb_mpi.scheduling.placement import Layout


class Struck(logging.Handler):
    """A log whose writing a signal falls into; like all of logging it swallows errors."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception:
            self.handleError(record)


def test_a_signal_while_something_is_logged_is_not_swallowed() -> None:
    log = logging.Logger("struck")
    log.addHandler(Struck())
    with (
        pytest.raises(Interrupted, match="stopped while counting: SIGTERM"),
        heed_signals() as stop,
        stop.raising("counting"),
    ):
        log.warning("one")


def test_only_the_first_signal_cuts() -> None:
    def be_struck_twice() -> None:
        with stop.raising("counting"):
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGINT)

    with heed_signals() as stop:
        with pytest.raises(Interrupted, match="stopped while counting: SIGTERM"):
            be_struck_twice()
        assert stop.is_urgent


def test_on_the_threshold_it_ends_the_run_all_the_same() -> None:
    def be_struck() -> None:
        with heed_signals() as stop:
            stop._may_raise = True
            signal.raise_signal(signal.SIGUSR1)

    with pytest.raises(Interrupted, match="stopped: SIGUSR1"):
        be_struck()


def test_outside_such_a_block_a_signal_is_only_noted() -> None:
    with heed_signals() as stop:
        with stop.raising("counting"):
            pass
        signal.raise_signal(signal.SIGUSR2)
    assert stop.reason == "SIGUSR2"


@pytest.mark.parametrize(
    ("code", "words", "expected"),
    [
        ("None", "stopped while starting: SIGTERM", 75),
        ("0", "ended after its work: SIGTERM", 0),
        ("1", "ended after its work: SIGTERM", 1),
    ],
)
def test_one_that_has_worked_leaves_with_the_code_of_its_work(
    code: str, words: str, expected: int
) -> None:
    script = (
        "import signal\n"
        "from qcmb_mpi.execution.stop import leaving_on_signals\n"
        "with leaving_on_signals() as ending:\n"
        f"    ending.code = {code}\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (expected, f"qcmb_mpi: {words}\n")


def test_a_closed_terminal_ends_a_run_soon_unless_it_was_to_outlive_it() -> None:
    with heed_signals() as stop:
        signal.raise_signal(signal.SIGHUP)
    assert (stop.reason, stop.is_cutting_off) == ("SIGHUP", True)
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with heed_signals() as stop:
            signal.raise_signal(signal.SIGHUP)
        assert stop.reason is None
    finally:
        signal.signal(signal.SIGHUP, former)


def test_under_mpiexec_the_end_is_written_before_the_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    with heed_signals() as stop:
        signal.raise_signal(signal.SIGTERM)
    assert stop.grace_s is not None
    assert stop.grace_s < 0.5


def test_what_this_process_computes_is_cut_off_when_asked_twice(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with heed_signals() as stop:
        with cuttable():
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(Cut), cuttable():
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # nothing is computed any more
    assert stop.is_urgent
    assert capfd.readouterr().err.count("once more: at once") == 1
    with heed_signals(), pytest.raises(Cut), cuttable():
        signal.raise_signal(signal.SIGTERM)


class CutAtTheThird:
    """An engine, and its recipe, whose third task is cut off."""

    def build(self, _resources: SlotResources) -> CutAtTheThird:
        return self

    def compute(self, task: int) -> Outcome:
        if task == 2:
            raise Cut
        return Outcome(0, task, 0.0, 1e-4)


def test_what_ended_before_the_task_that_is_cut_off_is_told() -> None:
    agent = InlineAgent(AgentInfo(0, "here", 1, 0))
    layout = Layout(1, 1, 0, "as the test says")
    agent.handle(Open(0, CutAtTheThird(), layout, 1.0))  # type: ignore[arg-type]
    assert agent.poll(0.0) == [Ready(0)]
    agent._backlog.observe(0, 1e-4)
    agent.handle(Work(0, np.arange(5)))
    [done] = agent.poll(0.0)
    assert isinstance(done, Done)
    assert [each.task for each in done.outcomes] == [0, 1]
    agent.handle(Recall(0))
    [returned] = agent.poll(0.0)
    assert isinstance(returned, Returned)
    assert returned.ids.tolist() == [2, 3, 4]

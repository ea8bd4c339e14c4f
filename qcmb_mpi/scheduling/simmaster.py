"""The master of a simulated machine: the real scheduler, and the time that it takes.

Rules of this file
------------------
1. One thing after the other: what arrives while the master is busy waits for its turn.
2. No clock of its own: what steps take is fixed, or measured by whoever calls.
"""

from __future__ import annotations

from collections.abc import Callable

from qcmb_mpi.scheduling import messages as m
from qcmb_mpi.scheduling.scheduler import Scheduler
from qcmb_mpi.scheduling.simulated import Machine


class SimMaster:
    """A scheduler whose steps, messages and records take time.

    Parameters
    ----------
    machine : Machine
    scheduler : Scheduler
    timer : callable, optional
        Returns seconds of processor time; with it a step takes what it really takes here, and
        ``machine.step_s`` besides.
    """

    def __init__(
        self, machine: Machine, scheduler: Scheduler, timer: Callable[[], float] | None = None
    ) -> None:
        self.scheduler = scheduler
        self.free_s = 0.0
        self.busy_s = self.steps_s = 0.0
        self.wait_s = self.longest_wait_s = 0.0
        self.n_events = 0
        self._machine = machine
        self._timer = timer

    def take(self, event: m.Event, arrived_s: float) -> list[tuple[float, m.Command]]:
        """Take an event when its turn comes.

        Parameters
        ----------
        event : Event
        arrived_s : float
            Not before that of the event before.

        Returns
        -------
        list of (float, Command)
            What follows, and when it leaves the master.
        """
        machine = self._machine
        begun_s = max(self.free_s, arrived_s)
        self._note_wait(begun_s - arrived_s)
        step_s = machine.step_s
        if self._timer is None:
            commands = self.scheduler.step(event, begun_s)
        else:
            began = self._timer()
            commands = self.scheduler.step(event, begun_s)
            step_s += self._timer() - began
        n_results = len(event.ids) if isinstance(event, m.TasksDone) else 0
        now = begun_s + machine.receive_s + n_results * machine.result_s + step_s
        said = []
        for command in commands:
            now += machine.send_s if isinstance(command, m.Assign | m.Retract) else 0.0
            said.append((now, command))
        self.free_s = now
        self.busy_s += now - begun_s
        self.steps_s += step_s
        self.n_events += 1
        return said

    def _note_wait(self, wait_s: float) -> None:
        self.wait_s += wait_s
        self.longest_wait_s = max(self.longest_wait_s, wait_s)

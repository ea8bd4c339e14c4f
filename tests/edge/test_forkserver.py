"""The fork server: a clean environment, warm slots, and no process that outlives its owner."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from qcmb_mpi.errors import TransportError
from qcmb_mpi.execution import forkserver
from qcmb_mpi.execution.engine import SlotResources
from qcmb_mpi.execution.forkserver import ForkServer, SlotProcess, clean_environment
from qcmb_mpi.execution.outcome import Outcome
from qcmb_mpi.execution.outcomes import unpacked

_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Recipe:
    """What a slot is to do; its outcome's ``program`` is what came of it, as JSON."""

    what: str

    def build(self, resources: SlotResources) -> Recipe:
        return self

    def compute(self, task: int) -> Outcome:
        scope: dict[str, Any] = {}
        exec(self.what, scope)
        return Outcome(0, task, 0.0, 0.0, program=json.dumps(scope.get("found")))


def ask(slot: SlotProcess, what: str) -> Any:
    """Have a slot run some Python and return its variable ``found``."""
    tell(slot, what)
    kind, outcomes = hear(slot)
    assert kind == "done"
    return json.loads(unpacked(outcomes)[0].program)


def tell(slot: SlotProcess, what: str) -> None:
    """Have a slot run some Python, without waiting for it."""
    slot.pipe.send(("space", 0, Recipe(what), SlotResources()))
    assert hear(slot) == ("ready", 0, None)
    slot.start(0, [0])


def hear(slot: SlotProcess) -> tuple[Any, ...]:
    """Wait for a message of a slot."""
    heard: list[tuple[Any, ...]] = []
    while not heard:
        assert select.select([slot.pipe], [], [], _PATIENCE_S)[0]
        heard = slot.pipe.receive()
    [message] = heard
    return message


def started(server: ForkServer) -> SlotProcess:
    """Return a slot that has a process id."""
    slot = server.fork()
    wait_until(lambda: server.listen(0.1) and slot.pid > 0)
    return slot


def forked(server: ForkServer) -> SlotProcess:
    """Return a slot that has answered, so is the leader of its process group."""
    slot = started(server)
    assert ask(slot, "found = 'here'") == "here"
    return slot


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait for a state; fail if it does not come."""
    give_up_s = time.monotonic() + _PATIENCE_S
    while not is_so():
        assert time.monotonic() < give_up_s
        time.sleep(0.005)


def server_process(server: ForkServer) -> psutil.Process:
    """Return the process that forks slots: the only child of the one that was started."""
    warden = psutil.Process(server._process.pid)  # type: ignore[union-attr]
    wait_until(lambda: bool(warden.children()))
    return warden.children()[0]


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def server() -> Iterator[ForkServer]:
    """Give a server without preloads that is ended after the test."""
    made = ForkServer.start(dict(os.environ))
    yield made
    made.close()


def test_slots_see_no_launcher_and_few_threads() -> None:
    launched = {
        "OMPI_COMM_WORLD_SIZE": "4",
        "OMPI_MCA_btl": "^ofi",
        "PMIX_RANK": "3",
        "PMI_SIZE": "4",
        "PRTE_LAUNCHED": "1",
        "SLURM_PROCID": "3",
        "OMP_NUM_THREADS": "64",
        "MINE": "kept",
    }
    server = ForkServer.start(clean_environment(os.environ | launched, 2))
    found = ask(forked(server), "import os; found = dict(os.environ)")
    server.close()
    strange = {name for name in found if name.split("_")[0] in ("OMPI", "PMIX", "PMI", "PRTE")}
    assert {name for name in strange if not name.startswith("OMPI_ALLOW_RUN_AS_ROOT")} == set()
    assert "SLURM_PROCID" not in found
    assert found["MINE"] == "kept"


def test_the_environment_sets_the_threads_of_numeric_libraries() -> None:
    made = clean_environment({"OMP_NUM_THREADS": "64", "PATH": "/bin"}, 3)
    assert {made[f"{name}_NUM_THREADS"] for name in ("OMP", "MKL", "OPENBLAS")} == {"3"}
    assert made["PATH"] == "/bin"


def test_preloaded_modules_are_there_in_every_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "warm_me.py").write_text("import os\nimported_by = os.getpid()\n")
    (tmp_path / "broken_module.py").write_text("raise OSError('not today')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    server = ForkServer.start(dict(os.environ), ["no.such.module", "broken_module", "warm_me"])
    what = "import sys; found = sys.modules['warm_me'].imported_by"
    slots = [started(server) for _ in range(2)]
    parents = {psutil.Process(slot.pid).ppid() for slot in slots}
    assert {ask(slot, what) for slot in slots} == parents
    server.preload(["also.not.there", "colorsys"])
    assert ask(started(server), "import sys; found = 'colorsys' in sys.modules")
    server.close()


def test_slots_look_for_garbage_of_their_own_only(server: ForkServer) -> None:
    server.preload(["colorsys"])
    slot = started(server)
    told = ask(slot, "import gc; found = [gc.isenabled(), gc.get_freeze_count() > 1000]")
    assert told == [True, True]
    slot.close()


def test_slots_are_forked_before_anybody_wants_them(server: ForkServer) -> None:
    server.prefork(3)
    process = server_process(server)
    wait_until(lambda: len(process.children()) == 3)
    spares = {each.pid for each in process.children()}
    first, second = server.fork(), server.fork()
    wait_until(lambda: bool(second.pid) or server.listen(0.1))
    assert {first.pid, second.pid} < spares
    assert ask(second, "found = 'here'") == "here"
    [left] = spares - {first.pid, second.pid}
    server.drop_spares()
    wait_until(lambda: not is_alive(left))
    assert forked(server).pid not in spares
    assert ask(first, "found = 'here'") == "here"


def test_no_more_are_forked_ahead_than_can_be_asked_for_at_once(server: ForkServer) -> None:
    server.prefork(10_000)
    assert 2 < len(server._spares) < 100
    server.prefork(1)
    assert 2 < len(server._spares) < 100


def test_a_spare_that_could_not_be_forked_is_not_given_out(server: ForkServer) -> None:
    server.prefork(1)
    [spare] = server._spares
    spare.fault = "no slot can be started: the system refused another process"
    assert server.fork() is not spare


def test_a_spare_that_has_died_is_not_given_out(server: ForkServer) -> None:
    server.prefork(2)
    process = server_process(server)
    wait_until(lambda: len(process.children()) == 2)
    dead = process.children()[0]
    dead.kill()
    wait_until(lambda: server.listen(0.1) and dead.pid in server._exits)
    assert ask(server.fork(), "found = 'here'") == "here"
    assert ask(server.fork(), "found = 'here'") == "here"


def test_requests_that_are_too_many_for_a_user_wait_for_an_answer(
    server: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_sent = 0
    send_fds = socket.send_fds

    def sometimes(*arguments: Any) -> int:
        nonlocal n_sent
        n_sent += 1
        if n_sent == 2:
            raise OSError(errno.ETOOMANYREFS, "Too many references: cannot splice")
        return send_fds(*arguments)

    monkeypatch.setattr(socket, "send_fds", sometimes)
    slots = [server.fork() for _ in range(3)]
    wait_until(lambda: server.listen(0.1) and all(slot.pid for slot in slots))
    assert not any(slot.fault for slot in slots)


def test_no_process_is_killed_whose_slot_was_only_closed(
    server: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the time its number is known that may be another process's."""
    killed: list[int] = []
    monkeypatch.setattr(forkserver, "kill_tree", killed.append)
    left, unwanted = server.fork(), server.fork()
    left.close()
    unwanted.kill()
    wait_until(lambda: server.listen(0.1) and unwanted.pid > 0)
    assert killed == [unwanted.pid]


def test_nothing_is_forked_ahead_by_a_server_that_has_gone(server: ForkServer) -> None:
    server_process(server).kill()
    wait_until(lambda: server.has_gone)
    server.prefork(2)
    assert not server._spares
    with pytest.raises(TransportError):
        server.fork()


def test_exit_statuses(server: ForkServer) -> None:
    left, killed, failed, busy = (forked(server) for _ in range(4))
    left.close()
    killed.kill()
    tell(failed, "import os; os._exit(7)")
    assert server.exit_status(failed.pid, _PATIENCE_S) == 7
    assert server.exit_status(left.pid, _PATIENCE_S) == 0
    assert server.exit_status(killed.pid, _PATIENCE_S) == -signal.SIGKILL
    assert server.exit_status(busy.pid, 0.0) is None
    assert server.exit_status(failed.pid, 0.0) is None  # told once
    killed.kill()  # it is not there any more


def test_what_a_slot_and_its_programs_write_is_kept(server: ForkServer) -> None:
    slot = forked(server)
    assert slot.output_tail() == ""
    what = "import os; os.write(1, b'x' * 5000); os.system('echo from a program >&2')"
    ask(slot, what)
    assert slot.output_tail().endswith("xxx" + "from a program\n")
    assert len(slot.output_tail()) == 2000
    assert slot.output_tail(3) == "am\n"
    os_error = forked(server)
    tell(os_error, "raise SystemError('cannot go on')")
    server.exit_status(os_error.pid, _PATIENCE_S)
    assert "SystemError: cannot go on" in os_error.output_tail()


def test_a_killed_slot_takes_its_programs_along(server: ForkServer) -> None:
    slot = forked(server)
    what = (
        "import subprocess\n"
        "shell = subprocess.Popen(['sh', '-c', 'sleep 3600 & echo $!; wait'], stdout=-1)\n"
        "found = [shell.pid, int(shell.stdout.readline())]\n"
    )
    programs = ask(slot, what)
    assert all(is_alive(pid) for pid in programs)
    slot.kill()
    wait_until(lambda: not any(is_alive(pid) for pid in [slot.pid, *programs]))


def test_slots_of_a_dead_server_die_and_no_new_ones_come(server: ForkServer) -> None:
    slot = forked(server)
    assert ask(slot, "found = 1") == 1
    psutil.Process(slot.pid).parent().kill()  # type: ignore[union-attr]
    wait_until(lambda: not is_alive(slot.pid))
    wait_until(lambda: server.has_gone)
    with pytest.raises(TransportError, match="the fork server has gone"):
        server.fork()
    assert server.exit_status(slot.pid, 0.0) is None


def test_a_server_is_shared_and_ends_with_its_last_owner(server: ForkServer) -> None:
    other = ForkServer.connect(server.address)
    ours, theirs = forked(server), forked(other)
    parent = psutil.Process(ours.pid).ppid()
    assert parent == psutil.Process(theirs.pid).ppid() != os.getpid()
    other.close()
    wait_until(lambda: not is_alive(theirs.pid))
    assert ask(ours, "found = 'still here'") == "still here"
    assert server.exit_status(theirs.pid, 0.0) is None  # another owner's
    server.close()
    wait_until(lambda: not any(is_alive(pid) for pid in (ours.pid, parent)))
    assert not Path(server.address).parent.exists()
    with pytest.raises(TransportError, match="no fork server at"):
        ForkServer.connect(server.address)


def test_a_slot_has_nothing_of_its_siblings(server: ForkServer) -> None:
    """A pipe held open by a sibling would keep a slot from noticing that its owner has gone."""
    first = forked(server)
    second = forked(server)
    what = "import os; found = len(os.listdir('/proc/self/fd'))"
    assert ask(first, what) == ask(second, what)
    first.close()
    assert server.exit_status(first.pid, _PATIENCE_S) == 0


def test_interrupting_the_terminal_leaves_server_and_slots_alone() -> None:
    server = ForkServer.start(dict(os.environ))
    slot = forked(server)
    parent = psutil.Process(slot.pid).ppid()
    assert os.getsid(parent) != os.getsid(0)
    assert os.getsid(slot.pid) == slot.pid
    os.kill(parent, signal.SIGINT)
    assert ask(forked(server), "found = 2") == 2
    server.close()


def test_a_server_is_no_zombie_and_leaves_no_directory_behind() -> None:
    server = ForkServer.start(dict(os.environ))
    forked(server)
    server.close()
    states = [child.status() for child in psutil.Process().children()]
    assert psutil.STATUS_ZOMBIE not in states
    assert not Path(server.address).exists()


def test_a_slot_goes_on_while_nobody_takes_its_outcomes(server: ForkServer) -> None:
    slot = started(server)
    slot.pipe.send(("space", 0, Recipe("found = 50_000 * 'x'"), SlotResources()))
    assert hear(slot) == ("ready", 0, None)
    slot.start(0, list(range(6)))  # the last of them after 250 kB were told
    wait_until(lambda: slot.n_started == 6)
    n_heard = 0
    while n_heard < 6:
        assert select.select([slot.pipe], [], [], _PATIENCE_S)[0]
        n_heard += sum(len(outcomes) for _, outcomes in slot.pipe.receive())


def is_at_end(slot: SlotProcess) -> bool:
    """Tell whether a slot's pipe is at its end."""
    try:
        return bool(slot.pipe.receive())
    except EOFError:
        return True


def test_nobody_waits_for_a_server_that_imports_or_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests wait their turn; those given up meanwhile are not started, or not for long."""
    gate = tmp_path / "gate"
    (tmp_path / "slow_to_come.py").write_text(
        f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    server = ForkServer.start(dict(os.environ), ["slow_to_come"])
    slots = [server.fork() for _ in range(150)]
    assert [slot.pid for slot in slots] == [0] * 150
    assert not any(is_at_end(slot) for slot in slots)
    assert server.exit_status(0) is None
    assert slots[0].cpu_s() == 0.0
    for slot in slots[:-1]:
        slot.kill()
        slot.close()
    gate.touch()
    wait_until(lambda: server.listen(0.1) and slots[-1].pid > 0)
    assert ask(slots[-1], "found = 'here'") == "here"
    early = [slot for slot in slots[:-1] if slot.pid]
    assert early == slots[: len(early)]
    assert 0 < len(early) < 20
    wait_until(lambda: not any(is_alive(slot.pid) for slot in early))
    server.close()


def test_slots_of_a_server_that_dies_before_it_forked_them_are_at_their_end(
    server: ForkServer,
) -> None:
    process = psutil.Process(started(server).pid).parent()
    assert process is not None
    process.suspend()
    slots = [server.fork() for _ in range(3)]
    process.kill()
    wait_until(lambda: server.has_gone)
    wait_until(lambda: all(is_at_end(slot) for slot in slots))
    assert [slot.pid for slot in slots] == [0, 0, 0]


def test_a_slot_that_the_system_refuses_says_so(server: ForkServer) -> None:
    first = started(server)
    parent = psutil.Process(first.pid).parent()
    assert parent is not None
    limits = psutil.Process(parent.pid)
    limits.rlimit(psutil.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{parent.pid}/fd")), 1024))
    refused = server.fork()
    wait_until(lambda: server.listen(0.1) and refused.fault != "")
    assert "refused another process" in refused.fault
    wait_until(lambda: is_at_end(refused))
    limits.rlimit(psutil.RLIMIT_NOFILE, (512, 1024))
    assert ask(started(server), "found = 'here'") == "here"

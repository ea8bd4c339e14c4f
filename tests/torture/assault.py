"""What is done to a job and its files from outside."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import time
from pathlib import Path

from tests.torture.journal import FOREVER_S, LOST_S, Loss
from tests.torture.processes import Process, kill_all, living
from tests.torture.scenarios import HEARTBEAT_S, Event

_SETTLED_S = 3.0
_FLUSHED_S = 0.5
_HARMLESS = ("SIGINT", "SIGUSR1", "SIGUSR2", "no-scratch")


class Assault:
    """Carries events out on the processes of one job.

    Parameters
    ----------
    mark : str
        Of the processes.
    store : Path
    rng : random.Random
        Chooses between several targets.
    """

    def __init__(self, mark: str, store: Path, rng: random.Random) -> None:
        self._mark = mark
        self._store = store
        self._rng = rng
        self.losses: list[Loss] = []
        self.n_done = 0

    def perform(self, event: Event) -> None:
        """Do it, if what it is to be done to is there, and note what it may cost."""
        now = time.time()
        if event.target == "all":
            is_done = kill_all(self._mark) > 0
        elif event.action == "unlock":
            is_done = _unlink(lock_of(self._store))
        elif event.action == "no-scratch":
            shutil.rmtree(self._store.with_name("tmp"))
            is_done = True
        else:
            is_done = self._strike(event, now)
        if is_done:
            self.n_done += 1
            is_harmless = event.action in _HARMLESS and not _is_sent_on_as_sigterm(event)
            if event.target != "slot" and not is_harmless:
                self.losses += _losses(event, now)

    def _strike(self, event: Event, now: float) -> bool:
        victims = [each for each in living(self._mark) if _is_target(each, event.target)]
        if not victims:
            return False
        victim = self._rng.choice(victims)
        if event.target == "slot":
            since_s = _FLUSHED_S if event.action == "SIGSTOP" else LOST_S
            self.losses.append(Loss(now - since_s, FOREVER_S, victim.pid))
        with contextlib.suppress(ProcessLookupError):
            if event.action.startswith("SIG"):
                os.kill(victim.pid, signal.Signals[event.action])
            else:
                is_full = event.action == "disk-full"
                _limit_files(victim.pid, self._store.stat().st_size if is_full else -1)
            return True
        return False


def _is_target(process: Process, target: str) -> bool:
    if target == "worker":
        return process.role == "rank" and process.rank > 0
    if target == "master":
        return process.role == "rank" and process.rank == 0
    return process.role == target


def _limit_files(pid: int, n_bytes: int) -> None:
    """Let no file of that process grow beyond so many bytes: the write fails as on a full disk."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    soft = hard if n_bytes < 0 else n_bytes
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


def _is_sent_on_as_sigterm(event: Event) -> bool:
    """Tell whether ``mpiexec`` makes a SIGTERM of it, and half a second later a SIGKILL."""
    return event.action == "SIGINT" and event.target == "launcher"


def _losses(event: Event, now: float) -> list[Loss]:
    """Return what an event may cost that concerns more than one slot."""
    if event.target == "worker":
        silence_s = HEARTBEAT_S if event.action == "SIGSTOP" else 0.0
        return [Loss(now - LOST_S, now + silence_s + _SETTLED_S)]
    if event.action == "SIGTERM" or _is_sent_on_as_sigterm(event):
        return [Loss(now - _FLUSHED_S, FOREVER_S)]
    return [Loss(now - LOST_S, FOREVER_S)]


# ---- files between two runs ----------------------------------------------------------------


def lock_of(store: Path) -> Path:
    """Return the lock file of a store."""
    return store.with_name(store.name + ".lock")


def damage(store: Path, kind: str, rng: random.Random, old_lock: str) -> None:
    """Do to the store what a failing disk, or a lost machine, does."""
    if kind.endswith("-lock"):
        changes = {"host": "elsewhere", "namespace": "another"} if kind == "foreign-lock" else {}
        lock_of(store).write_text(json.dumps(json.loads(old_lock) | changes))
        return
    size = store.stat().st_size
    with store.open("r+b") as file:
        if kind == "cut":
            file.truncate(rng.randrange(1, size))
        elif kind == "flip":
            place = rng.randrange(size)
            file.seek(place)
            old = file.read(1)[0]
            file.seek(place)
            file.write(bytes([old ^ (1 << rng.randrange(8))]))
        else:
            file.seek(rng.randrange(size))
            file.write(bytes(512))


def _unlink(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        return True
    return False

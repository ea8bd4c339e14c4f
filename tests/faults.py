"""What can go wrong in a calculation, to order, and a journal of what was computed.

``FLAKY_PLAN`` names a JSON file: ``positions`` (z of every fragment, bohr), ``sleep_s`` (shortest
and longest calculation), ``journal`` (a file, one JSON line for every start, end and fault),
``marks`` (a directory) and ``faults``: for a task as ``"1,2|1,2,3"`` (real and basis fragments)
what goes wrong at its first, second, ... attempt. Each of them happens once in all: its mark,
made before, outlives this process.

Rules of this file
------------------
1. Nothing here depends on the package: it is its adversary.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from qcengine.exceptions import InputError, RandomError

_HOUR_S = 3600.0
_EATEN_BYTES = 1200 * 2**20
_EATING_S = 4.0


def _raise() -> None:
    raise ValueError("flaky raised as ordered")


def _random() -> None:
    raise RandomError("flaky failed at random")


def _input() -> None:
    raise InputError("flaky does not like this input")


def _leave() -> None:
    sys.exit(3)


def _noise() -> None:
    """Write what no decoder likes, then fail with such a message."""
    for descriptor in (1, 2):
        os.write(descriptor, bytes(range(256)) * 400)
    raise RandomError("\x00\x1b[31m\udcff</script>\u2028" * 50)


def _spin() -> None:
    while True:
        pass


def _have_children() -> None:
    """Hang as the parent of a program with a child of its own."""
    subprocess.Popen(["sh", "-c", "sleep 3600 & sleep 3600"]).wait()


def _have_daemon() -> None:
    """Hang beside a program that has left the process group."""
    subprocess.Popen(["sleep", "3600"], start_new_session=True).wait()


def _litter() -> None:
    """Leave a program behind; the calculation is all right."""
    subprocess.Popen(["sleep", "3600"])


def _eat() -> None:
    """Hold more memory than anybody was given, for a while."""
    eaten = np.ones(_EATEN_BYTES, dtype=np.uint8)
    time.sleep(_EATING_S)
    raise MemoryError(f"flaky ate {eaten.nbytes} bytes")


def _signal(signum: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), signum)


FAULTS: dict[str, Callable[[], object]] = {
    "raise": _raise,
    "random": _random,
    "input": _input,
    "leave": _leave,
    "noise": _noise,
    "crash": _signal(signal.SIGSEGV),
    "abort": _signal(signal.SIGABRT),
    "kill": _signal(signal.SIGKILL),
    "stop": _signal(signal.SIGSTOP),
    "exit": lambda: os._exit(3),
    "hang": lambda: time.sleep(_HOUR_S),
    "spin": _spin,
    "children": _have_children,
    "daemon": _have_daemon,
    "litter": _litter,
    "memory": _eat,
}


def commit(fault: str) -> None:
    """Do what goes wrong before there is a result."""
    print(f"flaky is about to {fault}", flush=True)
    FAULTS.get(fault, lambda: None)()


def spoilt(
    fault: str, energy: float, gradient: np.ndarray
) -> tuple[float | None, np.ndarray | None]:
    """Return what a program reports that goes wrong in its result."""
    if fault == "nan":
        return float("nan"), gradient
    if fault == "none":
        return energy, None
    if fault == "shape":
        return energy, np.vstack([gradient, gradient[:1]])
    return energy, gradient


@functools.cache
def the_plan() -> Plan | None:
    """Return the plan of this process's environment, if there is one."""
    path = os.environ.get("FLAKY_PLAN")
    return None if path is None else Plan(json.loads(Path(path).read_text()))


class Plan:
    """What is to happen to which task."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._positions = np.array(document["positions"])
        self._shortest_s, self._longest_s = document["sleep_s"]
        self._journal = Path(document["journal"])
        self._marks = Path(document["marks"])
        self._faults: dict[str, list[str]] = document["faults"]

    @contextlib.contextmanager
    def computing(self, molecule: Any) -> Iterator[str]:
        """Keep the journal of one calculation; give what goes wrong in it, if anything."""
        task = self._name(molecule)
        self._write("start", task)
        spread = zlib.crc32(task.encode()) % 1000 / 1000
        time.sleep(self._shortest_s + spread * (self._longest_s - self._shortest_s))
        fault = self._due(task)
        if fault:
            self._write("fault", task, fault)
        yield fault
        if fault in ("", "litter"):
            self._write("end", task)

    def _name(self, molecule: Any) -> str:
        places = np.abs(molecule.geometry[:, 2:] - self._positions).argmin(axis=1) + 1
        real = sorted(places[np.asarray(molecule.real)].tolist())
        return f"{','.join(map(str, real))}|{','.join(map(str, sorted(places.tolist())))}"

    def _due(self, task: str) -> str:
        for index, fault in enumerate(self._faults.get(task, ())):
            mark = self._marks / f"{task}.{index}.{fault}"
            with contextlib.suppress(FileExistsError):
                os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                return fault
        return ""

    def _write(self, kind: str, task: str, fault: str = "") -> None:
        line = json.dumps([kind, task, time.time(), os.getpid(), fault]) + "\n"
        journal = os.open(self._journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(journal, line.encode())
        os.close(journal)

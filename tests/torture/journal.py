"""What the flaky program did, as it wrote it down itself."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """One line: kind (start, end or fault), task, wall time, process and fault."""

    kind: str
    task: str
    time_s: float
    pid: int
    fault: str = ""


@dataclass(frozen=True)
class Loss:
    """What ended between these wall times may be lost: in one process, or (0) in any."""

    from_s: float
    to_s: float
    pid: int = 0

    def excuses(self, end: Entry) -> bool:
        """Tell whether that result may be lost."""
        return self.pid in (0, end.pid) and self.from_s <= end.time_s <= self.to_s


# What a fault may take with it. A result may wait one second for its transaction; the rest is for
# the scheduler of a busy machine.
LOST_S = 1.5
FOREVER_S = float("inf")
_HANGING = ("stop", "hang", "spin", "children", "daemon")
_DEADLY = ("crash", "abort", "kill", "exit", "leave", "memory")


def read(path: Path) -> list[Entry]:
    """Read a journal; a line that a killed process left half written is left out."""
    if not path.exists():
        return []
    *lines, _ = path.read_text().split("\n")
    return [Entry(*json.loads(line)) for line in lines if line.endswith("]")]


def ends(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Return the calculations that were finished."""
    return (entry for entry in entries if entry.kind == "end")


def losses_of_faults(entries: Iterable[Entry], timeout_s: float) -> list[Loss]:
    """Return what the faults inside calculations may have taken with their slots."""
    losses = []
    for entry in entries:
        if entry.kind == "fault" and entry.fault in _HANGING:
            from_s = entry.time_s + timeout_s - LOST_S
            losses.append(Loss(from_s, FOREVER_S, entry.pid))
        elif entry.kind == "fault" and entry.fault in _DEADLY:
            losses.append(Loss(entry.time_s - LOST_S, FOREVER_S, entry.pid))
    return losses

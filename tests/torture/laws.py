"""What must hold after every run, whatever was done to it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from qcmb_mpi import schema
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.store import Store
from tests.torture.journal import Entry, Loss, ends


def require(is_so: bool, otherwise: str) -> None:
    """Fail with these words unless it is so."""
    assert is_so, otherwise


def task_name(real: Sequence[int], basis: Sequence[int]) -> str:
    """Return the name that the flaky program gives to a task."""
    return f"{','.join(map(str, real))}|{','.join(map(str, basis))}"


def stored(store: Path, source: Path) -> set[str]:
    """Read which tasks a store has, from a copy: nobody is to mend the original unseen."""
    if not store.exists():
        return set()
    space = TaskSpace(schema.read_input(str(source)).expansion)
    with tempfile.TemporaryDirectory(prefix="qcmb-x-") as folder:
        for path in (store, store.with_name(store.name + "-journal")):
            if path.exists():
                shutil.copy(path, folder)
        with Store.open(Path(folder, store.name)) as copy:
            copy.attach(0, space)
            labels = space.labels(copy.done(0))
    return {task_name(real, basis) for _, real, basis in map(json.loads, labels)}


def check_store(
    before: set[str], after: set[str], entries: Sequence[Entry], losses: Sequence[Loss]
) -> None:
    """Check one run: nothing stored is lost or computed again, everything finished is stored.

    Parameters
    ----------
    before, after : set of str
        Tasks in the store.
    entries : sequence of Entry
        What the flaky program did meanwhile.
    losses : sequence of Loss
        What may be missing.
    """
    require(before <= after, f"lost from the store: {sorted(before - after)}")
    again = {entry.task for entry in entries if entry.kind == "start"} & before
    require(not again, f"in the store and computed again: {sorted(again)}")
    finished = [end for end in ends(entries) if not any(loss.excuses(end) for loss in losses)]
    missing = [end for end in finished if end.task not in after]
    require(not missing, f"finished long before and not stored: {missing}; losses {losses}")
    first = {end.task: end for end in reversed(finished)}
    twice = [
        (first[entry.task], entry)
        for entry in entries
        if entry.kind == "start" and entry.task in first and entry.time_s > first[entry.task].time_s
    ]
    require(not twice, f"finished and computed again: {twice}; losses {losses}")


def check_summary(path: Path, before: set[str], after: set[str], n_tasks: int) -> None:
    """Check the figures of a run that came to an end against the store before and after."""
    summary = json.loads(path.read_text())
    n_left = summary["n_failed"]
    require(n_left == n_tasks - len(after), f"{n_left} failed, but {len(after)} are stored")
    found = (summary["n_reused"], summary["n_computed"])
    expected = (len(before), len(after) - len(before))
    require(found == expected, f"the summary says {found}, the store {expected}")

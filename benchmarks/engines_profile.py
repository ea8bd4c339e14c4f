"""Where our master's processor time goes, for ``engines.py``: sampled, so that nothing gets slower.

Rules of this file
------------------
1. Time goes to the layer of the innermost function that belongs to one; what several layers use
   (outcomes, pipes, pickle, NumPy) to who called it.
2. A sample counts for the processor time since the one before: none comes while C code runs.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Iterator
from types import FrameType

from engines_figures import FUNCTION

_EVERY_S = 0.001
_COMMIT = ("store/write.py", "Transaction.__exit__")
# Of paths below the package; the first that a path begins with.
LAYERS = {
    "scheduling/": "scheduler",
    "store/": "store",
    "execution/executors/mpi/": "MPI",
    "execution/dispatch.py": "dispatcher",
    "execution/agent.py": "agent",
    "execution/backlog.py": "agent",
    "execution/slot": "agent",
    "expansion/": "planning",
}
NAMES = (*dict.fromkeys(LAYERS.values()), "COMMIT", "all else")


@contextlib.contextmanager
def sampled() -> Iterator[Counter[str]]:
    """Give the seconds of each layer, and ``function: `` of each function, that pass within."""
    seconds: Counter[str] = Counter(dict.fromkeys(NAMES, 0.0))  # type: ignore[arg-type]
    last_s = time.process_time()

    def take(_signum: int, frame: FrameType | None) -> None:
        nonlocal last_s
        now_s = time.process_time()
        layer, function = place(frame)
        seconds[layer] += now_s - last_s  # type: ignore[assignment]
        seconds[f"{FUNCTION}{function}"] += now_s - last_s  # type: ignore[assignment]
        last_s = now_s

    before = signal.signal(signal.SIGPROF, take)
    signal.setitimer(signal.ITIMER_PROF, _EVERY_S, _EVERY_S)
    try:
        yield seconds
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


def place(frame: FrameType | None) -> tuple[str, str]:
    """Return layer and innermost function of the package that a stack is in."""
    function = ""
    while frame is not None:
        code = frame.f_code
        _, is_ours, path = code.co_filename.rpartition("/qcmb_mpi/")
        if is_ours:
            function = function or f"{path} {code.co_qualname}"
            if (path, code.co_qualname) == _COMMIT:
                return "COMMIT", function
            for begin, layer in LAYERS.items():
                if path.startswith(begin):
                    return layer, function
        frame = frame.f_back
    return "all else", function

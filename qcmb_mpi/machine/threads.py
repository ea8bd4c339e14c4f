"""The environment that fixes how many threads a QC program uses.

Rules of this file
------------------
1. Set before any numeric library loads: they read it once.
2. What is set here must make the thread count exact: another count gives other last bits.
"""

from __future__ import annotations

_COUNTS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
_FIXED = {
    # Both runtimes may otherwise use fewer threads than asked for when the machine is busy.
    "OMP_DYNAMIC": "FALSE",
    "MKL_DYNAMIC": "FALSE",
    # The slot's affinity mask places its threads. A binding inherited from the user's shell or the
    # launcher would put the threads of all slots on the same cores, and outlive a change of mask.
    "OMP_PROC_BIND": "FALSE",
}


def thread_environment(n_threads: int) -> dict[str, str]:
    """Give the variables for programs that may use ``n_threads`` threads.

    ``OMP_WAIT_POLICY`` and ``OMP_MAX_ACTIVE_LEVELS`` are left alone: slots do not share cores, so
    that spinning costs nobody, and nested parallelism is off unless a program asks for it.

    Parameters
    ----------
    n_threads : int
        At least 1.

    Returns
    -------
    dict of str to str

    Raises
    ------
    ValueError
        If ``n_threads`` is below 1.
    """
    if n_threads < 1:
        raise ValueError(f"n_threads must be at least 1, not {n_threads}")
    return dict.fromkeys(_COUNTS, str(n_threads)) | _FIXED

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
    # Threads that spin between parallel regions keep the cores from those of other libraries in the
    # same process; sleeping costs nothing that could be measured.
    "OMP_WAIT_POLICY": "PASSIVE",
    # With Intel's runtime an inherited KMP_AFFINITY or GOMP_CPU_AFFINITY would win over it. "none"
    # wins over all; the runtime would warn of that in every calculation.
    "KMP_AFFINITY": "none",
    "KMP_WARNINGS": "FALSE",
}
_MIB = 2**20
_MOST_STACK_BYTES = 256 * _MIB
_LEAST_STACK_BYTES = 16 * _MIB


def thread_environment(n_threads: int) -> dict[str, str]:
    """Give the variables for programs that may use ``n_threads`` threads.

    ``OMP_MAX_ACTIVE_LEVELS`` is left alone: nested parallelism is off unless a program asks for it.

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


def stack_bytes(n_threads: int, memory_bytes: int = 0) -> int:
    """Give the stack of each further OpenMP thread (``OMP_STACKSIZE``) of a Fortran program.

    Their automatic arrays lie on the stack, and the usual 2 to 8 MiB end in a segmentation fault.
    What is not used costs address space only.

    Parameters
    ----------
    n_threads : int
        Threads of one calculation.
    memory_bytes : int, optional
        Memory of one calculation, of which all stacks take a quarter at most; 0: unknown.

    Returns
    -------
    int
        From 16 to 256 MiB, whole MiB.
    """
    most = memory_bytes // (4 * n_threads) if memory_bytes else _MOST_STACK_BYTES
    return max(_LEAST_STACK_BYTES, min(_MOST_STACK_BYTES, most)) // _MIB * _MIB

"""The environment that fixes how many threads a QC program uses.

Rules of this file
------------------
1. Set before any numeric library loads: they read it once.
2. What is set here must make the thread count exact: another count gives other last bits.
"""

from __future__ import annotations

from collections.abc import Mapping

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
    # The same for OpenBLAS, whose threads spin for a tenth of a second by default (2^26 cycles).
    "OPENBLAS_THREAD_TIMEOUT": "4",
    # With Intel's runtime an inherited KMP_AFFINITY or GOMP_CPU_AFFINITY would win over it. "none"
    # wins over all; the runtime would warn of that in every calculation.
    "KMP_AFFINITY": "none",
    "KMP_WARNINGS": "FALSE",
}
# Each of them would win over what is set here, or make waiting threads spin after all.
_UNWANTED = (
    "OMP_THREAD_LIMIT",
    "KMP_ALL_THREADS",
    "KMP_DEVICE_THREAD_LIMIT",
    "MKL_DOMAIN_NUM_THREADS",
    "KMP_BLOCKTIME",
    "KMP_LIBRARY",
    "GOMP_SPINCOUNT",
)
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


def slot_environment(
    environ: Mapping[str, str], n_threads: int, *, most_threads: int = 1, memory_bytes: int = 0
) -> dict[str, str]:
    """Give the environment of a slot and all that it starts, as it is before anything is loaded.

    Parameters
    ----------
    environ : Mapping of str to str
        What would be inherited; of what concerns threads only ``OMP_STACKSIZE`` stays.
    n_threads : int
        At least 1.
    most_threads : int, optional
        Of the widest calculation that it may have later.
    memory_bytes : int, optional
        Memory that such a one may have; 0: unknown.

    Returns
    -------
    dict of str to str
    """
    kept = {name: value for name, value in environ.items() if name not in _UNWANTED}
    stacks = stack_environment(environ, max(n_threads, most_threads), memory_bytes)
    return kept | stacks | thread_environment(n_threads)


def stack_environment(
    environ: Mapping[str, str], n_threads: int, memory_bytes: int = 0
) -> dict[str, str]:
    """Give ``OMP_STACKSIZE``, or nothing where the user has set it in `environ`."""
    if "OMP_STACKSIZE" in environ:
        return {}
    return {"OMP_STACKSIZE": f"{stack_bytes(n_threads, memory_bytes) // _MIB}M"}


def process_environment() -> dict[str, str]:
    """Give the variables for programs that use several cores by processes of one thread each.

    QCEngine sets ``OMP_NUM_THREADS`` to the number of cores for every program; with as many
    processes that would be its square.
    """
    return thread_environment(1) | {"OMP_THREAD_LIMIT": "1"}


def stack_bytes(n_threads: int, memory_bytes: int = 0) -> int:
    """Give the stack of each further OpenMP thread (``OMP_STACKSIZE``).

    Automatic arrays of Fortran programs lie on it, and the usual 2 to 8 MiB end in a segmentation
    fault. What is not used costs address space only.

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

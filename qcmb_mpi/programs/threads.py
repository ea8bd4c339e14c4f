"""Run numerical libraries with a given number of threads, from now on and not from start-up.

Environment variables (``OMP_NUM_THREADS``) are read once, when a library is loaded; QCEngine sets
them around each calculation, which is too late for a library that lives in this process. Slots
set them before anything is loaded; a harness makes sure here, whoever calls it. How one thread
takes the loops of OpenMP is chosen here, too.

Rules of this file
------------------
1. Nothing here imports a QC program; it only talks to what is already loaded.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from threadpoolctl import LibController, ThreadpoolController

_CARRIERS = ("numpy", "scipy.linalg", "pyscf.lib", "tblite.library")
_AS_IT_IS = nullcontext()
_STATIC = (1, 0)  # omp_sched_static, in as many pieces as there are threads
_schedules: dict[str, tuple[int, int]] = {}


@functools.lru_cache(maxsize=16)
def _controller(loaded: tuple[str, ...]) -> ThreadpoolController:
    """Find the OpenMP and BLAS libraries once for each set of packages that bring them."""
    return ThreadpoolController()


def loaded_libraries() -> ThreadpoolController:
    """Return the OpenMP and BLAS libraries of this process; a forked child has them from it."""
    return _controller(tuple([name for name in _CARRIERS if name in sys.modules]))


def set_threads(n_threads: int, *, is_known: bool = False) -> None:
    """Let all libraries that are loaded use `n_threads` threads from now on.

    Parameters
    ----------
    n_threads : int
        At least 1.
    is_known : bool
        Whether nothing can have been loaded since they were last looked for.
    """
    controller = loaded_libraries() if is_known else ThreadpoolController()
    controller.limit(limits=n_threads)
    for library in controller.select(user_api="openmp").lib_controllers:
        _set_schedule(library, n_threads)


def _set_schedule(library: LibController, n_threads: int) -> None:
    """Have one thread take the loops of ``schedule(runtime)`` whole; more of them as it was.

    GNU's default gives out iteration by iteration, and a program may have thousands in a
    millisecond. One thread does them in the same order in either way.
    """
    if "OMP_SCHEDULE" in os.environ or not hasattr(library.dynlib, "omp_set_schedule"):
        return
    if library.filepath not in _schedules:
        kind, chunk = ctypes.c_int(), ctypes.c_int()
        library.dynlib.omp_get_schedule(ctypes.byref(kind), ctypes.byref(chunk))
        _schedules[library.filepath] = kind.value, chunk.value
    library.dynlib.omp_set_schedule(*(_STATIC if n_threads == 1 else _schedules[library.filepath]))


def limited_threads(
    n_threads: int, n_blas_threads: int | None = None
) -> AbstractContextManager[Any]:
    """Let OpenMP and BLAS libraries of this process use `n_threads` threads, then restore.

    Call it after the program's own import, so that its libraries are seen.

    Parameters
    ----------
    n_threads : int
        Threads of each library, at least 1.
    n_blas_threads : int, optional
        Of the BLAS libraries, where a program calls them from its own threads.

    Returns
    -------
    context manager
    """
    controller = loaded_libraries()
    limits = {"openmp": max(1, n_threads), "blas": max(1, n_blas_threads or n_threads)}
    for library in controller.lib_controllers:
        if library.get_num_threads() != limits.get(library.user_api):
            limiter: AbstractContextManager[Any] = controller.limit(limits=limits)
            return limiter
    return _AS_IT_IS  # as in a slot: to set and restore them takes longer than to look

"""Run numerical libraries with a given number of threads, from now on and not from start-up.

Environment variables (``OMP_NUM_THREADS``) are read once, when a library is loaded; QCEngine sets
them around each calculation, which is too late for a library that lives in this process. Slots
set them before anything is loaded; a harness makes sure here, whoever calls it.

Rules of this file
------------------
1. Nothing here imports a QC program; it only talks to what is already loaded.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import ThreadpoolController

_CARRIERS = ("numpy", "scipy.linalg", "pyscf.lib", "tblite.library")


@functools.lru_cache(maxsize=16)
def _controller(loaded: tuple[str, ...]) -> ThreadpoolController:
    """Find the OpenMP and BLAS libraries once for each set of packages that bring them."""
    return ThreadpoolController()


@contextmanager
def limited_threads(n_threads: int, n_blas_threads: int | None = None) -> Iterator[None]:
    """Let OpenMP and BLAS libraries of this process use `n_threads` threads, then restore.

    Call it after the program's own import, so that its libraries are seen.

    Parameters
    ----------
    n_threads : int
        Threads of each library, at least 1.
    n_blas_threads : int, optional
        Of the BLAS libraries, where a program calls them from its own threads.
    """
    controller = _controller(tuple(name for name in _CARRIERS if name in sys.modules))
    limits = {"openmp": max(1, n_threads), "blas": max(1, n_blas_threads or n_threads)}
    if all(each.num_threads == limits.get(each.user_api) for each in controller.lib_controllers):
        yield  # as in a slot: to set and restore them takes longer than to look
        return
    with controller.limit(limits=limits):
        yield

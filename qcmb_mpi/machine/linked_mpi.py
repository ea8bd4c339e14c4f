"""The ``mpirun`` that belongs to an MPI program: of the library it is linked to, not of ours.

Rules of this file
------------------
1. A program is looked at (``ldd``), never started; what is not certain is None.
2. The environment is that of the child, without what our own launcher put into it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from qcmb_mpi.machine.launcher import child_environment

_TIMEOUT_S = 10.0
# Library, then names of its launcher, the most exact first, and QCEngine's template of a command.
# Ranks stay where the slot is: a launcher that binds them would put those of all slots together.
# And they yield: where a slot has fewer cores than ranks, those that spin keep the others from
# working (a water molecule with two ranks on one core: 0.9 s, or not within 25 s).
_FAMILIES = (
    (
        re.compile(r"libmpi\.so\.40 => (/\S+)"),
        ("mpirun.openmpi", "mpirun"),
        "--bind-to none --oversubscribe --mca mpi_yield_when_idle 1 -n {total_ranks}",
    ),
    (
        re.compile(r"libmpi(?:ch)?(?:cxx)?\.so\.12 => (/\S+)"),
        ("mpiexec.mpich", "mpiexec.hydra", "mpiexec"),
        "-bind-to none -n {total_ranks}",
    ),
)

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def linked_mpiexec(
    program: str, environ: Mapping[str, str], run: Run = subprocess.run
) -> str | None:
    """Return the command that starts ranks of a program, as QCEngine's ``mpiexec_command``.

    Parameters
    ----------
    program : str
        Name of the executable.
    environ : Mapping of str to str
        This process's; ``PATH`` counts.
    run : callable, optional
        As :func:`subprocess.run`.

    Returns
    -------
    str or None
        With ``{total_ranks}`` in it; None if the program is missing or a
        script, is not linked to MPI, or there is no launcher beside its library.
    """
    child = child_environment(environ)
    path = shutil.which(program, path=child.get("PATH"))
    if path is None:
        return None
    libraries = _libraries(path, child, run)
    for pattern, names, options in _FAMILIES:
        found = pattern.search(libraries)
        launcher = found and _beside(Path(found[1]), names)
        if launcher:
            return f"{launcher} {options}"
    return None


def _libraries(path: str, environ: Mapping[str, str], run: Run) -> str:
    try:
        done = run(
            ["ldd", path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=_TIMEOUT_S,
            env=dict(environ),
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _beside(library: Path, names: tuple[str, ...]) -> str | None:
    """Find the launcher in the ``bin`` next to a library's ``lib``, whichever level that is."""
    homes = [each / "bin" for each in (*library.parents, *library.resolve().parents)]
    if library.parts[1:2] == ("lib",):  # Debian's /lib is /usr/lib
        homes.insert(0, Path("/usr/bin"))
    for home in homes:
        for name in names:
            if os.access(home / name, os.X_OK) and " " not in str(home):
                return str(home / name)
    return None

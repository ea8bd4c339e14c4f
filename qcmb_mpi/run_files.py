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
from pathlib import Path

from qcmb_mpi.errors import InputError
from qcmb_mpi.inputs.documents import strip_volatile
from qcmb_mpi.report.files import STORE_SUFFIX, SUMMARY_SUFFIX


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
        return {name: str(path) for name, path in files.items() if path is not None}

    def check(self, source: str) -> None:
        """Check that everything can be written, each in a place of its own.

        Raises
        ------
        InputError
            A file cannot be written, or two of them (`source`, the input, included) are one.
        """
        taken = {} if source == "-" else {Path(source).resolve(): "INPUT"}
        for name in ("result", "summary", "store", "events", "trace", "report"):
            path, option = getattr(self, name), "-o" if name == "result" else f"--{name}"
            if path is None:
                continue
            check_writable(path, option)
            other = taken.setdefault(path.resolve(), option)
            if other != option:
                raise InputError(option, f"is the same file as {other}", value=str(path))

    def set_old_result_aside(self) -> None:
        """Rename a result of an earlier run, which would look as if it were this one's.

        Its summary goes: a run that is killed must not seem to be complete.
        """
        if self.result.exists():
            os.replace(self.result, self._previous)
        self.summary.unlink(missing_ok=True)

    def drop_old_result(self) -> Path | None:
        """Remove what was set aside if the new result is the same; else return where it is."""
        if not self._previous.exists():
            return None
        try:
            old, new = (strip_volatile(p.read_bytes()) for p in (self._previous, self.result))
        except ValueError:  # what was there is no result at all
            return self._previous
        if old != new:
            return self._previous
        self._previous.unlink()
        return None

    @property
    def _previous(self) -> Path:
        return self.result.with_name(self.result.name + ".previous")


def sibling(result: Path, ending: str) -> Path:
    """Return INTERFACE's default: the result's stem and `ending`."""
    name = result.name
    for suffix in (".result.json", ".json"):
        if name.endswith(suffix):
            return result.with_name(name.removesuffix(suffix) + ending)
    return result.with_name(name + ending)


def check_writable(path: Path, field: str) -> None:
    """Check that `path` can be written, before anything is run.

    Raises
    ------
    InputError
        Its directory is missing or not writable, or it is a directory.
    """
    directory = path.parent
    if path.exists() and not path.is_file():
        raise InputError(field, "is a directory or a device; a file is needed", value=str(path))
    if not directory.is_dir():
        raise InputError(field, f"directory {directory} does not exist; create it first")
    try:
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise InputError(field, f"cannot write in {directory}: {error.strerror}") from error

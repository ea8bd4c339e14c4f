"""The ``run`` command: executor, files and exit code around :func:`run_expansion`.

Rules of this file
------------------
1. The fork server starts before MPI and before any slow import, so that start-ups overlap.
2. Standard output gets the n-body table and nothing else.
3. Every rank leaves with the master's exit code.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcmb_mpi.errors import InputError, QcmbError
from qcmb_mpi.machine import affinity, launcher

if TYPE_CHECKING:
    from qcmb_mpi.driver import RunEnd, RunOptions
    from qcmb_mpi.execution.executors.base import Executor, ExecutorConfig
    from qcmb_mpi.execution.forkserver import ForkServer
    from qcmb_mpi.report.progress import Progress
    from qcmb_mpi.schema import LoadedInput

_LOG = logging.getLogger(__name__)
_EXIT_CODES = {"complete": 0, "failed": 1, "incomplete": 75}
_PEEK_BYTES = 1 << 20
_YIELD_S = 2.0
_PROGRAM = re.compile(rb"""["']?program["']?\s*:\s*["']?([\w.+-]+)""")


def run(args: argparse.Namespace) -> int:
    """Run the expansion that `args` describe and return the exit code."""
    kind = _executor_kind(args.executor)
    server = None
    if not args.respect_binding:
        affinity.pin(affinity.allocation_mask())  # mpiexec binds a rank to one core; slots pin
    if kind == "multiprocessing" or (kind == "mpi" and launcher.leads_node(os.environ)):
        server = _start_server(args)
    try:
        executor = _make_executor(kind, executor_config(args), server, args)
        with executor:
            return executor.share(lambda: _on_master(args, executor))
    finally:
        if server is not None:
            server.close()


def complain(error: QcmbError) -> int:
    """Print one line about `error`, on one rank only, and return the exit code."""
    started = launcher.launcher(os.environ)
    if started is None or not started.rank:
        print(f"qcmb-mpi: error: {error}", file=sys.stderr, flush=True)
    else:
        time.sleep(_YIELD_S)  # mpiexec ends all ranks when the first one leaves with an error
    return error.exit_code


def _on_master(args: argparse.Namespace, executor: Executor) -> int:
    try:
        return _run(args, executor)
    except QcmbError as error:
        return complain(error)
    except Exception:
        traceback.print_exc()
        print(
            "qcmb-mpi: internal error: this is a bug in qcmb_mpi; please report the lines above, "
            "the input and `qcmb-mpi doctor --json`. What was computed is in the store.",
            file=sys.stderr,
            flush=True,
        )
        return QcmbError.exit_code


def _run(args: argparse.Namespace, executor: Executor) -> int:
    from qcmb_mpi import schema
    from qcmb_mpi.driver import run_expansion
    from qcmb_mpi.machine.walltime import process_start_s

    start_s = process_start_s(time.monotonic())
    _set_up_logging(args)
    loaded = schema.read_input(args.input, options=input_options(args))
    for warning in loaded.warnings:
        _LOG.warning("%s", warning)
    files = Files.of(args)
    files.check()
    end = run_expansion(
        loaded,
        executor,
        _run_options(args, files),
        progress=_progress(args, loaded),
        start_s=start_s,
        before_work=files.set_old_result_aside,
    )
    _write(args, files, end)
    return _EXIT_CODES[end.status]


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
        self.summary = paths["summary"] or sibling(result, ".run.json")
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
        store = None if args.no_store else args.store or sibling(result, ".store.sqlite")
        return cls(result, paths | {"store": store})

    def written(self, *, is_complete: bool) -> dict[str, str]:
        """Return the names of the files that a run leaves."""
        result = self.result if is_complete else None
        files = {"result": result, "summary": self.summary, "store": self.store}
        files |= {"report": self.report, "trace": self.trace, "events": self.events}
        return {name: str(path) for name, path in files.items() if path is not None}

    def check(self) -> None:
        """Check that everything can be written, before anything is run."""
        check_writable(self.result, "-o")
        for name in ("summary", "store", "events", "trace", "report"):
            path = getattr(self, name)
            if path is not None:
                check_writable(path, f"--{name}")

    def set_old_result_aside(self) -> None:
        """Rename a result of an earlier run, which would look as if it were this one's."""
        if self.result.exists():
            os.replace(self.result, self.result.with_name(self.result.name + ".previous"))


def sibling(result: Path, ending: str) -> Path:
    """Return INTERFACE's default: the result's stem and `ending`."""
    name = result.name
    for suffix in (".result.json", ".json"):
        if name.endswith(suffix):
            return result.with_name(name.removesuffix(suffix) + ending)
    return result.with_name(name + ending)


def _executor_kind(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    return "mpi" if launcher.wants_mpi(os.environ) else "multiprocessing"


def executor_config(args: argparse.Namespace) -> ExecutorConfig:
    """Return what `args` say about the pool.

    Raises
    ------
    InputError
        A value is not acceptable.
    """
    from qcmb_mpi.execution.executors.base import ExecutorConfig
    from qcmb_mpi.machine.limits import parse_memory

    if args.scratch is not None and not os.access(args.scratch, os.W_OK | os.X_OK):
        raise InputError("--scratch", "is not a directory we can write to", value=str(args.scratch))
    return ExecutorConfig(
        n_workers=args.workers,
        n_threads=args.threads,
        timeout_per_task=args.timeout,
        max_retries=args.retries,
        scratch_dir=args.scratch,
        memory_bytes=None if args.memory is None else parse_memory(args.memory),
        imports=tuple(args.imports),
        log_level=args.log_level.upper(),
    )


def _start_server(args: argparse.Namespace) -> ForkServer:
    from qcmb_mpi.execution.forkserver import PRELOAD, ForkServer, clean_environment
    from qcmb_mpi.programs.names import preload_modules

    names = [*([args.program] if args.program else []), *_peek_programs(args.input)]
    environment = clean_environment(os.environ, args.threads or 1)
    return ForkServer.start(environment, (*PRELOAD, *preload_modules(names)))


def _peek_programs(source: str) -> Iterable[str]:
    """Guess the programs an input names, without parsing it: only to warm slots early."""
    try:
        with open(source, "rb") as lines:
            found = _PROGRAM.findall(lines.read(_PEEK_BYTES))
    except OSError:
        return ()
    return {name.decode().lower() for name in found}


def _make_executor(
    kind: str, config: ExecutorConfig, server: ForkServer | None, args: argparse.Namespace
) -> Executor:
    from qcmb_mpi.execution.executors import local

    if kind == "serial":
        return local.SequentialExecutor(config)
    if kind == "thread":
        return local.ThreadExecutor(config)
    if kind == "multiprocessing":
        return local.MultiprocessingExecutor(config, server=server)
    from qcmb_mpi.execution.executors.mpi import MPIExecutor

    return MPIExecutor(
        config,
        server=server,
        is_master_dedicated=args.dedicated_master,
        is_binding_respected=args.respect_binding,
    )


def input_options(args: argparse.Namespace) -> Any:
    """Return what completes an .xyz or .pdb input."""
    from qcmb_mpi.schema import InputOptions

    return InputOptions(
        program=args.program,
        method=args.method,
        basis=args.basis,
        driver=args.driver,
        bsse=args.bsse,
        max_nbody=args.max_nbody,
        total=args.total,
        fragment=args.fragment,
        charge=args.charge,
        multiplicity=args.multiplicity,
        keywords=tuple(args.keyword),
    )


def _run_options(args: argparse.Namespace, files: Files) -> RunOptions:
    from qcmb_mpi.driver import RunOptions

    return RunOptions(
        store=files.store,
        is_fresh=args.fresh,
        is_stopping_on_failure=args.on_failure == "stop",
        order=args.order,
        deadline_s=_deadline_s(args),
        cluster_properties=args.cluster_properties,
        events=files.events,
        wants_timeline=files.trace is not None or files.report is not None,
    )


def _deadline_s(args: argparse.Namespace) -> float | None:
    from qcmb_mpi.machine import walltime

    if args.walltime is not None:
        return walltime.parse_walltime(args.walltime)
    return walltime.batch_deadline_s(os.environ)


def _set_up_logging(args: argparse.Namespace) -> None:
    from qcmb_mpi.report.progress import StderrHandler

    if not args.quiet:
        handler = StderrHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.getLogger("qcmb_mpi").addHandler(handler)
        logging.getLogger("qcmb_mpi").setLevel(args.log_level.upper())


def _progress(args: argparse.Namespace, loaded: LoadedInput) -> Progress:
    from qcmb_mpi.report.progress import make_progress

    is_enabled = sys.stderr.isatty() if args.progress is None else args.progress
    return make_progress(is_enabled=is_enabled, is_quiet=args.quiet, title=Path(args.input).name)


def _write(args: argparse.Namespace, files: Files, end: RunEnd) -> None:
    from qcmb_mpi import schema
    from qcmb_mpi.report.closing import format_execution_summary
    from qcmb_mpi.report.files import write_summary

    if end.result is not None:
        schema.write_result(end.result, files.result)
    end.summary["files"] = files.written(is_complete=end.result is not None)
    write_summary(end.summary, files.summary)
    if end.timeline is not None:
        _write_pictures(files, end)
    if not args.quiet:
        if end.result is not None:
            print(schema.n_body_table(end.result), flush=True)
        print(format_execution_summary(end.summary), file=sys.stderr, flush=True)


def _write_pictures(files: Files, end: RunEnd) -> None:
    from qcmb_mpi.report.files import read_json
    from qcmb_mpi.report.html import render_report, write_report
    from qcmb_mpi.report.timeline import write_trace

    rows, labels = end.timeline or (None, [])
    if files.trace is not None and rows is not None:
        write_trace(files.trace, rows, labels)
    if files.report is not None:
        result = read_json(files.result) if end.result is not None else None
        title = files.result.name
        write_report(files.report, render_report(result, end.summary, rows, labels, title=title))


def check_writable(path: Path, field: str) -> None:
    """Check that `path` can be written, before anything is run.

    Raises
    ------
    InputError
        Its directory is missing or not writable, or it is a directory.
    """
    directory = path.parent
    if path.is_dir():
        raise InputError(field, "is a directory; a file is needed", value=str(path))
    if not directory.is_dir():
        raise InputError(field, f"directory {directory} does not exist; create it first")
    probe = directory / f".qcmb-{os.getpid()}.probe"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(field, f"cannot write in {directory}: {error.strerror}") from error

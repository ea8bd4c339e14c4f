"""The ``run`` command: executor, files and exit code around :func:`run_expansion`.

Rules of this file
------------------
1. The fork server starts before MPI and before any slow import, so that start-ups overlap.
2. Standard output gets the n-body table and nothing else.
3. Every rank leaves with the master's exit code.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from qcmb_mpi import terminal
from qcmb_mpi.errors import IllegalEvent, InputError, Interrupted, QcmbError
from qcmb_mpi.machine import affinity, launcher
from qcmb_mpi.options import DEFAULT_TIMEOUT_S

if TYPE_CHECKING:
    from qcmb_mpi.driver import RunEnd, RunOptions
    from qcmb_mpi.execution.executors.base import Executor, ExecutorConfig
    from qcmb_mpi.execution.forkserver import ForkServer
    from qcmb_mpi.execution.stop import Ending, Stop
    from qcmb_mpi.report.progress import Progress
    from qcmb_mpi.run_files import Files
    from qcmb_mpi.schema import LoadedInput

_LOG = logging.getLogger(__name__)
# Open MPI ends all ranks with the first that fails, and on a full machine rank 0 starts late.
_YIELD_S, _YIELD_TO_OPEN_MPI_S = 2.0, 10.0
_LEAST_BYTES = 64 * 2**20
_BLAS_THREADS = "OPENBLAS_NUM_THREADS"


def run(args: argparse.Namespace) -> int:
    """Run the expansion that `args` describe and return the exit code."""
    from qcmb_mpi.execution.stop import leaving_on_signals

    with leaving_on_signals() as ending:
        return _run_on_pool(args, ending)


def _run_on_pool(args: argparse.Namespace, ending: Ending) -> int:
    kind = _executor_kind(args.executor)
    server = None
    if not args.respect_binding:
        affinity.pin(affinity.allocation_mask())  # mpiexec binds a rank to one core; slots pin
    if kind == "multiprocessing" or (kind == "mpi" and launcher.leads_node(os.environ)):
        server = _start_server(args)
    try:
        with _starting_up():
            if kind in ("mpi", "multiprocessing"):
                _import_numpy()
            executor = _make_executor(kind, executor_config(args), server, args)
            executor.initialize()
        # Programs that run in this process must not write between the lines of the table.
        is_shared = kind in ("serial", "thread")
        with executor, _own_output(args.quiet) if is_shared else _plain_output() as output:
            code = ending.code = _shared(executor, lambda: _on_master(args, executor, output))
    finally:
        if server is not None:
            server.close()
    executor.leave(code)
    gc.freeze()  # or the interpreter looks for garbage among all that was imported, to end
    return code


@contextlib.contextmanager
def _starting_up() -> Iterator[None]:
    """Look for no garbage among what is imported: there is none, now or later."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def _import_numpy() -> None:
    """Import NumPy without the threads of its BLAS: where slots compute, this process does not.

    Each rank of a node would start as many as the node has cores, while others start there, too.
    """
    before = os.environ.get(_BLAS_THREADS)
    os.environ[_BLAS_THREADS] = "1"
    try:
        import numpy  # noqa: F401
    finally:
        del os.environ[_BLAS_THREADS]
        if before is not None:
            os.environ[_BLAS_THREADS] = before


def _shared(executor: Executor, work: Callable[[], int]) -> int:
    """Return the exit code of work that rank 0 does, also if it ends in an error."""
    try:
        return executor.share(work)
    except QcmbError as error:
        return complain(error)


def complain(error: QcmbError) -> int:
    """Print one line about `error` and return the exit code.

    What is wrong on every rank is told by rank 0 alone, which gets the time for it: mpiexec ends
    all ranks when one leaves with an error.
    """
    started = launcher.launcher(os.environ)
    rank = started.rank if started is not None else 0
    if started is not None and rank:
        is_ended = started.name == "Open MPI" and not error.is_local
        time.sleep(_YIELD_TO_OPEN_MPI_S if is_ended else _YIELD_S)
    if not rank or error.is_local:
        where = f"rank {rank} on {socket.gethostname()}: " if rank else ""
        terminal.say(f"qcmb-mpi: error: {where}{error}", sys.stderr)
    return error.exit_code


@contextlib.contextmanager
def _own_output(is_quiet: bool) -> Iterator[TextIO]:
    """Keep standard output for ourselves; what others write there goes to standard error."""
    sys.stdout.flush()
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(os.fdopen(os.dup(1), "w", errors="replace"))
        other = os.open(os.devnull, os.O_WRONLY) if is_quiet else os.dup(2)
        os.dup2(other, 1)
        os.close(other)
        try:
            yield output
        finally:
            sys.stdout.flush()
            os.dup2(output.fileno(), 1)


@contextlib.contextmanager
def _plain_output() -> Iterator[TextIO]:
    yield sys.stdout


def _on_master(args: argparse.Namespace, executor: Executor, output: TextIO) -> int:
    from qcmb_mpi.execution.stop import heed_signals

    try:
        with heed_signals() as stop:
            return _run(args, executor, output, stop)
    except Exception as error:
        if isinstance(error, QcmbError) and not isinstance(error, IllegalEvent):
            return complain(error)
        traceback.print_exc()
        print(
            "qcmb-mpi: internal error: this is a bug in qcmb_mpi; please report the lines above, "
            "the input and `qcmb-mpi doctor --json`. What was computed is in the store.",
            file=sys.stderr,
            flush=True,
        )
        return QcmbError.exit_code


def _run(args: argparse.Namespace, executor: Executor, output: TextIO, stop: Stop) -> int:
    with stop.raising("reading the input"), _starting_up():
        from qcmb_mpi import schema
        from qcmb_mpi.driver import run_expansion
        from qcmb_mpi.machine.walltime import process_start_s
        from qcmb_mpi.run_files import Files

        start_s = process_start_s(time.monotonic())
        _set_up_logging(args)
        loaded = schema.read_input(args.input, options=input_options(args))
    for warning in loaded.warnings:
        _LOG.warning("%s", warning)
    if executor.name in ("serial", "thread") and args.timeout != DEFAULT_TIMEOUT_S:
        _LOG.warning("--timeout has no effect with --executor %s", executor.name)
    files = Files.of(args)
    files.check(args.input)
    with schema.naming_options(loaded):
        end = run_expansion(
            loaded,
            executor,
            _run_options(args, files),
            progress=_progress(args, loaded),
            stop=stop,
            start_s=start_s,
            before_work=files.set_old_result_aside,
        )
    try:
        _write(args, files, end, output)
    except (OSError, InputError) as error:
        again = "make room, then run the same command again: finished tasks are not repeated"
        raise Interrupted(f"the run has ended, but {error}; {again}") from error
    if end.error is not None:
        raise end.error
    return end.exit_code


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

    memory_bytes = None if args.memory is None else parse_memory(args.memory)
    if memory_bytes is not None and memory_bytes < _LEAST_BYTES:
        raise InputError("--memory", "is too little for any task", value=args.memory)
    if args.scratch is not None and not os.access(args.scratch, os.W_OK | os.X_OK):
        error = InputError("--scratch", "is no directory we can write to", value=str(args.scratch))
        error.is_local = True
        raise error
    return ExecutorConfig(
        n_workers=args.workers,
        n_threads=args.threads,
        timeout_per_task=args.timeout,
        max_retries=args.retries,
        scratch_dir=args.scratch,
        memory_bytes=memory_bytes,
        imports=tuple(args.imports),
        heartbeat_s=args.heartbeat,
        is_remedied=args.remedies,
    )


def _start_server(args: argparse.Namespace) -> ForkServer:
    from qcmb_mpi.execution.forkserver import ForkServer, clean_environment
    from qcmb_mpi.warming import modules_for

    environment = clean_environment(os.environ, args.threads or 1)
    return ForkServer.start(environment, modules_for(args))


def _make_executor(
    kind: str, config: ExecutorConfig, server: ForkServer | None, args: argparse.Namespace
) -> Executor:
    if kind == "mpi":
        from qcmb_mpi.execution.executors.mpi import MPIExecutor

        return MPIExecutor(
            config,
            server=server,
            is_master_dedicated=args.dedicated_master,
            is_binding_respected=args.respect_binding,
        )
    from qcmb_mpi.execution.executors import local

    if kind == "serial":
        return local.SequentialExecutor(config)
    if kind == "thread":
        return local.ThreadExecutor(config)
    return local.MultiprocessingExecutor(config, server=server)


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
        units=args.units,
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
        logger = logging.getLogger("qcmb_mpi")
        for each in logger.handlers[:]:
            if isinstance(each, StderrHandler):  # of a run before, in the same process
                logger.removeHandler(each)
        logger.addHandler(handler)
        logger.setLevel(args.log_level.upper())


def _progress(args: argparse.Namespace, loaded: LoadedInput) -> Progress:
    from qcmb_mpi.report.progress import make_progress

    is_enabled = args.progress
    if is_enabled is None:
        is_enabled = sys.stderr.isatty() or terminal.is_launched_from_terminal()
    return make_progress(is_enabled=is_enabled, is_quiet=args.quiet, title=Path(args.input).name)


def _write(args: argparse.Namespace, files: Files, end: RunEnd, output: TextIO) -> None:
    from qcmb_mpi import schema
    from qcmb_mpi.report.closing import format_execution_summary, shortened_table
    from qcmb_mpi.report.files import write_summary

    files.set_result_aside()  # another run may have written one meanwhile
    if end.result is not None:
        schema.write_result(end.result, files.result)
        other = files.drop_old_result()
        if other is not None:
            _LOG.warning("%s held another result; it is kept as %s", files.result, other)
    end.summary["files"] = files.written(is_complete=end.result is not None)
    write_summary(end.summary, files.summary)
    if end.material is not None:
        _write_pictures(files, end)
    if not args.quiet:
        if end.table:
            table = shortened_table(end.table) if _is_screen(output) else end.table
            terminal.say(table, output)
        terminal.say(format_execution_summary(end.summary), sys.stderr)


def _is_screen(output: TextIO) -> bool:
    """Tell whether people read there; a rank does not know: its launcher may make it seem so."""
    return output.isatty() and launcher.launcher(os.environ) is None


def _write_pictures(files: Files, end: RunEnd) -> None:
    from qcmb_mpi.report.files import read_json
    from qcmb_mpi.report.html import render_report, write_report
    from qcmb_mpi.report.timeline import write_trace

    if files.trace is not None and end.material is not None:
        write_trace(files.trace, end.material.rows, end.material.labels)
    if files.report is not None:
        result = read_json(files.result) if end.result is not None else None
        title = files.result.name.split(".")[0]
        write_report(files.report, render_report(result, end.summary, end.material, title=title))

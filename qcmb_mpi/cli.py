"""The commands of ``python -m qcmb_mpi``.

Rules of this file
------------------
1. A command imports what it needs when it runs, so that every answer is quick.
2. Exit codes are INTERFACE's: 0, 1, 2, 75, 70.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcmb_mpi import runner, terminal
from qcmb_mpi.errors import InputError, QcmbError
from qcmb_mpi.options import parse

if TYPE_CHECKING:
    from qcmb_mpi.jobscript import JobOptions
    from qcmb_mpi.jobscript_fit import Fit
    from qcmb_mpi.plan_ranks import Ranks


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default ``sys.argv[1:]``.

    Returns
    -------
    int
        The exit code.
    """
    terminal.have_standard_streams()
    terminal.take_any_text()
    try:
        words = list(sys.argv[1:] if arguments is None else arguments)
        args = parse(words)
        args.words = words
        code = _COMMANDS[args.command](args)
        terminal.flush()
    except QcmbError as error:
        return runner.complain(error)
    except OSError as error:
        if terminal.has_no_room(error):
            terminal.mute(sys.stdout)
            return runner.complain(InputError("standard output", f"it takes no more: {error}"))
        if not terminal.has_gone(error):
            raise
        return 0  # whoever read our output has had enough
    finally:
        terminal.flush()
    return code


def _plan(args: argparse.Namespace) -> int:
    from qcmb_mpi import plan, plan_ranks

    n_ranks, n_nodes, rank = plan_ranks.launched(os.environ)
    if rank:
        return 0
    ranks = plan_ranks.Ranks(
        args.ranks or n_ranks, args.nodes or n_nodes, args.dedicated_master, args.respect_binding
    )
    words = _words_for_run(args.words, ("plan", "--json"), ("-n", "--ranks", "--nodes"))
    found = _plan_for(args, ranks, words)
    print(json.dumps(found, indent=2) if args.json else plan.format_plan(found))
    return 0


def _plan_for(
    args: argparse.Namespace, ranks: Ranks, words: Sequence[str] = ("INPUT",)
) -> dict[str, Any]:
    from qcmb_mpi import plan, schema
    from qcmb_mpi.machine.walltime import parse_walltime

    loaded = schema.read_input(args.input, options=runner.input_options(args))
    with schema.naming_options(loaded):
        return plan.make_plan(
            loaded,
            runner.executor_config(args),
            store_path=_store_of_run(args),
            is_fresh=args.fresh,
            ranks=ranks,
            executor=args.executor,
            walltime_s=None if args.walltime is None else parse_walltime(args.walltime),
            words=words,
        )


def _store_of_run(args: argparse.Namespace) -> Path | None:
    """Return the store that ``run`` with the same options would use, if it is there."""
    from qcmb_mpi import run_files

    if args.no_store or (args.input == "-" and args.store is None):
        return None
    if args.store is not None:
        return Path(args.store) if args.store.exists() else None
    store = run_files.Files.of(argparse.Namespace(**{**vars(args), "output": None})).store
    return store if store is not None and store.exists() else None


def _report(args: argparse.Namespace) -> int:
    from qcmb_mpi import run_files
    from qcmb_mpi.report import html, sources, tables
    from qcmb_mpi.report.files import find_files

    writers = tables.WRITERS | {"trace": sources.write_trace_of}
    wanted = {name: getattr(args, name) for name in writers if getattr(args, name) is not None}
    page = args.output or (None if wanted else run_files.page_of(args.path))
    outputs = {f"--{name}": path for name, path in wanted.items()}
    found = find_files(args.path)
    taken = {p: "RESULT|STORE" for p in (found.result, found.summary, found.store) if p}
    run_files.check_apart(taken, outputs | ({} if page is None else {"-o": page}))
    for name, path in wanted.items():
        n_tasks = writers[name](args.path, path)
        print(f"written: {path}, {n_tasks} tasks", file=sys.stderr)
    if page is not None:
        html.write_report(page, html.report_for(args.path))
        print(f"written: {page}", file=sys.stderr)
    return 0


def _status(args: argparse.Namespace) -> int:
    from qcmb_mpi.report.status import format_status, status_of

    status = status_of(args.path)
    print(json.dumps(status, indent=2) if args.json else format_status(status))
    return 0


def _verify(args: argparse.Namespace) -> int:
    from qcmb_mpi import results, run_files, schema
    from qcmb_mpi.store import Store

    run_files.check_is_result(args.result)
    path = args.store or run_files.sibling(args.result, ".store.sqlite")
    if not path.exists():
        results.read_result(args.result)  # an input has no store, and says so itself
        accepted = "the STORE of that run: --store PATH"
        raise InputError("--store", "does not exist", value=str(path), accepted=accepted)
    with Store.open(path, is_read_only=True) as store:
        verdict = schema.verify(args.result, store)
    print(verdict)
    return 0 if verdict.is_ok else 1


def _repair(args: argparse.Namespace) -> int:
    from qcmb_mpi.store import n_if_sound, salvage

    if not args.store.exists():
        raise InputError("STORE", "no such file", value=str(args.store))
    n_results = n_if_sound(args.store)
    if n_results is None:
        print(f"{args.store}: {salvage(args.store)} results are whole and were kept")
    else:
        print(f"{args.store}: sound, {n_results} results, nothing to repair")
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from qcmb_mpi import doctor

    return doctor.report(args.json, problems=args.input and (lambda: _problems(args)))


def _problems(args: argparse.Namespace) -> list[str]:
    from qcmb_mpi import plan, schema
    from qcmb_mpi.execution.executors.base import ExecutorConfig

    try:
        loaded = schema.read_input(args.input, options=runner.input_options(args))
        found: list[str] = plan.make_plan(loaded, ExecutorConfig())["problems"]
    except InputError as error:
        return [str(error)]
    return found


def _jobscript(args: argparse.Namespace) -> int:
    from qcmb_mpi.jobscript import JobOptions, render_jobscript

    job = _fitted(
        args,
        JobOptions(
            nodes=args.nodes, cores=args.cores, is_requeued=args.requeue, launcher=args.launcher
        ),
    )
    words = _words_for_run(
        args.words,
        ("jobscript", args.scheduler, args.input, "--requeue"),
        ("--nodes", "--cores", "--launcher"),
    )
    print(render_jobscript(args.scheduler, args.input, options=words, job=job), end="")
    return 0


def _fitted(args: argparse.Namespace, job: JobOptions) -> JobOptions:
    """Ask the plan how long the job may take, if its input is here, or all inputs of an array."""
    from qcmb_mpi.jobscript import inputs_in
    from qcmb_mpi.jobscript_fit import fit_all
    from qcmb_mpi.report.deadline import clock

    if Path(args.input).is_file():
        found = _fit(args)
    elif Path(args.input).is_dir():
        found = fit_all({path.name: _fit(args, path) for path in inputs_in(args.input)})
    else:
        return job
    for note in found.notes:
        print(f"qcmb-mpi: note: {note}", file=sys.stderr)
    return replace(job, walltime=clock(found.walltime_s), about=found.about)


def _fit(args: argparse.Namespace, path: Path | None = None) -> Fit:
    """Ask for the input, or for one of an array of inputs."""
    from qcmb_mpi.jobscript_fit import fit
    from qcmb_mpi.plan_ranks import Ranks

    ranks = Ranks(
        args.nodes if args.nodes > 1 else 0,
        args.nodes,
        args.dedicated_master,
        args.respect_binding,
    )
    if path is None:
        return fit(_plan_for(args, ranks), args.cores, is_requeued=args.requeue)
    one = argparse.Namespace(**vars(args) | {"input": str(path)})
    try:
        found = _plan_for(one, ranks)
    except InputError as error:
        raise InputError(str(path), str(error)) from error
    return fit(found, args.cores, how_on="submitted again it goes on")


def _words_for_run(
    words: Sequence[str], dropped: Sequence[str], with_value: Sequence[str]
) -> list[str]:
    """Return the words of a command line that ``run`` is to get.

    Parameters
    ----------
    words : sequence of str
        All.
    dropped : sequence of str
        Without these, each where it stands first, if at all.
    with_value : sequence of str
        And without these options and what belongs to them.
    """
    rest, ours, kept = iter(words), list(dropped), []
    for word in rest:
        name, equals, _ = word.partition("=")
        if word in ours:
            ours.remove(word)
        elif name in with_value:
            if not equals:
                next(rest)
        elif not any(len(each) == 2 and word.startswith(each) for each in with_value):
            kept.append(word)
    return kept


def _simulate(args: argparse.Namespace) -> int:
    from qcmb_mpi import simulation

    figures = simulation.run(args)
    print(json.dumps(figures, indent=2) if args.json else simulation.format_figures(figures))
    return 0


_COMMANDS: dict[str, Callable[[Any], int]] = {
    "run": runner.run,
    "plan": _plan,
    "report": _report,
    "status": _status,
    "verify": _verify,
    "repair": _repair,
    "doctor": _doctor,
    "jobscript": _jobscript,
    "simulate": _simulate,
}

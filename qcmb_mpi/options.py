"""The command line's options: one table, parsed and checked.

Rules of this file
------------------
1. Nothing is imported that is slow: ``--help`` answers at once.
2. A wrong option is an :class:`InputError`: one line, exit code 2.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from qcmb_mpi import usage
from qcmb_mpi.errors import InputError

COMMANDS = (
    *("run", "plan", "report", "status", "verify", "repair"),
    *("doctor", "jobscript", "simulate"),
)
EXECUTORS = ("auto", "serial", "multiprocessing", "mpi", "thread")
SCHEDULERS = ("slurm", "pbs", "lsf", "sge", "flux")


DEFAULT_TIMEOUT_S = 3600.0
DEFAULT_HEARTBEAT_S = 30.0


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        field, _, rest = message.partition(": ")
        if not rest:
            field, rest = "command line", message
        raise InputError(field.removeprefix("argument "), f"{rest} (see {self.prog} --help)")

    def known_options(self, command: str) -> frozenset[str]:
        """Return the long options of a command."""
        parsers = next(each.choices for each in self._actions if each.dest == "command")
        return frozenset(parsers[command]._option_string_actions)  # type: ignore[index]


class _Help(argparse.RawDescriptionHelpFormatter):
    """One line for most options, and examples as they are typed."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)


class _Version(argparse.Action):
    """Look the version up only when it is asked for: that takes a while."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from qcmb_mpi import __version__

        print(f"qcmb_mpi {__version__}")
        parser.exit()


def make_parser() -> Parser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog="qcmb-mpi",
        description="Many-body expansions in parallel: QCManyBody's numbers, on all cores.",
        epilog="INPUT without a COMMAND means run: qcmb-mpi water.yaml = qcmb-mpi run water.yaml",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=Parser
    )
    _add_run(commands)
    _add_plan(commands)
    _add_report(commands)
    _add_status(commands)
    _add_verify(commands)
    _add_repair(commands)
    _add_doctor(commands)
    _add_jobscript(commands)
    _add_simulate(commands)
    return parser


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse `arguments`; a first word that is no command means ``run``.

    Raises
    ------
    InputError
        An option or value is not acceptable.
    """
    if not arguments:
        raise InputError(
            "command line", "a COMMAND is missing, e.g. qcmb-mpi run INPUT (see --help)"
        )
    if arguments[0] not in (*COMMANDS, "-h", "--help", "--version"):
        usage.refuse_mistyped(arguments[0], (*COMMANDS, "--help", "--version"))
        arguments = ["run", *arguments]
    parser = make_parser()
    arguments = usage.joined(arguments)
    if arguments[0] in COMMANDS:
        known = parser.known_options(arguments[0])
        usage.refuse_unknown_options(arguments[1:], known, f"qcmb-mpi {arguments[0]}")
    found, unknown = parser.parse_known_args(arguments)
    if unknown:
        command = found.command
        usage.refuse_unplaced(unknown[0], parser.known_options(command), f"qcmb-mpi {command}")
    return found


def _command(commands: Any, name: str, text: str) -> Parser:
    words, *examples = usage.USAGE[name]
    parser: Parser = commands.add_parser(
        name,
        help=text,
        description=text,
        usage=f"qcmb-mpi {name} {words}",
        epilog="\n".join(["examples:", *(f"  qcmb-mpi {name} {each}" for each in examples)]),
        allow_abbrev=False,
        prog=f"qcmb-mpi {name}",
        formatter_class=_Help,
    )
    return parser


def _add_run(commands: Any) -> None:
    parser = _command(commands, "run", "Run an expansion; standard output is the n-body table.")
    _add_input(parser)
    _add_output(parser)
    add_run_options(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    text = "the ManyBodyResult (default INPUT's stem.result.json, here)"
    parser.add_argument("-o", "--output", metavar="RESULT", type=Path, help=text)


def _add_input(
    parser: argparse.ArgumentParser, text: str = "ManyBodyInput (JSON, YAML), .xyz or .pdb"
) -> None:
    parser.add_argument("input", metavar="INPUT", help=text)
    _add_geometry_options(parser)


def _add_geometry_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("for .xyz and .pdb input")
    for name, metavar, text in (
        ("--program", "NAME", "program by QCEngine's name (default pyscf)"),
        ("--method", "NAME", "method, as hf or mp2 (needed)"),
        ("--basis", "NAME", "basis set (default none)"),
        ("--bsse", "LIST", "nocp, cp, vmfc or several with commas (default cp)"),
        ("--fragment", "WHICH", "auto (by bonds), or atoms as 1-3,4-6 (default -- lines, or auto)"),
        ("--charge", "LIST", "total, or one for each fragment: 0,0,-1 (default the file's, or 0)"),
        ("--multiplicity", "LIST", "total, or one for each (default the file's, or the lowest)"),
    ):
        group.add_argument(name, metavar=metavar, help=text)
    drivers = ("energy", "gradient", "hessian")
    text = "energy, gradient or hessian (default energy)"
    group.add_argument("--driver", choices=drivers, metavar="WHAT", help=text)
    group.add_argument("--max-nbody", type=int, metavar="N", help="highest level (default all)")
    units = "angstrom or bohr (default what the file says, or angstrom)"
    group.add_argument("--units", choices=("angstrom", "bohr"), metavar="UNIT", help=units)
    total = "total instead of interaction energy (default interaction)"
    group.add_argument("--total", action="store_true", default=None, help=total)
    keyword = "keyword of the program; may be repeated"
    group.add_argument("--keyword", action="append", default=[], metavar="NAME=VALUE", help=keyword)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``run`` (``jobscript`` passes them on)."""
    _add_pool_options(parser)
    _add_task_options(parser)
    _add_file_options(parser)


def _add_pool_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("where tasks run, and how wide").add_argument
    kinds = f"{', '.join(EXECUTORS)} (default auto: mpi under mpiexec, else multiprocessing)"
    add("--executor", choices=EXECUTORS, default="auto", metavar="KIND", help=kinds)
    slots = "slots of this node, or of each rank (default by cores and memory)"
    add("--workers", type=_positive, metavar="N", help=slots)
    threads = "QC threads of one task (default auto: by cost and cores)"
    add("--threads", type=_positive_or_auto, metavar="N|auto", help=threads)
    add("--memory", metavar="SIZE", help="limit of a node, as 8GB or 900MiB (default what it has)")
    add("--walltime", metavar="[[D-]H:]M:S|S", help="deadline from now (default the batch job's)")
    add("--dedicated-master", action="store_true", help="rank 0 computes nothing (default off)")
    binding = "keep to the launcher's binding of ranks (default off)"
    add("--respect-binding", action="store_true", help=binding)
    beat = f"silence after which a rank counts as lost (default {DEFAULT_HEARTBEAT_S:.0f})"
    add("--heartbeat", type=_positive_seconds, default=DEFAULT_HEARTBEAT_S, metavar="S", help=beat)
    modules = "import MODULE in every process; may be repeated"
    add("--import", dest="imports", action="append", default=[], metavar="MODULE", help=modules)
    add("--scratch", type=Path, metavar="DIR", help="for programs (default the system's)")


def _add_task_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("tasks, and what goes wrong").add_argument
    seconds = f"limit of one task, seconds (default {DEFAULT_TIMEOUT_S:.0f})"
    add("--timeout", type=_positive_seconds, default=DEFAULT_TIMEOUT_S, metavar="S", help=seconds)
    retries = "most repeats of a failed task (default 2)"
    add("--retries", type=_count, default=2, metavar="N", help=retries)
    failure = "continue with the other tasks (default), or stop"
    choices = ("continue", "stop")
    add("--on-failure", choices=choices, default="continue", metavar="WHAT", help=failure)
    remedies = "repeat what does not converge with the program's own remedies (default off)"
    add("--remedies", action="store_true", help=remedies)
    order = "lpt: longest predicted task first (default); level: by n-body level"
    add("--order", choices=("lpt", "level"), default="lpt", metavar="ORDER", help=order)


def _add_file_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("files")
    add, store = group.add_argument, group.add_mutually_exclusive_group()
    path = "finished tasks, reused (default RESULT's stem.store.sqlite)"
    store.add_argument("--store", type=Path, metavar="PATH", help=path)
    store.add_argument("--no-store", action="store_true", help="keep no store (default off)")
    add("--fresh", action="store_true", help="do not reuse results in the store (default off)")
    for name, text in (
        ("--summary", "summary as JSON (default RESULT's stem.run.json)"),
        ("--events", "what happened, as JSON lines (default none)"),
        ("--trace", "timeline for a trace viewer (default none)"),
        ("--report", "HTML report (default none)"),
    ):
        add(name, type=Path, metavar="PATH", help=text)
    kept = "all, none or auto: single tasks in RESULT (default auto: all if below 64 MiB)"
    choices = ("all", "none", "auto")
    add("--cluster-properties", choices=choices, default="auto", metavar="WHICH", help=kept)
    add = parser.add_argument_group("what is shown").add_argument
    progress = "show progress (default on a terminal)"
    add("--progress", action=argparse.BooleanOptionalAction, default=None, help=progress)
    levels = ("debug", "info", "warning", "error")
    least = f"{', '.join(levels)}: the least to log (default warning)"
    add("--log-level", choices=levels, default="warning", metavar="LEVEL", help=least)
    add("--quiet", action="store_true", help="print neither table nor summary (default off)")


def _add_plan(commands: Any) -> None:
    parser = _command(commands, "plan", "Show what a run would do; runs no chemistry.")
    _add_input(parser)
    add = parser.add_argument
    add("--json", action="store_true", help="as JSON (default text)")
    add("-n", "--ranks", type=_positive, metavar="N", help="for MPI ranks (default none)")
    add("--nodes", type=_positive, metavar="K", help="on nodes like this one (default 1)")
    add_run_options(parser)


def _add_report(commands: Any) -> None:
    parser = _command(commands, "report", "Write an HTML report, and tables of all tasks.")
    parser.add_argument("path", metavar="RESULT|STORE", type=Path, help="what a run wrote")
    add = parser.add_argument
    text = "the page (default RESULT's stem.report.html, unless a table or trace is asked for)"
    add("-o", "--output", type=Path, metavar="report.html", help=text)
    for name, text in (
        ("--csv", "all tasks as comma-separated values (default none)"),
        ("--parquet", "all tasks as Parquet (default none)"),
        ("--trace", "timeline for Perfetto or Chrome (default none)"),
    ):
        add(name, type=Path, metavar="FILE", help=text)


def _add_status(commands: Any) -> None:
    parser = _command(commands, "status", "Show the state of a run under way or ended.")
    parser.add_argument("path", metavar="STORE|RESULT", type=Path, help="what a run wrote")
    parser.add_argument("--json", action="store_true", help="as JSON (default text)")


def _add_verify(commands: Any) -> None:
    parser = _command(commands, "verify", "Re-assemble a result with stock QCManyBody and compare.")
    parser.add_argument("result", metavar="RESULT", type=Path, help="what a run wrote")
    text = "its tasks (default RESULT's stem.store.sqlite)"
    parser.add_argument("--store", type=Path, metavar="STORE", help=text)


def _add_repair(commands: Any) -> None:
    parser = _command(commands, "repair", "Keep what is whole of a damaged store, in a new one.")
    parser.add_argument("store", metavar="STORE", type=Path, help="the damaged store; it is kept")


def _add_doctor(commands: Any) -> None:
    parser = _command(commands, "doctor", "Say what this machine has, what is wrong, what to do.")
    text = "also say whether it could be run here, with the defaults of `run`"
    parser.add_argument("input", metavar="INPUT", nargs="?", help=text)
    _add_geometry_options(parser)
    parser.add_argument("--json", action="store_true", help="as JSON (default text)")


def _add_jobscript(commands: Any) -> None:
    parser = _command(commands, "jobscript", "Print a ready batch script.")
    text = f"{', '.join(SCHEDULERS)}"
    parser.add_argument("scheduler", choices=SCHEDULERS, metavar="SYSTEM", help=text)
    text = "as for run; for Slurm also a directory of inputs: an array of jobs"
    _add_input(parser, text)
    _add_output(parser)
    add = parser.add_argument
    add("--nodes", type=_positive, default=1, metavar="K", help="nodes of the job (default 1)")
    add("--cores", type=_positive, metavar="N", help="cores of a node (default as here)")
    starter = "what starts the ranks (default mpiexec; srun: Slurm's own)"
    choices = ("mpiexec", "srun")
    add("--launcher", choices=choices, default="mpiexec", metavar="NAME", help=starter)
    add("--requeue", action="store_true", help="submit again until complete (default off)")
    add_run_options(parser)


def _add_simulate(commands: Any) -> None:
    parser = _command(commands, "simulate", "Run the real scheduler under a fake clock.")
    add = parser.add_argument
    add("input", metavar="INPUT", nargs="?", help="its tasks, or --tasks")
    add("--tasks", type=_positive, metavar="N", help="instead of INPUT")
    text = "of each task; A-B: log-normal between them (default 1)"
    add("--task-seconds", type=_range, default=(1.0, 1.0), metavar="S|A-B", help=text)
    add("--ranks", type=_positive, required=True, metavar="N")
    add("--slots", type=_positive, default=1, metavar="N", help="of each rank")
    text = "sigma of ln(true / predicted task time) (default 0.3)"
    add("--spread", type=_seconds, default=0.3, metavar="X", help=text)
    add("--blind", action="store_true", help="predict the mean for all (default A-B in classes)")
    add("--seed", type=_count, default=1, metavar="N")
    add("--json", action="store_true", help="as JSON (default text)")
    group = parser.add_argument_group("what goes wrong")
    text = "share of attempts that fail (default 0)"
    group.add_argument("--failures", type=_share, default=0.0, metavar="P", help=text)
    text = "share of tasks that take ten times longer (default 0)"
    group.add_argument("--stragglers", type=_share, default=0.0, metavar="P", help=text)
    text = "ranks that are lost, one after the other (default 0)"
    group.add_argument("--losses", type=_count, default=0, metavar="N", help=text)
    group = parser.add_argument_group("what the master and messages take")
    text = "charge what each step really takes here (default: the same time for all)"
    group.add_argument("--timed", action="store_true", help=text)
    for name, default, text in (
        ("--message-seconds", 1e-4, "a message on its way (default 0.0001)"),
        ("--report-seconds", None, "a rank collects results (default: by number of ranks)"),
        ("--step-seconds", 6e-5, "a step of the scheduler (default 0.00006)"),
        ("--receive-seconds", 2e-5, "a message received (default 0.00002)"),
        ("--result-seconds", 1.5e-5, "a result unpacked and stored (default 0.000015)"),
        ("--send-seconds", 3e-5, "a message sent (default 0.00003)"),
    ):
        group.add_argument(name, type=_seconds, default=default, metavar="S", help=text)
    _add_geometry_options(parser)


def _positive(text: str) -> int:
    value = _count(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1 (got {text!r})")
    return value


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"must be a whole number (got {text!r})")
    return int(text)


def _positive_or_auto(text: str) -> int | None:
    return None if text == "auto" else _positive(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be seconds, 0 or more (got {text!r})")
    return value


def _range(text: str) -> tuple[float, float]:
    """Read seconds, or two with a dash between (that of an exponent is none)."""
    low, dash, high = text.replace("e-", "e~").partition("-")
    ends = [_positive_seconds(each.replace("e~", "e-")) for each in (low, high if dash else low)]
    if ends[0] > ends[1]:
        raise argparse.ArgumentTypeError(f"must be from less to more (got {text!r})")
    return ends[0], ends[1]


def _share(text: str) -> float:
    value = _seconds(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1 (got {text!r})")
    return value


def _positive_seconds(text: str) -> float:
    value = _seconds(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"must be more than 0 seconds (got {text!r})")
    return value

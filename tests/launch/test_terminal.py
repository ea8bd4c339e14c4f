"""What people see and do at a terminal: the display, its size, Ctrl-C, closing the window."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from qcmb_mpi.report.status import status_of
from tests.edge.agent_cases import is_alive
from tests.launch.jobs import command, environment, read, run, wait_until
from tests.launch.terminal import INTERRUPT, Terminal, terminal
from tests.launch.test_run import FLAKY, _n_done, helium, write

OUTSIDE = ("--import", "tests.launch.outside")
STATUS = "exit ${PIPESTATUS[0]}"
N_TASKS = 2 * (4 + 6 + 4)


def job(folder: Path, *more: str, n_ranks: int = 0, **keywords: Any) -> list[str]:
    """Return the command line of four helium atoms."""
    source = write(folder, helium(4, **keywords))
    return command("run", source, "--workers", "2", *FLAKY, *more, n_ranks=n_ranks)


def hanging(folder: Path, *more: str, n_ranks: int = 0) -> tuple[list[str], Path]:
    """Return a command whose first pair never ends, and what says that it has begun."""
    mark = folder / "mark"
    return job(folder, *more, n_ranks=n_ranks, faults={"2": "hang"}, once=str(mark)), mark


def is_shown(window: Terminal, text: str) -> bool:
    window.read()
    return any(text in line for line in window.screen)


def test_the_display_follows_the_size_and_leaves_the_table_alone(tmp_path: Path) -> None:
    table = tmp_path / "table"
    with terminal(job(tmp_path, sleep=0.1), cwd=tmp_path, out=table) as window:
        window.wait_until(lambda: is_shown(window, "slots busy"))
        for columns in (50, 120, 100):
            n_before = len(window.written)
            window.resize(columns, 30)
            window.wait_until(
                lambda n=n_before: len(window.written) > n or window.job.poll() is not None
            )
        assert window.wait() == 0
    shown = "\n".join(window.screen)
    assert re.findall(r"^all +\S+ +(\S+) 100 %", shown, re.MULTILINE) == [f"{N_TASKS}/{N_TASKS}"]
    for level in ("1-body", "2-body", "3-body"):
        assert len(re.findall(rf"^\(auto\) {level} ", shown, re.MULTILINE)) == 1
    assert f"complete: {N_TASKS} tasks" in shown
    assert "\x1b" not in table.read_text()
    assert "Counterpoise Corrected" in table.read_text()
    assert window.written.rindex(b"\x1b[?25h") > window.written.rindex(b"\x1b[?25l")  # the cursor


def test_lines_without_codes_where_there_is_no_terminal(tmp_path: Path) -> None:
    done = run(job(tmp_path, "--progress"), cwd=tmp_path)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    assert f"qcmb_mpi: {N_TASKS}/{N_TASKS} tasks (100 %)" in done.stderr


@pytest.mark.parametrize("executor", ["multiprocessing", "serial"])
def test_a_table_that_the_locale_cannot_write_costs_a_few_characters(
    tmp_path: Path, executor: str
) -> None:
    locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""}
    done = run(job(tmp_path, "--executor", executor), cwd=tmp_path, env=environment(**locale))
    assert done.returncode == 0, done.stderr
    assert '?A: "(auto)"' in done.stdout


@pytest.mark.parametrize("executor", ["multiprocessing", "serial"])
def test_closing_the_window_ends_the_run_in_good_order(tmp_path: Path, executor: str) -> None:
    words, mark = hanging(tmp_path, "--executor", executor)
    with terminal(words, cwd=tmp_path) as window:
        window.wait_until(mark.exists)
        slots = psutil.Process(window.job.pid).children(recursive=True)
        window.close()
        assert window.job.wait(60) == 75
    wait_until(lambda: not any(is_alive(slot) for slot in slots))
    summary = read(tmp_path / "in.run.json")
    assert (summary["status"], summary["stopped"]) == ("incomplete", "SIGHUP")
    assert _n_done(tmp_path / "in.store.sqlite") == summary["n_computed"]
    assert not (tmp_path / "in.store.sqlite.lock").exists()


def test_nohup_outlives_the_window(tmp_path: Path) -> None:
    words = ["nohup", *job(tmp_path, sleep=0.02)]
    with terminal(words, cwd=tmp_path) as window:
        wait_until(lambda: (tmp_path / "in.store.sqlite").exists())
        window.close()
        assert window.job.wait(120) == 0
    assert read(tmp_path / "in.run.json")["status"] == "complete"


@pytest.mark.parametrize("executor", ["multiprocessing", "serial", "thread"])
def test_ctrl_c_twice_does_not_wait_for_what_runs(tmp_path: Path, executor: str) -> None:
    words, mark = hanging(tmp_path, "--executor", executor)
    with terminal(words, cwd=tmp_path, size=(100, 60)) as window:
        window.wait_until(mark.exists)
        window.press(INTERRUPT)
        window.wait_until(lambda: is_shown(window, "once more: at once"))
        assert window.job.poll() is None
        window.press(INTERRUPT)
        assert window.wait() == 75
    shown = "\n".join(window.screen)
    assert "stopped early: SIGINT" in shown
    assert "Traceback" not in shown
    assert read(tmp_path / "in.run.json")["n_failed"] == 0


def test_ctrl_c_reaches_programs_of_this_terminal_and_makes_no_task_fail(tmp_path: Path) -> None:
    """A serial run's programs are of the terminal's own group."""
    mark = tmp_path / "mark"
    words = job(
        tmp_path,
        "--executor",
        "serial",
        "--retries",
        "0",
        *OUTSIDE,
        program="outside",
        mark=str(mark),
    )
    with terminal(words, cwd=tmp_path) as window:
        window.wait_until(lambda: bool(psutil.Process(window.job.pid).children()))
        window.press(INTERRUPT)
        assert window.wait() == 75
    assert read(tmp_path / "in.run.json")["n_failed"] == 0


def test_ctrl_c_to_mpiexec_ends_every_rank_and_can_be_gone_on_from(tmp_path: Path) -> None:
    words, mark = hanging(tmp_path, n_ranks=2)
    with terminal(words, cwd=tmp_path, size=(100, 60)) as window:
        window.wait_until(lambda: mark.exists() and is_shown(window, "tasks"))
        window.wait_until(lambda: status_of(tmp_path / "in.store.sqlite")["state"] == "running")
        ranks = psutil.Process(window.job.pid).children(recursive=True)
        window.press(INTERRUPT)
        assert window.wait() in (1, 75, 128 + signal.SIGINT)
    wait_until(lambda: not any(is_alive(rank) for rank in ranks))
    assert "Traceback" not in "\n".join(window.screen)
    assert status_of(tmp_path / "in.store.sqlite")["state"] in ("incomplete", "stopped")
    again = run(command("run", "in.json", *FLAKY), cwd=tmp_path)
    assert again.returncode == 0, again.stderr


def test_a_reader_that_goes_changes_no_exit_code(tmp_path: Path) -> None:
    """As ``qcmb-mpi run INPUT | head -1``, of a run that does not end well."""
    words = job(tmp_path, "--retries", "0", faults={"2": "input"})
    done = run(["bash", "-c", f"{' '.join(words)} 2>&1 | true; {STATUS}"], cwd=tmp_path)
    assert done.returncode == 1
    assert read(tmp_path / "in.run.json")["status"] == "failed"


def test_help_for_a_reader_that_goes(tmp_path: Path) -> None:
    words = command("run", "--help")
    done = run(["bash", "-c", f"{' '.join(words)} | true; {STATUS}"], cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["plan", "run"])
def test_closed_streams_change_no_exit_code(tmp_path: Path, name: str) -> None:
    words = " ".join(job(tmp_path)).replace(" run ", f" {name} ")
    done = run(["bash", "-c", f"{words} <&- >&-"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [["--version"], ["plan", "in.json"]])
def test_output_that_takes_no_more_is_said_in_one_line(tmp_path: Path, words: list[str]) -> None:
    write(tmp_path, helium(4))
    done = run(["bash", "-c", f"{' '.join(command(*words))} > /dev/full"], cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "standard output" in done.stderr

"""The code blocks of the documentation: found, run where they can be, else checked.

A comment in the line before a block says what to do with it; the reader of the page sees none.

    <!-- file: NAME -->       it is written to that file, which a later block uses
    <!-- output -->           the block before printed it; `...` stands for anything
    <!-- exit: N -->          the commands end with that exit code
    <!-- as in: PAGE -->      its commands, perhaps with more words, are run on that page
    <!-- not run: REASON -->  it is checked as far as it can be

All other blocks in bash, python, yaml and json are run, those of a page from top to bottom,
in a folder with small inputs of the names that the pages use.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from markdown_it import MarkdownIt

from qcmb_mpi import schema
from qcmb_mpi.options import parse
from tests.launch.jobs import unmeasured
from tools.mpiexec import command_line, environment, own_temporary

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 180
RUN = ("bash", "sh", "python", "yaml", "json")
KNOWN = {*RUN, "pycon", "text", "toml"}  # pycon: test_documentation.py runs them
MARK = re.compile(r"<!--\s*(file|output|exit|as in|not run)(?::\s*(.*?))?\s*-->", re.DOTALL)
FRAGMENT = {  # what stands for the molecule of an input that a page shows a part of
    "symbols": ["He", "He", "He"],
    "geometry": [0.0, 0.0, 0.0, 0.0, 0.0, 5.6, 0.0, 5.6, 0.0],
    "fragments": [[0], [1], [2]],
}
INPUT = {
    "schema_name": "qcschema_many_body_input",
    "schema_version": 2,
    "specification": {
        "driver": "energy",
        "keywords": {"bsse_type": ["cp"], "max_nbody": 2},
        "specification": {
            "program": "pyscf",
            "driver": "energy",
            "model": {"method": "hf", "basis": "sto-3g"},
        },
    },
    "molecule": FRAGMENT,
}
XYZ = "3\n\nHe 0 0 0\nHe 0 0 3\nHe 0 3 0\n"
# Not every machine has SQLite's shell: this does what the pages ask of it.
SQLITE = """
import sqlite3, sys
for row in sqlite3.connect(f"file:{sys.argv[2]}?mode=ro", uri=True).execute(sys.argv[3]):
    print(*row, sep="|")
"""
FOLDERS = ("benchmarks", "docs", "examples", "geometries", "jobscripts", "tests", "tools")


@dataclass(frozen=True)
class Block:
    """One code block of a page and the comment before it."""

    page: str
    line: int
    language: str
    code: str
    mark: str = ""
    value: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}:\n{self.code}"


def blocks(page: Path) -> list[Block]:
    """Return the code blocks of a page; one that is indented has no language."""
    found, comment = [], None
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block"):
            mark, value = comment.groups() if comment else ("", "")
            language = token.info.strip()
            if not language.startswith("{"):  # a directive of Sphinx
                name = str(page.relative_to(ROOT))
                line = (token.map or [0])[0] + 1
                found.append(Block(name, line, language, token.content, mark, value or ""))
        comment = MARK.fullmatch(token.content.strip()) if token.type == "html_block" else None
    return found


@dataclass
class Runner:
    """Runs the blocks of a page, from top to bottom, in one folder.

    Parameters
    ----------
    folder : Path
        Where the page's commands and scripts run; whoever runs it has changed to it.
    """

    folder: Path
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})
    said: str = ""

    def prepare(self) -> None:
        """Put the inputs there that the pages speak of, small ones, and the folders."""
        (self.folder / "input.yaml").write_text(yaml.safe_dump(INPUT), encoding="utf-8")
        (self.folder / "cluster.xyz").write_text(XYZ, encoding="utf-8")
        (self.folder / "inputs").mkdir()
        for name in FOLDERS:
            (self.folder / name).symlink_to(ROOT / name)
        for number in "12":
            shutil.copy(self.folder / "input.yaml", self.folder / "inputs" / f"{number}.yaml")
        _put_launchers(self.folder / ".bin")

    def run(self, block: Block) -> None:
        """Run one block, or check it if it is marked; AssertionError says what is wrong."""
        if block.mark == "not run":
            check(block)
        elif block.mark == "as in":
            check_elsewhere(block)
        elif block.mark == "file":
            (self.folder / block.value).write_text(block.code, encoding="utf-8")
        elif block.mark == "output":
            check_output(block, self.said)
        elif block.language in ("bash", "sh"):
            self._run_commands(block)
        elif block.language == "python":
            self._run_python(block)
        elif block.language in ("yaml", "json"):
            check_input(block)

    def _run_commands(self, block: Block) -> None:
        wanted = int(block.value) if block.mark == "exit" else 0
        done = _bash(["-euo", "pipefail", "-c", block.code], self.folder)
        assert done.returncode == wanted, (
            f"{block}\nended with {done.returncode} (what cannot run is marked: see {__file__})\n"
            f"{done.stdout}{done.stderr}"
        )
        self.said = done.stdout

    def _run_python(self, block: Block) -> None:
        if "MPIExecutor" in block.code:
            return self._run_ranks(block)
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(compile("\n" * block.line + block.code, block.page, "exec"), self.names)
        self.said = said.getvalue()
        self.names["_scripts"] = self.names.get("_scripts", "") + block.code
        return None

    def _run_ranks(self, block: Block) -> None:
        """Run this block, after those before it, as a script on two ranks."""
        script = self.folder / "script.py"
        script.write_text(self.names.get("_scripts", "") + block.code, encoding="utf-8")
        done = _bash(["-c", f"mpiexec -n 2 python {script.name}"], self.folder)
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
        self.said = done.stdout


def _bash(words: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run bash with our Python and launcher first on PATH; nothing of it outlives its time."""
    ours = unmeasured(environment()) | {
        "PATH": f"{folder / '.bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    with (
        own_temporary(ours) as variables,
        subprocess.Popen(
            ["bash", *words],
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as job,
    ):
        try:
            out, err = job.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)
            out, err = "", f"did not end within {TIMEOUT_S} s"
        return subprocess.CompletedProcess(words, job.wait(), out, err)


def _put_launchers(folder: Path) -> None:
    """Make `python`, `qcmb-mpi`, and an `mpiexec` of two ranks, however many are asked for."""
    folder.mkdir()
    start = " ".join(map(shlex.quote, command_line(2, [], is_oversubscribed=True)))
    scripts = {
        "sqlite3": f'exec {shlex.quote(sys.executable)} -c {shlex.quote(SQLITE)} "$@"',
        "python": f'exec {shlex.quote(sys.executable)} "$@"',
        "qcmb-mpi": f'exec {shlex.quote(sys.executable)} -m qcmb_mpi "$@"',
        "mpiexec": f'while [ "$1" != -n ]; do shift; done; shift 2; exec {start} "$@"',
    }
    for name, line in scripts.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)


# ------------------------------------------------------------------- what cannot be run is checked


def check(block: Block) -> None:
    """Check a block that is not run: its syntax, and the options of the commands that are ours."""
    assert len(block.value) > 10, f"{block}\nis not run: give the reason"
    if block.language in ("bash", "sh"):
        done = subprocess.run(
            ["bash", "-n"], input=block.code, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{block}\n{done.stderr}"
        for words in commands(block.code):
            check_command(block, words)
    elif block.language == "python":
        compile(block.code, block.page, "exec")
    elif block.language in ("yaml", "json"):
        assert yaml.safe_load(block.code) is not None, str(block)


def check_elsewhere(block: Block) -> None:
    """Check that every line of a block begins a line that is run on the page that is named."""
    there = [
        each.code for each in blocks(ROOT / block.value) if each.mark not in ("not run", "as in")
    ]
    lines = [line for code in there for line in code.splitlines()]
    for line in block.code.splitlines():
        assert any(each.startswith(line) for each in lines), f"{block}\nis not run there"


def commands(code: str) -> Iterator[list[str]]:
    """Yield the simple commands of a script as words, without what is redirected."""
    lexer = shlex.shlex(code.replace("\\\n", " "), posix=True, punctuation_chars="|&;<>\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, "#"
    words: list[str] = []
    is_target = False
    for word in [*lexer, "\n"]:
        if set(word) <= set("|&;\n"):
            yield words
            words, is_target = [], False
        elif set(word) <= set("<>"):
            is_target = True
        elif not is_target:
            words.append(word)


def check_command(block: Block, words: list[str]) -> None:
    """Check that a command of ours has the options it is given."""
    ours = after(words, "-m", "qcmb_mpi") or after(words, "qcmb-mpi")
    if ours is not None:
        parse([word for word in ours if word != "..."])
    for at, word in enumerate(words):
        if word.endswith(".py") and not word.startswith(("-", "/")):
            source = (ROOT / word).read_text(encoding="utf-8")
            options = [each.partition("=")[0] for each in words[at:] if each.startswith("--")]
            missing = [each for each in options if f'"{each}"' not in source]
            assert not missing, f"{block}\n{word} has no {missing}"


def after(words: list[str], *names: str) -> list[str] | None:
    """Return the words behind `names`, None if they are not there."""
    for at in range(len(words)):
        if tuple(words[at : at + len(names)]) == names:
            return words[at + len(names) :]
    return None


def check_output(block: Block, said: str) -> None:
    """Compare what a page shows with what was printed; of long decimals the first five places."""
    wanted, found = (
        " ".join(re.sub(r"(\d\.\d{5})\d+", r"\1", text).split()) for text in (block.code, said)
    )
    complaint = f"{block}\nbut it printed\n{said}"
    pattern = ".*?".join(re.escape(part.strip()) for part in wanted.split("..."))
    assert re.fullmatch(f"\\s*{pattern}\\s*", found, re.DOTALL), complaint


def check_input(block: Block) -> None:
    """Check that a block is an input, or a part of one beside a molecule of ours."""
    found = yaml.safe_load(block.code) if block.language == "yaml" else json.loads(block.code)
    assert isinstance(found, dict), str(block)
    assert {"specification", "molecule"} & set(found), f"{block}\nis no part of an input: mark it"
    schema.load_input({**INPUT, **found})

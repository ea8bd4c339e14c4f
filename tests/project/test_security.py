"""Nothing that is read is executed, nothing that is named is run, nothing private is shared."""

from __future__ import annotations

import ast
import json
import os
import re
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from qcmb_mpi import run_files
from qcmb_mpi.errors import QcmbError
from qcmb_mpi.execution.forkserver import ForkServer, clean_environment
from qcmb_mpi.inputs import yaml_text
from qcmb_mpi.inputs.documents import read_document
from qcmb_mpi.jobscript import SCHEDULERS, JobOptions, render_jobscript
from qcmb_mpi.report import scene
from qcmb_mpi.report.html import render_report
from tests.launch.calls import FLAKY, call, write
from tests.launch.jobs import environment
from tests.launch.test_run import helium

PACKAGE = Path(__file__).resolve().parents[2] / "qcmb_mpi"
SOURCES = sorted(PACKAGE.rglob("*.py"))

NEVER_IMPORTED = {"marshal", "shelve", "dill", "cloudpickle", "joblib", "commands", "pty"}
NEVER_CALLED = {
    *("eval", "exec", "compile", "os.system", "os.popen", "yaml.load", "yaml.load_all"),
    *("yaml.full_load", "yaml.unsafe_load", "yaml.full_load_all", "yaml.unsafe_load_all"),
    *("subprocess.getoutput", "subprocess.getstatusoutput", "tempfile.mktemp", "os.tempnam"),
    *("asyncio.create_subprocess_shell", "numpy.load", "np.load", "pandas.read_pickle"),
}
PICKLE_READERS = {"pickle.load", "pickle.loads", "pickle.Unpickler"}
UNSAFE_LOADERS = {f"yaml.{c}{kind}Loader" for c in ("", "C") for kind in ("", "Full", "Unsafe")}


# ---- laws ----------------------------------------------------------------------------------


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Yield every call with the name that is called, as it is written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def imported(tree: ast.AST) -> set[str]:
    """Return the names of all modules, and of what is imported from them."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def offences(source: str, *, may_unpickle: bool = False) -> list[str]:
    """List what the laws forbid in a module."""
    tree = ast.parse(source)
    found = []
    for name in imported(tree):
        if name.split(".")[0] in NEVER_IMPORTED or name in NEVER_CALLED | PICKLE_READERS:
            found.append(f"import {name}")
    for name, call_ in calls(tree):
        if name in NEVER_CALLED or (name in PICKLE_READERS and not may_unpickle):
            found.append(name)
        for keyword in call_.keywords:
            is_false = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            if keyword.arg in ("shell", "allow_pickle") and not is_false:
                found.append(f"{keyword.arg}=")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in UNSAFE_LOADERS:
            found.append(ast.unparse(node))
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and re.match(r"/(tmp|var/tmp|dev/shm)\b", text):
            found.append(f"a name in a shared directory: {text}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_executes_what_it_reads(path: Path) -> None:
    """Only rooms of processes that we started unpickle, and only what those sent."""
    is_ours = path.parts[len(PACKAGE.parts)] == "execution"
    assert offences(path.read_text(encoding="utf-8"), may_unpickle=is_ours) == []


@pytest.mark.parametrize(
    "line",
    [
        "subprocess.run(x, shell=True)",
        "subprocess.run(x, shell=flag)",
        "pickle.loads(x)",
        "from pickle import loads",
        "import marshal",
        "eval(x)",
        "exec(x)",
        "yaml.load(x)",
        "yaml.load(x, Loader=yaml.SafeLoader)",
        "class L(yaml.Loader): pass",
        "np.load(x, allow_pickle=True)",
        "os.system(x)",
        "tempfile.mktemp()",
        "open('/tmp/qcmb.log')",
    ],
)
def test_the_laws_find_what_they_forbid(line: str) -> None:
    assert offences(line)


def test_yaml_is_read_by_a_safe_loader(tmp_path: Path) -> None:
    assert issubclass(yaml_text._Loader, (yaml.SafeLoader, getattr(yaml, "CSafeLoader", ())))
    mark = tmp_path / "mark"
    for text in (
        f"!!python/object/apply:os.system ['touch {mark}']",
        f"a: !!python/object/new:os.mkdir ['{mark}']",
        "a: !!python/name:os.system",
    ):
        path = tmp_path / "in.yaml"
        path.write_text(text)
        with pytest.raises(QcmbError, match=r"in\.yaml"):
            read_document(str(path))
    assert not mark.exists()


# ---- names ---------------------------------------------------------------------------------

NAMES = [
    "a b;touch pwned $(touch pwned).json",
    "`touch pwned`'\"\ntouch pwned\n#.json",
    "-rf *.json",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("is_requeued", [False, True])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_jobscript_takes_names_literally(
    tmp_path: Path, scheduler: str, is_requeued: bool, name: str
) -> None:
    job = JobOptions(nodes=2, cores=4, is_requeued=is_requeued)
    script = render_jobscript(scheduler, name, options=["--label", name], job=job)
    head, settings, rest = re.split(r"^# ----.*\n", script, flags=re.M)
    assert "touch pwned" not in head + rest
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    show = 'printf "%s\\0" "$input" "${options[@]}" "$result"'
    shell = subprocess.run(
        ["bash", "-c", settings + show], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    found = shell.stdout.split("\0")[:-1]
    assert found[:3] == [name, "--label", name]
    assert found[3].endswith(".result.json")
    assert list(tmp_path.iterdir()) == []


EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


def test_a_report_shows_strings_as_text(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    document: dict[str, Any] = helium(driver="gradient")
    document["molecule"] |= {"name": EVIL, "comment": EVIL}
    levels = document["specification"]["specification"]
    levels[EVIL] = levels.pop("(auto)")
    levels[EVIL]["model"] = {"method": EVIL}
    document["specification"]["keywords"]["levels"] = {"3": EVIL}
    words = ("--executor", "serial", "--report", "page.html", *FLAKY)
    code, _, err = call(capfd, "run", write(document), *words)
    assert code == 0, err
    assert_harmless(Path("page.html").read_text())
    run = json.loads(Path("in.run.json").read_text())
    failure = {"label": EVIL, "error_type": EVIL, "message": EVIL, "output_tail": EVIL}
    run["failed"] = [failure | {"attempts": 1, "error_class": EVIL, "host": EVIL}]
    run["executor"] = run["layout"] = run["stopped"] = EVIL
    run["versions"] = {EVIL: EVIL}
    for agent in run["agents"]:
        agent["host"] = agent["trouble"] = agent["set_aside"] = EVIL
    assert_harmless(render_report(None, run, title=EVIL))


def assert_harmless(html: str) -> None:
    """Assert that nothing of a string became a tag or left an attribute."""
    assert "alert(1)" in html
    ours = f"<script>{scene.script()}</script>"
    assert "<script" not in html.replace(ours, "", 1)
    assert "<img" not in html
    for tag in re.findall(r"<[a-zA-Z][^>]*>", html):
        assert "onerror" not in tag or "&lt;img" in tag, tag


# ---- private -------------------------------------------------------------------------------


def test_the_sockets_of_slots_are_in_a_private_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = os.umask(0)
    try:
        server = ForkServer.start(clean_environment(environment(), 1))
        try:
            (folder,) = tmp_path.iterdir()
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        finally:
            server.close()
    finally:
        os.umask(before)
    assert list(tmp_path.iterdir()) == []


def test_probing_a_folder_follows_no_link_that_waits_there(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    for name in (f".qcmb-{os.getpid()}.probe", ".probe"):
        (tmp_path / name).symlink_to(trap)
    before = sorted(tmp_path.iterdir())
    run_files.check_writable(tmp_path / "out.json", "-o")
    assert sorted(tmp_path.iterdir()) == before
    assert not trap.exists()

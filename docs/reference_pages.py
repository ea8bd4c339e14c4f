"""Reference pages that are written from the code whenever the documentation is built.

Rules of this file
------------------
1. Each function returns one page's text; nothing is typed here that the code knows.
"""

from __future__ import annotations

import argparse
import enum
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent


def write_all() -> None:
    """Write the generated pages, each only if it differs, so that builds stay incremental."""
    folder = DOCS / "generated"
    folder.mkdir(exist_ok=True)
    for name, text in (
        ("commands.md", commands()),
        ("api.md", api()),
        ("events.md", messages()),
        ("store.sql", tables()),
        ("links.md", links()),
    ):
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def commands() -> str:
    """Return a section for each command, with a table of its options."""
    from qcmb_mpi.options import make_parser

    (action,) = (a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    shared: dict[tuple[str, ...], str] = {}
    return "\n".join(_command(name, parser, shared) for name, parser in action.choices.items())


def _command(name: str, parser: argparse.ArgumentParser, shared: dict[tuple[str, ...], str]) -> str:
    """Write one command; options that an earlier command has are only named."""
    words = [_named(a) for a in parser._actions if not a.option_strings]
    lines = [f"## `{name}`", "", str(parser.description), ""]
    has_options = any(a.option_strings and a.dest != "help" for a in parser._actions)
    usage = " ".join(["qcmb-mpi", name, *words, *(["[options]"] if has_options else [])])
    lines += ["```text", parser.usage or usage, "```", ""]
    earlier: dict[str, list[str]] = {}
    for group in parser._action_groups:
        own = []
        for each in group._group_actions:
            key = (*each.option_strings, str(each.help))
            if each.help == argparse.SUPPRESS or each.dest == "help":
                continue
            if each.option_strings and key in shared:
                earlier.setdefault(shared[key], []).append(f"`{each.option_strings[-1]}`")
            else:
                shared[key] = name
                own.append(f"| {_spelling(each)} | {_text(each)} |")
        if own:
            is_named = group.title not in ("positional arguments", "options", "optional arguments")
            lines += [f"{str(group.title).capitalize()}:", ""] if is_named else []
            lines += ["| | |", "|---|---|", *own, ""]
    if parser.epilog:
        lines += ["```text", parser.epilog, "```", ""]
    for home, options in earlier.items():
        lines += [f"As of [`{home}`](#{home}): {', '.join(options)}.", ""]
    return "\n".join(lines)


def _named(action: argparse.Action) -> str:
    if action.choices:
        return "|".join(map(str, action.choices))
    word = str(action.metavar or action.dest.upper())
    return f"[{word}]" if action.nargs == "?" else word


def _spelling(action: argparse.Action) -> str:
    if not action.option_strings:
        return _code(_named(action))
    value = "" if action.nargs == 0 else f" {_named(action)}"
    return ", ".join(_code(f"{each}{value}") for each in action.option_strings)


def _code(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`"


def _text(action: argparse.Action) -> str:
    return str(action.help or "").replace("%%", "%").replace("|", "\\|")


HEADINGS = {
    "computer": "Expansions",
    "expansion": "Expansions",
    "execution": "Executors, settings and tasks",
    "programs": "Threads",
    "machine": "Threads",
    "scheduling": "Costs",
    "report": "Reports",
    "errors": "Errors",
}


def api() -> str:
    """Return what autodoc is to write: every public name, by what it is for."""
    import qcmb_mpi

    sections: dict[str, list[str]] = {name: [] for name in HEADINGS.values()}
    for home, names in qcmb_mpi._HOMES.items():
        room = home.partition(".")[0]
        heading = HEADINGS.get(room, room.replace("_", " ").capitalize())
        sections.setdefault(heading, []).extend(names)
    lines = []
    for heading, names in sections.items():
        lines += [f"## {heading}", "", "```{eval-rst}", ".. currentmodule:: qcmb_mpi"]
        lines += [_directive(name, getattr(qcmb_mpi, name)) for name in names]
        lines += ["```", ""]
    return "\n".join(lines)


def _directive(name: str, thing: Any) -> str:
    if not isinstance(thing, type):
        return f".. autofunction:: {name}"
    if issubclass(thing, BaseException):
        return f".. autoexception:: {name}"
    options = ["members", *(["undoc-members"] if issubclass(thing, enum.Enum) else [])]
    return "\n".join([f".. autoclass:: {name}", *(f"   :{each}:" for each in options)])


def messages() -> str:
    """Return tables of events and commands: their fields and what each means."""
    from qcmb_mpi.scheduling import messages as m

    events = [rule.event for rule in m.EVENT_RULES]
    kinds = {kind for rule in m.EVENT_RULES for kind in rule.commands}
    lines = ["## Events", "", *_kinds(events)]
    lines += ["## Commands", "", *_kinds(sorted(kinds, key=lambda kind: kind.__name__))]
    return "\n".join(lines)


def _kinds(kinds: list[type[Any]]) -> list[str]:
    lines = []
    for kind in kinds:
        about = _parameters(kind)
        lines += [f"### {kind.__name__}", "", _first(kind), ""]
        if fields(kind):
            head = ["field", "type", *(["meaning"] if about else [])]
            lines += ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
            for each in fields(kind):
                row = [f"`{each.name}`", _code(str(each.type)), about.get(each.name, "")]
                lines.append("| " + " | ".join(row[: len(head)]) + " |")
            lines.append("")
    return lines


def _first(kind: type[Any]) -> str:
    """Return what a docstring says before its sections."""
    text = (kind.__doc__ or "").split("\n    Parameters\n")[0]
    return _markdown(" ".join(text.split()))


def _parameters(kind: type[Any]) -> dict[str, str]:
    """Return what numpydoc's section of parameters says of each."""
    _, _, section = (kind.__doc__ or "").partition("Parameters\n    ----------\n")
    section = re.split(r"\n    \w+\n    -{3,}\n", section)[0]
    found = {}
    for names, text in re.findall(
        r"^ {4}(\w[^:\n]*?) ?(?::[^\n]*)?\n((?: {8}.*\n?)*)", section, re.M
    ):
        for name in names.split(","):
            found[name.strip()] = _markdown(" ".join(text.split()).replace("|", "\\|"))
    return found


def _markdown(text: str) -> str:
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text)
    return text.replace("``", "`")


def tables() -> str:
    """Return the store's tables as the statements that make them."""
    from qcmb_mpi.store.tables import TABLES

    return re.sub(r"\n{2,}", "\n", TABLES).strip() + "\n"


def links() -> str:
    """Return all addresses that the pages point to outside, and where."""
    found: dict[str, set[str]] = {}
    pages = [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("*/*.md"))]
    for page in pages:
        if page.parent.name == "generated":
            continue
        for address in re.findall(r"\]\((https?://[^)\s]+)\)", page.read_text(encoding="utf-8")):
            found.setdefault(address, set()).add(page.relative_to(DOCS.parent).as_posix())
    rows = [f"| <{each}> | {', '.join(sorted(found[each]))} |" for each in sorted(found)]
    return "\n".join(["| address | on |", "|---|---|", *rows]) + "\n"

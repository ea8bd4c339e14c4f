"""The report: one HTML page that needs nothing else.

Rules of this file
------------------
1. No network, and no script but our own to turn the cluster. Everything that comes from a file is
   escaped by the template.
2. What is missing (no result yet, no store, an old summary) leaves a gap, never an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.report import answer, figures, scene
from qcmb_mpi.report.closing import advice_for, group_failures
from qcmb_mpi.report.files import find_files, read_json, refuse_input, replace_file
from qcmb_mpi.report.parts import Order, Parts
from qcmb_mpi.report.reading import read_summary
from qcmb_mpi.report.snapshot import format_duration, level_name, share, task_name
from qcmb_mpi.report.sources import Material, read_material
from qcmb_mpi.report.timeline import Gantt, TaskRows, gantt, memory, utilisation, waiting

if TYPE_CHECKING:
    from jinja2 import Template

N_SLOWEST = 10
N_REPEATED = 10
N_CONTRIBUTORS = 10
N_KINDS = 50
N_LABELS = 1000
_NO_FAILURE: dict[str, Any] = {"label": "", "error_type": "", "message": "", "attempts": 1}
_DEFAULTS: dict[str, Any] = {
    "n_tasks": 0,
    "n_computed": 0,
    "n_reused": 0,
    "n_failed": 0,
    "n_slots": 0,
    "n_ranks": 1,
    "executor": "",
    "busy_s": 0.0,
    "slot_s": 0.0,
    "setup_s": None,
    "assembly_s": 0.0,
    "efficiency": None,
    "lower_bound_s": None,
    "started": "",
}


def render_report(
    result: Mapping[str, Any] | None,
    summary: Mapping[str, Any] | None,
    material: Material | None = None,
    *,
    title: str = "",
) -> str:
    """Make the page.

    Parameters
    ----------
    result : mapping, optional
        A ``ManyBodyResult`` as JSON.
    summary : mapping, optional
        The run summary.
    material : Material, optional
        What the store knows of single tasks.
    title : str, optional

    Returns
    -------
    str
        HTML.
    """
    from markupsafe import Markup

    run = _DEFAULTS | dict(summary) if summary else None
    failed = [_NO_FAILURE | row for row in run.get("failed") or []] if run else []
    context = {
        "policy": Markup(scene.policy()),  # noqa: S704
        "title": title or "Many-body expansion",
        "status": run["status"] if run and run.get("status") else None,
        "system": answer.system_line(result) if result else "",
        "cards": _cards(result, run),
        "summary": run,
        "predictions": _predictions(run),
        "kinds": _kinds(run),
        "chemistries": _chemistries(result, material),
        "n_open": _n_open(run) if run and run.get("status") == "incomplete" else 0,
        "n_failed": len(failed),
        "gap": "" if result or run else _gap(material),
        "failures": group_failures(failed),
        "n_kinds": N_KINDS,
        "n_labels": N_LABELS,
        "advice": advice_for(failed),
        "versions": _versions(result, run),
        "kcal_per_hartree": answer.KCAL_PER_HARTREE,
        **_answer_context(result),
        **_parts_context(material),
        **_run_context(run, material, _chemistries(result, material)),
    }
    return _template().render(context)


def _gap(material: Material | None) -> str:
    """Say why a page of a store alone shows nothing, if it does not."""
    if material is None:
        return "Nothing says of which input the results in the store are: give the RESULT."
    return "" if len(material.rows) else "The store has no results yet."


def _answer_context(result: Mapping[str, Any] | None) -> dict[str, Any]:
    from markupsafe import Markup

    if result is None:
        return {}
    found = answer.treatments(result)
    chemistries = {row.model_chemistry for each in found for row in each.rows}
    curves = {
        each.name: [(r.nbody, v) for r in each.rows if (v := r.interaction_kcal) is not None]
        for each in found
    }
    curves = {name: points for name, points in curves.items() if points}
    return {
        "treatments": found,
        "has_levels": len(chemistries) > 1,
        "convergence": Markup(figures.convergence_svg(curves, "kcal/mol")),  # noqa: S704
        "table": str(result.get("stdout") or "").strip("\n"),
    }


def _parts_context(material: Material | None) -> dict[str, Any]:
    from markupsafe import Markup

    from qcmb_mpi.schema import covalent_radius_angstrom

    parts = None if material is None else material.parts
    if parts is None:
        return {}
    scale = scene.Scale.of(parts.shares_kcal)
    return {
        "parts": parts,
        "scale": scale,
        "scene": Markup(scene.scene_svg(parts, scale, covalent_radius_angstrom)),  # noqa: S704
        "script": Markup(scene.script()),  # noqa: S704
        "contributors": [(order, _contributors(parts, order)) for order in parts.orders[:2]],
        "distances": Markup(scene.distance_svg(parts.orders)),  # noqa: S704
    }


def _contributors(parts: Parts, order: Order) -> list[dict[str, Any]]:
    """List the clusters of an order that contribute most."""
    ranks = order.largest(N_CONTRIBUTORS)
    is_mixed = len(set(parts.names)) > 1
    names = [f"{i} {name}" if is_mixed else str(i) for i, name in enumerate(parts.names, 1)]
    members = order.members(ranks).tolist()
    values = np.stack([each[ranks] for each in order.values_kcal.values()], axis=1).tolist()
    distances = order.distances_angstrom[ranks].tolist()
    return [
        {"fragments": " · ".join(names[i] for i in row), "values": value, "distance": distance}
        for row, value, distance in zip(members, values, distances, strict=True)
    ]


def _run_context(
    run: Mapping[str, Any] | None, material: Material | None, chemistries: Mapping[str, str]
) -> dict[str, Any]:
    from markupsafe import Markup

    if material is None or len(material.rows) == 0:
        return {"slowest": run.get("slowest") or [] if run else []}
    shown = _of_last_run(material, run) if run else material
    rows, labels = shown.rows, shown.labels
    picture = gantt(rows)
    n_lanes = len(picture.lanes) + picture.n_hidden
    n_slots = max(int(run["n_slots"]) if run else 0, n_lanes)
    bars = picture.bars if labels else ()
    names = {bar.row: task_name(labels[bar.row], chemistries) for bar in bars}
    shares, in_use = utilisation(rows, n_slots), memory(rows)
    queue = waiting(rows, _n_open(run) if run else 0)
    over_time = {
        "utilisation": (shares, 1.0, "Share of slots at work over time", share, ""),
        "waiting": (queue, _round_up(queue), "Tasks that wait over time", "{:,.0f}".format, "n1"),
        "memory": (in_use, _round_up(in_use, 1024), "Memory over time", _size, "n5"),
    }
    return {
        "gantt": Markup(figures.gantt_svg(picture, names)),  # noqa: S704
        "legend": _legend(picture),
        "n_hidden": picture.n_hidden,
        **{
            name: Markup(figures.area_svg(each, picture.span_s, high, text, form=form, css=css))  # noqa: S704
            for name, (each, high, text, form, css) in over_time.items()
        },
        "limit_bytes": sum(a.get("memory_limit_bytes") or 0 for a in (run or {}).get("agents", ())),
        "most_bytes": int(in_use.max()) if len(in_use) else 0,
        "stride": rows.stride,
        "repeated": _repeated(rows, labels),
        "n_repeated": int((rows.attempts > 1).sum()),
        "mean_utilisation": float(shares.mean()) if len(shares) else None,
        "slowest": (run or {}).get("slowest") if rows.stride > 1 else _slowest(rows, labels),
    }


def _of_last_run(material: Material, run: Mapping[str, Any]) -> Material:
    """Keep the tasks of the run that the summary is of; all, if it computed none."""
    try:
        of_run = material.since(datetime.fromisoformat(run["started"]))
    except ValueError:  # a summary without a date
        return material
    return of_run if len(of_run.rows) else material


def _legend(picture: Gantt) -> list[tuple[str, str]]:
    levels = sorted({bar.level for bar in picture.bars})
    return [(f"n{min(n, 5)}", level_name(n) if n else "tasks") for n in levels]


def _kinds(run: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """List the colours of the discs, by n-body level."""
    classes = ((run or {}).get("prediction") or {}).get("classes") or []
    levels = sorted({row["nbody"] for row in classes}, key=lambda n: (isinstance(n, str), n))
    return [(figures.colour_of(n), level_name(n)) for n in levels]


def _chemistries(result: Mapping[str, Any] | None, material: Material | None) -> Mapping[str, str]:
    if result is not None:
        return answer.model_chemistries(result)
    return {} if material is None else material.chemistries


def _n_open(run: Mapping[str, Any]) -> int:
    return int(run["n_tasks"] - run["n_computed"] - run["n_reused"] - run["n_failed"])


def _predictions(run: Mapping[str, Any] | None) -> Any:
    from markupsafe import Markup

    classes = ((run or {}).get("prediction") or {}).get("classes") or []
    return Markup(figures.prediction_svg(classes))  # noqa: S704


def _round_up(values: NDArray[np.float64], base: int = 10) -> float:
    """Return a round number above all values, of which the half is round too."""
    highest = float(values.max()) if len(values) else 0.0
    if highest <= 0:
        return 0.0
    power = float(base) ** math.floor(math.log(highest, base))
    steps = (1, 2, 4, 6, 8, 10) if base == 10 else (1, *range(2, 17, 2), *range(20, base + 1, 4))
    return next((s * power for s in steps if s * power >= highest), base * power)


def _repeated(rows: TaskRows, labels: Sequence[str]) -> list[dict[str, Any]]:
    """List tasks that took more than one attempt, most attempts first."""
    order = np.lexsort((rows.task, -rows.attempts))[:N_REPEATED]
    return [
        {"label": labels[row], "attempts": int(rows.attempts[row])}
        for row in order.tolist()
        if rows.attempts[row] > 1 and labels
    ]


def _slowest(rows: TaskRows, labels: Sequence[str]) -> list[dict[str, Any]]:
    order = np.lexsort((rows.task, -rows.seconds))[:N_SLOWEST]
    return [
        {
            "label": labels[row] if labels else f"task {rows.task[row]}",
            "seconds": float(rows.seconds[row]),
            "rank": int(rows.rank[row]),
            "slot": int(rows.slot[row]),
            "host": rows.host[row],
        }
        for row in order.tolist()
    ]


def _cards(result: Mapping[str, Any] | None, run: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    cards: list[dict[str, Any]] = [
        {"what": each.quantity, "value": each.value, "note": each.note, "is_main": True}
        for each in (answer.headlines(result) if result else ())
    ]
    if run is None:
        return cards
    reused = f"{run['n_reused']} of them from the store" if run["n_reused"] else ""
    n_open, n_tasks = _n_open(run), f"{run['n_tasks']:,}"
    if n_open and run.get("status") == "incomplete":
        n_tasks = f"{run['n_tasks'] - n_open:,} of {n_tasks}"
    cards.append({"what": "tasks", "value": n_tasks, "note": reused})
    if run.get("wall_s") is not None:
        note = f"{format_duration(run['busy_s'])} of work on {run['n_slots']} slots"
        cards.append({"what": "wall time", "value": format_duration(run["wall_s"]), "note": note})
    if run["efficiency"] is not None:
        note = "of the best any schedule could do"
        cards.append({"what": "efficiency", "value": share(run["efficiency"]), "note": note})
    return cards


def _versions(result: Mapping[str, Any] | None, run: Mapping[str, Any] | None) -> dict[str, Any]:
    if run and run.get("versions"):
        return dict(run["versions"])
    provenance = (result or {}).get("provenance") or {}
    creator = provenance.get("creator")
    return {str(creator): provenance.get("version")} if creator else {}


@cache
def _template() -> Template:
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True)
    environment.filters |= {
        "fixed": lambda value, digits: "" if value is None else f"{value:.{digits}f}",
        "duration": format_duration,
        "level": level_name,
        "task": task_name,
        "share": share,
        "bytes": _bytes,
    }
    text = resources.files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(text)


def _size(n_bytes: float) -> str:
    return _bytes(int(n_bytes)) or "0"


def _bytes(n_bytes: int | None) -> str:
    """Write a size for people, in powers of 1024."""
    if not n_bytes:
        return ""
    size, units = float(n_bytes), iter(("B", "KiB", "MiB", "GiB"))
    unit = next(units)
    for larger in units:
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.3g} {unit}" if size < 1000 else f"{size:.0f} {unit}"


def write_report(path: Path | str, html: str) -> None:
    """Write the page; the file is replaced as a whole.

    Parameters
    ----------
    path : Path or str
    html : str

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    replace_file(path, html)


def report_for(path: Path | str) -> str:
    """Make the page of a run from any of its files.

    Parameters
    ----------
    path : Path or str
        RESULT, STORE or summary; the others are found beside it.

    Returns
    -------
    str
        HTML.

    Raises
    ------
    InputError
        If there is no such run, or a file is not what its name says.
    """
    files = find_files(path)
    result = read_json(files.result) if files.result else None
    summary = read_summary(files.summary) if files.summary else None
    if files.result and result is not None:
        refuse_input(result, files.result)
    given = files.result or files.summary or files.store or Path(path)
    material = None
    if files.store is not None:
        material = read_material(files.store, (result or {}).get("input_data"))
    return render_report(result, summary, material, title=given.name.split(".")[0])

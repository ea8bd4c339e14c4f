#!/usr/bin/env python3
"""Draw what a benchmark measured: ``results/DATE-NAME.json`` as an SVG beside it.

    python benchmarks/plots.py RESULT.json ...
    python benchmarks/plots.py benchmarks/results/kept-*.json --folder docs/plots

A benchmark draws its own result when it has written it, if matplotlib is there
(``pip install 'qcmb_mpi[bench]'``). In a folder that is told, plots are named by the benchmark.

Rules of this file
------------------
1. Nothing is computed here but medians and ratios that the benchmark's own table has, too.
2. The same record gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Report = dict[str, Any]
Points = Sequence[tuple[float, float]]

WIDTH = 7.2  # inches
OURS = ("qcmb_mpi", "ours", "automatic", "lpt")
STRONG, WEAK, INK, RED = "#1f5fa8", "#b4bcc6", "#2b2f36", "#b8322a"
WARM = ("warm pool", "mpiexec")
COLOURS = (STRONG, "#d9822b", "#3a8f5c", "#7a5195")
STYLE = {
    "font.size": 9.5,
    "font.family": "DejaVu Sans",
    "svg.fonttype": "none",
    "svg.hashsalt": "qcmb_mpi",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "text.color": INK,
    "legend.frameon": False,
}


@dataclass(frozen=True, slots=True)
class Bars:
    """Figures of one kind side by side; those of ours are strong.

    Parameters
    ----------
    title, axis : str
    values : mapping
        From what stands beside a bar to its length.
    marks : mapping
        From a word to where its dashed line is.
    form : str
        How a value is written.
    is_log : bool
    """

    title: str
    axis: str
    values: Mapping[str, float]
    marks: Mapping[str, float] = field(default_factory=dict)
    form: str = ".2f"
    is_log: bool = False

    @property
    def height(self) -> float:
        """Inches."""
        return 0.85 + 0.27 * len(self.values)

    @property
    def end(self) -> float:
        """Where the axis has to end."""
        return 1.12 * max((*self.values.values(), *self.marks.values()))

    def draw(self, axes: Any) -> None:
        """Draw bars, the first on top, each with its figure."""
        names = list(self.values)
        own = [name.startswith(OURS) for name in names]
        colours = [STRONG if mine or not any(own) else WEAK for mine in own]
        bars = axes.barh(names, list(self.values.values()), color=colours, height=0.68)
        written = [format(value, self.form) for value in self.values.values()]
        for label in axes.bar_label(bars, written, padding=3):
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8})
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"{self.axis} (logarithmic)".lstrip() if self.is_log else self.axis)
        if self.is_log:
            axes.set_xscale("log")
        for is_minor in (False, True):  # every bar has its figure
            axes.set_xticks([], minor=is_minor)
        axes.spines["bottom"].set_visible(False)
        for word, at in self.marks.items():
            axes.axvline(at, color=RED, linestyle="--", linewidth=1)
            axes.text(at, -0.55, f" {word}", color=RED, fontsize=8.5, va="bottom")


@dataclass(frozen=True, slots=True)
class Curves:
    """Figures that depend on a number.

    Parameters
    ----------
    title, x_axis, y_axis : str
    lines, references : mapping
        From names to points; references are drawn thin.
    level : float, optional
        What a line should stay above.
    is_log : bool
        Whether the x axis is.
    """

    title: str
    x_axis: str
    y_axis: str
    lines: Mapping[str, Points]
    references: Mapping[str, Points] = field(default_factory=dict)
    level: float | None = None
    is_log: bool = False
    height: float = 3.6

    def draw(self, axes: Any) -> None:
        """Draw lines with points on them, and what they are to be compared with."""
        for (name, points), style in zip(self.references.items(), ("--", ":"), strict=False):
            axes.plot(*zip(*points, strict=True), style, color=INK, linewidth=1, label=name)
        for (name, points), colour in zip(self.lines.items(), COLOURS, strict=False):
            axes.plot(*zip(*points, strict=True), "o-", color=colour, label=name, markersize=4)
        if self.level is not None:
            axes.axhline(self.level, color=RED, linestyle="--", linewidth=1, label=f"{self.level}")
        xs = sorted({x for points in self.lines.values() for x, _ in points})
        if self.is_log:
            axes.set_xscale("log")
        else:
            axes.set_xticks(xs)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(self.x_axis)
        axes.set_ylabel(self.y_axis)
        axes.legend()


Panel = Bars | Curves


# ---- what is drawn of each benchmark -------------------------------------------------------------


def of_farm(report: Report) -> list[Panel]:
    """Draw speed-ups over sequential QCManyBody, and the ceiling."""
    panels: list[Panel] = []
    for each in report["measured"]:
        walls = {name: statistics.median(c["wall_s"]) for name, c in each["contenders"].items()}
        values = {name: walls["QCManyBody"] / wall_s for name, wall_s in walls.items()}
        n_tasks = next(iter(each["contenders"].values()))["summary"]["n_tasks"]
        title = f"{Path(each['input']).stem}: {n_tasks} tasks, {each['n_cores']} cores"
        top = {"ceiling": statistics.median(each["ceiling"])}
        panels.append(Bars(title, "times as fast as QCManyBody, start-up included", values, top))
    return panels


def of_scaling(report: Report) -> list[Panel]:
    """Draw speed-ups beside the ideal and the ceiling."""
    measured = report["measured"]
    rows = measured["rows"]
    lines = {
        f"qcmb_mpi, {name}": [(r["n_cores"], r["speed_up"]) for r in rows if r["executor"] == name]
        for name in dict.fromkeys(row["executor"] for row in rows)
    }
    ceiling = sorted({(row["n_cores"], row["ceiling"]) for row in rows})
    references = {"ideal": [(n, n) for n, _ in ceiling], "ceiling (serial copies)": ceiling}
    title = f"{Path(measured['input']).stem}: {measured['n_tasks']} tasks, start-up included"
    used = {f"{row['executor']}": row["used"] for row in report["sleep"]}
    n_cores = report["sleep"][0]["n_cores"]
    return [
        Curves(title, "cores", "speed-up over one core", lines, references),
        Bars("tasks of 0.3 s", "cores used", used, {f"of {n_cores}": n_cores}, ".3f"),
    ]


def of_simulation(report: Report) -> list[Panel]:
    """Draw how well machines of growing size are used, and how busy their master is."""
    *curves, _alone = report["measured"]["curves"]
    by_title = {rows[0]["title"]: rows for rows in curves}
    studies = {row["title"]: row["efficiency"] for row in report["measured"]["studies"]}

    def lines(name: str) -> dict[str, Points]:
        return {t: [(r["n_slots"], r[name]) for r in rows] for t, rows in by_title.items()}

    n_slots = report["measured"]["studies"][0]["n_slots"]
    return [
        Curves("tasks of 1 s", "slots", "efficiency", lines("efficiency"), {}, 0.9, is_log=True),
        Curves("the same", "slots", "master busy", lines("master_load"), {}, is_log=True),
        Bars(f"studies, {n_slots} slots but the last", "efficiency", studies, {}, ".3f"),
    ]


def of_engines(report: Report) -> list[Panel]:
    """Draw the main figures of all engines."""
    from engines_figures import COLUMNS, ENGINES, Found, layers_of

    found, panels = Found(report["runs"]), []
    for head, part, figure, form in COLUMNS:
        medians = {
            ENGINES[n].how if not n.startswith("ours") else n: found.median(n, part, figure)
            for n in found.names
        }
        values = {name: value for name, value in medians.items() if value is not None}
        is_log = bool(values) and max(values.values()) > 20 * max(min(values.values()), 1e-9)
        if values and min(values.values()) > 0:
            title = f"efficiency, tasks of {head}" if part in ("efficiency", "brief") else head
            panels.append(Bars(title, "", values, {}, form, is_log))
    profiles = {name: layers_of(found.figures(name, "profile")) for name in found.names}
    panels += [
        Bars(f"master of {name}, us a task", "us", layers, {}, ".2f")
        for name, layers in profiles.items()
        if layers
    ]
    return list(panels)


def of_overhead(report: Report) -> list[Panel]:
    """Draw overheads of each input and the most that they may be."""
    return [
        Bars(
            name,
            "share of the run that is not work",
            {e["executor"]: _median(e["runs"], "overhead") for e in rows},
            {"limit": rows[0]["limit"]} if rows[0]["limit"] else {},
            ".2%",
        )
        for name, rows in _grouped(report["measured"], "input").items()
    ]


def of_orders(report: Report) -> list[Panel]:
    """Draw real makespans over their bounds."""
    return [
        Bars(
            f"{each['input']}, {each['executor']}",
            "makespan over the bound - 1",
            {
                order: statistics.median(r["span_s"] / r["lower_bound_s"] for r in runs) - 1
                for order, runs in each["runs"].items()
            },
            {},
            ".1%",
        )
        for each in report["measured"]["real"]
    ]


def of_hybrid(report: Report) -> list[Panel]:
    """Draw the wall times of layouts over the automatic one's."""
    from hybrid import AUTOMATIC, ratio

    return [
        Bars(
            each["input"],
            "wall time over that of the automatic layout",
            {name: ratio(each, name, AUTOMATIC) for name in each["wall_s"]},
        )
        for each in report["measured"]
    ]


def of_checkpoint(report: Report) -> list[Panel]:
    """Draw the ratios of pairs, with the store over without."""
    ratios = report["checkpoint"]["ratios"]
    values = {f"pair {i}": ratio for i, ratio in enumerate(ratios, 1)}
    values |= {"median": statistics.median(ratios)}
    return [Bars("with the store / without", "wall time", values, {"limit": 1.03}, ".3f")]


def of_optimization(report: Report) -> list[Panel]:
    """Draw every step on a warm pool, over its lower bound."""
    words = ("step", "wall time over lower bound")

    def curves(pools: Report) -> dict[str, list[tuple[int, float]]]:
        return {p: list(enumerate(pools[p]["ratios"], 2)) for p in WARM if p in pools}

    return [
        Curves(name, *words, curves(pools), level=1.2) for name, pools in report["measured"].items()
    ]


def of_pages(report: Report) -> list[Panel]:
    """Draw how soon a browser shows the report of so many tasks."""
    from pages import loading_s

    shown_s = {f"{each['n_tasks']:,} tasks": loading_s(each) for each in report["measured"]}
    return [Bars("the report", "seconds until a browser shows it", shown_s, {"limit": 2.0})]


def of_native(report: Report) -> list[Panel]:
    """Draw ratios of rates."""
    return [
        Bars(
            f"GFN2-xTB, {each['waters']} waters, {each['n_cores']} cores",
            "ratio",
            {name: statistics.median(many) for name, many in each["ratios"].items()},
        )
        for each in report["measured"]
    ]


def of_scale(report: Report) -> list[Panel]:
    """Draw seconds, and by how many times each figure is better than its limit, if it has one."""
    rows = [row for row in report["rows"] if row["value"] > 0 and not row["is_number"]]
    seconds = {row["name"]: row["value"] for row in rows if row["unit"] == "s"}
    better = {
        row["name"]: row["value"] / row["limit"] if row["is_least"] else row["limit"] / row["value"]
        for row in rows
        if row["limit"]
    }
    limit = {"limit": 1.0}
    panels = [Bars("very many tasks", "seconds", seconds, {}, ".3g", is_log=True)]
    judged = Bars("", "times better than its limit", better, limit, ".1f", is_log=True)
    return [*panels, *([judged] if better else [])]


def of_prediction(report: Report) -> list[Panel]:
    """Draw predicted over measured of all that was not learnt from."""
    ratios = {
        f"{row['method']}, {row['n_real']} real, {row['n_ghost']} ghosts": row["predicted_s"]
        / row["seconds"]
        for row in report["rows"]
        if row["predicted_s"] is not None
    }
    return [Bars("seconds of sizes that were never run", "predicted / measured", ratios,
                 {"right": 1.0})]  # fmt: skip


def of_monitoring(report: Report) -> list[Panel]:
    """Draw shares of a run."""
    shares = report["run"]["shares"]
    return [Bars("watching a run", "share of its time", shares, {"limit": 0.01}, ".2%")]


def of_memory(report: Report) -> list[Panel]:
    """Draw peaks beside the limit."""
    return [
        Bars(
            each["input"],
            "peak, GB",
            {name: run["peak_bytes"] / 1e9 for name, run in each["runs"].items()},
            {"limit": next(iter(each["runs"].values()))["limit_bytes"] / 1e9},
        )
        for each in report["measured"]
    ]


KINDS: dict[str, Callable[[Report], list[Panel]]] = {
    name.removeprefix("of_"): made for name, made in list(globals().items()) if name[:3] == "of_"
}


def _median(runs: Sequence[Report], name: str) -> float:
    return float(statistics.median(run[name] for run in runs))


def _grouped(rows: Sequence[Report], name: str) -> dict[str, list[Report]]:
    groups: dict[str, list[Report]] = {}
    for row in rows:
        groups.setdefault(row[name], []).append(row)
    return groups


# ---- drawing -------------------------------------------------------------------------------------


def draw(report: Report, path: Path) -> None:
    """Draw a record; its kind is in it."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    panels = KINDS[report["benchmark"]](report)
    n_columns = 1 if len(panels) < 3 else 2
    rows = [panels[i : i + n_columns] for i in range(0, len(panels), n_columns)]
    heights = [max(panel.height for panel in row) for row in rows]
    bars = [panel for panel in panels if isinstance(panel, Bars) and not panel.is_log]
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH * (1 + 0.5 * (n_columns > 1)), sum(heights)), layout="constrained")
        grid = figure.add_gridspec(len(rows), n_columns, height_ratios=heights)
        for i, row in enumerate(rows):
            for j, panel in enumerate(row):
                axes = figure.add_subplot(grid[i, j])
                axes.set_title(panel.title, pad=12)
                panel.draw(axes)
                if isinstance(panel, Curves) or not panel.is_log:  # else a bar has no beginning
                    for artist in axes.findobj():
                        artist.set_clip_on(False)  # names of clips differ from drawing to drawing
                if panel in bars:  # what is told in the same words has the same scale
                    alike = [each for each in bars if each.axis == panel.axis != ""]
                    axes.set_xlim(0, max(each.end for each in alike or [panel]))
        FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None})


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--folder", type=Path, help="default: each beside its record")
    options = parser.parse_args(argv)
    for path in options.results:
        report = json.loads(path.read_text(encoding="utf-8"))
        where = path.with_suffix(".svg")
        if options.folder is not None:
            options.folder.mkdir(parents=True, exist_ok=True)
            where = options.folder / f"{report['benchmark']}.svg"
        draw(report, where)
        print(where)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

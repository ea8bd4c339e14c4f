"""The report's pictures, as SVG text.

Rules of this file
------------------
1. Colours and fonts are the page's classes, so that dark and light come from one place.
2. Every text is escaped here: what these functions return is safe to put in a page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from qcmb_mpi.report import svg
from qcmb_mpi.report.snapshot import format_duration, level_name
from qcmb_mpi.report.svg import LEFT, RIGHT, WIDTH
from qcmb_mpi.report.timeline import Bar, Floats, Gantt


def gantt_svg(picture: Gantt, labels: Mapping[int, str]) -> str:
    """Draw who did what when.

    Parameters
    ----------
    picture : Gantt
    labels : mapping of row to str
        Names of tasks that have a bar of their own, shown when pointed at.

    Returns
    -------
    str
        Empty without bars.
    """
    if not picture.bars:
        return ""
    n_lanes = len(picture.lanes)
    pitch = 22.0 if n_lanes <= 16 else max(6.0, 352.0 / n_lanes)
    bottom = 8 + pitch * n_lanes
    scale = (WIDTH - LEFT - RIGHT) / max(picture.span_s, 1e-9)
    parts = svg.time_axis(max(picture.span_s, 1e-9), 4, bottom)
    parts += _lane_names(picture, pitch)
    for bar in picture.bars:
        x, width = LEFT + bar.start_s * scale, max((bar.end_s - bar.start_s) * scale, 0.4)
        y = 8 + bar.lane * pitch
        place = f'x="{svg.number(x)}" y="{svg.number(y)}" width="{width:.2f}"'
        size = f'height="{svg.number(pitch * 0.8)}" class="n{min(bar.level, 5)}"'
        title = escape(_bar_title(bar, labels))
        parts.append(f"<rect {place} {size}><title>{title}</title></rect>")
    return svg.drawing(bottom + 22, "Timeline of tasks per slot", parts)


def _lane_names(picture: Gantt, pitch: float) -> list[str]:
    """Name each lane, or where they are too thin each rank."""
    parts, previous = [], -1
    for lane, (rank, slot, host) in enumerate(picture.lanes):
        y = 8 + lane * pitch + min(pitch * 0.8, 18) * 0.5 + 4
        if pitch >= 14:
            parts.append(svg.text(LEFT - 8, y, f"rank {rank} slot {slot}", anchor="end"))
        elif rank != previous:
            parts.append(svg.text(LEFT - 8, y, f"rank {rank} {host[:6]}", anchor="end"))
        previous = rank
    return parts


def _bar_title(bar: Bar, labels: Mapping[int, str]) -> str:
    seconds = bar.end_s - bar.start_s
    if bar.n_tasks > 1:
        return f"{bar.n_tasks} tasks in {format_duration(seconds)}"
    return f"{labels.get(bar.row, 'task')}: {seconds:.3g} s, from {bar.start_s:.4g} s"


def area_svg(
    values: Floats,
    span_s: float,
    high: float,
    label: str,
    *,
    form: Callable[[float], str] = "{:,.0f}".format,
    css: str = "",
) -> str:
    """Draw a quantity over time.

    Parameters
    ----------
    values : float64[n_bins]
        In equal parts of the time.
    span_s : float
    high : float
        Upper end of the axis, at least the highest value.
    label : str
        What it is, for those who cannot see it.
    form : callable, optional
        Writes a value.
    css : str, optional
        Class of the area.

    Returns
    -------
    str
        Empty without data.
    """
    if len(values) == 0 or span_s <= 0 or high <= 0:
        return ""
    top, bottom = 10.0, 90.0
    step = (WIDTH - LEFT - RIGHT) / len(values)
    heights = (bottom - np.clip(values / high, 0.0, 1.0) * (bottom - top)).tolist()
    corners = [f"M{LEFT} {svg.number(bottom)}"]
    for place, y in enumerate(heights):
        left, right = svg.number(LEFT + place * step), svg.number(LEFT + (place + 1) * step)
        corners.append(f"L{left} {svg.number(y)}H{right}")
    parts = svg.time_axis(span_s, top, bottom)
    for part in (0.0, 0.5, 1.0):
        y = bottom - part * (bottom - top)
        parts.append(svg.line(LEFT, y, WIDTH - RIGHT, y, "grid"))
        parts.append(svg.text(LEFT - 8, y + 4, form(part * high), anchor="end"))
    path = f"{''.join(corners)}V{svg.number(bottom)}Z"
    parts.append(f'<path class="area {css}" d="{path}"/>')
    return svg.drawing(bottom + 22, label, parts)


def prediction_svg(classes: Sequence[Mapping[str, Any]]) -> str:
    """Draw measured over predicted seconds of one task, a disc for each class.

    Parameters
    ----------
    classes : sequence of mapping
        Of the run summary's ``prediction``.

    Returns
    -------
    str
        Empty without data.
    """
    rows = [row for row in classes if row["predicted_s"] > 0 and row["measured_s"] > 0]
    if not rows:
        return ""
    values = [row[name] for row in rows for name in ("predicted_s", "measured_s")]
    low = math.floor(math.log10(min(values)) - 0.1)
    high = math.ceil(math.log10(max(values)) + 0.1)
    top, bottom, right = 10.0, 310.0, LEFT + 520.0
    x_scale, y_scale = (right - LEFT) / (high - low), (bottom - top) / (high - low)
    parts = [svg.line(LEFT, bottom, right, top, "axis")]
    steps = (1.0, 2.0, 5.0) if high - low < 4 else (1.0,)
    for moment_s in (step * 10.0**power for power in range(low, high + 1) for step in steps):
        away = math.log10(moment_s) - low
        if away > high - low + 1e-9:
            break
        x, y, name = LEFT + away * x_scale, bottom - away * y_scale, format_duration(moment_s)
        parts += [svg.line(x, top, x, bottom, "grid"), svg.line(LEFT, y, right, y, "grid")]
        parts.append(svg.text(x, bottom + 20, name))
        parts.append(svg.text(LEFT - 8, y + 4, name, anchor="end"))
    most_s = max(row["n_tasks"] * row["measured_s"] for row in rows)
    for row in sorted(rows, key=lambda row: -row["n_tasks"] * row["measured_s"]):
        x = LEFT + (math.log10(row["predicted_s"]) - low) * x_scale
        y = bottom - (math.log10(row["measured_s"]) - low) * y_scale
        radius = 3.0 + 9.0 * math.sqrt(row["n_tasks"] * row["measured_s"] / most_s)
        place = f'{svg.where(cx=x, cy=y, r=radius)} class="disc {colour_of(row["nbody"])}"'
        parts.append(f"<circle {place}><title>{escape(_class_title(row))}</title></circle>")
    parts.append(svg.text((LEFT + right) / 2, bottom + 40, "predicted for one task"))
    parts.append(svg.text(16, (top + bottom) / 2, "measured", "turned"))
    return svg.drawing(bottom + 46, "Measured over predicted time of a task", parts)


def colour_of(nbody: int | str) -> str:
    """Return the class of the page's style that colours an n-body level."""
    return f"n{min(nbody, 5) if isinstance(nbody, int) else 5}"


def _class_title(row: Mapping[str, Any]) -> str:
    predicted, measured = (format_duration(row[name]) for name in ("predicted_s", "measured_s"))
    what = f"{row['model_chemistry']}, {level_name(row['nbody'])} in the basis of {row['n_basis']}"
    return f"{what}: {row['n_tasks']} tasks, {predicted} predicted, {measured} measured"


def convergence_svg(series: Mapping[str, Sequence[tuple[int, float]]], unit: str) -> str:
    """Draw how a value converges with the n-body order.

    Parameters
    ----------
    series : mapping of name to sequence of (order, value)
        One line each, at most six.
    unit : str

    Returns
    -------
    str
        Empty unless some line has two points.
    """
    if not any(len(points) > 1 for points in series.values()):
        return ""
    orders = sorted({order for points in series.values() for order, _ in points})
    values = [value for points in series.values() for _, value in points]
    low, high = min([*values, 0.0]), max([*values, 0.0])
    margin = 0.08 * (high - low) or 1.0
    low, high = low - margin, high + margin
    top, bottom, right = 12.0, 260.0, 110
    step = (WIDTH - LEFT - right - 60) / max(len(orders) - 1, 1)
    at = {order: LEFT + 30 + place * step for place, order in enumerate(orders)}
    parts = []
    for value in svg.ticks(low, high):
        y = bottom - (value - low) / (high - low) * (bottom - top)
        parts.append(svg.line(LEFT, y, WIDTH - right, y, "axis" if abs(value) < 1e-12 else "grid"))
        parts.append(svg.text(LEFT - 8, y + 4, f"{value:.6g}", anchor="end"))
    parts += [svg.text(x, bottom + 18, level_name(order)) for order, x in at.items()]
    parts.append(svg.text(14, (top + bottom) / 2, unit, "turned"))
    ends: list[tuple[float, float, int, str]] = []
    for number, (name, points) in enumerate(series.items(), 1):
        spots = [(at[n], bottom - (v - low) / (high - low) * (bottom - top)) for n, v in points]
        parts += _curve(number, name, points, spots)
        ends.append((spots[-1][1], spots[-1][0], number, name))
    free = -math.inf
    for y, x, number, name in sorted(ends):
        free = max(y, free + 15.0)  # names one above the other where lines end together
        parts.append(svg.text(x + 12, free + 4, name, f"t{number}", anchor="start"))
    return svg.drawing(bottom + 30, "Convergence with the n-body order", parts)


def _curve(
    number: int,
    name: str,
    points: Sequence[tuple[int, float]],
    spots: Sequence[tuple[float, float]],
) -> list[str]:
    path = "L".join(f"{svg.number(x)} {svg.number(y)}" for x, y in spots)
    parts = [f'<path class="s{number}" d="M{path}"/>']
    for (order, value), (x, y) in zip(points, spots, strict=True):
        title = escape(f"{name}, {level_name(order)}: {value:.6f}")
        place = f'cx="{svg.number(x)}" cy="{svg.number(y)}" r="4"'
        parts.append(f'<circle {place} class="p{number}"><title>{title}</title></circle>')
    return parts

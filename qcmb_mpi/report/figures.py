"""The report's pictures, as SVG text.

Rules of this file
------------------
1. Colours and fonts are the page's classes, so that dark and light come from one place.
2. Every text is escaped here: what these functions return is safe to put in a page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from qcmb_mpi.report import svg
from qcmb_mpi.report.snapshot import format_duration, level_name, share
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


def utilisation_svg(shares: Floats, span_s: float) -> str:
    """Draw the share of slots at work over time.

    Parameters
    ----------
    shares : float64[n_bins]
        0 to 1, in equal parts of the time.
    span_s : float

    Returns
    -------
    str
        Empty without data.
    """
    if len(shares) == 0 or span_s <= 0:
        return ""
    top, bottom = 10.0, 90.0
    step = (WIDTH - LEFT - RIGHT) / len(shares)
    corners = [f"M{LEFT} {svg.number(bottom)}"]
    for place, value in enumerate(shares.tolist()):
        y = svg.number(bottom - value * (bottom - top))
        corners.append(
            f"L{svg.number(LEFT + place * step)} {y}H{svg.number(LEFT + (place + 1) * step)}"
        )
    parts = svg.time_axis(span_s, top, bottom)
    for level in (0.0, 0.5, 1.0):
        height = bottom - level * (bottom - top)
        parts.append(svg.line(LEFT, height, WIDTH - RIGHT, height, "grid"))
        parts.append(svg.text(LEFT - 8, height + 4, share(level), anchor="end"))
    parts.append(f'<path class="area" d="{"".join(corners)}V{svg.number(bottom)}Z"/>')
    return svg.drawing(bottom + 22, "Share of slots at work over time", parts)


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

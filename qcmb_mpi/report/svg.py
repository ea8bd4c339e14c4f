"""What pictures are made of: numbers, texts, lines and axes as SVG.

Rules of this file
------------------
1. Colours and fonts are the page's classes, so that dark and light come from one place.
2. Every text is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape

from qcmb_mpi.report.snapshot import format_duration

WIDTH = 960
LEFT, RIGHT = 96, 16


def ticks(low: float, high: float, n_wanted: int = 6) -> list[float]:
    """Choose round numbers between two limits, about `n_wanted` of them.

    Parameters
    ----------
    low, high : float
        With ``low < high``.
    n_wanted : int, optional

    Returns
    -------
    list of float
        Multiples of 1, 2 or 5 times a power of ten.
    """
    rough = (high - low) / max(n_wanted, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def time_ticks(span_s: float, n_wanted: int = 8) -> list[float]:
    """Choose round moments from 0 to `span_s`, minutes and hours as people count them."""
    if span_s <= 60:
        return ticks(0.0, span_s, n_wanted)
    steps = (10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200)
    step = next((s for s in steps if span_s / s <= n_wanted), 0) or ticks(0.0, span_s)[1]
    return [step * index for index in range(int(span_s / step + 1e-9) + 1)]


def number(value: float) -> str:
    """Write a coordinate in as few characters as it needs."""
    return f"{value:.1f}".removesuffix(".0")


def where(**coordinates: float) -> str:
    """Write coordinates as attributes."""
    return " ".join(f'{name}="{number(value)}"' for name, value in coordinates.items())


def text(x: float, y: float, words: str, css: str = "", *, anchor: str = "middle") -> str:
    """Write words at a place."""
    style = f' class="{css}"' if css else ""
    return f'<text {where(x=x, y=y)} text-anchor="{anchor}"{style}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    """Draw a straight line."""
    return f'<line {where(x1=x1, y1=y1, x2=x2, y2=y2)} class="{css}"/>'


def drawing(height: float, label: str, parts: Iterable[str]) -> str:
    """Put parts together to a picture as wide as the page."""
    head = f'<svg viewBox="0 0 {WIDTH} {number(height)}" role="img" aria-label="{escape(label)}">'
    return head + "".join(parts) + "</svg>"


def time_axis(span_s: float, top: float, bottom: float) -> list[str]:
    """Draw lines at round moments, and name them below."""
    scale = (WIDTH - LEFT - RIGHT) / span_s
    parts = []
    for moment_s in time_ticks(span_s):
        x = LEFT + moment_s * scale
        parts += [line(x, top, x, bottom, "grid"), text(x, bottom + 14, moment(moment_s))]
    return parts


def moment(seconds: float) -> str:
    """Write a round moment."""
    if seconds == 0:
        return "0"
    if seconds < 60:
        return f"{seconds:g} s"
    return format_duration(seconds).removesuffix(" 00 s").removesuffix(" 00 min")

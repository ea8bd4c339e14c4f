"""The cluster as a picture in space, and contributions over distance, as SVG text.

Rules of this file
------------------
1. Without a script the picture is still; ``scene.js`` beside this file turns it, by the positions
   that every element carries.
2. Every text is escaped here: what these functions return is safe to put in a page.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from qcmb_mpi.inputs.fragments import BOND_FACTOR
from qcmb_mpi.report import svg
from qcmb_mpi.report.parts import NOISE_KCAL, Order, Parts
from qcmb_mpi.report.svg import LEFT, RIGHT, WIDTH

Floats = NDArray[np.float64]

HALF = 100.0  # the picture reaches from -HALF to HALF
MAX_ATOMS = 3000
MAX_NUMBERS = 40
MAX_LINES = 60
_LINE_SHARE = 0.2  # of the largest: weaker pairs have no line
_GREY, _BLUE, _RED = (199, 205, 211), (31, 95, 176), (198, 48, 58)
_DECADES = 7
_FEW_DOTS = 300


@dataclass(frozen=True, slots=True)
class Scale:
    """From contributions to colours: blue attracts, red repels, grey is nothing.

    Parameters
    ----------
    low, high : float
        Ends of the scale, kcal/mol.
    """

    low: float
    high: float

    @classmethod
    def of(cls, values: Floats) -> Scale:
        """Choose the ends: zero and the farthest value, on both sides if there are values there."""
        low, high = float(values.min()), float(values.max())
        if low < 0 < high:
            return cls(-max(-low, high), max(-low, high))
        return cls(min(low, 0.0), max(high, 0.0))

    def colour(self, value: float) -> str:
        """Return the colour of a value."""
        farthest = max(-self.low, self.high) or 1.0
        return _mixed(_BLUE if value < 0 else _RED, abs(value) / farthest)

    @property
    def gradient(self) -> str:
        """The colours from low to high, as CSS."""
        stops = np.linspace(self.low, self.high, 5).tolist()
        return f"linear-gradient(to right,{','.join(map(self.colour, stops))})"


def _mixed(colour: tuple[int, int, int], share: float) -> str:
    mixed = [round(g + share * (c - g)) for g, c in zip(_GREY, colour, strict=True)]
    return "#" + "".join(f"{each:02x}" for each in mixed)


@cache
def script() -> str:
    """Return what turns pictures; it asks nothing of the network."""
    text = resources.files(__package__).joinpath("scene.js").read_text(encoding="utf-8")
    return f"\n{text.strip()}\n"


@cache
def policy() -> str:
    """Return what a browser is told to allow the page: its styles and this script, nothing else."""
    digest = base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def scene_svg(parts: Parts, scale: Scale, radius_angstrom: Callable[[str], float]) -> str:
    """Draw the cluster, fragments coloured by their share of the interaction.

    Parameters
    ----------
    parts : Parts
    scale : Scale
    radius_angstrom : callable
        Covalent radius by element symbol.

    Returns
    -------
    str
        SVG; the strongest pairs are joined by lines.
    """
    middle = parts.positions_angstrom.mean(axis=0)
    axes = _axes(parts.positions_angstrom - middle)
    atoms = (parts.positions_angstrom - middle) @ axes.T
    centres = (parts.centres_angstrom - middle) @ axes.T
    reach = float(np.linalg.norm(atoms, axis=1).max()) + 0.9
    zoom = HALF / reach
    radii = np.array([radius_angstrom(symbol) for symbol in parts.symbols])
    is_large = len(atoms) > MAX_ATOMS
    shapes = list(_pair_lines(parts, zoom * centres))
    if is_large:
        shapes += _balls(parts, scale, zoom * centres, np.full(len(centres), 1.2 * zoom), None)
    else:
        shapes += _bonds(parts, scale, atoms, radii, zoom)
        shapes += _balls(
            parts, scale, zoom * atoms, zoom * (0.15 + 0.45 * radii), parts.fragment_of
        )
    shapes.sort(key=lambda shape: shape[0])
    numbers = _numbers(zoom * centres) if len(centres) <= MAX_NUMBERS else []
    box = f"{-HALF:g} {-HALF:g} {2 * HALF:g} {2 * HALF:g}"
    head = f'<svg class="scene" viewBox="{box}" role="img" tabindex="0" aria-label="The cluster">'
    return "".join([head, "<g>", *(text for _, text in shapes), "</g>", *numbers, "</svg>"])


def _axes(positions: Floats) -> Floats:
    """Look along the shortest axis of the cluster, a little from above."""
    _, vectors = np.linalg.eigh(positions.T @ positions)
    axes = vectors.T[::-1]
    axes[2] *= np.sign(np.linalg.det(axes)) or 1.0
    cosine, sine = math.cos(0.35), math.sin(0.35)
    return np.asarray(np.array([[1, 0, 0], [0, cosine, sine], [0, -sine, cosine]]) @ axes)


def _point(*positions: Floats) -> str:
    numbers = " ".join(svg.number(x) for position in positions for x in position.tolist())
    return f'data-p="{numbers}"'


def _balls(
    parts: Parts, scale: Scale, places: Floats, radii: Floats, fragment_of: NDArray[np.int64] | None
) -> Iterator[tuple[float, str]]:
    titles = [
        escape(f"{number} {name}: {share:.2f} kcal/mol")
        for number, (name, share) in enumerate(
            zip(parts.names, parts.shares_kcal.tolist(), strict=True), 1
        )
    ]
    colours = [scale.colour(share) for share in parts.shares_kcal.tolist()]
    owners = range(len(places)) if fragment_of is None else fragment_of.tolist()
    for place, radius, owner in zip(places, radii.tolist(), owners, strict=True):
        x, y, z = place.tolist()
        where = (
            f'cx="{svg.number(x)}" cy="{svg.number(-y)}" r="{svg.number(radius)}" {_point(place)}'
        )
        yield z, f'<circle {where} fill="{colours[owner]}"><title>{titles[owner]}</title></circle>'


def _bonds(
    parts: Parts, scale: Scale, atoms: Floats, radii: Floats, zoom: float
) -> Iterator[tuple[float, str]]:
    """Join atoms of a fragment that are as near as bonded ones."""
    ends = np.flatnonzero(np.diff(parts.fragment_of)) + 1
    for members in np.split(np.arange(len(atoms)), ends):
        colour = scale.colour(float(parts.shares_kcal[parts.fragment_of[members[0]]]))
        gaps = np.linalg.norm(atoms[members][:, None] - atoms[members][None], axis=2)
        near = gaps < BOND_FACTOR * (radii[members][:, None] + radii[members][None])
        for i, j in np.argwhere(np.triu(near, 1)).tolist():
            a, b = zoom * atoms[members[i]], zoom * atoms[members[j]]
            style = f'class="bond" stroke="{colour}" stroke-width="{svg.number(0.28 * zoom)}"'
            yield float(a[2] + b[2]) / 2, _segment(a, b, style, "")


def _pair_lines(parts: Parts, centres: Floats) -> Iterator[tuple[float, str]]:
    """Join the centres of the pairs that contribute most."""
    order = parts.orders[0]
    if order.nbody != 2:
        return
    ranks = order.largest(MAX_LINES)
    values = order.main[ranks]
    for (i, j), value in zip(order.members(ranks).tolist(), values.tolist(), strict=True):
        strength = abs(value) / abs(float(values[0]))
        if strength < _LINE_SHARE:
            return
        css = "pulls" if value < 0 else "pushes"
        title = f"<title>{i + 1} and {j + 1}: {value:.2f} kcal/mol</title>"
        style = f'class="{css}" stroke-width="{svg.number(2.4 * strength)}"'
        a, b = centres[i], centres[j]
        yield float(a[2] + b[2]) / 2, _segment(a, b, style, title)


def _segment(a: Floats, b: Floats, style: str, title: str) -> str:
    where = svg.where(x1=a[0], y1=-a[1], x2=b[0], y2=-b[1])
    return f"<line {where} {_point(a, b)} {style}>{title}</line>"


def _numbers(centres: Floats) -> list[str]:
    return [
        f'<text {svg.where(x=x, y=-y)} dy=".35em" {_point(np.array([x, y, z]))}>{number}</text>'
        for number, (x, y, z) in enumerate(centres.tolist(), 1)
    ]


def distance_svg(orders: tuple[Order, ...]) -> str:
    """Draw how contributions fall off with distance.

    Parameters
    ----------
    orders : tuple of Order

    Returns
    -------
    str
        Empty without two clusters to compare. Each dot is one cluster, or several at one place.
    """
    sizes = [np.abs(order.main) for order in orders]
    largest = max(float(np.nanmax(each)) for each in sizes)
    if largest <= NOISE_KCAL or sum(order.n_known for order in orders) < 2:
        return ""
    smallest = min(float(each[each > NOISE_KCAL].min(initial=largest)) for each in sizes)
    high = math.ceil(math.log10(largest) + 0.02)
    low = max(math.floor(math.log10(smallest)), high - _DECADES)
    near = min(float(order.distances_angstrom.min()) for order in orders) * 0.95
    far = max(float(order.distances_angstrom.max()) for order in orders) * 1.02
    top, bottom = 10.0, 270.0
    x_scale, y_scale = (WIDTH - LEFT - RIGHT) / (far - near), (bottom - top) / (high - low)
    parts = []
    for moment in svg.ticks(near, far, 10):
        x = LEFT + (moment - near) * x_scale
        parts += [svg.line(x, top, x, bottom, "grid"), svg.text(x, bottom + 18, f"{moment:g}")]
    for power in range(low, high + 1):
        y = bottom - (power - low) * y_scale
        parts.append(svg.line(LEFT, y, WIDTH - RIGHT, y, "grid"))
        parts.append(svg.text(LEFT - 8, y + 4, _power(power), anchor="end"))
    for order, size in zip(reversed(orders), reversed(sizes), strict=True):
        is_drawn = np.isfinite(size) & (size > NOISE_KCAL)
        exponents = np.maximum(np.log10(size[is_drawn]), low)
        across = LEFT + (order.distances_angstrom[is_drawn] - near) * x_scale
        parts.append(_dots(across, bottom - (exponents - low) * y_scale, f"d{min(order.nbody, 5)}"))
    parts.append(svg.text((LEFT + WIDTH - RIGHT) / 2, bottom + 36, "distance in Å"))
    parts.append(svg.text(16, (top + bottom) / 2, "kcal/mol, either sign", "turned"))
    return svg.drawing(bottom + 42, "Contributions over distance", parts)


def _power(power: int) -> str:
    return f"{10.0**power:g}" if -4 <= power <= 3 else f"1e{power}"


def _dots(x: Floats, y: Floats, css: str) -> str:
    """Draw dots as one path; those that would hide each other are one."""
    spots = np.unique(np.rint(np.stack([x, y], axis=1)).astype(np.int64), axis=0)
    path = "".join(f"M{column} {row}h0" for column, row in spots.tolist())
    size = " few" if len(spots) < _FEW_DOTS else ""
    return f'<path class="dots {css}{size}" d="{path}"/>'

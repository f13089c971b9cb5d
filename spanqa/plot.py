"""Lines over a common axis as one SVG picture, without a plotting library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 420, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 40, 45
_COLOURS = ("#1b6ca8", "#d1495b", "#6a994e")
_MOST_DOTS = 16
_MOST_LABELS = 9
_LABEL_WIDTH = 28


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a panel: its name and its values, one for each place on the horizontal axis."""

    name: str
    values: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Lines over one axis.

    Args:
        axis: What the horizontal axis counts.
        labels: What stands at its places; at least one.
        lines: One to three, each with as many values as there are labels, none below 0.
        places: Where the labels stand on an axis of numbers that begins at 0, none below 0; by default they are equally
            far apart.
        marked: The number of a label that is marked by an upright line.
    """

    axis: str
    labels: Sequence[str]
    lines: Sequence[Line]
    places: Sequence[float] | None = None
    marked: int | None = None


def svg_from_panels(panels: Sequence[Panel], *, title: str, n_columns: int | None = None) -> str:
    """Draw panels side by side.

    Args:
        panels: At least one.
        title: What they show.
        n_columns: Panels in a row; by default all.
    """
    n_columns = min(n_columns or len(panels), len(panels))
    n_rows = -(-len(panels) // n_columns)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{n_columns * _WIDTH}" height="{n_rows * _HEIGHT + 24}" '
            'font-family="sans-serif" font-size="12">',
            '<rect width="100%" height="100%" fill="white"/>',
            f'<text x="12" y="20" font-size="14">{escape(title)}</text>',
            *(
                part
                for number, panel in enumerate(panels)
                for part in _drawn(panel, x=number % n_columns * _WIDTH, y=number // n_columns * _HEIGHT + 20)
            ),
            "</svg>\n",
        ]
    )


def _drawn(panel: Panel, *, x: int, y: int) -> list[str]:
    n_places = len(panel.labels)
    top = _round_up(max(max(line.values) for line in panel.lines))
    across = _across(panel)
    bottom_y = _HEIGHT - _BOTTOM

    def at(place: int, value: float) -> tuple[float, float]:
        return across[place], bottom_y - value / top * (bottom_y - _TOP)

    parts = [f'<g transform="translate({x} {y})">']
    for step in range(5):
        value = top * step / 4
        line_y = at(0, value)[1]
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{line_y:.1f}" y2="{line_y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{line_y + 4:.1f}" text-anchor="end">{value:g}</text>')
    if panel.marked is not None:
        mark_x = f"{across[panel.marked]:.1f}"
        parts.append(
            f'<line x1="{mark_x}" x2="{mark_x}" y1="{_TOP}" y2="{bottom_y}" stroke="#888" stroke-dasharray="4 4"/>'
        )
    for place in _labelled(across):
        label = escape(panel.labels[place])
        parts.append(f'<text x="{across[place]:.1f}" y="{bottom_y + 18}" text-anchor="middle">{label}</text>')
    parts.append(f'<text x="{_WIDTH / 2}" y="{bottom_y + 38}" text-anchor="middle">{escape(panel.axis)}</text>')
    for number, line in enumerate(panel.lines):
        colour = _COLOURS[number % len(_COLOURS)]
        points = [at(place, value) for place, value in enumerate(line.values)]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if n_places <= _MOST_DOTS:
            parts += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in points]
        parts.append(f'<text x="{_LEFT + 110 * number}" y="{_TOP - 12}" fill="{colour}">{escape(line.name)}</text>')
    return [*parts, "</g>"]


def _across(panel: Panel) -> list[float]:
    """How far to the right each label stands."""
    n_places, width = len(panel.labels), _WIDTH - _LEFT - _RIGHT
    if panel.places is not None:
        most = _round_up(max(panel.places))
        return [_LEFT + place / most * width for place in panel.places]
    return [_LEFT + (place / (n_places - 1) if n_places > 1 else 0.5) * width for place in range(n_places)]


def _labelled(across: Sequence[float]) -> list[int]:
    """The places whose labels are written, so that none stands on another."""
    every = -(-len(across) // _MOST_LABELS)
    chosen: list[int] = []
    for place in range(0, len(across), every):
        if all(abs(across[place] - across[other]) >= _LABEL_WIDTH for other in chosen):
            chosen.append(place)
    return chosen


def _round_up(value: float) -> float:
    """The next number of the form 1, 2, 4 or 8 times a power of ten: an axis that divides by four."""
    if value <= 0:
        return 1.0
    power = 10.0 ** (len(f"{int(value)}") - 1) if value >= 1 else 0.1
    return next(step * power for step in (1, 2, 4, 8, 10, 20) if step * power >= value)

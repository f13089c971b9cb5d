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
        labels: What stands at its places, which are equally far apart; at least one.
        lines: One to three, each with as many values as there are labels, none below 0.
    """

    axis: str
    labels: Sequence[str]
    lines: Sequence[Line]


def svg_from_panels(panels: Sequence[Panel], *, title: str) -> str:
    """Draw panels side by side.

    Args:
        panels: At least one.
        title: What they show.
    """
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{len(panels) * _WIDTH}" height="{_HEIGHT + 24}" '
            'font-family="sans-serif" font-size="12">',
            '<rect width="100%" height="100%" fill="white"/>',
            f'<text x="12" y="20" font-size="14">{escape(title)}</text>',
            *(part for number, panel in enumerate(panels) for part in _drawn(panel, x=number * _WIDTH)),
            "</svg>\n",
        ]
    )


def _drawn(panel: Panel, *, x: int) -> list[str]:
    n_places = len(panel.labels)
    top = _round_up(max(max(line.values) for line in panel.lines))
    bottom_y = _HEIGHT - _BOTTOM

    def at(place: int, value: float) -> tuple[float, float]:
        across = place / (n_places - 1) if n_places > 1 else 0.5
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), bottom_y - value / top * (bottom_y - _TOP)

    parts = [f'<g transform="translate({x} 20)">']
    for step in range(5):
        value = top * step / 4
        y = at(0, value)[1]
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    every = -(-n_places // _MOST_LABELS)
    for place in range(0, n_places, every):
        label = escape(panel.labels[place])
        parts.append(f'<text x="{at(place, 0)[0]:.1f}" y="{bottom_y + 18}" text-anchor="middle">{label}</text>')
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


def _round_up(value: float) -> float:
    """The next number of the form 1, 2, 4 or 8 times a power of ten: an axis that divides by four."""
    if value <= 0:
        return 1.0
    power = 10.0 ** (len(f"{int(value)}") - 1) if value >= 1 else 0.1
    return next(step * power for step in (1, 2, 4, 8, 10, 20) if step * power >= value)

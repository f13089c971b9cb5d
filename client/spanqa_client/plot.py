"""Throughput and latency over concurrency as one SVG picture, without a plotting library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from spanqa_client.perf_analyzer import Measurement

_WIDTH, _HEIGHT = 420, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 40, 45
_COLOURS = ("#1b6ca8", "#d1495b", "#6a994e")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a panel: its name and its values, one for each place on the horizontal axis."""

    name: str
    values: Sequence[float]


def svg_from_measurements(measurements: Sequence[Measurement], *, title: str) -> str:
    """Draw questions/s and latency percentiles, side by side.

    Args:
        measurements: One for each concurrency, ascending; at least one.
        title: What was measured.
    """
    labels = [str(m.concurrency) for m in measurements]
    throughput = [Line(name="questions/s", values=[m.questions_per_s for m in measurements])]
    latency = [
        Line(name="p50 ms", values=[m.p50_ms for m in measurements]),
        Line(name="p95 ms", values=[m.p95_ms for m in measurements]),
        Line(name="p99 ms", values=[m.p99_ms for m in measurements]),
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * _WIDTH}" height="{_HEIGHT + 24}" '
            'font-family="sans-serif" font-size="12">',
            '<rect width="100%" height="100%" fill="white"/>',
            f'<text x="12" y="20" font-size="14">{escape(title)}</text>',
            *_panel(labels, throughput, x=0),
            *_panel(labels, latency, x=_WIDTH),
            "</svg>\n",
        ]
    )


def _panel(labels: Sequence[str], lines: Sequence[Line], *, x: int) -> list[str]:
    top = _round_up(max(max(line.values) for line in lines))
    bottom_y = _HEIGHT - _BOTTOM

    def at(place: int, value: float) -> tuple[float, float]:
        across = place / (len(labels) - 1) if len(labels) > 1 else 0.5
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), bottom_y - value / top * (bottom_y - _TOP)

    parts = [f'<g transform="translate({x} 20)">']
    for step in range(5):
        value = top * step / 4
        y = at(0, value)[1]
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for place, label in enumerate(labels):
        parts.append(f'<text x="{at(place, 0)[0]:.1f}" y="{bottom_y + 18}" text-anchor="middle">{label}</text>')
    parts.append(f'<text x="{_WIDTH / 2}" y="{bottom_y + 38}" text-anchor="middle">requests in flight</text>')
    for number, line in enumerate(lines):
        colour = _COLOURS[number % len(_COLOURS)]
        points = [at(place, value) for place, value in enumerate(line.values)]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in points]
        parts.append(f'<text x="{_LEFT + 90 * number}" y="{_TOP - 12}" fill="{colour}">{escape(line.name)}</text>')
    return [*parts, "</g>"]


def _round_up(value: float) -> float:
    """The next number of the form 1, 2, 4 or 8 times a power of ten: an axis that divides by four."""
    if value <= 0:
        return 1.0
    power = 10.0 ** (len(f"{int(value)}") - 1) if value >= 1 else 0.1
    return next(step * power for step in (1, 2, 4, 8, 10, 20) if step * power >= value)

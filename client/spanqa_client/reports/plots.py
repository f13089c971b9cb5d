"""Charts as inline SVG: lines, points with intervals and marks, labelled where they stand, coloured by the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import isnan

WIDTH, HEIGHT = 460, 290
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 18, 26, 42
_CHAR_WIDTH = 6.4

Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis.

    Args:
        low: Its first value.
        high: Its last value, above the first.
        ticks: Where it is labelled.
        name: What it counts.
    """

    low: float
    high: float
    ticks: Sequence[float]
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line or row of points.

    Args:
        points: By ascending x.
        tone: A class of the page's style: first, second or quiet.
        label: Its name.
        label_at: Where the label stands.
        anchor: How it stands there: start, middle or end.
        has_line: Whether points are joined.
        has_dots: Whether points are drawn.
        whiskers: (low, high) of each point.
        dot_labels: A text beside each point.
    """

    points: Sequence[Point]
    tone: str = "first"
    label: str = ""
    label_at: Point = (0.0, 0.0)
    anchor: str = "start"
    has_line: bool = True
    has_dots: bool = False
    whiskers: Sequence[tuple[float, float]] = ()
    dot_labels: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart.

    Args:
        title: What it shows, for those who do not see it.
        x: The horizontal axis.
        y: The vertical axis.
        series: What is drawn, the first at the bottom.
        marks: (x, name) of upright lines.
        has_diagonal: Whether x = y is drawn.
    """

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    marks: Sequence[tuple[float, str]] = ()
    has_diagonal: bool = False


class _Frame:
    """Where values stand in the picture."""

    def __init__(self, chart: Chart) -> None:
        self._x, self._y = chart.x, chart.y

    def at(self, point: Point) -> Point:
        return self.x(point[0]), self.y(point[1])

    def x(self, value: float) -> float:
        share = (min(max(value, self._x.low), self._x.high) - self._x.low) / (self._x.high - self._x.low)
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (min(max(value, self._y.low), self._y.high) - self._y.low) / (self._y.high - self._y.low)
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)


def svg_from_chart(chart: Chart) -> str:
    """Draw a chart; its colours and typeface are the page's."""
    frame = _Frame(chart)
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.title)}">']
    parts += _axes(chart, frame)
    if chart.has_diagonal:
        low, high = max(chart.x.low, chart.y.low), min(chart.x.high, chart.y.high)
        parts.append(_line(frame.at((low, low)), frame.at((high, high)), "diagonal"))
    parts += _marks(chart, frame)
    for series in chart.series:
        parts += _series(series, frame)
    return "".join([*parts, "</svg>"])


def strip(value: float, interval: Sequence[float], reference: float, scale: Point) -> str:
    """A point with its interval, for a table's cell.

    Args:
        value: In percent.
        interval: In percent.
        reference: What it is to be seen against, in percent.
        scale: First and last value of the scale, in percent.
    """
    first, last = scale
    ends = (value, value) if isnan(interval[0]) else interval
    low, high, at, middle = (
        round(2 + 96 * min(max((x - first) / (last - first), 0.0), 1.0), 1) for x in (*ends, value, reference)
    )
    return (
        '<svg class="strip" viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true">'
        f'<line class="grid" x1="{middle}" x2="{middle}" y1="0" y2="12"/>'
        f'<line class="whisker" x1="{low}" x2="{high}" y1="6" y2="6"/>'
        f'<rect class="dot" x="{at - 1:.1f}" y="2" width="2" height="8"/></svg>'
    )


def round_ticks(low: float, high: float, *, most: int = 7) -> list[float]:
    """Round numbers between two values, at most some of them."""
    span = high - low
    step = next(
        step * 10.0**power for power in range(-6, 309) for step in (1, 2, 5) if span / most <= step * 10.0**power
    )
    first = -(-low // step)
    return [round(step * number, 9) for number in range(int(first), int(high // step) + 1)]


def _axes(chart: Chart, frame: _Frame) -> list[str]:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = []
    for tick in chart.y.ticks:
        y = frame.y(tick)
        parts.append(_line((_LEFT, y), (right, y), "grid"))
        parts.append(_text((_LEFT - 7, y + 4), _tick(tick), "tick", "end"))
    parts.append(_line((_LEFT, bottom), (right, bottom), "axis"))
    for tick in chart.x.ticks:
        x = frame.x(tick)
        parts.append(_line((x, bottom), (x, bottom + 4), "axis"))
        parts.append(_text((x, bottom + 17), _tick(tick), "tick", "middle"))
    parts.append(_text((right, HEIGHT - 6), chart.x.name, "name", "end"))
    parts.append(_text((2, 12), chart.y.name, "name", "start"))
    return parts


def _marks(chart: Chart, frame: _Frame) -> list[str]:
    """Upright lines, each label on the first level where it does not touch another."""
    parts = []
    ends = [float("-inf")] * 3
    for value, name in sorted(chart.marks):
        x, half = frame.x(value), len(name) * _CHAR_WIDTH / 2 + 3
        level = next((number for number, end in enumerate(ends) if x - half > end), len(ends) - 1)
        ends[level] = x + half
        y = _TOP + 10 + 14 * level
        parts.append(_line((x, y + 4), (x, HEIGHT - _BOTTOM), "mark"))
        parts.append(_text((x, y), name, "mark-name", "middle"))
    return parts


def _series(series: Series, frame: _Frame) -> list[str]:
    points = [frame.at(point) for point in series.points]
    parts = [f'<g class="{series.tone}">']
    if series.has_line:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="line" points="{path}"/>')
    for (x, _), (low, high) in zip(points, series.whiskers, strict=False):
        parts.append(_line((x, frame.y(low)), (x, frame.y(high)), "whisker"))
    if series.has_dots:
        parts += [f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in points]
    for (x, y), label in zip(points, series.dot_labels, strict=False):
        parts.append(_text((x + 7, y + 13 if y + 16 < HEIGHT - _BOTTOM else y - 5), label, "label", "start"))
    if series.label:
        parts.append(_text(frame.at(series.label_at), series.label, "label", series.anchor))
    return [*parts, "</g>"]


def _line(start: Point, end: Point, tone: str) -> str:
    (x1, y1), (x2, y2) = start, end
    return f'<line class="{tone}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(at: Point, text: str, tone: str, anchor: str) -> str:
    return f'<text class="{tone}" x="{at[0]:.1f}" y="{at[1]:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _tick(value: float) -> str:
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")

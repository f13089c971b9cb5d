"""A run as one SVG picture: throughput over load, and latency over throughput."""

from __future__ import annotations

from collections.abc import Sequence

from spanqa.plot import Line, Panel, svg_from_panels
from spanqa_client.bench.knee import knee
from spanqa_client.bench.measurement import Measurement

_N_COLUMNS = 2


def svg_from_measurements(measurements: Sequence[Measurement], *, title: str) -> str:
    """Draw two panels for the closed loops and two for the open ones, those that there are; the knee is marked.

    Args:
        measurements: At least one, ascending by load.
        title: What was measured.
    """
    closed = [one for one in measurements if one.concurrency is not None]
    opened = [one for one in measurements if one.concurrency is None]
    panels = [
        *(_panels(closed, "requests in flight", [str(one.concurrency) for one in closed]) if closed else []),
        *(_panels(opened, "requests sent a second", [f"{one.rate:g}" for one in opened]) if opened else []),
    ]
    return svg_from_panels(panels, title=title, n_columns=_N_COLUMNS)


def _panels(measurements: Sequence[Measurement], load: str, labels: Sequence[str]) -> list[Panel]:
    marked = knee(measurements)
    place = None if marked is None else measurements.index(marked)
    throughput = [one.questions_per_s for one in measurements]
    latency = [
        Line(name="p50 ms", values=[one.p50_ms for one in measurements]),
        Line(name="p95 ms", values=[one.p95_ms for one in measurements]),
        Line(name="p99 ms", values=[one.p99_ms for one in measurements]),
    ]
    at_rate = [f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}" for rate in throughput]
    return [
        Panel(axis=load, labels=labels, lines=[Line(name="questions/s", values=throughput)], marked=place),
        Panel(
            axis=f"questions/s at {', '.join(labels)} {load}",
            labels=at_rate,
            lines=latency,
            places=throughput,
            marked=place,
        ),
    ]

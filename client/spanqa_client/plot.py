"""Throughput and latency over concurrency as one SVG picture."""

from __future__ import annotations

from collections.abc import Sequence

from spanqa.plot import Line, Panel, svg_from_panels
from spanqa_client.perf_analyzer import Measurement

_AXIS = "requests in flight"


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
    panels = [Panel(axis=_AXIS, labels=labels, lines=lines) for lines in (throughput, latency)]
    return svg_from_panels(panels, title=title)

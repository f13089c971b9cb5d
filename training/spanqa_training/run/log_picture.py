"""The course of a training run as one SVG picture: loss by step, and by check validation loss and what else it gave."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spanqa.plot import Line, Panel, svg_from_panels
from spanqa_training.run.log_file import LOG_FILE

_MOST_POINTS = 60


def svg_from_run(results: Path, *, title: str) -> str | None:
    """Draw a run from its log.

    Args:
        results: The folder of results.
        title: The model's name.

    Returns:
        The picture; None where nothing was logged.
    """
    lines = [json.loads(line) for line in (results / LOG_FILE).read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if "loss" in line]
    checks = [line for line in lines if "val_loss" in line and "train_loss" in line]
    panels = []
    if steps:
        panels.append(_panel(_thinned(steps), {"training loss": "loss"}))
    if checks:
        panels.append(_panel(checks, {"loss in training": "train_loss", "validation loss": "val_loss"}))
        scores = {"F1": "f1", "exact match": "exact"} if "f1" in checks[0] else {"perplexity": "perplexity"}
        panels.append(_panel(checks, scores))
    return svg_from_panels(panels, title=title) if panels else None


def _panel(entries: Sequence[dict[str, Any]], names: dict[str, str]) -> Panel:
    return Panel(
        axis="step",
        labels=[f"{entry['step']:,}" for entry in entries],
        lines=[Line(name=name, values=[entry[key] for entry in entries]) for name, key in names.items()],
    )


def _thinned(steps: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means of neighbouring steps, as many as a picture can show."""
    size = -(-len(steps) // _MOST_POINTS)
    groups = [steps[low : low + size] for low in range(0, len(steps), size)]
    return [{"step": group[-1]["step"], "loss": sum(s["loss"] for s in group) / len(group)} for group in groups]

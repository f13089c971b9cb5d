"""Early stopping: whether the validations of a run, all that it decides by, say that it gets no better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

STOPPING_METRICS = ("f1", "val_loss")
"""What can be watched: the former is better higher, the latter lower."""


def reason_to_stop(checks: Sequence[Mapping[str, Any]], *, patience: int | None, metric: str | None) -> str | None:
    """Say why a run ends after the last of its validations; None where it goes on.

    Args:
        checks: What each validation gave, in order, those before an interruption too.
        patience: Validations without a better one after which it ends; None for never.
        metric: One of STOPPING_METRICS; None for the first of them that the validations give.
    """
    if patience is None:
        return None
    name = metric or next(
        (one for one in STOPPING_METRICS if any(one in check for check in checks)), STOPPING_METRICS[0]
    )
    values = [(check[name], check["step"]) for check in checks if name in check]
    if not values:
        return None
    sign = 1 if name == "f1" else -1
    best = max(range(len(values)), key=lambda place: (sign * values[place][0], -place))
    since = len(values) - 1 - best
    if since < patience:
        return None
    value, step = values[best]
    risen = "risen above" if name == "f1" else "fallen below"
    return f"{name} has not {risen} the {value:.4g} of step {step:,} in {since} validation{'s' if since > 1 else ''}"

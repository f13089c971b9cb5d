"""Reading Triton's metrics endpoint, where ours stand too."""

from __future__ import annotations

import http.client
import urllib.request
from collections.abc import Sequence

from spanqa import contract

TIMEOUT_S = 5.0
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def metric_lines(url: str) -> list[str]:
    """Read all metrics, a line each; none where they cannot be had."""
    try:
        with _NO_PROXY.open(url, timeout=TIMEOUT_S) as response:
            return list(response.read().decode("utf-8", "replace").splitlines())
    except (OSError, http.client.HTTPException):
        return []


def metric_of(name: str, lines: Sequence[str]) -> int | None:
    """Give the sum of a metric's series of the main entry; None where there is none."""
    label = f'model="{contract.QUESTION_ANSWERING}"'
    series = [line for line in lines if line.startswith(name + "{") and label in line]
    return sum(int(float(line.rpartition(" ")[2])) for line in series) if series else None

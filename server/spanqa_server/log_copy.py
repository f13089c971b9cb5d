"""What the operator sees of Triton's log: the models' own lines, Triton's where wanted; text or JSON."""

from __future__ import annotations

import json
import re
from typing import Any

from spanqa import logs

_LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "error"}
_TRITONS_LINE = re.compile(r"(?P<level>[IWEF])\d{4} [\d:.]+ \d+ (?P<source>\S+:\d+)\] (?P<message>.*)")


def own_fields(line: str) -> dict[str, Any] | None:
    """Give the fields of a line that one of our models wrote as JSON; None for any other line."""
    try:
        fields = json.loads(line) if line.startswith("{") else None
    except ValueError:
        return None
    return fields if isinstance(fields, dict) and {"event", "level", "message"} <= fields.keys() else None


def shown(line: str, *, log_format: str, verbose: bool) -> str | None:
    """Give a line of Triton's log as it is shown.

    Args:
        line: The line, without its end.
        log_format: `text` or `json`.
        verbose: Whether Triton's own lines are shown too.

    Returns:
        The line or lines; None where it is not shown.
    """
    fields = own_fields(line)
    if fields is not None:
        if log_format == "json":
            return line
        trace = fields.get("trace")
        return f"spanqa: {fields['message']}" + (f"\n{trace}" if trace else "")
    if not verbose or (log_format == "json" and not line.strip()):
        return None
    if log_format != "json":
        return line
    match = _TRITONS_LINE.match(line)
    if match is None:
        return logs.json_line("info", "triton", message=line)
    return logs.json_line(_LEVELS[match["level"]], "triton", message=match["message"], source=match["source"])

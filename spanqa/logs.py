"""What models and the server log: one line a fact, as text or as JSON, without a word that users sent.

The server chooses by environment variables, which Triton's Python processes inherit; a plain tritonserver may be given
them too.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import traceback
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO

from spanqa.errors import InputError, SpanqaError

FORMAT_VARIABLE = "SPANQA_LOG_FORMAT"
"""`json` for one JSON object a line; anything else is text."""
TEXT_VARIABLE = "SPANQA_LOG_TEXT"
"""`1` where messages that may quote a question or a context are logged too."""
FORMATS = ("text", "json")
STUB_NAME = "triton_python_backend_stub"
_TOLD = (SpanqaError, OSError, MemoryError, ImportError)
"""Exceptions whose messages speak of files, sizes and settings. Others, such as KeyError, quote the value at hand."""


def is_json() -> bool:
    """Whether lines are JSON objects."""
    return os.environ.get(FORMAT_VARIABLE) == "json"


def has_text() -> bool:
    """Whether what users sent may be logged."""
    return os.environ.get(TEXT_VARIABLE) == "1"


def now() -> str:
    """Give the time as RFC 3339 writes it, in UTC, to the millisecond."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@functools.cache
def model_here(cmdline: Path = Path("/proc/self/cmdline")) -> dict[str, Any]:
    """Give `model` and `version` where this process is a Python process of Triton's; nothing where it is not.

    Triton names the model's file, REPOSITORY/MODEL/VERSION/model.py, as the first argument.
    """
    try:
        words = cmdline.read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return {}
    if len(words) < 2 or Path(words[0]).name != STUB_NAME:
        return {}
    folder = Path(words[1]).parent
    return {"model": folder.parent.name, "version": int(folder.name) if folder.name.isdecimal() else folder.name}


def said(error: BaseException) -> str:
    """Give an exception's type, and its message where that cannot be a user's text."""
    name = type(error).__qualname__
    may_be_told = has_text() or (isinstance(error, _TOLD) and not isinstance(error, InputError))
    if may_be_told:
        return f"{name}: {error}"
    return f"{name} (its message may quote what was sent, and is logged with --log-text)"


def trace_of(error: BaseException) -> str:
    """Give an exception's traceback, its causes first; messages as far as `said` tells them.

    Args:
        error: The exception.
    """
    chain: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in chain:
        chain.append(one)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    parts = [
        "Traceback (most recent call last):\n" + "".join(traceback.format_tb(one.__traceback__)) + said(one)
        for one in reversed(chain)
    ]
    return "\n\nand from it\n\n".join(parts)


def json_line(level: str, event: str, **fields: Any) -> str:
    """Make one line of JSON: time, level, event, the model and version of this process, and the fields that are known.

    Args:
        level: `info`, `warning` or `error`.
        event: What kind of thing happened, in a word: what one searches for.
        fields: Anything else that JSON holds; None is left out.
    """
    known = {name: value for name, value in (model_here() | fields).items() if value is not None and value != ""}
    return json.dumps({"time": now(), "level": level, "event": event} | known, ensure_ascii=False, default=str)


def write(level: str, event: str, message: str, *, stream: TextIO | None = None, **fields: Any) -> None:
    """Write one line.

    Args:
        level: `info`, `warning` or `error`.
        event: What kind of thing happened, in a word.
        message: The sentence, which holds nothing that users sent.
        stream: Where to; stderr by default.
        fields: What else is known, for JSON alone; `trace` follows the sentence in text too.
    """
    stream = stream or sys.stderr
    if is_json():
        line = json_line(level, event, message=message, **fields)
    else:
        trace = fields.get("trace")
        line = f"spanqa: {message}" + (f"\n{trace}" if trace else "")
    # One write: lines of several threads and processes must not mix.
    with contextlib.suppress(OSError, ValueError):  # a line that cannot be written must cost no request
        stream.write(line + "\n")
        stream.flush()

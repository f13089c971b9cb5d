"""Our windows and decode settings in an exported folder's config.json, to and fro."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from spanqa.tokenization import Tokenizer
from spanqa.windows import WindowSettings
from spanqa_training.checkpoints.checkpoint import Checkpoint
from spanqa_training.errors import ImportWeightsError
from spanqa_training.weights.import_types import windows_within

WRITER_KEY = "spanqa"
"""The key of an exported config.json that holds our settings, and tells our exports from other folders."""
_WINDOWS = tuple(field.name for field in fields(WindowSettings))
_KINDS: dict[str, tuple[type, ...]] = {
    "max_answer_tokens": (int,),
    "no_answer_threshold": (int, float),
    "temperature": (int, float),
    "answer_slope": (int, float, type(None)),
    "answer_offset": (int, float),
    "word_boundaries": (bool,),
}
"""Our decode settings -> what each may be."""
_NAMES: dict[tuple[type, ...], str] = {
    (int,): "a whole number",
    (int, float): "a number",
    (int, float, type(None)): "a number or null",
    (bool,): "true or false",
}


def hugging_face_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """Give a checkpoint's windows and decode settings as JSON values."""
    return asdict(checkpoint.windows) | {name: getattr(checkpoint, name) for name in _KINDS}


def settings_from_hugging_face(config: Mapping[str, Any], max_positions: int, tokenizer: Tokenizer) -> dict[str, Any]:
    """Give our settings in a config.json as fields of a checkpoint; none where others wrote it.

    Args:
        config: What it says.
        max_positions: The model's positions, which bound the windows that are not given.
        tokenizer: Its tokenizer, whose special tokens take some of them.

    Raises:
        ImportWeightsError: One of them is of another kind.
        SettingsError: The windows contradict each other.
    """
    said = config.get(WRITER_KEY, {})
    if not isinstance(said, dict):
        raise ImportWeightsError(f"{WRITER_KEY} is {said!r}: it must hold settings: export the model again")
    for name, kinds in (dict.fromkeys(_WINDOWS, (int,)) | _KINDS).items():
        if name in said and type(said[name]) not in kinds:
            raise ImportWeightsError(f"{WRITER_KEY}.{name} is {said[name]!r}: give {_NAMES[kinds]}")
    windows = {name: said[name] for name in _WINDOWS if name in said}
    settings: dict[str, Any] = {name: said[name] for name in _KINDS if name in said}
    return settings | ({"windows": replace(windows_within(max_positions, tokenizer), **windows)} if windows else {})

"""Runs: what one model says to every question of a dataset, kept as a file that later reports are held against."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from spanqa.errors import DataError, SettingsError
from spanqa.files import write_atomically
from spanqa.score_scale import ScoreScale
from spanqa.squad import read_json

FORMAT = "spanqa-run"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a run says to one question.

    Args:
        text: The best span, also where it is not the answer; empty where none is known.
        answered: Whether that span is the answer.
        char_start: Where it begins in the context, in code points; -1 where that is not known.
        char_end: Where it ends, exclusive; -1 where that is not known.
        margin: No-answer margin or probability, higher where no answer is likelier; None where it is not known.
        score: The best span's probability, 0..1; None where it is not known.
        n_windows: Windows that were read; 0 where that is not known.
    """

    text: str
    answered: bool
    char_start: int = -1
    char_end: int = -1
    margin: float | None = None
    score: float | None = None
    n_windows: int = 0

    @property
    def answer(self) -> tuple[str, int, int]:
        """The answer that is given, with its place; the same for every "no answer"."""
        return (self.text, self.char_start, self.char_end) if self.answered else ("", -1, -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one model says to a dataset.

    Args:
        name: What is evaluated, such as the checkpoint's name or the server's address.
        said: By question id; among equal margins the official sweep depends on this order.
        facts: What else is known of the run, by its name: dataset, date, version.
        threshold: There is an answer where the margin is at most this; None where only the server knows.
        scale: How scores are made of logits; None where it is not known.
        is_probability: Whether the margins are probabilities of "no answer", of which 0 is no threshold to try.
    """

    name: str
    said: Mapping[str, Said]
    facts: Mapping[str, str] = field(default_factory=dict)
    threshold: float | None = None
    scale: ScoreScale | None = None
    is_probability: bool = False

    @property
    def has_margins(self) -> bool:
        """Whether every question has a margin, so that other thresholds can be tried."""
        return bool(self.said) and all(said.margin is not None for said in self.said.values())

    @property
    def has_scores(self) -> bool:
        """Whether every question has a score, so that calibration can be looked at."""
        return bool(self.said) and all(said.score is not None for said in self.said.values())

    def predictions(self) -> dict[str, str]:
        """The answers given, empty for none, by question id."""
        return {key: said.text if said.answered else "" for key, said in self.said.items()}

    def best_texts(self) -> dict[str, str]:
        """The best span's text, whether or not it is the answer, by question id."""
        return {key: said.text for key, said in self.said.items()}

    def margins(self) -> dict[str, float]:
        """The margins that are known, by question id."""
        return {key: said.margin for key, said in self.said.items() if said.margin is not None}


def write_run(path: str | Path, run: Run) -> None:
    """Write a run as JSON.

    Raises:
        DataError: The place cannot be written to.
    """
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": run.name,
        "facts": dict(run.facts),
        "threshold": _finite(run.threshold),
        **(run.scale.as_settings() if run.scale else {"temperature": None}),
        "is_probability": run.is_probability,
        "said": {key: {**asdict(said), "margin": _finite(said.margin)} for key, said in run.said.items()},
    }
    # ASCII: a text may hold half of a surrogate pair, which UTF-8 does not.
    write_atomically(path, json.dumps(document) + "\n")


def read_run(path: str | Path) -> Run:
    """Read a run that `write_run` wrote.

    Raises:
        DataError: It is missing, damaged, or something else.
    """
    document = read_json(path)
    if not is_run(document):
        raise DataError(f"{path}: is no run: give a file that --save-run wrote")
    return run_from_document(path, document)


def is_run(document: object) -> bool:
    """Whether parsed JSON is a run, of any version."""
    return isinstance(document, dict) and document.get("format") == FORMAT


def run_from_document(path: str | Path, document: dict[str, Any]) -> Run:
    """Read a run from parsed JSON.

    Args:
        path: Its file, for errors.
        document: The JSON, of which `is_run` holds.

    Raises:
        DataError: It is damaged, or of another version.
    """
    if document.get("format_version") != FORMAT_VERSION:
        raise DataError(
            f"{path}: is a run of version {document.get('format_version')!r} and this spanqa reads {FORMAT_VERSION}: "
            "make it again with --save-run"
        )
    try:
        return Run(
            name=str(document["name"]),
            facts={str(key): str(value) for key, value in document["facts"].items()},
            threshold=_as_float(document["threshold"]),
            scale=_scale(document),
            is_probability=bool(document["is_probability"]),
            said={key: _said(value) for key, value in document["said"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, SettingsError) as error:
        raise DataError(f"{path}: is damaged ({error!r}): make it again with --save-run") from error


def _scale(document: Mapping[str, Any]) -> ScoreScale | None:
    temperature = _as_float(document["temperature"])
    if temperature is None:
        return None
    # Runs of before there was more than a temperature hold it alone.
    return ScoreScale(temperature, _as_float(document.get("answer_slope")), float(document.get("answer_offset", 0.0)))


def _said(value: Mapping[str, Any]) -> Said:
    said = Said(**{**value, "margin": _as_float(value["margin"]), "score": _as_float(value["score"])})
    if not isinstance(said.text, str) or not isinstance(said.answered, bool):
        raise TypeError(f"text {said.text!r}, answered {said.answered!r}")
    for number in (said.char_start, said.char_end, said.n_windows):
        if type(number) is not int:
            raise TypeError(f"{number!r} is no whole number")
    return said


def _finite(value: float | None) -> float | str | None:
    """JSON knows no infinity."""
    return value if value is None or math.isfinite(value) else str(value)


def _as_float(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    if math.isnan(number):
        raise ValueError("NaN is no number")
    return number

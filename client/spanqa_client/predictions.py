"""Prediction files and no-answer files: JSON objects from question ids to texts or numbers, plain or gzipped."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

from spanqa.errors import DataError
from spanqa.squad import read_json


def read_predictions(path: str | Path) -> dict[str, str]:
    """Read a prediction file in SQuAD's format: `{"id": "text"}`, the text empty for "no answer".

    Raises:
        DataError: Naming the file, the id and what is wrong.
    """
    return predictions_from_document(path, read_json(path))


def predictions_from_document(path: str | Path, document: object) -> dict[str, str]:
    """Read predictions from parsed JSON.

    Args:
        path: Its file, for errors.
        document: The JSON.

    Raises:
        DataError: As `read_predictions`.
    """
    predictions = _checked_object(path, document, '{"question id": "answer text"}')
    for key, text in predictions.items():
        if type(text) is not str:
            raise DataError(f'{path}: {key!r}: expected a text, got {text!r}: use "" for no answer')
    return predictions


def read_na_probs(path: str | Path) -> dict[str, float]:
    """Read a no-answer file: `{"id": number}`, higher where no answer is likelier; the file's order is kept.

    Raises:
        DataError: Naming the file, the id and what is wrong.
    """
    na_probs = _checked_object(path, read_json(path), '{"question id": number}')
    for key, value in na_probs.items():
        is_number = type(value) is float or (type(value) is int and abs(value) <= sys.float_info.max)
        if not is_number or math.isnan(value):
            raise DataError(f"{path}: {key!r}: expected a number, got {value!r}")
    return na_probs


def _checked_object(path: str | Path, document: object, wanted: str) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise DataError(
            f"{path}: expected one object {wanted}, got {'a list' if type(document) is list else 'a value'}"
        )
    if "data" in document and type(document["data"]) is list:
        raise DataError(f"{path}: is a dataset, expected one object {wanted}: is the order of the files right?")
    return document

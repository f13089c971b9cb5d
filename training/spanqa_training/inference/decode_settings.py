"""A model's decode settings, with what a spec says in their place."""

from __future__ import annotations

from spanqa.spans import DecodeSettings
from spanqa_training.checkpoints.checkpoint import Checkpoint
from spanqa_training.spec.schema import Spec

ALWAYS_ANSWER = 1e9
"""The threshold of a model that answers every question: finite, as every stored one, and beyond any margin."""


def decode_settings(checkpoint: Checkpoint, spec: Spec | None = None) -> DecodeSettings:
    """The longest answer, scale of the scores and word boundaries of a model, or the spec's."""
    asked = spec.model.dataset.max_answer_length if spec else None
    whole_words = spec.model.dataset.word_boundaries if spec else None
    return DecodeSettings(
        max_answer_tokens=asked or checkpoint.max_answer_tokens,
        temperature=checkpoint.temperature,
        answer_slope=checkpoint.answer_slope,
        answer_offset=checkpoint.answer_offset,
        word_boundaries=checkpoint.word_boundaries if whole_words is None else whole_words,
    )


def threshold_from_spec(spec: Spec) -> float | None:
    """The no-answer threshold that a spec asks for; None leaves it to the model or to the validation data."""
    dataset = spec.model.dataset
    return ALWAYS_ANSWER if dataset.version_2_with_negative is False else dataset.null_score_diff_threshold

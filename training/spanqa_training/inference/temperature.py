"""The temperature of a model's scores, fitted on one half of the articles and judged on the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from spanqa.spans import DecodeSettings, decode
from spanqa.squad import Example
from spanqa_client.metrics import gold_from_examples, raw_scores
from spanqa_client.reports.calibration import Tempered, fitted_temperature
from spanqa_training.inference.evaluation import Evaluation

LEAST_TO_TEMPER = 100
"""Questions: a temperature that is fitted on half of fewer says more about them than about the model."""


def tempered_from_evaluation(evaluation: Evaluation, settings: DecodeSettings) -> Tempered | None:
    """Fit T so that the best span's score says how often it is right.

    Args:
        evaluation: The answers, with the windows and logits that they come from.
        settings: How they were decoded; T in it is the one before.

    Returns:
        The temperature, with the scores of the half that it was not fitted on; None where there is but one paragraph.
    """
    examples = evaluation.examples
    halves = _halves(examples)
    if halves is None:
        return None
    fitted, held_back, kind = halves
    questions = gold_from_examples(examples)
    exact, _ = raw_scores(questions, {e.id: d.spans[0].text for e, d in zip(examples, evaluation.decoded, strict=True)})
    right = np.array([score or 0.0 for score in exact])

    def scores_at(places: Sequence[int], temperature: float) -> NDArray[np.float64]:
        return np.array([_score(evaluation, place, settings, temperature) for place in places])

    temperature = fitted_temperature(lambda value: scores_at(fitted, value), right[fitted])
    return Tempered(
        temperature=temperature,
        before=settings.temperature,
        fitted_on=f"{len(fitted):,} questions of one half of the {kind}",
        held_back=held_back,
        scores_before=scores_at(held_back, settings.temperature).tolist(),
        scores_after=scores_at(held_back, temperature).tolist(),
    )


def _score(evaluation: Evaluation, place: int, settings: DecodeSettings, temperature: float) -> float:
    windows, (start, end) = evaluation.inputs[place]
    decoded = decode(
        windows,
        evaluation.examples[place].context,
        start,
        end,
        max_answer_tokens=settings.max_answer_tokens,
        temperature=temperature,
        word_boundaries=settings.word_boundaries,
    )
    return decoded.spans[0].score


def _halves(examples: Sequence[Example]) -> tuple[list[int], list[int], str] | None:
    """Places of the questions to fit on and of those to judge on: whole articles, or paragraphs of a single one."""
    for kind, keys in (
        ("articles", [example.title for example in examples]),
        ("paragraphs", [example.paragraph for example in examples]),
    ):
        sizes: Counter[Hashable] = Counter(keys)
        if len(sizes) > 1:
            first: set[Hashable] = set()
            totals = [0, 0]
            # The largest first, each to the half that is behind.
            for key, size in sizes.most_common():
                half = int(totals[0] > totals[1])
                totals[half] += size
                if half == 0:
                    first.add(key)
            fitted = [place for place, key in enumerate(keys) if key in first]
            return fitted, [place for place, key in enumerate(keys) if key not in first], kind
    return None

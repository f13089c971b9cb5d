"""The scale of a model's scores: fitted so that a score says how often its answer is right, judged across articles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from spanqa.score_scale import ScoreScale
from spanqa.spans import DecodeSettings, decode
from spanqa.squad import Example
from spanqa_client.metrics import gold_from_examples, raw_scores
from spanqa_client.reports.calibration import FittedScale, expected_calibration_error, fitted_scale
from spanqa_training.inference.evaluation import Evaluation

LEAST_TO_FIT = 100
"""Questions: a scale that is fitted on fewer says more about them than about the model."""
_N_PARTS = 10
_CERTAIN = (0.0, 700.0)
"""Slope and offset of a scale for which there always is an answer: a score is the share among the spans."""


def scale_from_evaluation(evaluation: Evaluation, settings: DecodeSettings) -> FittedScale | None:
    """Fit a scale so that the best span's score says how often it is right.

    Args:
        evaluation: The answers, with the windows and logits that they come from.
        settings: How they were decoded; the scale in it is the one before.

    Returns:
        The scale fitted on all questions, with the scores that the same fit gives to each article without having seen
        it; None where there are too few questions, or but one paragraph.
    """
    examples = evaluation.examples
    parted = _parts(examples)
    if parted is None or len(examples) < LEAST_TO_FIT:
        return None
    parts, kind = parted
    questions = gold_from_examples(examples)
    exact, _ = raw_scores(questions, {e.id: d.spans[0].text for e, d in zip(examples, evaluation.decoded, strict=True)})
    right = np.array([score or 0.0 for score in exact])
    margins = np.array([decoded.no_answer_margin for decoded in evaluation.decoded])

    @cache
    def shares_at(temperature: float) -> NDArray[np.float64]:
        return _scores(evaluation, range(len(examples)), settings, ScoreScale(temperature, *_CERTAIN))

    def fitted_on(some: NDArray[np.bool_]) -> ScoreScale:
        return fitted_scale(lambda temperature: shares_at(temperature)[some], margins[some], right[some])

    before = np.array([decoded.spans[0].score for decoded in evaluation.decoded])
    after = np.zeros(len(examples))
    for part in range(parts.max() + 1):
        unseen = parts == part
        after[unseen] = _scores(evaluation, np.flatnonzero(unseen).tolist(), settings, fitted_on(~unseen))
    return FittedScale(
        scale=fitted_on(np.ones(len(examples), dtype=bool)),
        before=settings.scale,
        fitted_on=f"{len(examples):,} questions",
        judged_by=f"each of {parts.max() + 1} parts, of whole {kind}, judged by a fit on the others",
        scores_before=before.tolist(),
        scores_after=after.tolist(),
        ece_before=expected_calibration_error(before, right),
        ece_after=expected_calibration_error(after, right),
    )


def _scores(
    evaluation: Evaluation, places: Iterable[int], settings: DecodeSettings, scale: ScoreScale
) -> NDArray[np.float64]:
    """Scores of the best spans of some questions, by a scale."""
    scores = []
    for place in places:
        windows, (start, end) = evaluation.inputs[place]
        decoded = decode(
            windows,
            evaluation.examples[place].context,
            start,
            end,
            max_answer_tokens=settings.max_answer_tokens,
            scale=scale,
            word_boundaries=settings.word_boundaries,
        )
        scores.append(decoded.spans[0].score)
    return np.array(scores)


def _parts(examples: Sequence[Example]) -> tuple[NDArray[np.int64], str] | None:
    """The part of each question: whole articles, or whole paragraphs where one article is most of it; and which."""
    for kind, keys in (
        ("articles", [example.title for example in examples]),
        ("paragraphs", [example.paragraph for example in examples]),
    ):
        sizes: Counter[Hashable] = Counter(keys)
        if len(sizes) > 1:
            totals = [0] * min(_N_PARTS, len(sizes))
            part_of: dict[Hashable, int] = {}
            # The largest first, each to the smallest part.
            for key, size in sizes.most_common():
                part_of[key] = totals.index(min(totals))
                totals[part_of[key]] += size
            # Judged by what was fitted on a few questions a scale would look worse than it is.
            if 2 * max(totals) <= len(examples) or kind == "paragraphs":
                return np.array([part_of[key] for key in keys]), kind
    return None

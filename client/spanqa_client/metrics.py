"""SQuAD 2.0's exact match and F1, equal to the official script's numbers to the last bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spanqa.errors import DataError
from spanqa_client.gold import GoldQuestion, gold_from_examples
from spanqa_client.normalize import normalized_words
from spanqa_client.thresholds import official_best, tune_threshold

__all__ = [
    "GoldQuestion",
    "Report",
    "answerable_only",
    "gold_from_examples",
    "raw_scores",
    "score_predictions",
    "token_f1",
    "tuned_from_margins",
]

DEFAULT_NA_PROB_THRESH = 1.0
"""The official script's default: with probabilities, no answer is ever withdrawn."""
_N_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The scores of one prediction file.

    Args:
        scores: The official numbers under their official keys, in their order: percentages, counts, thresholds.
        tuned: Ours: the same sweep done properly (see `tune_threshold`); empty without no-answer values.
        exact: Exact match of each question in dataset order, 0 or 1, after the threshold.
        f1: F1 of each question in dataset order, 0..1, after the threshold.
        missing: Ids of questions without a prediction; they score 0.
        unknown: Ids of predictions whose question is not in the dataset; they count for nothing.
    """

    scores: Mapping[str, float]
    tuned: Mapping[str, float]
    exact: Sequence[float]
    f1: Sequence[float]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]

    def warnings(self) -> list[str]:
        """Say in sentences what the prediction file lacks or has too much."""
        found = []
        if self.missing:
            found.append(f"{_count(self.missing, 'question')} without a prediction, scored 0: {_named(self.missing)}")
        if self.unknown:
            found.append(f"{_count(self.unknown, 'prediction')} for ids not in the dataset: {_named(self.unknown)}")
        return found


def token_f1(predicted: Sequence[str], gold: Sequence[str]) -> float:
    """F1 over the multisets of two texts' normalised words; 1 when both are empty, 0 when one is."""
    if predicted == gold:
        return 1.0
    if len(predicted) * len(gold) <= 256:
        # Removing from a short list beats building two Counters.
        rest = list(gold)
        for word in predicted:
            if word in rest:
                rest.remove(word)
        n_same = len(gold) - len(rest)
    else:
        n_same = sum((Counter(predicted) & Counter(gold)).values())
    if n_same == 0:
        return 0.0
    precision = n_same / len(predicted)
    recall = n_same / len(gold)
    return (2 * precision * recall) / (precision + recall)


def raw_scores(
    questions: Sequence[GoldQuestion], predictions: Mapping[str, str]
) -> tuple[list[float | None], list[float | None]]:
    """Score every prediction as it stands, against the best of its gold answers.

    Gold answers that normalise to nothing are dropped; where none is left, the empty text is the gold answer.

    Args:
        questions: The dataset.
        predictions: Text of the answer by question id, empty for "no answer".

    Returns:
        Exact match (0 or 1) and F1 (0..1) of each question, None where the prediction is missing.
    """
    words_of: dict[str, tuple[str, ...]] = {}

    def words(text: str) -> tuple[str, ...]:
        found = words_of.get(text)
        if found is None:
            found = words_of[text] = normalized_words(text)
        return found

    exact: list[float | None] = []
    f1: list[float | None] = []
    for question in questions:
        text = predictions.get(question.id)
        if text is None:
            exact.append(None)
            f1.append(None)
            continue
        predicted = words(text)
        golds = {gold for answer in question.answers if (gold := words(answer))} or {()}
        if predicted in golds:
            exact.append(1.0)
            f1.append(1.0)
        else:
            exact.append(0.0)
            f1.append(max([token_f1(predicted, gold) for gold in golds]))
    return exact, f1


def score_predictions(
    questions: Sequence[GoldQuestion],
    predictions: Mapping[str, str],
    *,
    na_probs: Mapping[str, float] | None = None,
    na_prob_thresh: float = DEFAULT_NA_PROB_THRESH,
) -> Report:
    """Compute the official SQuAD 2.0 scores.

    Args:
        questions: The dataset, in its order: sums are taken in it.
        predictions: Text of the answer by question id, empty for "no answer".
        na_probs: No-answer probability or margin by question id, in the order of its file: among equal values the
            official sweep depends on that order.
        na_prob_thresh: Questions whose value is above it count as answered by "no answer".

    Raises:
        DataError: No question, or a predicted question without a no-answer value.
    """
    if not questions:
        raise DataError("nothing to score: the dataset holds no question")
    exact, f1 = raw_scores(questions, predictions)
    if na_probs is not None:
        _check_na_probs(questions, predictions, na_probs)
    withdrawn = {key for key, value in (na_probs or {}).items() if value > na_prob_thresh}
    exact_after = [_after(q, score, withdrawn) for q, score in zip(questions, exact, strict=True)]
    f1_after = [_after(q, score, withdrawn) for q, score in zip(questions, f1, strict=True)]
    scores = _averages(questions, exact_after, f1_after)
    tuned = {} if na_probs is None else _sweep(scores, questions, predictions, (exact, f1), na_probs)
    known = {question.id for question in questions}
    return Report(
        scores=scores,
        tuned=tuned,
        exact=exact_after,
        f1=f1_after,
        missing=tuple([q.id for q, score in zip(questions, exact, strict=True) if score is None]),
        unknown=tuple([key for key in predictions if key not in known]),
    )


def answerable_only(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Give what official keys say of the answerable questions, under the keys of all questions."""
    return {key.removeprefix("HasAns_"): value for key, value in scores.items() if key.startswith("HasAns_")}


def tuned_from_margins(
    questions: Sequence[GoldQuestion], raw: Sequence[float | None], margins: Mapping[str, float]
) -> tuple[float, float]:
    """Tune a threshold on predictions that hold the best non-empty text of every question.

    Args:
        questions: The dataset.
        raw: Score of each question's text, from `raw_scores`; None where it is missing.
        margins: No-answer margin by question id; needed where `raw` is not None.

    Returns:
        The best mean score in percent of all questions, and its threshold.
    """
    given = [(q, score) for q, score in zip(questions, raw, strict=True) if score is not None]
    best = tune_threshold(
        margins=[margins[question.id] for question, _ in given],
        answered_scores=[score for _, score in given],
        null_scores=[float(not question.answers) for question, _ in given],
    )
    return 100.0 * best.total / len(questions), best.threshold


def _sweep(
    scores: dict[str, float],
    questions: Sequence[GoldQuestion],
    predictions: Mapping[str, str],
    raw: tuple[Sequence[float | None], Sequence[float | None]],
    na_probs: Mapping[str, float],
) -> dict[str, float]:
    """Add the official `best_*` to the scores, and give our `tuned_*`."""
    tuned: dict[str, float] = {}
    for name, values in zip(("exact", "f1"), raw, strict=True):
        best = official_best(questions, predictions, values, na_probs)
        scores[f"best_{name}"], scores[f"best_{name}_thresh"] = best
        tuned[f"tuned_{name}"], tuned[f"tuned_{name}_thresh"] = tuned_from_margins(questions, values, na_probs)
    return tuned


def _after(question: GoldQuestion, score: float | None, withdrawn: set[str]) -> float:
    if score is None:
        return 0.0
    return float(not question.answers) if question.id in withdrawn else score


def _averages(questions: Sequence[GoldQuestion], exact: Sequence[float], f1: Sequence[float]) -> dict[str, float]:
    scores: dict[str, float] = {}
    answerable = [i for i, question in enumerate(questions) if question.answers]
    unanswerable = [i for i, question in enumerate(questions) if not question.answers]
    for prefix, chosen in (("", range(len(questions))), ("HasAns_", answerable), ("NoAns_", unanswerable)):
        if chosen:
            scores[f"{prefix}exact"] = 100.0 * _left_to_right_sum(exact, chosen) / len(chosen)
            scores[f"{prefix}f1"] = 100.0 * _left_to_right_sum(f1, chosen) / len(chosen)
            scores[f"{prefix}total"] = len(chosen)
    return scores


def _left_to_right_sum(values: Sequence[float], chosen: Iterable[int]) -> float:
    # Not sum(): from Python 3.12 on it compensates rounding, and the last bits would differ between versions.
    total = 0.0
    for i in chosen:
        total += values[i]
    return total


def _check_na_probs(
    questions: Sequence[GoldQuestion], predictions: Mapping[str, str], na_probs: Mapping[str, float]
) -> None:
    lacking = [q.id for q in questions if q.id in predictions and q.id not in na_probs]
    if lacking:
        raise DataError(
            f"{_count(lacking, 'predicted question')} without a no-answer value: {_named(lacking)}: "
            "the file must hold one for every predicted question"
        )


def _count(ids: Sequence[str], noun: str) -> str:
    return f"{len(ids):,} {noun}{'' if len(ids) == 1 else 's'}"


def _named(ids: Sequence[str]) -> str:
    return ", ".join(ids[:_N_NAMED]) + (", ..." if len(ids) > _N_NAMED else "")

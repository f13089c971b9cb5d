"""A dataset's questions answered by a server: prediction files and a summary of quality and speed."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spanqa.squad import Example
from spanqa_client.answer import Answer
from spanqa_client.metrics import gold_from_examples, raw_scores, score_predictions, tuned_from_margins


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRun:
    """What came back for a dataset.

    Args:
        examples: The questions, in order.
        answers: Answer by question id, in the same order.
        errors: What went wrong, by the id of each question without an answer.
        seconds: Time of the whole run.
    """

    examples: Sequence[Example]
    answers: Mapping[str, Answer]
    errors: Mapping[str, str]
    seconds: float


def predictions_from_run(served: ServedRun, *, forced: bool) -> dict[str, str]:
    """Give SQuAD predictions.

    Args:
        served: The run.
        forced: Whether the best span stands even where there is no answer, as tuning a threshold needs it.
    """
    if forced:
        return {key: span.text if (span := answer.best_span) else "" for key, answer in served.answers.items()}
    return {key: answer.text for key, answer in served.answers.items()}


def na_probs_from_run(served: ServedRun) -> dict[str, float]:
    """Give the no-answer margins."""
    return {key: answer.no_answer_margin for key, answer in served.answers.items()}


def nbest_from_run(served: ServedRun) -> dict[str, list[dict[str, Any]]]:
    """Give the best spans of each question, best first, whether or not there is an answer."""
    return {key: [span.to_dict() for span in answer.spans] for key, answer in served.answers.items()}


def versions_from_run(served: ServedRun) -> dict[str, int]:
    """Give how many answers came from each version of the model, in the order in which the versions first answered."""
    return dict(Counter(answer.model_version for answer in served.answers.values()))


def jsonl_from_run(served: ServedRun) -> str:
    """Give one JSON object a line: id, question and the answer with offsets and scores."""
    lines = [
        json.dumps(
            {"id": example.id, "question": example.question, **answer.to_dict(example.context)}, ensure_ascii=False
        )
        + "\n"
        for example in served.examples
        if (answer := served.answers.get(example.id)) is not None
    ]
    return "".join(lines)


def summary_from_run(served: ServedRun) -> dict[str, float]:
    """Summarise a run: official scores, scores of always answering, the best threshold, throughput and latency.

    Scores are left out where the dataset has no gold answer at all.

    Returns:
        The official keys; forced_HasAns_exact and forced_HasAns_f1 (the best span against every answerable
        question); tuned_* (best threshold on these very questions; an infinite one is left out); answered, failed,
        seconds, questions_per_s, latency_p50_ms, latency_p95_ms.
    """
    summary: dict[str, float] = {}
    if any(example.answers for example in served.examples):
        summary |= _scores(served)
    summary |= {"answered": len(served.answers), "failed": len(served.errors), "seconds": served.seconds}
    if served.answers:
        latencies_ms = sorted(answer.latency_ms for answer in served.answers.values())
        summary["questions_per_s"] = len(served.answers) / served.seconds
        for percent in (50, 95):
            # Nearest rank: the smallest latency that this share of the answers stays within.
            summary[f"latency_p{percent}_ms"] = latencies_ms[math.ceil(percent / 100 * len(latencies_ms)) - 1]
    return summary


def _scores(served: ServedRun) -> dict[str, float]:
    questions = gold_from_examples(served.examples)
    scores = dict(score_predictions(questions, predictions_from_run(served, forced=False)).scores)
    best_texts = predictions_from_run(served, forced=True)
    forced = score_predictions(questions, best_texts).scores
    scores |= {f"forced_{key}": forced[key] for key in ("HasAns_exact", "HasAns_f1")}
    margins = {key: answer.no_answer_margin for key, answer in served.answers.items()}
    for name, raw in zip(("exact", "f1"), raw_scores(questions, best_texts), strict=True):
        tuned, threshold = tuned_from_margins(questions, raw, margins)
        scores[f"tuned_{name}"] = tuned
        if math.isfinite(threshold):
            scores[f"tuned_{name}_thresh"] = threshold
    return scores

"""The official scores of a run."""

from __future__ import annotations

from collections.abc import Sequence

from spanqa_client.gold import GoldQuestion
from spanqa_client.metrics import Report, score_predictions
from spanqa_client.reports.runs import Run


def scores_from_run(run: Run, questions: Sequence[GoldQuestion]) -> Report:
    """Score the answers that a run gives, exactly as the official script does, its sweep included where it can."""
    if run.has_margins and run.threshold is not None:
        return score_predictions(questions, run.best_texts(), na_probs=run.margins(), na_prob_thresh=run.threshold)
    return score_predictions(questions, run.predictions())

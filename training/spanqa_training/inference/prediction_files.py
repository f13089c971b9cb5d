"""Answers to a dataset as files: the old toolkit's prediction.txt and nbest.txt, and predictions.jsonl with all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from spanqa.datasets import distinct
from spanqa.origins import null_origin, origin_of_span
from spanqa.spans import Decoded, DecodeSettings, decode
from spanqa.squad import Example
from spanqa.windows import WindowMaker, Windows
from spanqa_training.data.windowing import windows_of_examples
from spanqa_training.errors import RunError
from spanqa_training.inference.decode_settings import ALWAYS_ANSWER
from spanqa_training.inference.evaluation import Logits, Network, window_logits

PREDICTIONS_FILE = "predictions.jsonl"
_QUESTIONS_AT_A_TIME = 2_000
"""Bounds memory; large enough that batches of similar length pay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One question with all that the model says of it.

    Args:
        example: The question.
        windows: Its windows.
        logits: Theirs.
        decoded: The best spans.
        max_answer_tokens: Longest span that was considered.
    """

    example: Example
    windows: Windows
    logits: Logits
    decoded: Decoded
    max_answer_tokens: int

    def record(self, threshold: float) -> dict[str, Any]:
        """The line of predictions.jsonl."""
        spans = []
        for span in self.decoded.spans:
            origin = origin_of_span(self.windows, *self.logits, span, max_answer_tokens=self.max_answer_tokens)
            spans.append(
                {
                    "text": span.text,
                    "char_start": span.char_start,
                    "char_end": span.char_end,
                    "score": span.score,
                    "logit": span.logit,
                    "start_logit": origin.start_logit,
                    "end_logit": origin.end_logit,
                    "window": origin.window,
                }
            )
        has_answer = self.decoded.has_answer(threshold)
        return {
            "id": self.example.id,
            "question": self.example.question,
            "answer": spans[0]["text"] if has_answer else "",
            "has_answer": has_answer,
            "no_answer_margin": self.decoded.no_answer_margin,
            "null_logit": self.decoded.null_logit,
            "n_windows": len(self.windows),
            "question_truncated": self.windows.question_truncated,
            "spans": spans,
        }

    def nbest(self, record: dict[str, Any], *, may_abstain: bool) -> list[dict[str, Any]]:
        """The entry of nbest.txt: probabilities among these spans alone, and "" for no answer among them."""
        entries = [{name: span[name] for name in ("text", "start_logit", "end_logit")} for span in record["spans"]]
        if may_abstain:
            null = null_origin(*self.logits)
            entries.append({"text": "", "start_logit": null.start_logit, "end_logit": null.end_logit})
        entries.sort(key=lambda entry: -(entry["start_logit"] + entry["end_logit"]))
        logits = np.array([entry["start_logit"] + entry["end_logit"] for entry in entries])
        weights = np.exp(logits - logits.max())
        return [
            {"text": entry["text"], "probability": float(weight), **entry}
            for entry, weight in zip(entries, weights / weights.sum(), strict=True)
        ]


def answered(
    network: Network,
    maker: WindowMaker,
    examples: Iterable[Example],
    settings: DecodeSettings,
    *,
    n_best: int,
    distinct_spans: bool = False,
    rows_per_batch: int | None = None,
    n_threads: int = 1,
    quiet: bool = True,
) -> Iterator[Answered]:
    """Answer questions as they come, a bounded number of them in memory, beside the ids of all.

    Args:
        network: The network.
        maker: Its tokenizer and window settings.
        examples: The questions.
        settings: Longest answer, scale of the scores and word boundaries.
        n_best: Most spans of a question.
        distinct_spans: Whether the spans of a question do not overlap.
        rows_per_batch: Most windows in a batch.
        n_threads: Batches in work at once.
        quiet: Whether to hide the progress bar.

    Raises:
        DataError: A question or a context holds no word, or an id stands twice.
    """
    stream = distinct(examples)
    while chunk := list(islice(stream, _QUESTIONS_AT_A_TIME)):
        all_windows = windows_of_examples(chunk, maker)
        logits = window_logits(network, all_windows, quiet=quiet, rows_per_batch=rows_per_batch, n_threads=n_threads)
        for example, windows, (start, end) in zip(chunk, all_windows, logits, strict=True):
            decoded = decode(
                windows,
                example.context,
                start,
                end,
                n_best=n_best,
                max_answer_tokens=settings.max_answer_tokens,
                scale=settings.scale,
                word_boundaries=settings.word_boundaries,
                distinct=distinct_spans,
            )
            yield Answered(
                example=example,
                windows=windows,
                logits=(start, end),
                decoded=decoded,
                max_answer_tokens=settings.max_answer_tokens,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionFiles:
    """The three files of `spanqa infer`, each replaced as a whole when all are written.

    Args:
        predictions: `{id: answer}`, "" for no answer.
        nbest: `{id: [{text, probability, start_logit, end_logit}]}`.
        records: One JSON object a line.
    """

    predictions: Path
    nbest: Path
    records: Path

    def write(self, questions: Iterable[Answered], *, threshold: float) -> int:
        """Write them.

        Args:
            questions: The answers, in order.
            threshold: There is an answer where the margin is at most this; ALWAYS_ANSWER never abstains.

        Returns:
            How many questions were answered.

        Raises:
            RunError: A file cannot be written; the old ones are left.
        """
        targets = (self.predictions, self.nbest, self.records)
        beside = [target.with_name(f".{target.name}.new") for target in targets]
        try:
            for target in targets:
                target.parent.mkdir(parents=True, exist_ok=True)
            with (
                open(beside[0], "w", encoding="utf-8") as predictions,
                open(beside[1], "w", encoding="utf-8") as nbest,
                open(beside[2], "w", encoding="utf-8") as records,
            ):
                n_questions = _write(questions, threshold, predictions, nbest, records)
            for source, target in zip(beside, targets, strict=True):
                os.replace(source, target)
        except OSError as error:
            raise RunError(f"{error.filename or self.records}: cannot be written: {error}") from error
        finally:
            for path in beside:
                with suppress(OSError):
                    path.unlink()
        return n_questions


def _write(
    questions: Iterable[Answered], threshold: float, predictions: IO[str], nbest: IO[str], records: IO[str]
) -> int:
    n_questions = 0
    for question in questions:
        record = question.record(threshold)
        before = ",\n" if n_questions else "{\n"
        key = json.dumps(question.example.id)
        predictions.write(f"{before}{key}: {json.dumps(record['answer'], ensure_ascii=False)}")
        spans = question.nbest(record, may_abstain=threshold < ALWAYS_ANSWER)
        nbest.write(f"{before}{key}: {json.dumps(spans, ensure_ascii=False)}")
        records.write(json.dumps(record, ensure_ascii=False) + "\n")
        n_questions += 1
    for file in (predictions, nbest):
        file.write("\n}\n" if n_questions else "{}\n")
    return n_questions

"""Requests and responses of the question-answering models: tensors to questions, answers to tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spanqa import contract
from spanqa.errors import InputError
from spanqa.manifest import Manifest
from spanqa.spans import Decoded, decode
from spanqa.windows import Windows


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How one question wants to be answered.

    Args:
        top_n: Most spans returned.
        no_answer_threshold: There is an answer where the margin is at most this.
        max_answer_tokens: Longest answer in word pieces; a window may hold less beside its question.
        distinct: Whether the spans returned do not overlap.
    """

    top_n: int
    no_answer_threshold: float
    max_answer_tokens: int
    distinct: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One row of a request."""

    question: str
    context: str
    options: Options


def read_questions(
    tensors: Mapping[str, NDArray[Any] | None], manifest: Manifest, max_context_bytes: int
) -> list[Question]:
    """Read the rows of one request.

    Args:
        tensors: Input arrays by name, each `(n_rows, 1)`; None or absent for an optional one that was not sent.
        manifest: The model's defaults.
        max_context_bytes: Longest question and longest context, in UTF-8 bytes.

    Raises:
        InputError: Naming the row (from 0) where there are several, what was got and what is allowed.
    """
    questions = _required(tensors, contract.QUESTION)
    contexts = _required(tensors, contract.CONTEXT)
    if len(questions) != len(contexts):
        raise InputError(f"{len(questions)} questions for {len(contexts)} contexts: send one context for each question")
    rows = []
    for row, (question, context) in enumerate(zip(questions, contexts, strict=True)):
        try:
            rows.append(
                Question(
                    question=_text(question, contract.QUESTION.name, max_context_bytes),
                    context=_text(context, contract.CONTEXT.name, max_context_bytes),
                    options=read_options(tensors, manifest, row),
                )
            )
        except InputError as error:
            raise named_row(error, row, len(questions)) from error
    return rows


def named_row(error: Exception, row: int, n_rows: int) -> InputError:
    """The same error, saying which row of its request it is about where there are several."""
    return InputError(f"row {row}: {error}" if n_rows > 1 else str(error), reason=getattr(error, "reason", "bad_input"))


def read_options(tensors: Mapping[str, NDArray[Any] | None], manifest: Manifest, row: int) -> Options:
    """Read the optional inputs of one row; what is left out, NaN as a threshold and 0 as a length are the model's own.

    Raises:
        InputError: If one is out of its range.
    """
    top_n = _optional(tensors, contract.TOP_N, row)
    threshold = _optional(tensors, contract.NO_ANSWER_THRESHOLD, row)
    max_answer_tokens = _optional(tensors, contract.MAX_ANSWER_TOKENS, row) or contract.OWN_MAX_ANSWER_TOKENS
    distinct = _optional(tensors, contract.DISTINCT, row)
    if top_n is not None and not 1 <= top_n <= contract.MAX_TOP_N:
        raise InputError(f"TOP_N must be from 1 to {contract.MAX_TOP_N}, got {top_n}")
    if max_answer_tokens < 0:
        raise InputError(f"MAX_ANSWER_TOKENS must be at least 1, or 0 for the model's own, got {max_answer_tokens}")
    own_threshold = threshold is None or np.isnan(threshold)
    return Options(
        top_n=contract.DEFAULT_TOP_N if top_n is None else int(top_n),
        no_answer_threshold=manifest.decode.no_answer_threshold if own_threshold else float(threshold),
        max_answer_tokens=int(max_answer_tokens) or manifest.decode.max_answer_tokens,
        distinct=bool(distinct),
    )


def decode_question(
    windows: Windows,
    context: str,
    options: Options,
    start_logits: NDArray[np.float32],
    end_logits: NDArray[np.float32],
    manifest: Manifest,
) -> Decoded:
    """Decode one row as its options ask; logits are `float32 (n_windows, length)`.

    Raises:
        LogitsError: If the network's output is unusable.
    """
    return decode(
        windows,
        context,
        start_logits,
        end_logits,
        n_best=options.top_n,
        max_answer_tokens=options.max_answer_tokens,
        scale=manifest.decode.scale,
        word_boundaries=manifest.decode.word_boundaries,
        distinct=options.distinct,
    )


def response_tensors(
    decoded: Sequence[Decoded], thresholds: Sequence[float], truncated: Sequence[bool]
) -> dict[str, NDArray[Any]]:
    """Make the output tensors of one request.

    Args:
        decoded: The answers of each row.
        thresholds: No-answer threshold of each row.
        truncated: Whether the question of each row was truncated.

    Returns:
        Arrays by output name: `(n_rows, most spans of a row)` for the spans, `(n_rows, 1)` for the rest. Missing
        entries are ANSWER "", SCORE 0, CHAR_START and CHAR_END -1, LOGIT the lowest finite float32.
    """
    shape = (len(decoded), max(len(row.spans) for row in decoded))
    answers = np.full(shape, b"", dtype=np.object_)
    scores = np.zeros(shape, dtype=np.float32)
    char_starts = np.full(shape, -1, dtype=np.int32)
    char_ends = np.full(shape, -1, dtype=np.int32)
    logits = np.full(shape, contract.LOWEST_LOGIT, dtype=np.float32)
    for row, one in enumerate(decoded):
        n_spans = len(one.spans)
        answers[row, :n_spans] = [span.text.encode() for span in one.spans]
        scores[row, :n_spans] = [span.score for span in one.spans]
        char_starts[row, :n_spans] = [span.char_start for span in one.spans]
        char_ends[row, :n_spans] = [span.char_end for span in one.spans]
        logits[row, :n_spans] = [span.logit for span in one.spans]
    # The margin is compared as it is sent: a client that compares again comes to the same end.
    margins = np.array([[row.no_answer_margin] for row in decoded])
    margins = margins.clip(contract.LOWEST_LOGIT, -contract.LOWEST_LOGIT).astype(np.float32)
    return {
        contract.ANSWER.name: answers,
        contract.SCORE.name: scores,
        contract.CHAR_START.name: char_starts,
        contract.CHAR_END.name: char_ends,
        contract.LOGIT.name: logits,
        contract.NO_ANSWER_MARGIN.name: margins,
        contract.HAS_ANSWER.name: margins <= np.array(thresholds, dtype=np.float32)[:, None],
        contract.QUESTION_TRUNCATED.name: np.array(truncated, dtype=bool)[:, None],
        contract.NO_ANSWER_SCORE.name: np.array([[row.no_answer_score] for row in decoded], dtype=np.float32),
    }


def _required(tensors: Mapping[str, NDArray[Any] | None], tensor: contract.Tensor) -> list[bytes]:
    array = tensors.get(tensor.name)
    if array is None:
        raise InputError(f"{tensor.name} is missing: send it as BYTES of shape [rows, 1]")
    return [bytes(value) for value in array.reshape(-1)]


def _optional(tensors: Mapping[str, NDArray[Any] | None], tensor: contract.Tensor, row: int) -> Any:
    array = tensors.get(tensor.name)
    return None if array is None else array.reshape(-1)[row]


def _text(value: bytes, name: str, limit_bytes: int) -> str:
    if not value:
        raise InputError(f"{name} is empty: send some text")
    if len(value) > limit_bytes:
        raise InputError(
            f"{name} has {len(value):,} bytes, at most {limit_bytes:,} are allowed: split the text, or raise "
            "max_context_bytes in the model's config.pbtxt"
        )
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name} is not valid UTF-8 (byte {error.start} is {value[error.start]:#04x}): encode text as UTF-8"
        ) from error

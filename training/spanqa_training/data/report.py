"""What a dataset holds, and what is wrong with it: statistics of its questions, answers and windows in one pass."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from spanqa.contract import DEFAULT_MAX_ANSWER_TOKENS
from spanqa.datasets import iter_datasets
from spanqa.errors import DataError
from spanqa.examples import Example, OnDefect, holds_word
from spanqa.tokenization import Pieces, Tokenizer
from spanqa.windows import WindowMaker
from spanqa_training.data.labels import NULL_POSITION, answer_pieces, window_labels
from spanqa_training.data.length_counts import Bar, LengthCounts, LengthSummary
from spanqa_training.data.windowing import CutExample, cut_examples


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceReport:
    """A dataset as the model sees it; an answerable question counts with its first gold answer, the one trained on.

    Args:
        question: Word pieces of the questions, before any is cut off.
        context: Those of the paragraphs.
        pair: Question, paragraph and special tokens together: one window without cutting.
        pair_bars: A histogram of `pair`.
        n_windows: Windows of all questions.
        n_truncated_questions: Questions longer than max_query_length.
        n_lost_answers: Answers that no window holds whole.
        n_long_answers: Answers of more word pieces than the longest that is decoded.
        n_unaligned_answers: Answers that begin or end inside a word piece, or hold none.
        unknown_share: Share of [UNK] among the word pieces of questions and paragraphs.
    """

    question: LengthSummary
    context: LengthSummary
    pair: LengthSummary
    pair_bars: tuple[Bar, ...]
    n_windows: int
    n_truncated_questions: int
    n_lost_answers: int
    n_long_answers: int
    n_unaligned_answers: int
    unknown_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReport:
    """A dataset.

    Args:
        files: Its files.
        n_questions: Questions without a defect; all numbers are about those.
        n_unanswerable: Those without an answer.
        n_articles: Neighbouring questions of one title count as one article; those without a title as none.
        n_paragraphs: Paragraphs that a question is asked about.
        answers_per_question: Questions by their number of gold answers.
        n_repeated_questions: Questions that were asked before about the same context, in the same words.
        pieces: Word pieces and windows; None without a tokenizer.
        n_defects: Everything that is wrong.
        defects: The first of it, one line each.
    """

    files: tuple[str, ...]
    n_questions: int
    n_unanswerable: int
    n_articles: int
    n_paragraphs: int
    answers_per_question: dict[int, int]
    n_repeated_questions: int
    pieces: PieceReport | None
    n_defects: int
    defects: tuple[str, ...]


def report_from_files(
    files: Sequence[str | Path],
    maker: WindowMaker | None = None,
    *,
    max_answer_tokens: int = DEFAULT_MAX_ANSWER_TOKENS,
    max_defects: int = 20,
    quiet: bool = True,
) -> DataReport:
    """Read a dataset once.

    Args:
        files: Its files.
        maker: Tokenizer and window settings; without it nothing is said about word pieces.
        max_answer_tokens: Longest answer that is decoded, in word pieces.
        max_defects: Defects that are kept; all are counted.
        quiet: Whether to hide the progress bar.
    """
    defects: list[str] = []
    n_defects = 0

    def on_defect(defect: DataError) -> None:
        nonlocal n_defects
        n_defects += 1
        if len(defects) < max_defects:
            defects.append(str(defect))

    texts = _TextCounts()
    pieces = _PieceCounts(maker, max_answer_tokens) if maker else None
    examples = iter_datasets(files, on_defect=on_defect)
    with tqdm(examples, desc="checking", unit=" questions", disable=True if quiet else None) as bar:
        if maker and pieces:
            for cut in cut_examples(((example.place, example) for example in bar), maker, on_defect):
                texts.add(cut.example)
                pieces.add(cut)
        else:
            for example in _with_words(bar, on_defect):
                texts.add(example)
    return DataReport(
        files=tuple(map(str, files)),
        n_questions=texts.n_answers.total(),
        n_unanswerable=texts.n_answers[0],
        n_articles=texts.n_articles,
        n_paragraphs=texts.n_paragraphs,
        answers_per_question=dict(sorted(texts.n_answers.items())),
        n_repeated_questions=texts.n_repeated(),
        pieces=pieces.report() if pieces else None,
        n_defects=n_defects,
        defects=tuple(defects),
    )


def _with_words(examples: Iterable[Example], on_defect: OnDefect) -> Iterator[Example]:
    """Leave out what every tokenizer finds empty."""
    for example in examples:
        empty = [name for name in ("question", "context") if not holds_word(getattr(example, name))]
        if empty:
            on_defect(
                DataError(f"{example.place}: the {empty[0]} holds no word, only white space or control characters")
            )
        else:
            yield example


class _TextCounts:
    """Counts what needs no tokenizer; 8 bytes a question."""

    def __init__(self) -> None:
        self.n_answers: Counter[int] = Counter()
        self.n_articles = self.n_paragraphs = 0
        self._title = self._context = ""
        self._hashes = array("q")

    def add(self, example: Example) -> None:
        """Count one question."""
        self.n_answers[len(example.answers)] += 1
        self.n_articles += bool(example.title) and example.title != self._title
        self.n_paragraphs += example.context != self._context
        self._title, self._context = example.title, example.context
        self._hashes.append(hash((example.context, example.question)))

    def n_repeated(self) -> int:
        """Questions whose words and context occurred before; two with the same 64-bit hash are taken for one."""
        hashes = np.sort(np.frombuffer(self._hashes, dtype=np.int64))
        return int(np.count_nonzero(hashes[1:] == hashes[:-1]))


class _PieceCounts:
    """Counts word pieces and windows."""

    def __init__(self, maker: WindowMaker, max_answer_tokens: int) -> None:
        self._max_answer_tokens = max_answer_tokens
        self._unknown_id = _unknown_id(maker.tokenizer)
        self._n_special = maker.tokenizer.pair.n_special
        self._question, self._context, self._pair = LengthCounts(), LengthCounts(), LengthCounts()
        self._counts: Counter[str] = Counter()
        self._last_context = ""

    def add(self, cut: CutExample) -> None:
        """Count one question."""
        example, windows = cut.example, cut.windows
        self._add_text(self._question, cut.question)
        if example.context != self._last_context:
            self._last_context = example.context
            self._add_text(self._context, windows.document)
        self._pair.add(len(cut.question) + len(windows.document) + self._n_special)
        self._counts["windows"] += len(windows)
        self._counts["truncated_questions"] += windows.question_truncated
        if example.answers:
            self._add_answer(cut)

    def _add_text(self, lengths: LengthCounts, pieces: Pieces) -> None:
        lengths.add(len(pieces))
        self._counts["pieces"] += len(pieces)
        self._counts["unknown"] += int(np.count_nonzero(pieces.ids == self._unknown_id))

    def _add_answer(self, cut: CutExample) -> None:
        windows, answer = cut.windows, cut.example.answers[0]
        held = any(start != NULL_POSITION for start, _ in window_labels(windows, cut.example))
        self._counts["lost_answers"] += not held
        pieces = answer_pieces(windows, answer)
        if pieces is None:
            self._counts["unaligned_answers"] += 1
            return
        first, last = pieces
        chars = windows.document.chars
        self._counts["long_answers"] += last - first + 1 > self._max_answer_tokens
        self._counts["unaligned_answers"] += (
            int(chars[first, 0]) != answer.char_start or int(chars[last, 1]) != answer.char_end
        )

    def report(self) -> PieceReport:
        """Sum up."""
        counts = self._counts
        return PieceReport(
            question=self._question.summary(),
            context=self._context.summary(),
            pair=self._pair.summary(),
            pair_bars=self._pair.bars(),
            n_windows=counts["windows"],
            n_truncated_questions=counts["truncated_questions"],
            n_lost_answers=counts["lost_answers"],
            n_long_answers=counts["long_answers"],
            n_unaligned_answers=counts["unaligned_answers"],
            unknown_share=counts["unknown"] / max(1, counts["pieces"]),
        )


def _unknown_id(tokenizer: Tokenizer) -> int:
    """The id of what the vocabulary lacks; -1 for byte-level pieces, which lack nothing."""
    model = json.loads(tokenizer.serialized)["model"]
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    return int(model["vocab"][model["unk_token"]]) if model.get("unk_token") else -1

"""A question and a context as windows: the fixed-length inputs that the encoder reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spanqa.errors import InputError, SettingsError
from spanqa.tokenization import Pieces, Tokenizer

N_SPECIAL_TOKENS = 3
"""[CLS] question [SEP] window [SEP]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSettings:
    """How a context is cut, in word pieces; names and defaults are those of BERT's SQuAD script.

    Args:
        max_seq_length: Longest encoder input, special tokens included.
        doc_stride: Step from one window to the next (not the overlap, as Hugging Face's `stride`).
        max_query_length: Longest question; what is over is cut off.
    """

    max_seq_length: int = 384
    doc_stride: int = 128
    max_query_length: int = 64

    def __post_init__(self) -> None:
        if self.max_query_length < 1 or self.doc_stride < 1:
            raise SettingsError(
                f"doc_stride ({self.doc_stride}) and max_query_length ({self.max_query_length}) must be at least 1"
            )
        least = self.max_query_length + N_SPECIAL_TOKENS + self.doc_stride
        if self.max_seq_length < least:
            raise SettingsError(
                f"max_seq_length {self.max_seq_length} is too short: a question of max_query_length "
                f"{self.max_query_length}, {N_SPECIAL_TOKENS} special tokens and a step of doc_stride "
                f"{self.doc_stride} need at least {least}: raise it, or lower one of the two"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Encoder input: some windows padded to one length.

    Args:
        input_ids: `int32 (n_windows, length)`.
        attention_mask: Same shape and dtype: 1 on tokens, 0 on padding.
        token_type_ids: Same shape and dtype: 1 on the window and its [SEP], else 0.
    """

    input_ids: NDArray[np.int32]
    attention_mask: NDArray[np.int32]
    token_type_ids: NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """The windows of one question about one context, on one grid of context word pieces.

    Args:
        question_ids: `int32 (n_question,)`: the question's word pieces after truncation.
        document: The context's word pieces.
        starts: `int32 (n_windows,)`: first context piece of each window.
        lengths: `int32 (n_windows,)`: context pieces in each window.
        room: Most context pieces a window of this question could hold.
        question_truncated: Whether the question was longer than max_query_length.
        special_ids: Ids of [CLS], [SEP] and [PAD].
    """

    question_ids: NDArray[np.int32]
    document: Pieces
    starts: NDArray[np.int32]
    lengths: NDArray[np.int32]
    room: int
    question_truncated: bool
    special_ids: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def context_offset(self) -> int:
        """Position of the first context piece in every window."""
        return len(self.question_ids) + 2

    @property
    def seq_lengths(self) -> NDArray[np.int32]:
        """`int32 (n_windows,)`: tokens of each window, special tokens included."""
        return self.lengths + np.int32(len(self.question_ids) + N_SPECIAL_TOKENS)

    def input_ids(self, index: int) -> NDArray[np.int32]:
        """Token ids of one window: `int32 (seq_length,)`, unpadded."""
        cls_id, sep_id, _ = self.special_ids
        start = self.starts[index]
        return np.concatenate(
            (
                np.array([cls_id], dtype=np.int32),
                self.question_ids,
                np.array([sep_id], dtype=np.int32),
                self.document.ids[start : start + self.lengths[index]],
                np.array([sep_id], dtype=np.int32),
            )
        )


def cut_windows(
    question: Pieces, document: Pieces, settings: WindowSettings, special_ids: tuple[int, int, int]
) -> Windows:
    """Cut windows from word pieces: as many as it takes to reach the context's last piece.

    Args:
        question: Word pieces of the question.
        document: Word pieces of the context; may be shared between questions.
        settings: How to cut.
        special_ids: Ids of [CLS], [SEP] and [PAD].

    Raises:
        InputError: If the question or the context has no word piece.
    """
    if not len(question) or not len(document):
        name = "context" if len(question) else "question"
        raise InputError(
            f"the {name} holds no word, only white space or control characters: a {name} needs at least one word"
        )
    question_ids = question.ids[: settings.max_query_length]
    room = settings.max_seq_length - len(question_ids) - N_SPECIAL_TOKENS
    n_steps = max(0, -(-(len(document) - room) // settings.doc_stride))
    starts = np.arange(n_steps + 1, dtype=np.int32) * np.int32(settings.doc_stride)
    return Windows(
        question_ids=question_ids,
        document=document,
        starts=starts,
        lengths=np.minimum(room, len(document) - starts).astype(np.int32),
        room=room,
        question_truncated=len(question) > len(question_ids),
        special_ids=special_ids,
    )


class WindowMaker:
    """Makes windows from text: one definition for training, offline inference and serving.

    Args:
        tokenizer: The model's tokenizer.
        settings: The model's window settings.
    """

    def __init__(self, tokenizer: Tokenizer, settings: WindowSettings) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        self._special_ids = (tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id)

    def pieces(self, texts: Iterable[str]) -> dict[str, Pieces]:
        """Tokenise texts, each distinct one once, on all cores.

        Raises:
            TokenizerError: If one holds half of a surrogate pair.
        """
        distinct = list(dict.fromkeys(texts))
        return dict(zip(distinct, self.tokenizer.pieces_of_many(distinct), strict=True))

    def cut(self, question: Pieces, context: Pieces) -> Windows:
        """Cut windows from word pieces.

        Raises:
            InputError: If either holds no word.
        """
        return cut_windows(question, context, self.settings, self._special_ids)

    def windows(self, question: str, context: str) -> Windows:
        """Make the windows of one question about one context.

        Raises:
            InputError: If either holds no word.
            TokenizerError: If either holds half of a surrogate pair.
        """
        (made,) = self.windows_of_many([(question, context)])
        return made

    def windows_of_many(self, pairs: Sequence[tuple[str, str]]) -> list[Windows]:
        """Make the windows of several questions; errors as `windows`."""
        pieces = self.pieces(text for pair in pairs for text in pair)
        return [self.cut(pieces[question], pieces[context]) for question, context in pairs]


def batch_windows(rows: Sequence[tuple[Windows, int]], *, length: int | None = None) -> Batch:
    """Pad windows, of one or of many questions, to one encoder input.

    Args:
        rows: Pairs of windows and the index of one of them.
        length: Tokens to pad to; the longest row by default.

    Raises:
        InputError: If a row is longer than `length`.
    """
    ids = [windows.input_ids(index) for windows, index in rows]
    longest = max(map(len, ids))
    length = longest if length is None else length
    if longest > length:
        raise InputError(f"a window of {longest} tokens does not fit into a batch of length {length}")
    input_ids = np.full((len(rows), length), rows[0][0].special_ids[2], dtype=np.int32)
    attention_mask = np.zeros((len(rows), length), dtype=np.int32)
    token_type_ids = np.zeros((len(rows), length), dtype=np.int32)
    for row, (row_ids, (windows, _)) in enumerate(zip(ids, rows, strict=True)):
        input_ids[row, : len(row_ids)] = row_ids
        attention_mask[row, : len(row_ids)] = 1
        token_type_ids[row, windows.context_offset : len(row_ids)] = 1
    return Batch(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)

"""A question and a context as windows: the fixed-length inputs that the encoder reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import InitVar, dataclass

import numpy as np
from numpy.typing import NDArray

from spanqa.errors import InputError, SettingsError
from spanqa.pair_template import PairTemplate, bert_pair
from spanqa.tokenization import Pieces, Tokenizer

N_SPECIAL_TOKENS = 3
"""Of BERT: [CLS] question [SEP] window [SEP]."""
_UNTOLD = bert_pair(0, 0, 0)


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
        self.check_room(N_SPECIAL_TOKENS)

    def check_room(self, n_special: int) -> None:
        """Check that a window has room for a step of the context beside the longest question.

        Args:
            n_special: Special tokens of every window.

        Raises:
            SettingsError: If it has none.
        """
        least = self.max_query_length + n_special + self.doc_stride
        if self.max_seq_length < least:
            raise SettingsError(
                f"max_seq_length {self.max_seq_length} is too short: a question of max_query_length "
                f"{self.max_query_length}, {n_special} special tokens and a step of doc_stride "
                f"{self.doc_stride} need at least {least}: raise it, or lower one of the two"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Encoder input: some windows padded to one length.

    Args:
        input_ids: `int32 (n_windows, length)`.
        attention_mask: Same shape and dtype: 1 on tokens, 0 on padding.
        token_type_ids: Same shape and dtype: the template's type on the window and what follows it, else 0.
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
        pair: The special tokens around question and context.
        special_ids: Ids of [CLS], [SEP] and [PAD] in its place: so say the models of repositories that were built
            when all were BERT's.
    """

    question_ids: NDArray[np.int32]
    document: Pieces
    starts: NDArray[np.int32]
    lengths: NDArray[np.int32]
    room: int
    question_truncated: bool
    pair: PairTemplate = _UNTOLD
    special_ids: InitVar[tuple[int, int, int] | None] = None

    def __post_init__(self, special_ids: tuple[int, int, int] | None) -> None:
        if special_ids is not None:
            object.__setattr__(self, "pair", bert_pair(*special_ids))

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def context_offset(self) -> int:
        """Position of the first context piece in every window."""
        return len(self.pair.before) + len(self.question_ids) + len(self.pair.between)

    @property
    def seq_lengths(self) -> NDArray[np.int32]:
        """`int32 (n_windows,)`: tokens of each window, special tokens included."""
        return self.lengths + np.int32(len(self.question_ids) + self.pair.n_special)

    def input_ids(self, index: int) -> NDArray[np.int32]:
        """Token ids of one window: `int32 (seq_length,)`, unpadded."""
        pair, start = self.pair, self.starts[index]
        document = self.document.ids[start : start + self.lengths[index]]
        ids = (pair.before, self.question_ids, pair.between, document, pair.after)
        return np.concatenate([np.asarray(part, dtype=np.int32) for part in ids])


def cut_windows(question: Pieces, document: Pieces, settings: WindowSettings, pair: PairTemplate) -> Windows:
    """Cut windows from word pieces: as many as it takes to reach the context's last piece.

    Args:
        question: Word pieces of the question.
        document: Word pieces of the context; may be shared between questions.
        settings: How to cut.
        pair: The special tokens around question and context.

    Raises:
        InputError: If the question or the context has no word piece with a visible character.
    """
    if question.is_blank or document.is_blank:
        name = "question" if question.is_blank else "context"
        raise InputError(
            f"the {name} holds no word, only white space or control characters: a {name} needs at least one word"
        )
    question_ids = question.ids[: settings.max_query_length]
    room = settings.max_seq_length - len(question_ids) - pair.n_special
    n_steps = max(0, -(-(len(document) - room) // settings.doc_stride))
    starts = np.arange(n_steps + 1, dtype=np.int32) * np.int32(settings.doc_stride)
    return Windows(
        question_ids=question_ids,
        document=document,
        starts=starts,
        lengths=np.minimum(room, len(document) - starts).astype(np.int32),
        room=room,
        question_truncated=len(question) > len(question_ids),
        pair=pair,
    )


class WindowMaker:
    """Makes windows from text: one definition for training, offline inference and serving.

    Args:
        tokenizer: The model's tokenizer.
        settings: The model's window settings.

    Raises:
        SettingsError: If they leave no room beside the tokenizer's special tokens.
    """

    def __init__(self, tokenizer: Tokenizer, settings: WindowSettings) -> None:
        settings.check_room(tokenizer.pair.n_special)
        self.tokenizer = tokenizer
        self.settings = settings

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
        return cut_windows(question, context, self.settings, self.tokenizer.pair)

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
    input_ids = np.full((len(rows), length), rows[0][0].pair.pad_id, dtype=np.int32)
    attention_mask = np.zeros((len(rows), length), dtype=np.int32)
    token_type_ids = np.zeros((len(rows), length), dtype=np.int32)
    for row, (row_ids, (windows, _)) in enumerate(zip(ids, rows, strict=True)):
        input_ids[row, : len(row_ids)] = row_ids
        attention_mask[row, : len(row_ids)] = 1
        token_type_ids[row, windows.context_offset : len(row_ids)] = windows.pair.context_type
    return Batch(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)

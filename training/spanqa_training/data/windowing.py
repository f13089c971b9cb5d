"""Examples cut into windows as they come, tokenised many at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from spanqa.errors import DataError, InputError
from spanqa.examples import Example, OnDefect, PlacedExample, raise_defect
from spanqa.tokenization import Pieces
from spanqa.windows import WindowMaker, Windows

_CHUNK_EXAMPLES = 1000
_CHUNK_CHARS = 1_000_000
"""Text tokenised at once: enough for all cores, and some 50 MB of the tokenizer's own structures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CutExample:
    """An example and its windows.

    Args:
        example: The example.
        question: Word pieces of the whole question.
        windows: The windows, of the question as far as it is not cut off.
    """

    example: Example
    question: Pieces
    windows: Windows


def cut_examples(
    examples: Iterable[PlacedExample], maker: WindowMaker, on_defect: OnDefect = raise_defect
) -> Iterator[CutExample]:
    """Cut examples into windows.

    Args:
        examples: Examples, each with its file and its place there.
        maker: Cuts them.
        on_defect: Is told of questions and contexts without a word; they are left out.

    Raises:
        DataError: A question or a context holds no word; only without `on_defect`.
    """
    for chunk in _chunks(examples):
        pieces = maker.pieces(text for _, example in chunk for text in (example.question, example.context))
        for place, example in chunk:
            question = pieces[example.question]
            try:
                windows = maker.cut(question, pieces[example.context])
            except InputError as error:
                on_defect(DataError(f"{place}: {error}", place=place, question_id=example.id))
            else:
                yield CutExample(example=example, question=question, windows=windows)


def windows_of_examples(examples: Sequence[Example], maker: WindowMaker) -> list[Windows]:
    """Cut examples into windows.

    Raises:
        DataError: A question or a context holds no word, with its file and place.
    """
    placed = ((example.place or repr(example.id), example) for example in examples)
    return [cut.windows for cut in cut_examples(placed, maker)]


def _chunks(examples: Iterable[PlacedExample]) -> Iterator[list[PlacedExample]]:
    chunk: list[PlacedExample] = []
    n_chars = 0
    context = ""
    for place, example in examples:
        chunk.append((place, example))
        n_chars += len(example.question)
        if example.context != context:
            context = example.context
            n_chars += len(context)
        if len(chunk) >= _CHUNK_EXAMPLES or n_chars >= _CHUNK_CHARS:
            yield chunk
            chunk, n_chars, context = [], 0, ""
    if chunk:
        yield chunk

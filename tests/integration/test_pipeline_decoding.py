"""The steps from our decoding to the Hugging Face pipeline's change an answer where each of them says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, processors

from spanqa.spans import DecodeSettings
from spanqa.tokenization import Tokenizer
from spanqa.windows import Batch, WindowMaker, WindowSettings

CONTEXT = "the old bridges near the river and the old bridge"
WHOLE = DecodeSettings(word_boundaries=True)
LONG = WindowSettings(max_seq_length=64, doc_stride=16, max_query_length=16)


@pytest.fixture
def answers(benchmark: Callable[[str], Any], tokenizer: Tokenizer) -> Callable[..., list[tuple[str, int]]]:
    """Answers by step, where each (first word piece, last) of the context has a logit of its own."""
    backend = Backend.from_str(tokenizer.serialized)
    ids = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids)

    def of(
        starts: dict[int, float], ends: dict[int, float], *, null: float = -9.0, windows: Any = LONG, overlap: int = 32
    ) -> list[tuple[str, int]]:
        maker = WindowMaker(tokenizer, windows)

        def network(batch: Batch) -> tuple[Any, Any]:
            context_at = int(batch.token_type_ids[0].argmax())
            logits = np.full((2, *batch.input_ids.shape), -5.0, dtype=np.float32)
            for row, values in zip(logits, (starts, ends), strict=True):
                row[0, 0] = null
                for piece, value in values.items():
                    row[0, context_at + piece] = value
            return logits[0], logits[1]

        given = {"maker": maker, "backend": backend, "network": network, "settings": WHOLE, "overlap": overlap}
        found: list[tuple[str, int]] = benchmark("pipeline_decoding").answers_by_step("who", CONTEXT, **given)
        return found

    return of


def test_a_span_of_whole_words_is_the_same_in_every_step(answers: Any) -> None:
    assert answers({1: 5.0}, {3: 5.0}) == [("old bridges", 4)] * 8


def test_a_span_inside_a_word_is_found_and_then_widened(answers: Any) -> None:
    steps = answers({2: 5.0}, {2: 5.0, 3: 3.0})
    assert steps[0] == ("bridges", 8)
    assert steps[1:4] == [("bridge", 8)] * 3
    assert steps[4:] == [("bridges", 8)] * 4


def test_spans_of_one_text_are_added_up(answers: Any) -> None:
    """Two equal texts with a little less each than a third span has: pieces 1 .. 1 and 9 .. 9 are "old"."""
    steps = answers({1: 4.0, 5: 4.3, 9: 4.0}, {1: 4.0, 5: 4.3, 9: 4.0})
    assert steps[:5] == [("the", 21)] * 5
    assert steps[5] in (("old", 4), ("the", 21))
    assert steps[5][0] == "old"


def test_a_word_that_a_window_cuts_is_widened_to_what_lies_in_it(answers: Any) -> None:
    """Windows of three pieces, the first of which ends inside "bridges"."""
    short = WindowSettings(max_seq_length=7, doc_stride=3, max_query_length=1)
    steps = answers({2: 5.0}, {2: 5.0}, windows=short, overlap=1)
    assert steps[4:6] == [("bridges", 8)] * 2
    assert steps[6:] == [("bridge", 8)] * 2


def test_no_answer_is_no_answer_in_every_step(answers: Any) -> None:
    assert answers({1: 1.0}, {1: 1.0}, null=3.0) == [("", 0)] * 8


def test_reasons_are_the_steps_at_which_the_answer_changes(benchmark: Callable[[str], Any]) -> None:
    module = benchmark("pipeline_decoding")
    reason_of, steps = module.reason_of, module.STEPS
    ours, theirs = ("a", 0), ("b", 2)
    assert reason_of([ours] * 8, ours) is None
    assert reason_of([ours, *[theirs] * 7], theirs) == steps[0]
    assert reason_of([ours] * 3 + [("c", 1), ("c", 1), *[theirs] * 3], theirs) == f"{steps[2]}, {steps[4]}"
    assert reason_of([ours] * 8, theirs) == "not explained"


def test_words_with_the_space_before_them_give_answers_with_it(benchmark: Callable[[str], Any]) -> None:
    """DeBERTa's words hold the space before them."""
    pieces = [("<pad>", 0.0), ("<s>", 0.0), ("<unk>", 0.0), *((f"▁{word}", -2.0) for word in {*CONTEXT.split(), "who"})]
    backend = Backend(models.Unigram(pieces, unk_id=2))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A <s>", pair="<s> $A <s> $B <s>", special_tokens=[("<s>", 1)]
    )
    backend.add_special_tokens(["<s>", "<pad>"])
    tokenizer = Tokenizer(backend.to_str())
    maker = WindowMaker(tokenizer, LONG)

    def network(batch: Batch) -> tuple[Any, Any]:
        logits = np.full((2, *batch.input_ids.shape), -5.0, dtype=np.float32)
        logits[:, 0, 3 + 1] = 5.0  # <s> who <s> the old
        return logits[0], logits[1]

    module = benchmark("pipeline_decoding")
    given = {"maker": maker, "backend": backend, "network": network, "settings": WHOLE, "overlap": 32}
    steps = module.answers_by_step("who", CONTEXT, **given)
    assert steps == [("old", 4)] * 7 + [(" old", 3)]
    assert module.reason_of(steps, (" old", 3)) == module.SPACES


def test_certainty_is_the_share_of_the_answer_or_of_none(benchmark: Callable[[str], Any], tokenizer: Tokenizer) -> None:
    """Spans of one, one and two parts ("the", "the old", "old") beside none of four, and of one."""
    maker, certainty_of = WindowMaker(tokenizer, LONG), benchmark("pipeline_decoding").certainty_of
    for null, certainty in ((4.0, 4 / 8), (1.0, 2 / 5)):

        def network(batch: Batch, null: float = null) -> tuple[Any, Any]:
            logits = np.full((2, *batch.input_ids.shape), -30.0, dtype=np.float32)
            first = int(batch.token_type_ids[0].argmax())
            logits[0, 0, [0, first, first + 1]] = np.log([null, 1.0, 2.0])
            logits[1, 0, [0, first, first + 1]] = 0.0
            return logits[0], logits[1]

        found = certainty_of("who", "the old", maker=maker, network=network, settings=WHOLE)
        assert found == pytest.approx(certainty, abs=1e-6)

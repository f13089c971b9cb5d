"""Labels and batches: an answer is labelled in exactly the windows that hold all of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spanqa.squad import Example, GoldAnswer
from spanqa.windows import WindowMaker, WindowSettings
from spanqa_training.data import NULL_POSITION, batch_order, batches, labelled_windows, read_examples
from spanqa_training.spec import DataSpec


def example(context, answer=None, start=0):
    answers = (GoldAnswer(answer, start),) if answer else ()
    return Example(id="q", question="where is it", context=context, title="", answers=answers, paragraph=0)


def test_an_answer_is_the_label_of_every_window_that_holds_all_of_it_and_null_elsewhere(tokenizer):
    words = ["the cat sat on the mat"] * 20
    context = " ".join(words[:10]) + " near the old bridge " + " ".join(words[10:])
    start = context.index("old bridge")
    maker = WindowMaker(tokenizer, WindowSettings(max_seq_length=40, doc_stride=8, max_query_length=8))
    labelled = labelled_windows([example(context, "old bridge", start)], maker)
    assert len(labelled) > 5
    windows = labelled[0].windows
    inside = 0
    for window in labelled:
        low = int(windows.starts[window.index])
        chars = windows.document.chars[low : low + int(windows.lengths[window.index])]
        holds = chars[0, 0] <= start and chars[-1, 1] >= start + len("old bridge")
        assert holds == (window.start != NULL_POSITION)
        if holds:
            inside += 1
            first, last = (position - windows.context_offset for position in (window.start, window.end))
            assert context[chars[first, 0] : chars[last, 1]] == "old bridge"
        else:
            assert window.end == NULL_POSITION
    assert 1 < inside < len(labelled)


def test_an_unanswerable_question_is_null_in_every_window(tokenizer):
    maker = WindowMaker(tokenizer, WindowSettings(max_seq_length=40, doc_stride=8, max_query_length=8))
    labelled = labelled_windows([example("the cat sat on the mat " * 20)], maker)
    assert {(window.start, window.end) for window in labelled} == {(NULL_POSITION, NULL_POSITION)}


def test_an_answer_inside_a_word_is_labelled_with_the_pieces_that_touch_it(tokenizer):
    maker = WindowMaker(tokenizer, WindowSettings())
    (window,) = labelled_windows([example("the bridges stand", "ridge", 5)], maker)
    chars = window.windows.document.chars
    first, last = (position - window.windows.context_offset for position in (window.start, window.end))
    assert chars[first, 0] <= 5
    assert chars[last, 1] >= 10
    assert chars[first, 1] > 5
    assert chars[last, 0] < 10


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(4, 384), min_size=1, max_size=300),
    batch_size=st.integers(1, 9),
    epoch=st.integers(0, 3),
    shuffle=st.booleans(),
)
def test_every_window_stands_in_exactly_one_batch(lengths, batch_size, epoch, shuffle):
    order = batch_order(lengths, batch_size, seed=1, epoch=epoch, shuffle=shuffle)
    assert sorted(index for batch in order for index in batch) == list(range(len(lengths)))
    assert max(map(len, order)) <= batch_size
    assert order == batch_order(lengths, batch_size, seed=1, epoch=epoch, shuffle=shuffle)


def test_epochs_are_shuffled_differently_and_lengths_in_a_batch_are_similar():
    lengths = np.random.default_rng(0).integers(10, 384, 1000).tolist()
    first, second = (batch_order(lengths, 10, seed=1, epoch=epoch, shuffle=True) for epoch in (0, 1))
    assert first != second
    padding = sum(max(lengths[i] for i in batch) * len(batch) for batch in first) / sum(lengths)
    assert padding < 1.05


def test_a_batch_carries_padded_inputs_and_labels(tokenizer):
    maker = WindowMaker(tokenizer, WindowSettings())
    examples = [example("the cat sat on the mat", "cat", 4), example("the cat")]
    windows = labelled_windows(examples, maker)
    (batch,) = batches(windows, [[0, 1]])
    assert batch.inputs.input_ids.shape == (2, windows[0].seq_length)
    assert batch.inputs.attention_mask.sum(axis=1).tolist() == [window.seq_length for window in windows]
    assert batch.starts.tolist() == [windows[0].start, 0]
    assert batch.starts.dtype == np.int64


def test_num_samples_draws_that_many_with_the_seed(fifty_questions):
    spec = DataSpec(file=(str(fifty_questions),), num_samples=7)
    drawn = read_examples(spec, seed=1)
    assert len(drawn) == 7
    assert drawn == read_examples(spec, seed=1)
    assert drawn != read_examples(spec, seed=2)


@pytest.mark.parametrize("n_files", [1, 2])
def test_files_are_joined(fifty_questions, n_files):
    assert len(read_examples(DataSpec(file=(str(fifty_questions),) * n_files), seed=1)) == 50 * n_files

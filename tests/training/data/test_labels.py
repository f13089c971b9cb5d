"""Labels and batches: an answer is labelled in exactly the windows that hold all of it."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spanqa.datasets import iter_datasets, read_dataset, read_datasets
from spanqa.errors import DataError
from spanqa.squad import Example, GoldAnswer
from spanqa.windows import WindowMaker, WindowSettings
from spanqa_training.commands.negatives import write_squad
from spanqa_training.data.batch_order import batch_order, token_batch_order
from spanqa_training.data.labels import NULL_POSITION, answer_pieces, kept_windows, window_labels

SHORT = WindowSettings(max_seq_length=40, doc_stride=8, max_query_length=8)
WORDS = ["the cat sat on the mat"] * 20
CONTEXT = " ".join(WORDS[:10]) + " near the old bridge " + " ".join(WORDS[10:])
START = CONTEXT.index("old bridge")


def example(context, answer=None, start=0):
    answers = (GoldAnswer(answer, start),) if answer else ()
    return Example(id="q", question="where is it", context=context, title="", answers=answers, paragraph=0)


def cut(tokenizer, one, window_settings=SHORT):
    return WindowMaker(tokenizer, window_settings).windows(one.question, one.context)


def test_an_answer_is_the_label_of_every_window_that_holds_all_of_it_and_null_elsewhere(tokenizer):
    one = example(CONTEXT, "old bridge", START)
    windows = cut(tokenizer, one)
    labels = window_labels(windows, one)
    assert len(labels) == len(windows) > 5
    inside = 0
    for index, (start, end) in enumerate(labels):
        low = int(windows.starts[index])
        chars = windows.document.chars[low : low + int(windows.lengths[index])]
        holds = chars[0, 0] <= START and chars[-1, 1] >= START + len("old bridge")
        assert holds == (start != NULL_POSITION)
        if holds:
            inside += 1
            first, last = (position - windows.context_offset for position in (start, end))
            assert CONTEXT[chars[first, 0] : chars[last, 1]] == "old bridge"
        else:
            assert end == NULL_POSITION
    assert 1 < inside < len(labels)


@pytest.mark.parametrize("answer", [None, "\u3000"])
def test_a_question_without_an_answer_or_with_one_of_white_space_is_null_in_every_window(tokenizer, answer):
    one = example("the cat \u3000 sat on the mat " * 20, answer, 8)
    windows = cut(tokenizer, one)
    assert set(window_labels(windows, one)) == {(NULL_POSITION, NULL_POSITION)}


def test_an_answer_inside_a_word_is_labelled_with_the_pieces_that_touch_it(tokenizer):
    one = example("the bridges stand", "ridge", 5)
    windows = cut(tokenizer, one, WindowSettings())
    ((start, end),) = window_labels(windows, one)
    chars = windows.document.chars
    first, last = (position - windows.context_offset for position in (start, end))
    assert (first, last) == answer_pieces(windows, one.answers[0])
    assert chars[first, 0] <= 5
    assert chars[last, 1] >= 10
    assert chars[first, 1] > 5
    assert chars[last, 0] < 10


def test_every_window_is_kept_unless_asked_otherwise(tokenizer):
    for one in (example(CONTEXT, "old bridge", START), example(CONTEXT)):
        windows = cut(tokenizer, one)
        assert kept_windows(windows, one, "all") == list(range(len(windows)))


def test_only_positive_keeps_the_windows_that_hold_the_whole_answer(tokenizer):
    one = example(CONTEXT, "old bridge", START)
    windows = cut(tokenizer, one)
    kept = kept_windows(windows, one, "only_positive")
    labels = window_labels(windows, one)
    assert kept == [index for index in range(len(windows)) if labels[index] != (NULL_POSITION, NULL_POSITION)]
    assert kept
    assert kept_windows(windows, example(CONTEXT), "only_positive") == []


@pytest.mark.parametrize(("answer", "start"), [("the cat", 0), ("old bridge", START), ("mat", len(CONTEXT) - 3)])
def test_limited_negative_keeps_the_ten_windows_nearest_to_the_answer_in_document_order(tokenizer, answer, start):
    one = example(CONTEXT, answer, start)
    windows = cut(tokenizer, one)
    first, last = answer_pieces(windows, one.answers[0])

    def distance(index):
        ends = (windows.starts[index], windows.starts[index] + windows.lengths[index] - 1)
        return sum(abs(int(end) - (first + last) / 2) for end in ends) / 2, index

    kept = kept_windows(windows, one, "limited_negative")
    assert kept == sorted(sorted(range(len(windows)), key=distance)[:10])
    assert len(kept) == 10 < len(windows)
    assert set(kept_windows(windows, one, "only_positive")) <= set(kept)


@pytest.mark.parametrize("answer", [None, "\u3000"])
def test_limited_negative_keeps_the_first_ten_where_there_is_no_answer(tokenizer, answer):
    one = example("the cat \u3000 sat on the mat " * 20, answer, 8)
    windows = cut(tokenizer, one)
    assert kept_windows(windows, one, "limited_negative") == list(range(10))
    few = example("the cat sat")
    assert kept_windows(cut(tokenizer, few), few, "limited_negative") == [0]


def plain_order(lengths, batch_size, *, seed, epoch, shuffle):
    """The same order, said with lists."""
    rng = np.random.default_rng((seed, epoch))
    order = (rng.permutation(len(lengths)) if shuffle else np.arange(len(lengths))).tolist()
    made = []
    for low in range(0, len(order), 50 * batch_size):
        by_length = sorted(order[low : low + 50 * batch_size], key=lambda index: lengths[index])
        made += [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]
    return [made[index] for index in rng.permutation(len(made))] if shuffle else made


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(4, 384), max_size=300),
    batch_size=st.integers(1, 9),
    epoch=st.integers(0, 3),
    shuffle=st.booleans(),
)
def test_every_window_stands_in_exactly_one_batch_in_an_order_that_stays(lengths, batch_size, epoch, shuffle):
    order = batch_order(np.array(lengths, dtype=np.int32), batch_size, seed=1, epoch=epoch, shuffle=shuffle)
    lists = [batch.tolist() for batch in order]
    assert sorted(index for batch in lists for index in batch) == list(range(len(lengths)))
    assert lists == plain_order(lengths, batch_size, seed=1, epoch=epoch, shuffle=shuffle)
    full = batch_order(lengths, batch_size, seed=1, epoch=epoch, shuffle=shuffle, drop_last=True)
    assert [batch.tolist() for batch in full] == [batch for batch in lists if len(batch) == batch_size]


def test_epochs_are_shuffled_differently_and_lengths_in_a_batch_are_similar():
    lengths = np.random.default_rng(0).integers(10, 384, 1000).astype(np.int32)
    first, second = (batch_order(lengths, 10, seed=1, epoch=epoch, shuffle=True) for epoch in (0, 1))
    assert [batch.tolist() for batch in first] != [batch.tolist() for batch in second]
    padding = sum(int(lengths[batch].max()) * len(batch) for batch in first) / int(lengths.sum())
    assert padding < 1.05


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(4, 384), max_size=300),
    batch_tokens=st.integers(384, 4000),
    world_size=st.integers(1, 3),
    shuffle=st.booleans(),
)
def test_batches_of_tokens_are_as_full_as_they_can_be_and_as_many_in_every_epoch(
    lengths, batch_tokens, world_size, shuffle
):
    first, again, second = (
        token_batch_order(lengths, batch_tokens, world_size=world_size, seed=1, epoch=epoch, shuffle=shuffle)
        for epoch in (0, 0, 1)
    )
    lists = [batch.tolist() for batch in first]
    assert sorted(index for batch in lists for index in batch) == list(range(len(lengths)))
    assert lists == [batch.tolist() for batch in again]
    assert len(first) == len(second)

    def tokens_of_one(rows):
        return -(-len(rows) // world_size) * max(lengths[row] for row in rows)

    assert all(tokens_of_one(batch) <= batch_tokens for batch in lists)
    ascending = sorted(lists, key=lambda batch: (lengths[batch[0]], lengths[batch[-1]], -len(batch)))
    for batch, longer in itertools.pairwise(ascending):
        assert max(lengths[row] for row in batch) <= min(lengths[row] for row in longer)
        assert tokens_of_one([*batch, longer[0]]) > batch_tokens
    if not shuffle:
        assert [min(batch) for batch in lists] == sorted(min(batch) for batch in lists)


def test_batches_of_tokens_are_drawn_anew_in_each_epoch():
    lengths = np.random.default_rng(0).integers(10, 384, 3000)
    made = [token_batch_order(lengths, 4000, world_size=1, seed=1, epoch=epoch, shuffle=True) for epoch in (0, 1)]
    sets = [{frozenset(batch.tolist()) for batch in order} for order in made]
    assert len(sets[0] & sets[1]) < len(sets[0]) / 10
    padding = sum(int(lengths[batch].max()) * len(batch) for batch in made[0]) / int(lengths.sum())
    assert padding < 1.02


def test_an_order_takes_a_few_bytes_a_window():
    order = batch_order(np.full(100_000, 200, dtype=np.int32), 20, seed=1, epoch=0, shuffle=True)
    shared = {id(batch.base) for batch in order}
    assert len(shared) == 1
    assert order[0].base.nbytes == 8 * 100_000


@pytest.fixture
def two_files(real_questions, tmp_path):
    """A SQuAD file of 50 real questions and one of 49 others."""
    write_squad(real_questions[:50], tmp_path / "one.json")
    write_squad(real_questions[50:99], tmp_path / "two.json")
    return [tmp_path / "one.json", tmp_path / "two.json"]


@pytest.mark.parametrize("n_files", [1, 2])
def test_datasets_are_joined(two_files, n_files):
    files = two_files[:n_files]
    assert read_datasets(files) == [example for file in files for example in read_dataset(file)]


@pytest.mark.parametrize("num_samples", [1, 49, 50, 51, 99])
def test_num_samples_takes_the_first_over_all_files(two_files, num_samples):
    assert read_datasets(two_files, num_samples=num_samples) == read_datasets(two_files)[:num_samples]


def write_rows(path, *ids, context="the cat sat"):
    answers = {"text": [], "answer_start": []}
    rows = ({"id": one, "question": "who sat", "context": context, "answers": answers} for one in ids)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_an_id_of_two_files_names_both_places(tmp_path):
    files = [
        write_rows(tmp_path / name, *ids) for name, ids in (("a.jsonl", "xy"), ("b.jsonl", "z"), ("c.jsonl", "wy"))
    ]
    with pytest.raises(DataError) as caught:
        read_datasets(files)
    assert str(caught.value) == (
        f"{files[2]}: line 2: id: 'y' is also the id of {files[0]}: line 2: ids must differ over all files"
    )
    assert len(read_datasets(files, num_samples=4)) == 4


def test_every_defect_over_several_files_is_told_and_reading_goes_on(tmp_path):
    files = [write_rows(tmp_path / "a.jsonl", "x", "y"), write_rows(tmp_path / "b.jsonl", "y", "x")]
    defects = []
    assert [example.id for example in iter_datasets(files, on_defect=defects.append)] == ["x", "y", "y", "x"]
    assert len(defects) == 2

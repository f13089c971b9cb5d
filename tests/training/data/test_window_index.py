"""The index gives the batches that memory would give, whatever interrupts, damages or hurries its building."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from spanqa.errors import DataError, SettingsError
from spanqa.tokenization import load_tokenizer
from spanqa.windows import WindowMaker, WindowSettings, batch_windows
from spanqa_training.data.batch_order import batch_order
from spanqa_training.data.index_layout import FILES, HEADER_FILE, PIECES_FILE, WINDOWS_FILE
from spanqa_training.data.labels import kept_windows, window_labels
from spanqa_training.data.window_index import TrainingIndex, build_or_open_index
from spanqa_training.errors import RunError

SHORT = WindowSettings(max_seq_length=96, doc_stride=32, max_query_length=12)


@pytest.fixture(scope="module")
def heldout(root):
    return root / "data" / "heldout200.json"


@pytest.fixture(scope="module")
def maker(root):
    return WindowMaker(load_tokenizer(root / "training" / "checkpoints" / "spanqa-minilm"), SHORT)


@pytest.fixture
def built(maker, heldout, tmp_path):
    """Builds or opens an index of real questions; closes it at the end of the test."""
    opened = []

    def build(files=(heldout,), maker=maker, **options):
        opened.append(build_or_open_index(files, maker, folder=tmp_path / "index", **options))
        return opened[-1]

    yield build
    for index in opened:
        index.close()


class Untouchable(WindowMaker):
    """Fails when it is asked to tokenise."""

    def pieces(self, texts):
        raise AssertionError("tokenised again")


def rows_in_memory(examples, maker, keep="all"):
    """Windows, index and label of everything that is trained on."""
    rows = []
    for example in examples:
        windows = maker.windows(example.question, example.context)
        labels = window_labels(windows, example)
        rows += [(windows, index, *labels[index]) for index in kept_windows(windows, example, keep)]
    return rows


def assert_equal_batches(index, rows, order):
    for indices in order:
        batch = index.batch(indices)
        mine = [rows[number] for number in indices]
        expected = batch_windows([(windows, number) for windows, number, *_ in mine])
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            ours, theirs = getattr(batch.inputs, name), getattr(expected, name)
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
        assert (batch.starts.dtype, batch.ends.dtype) == (np.int64, np.int64)
        assert batch.starts.tolist() == [row[2] for row in mine]
        assert batch.ends.tolist() == [row[3] for row in mine]


@pytest.mark.parametrize("keep", ["all", "only_positive", "limited_negative"])
def test_batches_are_those_made_in_memory(built, maker, real_questions, keep):
    index = built(keep_doc_spans=keep)
    rows = rows_in_memory(real_questions, maker, keep)
    assert index.n_windows == len(rows) == len(index.lengths)
    assert index.lengths.dtype == np.int32
    assert index.lengths.tolist() == [int(windows.seq_lengths[number]) for windows, number, *_ in rows]
    assert (index.n_questions, index.n_unanswerable) == (200, 108)
    assert index.n_positive == sum(row[2] != 0 for row in rows) > 90
    assert_equal_batches(index, rows, batch_order(index.lengths, 7, seed=1, epoch=0, shuffle=True))


@pytest.mark.parametrize(("seq", "stride", "query"), [(384, 128, 64), (40, 8, 20), (30, 1, 5)])
def test_batches_are_those_made_in_memory_for_windows_of_any_size(built, maker, real_questions, seq, stride, query):
    settings = WindowSettings(max_seq_length=seq, doc_stride=stride, max_query_length=query)
    other = WindowMaker(maker.tokenizer, settings)
    index = built(maker=other, num_samples=40)
    assert_equal_batches(index, rows_in_memory(real_questions[:40], other), [range(index.n_windows)])


def test_a_vocabulary_beyond_16_bits_is_stored_whole(built, tmp_path):
    vocabulary = tmp_path / "vocab.txt"
    words = [f"w{number}" for number in range(70_000)]
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]))
    wide = WindowMaker(load_tokenizer(vocabulary), SHORT)
    path = tmp_path / "rows.jsonl"
    row = {"id": "q", "question": "w69999", "context": "w65531 w65532 w1", "answers": {"text": [], "answer_start": []}}
    path.write_text(json.dumps(row))
    batch = built([path], wide).batch([0])
    assert batch.inputs.input_ids.tolist() == [[2, 70_003, 3, 65_535, 65_536, 5, 3]]


def test_a_context_is_stored_once_for_all_questions_about_it(built, maker, real_questions):
    index = built()
    contexts = {example.context for example in real_questions}
    n_pieces = sum(len(maker.tokenizer.pieces(context)) for context in contexts)
    n_pieces += sum(min(12, len(maker.tokenizer.pieces(example.question))) for example in real_questions)
    assert (index.folder / PIECES_FILE).stat().st_size == 2 * n_pieces


def test_an_index_is_opened_again_without_tokenising(built, maker, heldout, tmp_path):
    built()
    renamed = tmp_path / "other-name.json"
    renamed.write_bytes(heldout.read_bytes())
    assert built([renamed], Untouchable(maker.tokenizer, SHORT)).n_questions == 200


def test_whatever_changes_the_windows_makes_another_index(built, maker, heldout, tokenizer, tmp_path):
    edited = tmp_path / "edited.json"
    edited.write_text(heldout.read_text().replace("When ", "when "))
    indices = [
        built(),
        built([edited]),
        built([heldout, heldout]),
        built(maker=WindowMaker(tokenizer, SHORT)),
        built(maker=WindowMaker(maker.tokenizer, replace(SHORT, doc_stride=16))),
        built(keep_doc_spans="only_positive"),
        built(num_samples=20),
    ]
    assert len({index.folder for index in indices}) == len(indices)
    assert {index.folder.parent for index in indices} == {tmp_path / "index"}


def test_num_samples_takes_the_first_questions_over_all_files(built, maker, heldout, real_questions):
    index = built([heldout, heldout], num_samples=230)
    rows = rows_in_memory([*real_questions, *real_questions[:30]], maker)
    assert index.n_questions == 230
    assert_equal_batches(index, rows, [range(index.n_windows)])


def test_several_threads_and_several_openings_read_the_same(built):
    index = built()
    order = batch_order(index.lengths, 8, seed=1, epoch=0, shuffle=True)
    expected = [index.batch(indices).inputs.input_ids.sum() for indices in order]
    with ThreadPoolExecutor(4) as pool:
        assert [batch.inputs.input_ids.sum() for batch in pool.map(index.batch, order)] == expected
    with TrainingIndex.open(index.folder) as other:
        assert [other.batch(indices).inputs.input_ids.sum() for indices in order] == expected


def test_a_closed_index_reads_nothing(built):
    with built() as index:
        pass
    with pytest.raises(ValueError, match="closed file"):
        index.batch([0])


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1])


def lengthened(path):
    path.write_bytes(path.read_bytes() + b"\0" * 32)


def altered(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def emptied(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncated, lengthened, altered, emptied, os.unlink])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_index_is_refused_and_built_again(built, maker, real_questions, name, damage):
    folder = built(num_samples=30).folder
    damage(folder / name)
    with pytest.raises(RunError) as caught:
        TrainingIndex.open(folder)
    assert str(caught.value).startswith(f"{folder}: ")
    assert "build it again" in str(caught.value)
    index = built(num_samples=30)
    assert index.folder == folder
    assert_equal_batches(index, rows_in_memory(real_questions[:30], maker), [range(index.n_windows)])
    assert sorted(path.name for path in folder.parent.iterdir()) == [".lock", folder.name]


@pytest.mark.parametrize("header", ["[]", "null", "{}", '{"sha256": "0"}', "\xff"])
def test_a_header_of_something_else_is_refused(built, header):
    folder = built(num_samples=5).folder
    (folder / HEADER_FILE).write_text(header, encoding="latin-1")
    with pytest.raises(RunError, match="build it again"):
        TrainingIndex.open(folder)


@pytest.mark.parametrize("fault", [KeyboardInterrupt, DataError, MemoryError])
def test_an_interrupted_build_leaves_nothing_that_is_used(built, maker, fault):
    class Interrupted(WindowMaker):
        def cut(self, question, context):
            if len(question) > 15:
                raise fault("now")
            return super().cut(question, context)

    with pytest.raises(fault):
        built(maker=Interrupted(maker.tokenizer, SHORT))
    index = built()
    assert index.n_questions == 200
    assert sorted(path.name for path in index.folder.parent.iterdir()) == [".lock", index.folder.name]


BUILDER = """
import sys, time
from spanqa.tokenization import load_tokenizer
from spanqa.windows import WindowMaker, WindowSettings
from spanqa_training.data.window_index import build_or_open_index
tokenizer, dataset, folder, seconds = sys.argv[1:]
class Slow(WindowMaker):
    def pieces(self, texts):
        print("building", flush=True)
        time.sleep(float(seconds))
        return super().pieces(texts)
settings = WindowSettings(max_seq_length=96, doc_stride=32, max_query_length=12)
from pathlib import Path
with build_or_open_index([dataset], Slow(load_tokenizer(tokenizer), settings), folder=Path(folder)) as index:
    print(index.n_windows, index.batch(range(index.n_windows)).inputs.input_ids.sum())
"""


@pytest.fixture
def builder(root, heldout, tmp_path):
    """Starts a process that builds the same index and takes some seconds for it."""
    running = []

    def start(seconds):
        tokenizer = root / "training" / "checkpoints" / "spanqa-minilm"
        command = [sys.executable, "-c", BUILDER, tokenizer, heldout, tmp_path / "index", str(seconds)]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_processes_that_build_at_once_build_once_and_read_the_same(builder, built):
    outputs = [process.communicate(timeout=60)[0].splitlines() for process in [builder(0.3) for _ in range(3)]]
    assert sorted(map(len, outputs)) == [1, 1, 2]
    assert len({lines[-1] for lines in outputs}) == 1
    index = built()
    assert outputs[0][-1] == f"{index.n_windows} {index.batch(range(index.n_windows)).inputs.input_ids.sum()}"


def test_what_a_killed_build_leaves_is_taken_away_by_the_next(builder, built, maker, tmp_path):
    process = builder(60)
    assert process.stdout.readline() == "building\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    (leftover,) = (tmp_path / "index").glob(".*.new")
    assert sorted(path.name for path in leftover.iterdir()) == [PIECES_FILE, WINDOWS_FILE]
    other = built(num_samples=10)
    assert not leftover.exists()
    assert other.folder.name not in leftover.name
    assert built().n_questions == 200


def test_an_index_that_is_there_is_opened_while_another_is_built(builder, built, maker):
    folder = built(num_samples=10).folder
    process = builder(60)
    assert process.stdout.readline() == "building\n"
    began = time.monotonic()
    assert built(num_samples=10).folder == folder
    assert time.monotonic() - began < 10


def test_an_unanswerable_question_that_is_not_allowed_is_named_with_the_mend(built, heldout, tmp_path):
    with pytest.raises(DataError) as caught:
        built(allow_unanswerable=False)
    assert str(caught.value) == (
        f"{heldout}: data[0].paragraphs[0].qas[1].answers: holds none: train on unanswerable questions with "
        "model.dataset.version_2_with_negative=true, or take them out"
    )
    assert [path.name for path in (tmp_path / "index").iterdir()] == [".lock"]


def test_answerable_questions_are_indexed_where_unanswerable_ones_are_not_allowed(built, heldout, tmp_path):
    document = json.loads(heldout.read_text())
    for article in document["data"]:
        for paragraph in article["paragraphs"]:
            paragraph["qas"] = [qa for qa in paragraph["qas"] if qa["answers"]]
    path = tmp_path / "answerable.json.gz"
    path.write_bytes(gzip.compress(json.dumps(document).encode()))
    index = built([path], allow_unanswerable=False)
    assert (index.n_questions, index.n_unanswerable) == (92, 0)


def test_a_training_set_without_a_window_is_refused(built, tmp_path):
    path = tmp_path / "rows.jsonl"
    row = {"id": "q", "question": "who?", "context": "nobody", "answers": {"text": [], "answer_start": []}}
    path.write_text(json.dumps(row))
    with pytest.raises(RunError) as caught:
        built([path], keep_doc_spans="only_positive")
    assert str(caught.value) == (
        "keep_doc_spans=only_positive leaves no window to train on (questions read: 1): give questions with an answer, "
        "or keep_doc_spans=all"
    )


@pytest.mark.parametrize(("question", "context", "which"), [("\u200e", "nobody", "question"), ("who?", " ", "context")])
def test_a_text_without_a_word_is_named(built, tmp_path, question, context, which):
    path = tmp_path / "rows.jsonl"
    good = {"id": "q", "question": "who?", "context": "nobody", "answers": {"text": [], "answer_start": []}}
    bad = {**good, "id": "r", "question": question, "context": context}
    path.write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n")
    with pytest.raises(DataError) as caught:
        built([path])
    assert str(caught.value).startswith(f"{path}: line 2: the {which} holds no word")


def test_a_file_that_changes_while_it_is_read_is_refused(built, maker, heldout, tmp_path):
    path = tmp_path / "growing.json"
    path.write_bytes(heldout.read_bytes())

    class Disturbed(WindowMaker):
        def pieces(self, texts):
            path.write_bytes(path.read_bytes() + b"\n")
            return super().pieces(texts)

    with pytest.raises(DataError) as caught:
        built([path], Disturbed(maker.tokenizer, SHORT))
    assert str(caught.value) == f"{path}: changed while it was read: start again"


def test_an_index_that_is_cut_short_while_it_is_read_says_so(built):
    index = built()
    os.truncate(index.folder / PIECES_FILE, 100)
    with pytest.raises(RunError, match="was cut short: build it again"):
        index.batch([index.n_windows - 1])


def test_a_missing_file_an_unknown_choice_and_a_folder_that_is_a_file_are_one_line_each(built, tmp_path):
    missing = tmp_path / "none.json"
    with pytest.raises(DataError, match=r"none\.json: no such file"):
        built([missing])
    with pytest.raises(SettingsError, match="keep_doc_spans is 'some': give one of all, only_positive, limited_neg"):
        built(keep_doc_spans="some")
    (tmp_path / "index").write_text("")
    with pytest.raises(RunError, match="the index of training windows cannot be kept there"):
        built()

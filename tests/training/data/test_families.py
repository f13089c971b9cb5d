"""Training sets, their report and masked text with the tokenizers of every family."""

import json

import numpy as np
import pytest

from spanqa.windows import WindowMaker, WindowSettings, batch_windows
from spanqa_training.adaptation.sequence_file import special_ids
from spanqa_training.commands.check_data import configure, run
from spanqa_training.data.labels import window_labels
from spanqa_training.data.window_index import TrainingIndex, build_or_open_index
from spanqa_training.data.windowing import windows_of_examples
from spanqa_training.errors import RunError

FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "albert", "deberta-v2")
SETTINGS = WindowSettings(max_seq_length=64, doc_stride=16, max_query_length=24)


@pytest.fixture(scope="module")
def questions(tmp_path_factory, scripts):
    """A SQuAD file with a question in each script, each answered by a word of the context or by nothing."""
    paragraphs = []
    for number, (script, sentences) in enumerate(scripts.items()):
        context = "\n ".join(sentences[:3])
        word = sentences[1].split()[0].strip(".,")
        answers = [{"text": word, "answer_start": context.index(word)}] if number % 4 else []
        qa = {"id": script, "question": sentences[-1], "answers": answers, "is_impossible": not answers}
        paragraphs.append({"context": context, "qas": [qa]})
    path = tmp_path_factory.mktemp("scripts") / "scripts.json"
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": "", "paragraphs": paragraphs}]}))
    return path


@pytest.mark.parametrize("name", FAMILIES)
def test_the_index_gives_the_windows_and_labels_that_serving_sees(tokenizers_of_families, questions, tmp_path, name):
    from spanqa.datasets import read_dataset

    maker = WindowMaker(tokenizers_of_families[name], SETTINGS)
    examples = list(read_dataset(questions))
    windows = windows_of_examples(examples, maker)
    rows = [(one, index) for one in windows for index in range(len(one))]
    labels = [label for one, example in zip(windows, examples, strict=True) for label in window_labels(one, example)]
    with build_or_open_index([questions], maker, folder=tmp_path) as index, TrainingIndex.open(index.folder) as again:
        batch = again.batch(range(again.n_windows))
    expected = batch_windows(rows)
    for part in ("input_ids", "attention_mask", "token_type_ids"):
        np.testing.assert_array_equal(getattr(batch.inputs, part), getattr(expected, part))
    assert list(zip(batch.starts.tolist(), batch.ends.tolist(), strict=True)) == labels
    assert again.lengths.tolist() == [int(one.seq_lengths[index]) for one, index in rows]
    assert any(start for start, _ in labels)


@pytest.mark.parametrize("name", FAMILIES)
def test_check_data_reads_every_form_of_a_tokenizer(tokenizer_folders, tokenizers_of_families, questions, capsys, name):
    import argparse

    parser = argparse.ArgumentParser()
    configure(parser)
    folder = tokenizer_folders[name]
    given = next((path for path in folder.iterdir() if path.suffix == ".model"), folder)
    for path in {folder, given}:
        assert run(parser.parse_args([str(questions), "--tokenizer", str(path), "--json", "--quiet"])) == 0
        pieces = json.loads(capsys.readouterr().out)["pieces"]
        tokenizer = tokenizers_of_families[name]
        pairs = [
            len(tokenizer.pieces(example.question)) + len(tokenizer.pieces(example.context)) + tokenizer.pair.n_special
            for example in examples_of(questions)
        ]
        assert pieces["pair"]["longest"] == max(pairs)
        assert pieces["n_lost_answers"] == pieces["n_truncated_questions"] == 0
        assert (pieces["unknown_share"] > 0) == (name not in ("bert", "roberta"))


def examples_of(path):
    from spanqa.datasets import read_dataset

    return list(read_dataset(path))


@pytest.mark.parametrize("name", FAMILIES)
def test_text_is_masked_with_the_family_s_own_tokens(tokenizers_of_families, name):
    tokenizer = tokenizers_of_families[name]
    special = special_ids(tokenizer)
    mask = tokenizer.special_tokens["mask_token"]
    document = json.loads(tokenizer.serialized)
    ids = {added["content"]: added["id"] for added in document["added_tokens"]}
    assert mask in ("[MASK]", "<mask>")
    assert (special.cls, special.sep, special.pad) == (tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id)
    assert not {special.cls, special.sep, special.pad, special.mask, *ids.values()} & set(special.plain.tolist())
    assert len(special.plain) > 500


def test_a_vocabulary_without_a_mask_is_refused(tokenizers_of_families):
    from spanqa.tokenization import Tokenizer

    bare = Tokenizer(tokenizers_of_families["roberta"].serialized.replace("<mask>", "<other>"))
    with pytest.raises(RunError, match=r"no \[MASK\]"):
        special_ids(bare)

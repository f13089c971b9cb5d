"""The retired toolkit's shipped specs and commands run as they were, with only their open values filled in."""

import itertools
import json
import re
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, MegatronBertConfig, MegatronBertModel

from spanqa.cli import main
from spanqa.datasets import read_dataset
from spanqa_training.checkpoints.checkpoint import load_checkpoint, read_checkpoint
from spanqa_training.commands.negatives import write_squad

KEY = "tlt_encode"
SHAPE = {
    "vocab_size": 30522,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 512,
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def save_source(folder, model_class, config_class, tokenizer_json):
    """A small random model of transformers with the real tokenizer, in the place of weights that are fetched."""
    torch.manual_seed(3)
    model_class(config_class(**SHAPE)).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")


@pytest.fixture(scope="module")
def specs(root):
    return root / "tests" / "training" / "old_specs"


@pytest.fixture(scope="module")
def twelve_questions(root, tmp_path_factory):
    """About the shortest passages: the specs ask for hundreds of epochs."""
    path = tmp_path_factory.mktemp("questions") / "twelve.json"
    questions = read_dataset(root / "data" / "heldout200.json")
    write_squad(sorted(questions, key=lambda example: len(example.context))[:12], path)
    return str(path)


@pytest.fixture(scope="module")
def models(root, tmp_path_factory):
    """The Hub's cache with bert-base-uncased, and a folder of models with megatron-bert-345m-cased."""
    tokenizer_json = (root / "training/checkpoints/spanqa-minilm/tokenizer.json").read_text(encoding="utf-8")
    folder = tmp_path_factory.mktemp("models")
    cached = folder / "hub" / "models--bert-base-uncased"
    save_source(cached / "snapshots" / COMMIT, BertModel, BertConfig, tokenizer_json)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    save_source(folder / "own" / "megatron-bert-345m-cased", MegatronBertModel, MegatronBertConfig, tokenizer_json)
    return folder


@pytest.fixture
def found(models, monkeypatch):
    """Both kinds of models are found by their names, and nothing is asked of a network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(models / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("SPANQA_MODELS", str(models / "own"))


def options(specs, name, results, *more):
    return ["-e", str(specs / f"{name}.yaml"), "-g", "1", "-k", KEY, "-r", str(results), *more]


def open_values(questions, section):
    return [f"{section}.file={questions}", f"validation_ds.file={questions}"]


@pytest.fixture(scope="module")
def trained(specs, models, twelve_questions, tmp_path_factory):
    """Gives what `train` leaves with the encoder of each family, which is trained once: a step an epoch."""

    @cache
    def results_of(name):
        folder = tmp_path_factory.mktemp(name)
        values = [
            *open_values(twelve_questions, "training_ds"),
            "training_ds.batch_size=8",
            "validation_ds.batch_size=8",
        ]
        few = ["training_ds.num_samples=8", "validation_ds.num_samples=2"]
        with pytest.MonkeyPatch.context() as patch:
            from huggingface_hub import constants

            patch.setattr(constants, "HF_HUB_CACHE", str(models / "hub"))
            patch.setattr(constants, "HF_HUB_OFFLINE", True)
            patch.setenv("SPANQA_MODELS", str(models / "own"))
            assert main(["train", *options(specs, name, folder, *values, *few)]) == 0
        return folder

    return results_of


@pytest.mark.parametrize(("name", "layer_norm"), [("train", "post"), ("train_megatron", "pre")])
def test_train_runs_its_hundred_epochs_from_the_encoder_that_the_spec_names(trained, name, layer_norm):
    model = trained(name) / "checkpoints" / "trained-model.tlt"
    checkpoint = read_checkpoint(model)
    assert checkpoint.encoder.layer_norm == layer_norm
    assert checkpoint.provenance["checks"][-1]["epoch"] == 100
    assert checkpoint.provenance["checks"][-1]["train_loss"] < checkpoint.provenance["checks"][0]["train_loss"]
    assert len(list((trained(name) / "checkpoints").glob("*.ckpt"))) == 3
    assert (checkpoint.windows.max_seq_length, checkpoint.windows.doc_stride) == (384, 128)


def test_the_case_that_a_tokenizer_has_is_not_overruled(specs, found, twelve_questions, tmp_path, capsys):
    """do_lower_case of a pretrained model was the tokenizer's own affair in the old toolkit too; here it is said."""
    values = [*open_values(twelve_questions, "training_ds"), "training_ds.batch_size=8", "validation_ds.batch_size=8"]
    more = ["model.dataset.do_lower_case=false", "trainer.max_steps=1"]
    assert main(["train", *options(specs, "train", tmp_path, *values, *more)]) == 0
    told = capsys.readouterr().err
    assert "do_lower_case is false and the tokenizer of the model lower-cases: the tokenizer decides" in told


@pytest.fixture(scope="module")
def finetuned(specs, trained, twelve_questions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetuned")
    model = trained("train") / "checkpoints" / "trained-model.tlt"
    # What it was trained on.
    few = ["finetuning_ds.num_samples=8", "finetuning_ds.batch_size=8", "trainer.max_epochs=5"]
    values = [*open_values(twelve_questions, "finetuning_ds"), *few]
    assert main(["finetune", *options(specs, "finetune", folder, "-m", str(model), *values)]) == 0
    return folder / "checkpoints" / "finetuned-model.tlt"


def test_finetune_goes_on_from_a_checkpoint(finetuned, trained):
    before = read_checkpoint(trained("train") / "checkpoints" / "trained-model.tlt")
    after = read_checkpoint(finetuned)
    assert after.provenance["trained_on"] == ["twelve.json", "twelve.json"]
    assert after.windows == before.windows
    assert after.provenance["checks"][0]["train_loss"] < before.provenance["checks"][0]["train_loss"]


def test_evaluate_scores_a_checkpoint(specs, finetuned, twelve_questions, tmp_path, capsys):
    arguments = options(specs, "evaluate", tmp_path, "-m", str(finetuned), f"test_ds.file={twelve_questions}")
    assert (
        main(
            [
                "evaluate",
                *arguments,
                "test_ds.batch_size=32",
                "test_ds.shuffle=false",
                "test_ds.num_samples=10",
                "test_ds.output_prediction_file=answers.txt",
            ]
        )
        == 0
    )
    told = capsys.readouterr()
    assert "model threshold" in told.out
    assert "note: without effect on this command: test_ds.output_prediction_file (spanqa infer" in told.err
    report = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert report["model_threshold"]["total"] == 10
    assert set(report) >= {"model_threshold", "threshold_0", "best_threshold", "forced_answerable"}


def files_of(results):
    texts = [(results / name).read_text(encoding="utf-8") for name in ("prediction.txt", "nbest.txt")]
    records = (results / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return *map(json.loads, texts), [json.loads(line) for line in records]


def check_files(questions, results, model):
    predictions, nbest, records = files_of(results)
    examples = {example.id: example for example in read_dataset(questions)}
    assert list(predictions) == list(nbest) == [record["id"] for record in records] == list(examples)
    threshold = read_checkpoint(model).no_answer_threshold
    for record in records:
        context = examples[record["id"]].context
        entries = nbest[record["id"]]
        assert set(entries[0]) == {"text", "probability", "start_logit", "end_logit"}
        assert sum(entry["probability"] for entry in entries) == pytest.approx(1)
        totals = [entry["start_logit"] + entry["end_logit"] for entry in entries]
        assert totals == sorted(totals, reverse=True)
        (null,) = [entry for entry in entries if entry["text"] == ""]
        assert null["start_logit"] + null["end_logit"] == pytest.approx(record["null_logit"], abs=1e-5)
        assert record["has_answer"] == (record["no_answer_margin"] <= threshold)
        assert (
            predictions[record["id"]]
            == record["answer"]
            == (record["spans"][0]["text"] if record["has_answer"] else "")
        )
        assert len(record["spans"]) == len(entries) - 1 == 20
        for span in record["spans"]:
            assert context[span["char_start"] : span["char_end"]] == span["text"]
            assert span["start_logit"] + span["end_logit"] == pytest.approx(span["logit"], abs=1e-5)
            assert 0 <= span["window"] < record["n_windows"]
    return records


@pytest.fixture(scope="module")
def inferred(specs, finetuned, twelve_questions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inferred")
    values = ["-m", str(finetuned), f"infer_ds.file={twelve_questions}"]
    assert main(["infer", *options(specs, "infer", folder, *values), "--quiet"]) == 0
    return folder


def test_infer_writes_the_old_files_and_one_that_says_all(inferred, finetuned, twelve_questions):
    check_files(twelve_questions, inferred, finetuned)


def test_infer_reads_the_older_name_of_its_file(specs, finetuned, twelve_questions, tmp_path, inferred, capsys):
    spec = tmp_path / "infer.yaml"
    spec.write_text("infer_ds:\n  input_file: ???\n", encoding="utf-8")
    values = ["-m", str(finetuned), "-k", KEY, f"infer_ds.input_file={twelve_questions}", "--quiet"]
    assert main(["infer", "-e", str(spec), "-r", str(tmp_path), *values]) == 0
    assert (tmp_path / "prediction.txt").read_bytes() == (inferred / "prediction.txt").read_bytes()


def test_alternatives_overlap_unless_distinct_ones_are_asked_for(
    specs, finetuned, exported, twelve_questions, tmp_path, inferred
):
    def n_overlaps(folder):
        spans = [record["spans"] for record in files_of(folder)[2]]
        pairs = [pair for some in spans for pair in itertools.combinations(some, 2)]
        return sum(a["char_start"] < b["char_end"] and b["char_start"] < a["char_end"] for a, b in pairs)

    assert n_overlaps(inferred) > 0
    for command, model in (("infer", finetuned), ("infer_onnx", exported)):
        folder = tmp_path / command
        values = ["-m", str(model), f"infer_ds.file={twelve_questions}", "--distinct", "--quiet"]
        assert main([command, *options(specs, command, folder, *values)]) == 0
        assert n_overlaps(folder) == 0


def test_answers_are_whole_words_unless_the_spec_says_otherwise(specs, finetuned, twelve_questions, tmp_path):
    def n_parts(folder, *values):
        files = ["-m", str(finetuned), f"infer_ds.file={twelve_questions}", "--quiet"]
        assert main(["infer", *options(specs, "infer", folder, *files, *values)]) == 0
        contexts = {example.id: example.context for example in read_dataset(twelve_questions)}
        ends = [
            (contexts[record["id"]], at)
            for record in files_of(folder)[2]
            for span in record["spans"]
            for at in (span["char_start"], span["char_end"])
        ]
        return sum(re.fullmatch(r"\w\w", context[max(0, at - 1) : at + 1]) is not None for context, at in ends)

    assert n_parts(tmp_path / "whole") == 0
    assert n_parts(tmp_path / "parts", "model.dataset.word_boundaries=false") > 0


def test_questions_without_answers_are_answered(specs, finetuned, twelve_questions, tmp_path, inferred):
    document = json.loads(Path(twelve_questions).read_text(encoding="utf-8"))
    for article in document["data"]:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                del qa["answers"], qa["is_impossible"]
    (tmp_path / "bare.json").write_text(json.dumps(document), encoding="utf-8")
    values = ["-m", str(finetuned), f"infer_ds.file={tmp_path / 'bare.json'}"]
    assert main(["infer", *options(specs, "infer", tmp_path, *values), "--quiet"]) == 0
    assert (tmp_path / "prediction.txt").read_bytes() == (inferred / "prediction.txt").read_bytes()


@pytest.fixture(scope="module")
def exported(specs, finetuned, twelve_questions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    values = ["-m", str(finetuned), "export_format=ONNX", "--data", twelve_questions, "--quiet"]
    assert main(["export", *options(specs, "export", folder, *values)]) == 0
    return folder / "exported-model.eonnx"


def test_infer_onnx_gives_the_answers_of_the_checkpoint(
    specs, exported, finetuned, twelve_questions, tmp_path, inferred
):
    """With every flag that the old toolkit's command had, -g too."""
    values = ["-m", str(exported), f"infer_ds.file={twelve_questions}", "--quiet"]
    _, *arguments = options(specs, "infer_onnx", tmp_path, *values)
    assert main(["infer_onnx", "--experiment_spec_file", *arguments]) == 0
    records = check_files(twelve_questions, tmp_path, finetuned)
    _, _, wanted = files_of(inferred)
    for record, one in zip(records, wanted, strict=True):
        assert record["answer"] == one["answer"]
        assert record["no_answer_margin"] == pytest.approx(one["no_answer_margin"], abs=1e-3)


def test_export_writes_a_model_repository_where_riva_is_asked_for(specs, finetuned, twelve_questions, tmp_path, capsys):
    values = ["-m", str(finetuned), "--data", twelve_questions, "--quiet"]
    assert main(["export", *options(specs, "export", tmp_path, *values)]) == 0
    repository = tmp_path / "exported-model.riva"
    assert (repository / "question_answering" / "config.pbtxt").is_file()
    told = capsys.readouterr()
    assert f"spanqa serve --repository {repository}" in told.out
    assert "a model repository is not encrypted" in told.err


def test_export_restores_a_bare_name_from_the_results(specs, finetuned, twelve_questions, tmp_path):
    """export.yaml says `restore_from: trained-model.tlt`."""
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(finetuned, tmp_path / "checkpoints" / "trained-model.tlt")
    values = ["export_format=ONNX", "--data", twelve_questions, "--quiet"]
    assert main(["export", *options(specs, "export", tmp_path, *values)]) == 0
    assert (tmp_path / "exported-model.eonnx").is_file()


def test_export_writes_a_folder_that_transformers_reads(finetuned, tmp_path):
    from transformers import BertForQuestionAnswering

    target = tmp_path / "hugging-face"
    assert main(["export", "-m", str(finetuned), "-k", KEY, "-o", str(target), "export_format=HF"]) == 0
    _, ours = load_checkpoint(finetuned, key=key())
    theirs = BertForQuestionAnswering.from_pretrained(target).eval()
    ids = torch.tensor([[101, 2040, 102, 1996, 3899, 102]])
    types = torch.tensor([[0, 0, 0, 1, 1, 1]])
    with torch.no_grad():
        start, end = ours(ids, torch.ones_like(ids), types)
        out = theirs(input_ids=ids, attention_mask=torch.ones_like(ids), token_type_ids=types)
    assert torch.allclose(start, out.start_logits, atol=1e-5)
    assert torch.allclose(end, out.end_logits, atol=1e-5)


def key():
    from spanqa_training.checkpoints.keys import key_from_argument

    return key_from_argument(KEY, warn=lambda _: None)


def test_what_is_written_with_a_key_is_not_read_without(finetuned, exported, twelve_questions, tmp_path, capsys):
    assert main(["evaluate", "-m", str(finetuned), twelve_questions]) == 2
    assert "-k" in capsys.readouterr().err.splitlines()[-1]
    arguments = ["-m", str(exported), "-r", str(tmp_path), f"infer_ds.file={twelve_questions}"]
    assert main(["infer_onnx", *arguments]) == 2
    assert "-k" in capsys.readouterr().err.splitlines()[-1]

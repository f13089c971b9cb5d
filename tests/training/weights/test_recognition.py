"""What a source is, is decided by its content; what is nothing to take over says so in one sentence."""

from __future__ import annotations

import json
import pickle
import random
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    MegatronBertConfig,
    MegatronBertForMaskedLM,
    MegatronBertModel,
)

from spanqa.cli import main
from spanqa.errors import SpanqaError
from spanqa.tokenization import load_tokenizer
from spanqa.windows import WindowSettings
from spanqa_training.checkpoints.checkpoint import load_checkpoint, load_lm_head
from spanqa_training.errors import ImportWeightsError
from spanqa_training.weights.recognition import ImportOptions, import_model, is_importable

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "who", "built", "the", "tower", "?")
MEGATRON_NAME = "language_model.embedding.word_embeddings.weight"


def write_hugging_face_folder(folder, model_class=BertForQuestionAnswering, n_positions=400):
    folder.mkdir()
    config_class = BertConfig if model_class is BertForQuestionAnswering else MegatronBertConfig
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
    torch.manual_seed(5)
    model_class(config_class(vocab_size=16, max_position_embeddings=n_positions, **sizes)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return folder


def write_tar(path):
    (path.parent / "member").write_text("x")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(path.parent / "member", "model_config.yaml")
    return path


def write_zip(path, name):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"x")
    return path


def write_torch(path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({MEGATRON_NAME: torch.ones(2, 2)}, path, **options)
    return path


IMPORTABLE = {
    "a Hugging Face folder": lambda p: write_hugging_face_folder(p / "folder"),
    "a Megatron-LM file": lambda p: write_torch(p / "any.name"),
    "a legacy Megatron-LM file": lambda p: write_torch(p / "any.tlt", _use_new_zipfile_serialization=False),
    "a Megatron-LM folder": lambda p: write_torch(p / "x/release/mp_rank_00/model_optim_rng.pt").parents[2],
    "a zip of NGC": lambda p: write_zip(p / "x.zip", "release/mp_rank_00/model_optim_rng.pt"),
    "a NeMo archive": lambda p: write_tar(p / "renamed.tlt"),
}


@pytest.mark.parametrize("kind", IMPORTABLE)
def test_what_can_be_taken_over_is_seen_by_its_content(tmp_path, kind):
    assert is_importable(IMPORTABLE[kind](tmp_path))


def test_what_can_be_taken_over_is_seen_without_reading_it(tmp_path):
    """Of a torch file the table of contents is enough."""
    path = tmp_path / "x.pt"
    torch.save({"weight": torch.zeros(1 << 22)}, path)
    content = bytearray(path.read_bytes())
    start = content.index(bytes(1 << 20))
    content[start : start + (1 << 20)] = b"\1" * (1 << 20)
    path.write_bytes(content)
    assert is_importable(path)


def spanqa_checkpoint(name):
    def write(path):
        source = write_hugging_face_folder(path / "source")
        assert main(["import", str(source), "-o", str(path / name)]) == 0
        return path / name

    return write


def file_of(content):
    def write(path):
        (path / "file.tlt").write_bytes(content)
        return path / "file.tlt"

    return write


NOT_IMPORTABLE = {
    "a name of the Hub": (lambda _: Path("deepset/some-model"), "; of a model of the Hugging Face Hub, the folder"),
    "nothing": (lambda p: p / "missing", "missing: does not exist: give a Hugging Face folder"),
    "an empty folder": (lambda p: p, "is a folder of nothing that can be taken over: give a Hugging Face folder"),
    "a checkpoint of ours": (spanqa_checkpoint("checkpoint"), "is a checkpoint of spanqa already: use it as it is"),
    "a packed checkpoint of ours": (spanqa_checkpoint("packed.tlt"), "is a checkpoint of spanqa already"),
    "an empty file": (file_of(b""), "is empty"),
    "a text": (file_of(b"weights" * 1000), "is no file of weights: give one that torch, Megatron-LM or NeMo wrote"),
    "a JSON": (file_of(b'{"model_type": "bert"}'), "is no file of weights"),
    "a pickle": (file_of(pickle.dumps([1.0] * 1000)), "is no file of weights"),
    "another zip": (lambda p: write_zip(p / "x.zip", "config.json"), "is no file of weights"),
    "an encrypted file": (
        file_of(random.Random(3).randbytes(1 << 15)),
        r"looks encrypted by the old toolkit, which cannot be undone here: decrypt it there .* or give the \.nemo",
    ),
}


@pytest.mark.parametrize("kind", NOT_IMPORTABLE)
def test_what_cannot_be_taken_over_is_told_what_could(tmp_path, kind):
    make, message = NOT_IMPORTABLE[kind]
    path = make(tmp_path)
    assert not is_importable(path)
    with pytest.raises(ImportWeightsError, match=message) as caught:
        import_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_file_of_hugging_face_weights_alone_is_told_to_bring_its_folder(tmp_path):
    folder = write_hugging_face_folder(tmp_path / "folder")
    torch.save({"bert.embeddings.word_embeddings.weight": torch.ones(16, 24)}, folder / "pytorch_model.bin")
    with pytest.raises(ImportWeightsError, match=r"weights of Hugging Face are taken over by their folder"):
        import_model(folder / "pytorch_model.bin")
    with pytest.raises(ImportWeightsError, match="or a Hugging Face folder"):
        import_model(folder / "model.safetensors")


def test_a_damaged_configuration_is_still_a_hugging_face_folder(tmp_path):
    folder = write_hugging_face_folder(tmp_path / "folder")
    (folder / "config.json").write_text("{")
    assert is_importable(folder)
    with pytest.raises(ImportWeightsError, match=r"config\.json: cannot be read as JSON"):
        import_model(folder)


def test_a_truncated_zip_is_still_a_file_of_weights(tmp_path):
    path = write_torch(tmp_path / "model_optim_rng.pt")
    path.write_bytes(path.read_bytes()[:300])
    assert is_importable(path)
    with pytest.raises(ImportWeightsError, match=r"model_optim_rng\.pt: is damaged, incomplete"):
        import_model(path)


def test_a_source_that_may_not_be_read_is_one_sentence(tmp_path, monkeypatch):
    path = write_torch(tmp_path / "x.pt")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("spanqa_training.weights.recognition.is_torch_file", refuse)
    assert not is_importable(path)
    with pytest.raises(ImportWeightsError, match=r"x\.pt: cannot be read: .*Permission denied"):
        import_model(path)


@pytest.mark.parametrize("kind", ["a Megatron-LM file", "a zip of NGC", "a NeMo archive"])
def test_no_damage_of_a_file_is_more_than_one_sentence(tmp_path, kind):
    path = IMPORTABLE[kind](tmp_path)
    whole = path.read_bytes()
    generator = random.Random(7)
    for number in range(200):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[generator.randrange(len(whole))] = generator.randrange(256)
        path.write_bytes(damaged[: generator.randrange(len(whole))] if number % 4 == 0 else damaged)
        is_importable(path)
        with pytest.raises(SpanqaError) as caught:
            import_model(path)
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("n_positions", "lengths"), [(512, (384, 128, 64)), (200, (200, 128, 64)), (128, (128, 63, 62)), (5, (5, 1, 1))]
)
def test_windows_are_as_long_as_the_models_positions_allow(tmp_path, n_positions, lengths):
    windows = import_model(write_hugging_face_folder(tmp_path / "folder", n_positions=n_positions)).checkpoint.windows
    assert (windows.max_seq_length, windows.doc_stride, windows.max_query_length) == lengths


def test_a_model_without_room_for_a_window_is_one_sentence(tmp_path):
    with pytest.raises(ImportWeightsError, match=r"safetensors: .*must be at least 1$"):
        import_model(write_hugging_face_folder(tmp_path / "folder", n_positions=4))


def test_windows_that_the_user_gives_must_fit_the_models_positions(tmp_path):
    folder = write_hugging_face_folder(tmp_path / "folder", n_positions=200)
    windows = WindowSettings(max_seq_length=197, doc_stride=100)
    assert import_model(folder, ImportOptions(windows=windows)).checkpoint.windows == windows
    with pytest.raises(ImportWeightsError, match=r"safetensors: max_seq_length 384 is more than the model's 200 pos"):
        import_model(folder, ImportOptions(windows=WindowSettings()))


@pytest.mark.parametrize(("lower", "option"), [(True, "--no-do-lower-case"), (False, "--do-lower-case")])
def test_case_cannot_be_chosen_against_a_tokenizer_json(tmp_path, capsys, lower, option):
    folder = write_hugging_face_folder(tmp_path / "folder")
    serialized = load_tokenizer(folder / "vocab.txt", do_lower_case=lower).serialized
    (folder / "tokenizer.json").write_text(serialized, encoding="utf-8")
    arguments = ["import", str(folder), "-o", str(tmp_path / "checkpoint")]
    assert main([*arguments, option]) == 2
    said = capsys.readouterr().err
    assert f"{folder}: its tokenizer.json {'lower-cases text' if lower else 'keeps case'}, and" in said
    assert not (tmp_path / "checkpoint").exists()
    assert main([*arguments, option, "--tokenizer", str(folder / "vocab.txt")]) == 0
    assert load_checkpoint(tmp_path / "checkpoint")[0].tokenizer().lower_cases is not lower


def test_a_vocabulary_with_empty_and_repeated_lines_makes_a_checkpoint_that_loads(tmp_path):
    """Ids are the numbers of lines, whatever is on the others."""
    folder = write_hugging_face_folder(tmp_path / "folder")
    (folder / "vocab.txt").write_text("\n".join((*WORDS[:5], "", "the", "the", "built", "tower")), encoding="utf-8")
    assert main(["import", str(folder), "-o", str(tmp_path / "checkpoint")]) == 0
    checkpoint, model = load_checkpoint(tmp_path / "checkpoint")
    tokenizer = checkpoint.tokenizer()
    assert tokenizer.pieces("the tower").ids.tolist() == [7, 9]
    assert tokenizer.vocab_size == 10 <= len(model.embeddings.word.weight)


def test_the_command_writes_a_checkpoint_and_says_what_it_took_over(tmp_path, capsys):
    source = write_hugging_face_folder(tmp_path / "source", MegatronBertModel)
    target = tmp_path / "checkpoint"
    options = ["--layer-norm-eps", "1e-5", "--activation", "gelu_tanh", "--num-heads", "6", "--seed", "3"]
    assert main(["import", str(source), "-o", str(target), *options, "--no-do-lower-case"]) == 0
    assert capsys.readouterr().out == (
        f"{target}: Hugging Face folder, megatron-bert, 2 layers of 24, 6 heads, 19,090 parameters, layer norm eps"
        " 1e-05, gelu_tanh, vocabulary of 9, head fresh, seed 3\n"
    )
    checkpoint, model = load_checkpoint(target)
    said = ImportOptions(layer_norm_eps=1e-5, activation="gelu_tanh", num_heads=6, seed=3, do_lower_case=False)
    expected = import_model(source, said)
    assert checkpoint == expected.checkpoint
    for name, tensor in expected.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_the_command_takes_another_tokenizer(tmp_path, capsys):
    source = write_hugging_face_folder(tmp_path / "source")
    (tmp_path / "other.txt").write_text("\n".join((*WORDS, "Tower", "city")), encoding="utf-8")
    arguments = ["import", str(source), "-o", str(tmp_path / "checkpoint"), "--tokenizer", str(tmp_path / "other.txt")]
    assert main(arguments) == 0
    assert "vocabulary of 11, head taken over" in capsys.readouterr().out
    checkpoint, _ = load_checkpoint(tmp_path / "checkpoint")
    assert checkpoint.tokenizer().pieces("Tower").ids.tolist() == [9]


def test_the_command_keeps_a_masked_lm_head(tmp_path, capsys):
    source = write_hugging_face_folder(tmp_path / "source", MegatronBertForMaskedLM)
    assert main(["import", str(source), "-o", str(tmp_path / "checkpoint")]) == 0
    assert capsys.readouterr().out.endswith("head fresh, seed 0, masked-LM head kept\n")
    kept, expected = load_lm_head(tmp_path / "checkpoint"), import_model(source).lm_head
    assert kept.keys() == expected.keys()
    assert all(torch.equal(kept[name], tensor) for name, tensor in expected.items())


def test_the_command_says_one_sentence_about_what_is_no_model(tmp_path, capsys):
    assert main(["import", str(tmp_path), "-o", str(tmp_path / "checkpoint")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"spanqa: error: {tmp_path}: is a folder of nothing")
    assert said.count("\n") == 1
    assert not (tmp_path / "checkpoint").exists()


def test_importing_needs_nothing_of_transformers():
    code = "import sys; sys.modules['transformers'] = None; import spanqa_training.weights.recognition"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_whatever_importing_runs_into_is_one_sentence(tmp_path, monkeypatch):
    folder = write_hugging_face_folder(tmp_path / "folder")

    def fail(*args, **kwargs):
        raise ArithmeticError("first line\nsecond line")

    monkeypatch.setattr("spanqa_training.weights.hugging_face.parts_from_hugging_face", fail)
    with pytest.raises(
        ImportWeightsError, match=r"folder: cannot be taken over, .*ArithmeticError: first line\): fetch"
    ):
        import_model(folder)


def test_a_configuration_of_ten_million_layers_is_refused_at_once(tmp_path):
    folder = write_hugging_face_folder(tmp_path / "folder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 10**7}))
    with pytest.raises(ImportWeightsError, match=r"lacks encoder\.layer\.2\."):
        import_model(folder)

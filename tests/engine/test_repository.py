"""The build makes a complete repository, and touches the old one only when the new one has passed."""

import hashlib
import json
import os
import shutil

import pytest

from spanqa import contract
from spanqa.cli import main
from spanqa.manifest import load_served_tokenizer
from spanqa.startup import versions_in
from spanqa_build import versions as on_disk
from spanqa_build.check import check_repository
from spanqa_training.checkpoints.checkpoint import read_checkpoint

FLOAT32 = ("--precision", "float32", "--engine", "onnxruntime")
"""One network, whichever runtime happens to be the faster one with so small a model."""


def command(model, output, data, *more):
    return ["build", "-m", str(model), "-o", str(output), "--data", str(data), "--quiet", *more]


@pytest.fixture(scope="module")
def built(tiny_model_folder, thirty_questions, tmp_path_factory):
    """A repository with a float32 network."""
    folder = tmp_path_factory.mktemp("repositories") / "built"
    assert main(command(tiny_model_folder, folder, thirty_questions, *FLOAT32)) == 0
    return folder


def test_a_repository_holds_every_model_and_says_what_is_in_it(built, tiny_model_folder):
    assert {path.name for path in built.iterdir()} == set(contract.MODELS)
    manifest, _ = load_served_tokenizer(built / contract.QUESTION_ANSWERING / "1")
    checkpoint = read_checkpoint(tiny_model_folder)
    assert manifest.windows == checkpoint.windows
    assert manifest.decode.no_answer_threshold == checkpoint.no_answer_threshold
    assert manifest.model["name"] == "tiny"
    assert manifest.model["family"] == "bert"
    assert manifest.encoder["precision"] == "float32"
    network = built / contract.ENCODER / "1" / manifest.encoder["file"]
    assert manifest.encoder["sha256"] == hashlib.sha256(network.read_bytes()).hexdigest()
    assert manifest.encoder["checked_on"] == "thirty.json"


def test_the_report_is_json_on_request(tiny_model_folder, thirty_questions, tmp_path, capsys):
    arguments = command(tiny_model_folder, tmp_path / "repo", thirty_questions, *FLOAT32, "--json")
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["checked_on"] == "thirty.json"


def test_building_again_adds_a_version_and_keeps_the_last_one_and_models_of_others(
    built, tiny_model_folder, thirty_questions, tmp_path, contents
):
    folder = tmp_path / "repo"
    shutil.copytree(built, folder)
    (folder / "somebody_elses" / "1").mkdir(parents=True)
    (folder / "somebody_elses" / "config.pbtxt").write_text("name: 'x'")
    for expected in ([1, 2], [2, 3]):
        assert main(command(tiny_model_folder, folder, thirty_questions, *FLOAT32)) == 0
        assert {tuple(versions_in(folder / name)) for name in contract.MODELS} == {tuple(expected)}
    assert (folder / "somebody_elses" / "config.pbtxt").exists()
    assert check_repository(folder).versions == (2, 3)
    network = f"{contract.ENCODER}/1/network.onnx"
    assert contents(folder)[network.replace("/1/", "/3/")] == contents(built)[network]


def test_a_folder_of_something_else_is_left_alone(tiny_model_folder, thirty_questions, tmp_path, capsys):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1.txt").write_text("years of work")
    assert main(command(tiny_model_folder, folder, thirty_questions, *FLOAT32)) == 2
    assert "holds something else than a model repository" in capsys.readouterr().err
    assert (folder / "chapter1.txt").read_text() == "years of work"


def test_folders_that_are_only_called_like_ours_are_left_alone(tiny_model_folder, thirty_questions, tmp_path, capsys):
    data = tmp_path / "project" / contract.QUESTION_ANSWERING / "train.json"
    data.parent.mkdir(parents=True)
    data.write_text("months of work")
    assert main(command(tiny_model_folder, tmp_path / "project", thirty_questions)) == 2
    assert "project: holds something else than a model repository" in capsys.readouterr().err
    assert data.read_text() == "months of work"


def test_a_full_disk_leaves_the_old_repository(
    monkeypatch, built, tiny_model_folder, thirty_questions, capsys, contents
):
    before = contents(built)

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(on_disk.shutil, "copyfile", full)
    assert main(command(tiny_model_folder, built, thirty_questions, *FLOAT32)) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert contents(built) == before
    assert {path.name for path in built.parent.iterdir()} == {"built"}


def test_missing_questions_and_checkpoints_are_one_sentence(tiny_model_folder, tmp_path, capsys):
    assert main(command(tiny_model_folder, tmp_path / "repo", tmp_path / "nowhere.json")) == 2
    assert "plain or gzipped with --data" in capsys.readouterr().err
    assert main(command(tmp_path / "nowhere", tmp_path / "repo", tmp_path / "nowhere.json")) == 2
    assert "missing" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_told_before_the_work(
    tiny_model_folder, thirty_questions, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    assert main(command(tiny_model_folder, tmp_path / "repository", thirty_questions)) == 2
    said = capsys.readouterr().err
    assert "repository: cannot be written" in said
    assert "exporting" not in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--engine", "tensorrt"], "--engine tensorrt is for GPUs"),
        (["--target", "v100", "--precision", "int8"], "--precision int8 is for --target cpu"),
        (["--check", "a", "--rollback", "a"], "not allowed with argument"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(tiny_model_folder, tmp_path, capsys, flags, message):
    try:
        status = main(["build", "-m", str(tiny_model_folder), "-o", str(tmp_path / "out"), *flags])
    except SystemExit as stopped:  # argparse's own way
        status = stopped.code
    assert status == 2
    assert message in capsys.readouterr().err

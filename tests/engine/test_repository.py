"""The build makes a complete repository, and touches the old one only when the new one has passed."""

import hashlib
import json

import pytest

from spanqa import contract
from spanqa.cli import main
from spanqa.manifest import load_served_tokenizer
from spanqa_build import cpu_build as build
from spanqa_build import repository
from spanqa_build.accuracy import Accuracy
from spanqa_training.checkpoint import read_checkpoint


def command(model, output, data, *more):
    return ["build", "-m", str(model), "-o", str(output), "--data", str(data), "--quiet", *more]


@pytest.fixture(scope="module")
def built(tiny_model_folder, thirty_questions, tmp_path_factory):
    """A repository with a float32 network."""
    folder = tmp_path_factory.mktemp("repositories") / "built"
    assert main(command(tiny_model_folder, folder, thirty_questions, "--precision", "float32")) == 0
    return folder


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_repository_holds_every_model_and_says_what_is_in_it(built, tiny_model_folder):
    assert {path.name for path in built.iterdir()} == set(contract.MODELS)
    manifest, _ = load_served_tokenizer(built / contract.QUESTION_ANSWERING / "1")
    checkpoint = read_checkpoint(tiny_model_folder)
    assert manifest.windows == checkpoint.windows
    assert manifest.decode.no_answer_threshold == checkpoint.no_answer_threshold
    assert manifest.model["name"] == "tiny"
    assert manifest.encoder["precision"] == "float32"
    network = built / contract.ENCODER / "1" / manifest.encoder["file"]
    assert manifest.encoder["sha256"] == hashlib.sha256(network.read_bytes()).hexdigest()
    assert manifest.encoder["float32_parity"]["max_difference"] < 1e-3
    assert manifest.encoder["float32_parity"]["answers_changed"] == 0


def test_the_report_is_json_on_request(tiny_model_folder, thirty_questions, tmp_path, capsys):
    arguments = command(tiny_model_folder, tmp_path / "repo", thirty_questions, "--precision", "float32", "--json")
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["float32_parity"]["n_questions"] == 30


def test_building_again_replaces_the_repository_and_keeps_models_of_others(
    built, tiny_model_folder, thirty_questions, tmp_path
):
    import shutil

    folder = tmp_path / "repo"
    shutil.copytree(built, folder)
    (folder / "somebody_elses" / "1").mkdir(parents=True)
    (folder / "somebody_elses" / "config.pbtxt").write_text("name: 'x'")
    (folder / contract.ENCODER / "1" / "stale.txt").write_text("old")
    assert main(command(tiny_model_folder, folder, thirty_questions, "--precision", "float32")) == 0
    assert (folder / "somebody_elses" / "config.pbtxt").exists()
    assert not (folder / contract.ENCODER / "1" / "stale.txt").exists()
    assert contents(folder).items() >= contents(built).items()


def test_a_folder_of_something_else_is_left_alone(tiny_model_folder, thirty_questions, tmp_path, capsys):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1.txt").write_text("years of work")
    assert main(command(tiny_model_folder, folder, thirty_questions, "--precision", "float32")) == 2
    assert "holds something else than a model repository" in capsys.readouterr().err
    assert (folder / "chapter1.txt").read_text() == "years of work"


def scored(monkeypatch, float32, int8):
    """Let the two networks score as given: the gate is under test, not the networks."""
    scores = iter([float32, int8])

    def accuracy_of(*_args, **_kwargs):
        return Accuracy(n_questions=30, exact=50.0, f1=next(scores), forced_f1=60.0)

    monkeypatch.setattr(build, "accuracy_of", accuracy_of)


@pytest.mark.parametrize(("int8", "chosen"), [(59.6, "int8"), (59.4, "float32")])
def test_int8_is_taken_only_where_it_loses_at_most_half_a_point(
    monkeypatch, tiny_model_folder, thirty_questions, tmp_path, int8, chosen
):
    scored(monkeypatch, 60.0, int8)
    assert main(command(tiny_model_folder, tmp_path / "repo", thirty_questions)) == 0
    manifest, _ = load_served_tokenizer(tmp_path / "repo" / contract.QUESTION_ANSWERING / "1")
    assert manifest.encoder["precision"] == chosen
    assert manifest.encoder["accuracy"]["int8"]["f1"] == int8


def test_a_network_that_fails_its_gate_leaves_the_old_repository(
    monkeypatch, built, tiny_model_folder, thirty_questions, capsys
):
    before = contents(built)
    scored(monkeypatch, 60.0, 50.0)
    assert main(command(tiny_model_folder, built, thirty_questions, "--precision", "int8")) == 2
    assert "int8 loses 10.00 F1 points" in capsys.readouterr().err
    assert contents(built) == before


def test_a_full_disk_leaves_the_old_repository(monkeypatch, built, tiny_model_folder, thirty_questions, capsys):
    before = contents(built)

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(repository.shutil, "copyfile", full)
    assert main(command(tiny_model_folder, built, thirty_questions, "--precision", "float32")) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert contents(built) == before
    assert {path.name for path in built.parent.iterdir()} == {"built"}


def test_missing_questions_and_checkpoints_are_one_sentence(tiny_model_folder, tmp_path, capsys):
    assert main(command(tiny_model_folder, tmp_path / "repo", tmp_path / "nowhere.json")) == 2
    assert "give a SQuAD file with --data" in capsys.readouterr().err
    assert main(command(tmp_path / "nowhere", tmp_path / "repo", tmp_path / "nowhere.json")) == 2
    assert "missing" in capsys.readouterr().err

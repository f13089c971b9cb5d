"""Bad examples in training data: the first one ends it, naming what shows all, unless they are to be skipped."""

import json

import pytest

from spanqa.cli import main


@pytest.fixture
def bad_file(fifty_questions, tmp_path):
    document = json.loads(fifty_questions.read_text())
    first = next(qa for article in document["data"] for p in article["paragraphs"] for qa in p["qas"] if qa["answers"])
    first["answers"][0]["text"] = "not in there"
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def first_answerable(bad_file):
    """Place and id of the question that has the defect."""
    return next(
        (f"{bad_file}: data[{a}].paragraphs[{p}].qas[{q}]", qa["id"])
        for a, article in enumerate(json.loads(bad_file.read_text())["data"])
        for p, paragraph in enumerate(article["paragraphs"])
        for q, qa in enumerate(paragraph["qas"])
        if qa["answers"]
    )


@pytest.fixture
def train(still_checkpoint, bad_file, fifty_questions, tmp_path, capsys):
    def run(*overrides):
        files = [f"training_ds.file={bad_file}", f"validation_ds.file={fifty_questions}"]
        limits = [
            "trainer.max_steps=1",
            "training_ds.batch_size=4",
            "model.dataset.num_workers=0",
            "trainer.precision=32",
        ]
        command = ["train", "-m", still_checkpoint, "-r", tmp_path / "results", *files, *limits, *overrides, "--quiet"]
        status = main([str(part) for part in command])
        return status, capsys.readouterr().err

    return run


def test_training_stops_at_the_first_and_names_the_command_that_shows_all(train, bad_file):
    status, err = train()
    assert status == 2
    assert len(err.strip().splitlines()) == 1
    assert "not in there" in err
    assert f"`spanqa check-data {bad_file}` shows all" in err


def test_skipped_ones_are_counted_and_written_down(train, tmp_path, first_answerable):
    status, err = train("training_ds.bad_examples=skip")
    assert status == 0
    listed = tmp_path / "results" / "bad_examples.jsonl"
    assert f"bad examples left out of training: 1, listed in {listed}" in err
    (line,) = listed.read_text().splitlines()
    entry = json.loads(line)
    assert "not in there" in entry["defect"]
    assert (entry["place"], entry["id"]) == first_answerable
    assert "49 questions" in err


@pytest.mark.parametrize(
    ("section", "word", "allowed"),
    [
        ("training_ds", "maybe", "stop or skip"),
        ("validation_ds", "maybe", "stop or skip, and skip in training data alone"),
        ("validation_ds", "skip", "stop or skip, and skip in training data alone"),
    ],
)
def test_another_word_than_a_section_allows_is_refused(train, section, word, allowed):
    status, err = train(f"{section}.bad_examples={word}")
    assert status == 2
    assert err == f"spanqa: error: {section}.bad_examples: must be {allowed}, got {word!r}\n"


def test_validation_data_always_stop(train, bad_file, fifty_questions):
    files = [f"training_ds.file={fifty_questions}", f"validation_ds.file={bad_file}"]
    status, err = train("training_ds.bad_examples=skip", *files)
    assert status == 2
    assert len(err.strip().splitlines()) == 1
    assert f"{bad_file}: data[0]" in err
    assert "not in there" in err


def test_a_repaired_file_trains(train, bad_file, tmp_path):
    mended = tmp_path / "mended.json"
    assert main(["check-data", str(bad_file), "--repair", str(mended), "--quiet"]) == 0
    status, err = train(f"training_ds.file={mended}")
    assert status == 0, err
    assert "49 questions" in err


def test_a_resumed_run_lists_them_again(train, tmp_path):
    train("training_ds.bad_examples=skip", "trainer.max_steps=2")
    listed = tmp_path / "results" / "bad_examples.jsonl"
    first = listed.read_text()
    listed.unlink()
    status, err = train("training_ds.bad_examples=skip", "trainer.max_steps=2")
    assert status == 0
    assert "bad examples left out of training: 1" in err
    assert listed.read_text() == first


def test_a_question_whose_id_stands_twice_is_left_out_and_not_trained_on(train, bad_file, tmp_path):
    document = json.loads(bad_file.read_text())
    qas = document["data"][0]["paragraphs"][0]["qas"]
    qas.append(qas[-1])
    bad_file.write_text(json.dumps(document))
    status, err = train("training_ds.bad_examples=skip")
    assert status == 0
    assert "bad examples left out of training: 2" in err
    assert "49 questions" in err
    entries = [json.loads(line) for line in (tmp_path / "results" / "bad_examples.jsonl").read_text().splitlines()]
    place = f"{bad_file}: data[0].paragraphs[0].qas[{len(qas) - 1}]"
    assert (place, qas[-1]["id"]) in [(entry["place"], entry["id"]) for entry in entries]


@pytest.mark.parametrize("cut", [False, True], ids=["missing", "cut off"])
def test_a_file_that_cannot_be_read_to_its_end_is_no_bad_example(train, bad_file, cut):
    if cut:
        bad_file.write_text(bad_file.read_text()[:-2000])
    else:
        bad_file.unlink()
    status, err = train("training_ds.bad_examples=skip")
    assert status == 2
    assert len(err.strip().splitlines()) == 1
    assert "check-data" not in err
